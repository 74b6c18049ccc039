"""The bucket as jobs use it: one that hangs is waited for once and then left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from f5_worker.errors import StoreUnavailable
from f5_worker.store import ObjectInfo, Store

SLOW_S = 1.0  # a call that fails sooner costs a job nothing worth remembering
OPEN_S = 60.0


class GuardedStore:
    """A store whose calls fail at once with StoreUnavailable for OPEN_S after one of them hung. Thread-safe."""

    def __init__(self, store: Store, *, before: Callable[[], object] = lambda: None, clock: Callable[[], float] = time.monotonic) -> None:
        """Guard a store.

        Args:
            before: Called before each request to the bucket. Raises StoreError when that must not be made.
        """
        self._store, self._before, self._clock = store, before, clock
        self._closed_until = 0.0

    def ask_again(self) -> None:
        """Let the next call wait for the store again: what it carries fits nowhere else."""
        self._closed_until = 0.0

    def head(self, key: str) -> ObjectInfo | None:
        with self._watched():
            return self._store.head(key)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        with self._watched():
            return self._store.get(key, max_bytes=max_bytes)

    def put(self, key: str, data: bytes, *, content_type: str, filename: str | None = None) -> None:
        with self._watched():
            self._store.put(key, data, content_type=content_type, filename=filename)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._watched():
            yield from self._store.list(prefix)

    def delete(self, key: str) -> None:
        with self._watched():
            self._store.delete(key)

    def sign_get(self, key: str, *, expires_s: int) -> str:
        return self._store.sign_get(key, expires_s=expires_s)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        started = self._clock()
        if started < self._closed_until:
            raise StoreUnavailable("the bucket did not answer a moment ago and is left alone for a while")
        try:
            self._before()
            yield
        except StoreUnavailable:
            if self._clock() - started >= SLOW_S:
                self._closed_until = self._clock() + OPEN_S
            raise
