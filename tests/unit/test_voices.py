"""The voice library: whole or absent, seen by every worker, never outside its prefix."""

from __future__ import annotations

import io
import json
from contextlib import suppress

import numpy as np
import pytest
import soundfile

from f5_worker import reference
from f5_worker.errors import RequestError, StoreCorrupt, StoreUnavailable, VoiceExists, VoiceNotFound
from f5_worker.guard import GuardedStore
from f5_worker.settings import Settings
from f5_worker.voices import VoiceLibrary
from tests.fakes.memory_store import MemoryStore

RATE = 24_000
TEXT = "Some words that are spoken here."


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("f5_worker.voices._OVERWRITE_S", 0.0)


def wav(hz: float = 220.0, seconds: float = 3.0) -> bytes:
    t = np.arange(int(RATE * seconds)) / RATE
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * hz * t), RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def library(bucket, **options) -> VoiceLibrary:
    return VoiceLibrary(GuardedStore(bucket) if bucket is not None else None, Settings(), **options)


def create(bucket, voice_id="anna", *, hz=220.0, text=TEXT, **options):
    data = wav(hz)
    return library(bucket).create(voice_id, reference.prepare(data, text), data, **options)


def test_a_voice_is_three_objects_and_its_voice_json_is_the_last():
    bucket = MemoryStore()
    create(bucket, notes={"consent": "Anna, by mail", "name": None})
    puts = [key for method, key in bucket.calls if method == "put"]
    assert set(puts) == {"voices/anna/original.wav", "voices/anna/reference.wav", "voices/anna/voice.json"}
    assert puts[-1] == "voices/anna/voice.json"
    record = json.loads(bucket.objects["voices/anna/voice.json"][0])
    assert (record["consent"], record["transcribed"], "name" in record) == ("Anna, by mail", False, False)
    assert record["quality"]["snr_db"] >= 0


def test_a_worker_that_starts_later_speaks_with_it():
    bucket = MemoryStore()
    create(bucket)
    voice, made = library(bucket).use("anna"), reference.prepare(wav(), TEXT)
    assert (voice.text, voice.sample_rate_hz, len(voice.samples)) == (made.text, RATE, len(made.samples))
    assert np.allclose(voice.samples, made.samples, atol=1e-4)
    assert voice.quality == made.quality


def test_a_voice_in_memory_is_neither_fetched_nor_prepared_again():
    bucket = MemoryStore()
    create(bucket)
    subject = library(bucket)
    first = subject.use("anna")
    before = len(bucket.calls)
    assert subject.use("anna") is first
    assert bucket.calls[before:] == [("get", "voices/anna/voice.json")]


def test_what_another_worker_overwrote_is_seen_at_once():
    bucket = MemoryStore()
    create(bucket)
    subject = library(bucket)
    subject.use("anna")
    create(bucket, hz=440.0, text="Quite other words are spoken now.", overwrite=True)
    assert subject.use("anna").text.startswith("Quite other")


def test_what_another_worker_deleted_is_gone_at_once():
    bucket = MemoryStore()
    create(bucket)
    subject = library(bucket)
    subject.use("anna")
    library(bucket).delete("anna")
    with pytest.raises(VoiceNotFound):
        subject.use("anna")
    assert bucket.objects == {}


def test_deleting_begins_with_the_voice_json():
    bucket = MemoryStore()
    create(bucket)
    library(bucket).delete("anna")
    assert next(key for method, key in bucket.calls if method == "delete") == "voices/anna/voice.json"


def test_while_the_bucket_is_down_a_voice_in_memory_speaks_with_a_warning():
    bucket = MemoryStore()
    create(bucket)
    subject = library(bucket)
    subject.use("anna")
    bucket.fail["get"] = StoreUnavailable("timed out")
    assert "VOICE_NOT_CHECKED" in dict(subject.use("anna").warnings)
    with pytest.raises(StoreUnavailable):
        library(bucket).use("anna")


def test_an_id_is_taken_once_unless_overwriting_is_asked_for():
    bucket = MemoryStore()
    create(bucket)
    before = dict(bucket.objects)
    with pytest.raises(VoiceExists, match="overwrite"):
        create(bucket, hz=440.0)
    assert bucket.objects == before
    create(bucket, hz=440.0, overwrite=True)


def test_an_overwritten_voice_leaves_no_object_of_the_old_one():
    bucket = MemoryStore()
    create(bucket)
    bucket.put("voices/anna/original.mp3", b"old", content_type="x/y")
    create(bucket, overwrite=True)
    assert set(bucket.objects) == {f"voices/anna/{name}" for name in ("original.wav", "reference.wav", "voice.json")}


def test_a_voice_that_was_left_half_overwritten_reads_as_absent():
    bucket = MemoryStore()
    create(bucket)
    bucket.put("voices/anna/reference.wav", wav(440.0), content_type="audio/wav")
    with pytest.raises(VoiceNotFound, match="half-written"):
        library(bucket).use("anna")


def test_a_reader_in_the_middle_of_an_overwrite_gets_the_new_voice():
    class Overwriting(MemoryStore):
        def get(self, key, *, max_bytes):
            data = super().get(key, max_bytes=max_bytes)
            if key.endswith("reference.wav") and later:
                self.objects |= later
                later.clear()
                return wav(440.0)  # already the new recording under the old voice.json
            return data

    new = MemoryStore()
    create(new, hz=440.0, text="Quite other words are spoken now.")
    later = dict(new.objects)
    bucket = Overwriting()
    old = MemoryStore()
    create(old)
    bucket.objects |= old.objects
    assert library(bucket).use("anna").text.startswith("Quite other")


@pytest.mark.parametrize("raw", [b"{}", b"not json", b"[]", b'{"id": "anna", "text": 1}', b"\xff\xfe", b"null", b'"text"'])
def test_a_foreign_voice_json_is_a_coded_error(raw):
    bucket = MemoryStore()
    create(bucket)
    bucket.put("voices/anna/voice.json", raw, content_type="x/y")
    with pytest.raises(StoreCorrupt):
        library(bucket).use("anna")
    assert [record["id"] for record in library(bucket).list()] == ["default"]


@pytest.mark.parametrize("field", ["quality", "warnings"])
@pytest.mark.parametrize("value", [None, [1], {"x": 1}, "text", 7])
def test_a_voice_json_with_a_broken_report_is_usable_or_a_coded_error(field, value):
    bucket = MemoryStore()
    record = create(bucket) | {field: value}
    bucket.put("voices/anna/voice.json", json.dumps(record).encode(), content_type="x/y")
    with suppress(StoreCorrupt):
        assert library(bucket).use("anna").text


@pytest.mark.parametrize("voice_id", ["../models", "a/b", "", "..", "a.b", "x" * 65, "-a", "é"])
def test_an_id_cannot_leave_the_library(voice_id):
    bucket = MemoryStore()
    with pytest.raises(RequestError):
        create(bucket, voice_id)
    with pytest.raises(VoiceNotFound):
        library(bucket).use(voice_id)
    with pytest.raises(RequestError):
        library(bucket).delete(voice_id)
    assert bucket.calls == []


def test_the_built_in_voice_needs_no_bucket_and_cannot_be_changed():
    assert library(None).use("default").text
    assert library(None).read("default")["built_in"]
    for change in (lambda: create(MemoryStore(), "default"), lambda: library(MemoryStore()).delete("default")):
        with pytest.raises(RequestError, match="built-in"):
            change()


def test_without_a_bucket_there_are_no_other_voices():
    with pytest.raises(VoiceNotFound):
        library(None).use("anna")
    with pytest.raises(RequestError, match="S3_BUCKET"):
        create(None)


def test_the_list_names_every_whole_voice_the_built_in_one_first():
    bucket = MemoryStore()
    for voice_id in ("bob", "anna"):
        create(bucket, voice_id)
    bucket.put("voices/unfinished/reference.wav", b"", content_type="x/y")
    assert [record["id"] for record in library(bucket).list()] == ["default", "anna", "bob"]


def test_an_update_changes_the_notes_and_the_text_and_nothing_else():
    bucket = MemoryStore()
    create(bucket, notes={"consent": "Anna"})
    library(bucket).update("anna", {"name": "Anna B.", "consent": None, "text": "some words  that are told here"})
    record = library(bucket).read("anna")
    assert (record["name"], record["consent"], record["text"]) == ("Anna B.", "Anna", "some words that are told here. ")
    assert library(bucket).use("anna").text == record["text"]


def test_updating_or_deleting_what_is_not_there_is_an_error():
    for change in (lambda: library(MemoryStore()).update("anna", {"name": "x"}), lambda: library(MemoryStore()).delete("anna")):
        with pytest.raises(VoiceNotFound):
            change()


def test_the_memory_is_bounded_and_the_least_recently_used_voice_goes_first():
    bucket = MemoryStore()
    for voice_id in ("a", "b", "c"):
        create(bucket, voice_id)
    size = library(bucket).use("a").samples.nbytes
    subject = library(bucket, max_cache_bytes=2 * size)
    for voice_id in ("a", "b", "a", "c"):
        subject.use(voice_id)
    assert list(subject._cache) == ["a", "c"]


def test_a_link_of_a_voice_plays_its_prepared_recording():
    bucket = MemoryStore()
    create(bucket)
    assert "voices/anna/reference.wav" in library(bucket).link("anna", 600)["url"]
    assert library(bucket).link("default", 600) == {}
