"""The local cache: a Hugging Face cache directory that holds only verified files.

<cache dir>/hub/models--ORG--NAME/blobs/<etag>                      the bytes
<cache dir>/hub/models--ORG--NAME/snapshots/<commit>/<path>         a relative link to the blob
<cache dir>/hub/models--ORG--NAME/refs/main                         the commit, written last
<cache dir>/hub/models--ORG--NAME/blobs/<etag>.f5-part[.ranges]     a download under way, resumable
<cache dir>/.f5-worker/                                             markers, lock, circuit breaker, boot report
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from f5_worker.disk import disk_error, file_system, room
from f5_worker.errors import CacheError
from f5_worker.manifest import PinnedFile

log = logging.getLogger(__name__)

PART_SUFFIX = ".f5-part"
RANGES_SUFFIX = ".ranges"
STALE_PART_S = 24 * 3600
_LOCK_POLL_S = 0.05
_HASH_BUFFER_BYTES = 1024 * 1024


class HubCache:
    """One cache directory. Every method leaves the directory valid when the process dies inside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / ".f5-worker"

    def __repr__(self) -> str:
        return f"HubCache({self.root})"

    @property
    def is_on_network(self) -> bool:
        """Whether the directory lies on a network volume, where a rename does not order the data before it."""
        return file_system(self.root).startswith(("nfs", "fuse", "ceph", "lustre", "cifs", "smb", "9p"))

    def repo_dir(self, file: PinnedFile) -> Path:
        return self.root / "hub" / f"models--{file.repo.replace('/', '--')}"

    def snapshot(self, file: PinnedFile) -> Path:
        """Where huggingface_hub looks for the file."""
        return self.repo_dir(file) / "snapshots" / file.commit / file.path

    def blob(self, file: PinnedFile) -> Path:
        return self.repo_dir(file) / "blobs" / file.etag

    def part(self, file: PinnedFile) -> Path:
        """Where a download of the file is written; its directory exists."""
        part = self._part(file)
        self._make_dir(part.parent)
        return part

    def _part(self, file: PinnedFile) -> Path:
        return self.blob(file).with_name(file.etag + PART_SUFFIX)

    def find(self, file: PinnedFile) -> Path | None:
        """The file if it is here and verified, with its link; None otherwise.

        What stands in its place but has other bytes, or cannot be read, is removed, so that a source can write it.
        """
        for place in (self.snapshot(file), self.blob(file)):
            if self._is_verified(place, file):
                self.remove_parts([file])  # killed between the rename and the journal's removal
                self._link(file, self.blob(file) if place == self.blob(file) else place.resolve())
                return self.snapshot(file)
        # The hub's client names blobs by the ETag it was told, which can be another. Path.resolve would raise for a loop of links.
        target = Path(os.path.realpath(self.snapshot(file)))
        for place in (self.snapshot(file), self.blob(file), *([target] if target.parent == self.blob(file).parent else ())):
            self._discard(place)
        return None

    def adopt(self, file: PinnedFile, part: Path) -> Path:
        """Make a complete part file, whose digest the caller has checked, visible under its name."""
        blob = self.blob(file)
        if blob.is_dir() and not blob.is_symlink():
            self._discard(blob)
        part.replace(blob)
        part.with_name(part.name + RANGES_SUFFIX).unlink(missing_ok=True)
        self._mark(blob, file)
        self._link(file, blob)
        return self.snapshot(file)

    def adopt_mount(self, file: PinnedFile, mount: Path) -> Path | None:
        """Link a file of the platform's read-only cache, verified, never copied; None when it is absent, wrong or unreadable."""
        source = _mounted(file, mount)
        if not self._is_verified(source, file):
            return None
        self._link(file, source.resolve())
        return self.snapshot(file)

    def missing_bytes(self, files: Iterable[PinnedFile], mount: Path) -> int:
        """Bytes still to be allocated for the files, by their sizes alone (nothing is hashed).

        A file on the platform's mount is only linked; an unfinished download has its room already.
        """
        return sum(
            max(0, f.size_bytes - _allocated(self._part(f)))
            for f in files
            if f.size_bytes not in {_size(self.snapshot(f)), _size(self.blob(f)), _size(_mounted(f, mount))}
        )

    def remove_parts(self, files: Iterable[PinnedFile]) -> None:
        """Give back the room of unfinished downloads, the hub client's too. Call with the lock held: they may be another worker's."""
        with _translated(self.root):
            for file in files:
                for part in self.blob(file).parent.glob(f"{file.etag}*"):
                    if part.name != file.etag:
                        part.unlink(missing_ok=True)

    def make_room(self, files: Sequence[PinnedFile]) -> None:
        """Give up unfinished downloads if the hub's client, which writes its own files, lacks room beside them. Call with the lock held."""
        with _translated(self.root):
            free_bytes, _ = room(self.root)
        if free_bytes < sum(f.size_bytes for f in files):
            self.remove_parts(files)

    def remove_stale_parts(self) -> None:
        """Remove downloads that nobody has touched for a day. Call with the lock held."""
        with _translated(self.root):
            for pattern in (f"*{PART_SUFFIX}*", "*.incomplete"):
                for part in self.root.glob(f"hub/models--*/blobs/{pattern}"):
                    with suppress(FileNotFoundError):
                        if time.time() - part.stat().st_mtime > STALE_PART_S:
                            part.unlink()
                            log.info("cache.stale_part_removed name=%s", part.name)

    @contextmanager
    def lock(self, *, timeout_s: float, stop: threading.Event | None = None, name: str = "restore") -> Iterator[None]:
        """One owner at a time in this directory, also between machines that share a volume; a dead owner's lock is free.

        Raises:
            CacheError: another process held it for timeout_s, or stop was set meanwhile.
        """
        self._make_dir(self.state)
        stop = stop or threading.Event()
        with _translated(self.root):
            handle = (self.state / f"{name}.lock").open("ab")
        with handle:
            deadline = time.monotonic() + timeout_s
            while not _try_lock(handle.fileno()):
                if stop.wait(_LOCK_POLL_S) or time.monotonic() > deadline:
                    raise CacheError(f"another process holds the {name} lock of {self.root}")
            yield

    def write_state(self, name: str, value: object) -> None:
        """Write one JSON file of the worker's own, whole or not at all."""
        self._make_dir((self.state / name).parent)
        with _translated(self.root):
            _write_atomic(self.state / name, json.dumps(value, indent=1).encode())

    def read_state(self, name: str) -> Any:
        """What write_state wrote, None when there is nothing readable."""
        try:
            return json.loads((self.state / name).read_bytes())
        except (OSError, ValueError):
            return None

    def _is_verified(self, place: Path, file: PinnedFile) -> bool:
        """Whether these are the pinned bytes: by the marker of an earlier check, else by hashing them. Not when they cannot be read."""
        try:
            if not place.is_file() or _size(place) != file.size_bytes:
                return False
            if self.read_state(self._marker(file)) == _identity(place):
                return True
            is_right = _sha256(place) == file.sha256
        except OSError as exc:
            log.warning("cache.unreadable file=%s error=%s", file.path, exc.strerror)
            return False
        if not is_right:
            log.warning("cache.wrong_bytes file=%s", file.path)
            return False
        self._mark(place, file)
        return True

    def _mark(self, place: Path, file: PinnedFile) -> None:
        self.write_state(self._marker(file), _identity(place))

    @staticmethod
    def _marker(file: PinnedFile) -> str:
        return f"verified/{file.sha256}.json"

    def _link(self, file: PinnedFile, target: Path) -> None:
        """Point the snapshot entry at target and name the commit in refs/main, which huggingface_hub needs offline."""
        entry = self.snapshot(file)
        self._make_dir(entry.parent)
        inside = target.is_relative_to(self.root)
        with _translated(self.root):
            wanted = os.path.relpath(target, entry.parent) if inside else str(target)
            is_plain_file = entry == target  # a snapshot without blobs, as a Windows or `--local-dir` cache has it
            if not is_plain_file and not (entry.is_symlink() and str(entry.readlink()) == wanted):
                self._discard(entry)
                temporary = _temporary(entry)
                temporary.symlink_to(wanted)
                temporary.replace(entry)
            ref = self.repo_dir(file) / "refs" / "main"
            self._make_dir(ref.parent)
            if not ref.is_file() or ref.read_bytes() != file.commit.encode():
                _write_atomic(ref, file.commit.encode())  # exactly 40 digits: with a newline the hub client finds nothing

    def _discard(self, place: Path) -> None:
        with _translated(self.root):
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)

    def _make_dir(self, path: Path) -> None:
        with _translated(self.root):
            path.mkdir(parents=True, exist_ok=True)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:  # a volume without locks: two restores write the same bytes and rename atomically
        if exc.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
    return True


@contextmanager
def _translated(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise disk_error(exc, root) from exc


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def _mounted(file: PinnedFile, mount: Path) -> Path:
    return mount / f"models--{file.repo.replace('/', '--')}" / "snapshots" / file.commit / file.path


def _identity(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def _sha256(path: Path) -> str:
    digest, buffer = hashlib.sha256(), bytearray(_HASH_BUFFER_BYTES)
    with path.open("rb", buffering=0) as handle:
        while count := handle.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def _write_atomic(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    temporary.write_bytes(data)
    temporary.replace(path)


def _temporary(path: Path) -> Path:
    """A name beside a file that no other worker on the volume takes: in a container each of them has process id 1."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
