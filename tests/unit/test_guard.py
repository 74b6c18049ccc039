"""A bucket that hangs is waited for once; one that merely fails costs nothing worth remembering."""

from __future__ import annotations

import pytest

from f5_worker.errors import StoreNotFound, StoreUnavailable
from f5_worker.guard import OPEN_S, GuardedStore
from tests.fakes.memory_store import MemoryStore


class Hanging(MemoryStore):
    """Every GET takes `seconds` of the clock and raises `error`."""

    def __init__(self, error, seconds):
        super().__init__()
        self.error, self.seconds, self.now_s = error, seconds, 100.0

    def get(self, key, *, max_bytes):
        self.calls.append(("get", key))
        self.now_s += self.seconds
        raise self.error


def asked_twice(error, seconds, pause_s=0.0):
    store = Hanging(error, seconds)
    guarded = GuardedStore(store, clock=lambda: store.now_s)
    for _ in range(2):
        with pytest.raises(type(error)):
            guarded.get("k", max_bytes=1)
        store.now_s += pause_s
    return store, guarded


def test_a_bucket_that_hung_is_left_alone():
    store, guarded = asked_twice(StoreUnavailable("timed out"), 12.0)
    assert len(store.calls) == 1
    with pytest.raises(StoreUnavailable):
        guarded.put("k", b"", content_type="x/y")
    with pytest.raises(StoreUnavailable):
        list(guarded.list("k"))


@pytest.mark.parametrize(("error", "seconds"), [(StoreUnavailable("503"), 0.2), (StoreNotFound("none"), 12.0)])
def test_quick_failures_and_answers_are_not_remembered(error, seconds):
    store, _ = asked_twice(error, seconds)
    assert len(store.calls) == 2


def test_what_comes_before_a_request_can_forbid_it():
    def forbid():
        raise StoreUnavailable("not there")

    store = MemoryStore()
    with pytest.raises(StoreUnavailable, match="not there"):
        GuardedStore(store, before=forbid).put("k", b"", content_type="x/y")
    assert store.calls == []


def test_after_a_while_it_is_asked_again():
    store, _ = asked_twice(StoreUnavailable("timed out"), 12.0, pause_s=OPEN_S + 1)
    assert len(store.calls) == 2


def test_what_cannot_wait_is_asked_at_once():
    store, guarded = asked_twice(StoreUnavailable("timed out"), 12.0)
    guarded.ask_again()
    guarded.put("k", b"", content_type="x/y")
    assert "k" in store.objects
