"""The threads of one fetch: they share a queue of ranges, the largest file first, and one arena of buffers.

A thread takes the next range and a buffer together, so the lowest missing range of a file always has a buffer, and
ranges that wait for their turn in the digest cannot starve it. Whoever completes a range also hashes what is
contiguous by then, unless another thread is at it: a fast line turns one thread into the hasher of the file.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from f5_worker.disk import disk_error
from f5_worker.errors import InternalError, StoreUnavailable, WorkerError
from f5_worker.http_range import Connection, Endpoint, Interrupted, Target, tls_context
from f5_worker.part_file import PartFile
from f5_worker.transfer import IGNORES_RANGES, SLICE_BYTES, Item, Limits, Outcome, Range, Restart, Transfer, arena, backoff_s, plan

_IN_FLIGHT_BYTES = 96 * 1024 * 1024  # of all connections: few take long ranges, which cost the store less, many take short ones
_MIN_RANGE_BYTES = 1024 * 1024  # towards the end ranges shrink to this, so that the connections end together
_SPARE_BUFFERS = 4  # ranges that wait for their turn in the digest
_PROGRESS_BYTES = 1024 * 1024  # an attempt that brought this much starts the count of failures anew


class Session:
    """State of one call of fetch(). `_changed` guards the queue, the buffers, the outcomes and every transfer."""

    def __init__(self, items: Sequence[Item], limits: Limits, on_done: Callable[[Outcome], None]) -> None:
        self.started = time.monotonic()
        self.ended: WorkerError | None = None
        self.answered: set[Endpoint] = set()
        self.first_try: dict[Endpoint, float] = {}
        self.links: list[Connection] = []
        self.width = 0  # threads that the monitor is to run
        self.trouble = ""  # the last failed attempt, until a range arrives
        self._pausing = 0  # threads that wait before their next attempt
        self._limits = limits
        self._on_done = on_done
        self._transfers = [Transfer(item, Target.parse(item.url), PartFile(item.part, item.size_bytes, item.sha256)) for item in items]
        self._outcomes: dict[int, Outcome] = {}
        self._changed = threading.Condition()
        self._handing_over = threading.Lock()
        self._queue: deque[tuple[Transfer, Range | None]] = deque()
        self._buffers: list[memoryview] = []
        self._context = tls_context(limits.ca_file) if any(t.target.tls for t in self._transfers) else None

    # for the monitor

    def prepare(self) -> None:
        """Open the part files, resume from their journals, fill the queue."""
        for transfer in sorted(self._transfers, key=lambda t: -t.size_bytes):
            try:
                finished = transfer.part.open()
            except OSError as exc:
                transfer.settled = True
                self._finish(transfer, disk_error(exc))
                continue
            transfer.begin(plan(transfer.size_bytes, finished))
            self._enqueue(transfer)
        first = self._limits.first_tls_connections if self._context else self._limits.first_connections
        self.widen(min(first, self._limits.connections))

    def widen(self, connections: int) -> None:
        """So many connections, if they have something to do, and the buffers for them."""
        with self._changed:
            tasks = sum(1 if r is None else -(-r.size_bytes // _MIN_RANGE_BYTES) or 1 for _, r in self._queue)
            before, self.width = self.width, max(self.width, min(connections, tasks))
            if (count := self.width - before) > 0:
                size_bytes = min(_IN_FLIGHT_BYTES // self.width, self._limits.range_bytes)
                self._buffers += arena(count if before else count + _SPARE_BUFFERS, size_bytes)
                self._changed.notify_all()

    def wait_done(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self._outcomes) == len(self._transfers), timeout_s)

    def is_hopeless(self) -> bool:
        """Whether every item that has not ended has failed: what still runs hangs in a call that nothing interrupts."""
        with self._changed:
            return all(t.settled or isinstance(t.failure, WorkerError) for t in self._transfers)

    def received_bytes(self) -> int:
        return sum(link.received_bytes for link in self.links)

    def is_waiting(self) -> bool:
        """Whether anybody waits for the network, or for the time to ask again."""
        return self._pausing > 0 or any(link.waiting_since is not None for link in self.links)

    def digest_lags(self) -> bool:
        """Whether ranges wait for buffers, and those for the digest: more connections would only wait with them.

        Buffers that wait for a slow connection, which has the next range, do not count.
        """
        with self._changed:
            return bool(self._queue) and not self._buffers and any(t.can_hash() for t in self._transfers)

    def end(self, error: WorkerError) -> None:
        """End everything that is not done."""
        with self._changed:
            self.ended = self.ended or error
            for transfer in self._transfers:
                transfer.fail(self.ended)
            self._changed.notify_all()
        self.interrupt(error.message)

    def interrupt(self, reason: str, endpoint: Endpoint | None = None) -> None:
        for link in list(self.links):
            if endpoint in {None, link.endpoint}:
                link.interrupt(reason)

    def bury(self, endpoint: Endpoint, error: StoreUnavailable) -> None:
        """End all items of an endpoint, if it never answered."""
        with self._changed:
            if endpoint in self.answered:
                return
            dead = [t for t in self._transfers if t.target.endpoint == endpoint]
            for transfer in dead:
                transfer.fail(error)
            self._changed.notify_all()
        for transfer in dead:
            self._settle(transfer)
        self.interrupt(error.message, endpoint)

    def collect(self) -> list[Outcome]:
        """The outcomes in the order of the items; what no thread ended is ended here."""
        for transfer in self._transfers:
            with self._changed:
                if transfer.settled:  # perhaps still in its fsync
                    self._changed.wait_for(lambda t=transfer: id(t) in self._outcomes)  # type: ignore[misc]
                    continue
                transfer.settled = True
            self._finish(transfer, transfer.error or self.ended or InternalError("a transfer was lost"))
        return [self._outcomes[id(t)] for t in self._transfers]

    # the queue

    def _cut(self, transfer: Transfer, piece: Range, buffer: memoryview) -> None:
        """Give a range its buffer and leave in the queue what is too much for one range."""
        left = piece.size_bytes + sum(r.size_bytes for _, r in self._queue if r is not None)
        even = max(left // (2 * self.width), _MIN_RANGE_BYTES)
        piece.buffer = buffer
        if rest := transfer.cut(piece, min(even - even % SLICE_BYTES, _IN_FLIGHT_BYTES // self.width, len(buffer))):
            self._queue.appendleft((transfer, rest))

    def _enqueue(self, transfer: Transfer) -> None:
        if transfer.ranges[0].on_disk:
            self._queue.append((transfer, None))  # starts the digest
        self._queue.extend((transfer, r) for r in transfer.ranges if not r.on_disk)

    def _take(self) -> tuple[Transfer, Range | None] | None:
        """The next range with a buffer in it; None when nothing is left to do."""
        with self._changed:
            while self.ended is None and len(self._outcomes) < len(self._transfers):
                while self._queue and self._queue[0][0].failure is not None:
                    self._queue.popleft()
                if self._queue and (self._queue[0][1] is None or self._buffers):
                    transfer, piece = self._queue.popleft()
                    if piece is not None:
                        self._cut(transfer, piece, self._buffers.pop())
                    transfer.in_flight += 1
                    return transfer, piece
                self._changed.wait()
        return None

    def _release(self, buffer: memoryview) -> None:
        with self._changed:
            self._buffers.append(buffer)
            self._changed.notify_all()

    # the threads

    def work(self) -> None:
        """Bring ranges until nothing is left. The body of each thread."""
        link = Connection(self._context)
        self.links.append(link)
        clean = False
        try:
            while (task := self._take()) is not None:
                self._run(link, *task)
            clean = True
        finally:
            link.close()
            if not clean:  # a defect: threading.excepthook has the traceback
                self.end(InternalError("a transfer thread died"))

    def _run(self, link: Connection, transfer: Transfer, piece: Range | None) -> None:
        try:
            if piece is not None:
                self._bring(link, transfer, piece)
            transfer.advance(self._release)
        except (WorkerError, Restart, OSError) as exc:
            with self._changed:
                transfer.fail(disk_error(exc) if isinstance(exc, OSError) else exc)
                self._changed.notify_all()
        finally:
            with self._changed:
                transfer.in_flight -= 1
                transfer.received_bytes += piece.received_bytes if piece else 0
            self._settle(transfer)

    def _bring(self, link: Connection, transfer: Transfer, piece: Range) -> None:
        """Fetch one range, with its retries. Returns early when its file has failed."""
        failures = 0
        while transfer.failure is None:
            before = piece.filled
            try:
                self._attempt(link, transfer, piece)
            except Interrupted as exc:
                link.close()
                failures = 1 if piece.filled - before >= _PROGRESS_BYTES else failures + 1
                self._after_failure(transfer, exc, failures)
            else:
                self.trouble = ""
                return

    def _attempt(self, link: Connection, transfer: Transfer, piece: Range) -> None:
        if transfer.whole:
            piece.filled = 0
            transfer.rewind()
        start = piece.start + piece.filled
        self.first_try.setdefault(transfer.target.endpoint, time.monotonic())
        try:
            answer = link.get(transfer.target, start, piece.end, connect_s=self._limits.connect_s)
        finally:
            if link.answered:
                self.answered.add(transfer.target.endpoint)
        transfer.accept(answer, start, piece.end)
        while (view := piece.next_slice(stream=transfer.whole)) is not None:
            count = answer.read_into(view)
            transfer.first_byte = transfer.first_byte or time.monotonic()
            if transfer.failure is not None:
                return
            transfer.store(piece, view[:count])
            if count < len(view):
                raise Interrupted("the body ended early")
        transfer.end_of_range(piece, answer)

    def _after_failure(self, transfer: Transfer, exc: Interrupted, failures: int) -> None:
        """Wait before the next attempt, which a store that has answered gets until the monitor sees the whole fetch stall.

        Raises StoreUnavailable when there is none.
        """
        if transfer.failure is not None:
            return
        limits, asked_s = self._limits, exc.retry_after_s or 0.0
        # A store that asks for more patience than a stalled line gets is as good as down: the hub is faster.
        patience_s = min(limits.stall_window_s, self.started + limits.deadline_s - time.monotonic())
        is_counted = transfer.whole or transfer.target.endpoint not in self.answered  # a stream begins at its first byte again
        if asked_s > patience_s or (failures >= limits.attempts and is_counted):
            error = StoreUnavailable(str(exc))
            self.bury(transfer.target.endpoint, error)
            raise error
        self.trouble = str(exc)
        with self._changed:
            self._pausing += 1
            self._changed.wait_for(lambda: transfer.failure is not None, max(asked_s, backoff_s(failures)))
            self._pausing -= 1

    # the end of an item

    def _settle(self, transfer: Transfer) -> None:
        """Finish or restart a file that nobody works on any more and that is complete or has failed."""
        with self._changed:
            if transfer.in_flight or transfer.settled or not (transfer.complete or transfer.failure):
                return
            self._buffers.extend(transfer.take_buffers())
            self._changed.notify_all()
            error = transfer.error
            restart = transfer.pending_restart()
            if restart is not None and self.ended is None and (error := self._restart(transfer, restart)) is None:
                return
            transfer.settled = True
        self._finish(transfer, error)

    def _restart(self, transfer: Transfer, restart: Restart) -> WorkerError | None:
        self._queue = deque(task for task in self._queue if task[0] is not transfer)
        transfer.causes.add(restart.cause)
        transfer.whole = transfer.whole or restart.cause == IGNORES_RANGES
        try:
            transfer.part.restart()
        except OSError as exc:
            return disk_error(exc)
        transfer.begin([Range(0, transfer.size_bytes)])
        self._enqueue(transfer)
        return None

    def _finish(self, transfer: Transfer, error: WorkerError | None) -> None:
        """Close the part, tell the caller, then forget the journal: killed in between, the next run finds the part whole."""
        first_byte_s = None if transfer.first_byte is None else transfer.first_byte - self.started
        outcome = Outcome(transfer.item, error, transfer.received_bytes, time.monotonic() - self.started, first_byte_s)
        ended = replace(outcome, error=InternalError("a finished file was not taken"))  # unless the block comes to its end
        try:
            if error is None:
                transfer.part.seal(fsync=self._limits.fsync)
                with self._handing_over:
                    self._on_done(outcome)
                transfer.part.drop_journal()
            else:
                transfer.leave_part(error)
            ended = outcome
        except (WorkerError, OSError) as exc:
            ended = replace(outcome, error=error or (disk_error(exc) if isinstance(exc, OSError) else exc))
        finally:
            with self._changed:
                self._outcomes[id(transfer)] = ended
                self._changed.notify_all()
