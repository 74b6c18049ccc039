from __future__ import annotations

import errno
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from f5_worker import hub
from f5_worker.cache import HubCache
from f5_worker.errors import CacheError, DiskFull, HubUnavailable
from tests.files import pinned


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (LocalEntryNotFoundError("no network"), HubUnavailable),
        (httpx2.ConnectError("refused"), HubUnavailable),
        (TimeoutError(), HubUnavailable),
        (RuntimeError("Task error: CAS Client Error"), HubUnavailable),  # what hf-xet raises
        (ValueError("invalid header"), HubUnavailable),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull),
        (OSError(errno.EROFS, "Read-only file system"), CacheError),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_every_failure_of_the_client_is_one_of_ours(
    raised: Exception, error: type[CacheError], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setattr(hub, "set_client_env", lambda *_: None)
    with pytest.raises(CacheError) as caught:
        hub.download(pinned("x", b"x"), HubCache(tmp_path))
    assert type(caught.value) is error
