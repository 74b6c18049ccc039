"""What a path lies on: the file system's type, the room that this process really has there, what its errors mean."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from f5_worker.errors import CacheError, DiskFull

_FULL = {errno.ENOSPC, errno.EDQUOT}


def disk_error(exc: OSError, where: Path | None = None) -> CacheError:
    """The worker's error for a failed file operation; `where` is for the operator's log, clients never see a message."""
    reason = exc.strerror or type(exc).__name__
    if exc.errno in _FULL:
        return DiskFull(f"{reason}{f' in {where}' if where else ''}: free space or point MODEL_CACHE_DIR at a larger disk")
    return CacheError(f"{reason}: {where or 'the cache directory'} cannot be written")


def room(path: Path) -> tuple[int, int]:
    """Free bytes and inodes for this process. A tmpfs is limited by the container's memory as well."""
    stat = os.statvfs(path)
    free_bytes = stat.f_bavail * stat.f_frsize
    if file_system(path) in {"tmpfs", "ramfs"}:
        free_bytes = min(free_bytes, _free_memory_bytes())
    return free_bytes, stat.f_favail if stat.f_files else 1 << 30  # some network file systems count no inodes


def file_system(path: Path) -> str:
    """Type of the file system that a path lies on, as /proc/mounts names it."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines())
    real = path.resolve()
    return max((m for m in mounts if real.is_relative_to(m[1])), key=lambda m: len(m[1]))[2]


def _free_memory_bytes() -> int:
    """Memory left to the cgroup (v2, then v1) or the machine. File pages that can be dropped count as free."""
    for folder, limit, used in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # no such cgroup version, or "max"
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return int((folder / limit).read_text()) - int((folder / used).read_text()) + int(stat.get("inactive_file", 0))
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
