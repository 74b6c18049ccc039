"""The file that a download fills in place, and the journal of the ranges that are already in it.

`<part>.ranges` is append-only text: a header that names size and digest, then one `start end` line for each range
whose pwrite has returned. A journal may be ahead of the bytes after a power cut (nothing is synced for it): whoever
resumes has to check the digest of the whole file in the end.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.ENOSYS}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class PartFile:
    """One part file and its journal. Every method raises OSError as it comes; `disk.disk_error` translates it."""

    def __init__(self, path: Path, size_bytes: int, sha256: str) -> None:
        self.path = path
        self.journal_path = path.with_name(path.name + ".ranges")
        self.size_bytes = size_bytes
        self._header = f"f5-part 1 {size_bytes} {sha256}\n".encode()
        self.has_ranges = False  # whether a later run would find anything to resume
        self._fd = -1
        self._journal_fd = -1

    def open(self) -> list[tuple[int, int]]:
        """Create or reopen both files and reserve the room; the ranges that an earlier run finished, sorted, disjoint."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o644)
        self._journal_fd = os.open(self.journal_path, flags | os.O_APPEND, 0o644)
        finished = self._recover() if os.fstat(self._fd).st_size == self.size_bytes else []
        self.has_ranges = bool(finished)
        if not finished:
            self._begin()
        return finished

    def _begin(self) -> None:
        os.ftruncate(self._journal_fd, 0)
        os.ftruncate(self._fd, self.size_bytes)
        if self.size_bytes:
            _reserve(self._fd, self.size_bytes)
        _write_all(self._journal_fd, self._header)

    def _recover(self) -> list[tuple[int, int]]:
        """Read the journal up to its last whole line and cut off the rest; [] when it belongs to other bytes."""
        journal = os.pread(self._journal_fd, os.fstat(self._journal_fd).st_size, 0)
        whole = journal[: journal.rfind(b"\n") + 1]
        if not whole.startswith(self._header):
            return []
        os.ftruncate(self._journal_fd, len(whole))
        return _parse_ranges(whole[len(self._header) :], self.size_bytes)

    def write(self, data: memoryview, offset: int) -> None:
        """Put bytes at an offset, all of them."""
        while data:
            written = os.pwrite(self._fd, data, offset)
            data, offset = data[written:], offset + written

    def mark(self, start: int, end: int) -> None:
        """Note in the journal that the bytes from start to end are in the file."""
        _write_all(self._journal_fd, f"{start} {end}\n".encode())
        self.has_ranges = True

    def read_into(self, view: memoryview, offset: int) -> int:
        return os.preadv(self._fd, [view], offset)

    def restart(self) -> None:
        """Forget every finished range; the room stays reserved."""
        self._begin()
        self.has_ranges = False

    def seal(self, *, fsync: bool) -> None:
        """Close a complete part, its bytes on the medium first when asked."""
        if fsync:
            os.fsync(self._fd)
        self.close()

    def close(self) -> None:
        """Close both files and keep them."""
        for name in ("_fd", "_journal_fd"):
            fd = getattr(self, name)
            setattr(self, name, -1)  # before the close: a late thread must not write to a reused number
            if fd >= 0:
                os.close(fd)

    def drop_journal(self) -> None:
        """Remove the journal of a complete part."""
        self.journal_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Close and remove both files."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.drop_journal()


def _parse_ranges(lines: bytes, size_bytes: int) -> list[tuple[int, int]]:
    """Merged, sorted ranges; [] when any line is not a range inside the file."""
    try:
        pairs = sorted((int(a), int(b)) for a, b in (line.split() for line in lines.splitlines()))
    except ValueError:
        return []
    merged: list[tuple[int, int]] = []
    for start, end in pairs:
        if not 0 <= start < end <= size_bytes:
            return []
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _reserve(fd: int, size_bytes: int) -> None:
    """Allocate the blocks now, so that a full disk shows before the download.

    fallocate(2) and not os.posix_fallocate: glibc emulates the latter, where a file system lacks it (NFS, FUSE), with
    one small write for each 4 KB block. Without it the length alone is set and a full disk shows at the write.
    """
    if _libc.fallocate(fd, 0, 0, size_bytes) != 0:
        code = ctypes.get_errno()
        if code not in _NO_FALLOCATE:
            raise OSError(code, os.strerror(code))
