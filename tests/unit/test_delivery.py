"""Delivery: a URL with a bucket, inline without, and nothing computed lost for a fault of the bucket."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from f5_worker import delivery
from f5_worker.errors import DeliveryError, RequestError, StoreError, StoreForbidden, StoreUnavailable
from f5_worker.settings import Settings
from tests.fakes.memory_store import MemoryStore

DATA = b"RIFF" + bytes(996)
SMALL = Settings(max_inline_bytes=len(DATA))
TINY = Settings(max_inline_bytes=len(DATA) - 1)


class Bucket(MemoryStore):
    """Also keeps the content types. `error` makes every upload fail."""

    def __init__(self, error: StoreError | None = None) -> None:
        super().__init__(fail={"put": error} if error else {})
        self.content_types: dict[str, str] = {}

    def put(self, key, data, *, content_type, metadata=None):
        super().put(key, data, content_type=content_type, metadata=metadata)
        self.content_types[key] = content_type


def deliver(store, settings=SMALL, **options):
    return delivery.deliver(DATA, "wav", "job-1", store, settings, **options)


def inline(delivered) -> bytes:
    return base64.b64decode(delivered.audio["base64"])


def test_auto_gives_a_url_when_there_is_a_bucket():
    bucket = Bucket()
    delivered = deliver(bucket)
    (key,) = bucket.objects
    assert key == f"output/{datetime.now(UTC):%Y-%m-%d}/job-1.wav"
    assert (bucket.objects[key][0], bucket.content_types[key]) == (DATA, "audio/wav")
    assert delivered.audio["url"].startswith(f"memory://{key}")
    assert delivered.warnings == ()


def test_auto_is_inline_without_a_bucket():
    delivered = deliver(None)
    assert inline(delivered) == DATA
    assert delivered.warnings == ()


def test_a_url_lasts_as_long_as_it_says():
    bucket, before = Bucket(), datetime.now(UTC)
    delivered = deliver(bucket, expires_s=600)
    expires = datetime.fromisoformat(delivered.audio["expires_at"])
    assert 595 < (expires - before).total_seconds() <= 601
    assert 595 < int(delivered.audio["url"].partition("expires=")[2]) <= 600


def test_a_slow_upload_costs_nothing_of_the_urls_time(monkeypatch):
    class Clock(datetime):
        passed = timedelta()

        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 1, 2, tzinfo=tz) + cls.passed

    class SlowBucket(Bucket):
        def put(self, key, data, *, content_type, metadata=None):
            Clock.passed += timedelta(minutes=20)

    monkeypatch.setattr(delivery, "datetime", Clock)
    delivered = deliver(SlowBucket(), expires_s=600)
    assert delivered.audio["expires_at"] == "2026-01-02T00:30:00Z"
    assert delivered.audio["url"].endswith("expires=600")


def test_inline_is_inline_although_there_is_a_bucket():
    bucket = Bucket()
    assert inline(deliver(bucket, mode="inline")) == DATA
    assert bucket.objects == {}


def test_inline_that_does_not_fit_goes_by_url_and_says_so():
    delivered = deliver(Bucket(), TINY, mode="inline")
    assert "url" in delivered.audio
    assert delivered.warnings[0][0] == "INLINE_TOO_LARGE"


@pytest.mark.parametrize("mode", ["auto", "inline"])
def test_what_fits_nowhere_is_an_error_that_names_the_sizes_and_the_setting(mode):
    with pytest.raises(DeliveryError, match=r"1000 bytes, at most 999 .*MAX_INLINE_BYTES.*S3_BUCKET"):
        deliver(None, TINY, mode=mode)


@pytest.mark.parametrize("mode", ["auto", "url"])
@pytest.mark.parametrize("error", [StoreUnavailable("PUT: timed out"), StoreForbidden("PUT: AccessDenied")])
def test_a_failing_bucket_falls_back_to_inline_with_a_warning(mode, error):
    delivered = deliver(Bucket(error), mode=mode)
    assert inline(delivered) == DATA
    assert delivered.warnings[0][0] == error.code


def test_a_failing_bucket_and_too_much_audio_is_one_clear_error():
    with pytest.raises(DeliveryError, match=r"upload failed \(STORE_UNAVAILABLE\).*1000 bytes"):
        deliver(Bucket(StoreUnavailable("PUT: timed out")), TINY)


def test_a_url_without_a_bucket_is_refused_before_anything_is_computed():
    with pytest.raises(RequestError, match="S3_BUCKET"):
        delivery.check("url", None)
    delivery.check("url", Bucket())
    delivery.check("auto", None)


@pytest.mark.parametrize("job_id", ["../../models/x", "a/b", "a b", "", "é", "..", "x" * 300, "\ud800", "a%2fb"])
def test_a_job_id_cannot_leave_its_folder(job_id):
    key = delivery.object_key("output/", job_id, "wav", datetime(2026, 1, 2, tzinfo=UTC))
    folder, _, name = key.rpartition("/")
    assert folder == "output/2026-01-02"
    assert len(name) < 120
    assert name.removesuffix(".wav").replace("-", "").isalnum()
    assert key.isascii()


def test_two_job_ids_never_share_a_key():
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert len({delivery.object_key("output/", job_id, "wav", now) for job_id in ("a/b", "a-b", "a b", "a:b", "x" * 90, "x" * 91)}) == 6
