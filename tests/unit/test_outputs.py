"""Outputs by the job's id, and jobs that are not computed twice."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from f5_worker import delivery
from f5_worker.errors import StoreUnavailable
from f5_worker.service import Service
from f5_worker.settings import Settings
from tests.fakes.memory_store import MemoryStore
from tests.fakes.speaker import FakeEngine


def service(store=None, engine=None, **chosen) -> Service:
    return Service(engine or FakeEngine(), Settings(**chosen), store, boot=dict)


def run(subject, job_input, job_id="job-1"):
    return asyncio.run(subject.handle({"id": job_id, "input": job_input}))


def test_the_files_of_a_job_get_new_urls():
    bucket = MemoryStore()
    subject = service(bucket)
    run(subject, {"input": "a", "subtitles": ["srt"]})
    found = run(subject, {"action": "outputs.get", "id": "job-1", "url_expires_in": 77})
    assert set(found["files"]) == {"wav", "srt"}
    assert found["files"]["wav"]["url"].endswith("job-1.wav?expires=77")


def test_the_files_of_an_earlier_day_are_found_and_those_of_a_similar_id_are_not():
    bucket = MemoryStore()
    for job_id in ("job-1", "job-11"):
        stem = delivery.stem_of(Settings(), job_id, datetime.now(UTC) - timedelta(days=5))
        bucket.put(f"{stem}.mp3", b"x", content_type="audio/mpeg")
    found = run(service(bucket), {"action": "outputs.get", "id": "job-1"})
    assert [name for name, file in found["files"].items() if "job-11" not in file["url"]] == ["mp3"]


def test_deleting_removes_all_files_of_the_job_and_no_others():
    bucket = MemoryStore()
    subject = service(bucket)
    run(subject, {"input": "a", "subtitles": ["srt"]}, "job-1")
    run(subject, {"input": "a"}, "job-2")
    assert run(subject, {"action": "outputs.delete", "id": "job-1"})["deleted"] == ["srt", "wav"]
    assert [key.rpartition("/")[2] for key in bucket.objects] == ["job-2.wav"]


@pytest.mark.parametrize("action", ["outputs.get", "outputs.delete"])
def test_an_unknown_job_and_a_worker_without_a_bucket_are_coded_errors(action):
    assert run(service(MemoryStore()), {"action": action, "id": "nobody"})["details"]["code"] == "OUTPUT_NOT_FOUND"
    assert "S3_BUCKET" in run(service(None), {"action": action, "id": "nobody"})["error"]


@pytest.mark.parametrize("job_id", ["../models/x", "..", "../../voices/anna/voice", "a/../../b"])
def test_an_id_reaches_nothing_outside_the_output_prefix(job_id):
    bucket = MemoryStore()
    bucket.put("models/x.json", b"x", content_type="x/y")
    bucket.put("voices/anna/voice.json", b"x", content_type="x/y")
    run(service(bucket), {"action": "outputs.delete", "id": job_id})
    assert len(bucket.objects) == 2
    assert all(key.startswith("output/") for method, key in bucket.calls if method in {"list", "delete"})


ASKED = {"input": "a", "subtitles": ["srt"], "idempotency_key": "order-7"}


def test_a_repeated_job_gets_the_stored_result_without_synthesis():
    bucket, engine = MemoryStore(), FakeEngine()
    subject = service(bucket, engine)
    first, again = run(subject, ASKED), run(subject, ASKED, "job-2")
    assert len(engine.seen) == 1
    assert again.pop("repeated") is True
    assert {name: value for name, value in again.items() if name not in {"audio", "subtitles"}} == {
        name: value for name, value in first.items() if name not in {"audio", "subtitles"}
    }
    assert again["audio"]["url"] == first["audio"]["url"]
    assert again["subtitles"]["srt"]["url"] == first["subtitles"]["srt"]["url"]


def test_inline_audio_is_stored_with_the_result():
    bucket, engine = MemoryStore(), FakeEngine()
    subject = service(bucket, engine)
    asked = ASKED | {"delivery": "inline"}
    assert run(subject, asked)["audio"] == run(subject, asked, "job-2")["audio"]
    assert len(engine.seen) == 1


def test_neither_the_key_nor_a_signed_url_is_stored():
    bucket = MemoryStore()
    run(service(bucket), ASKED)
    (kept,) = [data for key, (data, _) in bucket.objects.items() if "/idempotent/" in key]
    assert b"memory://" not in kept
    assert "order-7" not in str(bucket.objects)


@pytest.mark.parametrize("change", [{"input": "b"}, {"seed": 1}, {"response_format": "flac"}])
def test_another_request_under_the_same_key_is_refused(change):
    bucket, engine = MemoryStore(), FakeEngine()
    subject = service(bucket, engine)
    run(subject, ASKED)
    assert run(subject, ASKED | change, "job-2")["details"]["code"] == "IDEMPOTENCY_CONFLICT"
    assert len(engine.seen) == 1


def test_a_job_whose_files_were_deleted_is_computed_again():
    bucket, engine = MemoryStore(), FakeEngine()
    subject = service(bucket, engine)
    run(subject, ASKED)
    run(subject, {"action": "outputs.delete", "id": "job-1"})
    assert "url" in run(subject, ASKED, "job-2")["audio"]
    assert len(engine.seen) == 2


def test_a_failed_job_is_not_remembered():
    bucket, engine = MemoryStore(), FakeEngine(error=RuntimeError("once"))
    subject = service(bucket, engine)
    assert "error" in run(subject, ASKED)
    engine.error = None
    assert "audio" in run(subject, ASKED)


@pytest.mark.parametrize("method", ["get", "put"])
def test_a_bucket_that_fails_costs_a_warning_and_not_the_job(method):
    bucket = MemoryStore(fail={method: StoreUnavailable("timed out")})
    result = run(service(bucket), ASKED)
    assert "IDEMPOTENCY_UNAVAILABLE" in {warning["code"] for warning in result["warnings"]}
    assert "audio" in result


def test_a_stored_result_that_is_none_is_computed_again():
    bucket, engine = MemoryStore(), FakeEngine()
    subject = service(bucket, engine)
    run(subject, ASKED)
    (key,) = [key for key in bucket.objects if "/idempotent/" in key]
    for raw in (b"{}", b"nothing", json.dumps({"request": 1, "result": {"audio": {}}, "keys": {}}).encode()):
        bucket.put(key, raw, content_type="x/y")
        assert "error" not in run(subject, ASKED, "job-2")


@pytest.mark.parametrize("asked", [{"stream_format": "audio"}, {}])
def test_where_nothing_can_be_remembered_the_key_is_refused(asked):
    subject = service(MemoryStore() if asked else None)
    assert "idempotency_key" in run(subject, {"input": "a", "idempotency_key": "k"} | asked)["error"]
