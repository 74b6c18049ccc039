"""Imports ahead of the requests that need them: in the slot's free time, and in nobody's way."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from f5_worker import ahead
from f5_worker.jobs import gpu_slot
from tests.worker_process import until

WAIT_S = 10


class Imports:
    """What was imported, in order. Every import takes until `go_on` is set."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def import_module(self, name: str) -> None:
        self.order.append(name)
        self.begun.set()
        assert self.go_on.wait(WAIT_S)


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> Imports:
    found = Imports()
    monkeypatch.setattr(ahead, "importlib", SimpleNamespace(import_module=found.import_module))
    return found


@pytest.fixture
def slot() -> Iterator[ThreadPoolExecutor]:
    with gpu_slot() as pool:
        yield pool


def test_what_is_to_be_first_comes_before_the_imports(imports: Imports, slot: ThreadPoolExecutor) -> None:
    imports.go_on.set()
    with ahead.preparing(slot, lambda: imports.order.append("a rehearsal")):
        assert imports.begun.wait(WAIT_S)
    assert imports.order[0] == "a rehearsal"


def test_a_first_that_fails_keeps_nothing_from_being_imported(imports: Imports, slot: ThreadPoolExecutor) -> None:
    def fail() -> None:
        raise OSError

    imports.go_on.set()
    with ahead.preparing(slot, fail):
        assert imports.begun.wait(WAIT_S)


def test_what_the_slot_is_given_meanwhile_waits_for_one_import_at_most(imports: Imports, slot: ThreadPoolExecutor) -> None:
    with ahead.preparing(slot):
        assert imports.begun.wait(WAIT_S)
        job = slot.submit(imports.order.append, "a job")
        imports.go_on.set()
        job.result(WAIT_S)
    assert imports.order[:2] == [ahead.MODULES[0], "a job"]


def test_nothing_more_is_imported_when_the_block_has_ended(imports: Imports, slot: ThreadPoolExecutor) -> None:
    with ahead.preparing(slot):
        assert imports.begun.wait(WAIT_S)
    imports.go_on.set()
    for _ in ahead.MODULES:
        slot.submit(lambda: None).result(WAIT_S)
    assert imports.order == [ahead.MODULES[0]]


def test_who_has_not_to_wait_waits_for_no_import(imports: Imports, slot: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_GRACE_S", WAIT_S)
    with ahead.preparing(slot):
        pass
    slot.submit(lambda: None).result(WAIT_S / 2)
    assert imports.order == []


def test_an_idle_worker_gets_all_of_it_also_when_some_of_it_fails(
    imports: Imports, slot: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_IDLE_S", 0.0)
    imports.go_on.set()

    def fail() -> None:
        raise OSError("no such endpoint")

    ahead.prepare_when_idle(slot, fail, lambda: imports.order.append("a client"))
    until(lambda: imports.order == [*ahead.MODULES, "a client"], WAIT_S, lambda: str(imports.order))
    assert all(importlib.util.find_spec(name) for name in ahead.MODULES)
