"""Fetch pinned files at line rate: parallel ranged GETs, written in place, sha256 computed while the bytes arrive.

A few threads share one queue of ranges, the largest file first, and one arena of buffers. Each takes the next range
and a buffer together, so the lowest range that is still missing always has a buffer: waiting for order cannot
deadlock. The calling thread is the monitor: it enforces every bound by shutting sockets down.
"""

from __future__ import annotations

import mmap
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from f5_worker.errors import CacheError, Cancelled, InternalError, StoreCorrupt, StoreUnavailable, WorkerError
from f5_worker.http_range import Connection, Interrupted, Target, tls_context
from f5_worker.part_file import PartFile, disk_error
from f5_worker.transfer import IGNORES_RANGES, SLICE_BYTES, Range, Restart, Transfer, gaps_between, plan

_TICK_S = 0.05
_MIN_RANGE_BYTES = 1024 * 1024  # towards the end ranges shrink to this, so that the connections end together
_SPARE_BUFFERS = 6  # ranges that wait for their turn in the digest
_PROGRESS_BYTES = 1024 * 1024  # an attempt that brought this much starts the count of failures anew
_BACKOFF_S = 0.2  # doubled after each failure, with jitter
_JOIN_S = 0.6  # of the second in which a stop has to end


@dataclass(frozen=True)
class Item:
    """One file to fetch: the URL as signed, the part file to fill, what its bytes have to be."""

    url: str
    part: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Limits:
    """Knobs and bounds. A dead endpoint costs at most first_byte_s + 1 s, a stalled one first_byte_s + stall_window_s + 1 s."""

    connections: int = 16
    range_bytes: int = 8 * 1024 * 1024
    connect_s: float = 3.0
    first_byte_s: float = 3.0  # also for a connection that falls silent in the middle of a body
    stall_bytes_per_s: float = 5e6  # of all connections together
    stall_window_s: float = 5.0
    deadline_s: float = 300.0
    attempts: int = 3  # of one range without progress
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


def fetch(
    items: Sequence[Item], limits: Limits, *, on_done: Callable[[Outcome], None], stop: threading.Event | None = None
) -> list[Outcome]:
    """Fill the part file of every item; the outcomes in the order of the items.

    Args:
        on_done: Called at once for each item that is complete and verified, never twice at the same time, from another
            thread. A WorkerError out of it becomes the item's error.
        stop: When set, the call ends within a second; parts and journals stay for the next call.
    """
    return _Session(items, limits, on_done).run(stop or threading.Event())


class _Stall:
    """Bytes per second over the last window of the time in which somebody waited for the network."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._samples: deque[tuple[float, int]] = deque()
        self._seconds = 0.0
        self._bytes = 0

    def too_slow(self, seconds: float, received: int) -> bool:
        """Add a sample; whether the window is full and its rate below the bound."""
        self._samples.append((seconds, received))
        self._seconds += seconds
        self._bytes += received
        while self._seconds - self._samples[0][0] >= self._limits.stall_window_s:
            old_s, old_bytes = self._samples.popleft()
            self._seconds -= old_s
            self._bytes -= old_bytes
        return self._seconds >= self._limits.stall_window_s and self._bytes < self._limits.stall_bytes_per_s * self._seconds


class _Session:
    def __init__(self, items: Sequence[Item], limits: Limits, on_done: Callable[[Outcome], None]) -> None:
        self._limits = limits
        self._on_done = on_done
        self._started = time.monotonic()
        self._transfers = [Transfer(Target.parse(i.url), PartFile(i.part, i.size_bytes, i.sha256), i.size_bytes, i.sha256) for i in items]
        self._items = dict(zip(map(id, self._transfers), items, strict=True))
        self._outcomes: dict[int, Outcome] = {}
        self._changed = threading.Condition()
        self._done_lock = threading.Lock()
        self._queue: deque[tuple[Transfer, Range | None]] = deque()
        self._buffers: list[memoryview] = []
        self._links: list[Connection] = []
        self._answered: set[tuple[bool, str, int]] = set()
        self._first_try: dict[tuple[bool, str, int], float] = {}
        self._ended: WorkerError | None = None
        self._context = tls_context(limits.ca_file) if any(t.target.tls for t in self._transfers) else None

    # the calling thread: prepare, watch, collect

    def run(self, stop: threading.Event) -> list[Outcome]:
        self._prepare()
        count = min(self._limits.connections, len(self._queue))
        self._buffers = _arena(min(count + _SPARE_BUFFERS, len(self._queue)), self._limits.range_bytes)
        threads = [threading.Thread(target=self._work, name=f"fetch-{n}", daemon=True) for n in range(count)]
        for thread in threads:
            thread.start()
        self._watch(stop)
        until = time.monotonic() + _JOIN_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        for transfer in self._transfers:
            self._abandon(transfer)
        return [self._outcomes[id(t)] for t in self._transfers]

    def _abandon(self, transfer: Transfer) -> None:
        """End an item that no thread ended: none had begun, or its thread hangs in a call that nothing interrupts (a DNS query)."""
        with self._changed:
            if transfer.settled:  # perhaps still in its fsync
                self._changed.wait_for(lambda: id(transfer) in self._outcomes)
                return
            transfer.settled = True
        failure = transfer.failure or self._ended or InternalError("a transfer was lost")
        self._finish(transfer, failure.error if isinstance(failure, Restart) else failure)

    def _prepare(self) -> None:
        for transfer in sorted(self._transfers, key=lambda t: -t.size_bytes):
            try:
                finished = transfer.part.open()
            except OSError as exc:
                transfer.settled = True
                self._finish(transfer, disk_error(exc))
                continue
            transfer.begin(self._planned(transfer, finished))
            self._enqueue(transfer)

    def _planned(self, transfer: Transfer, finished: list[tuple[int, int]]) -> list[Range]:
        if transfer.size_bytes == 0:
            return [Range(0, 0)]
        limits = self._limits
        behind = sum(t.size_bytes for t in self._transfers if t.size_bytes < transfer.size_bytes)

        def share(rest: int) -> int:
            even = (rest + behind) // (2 * limits.connections)
            return min(limits.range_bytes, max(_MIN_RANGE_BYTES, even - even % SLICE_BYTES))

        return plan(gaps_between(finished, transfer.size_bytes), finished, share_bytes=share)

    def _enqueue(self, transfer: Transfer) -> None:
        if transfer.ranges[0].on_disk:
            self._queue.append((transfer, None))  # starts the digest
        self._queue.extend((transfer, r) for r in transfer.ranges if not r.on_disk)

    def _watch(self, stop: threading.Event) -> None:
        stall = _Stall(self._limits)
        received, last = 0, time.monotonic()
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: len(self._outcomes) == len(self._transfers), _TICK_S):
                    return
            now, total = time.monotonic(), sum(link.received_bytes for link in self._links)
            waiting = any(link.waiting_since is not None for link in self._links)
            if waiting and self._answered and stall.too_slow(now - last, total - received):
                self._end(
                    StoreUnavailable(f"less than {self._limits.stall_bytes_per_s / 1e6:g} MB/s for {self._limits.stall_window_s:g} s")
                )
            received, last = total, now
            if stop.is_set():
                self._end(Cancelled("stopped"))
            elif now - self._started > self._limits.deadline_s:
                self._end(StoreUnavailable(f"not done after {self._limits.deadline_s:g} s"))
            self._watch_links(now)
            if self._ended is not None:
                return

    def _watch_links(self, now: float) -> None:
        for endpoint, first_try in list(self._first_try.items()):
            if endpoint not in self._answered and now - first_try > self._limits.first_byte_s:
                self._bury(endpoint, StoreUnavailable(f"no answer in {self._limits.first_byte_s:g} s"))
        for link in list(self._links):
            since = link.waiting_since
            if since is not None and now - since > self._limits.first_byte_s:
                link.interrupt(f"no byte in {self._limits.first_byte_s:g} s")

    def _end(self, error: WorkerError) -> None:
        """End everything that is not done."""
        with self._changed:
            if self._ended is None:
                self._ended = error
            for transfer in self._transfers:
                transfer.fail(self._ended)
            self._changed.notify_all()
        for link in list(self._links):
            link.interrupt(self._ended.message)

    def _bury(self, endpoint: tuple[bool, str, int], error: StoreUnavailable) -> None:
        """End all items of an endpoint that never answered."""
        with self._changed:
            if endpoint in self._answered:
                return
            dead = [t for t in self._transfers if t.target.endpoint == endpoint]
            for transfer in dead:
                transfer.fail(error)
            self._changed.notify_all()
        for transfer in dead:
            self._settle(transfer)
        for link in list(self._links):
            if link.endpoint == endpoint:
                link.interrupt(error.message)

    # the workers

    def _work(self) -> None:
        link = Connection(self._context)
        self._links.append(link)
        clean = False
        try:
            while (task := self._take()) is not None:
                self._run(link, *task)
            clean = True
        finally:
            link.close()
            if not clean:  # a defect: threading.excepthook has the traceback
                self._end(InternalError("a transfer thread died"))

    def _take(self) -> tuple[Transfer, Range | None] | None:
        """The next range and a buffer for it; None when nothing is left to do."""
        with self._changed:
            while self._ended is None and len(self._outcomes) < len(self._transfers):
                while self._queue and self._queue[0][0].failure is not None:
                    self._queue.popleft()
                if self._queue and (self._queue[0][1] is None or self._buffers):
                    transfer, piece = self._queue.popleft()
                    if piece is not None:
                        piece.buffer = self._buffers.pop()
                    transfer.in_flight += 1
                    return transfer, piece
                self._changed.wait(1.0)
        return None

    def _run(self, link: Connection, transfer: Transfer, piece: Range | None) -> None:
        try:
            if piece is not None:
                self._bring(link, transfer, piece)
            transfer.advance(self._release)
        except (WorkerError, Restart) as exc:
            self._fail(transfer, exc)
        except OSError as exc:
            self._fail(transfer, disk_error(exc))
        finally:
            with self._changed:
                transfer.in_flight -= 1
                transfer.received_bytes += piece.received_bytes if piece else 0
            self._settle(transfer)

    def _fail(self, transfer: Transfer, failure: WorkerError | Restart) -> None:
        with self._changed:
            transfer.fail(failure)

    def _bring(self, link: Connection, transfer: Transfer, piece: Range) -> None:
        """Fetch one range, with its retries. Returns early when its file has failed."""
        failures = 0
        while transfer.failure is None:
            before = piece.filled
            try:
                self._attempt(link, transfer, piece)
                return
            except Interrupted as exc:
                link.close()
                failures = 1 if piece.filled - before >= _PROGRESS_BYTES else failures + 1
                self._after_failure(transfer, exc, failures)

    def _attempt(self, link: Connection, transfer: Transfer, piece: Range) -> None:
        if transfer.whole:
            piece.filled = 0
            transfer.rewind()
        start = piece.start + piece.filled
        endpoint = transfer.target.endpoint
        self._first_try.setdefault(endpoint, time.monotonic())
        try:
            answer = link.get(transfer.target, start, piece.end, connect_s=self._limits.connect_s)
        finally:
            if link.answered:
                self._answered.add(endpoint)
        transfer.accept(answer, start, piece.end)
        while (view := piece.next_slice(transfer.whole)) and transfer.failure is None:
            count = answer.read_into(view)
            if transfer.failure is not None:
                return
            if count < len(view):
                raise Interrupted("the body ended early")
            transfer.first_byte = transfer.first_byte or time.monotonic()
            transfer.part.write(view, piece.start + piece.filled)
            if transfer.whole:
                transfer.hash_slice(view)
            piece.filled += count
            piece.received_bytes += count
        transfer.end_of_range(piece, answer)

    def _after_failure(self, transfer: Transfer, exc: Interrupted, failures: int) -> None:
        """Wait before the next attempt. Raises StoreUnavailable when there is none."""
        if transfer.failure is not None:
            return
        limits = self._limits
        backoff_s = _BACKOFF_S * 2 ** (failures - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        delay_s = backoff_s if exc.retry_after_s is None else exc.retry_after_s
        # A store that asks for more patience than a stalled line gets is as good as down: the hub is faster.
        patience_s = min(limits.stall_window_s, self._started + limits.deadline_s - time.monotonic())
        if failures >= limits.attempts or delay_s > patience_s:
            error = StoreUnavailable(str(exc))
            self._bury(transfer.target.endpoint, error)
            raise error
        with self._changed:
            self._changed.wait_for(lambda: transfer.failure is not None, delay_s)

    def _release(self, buffer: memoryview) -> None:
        with self._changed:
            self._buffers.append(buffer)
            self._changed.notify()

    # the end of an item

    def _settle(self, transfer: Transfer) -> None:
        """Finish or restart a file that nobody works on any more and that is complete or has failed."""
        with self._changed:
            if transfer.in_flight or transfer.settled or not (transfer.complete or transfer.failure):
                return
            for piece in transfer.ranges:
                if piece.buffer is not None:
                    self._buffers.append(piece.buffer)
                    piece.buffer = None
            failure = None if transfer.complete else transfer.failure
            if isinstance(failure, Restart):
                if failure.cause not in transfer.causes and self._ended is None:
                    failure = self._restart(transfer, failure.cause)
                    if failure is None:
                        return
                else:
                    failure = failure.error
            transfer.settled = True
        self._finish(transfer, failure)

    def _restart(self, transfer: Transfer, cause: str) -> WorkerError | None:
        transfer.causes.add(cause)
        try:
            transfer.part.restart()
        except OSError as exc:
            return disk_error(exc)
        transfer.whole = transfer.whole or cause == IGNORES_RANGES
        transfer.begin([Range(0, transfer.size_bytes)] if transfer.whole else self._planned(transfer, []))
        self._enqueue(transfer)
        self._changed.notify_all()
        return None

    def _finish(self, transfer: Transfer, error: WorkerError | None) -> None:
        try:
            if error is None and self._limits.fsync:
                transfer.part.sync()
            if error is None or (transfer.part.has_ranges and not isinstance(error, (StoreCorrupt, CacheError))):
                transfer.part.close()
            else:
                transfer.part.discard()
        except OSError as exc:
            error = error or disk_error(exc)
        outcome = self._outcome(transfer, error)
        if error is None:
            outcome = self._hand_over(transfer, outcome)
        with self._changed:
            self._outcomes[id(transfer)] = outcome
            self._changed.notify_all()

    def _hand_over(self, transfer: Transfer, outcome: Outcome) -> Outcome:
        """Tell the caller, then forget the journal: killed in between, the next run finds the part whole."""
        try:
            with self._done_lock:
                self._on_done(outcome)
            transfer.part.drop_journal()
        except WorkerError as exc:
            return self._outcome(transfer, exc)
        except OSError as exc:
            return self._outcome(transfer, disk_error(exc))
        return outcome

    def _outcome(self, transfer: Transfer, error: WorkerError | None) -> Outcome:
        first = None if transfer.first_byte is None else transfer.first_byte - self._started
        return Outcome(self._items[id(transfer)], error, transfer.received_bytes, time.monotonic() - self._started, first)


def _arena(count: int, size_bytes: int) -> list[memoryview]:
    """Buffers out of one mapping with huge pages: touching fresh memory is the dearest part of a download here."""
    memory = mmap.mmap(-1, max(1, count) * size_bytes)
    memory.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(memory)
    return [view[n * size_bytes : (n + 1) * size_bytes] for n in range(count)]
