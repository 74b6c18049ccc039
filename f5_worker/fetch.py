"""Fetch pinned files at line rate: parallel ranged GETs, written in place, sha256 computed while the bytes arrive.

The calling thread is the monitor: sockets have no timeouts of their own, it enforces every bound by shutting them
down. The work is in `fetch_session`, one file's state in `transfer`, one request in `http_range`, the disk in `part_file`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from f5_worker.errors import Cancelled, StoreUnavailable
from f5_worker.fetch_session import Session
from f5_worker.transfer import Item, Limits, Outcome

__all__ = ["Item", "Limits", "Outcome", "fetch"]

_TICK_S = 0.02
_GREETING_S = 0.06  # for connecting and the first answer
_FAST_BYTES_PER_S = 60e6  # of one connection; below it the line may bound each, and more of them bring more
_CAUGHT_UP_S = 0.25  # without a lagging digest; it gives a buffer back at least so often
_JOIN_S = 0.6  # of the second in which a stop has to end


def fetch(
    items: Sequence[Item], limits: Limits, *, on_done: Callable[[Outcome], None], stop: threading.Event | None = None
) -> list[Outcome]:
    """Fill the part file of every item; the outcomes in the order of the items.

    Args:
        on_done: Called at once for each item that is complete and verified, never twice at the same time, from another
            thread. A WorkerError or OSError out of it becomes the item's error; anything else is a defect and ends the whole call
            with InternalError.
        stop: When set, the call ends within a second; parts and journals stay for the next call.
    """
    session = Session(items, limits, on_done)
    session.prepare()
    threads: list[threading.Thread] = []
    _start(session, threads)
    _watch(session, limits, stop or threading.Event(), threads)
    _join(session, threads)
    return session.collect()


def _start(session: Session, threads: list[threading.Thread]) -> None:
    """Run as many threads as the session wants."""
    while len(threads) < session.width:
        threads.append(threading.Thread(target=session.work, name=f"fetch-{len(threads)}", daemon=True))
        threads[-1].start()


def _watch(session: Session, limits: Limits, stop: threading.Event, threads: list[threading.Thread]) -> None:
    """Return when every item has ended or one bound ends them all."""
    stall = _Stall(limits)
    received, last, lagged = 0, time.monotonic(), 0.0
    while not session.wait_done(_TICK_S) and session.ended is None and not session.is_hopeless():
        now, total = time.monotonic(), session.received_bytes()
        if session.is_waiting() and session.answered and stall.too_slow(now - last, total - received):
            stalled = f"less than {limits.stall_bytes_per_s / 1e6:g} MB/s for {limits.stall_window_s:g} s"
            session.end(StoreUnavailable(f"{session.trouble}; {stalled}" if session.trouble else stalled))
        lagged = now if session.digest_lags() else lagged
        greeted_s = now - session.started - _GREETING_S
        if greeted_s > 0 and now - lagged > _CAUGHT_UP_S and total < _FAST_BYTES_PER_S * session.width * greeted_s:
            session.widen(limits.connections)
            _start(session, threads)
        received, last = total, now
        if stop.is_set():
            session.end(Cancelled("stopped"))
        elif now - session.started > limits.deadline_s:
            session.end(StoreUnavailable(f"not done after {limits.deadline_s:g} s"))
        _watch_links(session, limits, now)


def _watch_links(session: Session, limits: Limits, now: float) -> None:
    silence = f"no byte in {limits.first_byte_s:g} s"
    for endpoint, first_try in list(session.first_try.items()):
        if endpoint not in session.answered and now - first_try > limits.first_byte_s:
            session.bury(endpoint, StoreUnavailable(silence))
    for link in list(session.links):
        since = link.waiting_since
        if since is not None and now - since > limits.first_byte_s:
            link.interrupt(silence)


def _join(session: Session, threads: list[threading.Thread]) -> None:
    """Wait for the threads, but not for one that hangs in a call that nothing interrupts (a DNS query)."""
    until = time.monotonic() + _JOIN_S
    while not session.wait_done(0) and any(t.is_alive() for t in threads) and time.monotonic() < until:
        session.interrupt("ended")  # again and again: a thread may just have opened its connection
        session.wait_done(_TICK_S)


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
