"""What requests need and no boot does, imported and made while there is nothing else to do (docs/decisions/0016)."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import partial

# The bucket's client, mp3 and opus, dashes and Chinese (pypinyin: 0.4 s, the others about 0.1 s), recordings by URL, subtitles, speed.
MODULES = ("boto3", "av", "pypinyin", "httpx", "pysubs2", "python_stretch")
_GRACE_S = 0.02  # who waits for less than that waits for nothing
_IDLE_S = 10.0  # a job that waits for the worker to start has begun by then


@contextmanager
def preparing(slot: Executor, *first: Callable[[], object]) -> Iterator[None]:
    """Call the first, then import the modules, in the slot, one after the other, until the block ends; then at most one still runs."""
    ended = threading.Event()
    _do_next(slot, [*first, *_imports()], ended)
    try:
        yield
    finally:
        ended.set()


def prepare_when_idle(slot: Executor, *others: Callable[[], object]) -> None:
    """Import what is left of them later, and call the others. What the slot is given meanwhile waits for one of these at most."""
    timer = threading.Timer(_IDLE_S, _do_next, (slot, [*_imports(), *others], threading.Event()))
    timer.daemon = True
    timer.start()


def _imports() -> list[Callable[[], object]]:
    return [partial(importlib.import_module, name) for name in MODULES]


def _do_next(slot: Executor, tasks: Sequence[Callable[[], object]], ended: threading.Event) -> None:
    def one() -> None:
        if not ended.wait(_GRACE_S):
            tasks[0]()  # what fails here fails again, with a code, in the job that needs it

    if tasks and not ended.is_set():
        with suppress(RuntimeError):  # the interpreter ends
            slot.submit(one).add_done_callback(lambda _: _do_next(slot, tasks[1:], ended))
