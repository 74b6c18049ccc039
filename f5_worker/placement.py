"""The choice of the cache directory: the first candidate that is writable and has room for what it lacks."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from f5_worker.cache import HubCache
from f5_worker.disk import room
from f5_worker.errors import DiskFull
from f5_worker.manifest import PinnedFile
from f5_worker.settings import Settings

log = logging.getLogger(__name__)

ROOM_FACTOR = 1.05  # markers, journals and file system overhead on top of the files' bytes
MIN_INODES = 64
RAM_DIR = Path("/dev/shm/models")  # noqa: S108 - the last resort: gone with the container, so it is no cache


def choose(settings: Settings, files: Sequence[PinnedFile]) -> list[HubCache]:
    """The directories that can take what they lack of the files, best first. Each is tried with a real file.

    Raises:
        DiskFull: none can; the message says of each why not.
    """
    asked = [settings.cache_dir] if settings.cache_dir else []
    usable, refused = [], []
    for root in [*asked, *(c for c in settings.cache_dir_candidates if c not in asked), RAM_DIR]:
        cache = HubCache(root)
        if reason := why_not(cache, files, settings.platform_cache):
            refused.append(f"{root}: {reason}")
        else:
            usable.append(cache)
    if not usable:
        raise DiskFull(f"no directory can hold the model ({'; '.join(refused)}); enlarge the container disk or set MODEL_CACHE_DIR")
    if refused and usable[0].root != (asked or [settings.cache_dir_candidates[0]])[0]:
        log.warning("cache.dir_refused using=%s refused=%r", usable[0].root, "; ".join(refused))
    return usable


def why_not(cache: HubCache, files: Sequence[PinnedFile], mount: Path) -> str | None:
    """Why the files cannot be cached there, None when they can."""
    if cache.root == RAM_DIR and not RAM_DIR.parent.is_dir():
        return "does not exist"
    try:
        try:
            free_bytes, free_inodes = _try_out(cache)
        except FileNotFoundError:  # another worker that looked at the same moment has removed the directory that it had made
            free_bytes, free_inodes = _try_out(cache)
    except OSError as exc:
        return (exc.strerror or type(exc).__name__).lower()
    need_bytes = int(cache.missing_bytes(files, mount) * ROOM_FACTOR)
    reason = None
    if need_bytes > free_bytes:
        reason = f"{need_bytes / 1e6:.0f} MB needed, {free_bytes / 1e6:.0f} MB free"
    elif need_bytes and free_inodes < MIN_INODES:
        reason = f"only {free_inodes} inodes free"
    return reason


def _try_out(cache: HubCache) -> tuple[int, int]:
    """Write a real file, and leave nothing behind, also where the cache will not lie; free bytes and inodes. Raises OSError."""
    absent = [p for p in (cache.state, *cache.state.parents) if not p.exists()]
    cache.state.mkdir(parents=True, exist_ok=True)
    probe = cache.state / f"probe.{os.urandom(8).hex()}"  # of this worker alone: in a container each has process id 1
    probe.write_bytes(b"x")
    probe.unlink()
    free = room(cache.root)
    for folder in absent:
        with suppress(OSError):  # another worker is already using it
            folder.rmdir()
    return free
