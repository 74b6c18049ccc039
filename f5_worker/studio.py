"""`python -m f5_worker studio`: a page to listen with, for an endpoint or for the local job API.

The page is studio.html, one file that loads nothing from elsewhere. Its jobs go through f5_worker/endpoint.py, as those of `say` do; the
API key stays in this process. Only this machine is served, and only the page itself: what the script of another site sends is refused by
its Origin, and by its Host when that site has bent its own name to 127.0.0.1.

Exit codes: 2 the options are wrong, 3 the endpoint is, 130 Ctrl-C (jobs that ran are cancelled).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from f5_worker import results
from f5_worker.endpoint import FINAL, Endpoint, Status
from f5_worker.endpoint_errors import EndpointError, EndpointNotFound
from f5_worker.errors import RequestError, SettingsError, WorkerError
from f5_worker.say import chosen, exits, stop

PORT = 8600
MAX_REQUEST_BYTES = 15_000_000  # a recording of 10 MB in base64, and the texts
TROUBLE_S = 5.0  # of network trouble that is sat out: somebody looks at the page
_PAGE = Path(__file__).with_name("studio.html")
_Content = tuple[str, bytes]  # content type, body


def command(
    *,
    endpoint: Annotated[str | None, typer.Option(help="Id of a RunPod endpoint; the key is RUNPOD_API_KEY.")] = None,
    local: Annotated[str | None, typer.Option(help="Address of `python handler.py --rp_serve_api`: http://127.0.0.1:8000.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: any that is free.")] = PORT,
) -> None:
    """Serve a page to listen with, on this machine alone, until Ctrl-C. Exit code 2: options, 3: endpoint."""
    signal.signal(signal.SIGTERM, stop)
    with exits(Console(stderr=True)):
        serve(chosen(endpoint, local, trouble_s=TROUBLE_S), port)


def serve(endpoint: Endpoint, port: int, *, note: str = "") -> None:
    """Serve the page until KeyboardInterrupt.

    Args:
        port: 0: any that is free; the address is printed.
        note: Shown on top of the page.
    Raises:
        SettingsError: the port cannot be had.
    """
    with Studio(endpoint, port, note=note) as studio:
        sys.stdout.write(f"studio: {studio.url} (Ctrl-C ends it)\n")
        sys.stdout.flush()
        studio.serve_forever()


def check_port(port: int) -> None:
    """Before what takes long. Raises SettingsError: the port cannot be had."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise SettingsError(_cannot_listen(port, exc)) from exc


def _cannot_listen(port: int, exc: OSError) -> str:
    return f"--port {port}: {exc.strerror}: choose another, or 0 for any that is free"


class Studio(ThreadingHTTPServer):
    """The page's server, and the jobs that the page has sent. When it is closed, those that have not ended are cancelled."""

    daemon_threads = True

    def __init__(self, endpoint: Endpoint, port: int, *, note: str = "") -> None:
        self.about = {"endpoint": endpoint.name, "note": note}
        self.page = _PAGE.read_bytes()
        self.policy = _policy(self.page)
        self._endpoint = endpoint
        self._ended: dict[str, bool] = {}
        self._lock = threading.Lock()  # an endpoint is no object for several threads
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as exc:
            raise SettingsError(_cannot_listen(port, exc)) from exc
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def submit(self, job_input: dict[str, Any]) -> str:
        with self._lock:
            job_id = self._endpoint.submit(job_input)
            self._ended[job_id] = False
        return job_id

    def status(self, job_id: str) -> Status:
        """As the endpoint. Raises EndpointNotFound for a job that is none of this page's."""
        self._check(job_id)
        with self._lock:
            status = self._endpoint.status(job_id)
        self._ended[job_id] = status.get("status") in FINAL
        return status

    def cancel(self, job_id: str) -> None:
        self._check(job_id)
        with self._lock:
            self._endpoint.cancel(job_id)
        self._ended[job_id] = True

    def workers(self) -> dict[str, int]:
        with self._lock:
            return self._endpoint.workers()

    def file(self, job_id: str, name: str) -> bytes:
        """The audio of a job or, by its format, a file of subtitles. The page cannot fetch them: buckets answer no script of its origin."""
        result = results.result_of(self.status(job_id))
        if name == "audio":
            return results.file_of(result.get("audio", {}), sha256=result.get("sha256"))
        return results.file_of(result.get("subtitles", {}).get(name, {}))

    def server_close(self) -> None:
        super().server_close()
        with self._lock:  # also what is being sent now
            for job_id in (job_id for job_id, ended in list(self._ended.items()) if not ended):
                with suppress(EndpointError):
                    self._endpoint.cancel(job_id)

    def _check(self, job_id: str) -> None:
        if job_id not in self._ended:
            raise EndpointNotFound("the studio was started again and does not know the job: send it again")


def _policy(page: bytes) -> str:
    """Content-Security-Policy: the page's own script and style alone, which speak to this server alone."""

    def source(tag: bytes) -> str:
        inner = page.partition(b"<%s>" % tag)[2].partition(b"</%s>" % tag)[0]
        return f"'sha256-{base64.b64encode(hashlib.sha256(inner).digest()).decode()}'"

    rules = ["default-src 'none'", f"script-src {source(b'script')}", f"style-src {source(b'style')}", "connect-src 'self'"]
    return "; ".join([*rules, "media-src blob:", "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])


class _Refused(RequestError):
    """What is wrong with the HTTP request itself."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: Studio

    def handle(self) -> None:
        with suppress(ConnectionError):  # the browser has left
            super().handle()

    def do_GET(self) -> None:
        self._answer(self._got)

    def do_POST(self) -> None:
        self._answer(self._posted)

    def log_message(self, *_args: object) -> None:
        """Nothing: a page that polls would bury the worker's log."""

    def _answer(self, routed: Callable[..., _Content]) -> None:
        try:
            self._check_sender()
            self._send(HTTPStatus.OK, *routed(*self.path.strip("/").split("/")))
        except WorkerError as exc:
            status = exc.status if isinstance(exc, _Refused) else HTTPStatus.BAD_GATEWAY
            self._send(status, *_json({"error": str(exc)}))

    def _check_sender(self) -> None:
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host not in self.server.hosts or origin not in {None, f"http://{host}"}:
            raise _Refused(HTTPStatus.FORBIDDEN, f"only the page at {self.server.url} is answered")

    def _got(self, *path: str) -> _Content:
        match path:
            case ("",):
                return "text/html; charset=utf-8", self.server.page
            case ("about",):
                return _json(self.server.about)
            case ("workers",):
                return _json(self.server.workers())
            case ("jobs", job_id):
                return _json(self.server.status(job_id))
            case ("jobs", job_id, name):
                return "application/octet-stream", self.server.file(job_id, name)
        raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _posted(self, *path: str) -> _Content:
        match path:
            case ("jobs",):
                return _json({"id": self.server.submit(self._job_input())})
            case ("jobs", job_id, "cancel"):
                self._body()
                self.server.cancel(job_id)
                return _json({})
        raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _job_input(self) -> dict[str, Any]:
        try:
            job_input = json.loads(self._body())
        except (ValueError, RecursionError) as exc:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"the job is not JSON ({type(exc).__name__})") from exc
        if not isinstance(job_input, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the job must be an object, what stands in a job's 'input'")
        return job_input

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,12}", length):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "the request has no Content-Length")
        if int(length) > MAX_REQUEST_BYTES:
            limit = MAX_REQUEST_BYTES // 1_000_000
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has over {limit} MB: send a few seconds of speech")
        return self.rfile.read(int(length))

    def _send(self, status: HTTPStatus, kind: str, data: bytes) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        headers |= {"Content-Security-Policy": self.server.policy, "Cross-Origin-Resource-Policy": "same-origin"}
        if status != HTTPStatus.OK:
            headers["Connection"] = "close"  # a body may be left unread
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _json(body: object) -> _Content:
    return "application/json", json.dumps(body).encode()
