"""The composition root's own decisions; what it composes is tested end to end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

import handler
from f5_worker.errors import OutOfMemory
from f5_worker.report import Timeline
from tests.worker_process import ROOT

QUEUE = {"RUNPOD_WEBHOOK_GET_JOB": "http://…/job-take/$ID?gpu=X"}


@pytest.mark.parametrize(
    ("argv", "env", "expected"),
    [
        (["handler.py"], {}, True),
        (["handler.py"], QUEUE, False),
        (["handler.py", "--test_input", "{}"], QUEUE, True),
        (["handler.py", "--test_input={}"], QUEUE, True),
        (["handler.py", "--rp_serve_api"], {}, False),
        (["handler.py", "--rp_serve_api"], QUEUE, False),
    ],
)
def test_a_run_of_one_job_is_told_from_a_service(argv, env, expected):
    assert handler.runs_one_job(argv, env) is expected


@pytest.mark.parametrize(
    ("argv", "env", "expected"),
    [
        (["handler.py"], QUEUE, True),
        (["handler.py"], {}, False),
        (["handler.py", "--test_input", "{}"], QUEUE, False),
        (["handler.py", "--rp_serve_api"], QUEUE, False),
        (["handler.py"], QUEUE | {"RUNPOD_REALTIME_PORT": "8000"}, False),
    ],
)
def test_parts_and_progress_go_to_the_queue_only_when_jobs_come_from_it(argv, env, expected):
    assert handler.serves_the_queue(argv, env) is expected


def test_an_interrupt_from_the_keyboard_is_an_exit_code_and_no_traceback(monkeypatch):
    def interrupted(_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(handler.sys, "argv", ["handler.py"])
    monkeypatch.setattr(handler, "serve", interrupted)
    monkeypatch.setattr(handler.signal, "signal", lambda *_: None)
    assert handler.main() == 130


class FakePublisher:
    """`wait` answers or raises as told; `stopped` says whether stop was called."""

    def __init__(self, answer: bool | BaseException = True) -> None:
        self.answer, self.waited, self.stopped = answer, False, False

    def wait(self, _timeout_s: float) -> bool:
        self.waited = True
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def stop(self) -> None:
        self.stopped = True


@pytest.mark.parametrize("wait", [True, False])
def test_publishing_is_waited_for_only_when_one_job_was_run(wait):
    publisher = FakePublisher()
    handler.end(publisher, wait=wait)
    assert (publisher.waited, publisher.stopped) == (wait, True)


def test_publishing_is_stopped_in_order_when_a_signal_interrupts_the_wait():
    publisher = FakePublisher(SystemExit(143))
    with pytest.raises(SystemExit):
        handler.end(publisher, wait=True)
    assert publisher.stopped


def test_importing_the_handler_starts_nothing_and_loads_neither_torch_nor_the_sdk():
    check = "import handler, sys; assert not {'torch', 'runpod', 'huggingface_hub'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True, timeout=60)


def test_bad_settings_are_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setenv("S3_BUCKET", "b")
    monkeypatch.setattr(handler.signal, "signal", lambda *_: None)
    assert handler.main() == handler.EXIT_SETTINGS
    assert capsys.readouterr().err.count("\n") == 1


def test_the_sdk_is_imported_without_measuring_the_processor_and_names_it_as_it_would() -> None:
    code = """
import sys, handler
handler.import_sdk()
from runpod.serverless.utils import rp_debugger
assert "cpuinfo" not in sys.modules
import cpuinfo
assert rp_debugger.PROCESSOR == cpuinfo.get_cpu_info()["brand_raw"], rp_debugger.PROCESSOR
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_sdk_does_not_check_again_what_the_boot_has_checked():
    checks = (
        "import asyncio, handler; handler.import_sdk()\n"
        "from runpod.serverless.modules import rp_fitness\n"
        "asyncio.run(rp_fitness.run_fitness_checks())\n"
        "assert rp_fitness._registration_state == {'gpu_check': True, 'system_checks': True}\n"
        "assert rp_fitness._fitness_checks == []"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("RUNPOD_")}
    assert subprocess.run([sys.executable, "-c", checks], cwd=ROOT, env=env, check=False).returncode == 0


class FakeEngine:
    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.begun, self.go_on = error, threading.Event(), threading.Event()

    def rehearse(self) -> None:
        self.begun.set()
        assert self.go_on.wait(10)
        if self.error:
            raise self.error


def test_the_load_waits_for_a_rehearsal_that_has_begun():
    engine, timeline = FakeEngine(), Timeline(time.time())
    rehearsal = handler.Rehearsal(engine, timeline)
    rehearsal.wait()  # nothing has begun
    thread = threading.Thread(target=rehearsal.run)
    thread.start()
    assert engine.begun.wait(10)
    threading.Timer(0.05, engine.go_on.set).start()
    rehearsal.wait()
    assert engine.go_on.is_set()
    thread.join(10)
    assert [phase.name for phase in timeline.phases] == ["rehearse", "wait for rehearsal"]


@pytest.mark.parametrize("error", [OutOfMemory("no room"), RuntimeError("CUDA error: no room"), KeyError("no room"), OSError("no room")])
def test_a_rehearsal_that_fails_is_a_warning(error, caplog):
    engine = FakeEngine(error)
    engine.go_on.set()
    rehearsal = handler.Rehearsal(engine, Timeline(time.time()))
    rehearsal.run()
    rehearsal.wait()
    assert "boot.rehearsal_failed error=" in caplog.text
    assert "no room" in caplog.text
