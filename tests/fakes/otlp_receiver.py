"""A collector of OpenTelemetry traces over real OTLP/HTTP on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """What arrived, and its fault knobs."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.fail_status: int | None = None
        self.hang: threading.Event | None = None  # answer only when it is set

    def requests(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]

    def spans(self) -> list[Any]:
        """Those of opentelemetry.proto.trace.v1, in the order of their arrival."""
        return [span for r in self.requests() for resource in r.resource_spans for scope in resource.scope_spans for span in scope.spans]


def attributes(described: Any) -> dict[str, Any]:
    """Of a span or a resource, as Python's values."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in described.attributes}


class _Handler(BaseHTTPRequestHandler):
    collector: Collector

    def do_POST(self) -> None:
        collector, body = self.collector, self.rfile.read(int(self.headers["Content-Length"]))
        if collector.hang:
            collector.hang.wait(60)
        if self.path == "/v1/traces" and not collector.fail_status:
            collector.bodies.append(body)
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(collector.fail_status or (200 if self.path == "/v1/traces" else 404))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def otlp_receiver() -> Iterator[Collector]:
    collector = Collector()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"collector": collector}))
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield collector
    finally:
        if collector.hang:
            collector.hang.set()
        server.shutdown()
        server.server_close()
