"""What a whole run leaves for its operator: lines that the platform can file, no word of a request, no secret, and traces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.conftest import Worker
from tests.fakes.otlp_receiver import Collector, attributes, otlp_receiver
from tests.fakes.runpod_server import API_KEY, RunpodServer
from tests.fakes.seaweed import ACCESS_KEY, SECRET_KEY
from tests.worker_process import until

JOB_S = 60
BANNER = re.compile(r"^--- Starting Serverless Worker \|.*---$", re.MULTILINE)  # the SDK's own
TOKEN = "collectors-token"
SPEECH = {"input": "Hello from the log, dear quokka.", "nfe_step": 4}


@dataclass
class Run:
    worker: Worker
    statuses: dict[str, dict[str, Any]]
    collector: Collector

    def lines(self) -> list[dict[str, Any]]:
        """Every line, in whatever order stdout and stderr came; ValueError where one is no JSON."""
        text, decoder, found = BANNER.sub("", self.worker.log()).strip(), json.JSONDecoder(), []
        while text:
            line, end = decoder.raw_decode(text)
            found.append(line)
            text = text[end:].lstrip()
        return found


@pytest.fixture(scope="module")
def run(surroundings) -> Iterator[Run]:
    """A worker from its first line to its last, with everything that could make it talkative."""
    store, bucket = surroundings.store, surroundings.new_bucket()
    theirs = {"accessId": ACCESS_KEY, "accessSecret": SECRET_KEY, "bucketName": bucket, "endpointUrl": store.endpoint_url}
    inputs = {
        "speech": SPEECH,
        "own bucket": SPEECH | {"s3Config": theirs},
        "refused": {"inptu": "a quokka"},
        "broken url": SPEECH | {"ref_audio": {"url": "http://127.0.0.1:9/quokka.wav?token=quokka"}, "ref_text": "The quokka said."},
        "no audio": SPEECH | {"ref_audio": {"base64": "cXVva2th"}, "ref_text": "The quokka said."},
        "batch": {"action": "batch", "requests": [SPEECH, {"input": "a quokka", "voice": "quokka"}]},
        "voices": {"action": "voices.list"},
        "openai": {"openai_route": "/v1/audio/speech", "openai_input": {"voice": "default", "input": "Dear quokka."}},
    }
    with RunpodServer() as server, otlp_receiver() as collector:
        loud = {"RUNPOD_LOG_LEVEL": "DEBUG", "LOG_LEVEL": "DEBUG", "ALLOW_LOOPBACK_URLS": "true"}
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS": f"x-token={TOKEN}"}
        worker = surroundings.start(server.worker_env() | store.env(bucket) | loud | traced)
        ids = {name: server.submit(job_input) for name, job_input in inputs.items()}
        worker.until(lambda: any(call.kind == "take" for call in list(server.calls)))
        statuses = {name: server.wait(job_id, JOB_S) for name, job_id in ids.items()}
        worker.until(lambda: "publish outcome=done" in worker.log())
        worker.terminate()
        server.release_polls()
        assert worker.ended() == 0, worker.log()
        yield Run(worker, statuses, collector)


def test_the_jobs_ended_as_these_tests_assume(run):
    failed = {name for name, status in run.statuses.items() if status["status"] == "FAILED"}
    assert failed == {"refused", "broken url", "no audio"}, run.statuses


def test_every_line_is_json_with_the_platforms_keys(run):
    lines = run.lines()
    assert len(lines) > 40
    assert all({"requestId", "level", "message"} <= line.keys() for line in lines)
    assert {line["level"] for line in lines} <= {"DEBUG", "INFO", "WARNING", "ERROR", "WARN"}


def test_every_job_ends_in_one_line_with_its_id_and_a_batch_in_one_more_for_each_request(run):
    ends = [line["requestId"] for line in run.lines() if line["message"].startswith("job.end ")]
    of_batch = run.statuses["batch"]["id"]
    assert sorted(ends) == sorted([*(status["id"] for status in run.statuses.values()), of_batch, of_batch])


def test_every_phase_of_the_boot_has_its_line(run):
    phases = {phase["name"] for phase in run.worker.boot_report()["phases"]} - {"start, settings, cache dir", "start handler"}
    logged = [match[1] for line in run.lines() if (match := re.match(r"phase name='([^']+)' lane=\w+ seconds=", line["message"]))]
    assert phases <= set(logged)
    assert {"look on disk", "download from hub", "import torch", "load model", "warm up"} <= set(logged)
    assert len(logged) == len(set(logged))


def test_no_line_holds_a_secret_a_signed_url_or_a_word_of_a_request(run):
    text = run.worker.log()
    for secret in (SECRET_KEY, API_KEY, TOKEN, "X-Amz-Signature", "quokka", "cXVva2th", "inptu"):
        assert secret not in text, next(line for line in text.splitlines() if secret in line)[:300]


def test_the_sdks_level_debug_does_not_put_results_into_the_log(run):
    assert "RUNPOD_LOG_LEVEL=DEBUG would put whole results into the log" in run.worker.log()
    assert run.statuses["speech"]["output"]["sha256"] not in run.worker.log()
    assert {line["level"] for line in run.lines() if "logger" not in line} <= {"INFO", "WARN", "ERROR"}


def test_the_boot_and_every_job_are_traced(run):
    spans = until(run.collector.spans, 10, str)
    report = run.worker.boot_report()
    [boot] = [span for span in spans if span.name == "boot"]
    assert sorted(span.name for span in spans if span.parent_span_id == boot.span_id) == sorted(p["name"] for p in report["phases"])
    assert (boot.end_time_unix_nano - boot.start_time_unix_nano) / 1e9 == pytest.approx(report["ready_s"], abs=0.001)
    jobs = {attributes(span)["job.id"]: span for span in spans if span.name == "job"}
    assert set(jobs) == {status["id"] for status in run.statuses.values()}
    assert jobs[run.statuses["refused"]["id"]].status.message == "INVALID_REQUEST"
    assert attributes(jobs[run.statuses["speech"]["id"]])["synthesis_ms"] > 0
    assert not any(word in body for body in run.collector.bodies for word in (b"quokka", SECRET_KEY.encode()))


@pytest.mark.parametrize("alone", [False, True])
def test_a_boot_that_fails_of_its_settings_says_so_in_one_line_of_json(surroundings, alone):
    worker = surroundings.start({"RUNPOD_ENDPOINT_ID": "f5-test", "URL_EXPIRES_S": "never"}, alone=alone)
    assert worker.ended() == 2
    line = json.loads(worker.log())
    assert (line["level"], "URL_EXPIRES_S must be a number" in line["message"]) == ("ERROR", True)
