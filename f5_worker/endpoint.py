"""An endpoint as its client sees it: RunPod's through the official client, or the local API of `python handler.py --rp_serve_api`.

The operator commands alone import this module, and it alone imports the official client: see
docs/decisions/0013-operator-commands-use-the-official-client.md.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

from f5_worker.endpoint_errors import EndpointError, EndpointNotFound, EndpointUnauthorized, EndpointUnhealthy, EndpointUnreachable
from f5_worker.errors import SettingsError

FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}
IN_FLIGHT = 32  # jobs that wait or run at once: enough for the platform to start workers by, few enough to ask after each
START_TIMEOUT_S = 900.0  # the platform itself gives a worker 7 minutes to boot, after its image is pulled
UNHEALTHY_S = 60.0  # with unhealthy workers alone: one may yet be replaced
TROUBLE_S = 60.0  # of network trouble that is sat out
HEALTH_EVERY_S = 5.0
_POLL_S = (0.1, 2.0)  # the first pause between two looks, the longest one
_LOCAL_TIMEOUT_S = 3600.0  # /runsync answers when the job is done
_ALIVE = ("idle", "ready", "running", "initializing")
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")

JobInput = Mapping[str, Any]
Status = dict[str, Any]  # {"id", "status", "output", "error", "workerId", …} as /status answers it
T = TypeVar("T")


class Endpoint(Protocol):
    """Where jobs are sent. All methods raise EndpointError."""

    name: str

    def submit(self, job_input: JobInput) -> str: ...
    def status(self, job_id: str) -> Status: ...
    def cancel(self, job_id: str) -> None: ...
    def workers(self) -> dict[str, int]: ...


class RunpodEndpoint:
    """An endpoint by its id. The key is RUNPOD_API_KEY or that of `runpod config`; RUNPOD_ENDPOINT_BASE_URL is another platform."""

    def __init__(self, endpoint_id: str, *, trouble_s: float = TROUBLE_S) -> None:
        os.environ["RUNPOD_LOG_LEVEL"] = "ERROR"  # read at import, where a value that the SDK does not know is a traceback
        import runpod  # noqa: PLC0415 - 1.5 s that only those pay who talk to an endpoint
        from requests.adapters import HTTPAdapter  # noqa: PLC0415

        if not _ID.fullmatch(endpoint_id):
            raise EndpointNotFound(f"{endpoint_id!r} is no endpoint's id: copy it from RunPod's console")
        self.name, self._trouble_s = endpoint_id, trouble_s
        with _translated(endpoint_id):
            # The SDK itself looks for a key in ~/.runpod/config.toml alone.
            self._sdk = runpod.Endpoint(endpoint_id, api_key=os.environ.get("RUNPOD_API_KEY", "").strip() or None)
        self._http = self._sdk.rp_client
        for scheme in ("http://", "https://"):  # the SDK retries on http alone; here _asked does on both
            self._http.rp_session.mount(scheme, HTTPAdapter(max_retries=0))
        self._jobs: dict[str, Any] = {}

    def submit(self, job_input: JobInput) -> str:
        """Queue a job; its id. A job whose acknowledgement was lost is sent again and then runs twice."""
        job = self._asked(lambda: self._sdk.run({"input": job_input}))  # without the outer object the SDK takes our `input` for its own
        self._jobs[job.job_id] = job
        return str(job.job_id)

    def status(self, job_id: str) -> Status:
        found: Status = self._asked(lambda: self._http.get(f"{self.name}/status/{job_id}"))
        return found

    def cancel(self, job_id: str) -> None:
        with _translated(self.name):
            self._jobs[job_id].cancel()

    def parts(self, job_id: str) -> list[Any]:
        """The parts of a streamed job that have come since the last call."""
        return self._asked(lambda: [part["output"] for part in self._http.get(f"{self.name}/stream/{job_id}")["stream"]])

    def workers(self) -> dict[str, int]:
        """How many workers are in which state, as /health tells it."""
        found: dict[str, int] = self._asked(lambda: self._sdk.health(timeout=10)).get("workers", {})
        return found

    def _asked(self, call: Callable[[], T]) -> T:
        """What the call gives; network trouble is sat out for some time."""
        deadline, pause_s = time.monotonic() + self._trouble_s, 0.5
        while True:
            try:
                with _translated(self.name):
                    return call()
            except EndpointUnreachable:
                if time.monotonic() + pause_s > deadline:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 8.0)


@contextmanager
def _translated(endpoint_id: str) -> Iterator[None]:
    """The official client's errors as ours."""
    import requests  # noqa: PLC0415

    try:
        yield
    except requests.HTTPError as exc:
        raise _refused(endpoint_id, exc.response.status_code if exc.response is not None else 0) from exc
    except requests.RequestException as exc:
        raise EndpointUnreachable(f"RunPod does not answer ({type(exc).__name__}): check the network and try again") from exc
    except RuntimeError as exc:  # what the SDK makes of a 401 and of no key at all
        raise EndpointUnauthorized("RunPod refuses the API key, or there is none: set RUNPOD_API_KEY") from exc
    except KeyError as exc:
        raise EndpointError(f"endpoint {endpoint_id}: the answer has no {exc}") from exc


def _refused(endpoint_id: str, status: int) -> EndpointError:
    if status in {401, 403}:
        return EndpointUnauthorized(f"the API key may not use endpoint {endpoint_id}: set RUNPOD_API_KEY to a key of its account")
    if status == 404:
        return EndpointNotFound(f"RunPod has no endpoint {endpoint_id}, or has forgotten the job (after 30 minutes): check the id")
    if status in {408, 429} or status >= 500:
        return EndpointUnreachable(f"RunPod answered {status} several times: try again later")
    return EndpointError(f"RunPod answered {status}: the request may be too large (10 MB at most)")


class LocalApi:
    """The job API of `python handler.py --rp_serve_api`, whose /run only stores a job: each is one call of /runsync in a thread.

    It cannot cancel: what was sent is spoken to its end.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise SettingsError(f"--local {url}: must be the address of the local API, such as http://127.0.0.1:8000")
        self.name = url.rstrip("/")
        self._answers: dict[str, Status | EndpointError] = {}
        self._sent = 0

    def submit(self, job_input: JobInput) -> str:
        self._sent += 1
        job_id = f"local-{self._sent}"
        threading.Thread(target=self._run, args=(job_id, json.dumps({"input": job_input}).encode()), daemon=True).start()
        return job_id

    def status(self, job_id: str) -> Status:
        answer = self._answers.get(job_id, {"status": "IN_PROGRESS"})
        if isinstance(answer, EndpointError):
            raise answer
        return answer

    def cancel(self, job_id: str) -> None:
        self._answers.pop(job_id, None)

    def workers(self) -> dict[str, int]:
        return {}

    def _run(self, job_id: str, body: bytes) -> None:
        request = urllib.request.Request(f"{self.name}/runsync", body, {"Content-Type": "application/json"})  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=_LOCAL_TIMEOUT_S) as response:  # noqa: S310
                self._answers[job_id] = json.loads(response.read())
        except urllib.error.HTTPError as exc:
            self._answers[job_id] = EndpointError(f"{self.name} answered {exc.code}: is it `python handler.py --rp_serve_api`?")
        except (OSError, ValueError) as exc:
            hint = "start it with `python handler.py --rp_serve_api` and wait until it serves"
            self._answers[job_id] = EndpointUnreachable(f"{self.name} does not answer ({type(exc).__name__}): {hint}")


def run(
    endpoint: Endpoint,
    inputs: Mapping[str, JobInput],
    *,
    on_status: Callable[[str, Status], object] = lambda _name, _status: None,
    on_workers: Callable[[Mapping[str, int]], object] = lambda _workers: None,
    start_timeout_s: float = START_TIMEOUT_S,
    unhealthy_s: float = UNHEALTHY_S,
) -> Iterator[tuple[str, Status]]:
    """Send every job, and give the final status of each, by its name, when it has one.

    However the iteration ends, also by Ctrl-C, jobs that have not ended are cancelled.

    Args:
        on_status: Gets every other status.
        on_workers: Gets the states of the workers while nothing has begun.
    Raises:
        EndpointUnhealthy: no worker began a job within start_timeout_s, or for unhealthy_s there were unhealthy workers alone.
        EndpointError: as the endpoint.
    """
    waiting, running = list(inputs.items()), dict[str, str]()
    patience = _Patience(endpoint, start_timeout_s, unhealthy_s, on_workers)
    pause_s = _POLL_S[0]
    try:
        while waiting or running:
            while waiting and len(running) < IN_FLIGHT:
                name, job_input = waiting.pop(0)
                running[name] = endpoint.submit(job_input)
            begun = False
            for name, job_id in list(running.items()):
                status = endpoint.status(job_id)
                begun = begun or status.get("status") != "IN_QUEUE"
                if status.get("status") in FINAL:
                    del running[name]
                    pause_s = _POLL_S[0]
                    yield name, status
                else:
                    on_status(name, status)
            if running:
                patience.look(begun=begun)
                time.sleep(pause_s)
                pause_s = min(1.3 * pause_s, _POLL_S[1])
    finally:
        for job_id in running.values():
            with suppress(EndpointError):
                endpoint.cancel(job_id)


class _Patience:
    """How long jobs may lie in the queue."""

    def __init__(self, endpoint: Endpoint, start_s: float, unhealthy_s: float, on_workers: Callable[[Mapping[str, int]], object]) -> None:
        self._endpoint, self._start_s, self._unhealthy_s, self._on_workers = endpoint, start_s, unhealthy_s, on_workers
        self._moved = self._alive = time.monotonic()
        self._asked: float | None = None

    def look(self, *, begun: bool) -> None:
        """Raises EndpointUnhealthy when there is no hope left."""
        now = time.monotonic()
        if begun:
            self._moved = self._alive = now
            return
        if self._asked is not None and now - self._asked < min(HEALTH_EVERY_S, self._unhealthy_s / 2, self._start_s / 2):
            return
        self._asked, workers = now, self._endpoint.workers()
        self._on_workers(workers)
        shown = ", ".join(f"{count} {state}" for state, count in workers.items() if count) or "none"
        if not workers.get("unhealthy") or any(workers.get(state) for state in _ALIVE):
            self._alive = now
        if now - self._alive > self._unhealthy_s:
            raise EndpointUnhealthy(
                f"the workers of {self._endpoint.name} do not get healthy ({shown}): read their log in RunPod's console"
            )
        if now - self._moved > self._start_s:
            raise EndpointUnhealthy(
                f"no worker of {self._endpoint.name} took a job in {self._start_s:.0f} s (workers: {shown}): "
                "check its highest number of workers, that its GPUs are to be had, and the workers' log"
            )
