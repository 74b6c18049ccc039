"""Several workers that use one store at once, their requests in an order that the test chooses."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from f5_worker.errors import WorkerError

_DEADLINE_S = 30.0


class _Worker:
    """Does something in a thread of its own and stops before each request until it is its turn."""

    def __init__(self, store: Any, act: Callable[[Any], object]) -> None:
        self._store = store
        self._turn, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.is_done = False
        self.error: BaseException | None = None
        threading.Thread(target=self._run, args=(act,), daemon=True).start()
        self._wait_for(self._stopped)

    def go_on(self) -> None:
        """Let it make one request, until it stops before the next one or is done."""
        self._turn.release()
        self._wait_for(self._stopped)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def request(*args: Any, **options: Any) -> Any:
            self._stopped.release()
            self._wait_for(self._turn)
            return getattr(self._store, method)(*args, **options)

        return request

    def _run(self, act: Callable[[Any], object]) -> None:
        try:
            act(self)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.error = error
        self.is_done = True
        self._stopped.release()

    @staticmethod
    def _wait_for(semaphore: threading.Semaphore) -> None:
        assert semaphore.acquire(timeout=_DEADLINE_S)


def taking_turns(store: Any, acts: Sequence[Callable[[Any], object]], order: int | Iterable[int]) -> list[WorkerError]:
    """The errors of the acts, each of which gets a store to work with.

    Args:
        order: Whose turn each time is, by the number of the act; those who have then still requests to make are asked one after the
            other. A seed draws the whole order.
    """
    workers = [_Worker(store, act) for act in acts]
    if isinstance(order, int):
        draw = random.Random(order)
        while left := [worker for worker in workers if not worker.is_done]:
            draw.choice(left).go_on()
    else:
        for turn in order:
            if not workers[turn].is_done:
                workers[turn].go_on()
    for worker in workers:
        while not worker.is_done:
            worker.go_on()
    errors = [worker.error for worker in workers if worker.error]
    for error in errors:
        if not isinstance(error, WorkerError):
            raise error
    return errors  # type: ignore[return-value]
