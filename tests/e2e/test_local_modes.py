"""The worker without RunPod: test_input.json, --test_input, --rp_serve_api; and boots that cannot serve say why and end."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Surroundings

ENDED_S = 120


@pytest.fixture(scope="module")
def seeded(surroundings) -> Iterator[tuple[Surroundings, str]]:
    """A bucket after one local run of the container's command with test_input.json."""
    bucket = surroundings.new_bucket()
    worker = surroundings.start(surroundings.store.env(bucket))
    assert worker.ended(ENDED_S) == 0, worker.log()
    return surroundings, bucket


def keys(surroundings, bucket, prefix):
    listed = surroundings.store.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
    return [o["Key"] for o in listed.get("Contents", [])]


def test_test_input_json_is_spoken_and_the_bucket_is_seeded_before_the_process_ends(seeded):
    surroundings, bucket = seeded
    assert [key.endswith("/local_test.wav") for key in keys(surroundings, bucket, "output/")] == [True]
    published = keys(surroundings, bucket, "models/")
    assert sum(key.endswith("/manifest.json") for key in published) == 2
    assert len(published) == 6
    assert not [key for key in published if "publishing" in key]


def test_test_input_on_the_command_line_is_spoken_without_a_bucket(surroundings):
    worker = surroundings.start({}, arguments=["--test_input", json.dumps({"input": {"input": "Hi.", "nfe_step": 4}})])
    assert worker.ended(ENDED_S) == 0, worker.log()
    assert "completed successfully" in worker.log()
    assert "'base64': " in worker.log()


def test_a_bad_local_job_exits_1_with_its_code(seeded):
    surroundings, bucket = seeded
    arguments = ["--test_input", json.dumps({"input": {"inptu": "Hi."}})]
    worker = surroundings.start(surroundings.store.env(bucket), arguments=arguments)
    assert worker.ended(ENDED_S) == 1
    assert "INVALID_REQUEST: input: is missing; inptu: unknown field" in worker.log()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_local_api_serves_jobs_and_coded_errors(seeded):
    surroundings, bucket = seeded
    port = free_port()
    arguments = ["--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
    worker = surroundings.start(surroundings.store.env(bucket), arguments=arguments)

    def runsync(job_input):
        body = json.dumps({"input": job_input}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/runsync", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.loads(response.read())
        except urllib.error.URLError:
            return None

    done = worker.until(lambda: runsync({"input": "Hi.", "seed": 5, "nfe_step": 4}))
    assert (done["status"], done["output"]["seed"]) == ("COMPLETED", 5)
    streamed = runsync({"input": "Hi.", "seed": 5, "nfe_step": 4, "response_format": "pcm", "stream_format": "audio"})["output"]
    heard = b"".join(base64.b64decode(part["audio"]) for part in streamed["stream"]["output"])
    assert hashlib.sha256(heard).hexdigest() == streamed["sha256"]
    failed = runsync({"input": ""})
    assert failed["status"] == "FAILED"
    assert failed["error"].startswith("TEXT_EMPTY: ")
    worker.terminate()
    assert worker.ended(ENDED_S) == 128 + 15  # uvicorn ends its server in order and raises the signal again


@pytest.mark.parametrize(
    ("env", "code", "said"),
    [
        ({"S3_BUCKET": "b", "AWS_ACCESS_KEY_ID": "k", "URL_EXPIRES_S": "never"}, 2, ["AWS_SECRET_ACCESS_KEY", "URL_EXPIRES_S"]),
        ({"F5_MODEL": "no-such-model"}, 2, ["no-such-model", "demo-tiny"]),
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, 3, ["WEIGHTS_UNAVAILABLE"]),
    ],
)
def test_a_boot_that_cannot_serve_says_why_in_one_line_and_ends(surroundings, env, code, said):
    worker = surroundings.start(env)
    assert worker.ended(ENDED_S) == code, worker.log()
    lines = [line for line in worker.log().splitlines() if " ERROR " in line]
    assert len(lines) == 1, worker.log()
    assert all(word in lines[0] for word in said)
    assert "Traceback" not in worker.log()


def test_a_bucket_that_does_not_answer_costs_seconds_and_not_the_service(seeded):
    surroundings, _ = seeded
    env = {
        "S3_BUCKET": "x",
        "AWS_ACCESS_KEY_ID": "key-id",
        "AWS_SECRET_ACCESS_KEY": "s-e-c-r-e-t",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }
    worker = surroundings.start(env)
    assert worker.ended(ENDED_S) == 0, worker.log()
    assert worker.boot_report()["bucket"]["outcome"] == "STORE_UNAVAILABLE"
    assert worker.boot_report()["bucket"]["seconds"] < 5
    assert len([line for line in worker.log().splitlines() if "restore.bucket" in line]) == 1
    assert "delivery outcome=store_failed" in worker.log()
    assert "'base64': " in worker.log()
    assert "Traceback" not in worker.log()
    assert "s-e-c-r-e-t" not in worker.log()


def test_an_interrupted_job_is_no_success(seeded):
    surroundings, _ = seeded
    job = {"input": {"input": "One sentence after another. " * 400, "quality": "high"}}
    worker = surroundings.start({}, arguments=["--test_input", json.dumps(job)])
    worker.until(lambda: "job.start" in worker.log())
    worker.process.send_signal(signal.SIGINT)
    assert worker.ended(ENDED_S) == 128 + signal.SIGINT, worker.log()
    assert "Traceback" not in worker.log()


def test_an_option_that_nobody_knows_is_refused_before_anything_is_loaded(surroundings):
    worker = surroundings.start({}, arguments=["--test-input", "{}"])
    assert worker.ended(ENDED_S) == 2, worker.log()
    assert "--test-input: unknown option; there are --test_input, " in worker.log()


def test_the_handler_started_alone_restores_by_itself(seeded):
    surroundings, bucket = seeded
    worker = surroundings.start(surroundings.store.env(bucket), alone=True)
    assert worker.ended(ENDED_S) == 0, worker.log()
    assert {file["source"] for file in worker.boot_report()["files"]} == {"bucket"}
