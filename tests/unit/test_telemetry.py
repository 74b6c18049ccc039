"""Traces to a real OTLP/HTTP receiver: what is in them, and that no collector can hurt a job."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from f5_worker import telemetry
from f5_worker.settings import Settings
from f5_worker.telemetry import Traces
from tests.fakes.fault_proxy import refused_url
from tests.fakes.otlp_receiver import attributes, otlp_receiver
from tests.worker_process import until

REPORT = {
    "model": "demo",
    "started_unix_s": 1_700_000_000.0,
    "ready_s": 4.0,
    "bytes": 10,
    "phases": [
        {"name": "import torch", "lane": "handler", "start_s": 0.5, "end_s": 2.25, "bytes": 0, "source": ""},
        {"name": "restore from bucket", "lane": "restore", "start_s": 0.1, "end_s": 1.1, "bytes": 10, "source": "bucket"},
    ],
}
JOB = {"id": "job-7", "input": {"input": "My secret words.", "voice": "anna"}}
SPOKEN = {"id": "job-7", "duration_s": 1.5, "format": "mp3", "voice": "anna", "timings_ms": {"synthesis": 812, "total": 921}}
REFUSED = {"error": "INVALID_REQUEST: secret: unknown field", "details": {"code": "INVALID_REQUEST"}}


@pytest.fixture
def collector(monkeypatch):
    with otlp_receiver() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield running


def traces(url: str) -> Traces:
    return Traces(Settings.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": url}), {"RUNPOD_POD_ID": "worker-1"})


def run(traced: Traces, result) -> object:
    """One job through the traced handler."""

    async def handle(_job):
        if isinstance(result, BaseException):
            raise result
        return result

    return asyncio.run(traced.of_jobs(handle)(JOB))


def test_a_boot_is_one_trace_with_a_span_for_each_phase(collector):
    sent = traces(collector.url)
    sent.boot(REPORT)
    sent.stop()
    boot, *phases = sorted(collector.spans(), key=lambda span: span.name != "boot")
    assert (boot.name, attributes(boot)) == ("boot", {"model": "demo", "bytes": 10})
    assert {span.name for span in phases} == {"import torch", "restore from bucket"}
    assert {(span.trace_id, span.parent_span_id) for span in phases} == {(boot.trace_id, boot.span_id)}
    torch = next(span for span in phases if span.name == "import torch")
    times_s = [torch.start_time_unix_nano / 1e9, torch.end_time_unix_nano / 1e9]
    assert times_s == pytest.approx([1_700_000_000.5, 1_700_000_002.25], rel=0, abs=1e-5)
    assert attributes(torch) == {"lane": "handler", "bytes": 0, "source": ""}
    about = attributes(collector.requests()[0].resource_spans[0].resource)
    assert (about["service.name"], about["service.instance.id"]) == ("f5-tts-worker", "worker-1")


def test_a_job_is_a_span_with_its_id_and_phases_and_no_word_of_it(collector):
    sent, before = traces(collector.url), time.time_ns()
    assert run(sent, SPOKEN) == SPOKEN
    sent.stop()
    [span] = collector.spans()
    assert attributes(span) == {"job.id": "job-7", "duration_s": 1.5, "format": "mp3", "synthesis_ms": 812, "total_ms": 921}
    assert before - 1_000_000 <= span.start_time_unix_nano <= span.end_time_unix_nano
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert not any(word in body for body in collector.bodies for word in (b"secret", b"anna"))


@pytest.mark.parametrize(("result", "code"), [(REFUSED, "INVALID_REQUEST"), (asyncio.CancelledError(), "CANCELLED")])
def test_a_job_that_failed_has_the_code_of_its_error_alone(collector, result, code):
    sent = traces(collector.url)
    if isinstance(result, BaseException):
        with pytest.raises(asyncio.CancelledError):
            run(sent, result)
    else:
        assert run(sent, result) == result
    sent.stop()
    [span] = collector.spans()
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, code)
    assert b"secret" not in collector.bodies[0]


def test_the_token_goes_to_the_collector(collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=abc")
    sent = traces(collector.url)
    sent.boot(REPORT)
    sent.stop()
    assert collector.headers[0]["x-token"] == "abc"


def test_a_collector_that_hangs_delays_neither_a_job_nor_the_end(collector, monkeypatch):
    collector.hang = threading.Event()
    monkeypatch.setattr(telemetry, "STOP_S", 0.1)
    sent = traces(collector.url)
    assert run(sent, SPOKEN) == SPOKEN  # would wait for ever
    sent.stop()
    collector.hang.set()
    until(collector.spans, 20, str)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_collector_that_refuses_or_is_dead_costs_its_spans_and_a_line(collector, monkeypatch, caplog, is_there):
    collector.fail_status = 400
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    if not is_there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", refused_url())
    sent = traces(collector.url)
    assert run(sent, SPOKEN) == SPOKEN
    sent.stop()
    assert collector.bodies == []
    assert [r.levelname for r in caplog.records if r.name.startswith("opentelemetry")] == ["ERROR"]


def test_what_comes_while_too_much_waits_is_dropped(monkeypatch):
    monkeypatch.setattr(telemetry, "WAITING_TRACES", 2)
    monkeypatch.setattr(telemetry, "_send", lambda *_: None)
    sent = traces(refused_url())
    for _ in range(5):
        assert run(sent, SPOKEN) == SPOKEN
    assert sent._waiting.qsize() == 2


def test_without_the_packages_there_are_no_traces_and_one_warning(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    sent = traces(refused_url())
    assert run(sent, SPOKEN) == SPOKEN
    sent.stop()
    assert [r.getMessage().partition(" error=")[0] for r in caplog.records] == ["telemetry outcome=off"]


def test_without_an_endpoint_nothing_is_imported_and_no_thread_runs():
    async def handle(_job):
        return {}

    off = Traces(Settings.from_env({}), {})
    off.boot(REPORT)
    off.stop()
    assert off.of_jobs(handle) is handle
    code = "import handler, sys; assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
