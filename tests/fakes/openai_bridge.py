"""RunPod's OpenAI route over real HTTP on loopback: what reaches a worker's queue from it, and what comes back.

    with OpenAIBridge(run) as bridge:
        client = openai.OpenAI(base_url=bridge.base_url, api_key="any")

`run(job_input)` gives the job's final status: {"status", "output", "error"}. `RunpodServer.run` is one, `in_process(handler)` another. How
the platform turns a failed job into an HTTP answer has not been seen: the bridge sends the job's output, OpenAI's error object, with
the status that OpenAI has for it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from f5_worker import openai_api

ROUTE = "/v2/f5-test/openai"
Run = Callable[[Any], dict[str, Any]]


class OpenAIBridge:
    """A context manager; `jobs` lists the input of every job that it made."""

    def __init__(self, run: Run) -> None:
        self.run, self.jobs = run, []
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}{ROUTE}/v1"


def in_process(handler: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> Run:
    """A queue of one job and the SDK's run_job around the handler: it takes `error` out of the result, which fails the job."""

    def run(job_input: Any) -> dict[str, Any]:
        output = asyncio.run(handler({"id": "job-1", "input": job_input}))
        json.dumps(output, allow_nan=False)
        failed = output.pop("error", None)
        assert isinstance(failed, str | None), "the platform takes no error but a string"
        return {"status": "FAILED", "error": failed, "output": output} if failed else {"status": "COMPLETED", "output": output}

    return run


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    owner: OpenAIBridge


class _Handler(BaseHTTPRequestHandler):
    server: _Http

    def do_GET(self) -> None:
        self._call(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.headers.get("Content-Type", "").startswith("application/json"):
            self._answer(415, {"error": {"message": "only JSON passes this route"}})
            return
        self._call(json.loads(body))

    def _call(self, body: Any) -> None:
        job_input = {"openai_route": self.path.removeprefix(ROUTE), "openai_input": body}
        self.server.owner.jobs.append(job_input)
        status = self.server.owner.run(job_input)
        if status["status"] == "COMPLETED":
            self._answer(200, status["output"])
        else:
            self._answer(openai_api.status(status["output"]), status["output"])

    def _answer(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: object) -> None:
        pass
