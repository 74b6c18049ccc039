"""The Hugging Face hub as the last source of weights, through the real huggingface_hub client."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

from f5_worker.cache import HubCache
from f5_worker.disk import disk_error
from f5_worker.errors import HubUnavailable
from f5_worker.manifest import PinnedFile

log = logging.getLogger(__name__)

# Read by huggingface_hub when it is imported. The client's defaults wait 10 s per answer and draw progress bars into the log.
CLIENT_ENV = {
    "HF_HUB_ETAG_TIMEOUT": "5",
    "HF_HUB_DOWNLOAD_TIMEOUT": "10",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",  # it announces each retry twice; the outcome is in our log
}


def set_client_env(env: MutableMapping[str, str], cache: HubCache) -> None:
    """Point every hub client that is started with this environment at the cache directory. A user's own time-outs stay."""
    env["HF_HOME"] = str(cache.root)
    env["HF_HUB_CACHE"] = str(cache.root / "hub")
    for name, value in CLIENT_ENV.items():
        env.setdefault(name, value)


@contextmanager
def online() -> Iterator[None]:
    """Let the client ask the hub inside the block, in a process for which the boot has set HF_HUB_OFFLINE."""
    from huggingface_hub import constants  # noqa: PLC0415 - see download

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False  # read from the environment at import, asked at each request
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def download(file: PinnedFile, cache: HubCache) -> None:
    """Fetch one file into the cache with the hub's own client; the caller verifies it (the client checks only sizes).

    Raises:
        HubUnavailable: unreachable, refused, offline, or the file is not there.
        CacheError: the disk failed, DiskFull when it is full.
    """
    set_client_env(os.environ, cache)
    # Imported here: 0.4 s that a boot from the bucket saves, and the client reads its environment at import.
    import httpx2  # noqa: PLC0415 - what huggingface_hub 2 speaks HTTP with
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        hf_hub_download(file.repo, file.path, revision=file.commit, cache_dir=cache.root / "hub")
    except HfHubHTTPError as exc:
        status = exc.response.status_code if exc.response is not None else "no status"
        raise HubUnavailable(f"the hub answered {status} for {file.repo}; a gated or private repository needs HF_TOKEN") from exc
    except (LocalEntryNotFoundError, httpx2.HTTPError, ConnectionError, TimeoutError) as exc:
        raise HubUnavailable(
            f"the hub could not be reached ({type(exc).__name__}); check the network and HF_ENDPOINT, or seed the bucket with `cache push`"
        ) from exc
    except OSError as exc:
        raise disk_error(exc, cache.root) from exc
    except (RuntimeError, ValueError) as exc:  # what hf-xet raises for a failed transfer
        raise HubUnavailable(f"the hub's transfer failed ({type(exc).__name__})") from exc
