"""RunPod's side of a serverless endpoint over real HTTP on loopback: the worker's job API and the client's /v2 API.

    with RunpodServer() as server:
        worker = start_worker(env=server.worker_env())
        job_id = server.submit({"input": "Hello."})
        status = server.wait(job_id, timeout_s=60)     # {"id", "status", "output", "error", ...} as /status answers it

Fault knobs: `fail("take", status=429)`, `fail("done", status=500, times=2)`, `fail("done", drop=True)` (connection closed
without an answer). Calls: ping, take, stop, stream, done, progress, client.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}
API_KEY = "rpa_TESTKEY0123456789"


@dataclass
class Call:
    """One request as it arrived."""

    kind: str
    path: str
    query: dict[str, str]
    worker: str = ""
    job: str = ""
    body: Any = None
    at: float = field(default_factory=time.monotonic)


@dataclass
class Job:
    id: str
    payload: dict[str, Any]
    status: str = "IN_QUEUE"
    worker: str | None = None
    done: list[dict[str, Any]] = field(default_factory=list)  # every acknowledged DONE body
    parts: list[Any] = field(default_factory=list)
    read_parts: int = 0
    progress: list[Any] = field(default_factory=list)
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    ended: float | None = None

    def as_status(self) -> dict[str, Any]:
        """What GET /status/ID answers."""
        shown: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.started is not None:
            shown |= {"delayTime": round((self.started - self.submitted) * 1000), "workerId": self.worker}
        if self.ended is not None and self.started is not None:
            shown["executionTime"] = round((self.ended - self.started) * 1000)
        if self.done:
            shown |= {name: self.done[0][name] for name in ("output", "error") if name in self.done[0]}
        elif self.progress:
            shown["output"] = self.progress[-1]
        return shown


@dataclass
class _Fault:
    kind: str
    status: int
    drop: bool
    times: int


class RunpodServer:
    """One endpoint with any number of workers. Thread-safe; a context manager."""

    def __init__(self, *, endpoint_id: str = "f5-test", poll_s: float = 2.0) -> None:
        """poll_s: how long a take or a stop is held open. Production holds for longer; a SIGTERM waits for both."""
        self.endpoint_id, self.poll_s = endpoint_id, poll_s
        self.jobs: dict[str, Job] = {}
        self.calls: list[Call] = []
        self.workers: dict[str, int] = {}  # what /health says of the workers' states
        self.changed = threading.Condition()
        self._queue: list[str] = []
        self._stops: dict[str, list[str]] = {}  # worker -> job ids to stop
        self._faults: list[_Fault] = []
        self._released = 0  # polls that began before the last release end at once
        self._closing = False
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)

    # --- for tests ---

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def client_url(self) -> str:
        """RUNPOD_ENDPOINT_BASE_URL for the official client; its API key is API_KEY."""
        return f"{self.url}/v2"

    def takes_client(self, monkeypatch: Any) -> None:
        """Point the official client of this process at the server until the test ends."""
        import runpod

        monkeypatch.setattr(runpod, "endpoint_url_base", self.client_url)
        monkeypatch.setattr(runpod, "api_key", API_KEY)

    def worker_env(self, worker: str = "worker-1") -> dict[str, str]:
        """What the platform sets in a worker's container."""
        base = f"{self.url}/v2/{self.endpoint_id}"
        return {
            "RUNPOD_ENDPOINT_ID": self.endpoint_id,
            "RUNPOD_POD_ID": worker,
            "RUNPOD_AI_API_KEY": API_KEY,
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=NONE",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=NONE",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=NONE",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=NONE",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    def submit(self, job_input: Any, **extras: Any) -> str:
        job = Job(f"{uuid.uuid4()}-u1", {"input": job_input, **extras})
        with self.changed:
            self.jobs[job.id] = job
            self._queue.append(job.id)
            self.changed.notify_all()
        return job.id

    def wait(self, job_id: str, timeout_s: float) -> dict[str, Any]:
        """The job's final status; TimeoutError when it has none by then."""
        return self._until(lambda: self.jobs[job_id].as_status() if self.jobs[job_id].status in FINAL else None, timeout_s, job_id)

    def wait_in_progress(self, job_id: str, timeout_s: float) -> None:
        self._until(lambda: self.jobs[job_id].status != "IN_QUEUE" or None, timeout_s, job_id)

    def wait_call(self, kind: str, timeout_s: float, *, after: int = 0) -> Call:
        """The first call of a kind whose place in `calls` is not before `after`."""
        return self._until(lambda: next((c for c in self.calls[after:] if c.kind == kind), None), timeout_s, kind)

    def run(self, job_input: Any, timeout_s: float = 60) -> dict[str, Any]:
        return self.wait(self.submit(job_input), timeout_s)

    def cancel(self, job_id: str) -> None:
        """What POST /cancel does: a queued job never starts, a running one is named on its worker's stop channel."""
        with self.changed:
            job = self.jobs[job_id]
            if job.status == "IN_QUEUE":
                self._queue.remove(job_id)
            elif job.status == "IN_PROGRESS":
                self._stops.setdefault(job.worker or "", []).append(job_id)
            if job.status not in FINAL:
                job.status, job.ended = "CANCELLED", time.monotonic()
            self.changed.notify_all()

    def requeue(self, job_id: str) -> None:
        """What the platform does with the job of a worker that died."""
        with self.changed:
            self.jobs[job_id].status = "IN_QUEUE"
            self._queue.append(job_id)
            self.changed.notify_all()

    def release_polls(self) -> None:
        """End every open long poll now, as at the end of its time."""
        with self.changed:
            self._released += 1
            self.changed.notify_all()

    def fail(self, kind: str, *, status: int = 500, drop: bool = False, times: int = 1) -> None:
        """The next calls of a kind answer with a status, or with nothing at all."""
        with self.changed:
            self._faults.append(_Fault(kind, status, drop, times))

    @property
    def pings(self) -> list[Call]:
        return [call for call in list(self.calls) if call.kind == "ping"]

    def _until(self, found: Any, timeout_s: float, what: str) -> Any:
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while (value := found()) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{what}: nothing after {timeout_s} s")
                self.changed.wait(left)
        return value

    # --- for the HTTP side ---

    def record(self, call: Call) -> _Fault | None:
        with self.changed:
            self.calls.append(call)
            self.changed.notify_all()
            fault = next((f for f in self._faults if f.kind == call.kind and f.times > 0), None)
            if fault:
                fault.times -= 1
            return fault

    def take(self, worker: str, count: int, connection: socket.socket) -> list[dict[str, Any]]:
        """Up to count jobs; held open while there is none. A worker that has hung up gets nothing, so nothing is lost."""

        def waiting() -> list[dict[str, Any]]:
            if not self._queue or _hung_up(connection):
                return []
            ids, self._queue[:count] = self._queue[:count], []
            for job_id in ids:
                job = self.jobs[job_id]
                job.status, job.worker, job.started = "IN_PROGRESS", worker, time.monotonic()
            return [{"id": job_id, **self.jobs[job_id].payload} for job_id in ids]

        return self._poll(waiting)

    def stops(self, worker: str, connection: socket.socket) -> list[str]:
        return self._poll(lambda: [] if _hung_up(connection) else self._stops.pop(worker, []))

    def _poll(self, waiting: Any) -> list[Any]:
        with self.changed:
            born, deadline = self._released, time.monotonic() + self.poll_s
            while not (found := waiting()) and born == self._released and not self._closing:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self.changed.wait(left)
            self.changed.notify_all()
            return found

    def finish(self, job_id: str, body: dict[str, Any]) -> None:
        with self.changed:
            job = self.jobs[job_id]
            if body.get("status") == "IN_PROGRESS":  # the SDK's progress_update shares the URL and may come after the end
                job.progress.append(body.get("output"))
            else:
                job.done.append(body)
                if job.status not in FINAL:
                    job.status, job.ended = ("FAILED" if "error" in body else "COMPLETED"), time.monotonic()
            self.changed.notify_all()

    def add_part(self, job_id: str, body: dict[str, Any]) -> None:
        with self.changed:
            self.jobs[job_id].parts.append(body.get("output"))
            self.changed.notify_all()

    def purge(self) -> int:
        with self.changed:
            removed = list(self._queue)
        for job_id in removed:
            self.cancel(job_id)
        return len(removed)


def _hung_up(connection: socket.socket) -> bool:
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    owner: RunpodServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_GET(self) -> None:
        self._route(None)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        # The SDK labels its JSON as a form; the official client posts `null` to cancel.
        self._route(json.loads(raw.decode("utf-8")) if raw else None)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # a worker was killed
            self.close_connection = True

    def _route(self, body: Any) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match url.path.strip("/").split("/"):
            case ["v2", self.server.owner.endpoint_id, "ping", worker]:
                self._worker(Call("ping", url.path, query, worker), lambda _: (200, {}))
            case ["v2", self.server.owner.endpoint_id, "job-take" | "job-take-batch" as verb, worker]:
                self._worker(Call("take", url.path, query, worker), lambda c: self._take(c, batch=verb == "job-take-batch"))
            case ["v2", self.server.owner.endpoint_id, "job-stop", worker]:
                self._worker(Call("stop", url.path, query, worker), self._stop)
            case ["v2", self.server.owner.endpoint_id, "job-stream", worker, job]:
                self._worker(Call("stream", url.path, query, worker, job, body), self._part)
            case ["v2", self.server.owner.endpoint_id, "job-done", worker, job]:
                kind = "progress" if isinstance(body, dict) and body.get("status") == "IN_PROGRESS" else "done"
                self._worker(Call(kind, url.path, query, worker, job, body), self._done)
            case ["v2", self.server.owner.endpoint_id, verb, *job]:
                self._client(Call("client", url.path, query, job="".join(job), body=body), verb)
            case _:
                self._send(404, {"error": "no such path"})

    def _worker(self, call: Call, answer: Any) -> None:
        if self.headers.get("Authorization") != API_KEY:  # the raw key, no "Bearer"
            return self._send(401, {"error": "bad key"})
        fault = self.server.owner.record(call)
        if fault and fault.drop:
            self.close_connection = True
            return None
        if fault:
            return self._send(fault.status, {"error": "injected"})
        return self._send(*answer(call))

    def _take(self, call: Call, *, batch: bool) -> tuple[int, Any]:
        count = int(call.query.get("batch_size", "1")) if batch else 1
        jobs = self.server.owner.take(call.worker, count, self.connection)
        return (200, jobs if batch else jobs[0]) if jobs else (204, None)

    def _stop(self, call: Call) -> tuple[int, Any]:
        ids = self.server.owner.stops(call.worker, self.connection)
        return (200, {"jobsToStop": ids}) if ids else (204, None)

    def _part(self, call: Call) -> tuple[int, Any]:
        self.server.owner.add_part(call.job, call.body)
        return 200, {}

    def _done(self, call: Call) -> tuple[int, Any]:
        self.server.owner.finish(call.job, call.body)
        return 200, {}

    def _client(self, call: Call, verb: str) -> None:
        if self.headers.get("Authorization") != f"Bearer {API_KEY}":
            return self._send(401, {"error": "bad key"})
        owner = self.server.owner
        fault = owner.record(call)
        if fault and fault.drop:
            self.close_connection = True
            return None
        if fault:
            return self._send(fault.status, {"error": "injected"})
        if verb in {"run", "runsync"}:
            job_id = owner.submit(**({"job_input": call.body["input"]} | {k: v for k, v in call.body.items() if k != "input"}))
            return self._send(200, owner.wait(job_id, 90) if verb == "runsync" else {"id": job_id, "status": "IN_QUEUE"})
        if verb == "purge-queue":
            return self._send(200, {"removed": owner.purge(), "status": "completed"})
        if verb == "health":
            states = [job.status for job in owner.jobs.values()]
            counts = {"inQueue": states.count("IN_QUEUE"), "inProgress": states.count("IN_PROGRESS")}
            return self._send(200, {"jobs": counts, "workers": owner.workers})
        job = owner.jobs.get(call.job)
        if job is None or verb not in {"status", "cancel", "stream"}:
            return self._send(404, {"error": "no such job"})
        if verb == "cancel":
            owner.cancel(job.id)
        if verb == "stream":
            parts, job.read_parts = job.parts[job.read_parts :], len(job.parts)
            return self._send(200, {"status": job.status, "stream": [{"output": part} for part in parts]})
        return self._send(200, job.as_status())

    def _send(self, status: int, body: Any) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: Any) -> None:
        pass
