"""Outputs by the job's id, and jobs that are not computed twice."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from f5_worker import delivery
from f5_worker.errors import StoreUnavailable
from f5_worker.service import Service
from f5_worker.settings import Settings
from tests.fakes.memory_store import MemoryStore
from tests.fakes.speaker import FakeEngine

WAIT_S = 10


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


def test_the_first_day_of_the_bucket_is_looked_at_too_and_foreign_keys_are_no_days():
    bucket = MemoryStore()
    for days_ago in (400, 399):  # of the same job: it was started again after midnight
        bucket.put(f"{stem_of_day(days_ago)}.wav", b"x", content_type="audio/wav")
    bucket.put("output/20-years/x", b"x", content_type="x/y")
    assert set(run(service(bucket), {"action": "outputs.get", "id": "job-1"})["files"]) == {"wav"}
    assert run(service(bucket), {"action": "outputs.delete", "id": "job-1"})["deleted"] == ["wav", "wav"]
    assert list(bucket.objects) == ["output/20-years/x"]


def stem_of_day(days_ago: int) -> str:
    return delivery.stem_of(Settings(), "job-1", datetime.now(UTC) - timedelta(days=days_ago))


def test_deleting_removes_the_files_of_every_day_on_which_the_job_ran():
    bucket = MemoryStore()
    for days_ago in (0, 1):
        bucket.put(f"{stem_of_day(days_ago)}.wav", b"x", content_type="audio/wav")
    run(service(bucket), {"action": "outputs.delete", "id": "job-1"})
    assert bucket.objects == {}


def test_urls_of_todays_job_cost_one_listing():
    bucket = MemoryStore()
    subject = service(bucket)
    run(subject, {"input": "a"})
    run(subject, {"action": "outputs.get", "id": "job-1"})
    assert [method for method, _ in bucket.calls].count("list") == 1


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


@pytest.mark.parametrize(
    "change", [{"action": "speech"}, {"delivery": "auto"}, {"speed": 1}, {"model": Settings().model}, {"url_expires_in": 99}]
)
def test_what_changes_nothing_in_the_result_makes_no_other_request(change):
    bucket, engine = MemoryStore(), FakeEngine()
    subject = service(bucket, engine)
    run(subject, ASKED)
    assert run(subject, ASKED | change, "job-2")["repeated"] is True
    assert len(engine.seen) == 1


@pytest.mark.parametrize("mode", ["url", "inline"])
def test_a_deleted_output_is_gone_with_its_stored_result_and_is_computed_again(mode):
    bucket, engine = MemoryStore(), FakeEngine()
    subject = service(bucket, engine)
    asked = ASKED | {"delivery": mode}
    run(subject, asked)
    run(subject, {"action": "outputs.delete", "id": "job-1"})
    assert bucket.objects == {}
    again = run(subject, asked, "job-2")
    assert (again["id"], "repeated" in again, len(engine.seen)) == ("job-2", False, 2)


def test_deleting_a_job_leaves_the_stored_result_of_a_later_one_with_the_same_key():
    bucket = MemoryStore()
    subject = service(bucket)
    run(subject, ASKED)
    bucket.delete(next(key for key in bucket.objects if key.endswith("job-1.wav")))  # it has expired
    assert "repeated" not in run(subject, ASKED, "job-2")
    run(subject, {"action": "outputs.delete", "id": "job-1"})
    assert run(subject, ASKED, "job-3")["repeated"] is True


@dataclass
class Failing(MemoryStore):
    """Fails after so many deletions."""

    left: int = 0

    def delete(self, key):
        if self.left == 0:
            raise StoreUnavailable("DELETE: timed out")
        self.left -= 1
        super().delete(key)


@pytest.mark.parametrize("left", range(4))
def test_a_deletion_that_was_cut_short_can_be_repeated(left):
    bucket = Failing(left=left)
    subject = service(bucket)
    run(subject, ASKED)
    assert run(subject, {"action": "outputs.delete", "id": "job-1"})["details"] == {"code": "STORE_UNAVAILABLE", "retryable": True}
    bucket.left = 4
    assert "error" not in run(subject, {"action": "outputs.delete", "id": "job-1"})
    assert bucket.objects == {}


def test_what_a_deletion_has_begun_to_remove_is_not_returned_any_more():
    bucket = Failing(left=1)
    subject = service(bucket)
    run(subject, ASKED)
    run(subject, {"action": "outputs.delete", "id": "job-1"})
    assert "repeated" not in run(subject, ASKED, "job-2")


def test_a_stored_result_whose_marker_is_gone_counts_for_nothing():
    bucket, engine = MemoryStore(), FakeEngine()
    subject = service(bucket, engine)
    run(subject, ASKED | {"delivery": "inline"})
    (marker,) = [key for key in bucket.objects if key.endswith(".memo")]
    bucket.delete(marker)
    assert "repeated" not in run(subject, ASKED | {"delivery": "inline"}, "job-2")


def test_the_marker_is_written_before_the_stored_result_and_is_no_file_of_the_job():
    bucket = MemoryStore()
    subject = service(bucket)
    run(subject, ASKED)
    put = [key for method, key in bucket.calls if method == "put"]
    assert [("/idempotent/" in key, key.endswith(".memo")) for key in put[-2:]] == [(False, True), (True, False)]
    assert set(run(subject, {"action": "outputs.get", "id": "job-1"})["files"]) == {"wav", "srt"}


def test_jobs_at_once_with_one_key_are_computed_once():
    bucket, engine = MemoryStore(), FakeEngine()
    subject = service(bucket, engine)

    async def at_once():
        return await asyncio.gather(*(subject.handle({"id": f"job-{i}", "input": ASKED}) for i in range(4)))

    results = asyncio.run(at_once())
    assert len(engine.seen) == 1
    assert sorted(result.get("repeated", False) for result in results) == [False, True, True, True]
    assert len({result["sha256"] for result in results}) == 1
    assert not subject._run.remembered


def test_a_job_that_waited_for_one_that_was_cancelled_is_computed():
    bucket, engine = MemoryStore(), FakeEngine()
    engine.gate.clear()
    subject = service(bucket, engine)

    async def cancel_the_first():
        first = asyncio.create_task(subject.handle({"id": "job-1", "input": ASKED}))
        assert await asyncio.to_thread(engine.started.acquire, timeout=WAIT_S)
        second = asyncio.create_task(subject.handle({"id": "job-2", "input": ASKED}))
        (lock,) = subject._run.remembered.values()
        async with asyncio.timeout(WAIT_S):
            while not lock._waiters:  # noqa: ASYNC110 - nobody is told of it
                await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        engine.gate.set()
        return await asyncio.wait_for(second, WAIT_S)

    result = asyncio.run(cancel_the_first())
    assert (result["id"], "repeated" in result) == ("job-2", False)


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
    kept = json.loads(bucket.objects[key][0])
    results = [{name: part for name, part in kept["result"].items() if name != lost} for lost in ("format", "subtitles", "audio")]
    damaged = [kept | {"result": result} for result in (*results, kept["result"] | {"subtitles": {"srt": 1}}, None)]
    damaged += [kept | {"keys": {}}, kept | {"keys": []}, kept | {"keys": {"wav": 1}}, kept | {"marker": 5}, {}, []]
    for raw in (b"nothing", b"[" * 100_000, *(json.dumps(each).encode() for each in damaged)):
        bucket.put(key, raw, content_type="x/y")
        computed, again = run(subject, ASKED, "job-2"), run(subject, ASKED, "job-3")
        assert ("error" in computed, "repeated" in computed, again.get("repeated")) == (False, False, True), raw[:80]
    bucket.put(key, b"{}", content_type="x/y")
    assert "error" not in run(subject, {"action": "outputs.delete", "id": "job-2"})
    assert key not in bucket.objects


@pytest.mark.parametrize("asked", [{"stream_format": "audio"}, {}])
def test_where_nothing_can_be_remembered_the_key_is_refused(asked):
    subject = service(MemoryStore() if asked else None)
    assert "idempotency_key" in run(subject, {"input": "a", "idempotency_key": "k"} | asked)["error"]
