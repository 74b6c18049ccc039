"""The studio's server before a job server without workers: what is forwarded, what is refused, and how failures reach the page."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

import tests.studio
from f5_worker import cli
from f5_worker.endpoint import LocalApi, RunpodEndpoint
from f5_worker.studio import MAX_REQUEST_BYTES, Studio
from tests.fakes.runpod_server import API_KEY, RunpodServer
from tests.worker_process import until

ENDED_S = 30


@pytest.fixture
def platform(monkeypatch):
    with RunpodServer(poll_s=0.1) as running:
        running.takes_client(monkeypatch)
        yield running


@contextmanager
def served(endpoint, **options):
    with Studio(endpoint, 0, **options) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join(10)


@pytest.fixture
def studio(platform):
    with served(RunpodEndpoint("f5-test", trouble_s=0.1), note="a note") as running:
        yield running


class Answer:
    def __init__(self, studio, path, body=None, *, headers=None, method=None):
        connection = http.client.HTTPConnection("127.0.0.1", studio.server_port, timeout=10)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, data, headers or {})
        response = connection.getresponse()
        self.status, self.headers, self.data = response.status, response.headers, response.read()
        connection.close()

    @property
    def json(self):
        return json.loads(self.data)


def sent(studio, job_input):
    return Answer(studio, "/jobs", job_input).json["id"]


def delivered(data):
    return {"base64": base64.b64encode(data).decode()}


# --- the page ---


def test_the_page_loads_nothing_from_elsewhere_and_may_not(studio):
    answer = Answer(studio, "/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert not re.search(rb"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", answer.data)
    policy = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
    assert (policy["default-src"], policy["connect-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    script = re.search(rb"<script>(.*)</script>", answer.data, re.DOTALL)[1]
    assert policy["script-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"


def test_the_page_is_told_the_endpoint_and_the_note(studio):
    assert Answer(studio, "/about").json == {"endpoint": "f5-test", "note": "a note"}


def test_the_key_is_never_sent_to_the_page(studio, platform):
    job_id = sent(studio, {"input": "Hello."})
    paths = ["/", "/about", "/workers", f"/jobs/{job_id}", f"/jobs/{job_id}/audio", "/nothing"]
    assert platform.calls  # all of which had the key, or they would have been refused
    for answer in [Answer(studio, path) for path in paths]:
        assert API_KEY not in answer.data.decode() + str(answer.headers)


# --- jobs ---


def test_a_job_is_forwarded_as_it_is_and_its_status_comes_back(studio, platform):
    job_input = {"input": "Hello.", "voice": "anna", "speed": 1.5}
    job_id = sent(studio, job_input)
    assert platform.jobs[job_id].payload == {"input": job_input}
    assert Answer(studio, f"/jobs/{job_id}").json["status"] == "IN_QUEUE"
    platform.finish(job_id, {"output": {"seed": 5}})
    assert Answer(studio, f"/jobs/{job_id}").json == {"id": job_id, "status": "COMPLETED", "output": {"seed": 5}}


def test_a_failed_job_comes_back_with_its_own_code(studio, platform):
    job_id = sent(studio, {"input": ""})
    platform.finish(job_id, {"error": "TEXT_EMPTY: no text", "output": {"details": {"code": "TEXT_EMPTY"}}})
    answer = Answer(studio, f"/jobs/{job_id}")
    assert (answer.status, answer.json["status"], answer.json["error"]) == (200, "FAILED", "TEXT_EMPTY: no text")


def test_files_of_a_job_are_fetched_for_the_page_inline_and_by_url(studio, platform):
    job_id = sent(studio, {"input": "Hello."})
    page = {"url": studio.url}  # any file behind a URL
    subtitles = {"srt": delivered(b"1\n"), "vtt": page}
    platform.finish(job_id, {"output": {"audio": page, "sha256": hashlib.sha256(studio.page).hexdigest(), "subtitles": subtitles}})
    assert Answer(studio, f"/jobs/{job_id}/audio").data == studio.page
    assert Answer(studio, f"/jobs/{job_id}/srt").data == b"1\n"
    assert Answer(studio, f"/jobs/{job_id}/vtt").data == studio.page
    assert Answer(studio, f"/jobs/{job_id}/srt").headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("output", "name", "code"),
    [
        ({"audio": delivered(b"x"), "sha256": "0" * 64}, "audio", "ENDPOINT_UNREACHABLE"),
        ({"audio": delivered(b"x")}, "srt", "ENDPOINT_OUTDATED"),
        ("text", "audio", "ENDPOINT_OUTDATED"),
    ],
)
def test_a_file_that_is_damaged_or_not_there_is_a_coded_error(studio, platform, output, name, code):
    job_id = sent(studio, {"input": "Hello."})
    platform.finish(job_id, {"output": output})
    answer = Answer(studio, f"/jobs/{job_id}/{name}")
    assert (answer.status, answer.json["error"].partition(":")[0]) == (502, code)


def test_a_cancelled_job_is_cancelled_on_the_endpoint(studio, platform):
    job_id = sent(studio, {"input": "Hello."})
    assert Answer(studio, f"/jobs/{job_id}/cancel", {}).status == 200
    assert platform.jobs[job_id].status == "CANCELLED"


def test_the_end_of_the_studio_cancels_what_has_not_ended_and_nothing_else(platform):
    with served(RunpodEndpoint("f5-test", trouble_s=0.1)) as studio:
        ended, waiting = sent(studio, {"input": "a"}), sent(studio, {"input": "b"})
        platform.finish(ended, {"output": {}})
        Answer(studio, f"/jobs/{ended}")
    assert (platform.jobs[ended].status, platform.jobs[waiting].status) == ("COMPLETED", "CANCELLED")
    assert [call.job for call in platform.calls if "/cancel/" in call.path] == [waiting]


def test_the_states_of_the_workers_are_told(studio, platform):
    platform.workers = {"initializing": 1, "unhealthy": 0}
    assert Answer(studio, "/workers").json == {"initializing": 1, "unhealthy": 0}


@pytest.mark.parametrize("job_id", ["other", "..%2f..%2fhealth", "local-1"])
def test_only_jobs_of_this_page_are_asked_for(studio, platform, job_id):
    platform.submit({"input": "of somebody else"})
    for answer in (
        Answer(studio, f"/jobs/{job_id}"),
        Answer(studio, f"/jobs/{job_id}/audio"),
        Answer(studio, f"/jobs/{job_id}/cancel", {}),
    ):
        assert (answer.status, answer.json["error"].startswith("ENDPOINT_NOT_FOUND: ")) == (502, True)
    assert platform.calls == []


def test_an_endpoint_gets_one_call_at_a_time():
    class Busy(LocalApi):  # LocalApi counts its jobs, the SDK has one session
        calls, most = 0, 0

        def submit(self, job_input):
            self.calls += 1
            self.most = max(self.most, self.calls)
            threading.Event().wait(0.1)  # in which another call would come
            self.calls -= 1
            return str(job_input["input"])

    endpoint = Busy("http://127.0.0.1:1")
    with served(endpoint) as studio:
        threads = [threading.Thread(target=sent, args=(studio, {"input": number})) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert endpoint.most == 1


# --- refused ---


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:{port}"},  # is not the host that was asked
    ],
)
def test_another_sites_requests_are_refused(studio, platform, headers):
    named = {name: value.format(port=studio.server_port) for name, value in headers.items()}
    for path, body in (("/", None), ("/about", None), ("/jobs", {"input": "Hello."})):
        answer = Answer(studio, path, body, headers=named)
        assert (answer.status, answer.json["error"].startswith("INVALID_REQUEST: only the page")) == (403, True)
    assert platform.calls == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_pages_own_requests_are_answered(studio, name):
    host = f"{name}:{studio.server_port}"
    assert Answer(studio, "/jobs", {"input": "Hi."}, headers={"Host": host, "Origin": f"http://{host}"}).status == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"", {"Content-Length": str(MAX_REQUEST_BYTES + 1)}, 413, "over 15 MB"),
        (b"", {"Content-Length": "9" * 5000}, 411, "Content-Length"),
        (b"", {"Content-Length": "-1"}, 411, "Content-Length"),
        (b"0\r\n\r\n", {"Transfer-Encoding": "chunked"}, 411, "Content-Length"),
        (b"{", {}, 400, "not JSON"),
        (b"\xff", {}, 400, "not JSON"),
        (b"[" * 100_000, {}, 400, "not JSON"),
        (b"[]", {}, 400, "must be an object"),
        (b'"x"', {}, 400, "must be an object"),
    ],
)
def test_a_request_that_is_none_is_refused_with_its_reason(studio, platform, body, headers, status, said):
    answer = Answer(studio, "/jobs", body, headers=headers, method="POST")
    assert (answer.status, answer.json["error"].startswith("INVALID_REQUEST: "), said in answer.json["error"]) == (status, True, True)
    assert platform.calls == []


@pytest.mark.parametrize(("path", "body"), [("/nothing", None), ("/jobs", None), ("/../studio.py", None), ("/about", {})])
def test_there_is_nothing_but_the_page_and_its_jobs(studio, path, body):
    assert Answer(studio, path, body).status == 404


# --- endpoints that fail ---


def test_an_endpoint_that_does_not_answer_is_a_coded_error(studio, platform):
    platform.fail("client", status=502, times=100)
    answer = Answer(studio, "/jobs", {"input": "Hello."})
    assert (answer.status, answer.json["error"].startswith("ENDPOINT_UNREACHABLE: ")) == (502, True)


def test_a_key_that_is_refused_is_a_coded_error(platform, monkeypatch):
    monkeypatch.setattr("runpod.api_key", "wrong")
    with served(RunpodEndpoint("f5-test", trouble_s=0.1)) as studio:
        assert Answer(studio, "/jobs", {"input": "Hello."}).json["error"].startswith("ENDPOINT_UNAUTHORIZED: ")


def test_a_local_worker_that_does_not_run_is_a_coded_error_that_says_how_to_start_it():
    with served(LocalApi("http://127.0.0.1:1")) as studio:
        job_id = sent(studio, {"input": "Hello."})
        failed = lambda: Answer(studio, f"/jobs/{job_id}").json.get("error")  # noqa: E731
        error = until(failed, ENDED_S, lambda: "no error")
    assert error.startswith("ENDPOINT_UNREACHABLE: ")
    assert "--rp_serve_api" in error


# --- the command, and `make studio` ---


@pytest.mark.parametrize("name", tests.studio.SETTINGS)
def test_a_worker_that_the_environment_describes_is_taken_as_it_is(monkeypatch, name):
    monkeypatch.setenv(name, "something")
    monkeypatch.setenv("DEMO_MODEL", "tiny")
    with tests.studio.model() as (env, note):
        assert (env, note) == (dict(os.environ), "")


def test_a_taken_port_ends_make_studio_before_a_worker_is_booted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "tests.studio", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "choose another" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--endpoint"),
        (["--endpoint", "a", "--local", "http://127.0.0.1:1"], "--endpoint"),
        (["--local", "127.0.0.1:1"], "--local"),
        (["--local", "http://127.0.0.1:1", "--port", "{taken}"], "choose another"),
    ],
)
def test_wrong_options_are_named(studio, arguments, said):
    done = CliRunner().invoke(cli.app, ["studio", *(argument.format(taken=studio.server_port) for argument in arguments)])
    assert (done.exit_code, said in done.output) == (2, True), done.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_command_and_cancels_its_jobs(platform, tmp_path, number):
    env = {**os.environ, "RUNPOD_ENDPOINT_BASE_URL": platform.client_url, "RUNPOD_API_KEY": API_KEY}
    command = [sys.executable, "-m", "f5_worker", "studio", "--endpoint", "f5-test", "--port", "0"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            port = int(re.search(r"http://127.0.0.1:(\d+)/", started.stdout.readline())[1])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("POST", "/jobs", b'{"input": "Hello."}')
            job_id = json.loads(connection.getresponse().read())["id"]
            connection.close()
            started.send_signal(number)
            output = started.communicate(timeout=ENDED_S)[1]
        finally:
            started.kill()
    assert (started.returncode, "Traceback" in output) == (130, False), output
    assert platform.jobs[job_id].status == "CANCELLED"
