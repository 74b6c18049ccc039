"""Optional OpenTelemetry traces over OTLP/HTTP: one of the boot with a span for each phase, and one for each job.

Nothing is imported, and no thread runs, unless OTEL_EXPORTER_OTLP_ENDPOINT is set. The spans are made in a thread of their own, of times
that the worker takes anyway. A collector that is slow, dead or refuses costs spans and lines in the log, never a job.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from f5_worker import __version__
from f5_worker.settings import Settings

log = logging.getLogger(__name__)

WAITING_TRACES = 1_000  # what comes while so many wait is dropped
STOP_S = 3.0  # of the ten or so that a container has after SIGTERM
Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Span(NamedTuple):
    """Unix seconds; `failed` is an error's code."""

    name: str
    start_s: float
    end_s: float
    attributes: Mapping[str, str | int | float | bool]
    failed: str = ""


class Traces:
    """Sends in the background what it is given; without an endpoint it takes nothing."""

    def __init__(self, settings: Settings, env: Mapping[str, str]) -> None:
        self._waiting = queue.Queue[list[Span] | None](WAITING_TRACES)
        self._thread: threading.Thread | None = None
        if settings.otlp_endpoint:
            about = {"service.name": env.get("OTEL_SERVICE_NAME") or "f5-tts-worker", "service.version": __version__}
            about |= {"service.instance.id": env.get("RUNPOD_POD_ID", ""), "runpod.endpoint.id": env.get("RUNPOD_ENDPOINT_ID", "")}
            self._thread = threading.Thread(target=_send, args=(self._waiting, about), name="telemetry", daemon=True)
            self._thread.start()

    def boot(self, report: Mapping[str, Any]) -> None:
        """Trace a boot, given its report."""
        zero_s, about = report["started_unix_s"], {"model": report["model"], "bytes": report["bytes"]}
        phases = (
            Span(p["name"], zero_s + p["start_s"], zero_s + p["end_s"], {name: p[name] for name in ("lane", "bytes", "source")})
            for p in report["phases"]
        )
        self._add([Span("boot", zero_s, zero_s + report["ready_s"], about), *phases])

    def of_jobs(self, handle: Handler) -> Handler:
        """The handler, each of whose jobs is traced. No word of a request is in a span, and of an error its code alone."""
        if self._thread is None:
            return handle

        async def traced(job: dict[str, Any]) -> dict[str, Any]:
            start_s, result = time.time(), dict[str, Any](error="CANCELLED")
            try:
                result = await handle(job)
            finally:
                about: dict[str, Any] = {"job.id": str(job.get("id", ""))}
                about |= {name: result[name] for name in ("duration_s", "size_bytes", "format", "cold_start") if name in result}
                about |= {f"{phase}_ms": ms for phase, ms in result.get("timings_ms", {}).items()}
                self._add([Span("job", start_s, time.time(), about, failed=str(result.get("error", "")).partition(":")[0])])
            return result

        return traced

    def stop(self) -> None:
        """Send what waits, for STOP_S at most."""
        if self._thread is not None:
            self._add(None)
            self._thread.join(STOP_S)

    def _add(self, trace: list[Span] | None) -> None:
        if self._thread is not None:
            with suppress(queue.Full):
                self._waiting.put_nowait(trace)


def _send(waiting: queue.Queue[list[Span] | None], about: Mapping[str, str]) -> None:
    """The thread: give every trace, whose first span is the parent of the others, to the official SDK until None comes."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - 0.3 s, for those who ask
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace import StatusCode, set_span_in_context  # noqa: PLC0415

        provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except (ImportError, ValueError, OSError) as exc:  # not installed; another OTEL_ variable is wrong, or the file that it names
        log.warning("telemetry outcome=off error=%r effect='no traces are sent'", str(exc))
        return
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # one line for what is lost, none for each try
    tracer = provider.get_tracer("f5_worker", __version__)
    for trace in iter(waiting.get, None):
        parent = None
        for span in trace:
            made = tracer.start_span(span.name, parent, attributes=span.attributes, start_time=round(span.start_s * 1e9))
            parent = parent or set_span_in_context(made)
            if span.failed:
                made.set_status(StatusCode.ERROR, span.failed)
            made.end(round(span.end_s * 1e9))
    provider.shutdown()
