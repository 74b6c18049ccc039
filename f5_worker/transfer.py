"""One file on its way: which ranges are missing, what came, and the digest that follows the bytes in order."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from f5_worker.errors import StoreCorrupt, WorkerError
from f5_worker.http_range import Answer, Target
from f5_worker.part_file import PartFile

SLICE_BYTES = 512 * 1024  # received, written and hashed while it is in the CPU's cache
_DISK_SLICE_BYTES = 4 * 1024 * 1024


class Restart(Exception):  # noqa: N818 - a turn of the download, not an error of the worker
    """The file has to be fetched again from its first byte. Each cause is followed once per file."""

    def __init__(self, cause: str, error: WorkerError) -> None:
        super().__init__(cause)
        self.cause = cause
        self.error = error


IGNORES_RANGES = "ignores ranges"
REPLACED = "replaced"
RESUMED_WRONG = "resumed wrong"


@dataclass
class Range:
    """Bytes from start to end of one file. `data` holds them from the first byte received until they are hashed."""

    start: int
    end: int
    on_disk: bool = False  # finished by an earlier run: hashed from the file
    buffer: memoryview | None = None
    filled: int = 0
    received_bytes: int = 0  # with what was fetched twice
    done: bool = False

    @property
    def size_bytes(self) -> int:
        return self.end - self.start

    def next_slice(self, whole: bool) -> memoryview | None:
        """Where the next bytes go; None when the range is full. A stream uses one slice of its buffer again and again."""
        size = min(SLICE_BYTES, self.size_bytes - self.filled)
        if self.buffer is None or size == 0:
            return None
        at = 0 if whole else self.filled
        return self.buffer[at : at + size]


@dataclass
class Transfer:
    """The state of one file. Fields are guarded by the session's lock, the digest by `_chain`."""

    target: Target
    part: PartFile
    size_bytes: int
    sha256: str
    ranges: list[Range] = field(default_factory=list)
    in_flight: int = 0
    failure: WorkerError | Restart | None = None
    whole: bool = False  # the server ignores Range: one stream
    complete: bool = False
    settled: bool = False
    received_bytes: int = 0
    started: float | None = None
    first_byte: float | None = None
    causes: set[str] = field(default_factory=set)  # of restarts that were made
    _etag: str | None = None
    _hashed: int = 0  # ranges
    _chain: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256()

    def begin(self, ranges: list[Range]) -> None:
        """Start over with these ranges."""
        self.ranges, self._hashed, self._digest = ranges, 0, hashlib.sha256()
        self.failure, self._etag = None, None

    def fail(self, failure: WorkerError | Restart) -> None:
        """The first failure counts; a file that ended in an error does not restart."""
        if self.failure is None:
            self.failure = failure

    def accept(self, answer: Answer, start: int, end: int) -> None:
        """Check that an answer holds the bytes from start to end of the pinned object.

        Raises:
            Restart: the object was replaced during the download, or the server ignores Range.
            StoreCorrupt: another size than pinned, or other bytes than asked for.
        """
        if self._etag is None:
            self._etag = answer.etag
        elif answer.etag != self._etag:
            raise Restart(REPLACED, StoreCorrupt("the object was replaced during the download"))
        if answer.status == 200:
            if answer.length not in {None, self.size_bytes}:
                raise StoreCorrupt(f"the object has {answer.length} bytes, its pin says {self.size_bytes}")
            if not self.whole and (start, end) != (0, self.size_bytes):
                raise Restart(IGNORES_RANGES, StoreCorrupt("the store answered a range with the whole object"))
            return
        match = answer.content_range
        if match is None or (int(match[1]), int(match[2])) != (start, end - 1) or answer.length not in {None, end - start}:
            raise StoreCorrupt("the store answered with another range than asked for")
        if match[3] not in {"*", str(self.size_bytes)}:
            raise StoreCorrupt(f"the object has {match[3]} bytes, its pin says {self.size_bytes}")

    def advance(self, release: Callable[[memoryview], None]) -> None:
        """Hash what is contiguous, unless another thread is at it. Raises StoreCorrupt or Restart for a wrong digest, OSError."""
        while self._ready() and self._chain.acquire(blocking=False):
            try:
                while self._ready():
                    self._hash_next(release)
            finally:
                self._chain.release()

    def _ready(self) -> bool:
        return self.failure is None and self._hashed < len(self.ranges) and self.ranges[self._hashed].done

    def _hash_next(self, release: Callable[[memoryview], None]) -> None:
        piece = self.ranges[self._hashed]
        if piece.on_disk:
            self._hash_from_disk(piece)
        elif piece.buffer is not None:
            self._digest.update(piece.buffer[: piece.size_bytes])
            buffer, piece.buffer = piece.buffer, None
            release(buffer)
        self._hashed += 1
        if self._hashed == len(self.ranges):
            self._check()

    def _hash_from_disk(self, piece: Range) -> None:
        view = memoryview(bytearray(min(_DISK_SLICE_BYTES, piece.size_bytes)))
        offset = piece.start
        while offset < piece.end and self.failure is None:
            count = self.part.read_into(view[: piece.end - offset], offset)
            if count == 0:
                raise OSError("the part file was cut short")
            self._digest.update(view[:count])
            offset += count

    def rewind(self) -> None:
        """A stream begins again at its first byte."""
        self._digest, self._etag = hashlib.sha256(), None

    def hash_slice(self, view: memoryview) -> None:
        """For a stream, which arrives in order."""
        self._digest.update(view)

    def end_of_range(self, piece: Range, answer: Answer) -> None:
        """All bytes of a range are written: note it, or finish the stream."""
        if self.failure is not None:
            return
        if answer.length is None and answer.read_into(memoryview(bytearray(1))):
            raise StoreCorrupt(f"the object has more than the {self.size_bytes} bytes of its pin")
        if self.whole:
            self._hashed = len(self.ranges)
            self._check()
            return
        if piece.size_bytes:
            self.part.mark(piece.start, piece.end)
        piece.done = True

    def _check(self) -> None:
        if self._digest.hexdigest() == self.sha256:
            self.complete = True
            return
        error = StoreCorrupt("the bytes are not the pinned bytes (sha256 differs)")
        raise Restart(RESUMED_WRONG, error) if any(r.on_disk for r in self.ranges) else error


def plan(gaps: list[tuple[int, int]], finished: list[tuple[int, int]], *, share_bytes: Callable[[int], int]) -> list[Range]:
    """Ranges in file order: finished ones for hashing, gaps cut into what `share_bytes(size of the rest of the gap)` says."""
    ranges = [Range(start, end, on_disk=True, done=True) for start, end in finished]
    for start, end in gaps:
        position = start
        while position < end:
            size = min(share_bytes(end - position), end - position)
            ranges.append(Range(position, position + size))
            position += size
    return sorted(ranges, key=lambda r: r.start)


def gaps_between(finished: list[tuple[int, int]], size_bytes: int) -> list[tuple[int, int]]:
    """What is missing of a file whose sorted, disjoint `finished` ranges are there."""
    edges = [0, *(edge for pair in finished for edge in pair), size_bytes]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
