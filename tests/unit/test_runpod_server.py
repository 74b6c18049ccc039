"""The fake job server answers as the platform does: the rules that the e2e tests build on."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request

import pytest

from tests.fakes.runpod_server import API_KEY, RunpodServer


@pytest.fixture
def server():
    with RunpodServer(poll_s=0.3) as running:
        yield running


def call(url: str, body=None, *, key=API_KEY, data=None):
    data = data if data is not None else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Authorization": key})
    with urllib.request.urlopen(request, timeout=10) as response:
        raw = response.read()
        return response.status, json.loads(raw) if raw else None


def url(server, name: str, job: str = "") -> str:
    template = server.worker_env()[name]
    return template.replace("$RUNPOD_POD_ID", "worker-1").replace("$ID", job or "worker-1")


def take(server):
    return call(url(server, "RUNPOD_WEBHOOK_GET_JOB") + "&job_in_progress=0")


def done(server, job, body):
    return call(url(server, "RUNPOD_WEBHOOK_POST_OUTPUT", job) + "&isStream=false", body)


def test_take_is_held_open_and_then_empty(server):
    start = time.monotonic()
    assert take(server) == (204, None)
    assert time.monotonic() - start >= 0.3


def test_a_job_is_taken_once_and_its_result_reaches_the_client(server):
    job_id = server.submit({"input": "a"}, policy={"ttl": 1})
    assert take(server) == (200, {"id": job_id, "input": {"input": "a"}, "policy": {"ttl": 1}})
    assert take(server)[0] == 204
    done(server, job_id, {"output": {"é": 1}})
    status = server.wait(job_id, 1)
    assert (status["status"], status["output"]) == ("COMPLETED", {"é": 1})


def test_batch_take_gives_a_list(server):
    ids = [server.submit({"n": n}) for n in range(3)]
    taken = call(url(server, "RUNPOD_WEBHOOK_GET_JOB").replace("/job-take/", "/job-take-batch/") + "&batch_size=2")[1]
    assert [job["id"] for job in taken] == ids[:2]


def test_an_error_makes_a_job_fail(server):
    job_id = server.submit({})
    take(server)
    done(server, job_id, {"output": {"details": 1}, "error": "INVALID_REQUEST: x"})
    assert server.wait(job_id, 1)["status"] == "FAILED"


def test_progress_is_no_end(server):
    job_id = server.submit({})
    take(server)
    done(server, job_id, {"status": "IN_PROGRESS", "output": "half"})
    with pytest.raises(TimeoutError):
        server.wait(job_id, 0.05)
    assert server.jobs[job_id].as_status()["output"] == "half"


def test_cancel_of_a_queued_job_means_it_never_starts(server):
    job_id = server.submit({})
    server.cancel(job_id)
    assert take(server)[0] == 204
    assert server.wait(job_id, 1)["status"] == "CANCELLED"


def test_cancel_of_a_running_job_goes_to_its_workers_stop_channel_once(server):
    job_id = server.submit({})
    take(server)
    server.cancel(job_id)
    stop = url(server, "RUNPOD_WEBHOOK_GET_JOB").replace("/job-take/", "/job-stop/")
    assert call(stop) == (200, {"jobsToStop": [job_id]})
    assert call(stop) == (204, None)


def test_parts_of_a_stream_keep_their_order(server):
    job_id = server.submit({})
    take(server)
    for part in range(3):
        call(url(server, "RUNPOD_WEBHOOK_POST_STREAM", job_id) + "&isStream=false", {"output": part})
    read = call(f"{server.client_url}/{server.endpoint_id}/stream/{job_id}", key=f"Bearer {API_KEY}")[1]
    assert [part["output"] for part in read["stream"]] == [0, 1, 2]


def test_faults_are_answered_as_often_as_asked(server):
    job_id = server.submit({})
    take(server)
    server.fail("done", status=500, times=2)
    for _ in range(2):
        with pytest.raises(urllib.error.HTTPError, match="500"):
            done(server, job_id, {"output": 1})
    assert done(server, job_id, {"output": 1})[0] == 200


def test_a_dropped_call_gets_no_answer(server):
    server.fail("ping", drop=True)
    with pytest.raises((ConnectionError, urllib.error.URLError)):
        call(url(server, "RUNPOD_WEBHOOK_PING"))
    assert call(url(server, "RUNPOD_WEBHOOK_PING") + "&job_id=a")[0] == 200
    assert server.pings[-1].query["job_id"] == "a"


def test_the_worker_sends_the_raw_key_and_the_client_a_bearer(server):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        call(url(server, "RUNPOD_WEBHOOK_PING"), key=f"Bearer {API_KEY}")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        call(f"{server.client_url}/{server.endpoint_id}/health")


def test_the_client_runs_a_job_and_reads_its_status(server):
    base = f"{server.client_url}/{server.endpoint_id}"
    job_id = call(f"{base}/run", {"input": {"input": "a"}}, key=f"Bearer {API_KEY}")[1]["id"]
    take(server)
    done(server, job_id, {"output": 1})
    assert call(f"{base}/status/{job_id}", key=f"Bearer {API_KEY}")[1]["status"] == "COMPLETED"


def test_release_ends_an_open_poll(server):
    server.poll_s = 60
    answers = []
    poll = threading.Thread(target=lambda: answers.append(take(server)))
    poll.start()
    server.wait_call("take", 5)
    while poll.is_alive():
        server.release_polls()
        poll.join(0.05)
    assert answers == [(204, None)]
