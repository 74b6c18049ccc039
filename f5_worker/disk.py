"""What a path lies on: the file system's type and the room that this process really has there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


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
    """Memory left to the cgroup (v2, then v1) or the machine."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # no such cgroup version, or "max"
            return int(Path(limit).read_text()) - int(Path(used).read_text())
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
