"""Delivery: a URL with a bucket, inline without, and nothing computed lost for a fault of the bucket."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from f5_worker import delivery
from f5_worker.delivery import File, Outbox
from f5_worker.errors import (
    DeliveryError,
    RequestError,
    ResultTooLarge,
    StoreForbidden,
    StoreMisplaced,
    StoreNoBucket,
    StoreUnavailable,
)
from f5_worker.guard import GuardedStore
from f5_worker.jobs import InlineRoom
from f5_worker.settings import Settings
from tests.fakes.memory_store import MemoryStore

DATA = b"RIFF" + bytes(996)
WAV = File(DATA, "wav", "audio/wav")
STEM = "output/2026-01-02/job-1"


def broken(error=None) -> MemoryStore:
    return MemoryStore(fail={"put": error or StoreUnavailable("PUT: timed out")})


def outbox(store=None, *, room=1000, mode="auto", expires_s=600) -> Outbox:
    return Outbox(GuardedStore(store) if store else None, STEM, InlineRoom(room), mode, expires_s, room)


def test_auto_gives_a_url_when_there_is_a_bucket():
    bucket = MemoryStore()
    box = outbox(bucket)
    assert box.deliver(WAV)["url"].startswith(f"memory://{STEM}.wav")
    assert bucket.objects[f"{STEM}.wav"][0] == DATA
    assert (box.warnings, box.keys) == ([], {"wav": f"{STEM}.wav"})


def test_a_file_is_uploaded_with_its_type_and_a_name_to_save_it_by():
    bucket = MemoryStore()
    outbox(bucket).deliver(WAV)
    assert bucket.headers[f"{STEM}.wav"] == ("audio/wav", "job-1.wav")


def test_auto_is_inline_without_a_bucket():
    box = outbox()
    assert base64.b64decode(box.deliver(WAV)["base64"]) == DATA
    assert box.warnings == []


def test_a_url_lasts_as_long_as_it_says():
    before = datetime.now(UTC)
    delivered = outbox(MemoryStore()).deliver(WAV)
    expires = datetime.fromisoformat(delivered["expires_at"])
    assert 595 < (expires - before).total_seconds() <= 601
    assert delivered["url"].endswith("expires=600")


def test_a_slow_upload_costs_nothing_of_the_urls_time(monkeypatch):
    class Clock(datetime):
        passed = timedelta()

        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 1, 2, tzinfo=tz) + cls.passed

    class SlowBucket(MemoryStore):
        def put(self, key, data, *, content_type, metadata=None, filename=None):
            Clock.passed += timedelta(minutes=20)

    monkeypatch.setattr(delivery, "datetime", Clock)
    assert outbox(SlowBucket()).deliver(WAV)["expires_at"] == "2026-01-02T00:30:00Z"


def test_inline_is_inline_although_there_is_a_bucket():
    bucket = MemoryStore()
    assert "base64" in outbox(bucket, mode="inline").deliver(WAV)
    assert bucket.objects == {}


def test_inline_that_does_not_fit_goes_by_url_and_says_so():
    box = outbox(MemoryStore(), room=len(DATA) - 1, mode="inline")
    assert "url" in box.deliver(WAV)
    assert box.warnings[0][0] == "INLINE_TOO_LARGE"


def test_the_files_of_a_job_share_the_room_inside_the_result():
    box = outbox(room=len(DATA) + 10)
    box.deliver(WAV)
    assert "base64" in box.deliver(File(bytes(10), "srt", "text/plain"))
    with pytest.raises(DeliveryError):
        box.deliver(File(b"1", "vtt", "text/plain"))


@pytest.mark.parametrize("mode", ["auto", "inline"])
def test_what_fits_nowhere_is_an_error_that_names_the_sizes_and_the_setting(mode):
    with pytest.raises(ResultTooLarge, match=r"1000 bytes, at most 999 .*MAX_INLINE_BYTES.*S3_BUCKET") as caught:
        outbox(room=999, mode=mode).deliver(WAV)
    assert not caught.value.retryable


@pytest.mark.parametrize("mode", ["auto", "url"])
@pytest.mark.parametrize("error", [StoreUnavailable("PUT: timed out"), StoreForbidden("PUT: AccessDenied")])
def test_a_failing_bucket_falls_back_to_inline_with_a_warning(mode, error):
    box = outbox(broken(error), mode=mode)
    assert base64.b64decode(box.deliver(WAV)["base64"]) == DATA
    assert box.warnings[0][0] == error.code


def test_a_failing_bucket_and_too_much_audio_is_one_clear_error():
    with pytest.raises(DeliveryError, match=r"upload failed \(STORE_UNAVAILABLE\).*1000 bytes") as caught:
        outbox(broken(), room=999).deliver(WAV)
    assert caught.value.retryable


def test_what_fits_nowhere_else_is_uploaded_although_the_bucket_hung_a_moment_ago():
    bucket = MemoryStore()
    box = outbox(bucket, room=999)
    box.store._closed_until = float("inf")
    assert "url" in box.deliver(WAV)


@pytest.mark.parametrize(("room", "tries"), [(999, 3), (1000, 1)])
def test_an_upload_is_repeated_only_when_its_file_fits_nowhere_else(room, tries):
    class ShakyBucket(MemoryStore):
        tried = 0

        def put(self, key, data, *, content_type, metadata=None, filename=None):
            self.tried += 1
            if self.tried < 3:
                raise StoreUnavailable("PUT: timed out")
            super().put(key, data, content_type=content_type, filename=filename)

    bucket = ShakyBucket()
    assert ("url" in outbox(bucket, room=room).deliver(WAV), bucket.tried) == (tries == 3, tries)


@pytest.mark.parametrize("error", [StoreForbidden("PUT: AccessDenied"), StoreNoBucket("PUT"), StoreMisplaced("PUT")])
def test_an_upload_that_the_bucket_refuses_is_not_repeated_by_the_worker_nor_by_the_client(error):
    bucket = broken(error)
    with pytest.raises(DeliveryError, match=rf"upload failed \({error.code}\).*1000 bytes.*no repetition helps") as caught:
        outbox(bucket, room=999).deliver(WAV)
    assert (caught.value.code, caught.value.retryable) == ("DELIVERY_REFUSED", False)
    assert len(bucket.calls) == 1


def test_a_url_without_a_bucket_is_refused_before_anything_is_computed():
    with pytest.raises(RequestError, match="S3_BUCKET"):
        delivery.check("url", None)
    delivery.check("url", MemoryStore())
    delivery.check("auto", None)


HOSTILE = ["../../models/x", "a/b", "a b", "", "é", "..", "x" * 300, "\ud800", "a%2fb", 'a"; filename="b', "a\r\nX-Evil: 1"]


@pytest.mark.parametrize("job_id", HOSTILE)
def test_a_job_id_can_leave_neither_its_folder_nor_a_header(job_id):
    stem = delivery.stem_of(Settings(), job_id, datetime(2026, 1, 2, tzinfo=UTC))
    folder, _, name = stem.rpartition("/")
    assert folder == "output/2026-01-02"
    assert len(name) < 120
    assert name.replace("-", "").isalnum()
    assert stem.isascii()


def test_two_job_ids_never_share_a_key():
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert len({delivery.stem_of(Settings(), job_id, now) for job_id in ("a/b", "a-b", "a b", "a:b", "x" * 90, "x" * 91)}) == 6
