"""The worker under RunPod's queue, from the container's command to the acknowledged result.

The tests of this module follow one endpoint through its life: a cold boot, jobs, bad jobs, a cancel, a second worker that
restores from the bucket what the first has published, and the end.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import os
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import openai
import pytest
import soundfile

from tests.e2e.conftest import Surroundings, Worker
from tests.fakes.openai_bridge import OpenAIBridge
from tests.fakes.runpod_server import API_KEY, RunpodServer
from tests.fakes.seaweed import SECRET_KEY

JOB_S = 60
WORDS = "Hello from the queue, dear quokka."
REQUEST = {"input": WORDS, "seed": 42, "nfe_step": 4}
LONG = {"input": "The quick brown fox jumps over the lazy dog. " * 1000, "seed": 1, "nfe_step": 12}


@dataclass
class Endpoint:
    """A job server, a bucket and the first worker."""

    server: RunpodServer
    surroundings: Surroundings
    bucket: str
    worker: Worker
    hub_bytes_before: int

    def start_worker(self, name: str) -> Worker:
        env = self.server.worker_env(name) | self.surroundings.store.env(self.bucket)
        return self.surroundings.start(env)

    def takes(self, name: str) -> list:
        return [call for call in list(self.server.calls) if call.kind == "take" and call.worker == name]

    def models(self) -> dict[str, datetime]:
        """The keys under models/ and when each was written."""
        listed = self.surroundings.store.client().list_objects_v2(Bucket=self.bucket, Prefix="models/")
        return {o["Key"]: o["LastModified"] for o in listed.get("Contents", [])}

    def published(self) -> bool:
        return sum(key.endswith("/manifest.json") for key in self.models()) == 2  # the model's and the vocoder's


@pytest.fixture(scope="module")
def endpoint(surroundings) -> Iterator[Endpoint]:
    bucket = surroundings.new_bucket()
    with RunpodServer() as server:
        before = surroundings.hub.sent_bytes
        worker = surroundings.start(server.worker_env("worker-1") | surroundings.store.env(bucket))
        running = Endpoint(server, surroundings, bucket, worker, before)
        worker.until(lambda: running.takes("worker-1"))
        yield running


@pytest.fixture(scope="module")
def first_result(endpoint) -> dict:
    return endpoint.server.run(REQUEST, JOB_S)["output"]


def download(url: str) -> tuple[bytes, str]:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read(), response.headers["Content-Type"]


def environment_of(pid: int) -> dict[str, str]:
    lines = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_cold_boot_takes_the_weights_from_the_hub(endpoint):
    report = endpoint.worker.boot_report()
    assert {file["source"] for file in report["files"]} == {"hub"}
    assert endpoint.surroundings.hub.sent_bytes > endpoint.hub_bytes_before


def test_the_handler_runs_in_the_boots_process_with_the_hf_home_that_the_boot_chose(endpoint):
    pid = endpoint.worker.process.pid
    environment = environment_of(pid)
    assert b"handler.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert environment["HF_HOME"] == str(endpoint.worker.cache_dir)
    assert environment["HF_HUB_CACHE"] == str(endpoint.worker.cache_dir / "hub")


def test_a_job_gives_audio_by_a_url_that_works_without_credentials(endpoint, first_result):
    data, content_type = download(first_result["audio"]["url"])
    samples, rate = soundfile.read(io.BytesIO(data))
    assert content_type == "audio/wav"
    assert hashlib.sha256(data).hexdigest() == first_result["sha256"]
    assert (len(data), rate) == (first_result["size_bytes"], first_result["sample_rate"])
    assert len(samples) / rate == pytest.approx(first_result["duration_s"], abs=0.001)
    assert (first_result["seed"], first_result["model"], first_result["cold_start"]) == (42, "demo-tiny", True)
    assert first_result["segments"][0]["text"].strip() == WORDS


def test_a_text_alone_is_enough(endpoint):
    status = endpoint.server.run({"input": "Hi."}, JOB_S)
    assert status["status"] == "COMPLETED", status


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(endpoint, first_result):
    again = endpoint.server.run(REQUEST, JOB_S)["output"]
    other = endpoint.server.run(REQUEST | {"seed": 43}, JOB_S)["output"]
    assert again["sha256"] == first_result["sha256"] != other["sha256"]
    assert not again["cold_start"]


def test_inline_audio_travels_inside_the_result(endpoint, first_result):
    inline = endpoint.server.run(REQUEST | {"delivery": "inline"}, JOB_S)["output"]
    assert set(inline["audio"]) == {"base64"}
    assert inline["sha256"] == first_result["sha256"]


@pytest.mark.parametrize(
    ("job_input", "code", "named"),
    [
        ({"seed": 1}, "TEXT_EMPTY", "input"),
        ({"input": "  "}, "TEXT_EMPTY", "input"),
        ({"input": "a" * 100_000}, "TEXT_TOO_LONG", "100000"),
        ({"input": "Hi.", "pitch": 3}, "INVALID_REQUEST", "pitch"),
        ({"input": "Hi.", "speed": "fast", "seed": True, "nfe_step": 3.5}, "INVALID_REQUEST", "nfe_step"),
        ({"input": "Hi.", "ref_text": "Words without audio."}, "INVALID_REQUEST", "ref_audio"),
        ({"input": "Hi.", "ref_audio": "bm8gYXVkaW8=", "ref_text": "Words."}, "REFERENCE_INVALID", "audio"),
        ({"input": "Hi.", "voice": "nobody"}, "VOICE_NOT_FOUND", "voice"),
        ({"input": "\ud800"}, "INVALID_REQUEST", "Unicode"),
        ("Hi.", "INVALID_REQUEST", "object"),
    ],
)
def test_a_bad_job_fails_with_a_code_and_a_reason(endpoint, job_input, code, named):
    status = endpoint.server.run(job_input, JOB_S)
    assert status["status"] == "FAILED"
    assert status["error"].startswith(f"{code}: ")
    assert named in status["error"]
    assert status["output"]["details"] == {"code": code, "retryable": False}


def test_a_stream_arrives_in_order_before_the_job_ends_and_is_the_audio(endpoint):
    server = endpoint.server
    text = "The first words come soon. " + "The others take their time, as long as there are any. " * 4
    job_id = server.submit(REQUEST | {"input": text, "stream_format": "events", "response_format": "pcm"})
    first = server.wait_call("stream", JOB_S)
    assert server.jobs[job_id].done == []
    result = server.wait(job_id, JOB_S)["output"]
    parts = server.jobs[job_id].parts
    heard = b"".join(base64.b64decode(part["audio"]) for part in parts[:-1])
    assert first.body["output"]["index"] == 0
    assert [part["type"] for part in parts] == ["speech.audio.delta"] * result["stream"]["parts"] + ["speech.audio.done"]
    assert [part["index"] for part in parts] == list(range(len(parts)))
    assert hashlib.sha256(heard).hexdigest() == result["sha256"] == parts[-1]["sha256"]
    assert download(result["audio"]["url"])[0] == heard


def test_a_stream_is_the_bytes_of_the_job_without_a_stream(endpoint):
    text = "The first words come soon. " + "The others take their time, as long as there are any. " * 4
    asked = REQUEST | {"input": text, "response_format": "pcm"}
    plain = endpoint.server.run(asked, JOB_S)["output"]
    streamed = endpoint.server.run(asked | {"stream_format": "audio"}, JOB_S)["output"]
    assert streamed["stream"]["parts"] == len(plain["segments"]) > 2
    assert streamed["stream"]["sha256"] == streamed["sha256"] == plain["sha256"]


def test_a_part_that_the_platform_refuses_once_is_sent_again(endpoint):
    endpoint.server.fail("stream", status=500)
    job_id = endpoint.server.submit(REQUEST | {"stream_format": "audio", "response_format": "pcm"})
    result = endpoint.server.wait(job_id, JOB_S)["output"]
    assert [part["index"] for part in endpoint.server.jobs[job_id].parts] == list(range(result["stream"]["parts"]))


def test_a_cancelled_stream_stops(endpoint):
    server, before = endpoint.server, len(endpoint.server.calls)
    job_id = server.submit(LONG | {"stream_format": "audio"})
    server.wait_call("stream", JOB_S, after=before)
    server.cancel(job_id)
    assert server.run(REQUEST, JOB_S)["status"] == "COMPLETED"
    assert server.jobs[job_id].done == []


def test_progress_is_told_per_chunk_and_never_after_the_end(endpoint):
    server = endpoint.server
    job_id = server.submit(REQUEST | {"input": "A sentence with a few more words in it than the others. " * 12})
    server.wait(job_id, JOB_S)
    calls = [call.kind for call in list(server.calls) if call.job == job_id]
    assert "progress" in calls
    assert calls.index("done") == len(calls) - 1
    told = [progress["chunks_done"] for progress in server.jobs[job_id].progress]
    assert told == sorted(told)


def test_a_voice_is_created_listed_and_spoken_with(endpoint):
    spec = importlib.util.find_spec("f5_tts")
    data = (Path(spec.submodule_search_locations[0]) / "infer" / "examples" / "basic" / "basic_ref_en.wav").read_bytes()
    recording = {"ref_audio": base64.b64encode(data).decode(), "ref_text": "Some call me nature, others call me mother nature."}
    created = endpoint.server.run({"action": "voices.create", "id": "anna", "consent": "mine", **recording}, JOB_S)["output"]
    assert (created["id"], created["consent"], created["transcribed"]) == ("anna", "mine", False)
    listed = endpoint.server.run({"action": "voices.list"}, JOB_S)["output"]["voices"]
    assert [voice["id"] for voice in listed] == ["default", "anna"]
    spoken = endpoint.server.run(REQUEST | {"voice": "anna"}, JOB_S)["output"]
    assert spoken["voice"] == "anna"
    again = endpoint.server.run({"action": "voices.create", "id": "anna", **recording}, JOB_S)
    assert again["error"].startswith("VOICE_EXISTS: ")


def test_a_repeated_job_is_not_computed_again_and_its_files_can_be_found_and_removed(endpoint):
    asked = {"input": "Only once.", "nfe_step": 4, "idempotency_key": "order-1"}
    first, again = (endpoint.server.run(asked, JOB_S)["output"] for _ in range(2))
    assert (again["sha256"], again["seed"], again["repeated"]) == (first["sha256"], first["seed"], True)
    assert hashlib.sha256(download(again["audio"]["url"])[0]).hexdigest() == first["sha256"]
    found = endpoint.server.run({"action": "outputs.get", "id": first["id"]}, JOB_S)["output"]
    assert hashlib.sha256(download(found["files"]["wav"]["url"])[0]).hexdigest() == first["sha256"]
    assert endpoint.server.run({"action": "outputs.delete", "id": first["id"]}, JOB_S)["output"]["deleted"] == ["memo", "wav"]
    assert endpoint.server.run({"action": "outputs.get", "id": first["id"]}, JOB_S)["error"].startswith("OUTPUT_NOT_FOUND: ")
    assert "repeated" not in endpoint.server.run(asked, JOB_S)["output"]


def test_a_file_has_a_name_to_save_it_by(endpoint, first_result):
    with urllib.request.urlopen(first_result["audio"]["url"], timeout=10) as response:
        assert response.headers["Content-Disposition"] == f'inline; filename="{first_result["id"]}.wav"'


def test_openais_client_speaks_through_the_queue(endpoint):
    with (
        OpenAIBridge(lambda job_input: endpoint.server.run(job_input, JOB_S)) as bridge,
        openai.OpenAI(base_url=bridge.base_url, api_key="any", max_retries=0) as client,
    ):
        spoken = client.audio.speech.create(model="tts-1", voice="default", input="Hi.", extra_body={"nfe_step": 4}).json()
        models = [model.id for model in client.models.list()]
        with pytest.raises(openai.BadRequestError) as refused:
            client.audio.speech.create(model="tts-1", voice="default", input="")
    data = base64.b64decode(spoken["audio"]["base64"])
    assert (spoken["object"], hashlib.sha256(data).hexdigest()) == ("audio.speech", spoken["sha256"])
    assert soundfile.info(io.BytesIO(data)).format == "MP3"
    assert models == ["demo-tiny"]
    assert (refused.value.code, refused.value.param, refused.value.type) == ("text_empty", "input", "invalid_request_error")


def test_health_answers_with_the_boot_and_names_no_local_path(endpoint):
    health = endpoint.server.run({"action": "health"}, JOB_S)["output"]
    assert health["engine"]["model"] == "demo-tiny"
    assert health["boot"]["ready_s"] > 0
    assert str(endpoint.surroundings.folder) not in str(health)


def test_a_cancelled_job_stops_within_a_step_and_the_next_one_runs(endpoint):
    server = endpoint.server
    running = server.submit(LONG)
    endpoint.worker.until(lambda: running in endpoint.worker.log())
    server.cancel(running)
    assert server.run(REQUEST, JOB_S)["status"] == "COMPLETED"
    assert server.jobs[running].done == []
    assert "job.end outcome=cancelled" in endpoint.worker.log()


def test_pings_name_the_jobs_in_progress(endpoint):
    server = endpoint.server
    running = server.submit(LONG)
    endpoint.worker.until(lambda: any(running in ping.query.get("job_id", "") for ping in server.pings))
    server.cancel(running)


def test_a_result_survives_a_server_error_on_its_delivery(endpoint):
    endpoint.server.fail("done", status=500)
    assert endpoint.server.run(REQUEST, JOB_S)["status"] == "COMPLETED"


def test_two_jobs_at_once_both_end_with_their_own_result(endpoint):
    ids = {seed: endpoint.server.submit(REQUEST | {"seed": seed}) for seed in range(4)}
    results = {seed: endpoint.server.wait(job_id, JOB_S)["output"] for seed, job_id in ids.items()}
    assert {seed: result["seed"] for seed, result in results.items()} == {seed: seed for seed in ids}
    assert all(len(job.done) <= 1 for job in endpoint.server.jobs.values())


def test_the_first_worker_fills_the_bucket_manifests_last(endpoint):
    endpoint.worker.until(endpoint.published)
    written = endpoint.models()
    for manifest in (key for key in written if key.endswith("/manifest.json")):
        of_commit = [time for key, time in written.items() if key.startswith(manifest.removesuffix("manifest.json"))]
        assert written[manifest] == max(of_commit)


def test_a_second_worker_restores_from_the_bucket_and_asks_the_hub_for_nothing(endpoint, first_result):
    endpoint.worker.until(endpoint.published)
    asked = len(endpoint.surroundings.hub.requests)
    endpoint.worker.terminate()
    endpoint.server.release_polls()
    assert endpoint.worker.ended() == 0
    second = endpoint.start_worker("worker-2")
    second.until(lambda: endpoint.takes("worker-2"))
    result = endpoint.server.run(REQUEST, JOB_S)["output"]
    assert {file["source"] for file in second.boot_report()["files"]} == {"bucket"}
    assert result["sha256"] == first_result["sha256"]
    assert endpoint.server.run(REQUEST | {"voice": "anna"}, JOB_S)["output"]["voice"] == "anna"
    assert len(endpoint.surroundings.hub.requests) == asked
    assert environment_of(second.process.pid)["HF_HOME"] == str(second.cache_dir)
    endpoint.worker = second


def test_sigterm_finishes_the_job_in_flight_and_exits_0(endpoint):
    server, worker = endpoint.server, endpoint.worker
    job_id = server.submit(REQUEST | {"input": WORDS * 6, "nfe_step": 12})
    # SDK 1.12 loses a job that it has taken but not started when the signal comes (rp_scale.run_jobs ends on an empty queue).
    worker.until(lambda: job_id in worker.log())
    worker.terminate()
    server.release_polls()
    assert server.wait(job_id, JOB_S)["status"] == "COMPLETED"
    assert worker.ended() == 0


def test_sigterm_during_the_boot_ends_it_at_once_and_leaves_no_process(endpoint):
    worker = endpoint.start_worker("worker-3")
    worker.until(lambda: "boot.exec" in worker.log())
    worker.until(lambda: b"handler.py" in Path(f"/proc/{worker.process.pid}/cmdline").read_bytes())
    worker.terminate()
    assert worker.ended(15) in {143, -15}  # -15 before the handler's first line; in a container that is PID 1's to ignore
    deadline = time.monotonic() + 10
    while group_exists(worker.process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not group_exists(worker.process.pid)


def test_no_log_holds_a_secret_a_signed_url_or_the_users_words(endpoint):
    for log in endpoint.surroundings.folder.glob("worker-*.log"):
        text = log.read_text()
        for secret in (SECRET_KEY, API_KEY, "X-Amz-Signature", "quokka", "lazy dog"):
            assert secret not in text
