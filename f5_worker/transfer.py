"""One file on its way: which ranges are missing, what came, and the digest that follows the bytes in order."""

from __future__ import annotations

import hashlib
import mmap
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from f5_worker.errors import CacheError, StoreCorrupt, WorkerError
from f5_worker.http_range import Answer, Target
from f5_worker.part_file import PartFile

SLICE_BYTES = 252 * 1024  # fits the CPU's second-level cache; 256 would be written into large folios (docs/decisions/0015)
_DISK_SLICE_BYTES = 4 * 1024 * 1024
_BACKOFF_S = 0.2  # doubled after each failure, with jitter
_BACKOFF_DOUBLINGS = 3  # a store that sheds load asks for seconds, and a longer wait would outlast the end of it


@dataclass(frozen=True)
class Item:
    """One file to fetch: the URL as signed, the part file to fill, what its bytes have to be."""

    url: str = field(repr=False)  # its signature is a credential
    part: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Limits:
    """Knobs and bounds. A dead endpoint costs at most first_byte_s + 1 s, one that gets nowhere first_byte_s + stall_window_s + 1 s."""

    connections: int = 24  # at most: as many as a line with a bound on each connection needs
    first_connections: int = 8  # enough for a line without one
    first_tls_connections: int = 3  # decrypting binds the cores: more connections wait for each other
    range_bytes: int = 16 * 1024 * 1024  # at most
    connect_s: float = 3.0
    first_byte_s: float = 3.0  # also for a connection that falls silent in the middle of a body
    stall_bytes_per_s: float = 5e6  # of all connections together
    stall_window_s: float = 5.0
    deadline_s: float = 300.0
    attempts: int = 3  # of one range while its endpoint has answered nobody, and of a stream; else only the stall ends them
    fsync: bool = False  # for network volumes
    ca_file: Path | None = None  # AWS_CA_BUNDLE; None: the system's roots or SSL_CERT_FILE


@dataclass(frozen=True)
class Outcome:
    """How one item ended. `error` None: the part is complete and its digest right."""

    item: Item
    error: WorkerError | None
    bytes_received: int
    seconds: float
    first_byte_s: float | None  # since the start of fetch(); None: nothing came


class Restart(Exception):
    """The file has to be fetched again from its first byte. Each cause is followed once per file."""

    def __init__(self, cause: str, error: WorkerError) -> None:
        super().__init__(cause)
        self.cause = cause
        self.error = error


IGNORES_RANGES = "ignores ranges"
REPLACED = "replaced"
RESUMED_WRONG = "resumed wrong"


@dataclass(eq=False)
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

    def next_slice(self, *, stream: bool) -> memoryview | None:
        """Where the next bytes go; None when the range is full. A stream uses one slice of its buffer again and again."""
        size = min(SLICE_BYTES, self.size_bytes - self.filled)
        if self.buffer is None or size == 0:
            return None
        at = 0 if stream else self.filled
        return self.buffer[at : at + size]


@dataclass
class Transfer:
    """The state of one file. Fields are guarded by the session's lock, the digest by `_chain`."""

    item: Item
    target: Target
    part: PartFile
    ranges: list[Range] = field(default_factory=list)
    in_flight: int = 0
    failure: WorkerError | Restart | None = None
    whole: bool = False  # the server ignores Range: one stream
    complete: bool = False
    settled: bool = False
    received_bytes: int = 0
    first_byte: float | None = None  # monotonic time
    causes: set[str] = field(default_factory=set)  # of restarts that were made
    _etag: str | None = None
    _hashed: int = 0  # ranges
    _chain: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256()

    @property
    def size_bytes(self) -> int:
        return self.item.size_bytes

    @property
    def error(self) -> WorkerError | None:
        """What the item ends with if it ends now."""
        if self.complete:
            return None
        return self.failure.error if isinstance(self.failure, Restart) else self.failure

    def pending_restart(self) -> Restart | None:
        """The restart that is due and was not made for the same cause before."""
        due = isinstance(self.failure, Restart) and not self.complete and self.failure.cause not in self.causes
        return self.failure if due and isinstance(self.failure, Restart) else None

    def take_buffers(self) -> list[memoryview]:
        """The buffers of ranges that were not hashed."""
        buffers = [piece.buffer for piece in self.ranges if piece.buffer is not None]
        for piece in self.ranges:
            piece.buffer = None
        return buffers

    def begin(self, ranges: list[Range]) -> None:
        """Start over with these ranges."""
        self.ranges, self._hashed, self._digest = ranges, 0, hashlib.sha256()
        self.failure, self._etag = None, None

    def cut(self, piece: Range, size_bytes: int) -> Range | None:
        """Shorten a missing range to so many bytes; the rest of it, a range of its own. A stream stays whole."""
        if self.whole or piece.size_bytes <= size_bytes:
            return None
        rest = Range(piece.start + size_bytes, piece.end)
        piece.end = rest.start
        self.ranges.insert(self.ranges.index(piece) + 1, rest)
        return rest

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
        while self.can_hash() and self._chain.acquire(blocking=False):
            try:
                while self.can_hash():
                    self._hash_next(release)
            finally:
                self._chain.release()

    def can_hash(self) -> bool:
        """Whether the next range in file order is there; it stays so while it is hashed."""
        at = self._hashed  # looked at once: the thread that hashes goes on meanwhile
        return self.failure is None and at < len(self.ranges) and self.ranges[at].done

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

    def leave_part(self, error: WorkerError) -> None:
        """Keep what a later run can resume of a file that ended in an error. Raises OSError."""
        if self.part.has_ranges and not isinstance(error, (StoreCorrupt, CacheError)):
            self.part.close()
        else:
            self.part.discard()

    def rewind(self) -> None:
        """A stream begins again at its first byte."""
        self._digest, self._etag = hashlib.sha256(), None

    def store(self, piece: Range, view: memoryview) -> None:
        """Write what came; a stream, which comes in order, is hashed as well."""
        self.part.write(view, piece.start + piece.filled)
        if self.whole:
            self._digest.update(view)
        piece.filled += len(view)
        piece.received_bytes += len(view)

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
        if self._digest.hexdigest() == self.item.sha256:
            self.complete = True
            return
        error = StoreCorrupt("the bytes are not the pinned bytes (sha256 differs)")
        raise Restart(RESUMED_WRONG, error) if any(r.on_disk for r in self.ranges) else error


def plan(size_bytes: int, finished: list[tuple[int, int]]) -> list[Range]:
    """Ranges in file order: the sorted, disjoint finished ones and the gaps between them."""
    ranges: list[Range] = []
    position = 0
    for start, end in finished:
        if position < start:
            ranges.append(Range(position, start))
        ranges.append(Range(start, end, on_disk=True, done=True))
        position = end
    return [*ranges, Range(position, size_bytes)] if position < size_bytes or not ranges else ranges


def backoff_s(failures: int) -> float:
    """Seconds to wait after so many failures of one range in a row."""
    return _BACKOFF_S * (1 << min(failures - 1, _BACKOFF_DOUBLINGS)) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter


def arena(count: int, size_bytes: int) -> list[memoryview]:
    """Buffers out of one anonymous mapping: no page of it costs anything before it is touched."""
    view = memoryview(mmap.mmap(-1, count * size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    return [view[n * size_bytes : (n + 1) * size_bytes] for n in range(count)]
