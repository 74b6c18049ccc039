"""How the cost of work grows with its input: the same on every machine, where seconds are not."""

from __future__ import annotations

import time
from collections.abc import Callable

_STEP = 8
_BOUND = 16  # eight times the input costs 8 times as much when the work is linear, 64 times when a step of it is quadratic
_TRIES = 3


def assert_linear(work: Callable[[int], object], size: int) -> None:
    """Fails when `work(size)` takes over 16 times the processor time, in this thread, of `work(size // 8)`.

    A quadratic part shows once it takes 1.3 times what the linear part does at `size`. What is only slow is for benchmarks/.
    """
    work(size // _STEP)  # imports, and the patterns that are compiled
    small_s = min(_cpu_s(work, size // _STEP) for _ in range(_TRIES))
    large_s = float("inf")
    for _ in range(_TRIES):  # a neighbour on the machine slows one down; a quadratic step slows all
        large_s = min(large_s, _cpu_s(work, size))
        if large_s < _BOUND * small_s:
            return
    raise AssertionError(f"{_STEP} times the input took {large_s / small_s:.0f} times as long ({large_s:.3f} s): a step is not linear")


def _cpu_s(work: Callable[[int], object], size: int) -> float:
    started = time.thread_time()
    work(size)
    return time.thread_time() - started
