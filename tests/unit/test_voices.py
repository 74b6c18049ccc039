"""The voice library: whole or absent, seen by every worker, never outside its prefix."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial

import numpy as np
import pytest
import soundfile

from f5_worker import logs, reference, voice_record
from f5_worker.errors import RequestError, StoreCorrupt, StoreForbidden, StoreUnavailable, VoiceExists, VoiceNotFound
from f5_worker.guard import GuardedStore
from f5_worker.settings import Settings
from f5_worker.voices import VoiceLibrary
from tests.fakes.memory_store import MemoryStore
from tests.turns import taking_turns

RATE = 24_000
TEXT, OTHER_TEXT = "Some words that are spoken here.", "Quite other words are spoken now."
CHANGED_TEXT = "Some words that are told here."


@cache
def wav(hz: float = 220.0, seconds: float = 3.0) -> bytes:
    t = np.arange(int(RATE * seconds)) / RATE
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * hz * t), RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


@cache
def prepared(hz: float, text: str) -> reference.Voice:
    return reference.prepare(wav(hz), text)


def library(bucket, **options) -> VoiceLibrary:
    return VoiceLibrary(GuardedStore(bucket) if bucket is not None else None, Settings(), **options)


def create(bucket, voice_id="anna", *, hz=220.0, text=TEXT, **options):
    return library(bucket).create(voice_id, prepared(hz, text), wav(hz), **options)


def names(bucket, voice_id="anna") -> set[str]:
    return {key.removeprefix(f"voices/{voice_id}/") for key in bucket.objects if key.startswith(f"voices/{voice_id}/")}


def named(record) -> set[str]:
    """All that lies in the folder of a voice from which nothing was left behind."""
    return {"voice.json", record["original"]["name"], record["reference"]["name"]}


def whole(bucket) -> str | None:
    """The first word of the voice; None when there is none. Fails when what is there belongs to different versions."""
    with suppress(VoiceNotFound):
        voice, record = library(bucket).use("anna"), library(bucket).read("anna")
        data = {part: bucket.objects[f"voices/anna/{record[part]['name']}"][0] for part in ("original", "reference")}
        assert [hashlib.sha256(data[part]).hexdigest() for part in data] == [record[part]["sha256"] for part in data]
        hz = next(hz for hz in (220.0, 330.0, 440.0) if wav(hz) == data["original"])
        assert np.allclose(voice.samples, prepared(hz, TEXT).samples, atol=1e-4)
        assert voice.text.strip() in {CHANGED_TEXT, OTHER_TEXT if hz == 440.0 else TEXT}
        return voice.text.split()[0]
    assert "voices/anna/voice.json" not in bucket.objects
    return None


# What a worker does with the voice, each with the number of requests that it makes when there is the voice of the tests.
OVERWRITE = partial(create, hz=440.0, text=OTHER_TEXT, overwrite=True)
CHANGES = {
    "overwrite": (OVERWRITE, 10),
    "repeat": (partial(create, overwrite=True), 10),
    "note": (lambda bucket: library(bucket).update("anna", {"consent": "by mail"}), 6),
    "text": (lambda bucket: library(bucket).update("anna", {"text": CHANGED_TEXT}), 7),
    "delete": (lambda bucket: library(bucket).delete("anna"), 5),
}


def listed(bucket) -> list[str]:
    return [record["id"] for record in library(bucket).list()[0]]


class Faulty:
    """A store whose n-th request fails before it is done, or when it is done and its answer gets lost."""

    def __init__(self, store, at=None, *, done=False):
        self.store, self.at, self.done, self.requests = store, at, done, 0

    def __getattr__(self, method):
        def request(*args, **options):
            self.requests += 1
            if self.requests - 1 != self.at:
                return getattr(self.store, method)(*args, **options)
            if self.done:
                getattr(self.store, method)(*args, **options)
            raise StoreUnavailable("timed out")

        return request


def test_a_voice_is_three_objects_and_its_voice_json_is_the_last():
    bucket = MemoryStore()
    create(bucket, notes={"consent": "Anna, by mail", "name": None})
    puts = [key for method, key in bucket.calls if method == "put"]
    record = json.loads(bucket.objects["voices/anna/voice.json"][0])
    assert puts == [f"voices/anna/{name}" for name in (record["original"]["name"], record["reference"]["name"], "voice.json")]
    versions = [re.fullmatch(rf"{part}-([0-9a-f]{{12}})\.wav", record[part]["name"])[1] for part in ("original", "reference")]
    assert versions[0] == versions[1]
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
    OVERWRITE(bucket)
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


@pytest.mark.parametrize("error", [StoreCorrupt("no JSON"), StoreForbidden("GET: AccessDenied")])
def test_a_bucket_that_answers_is_not_said_to_be_down(error):
    bucket = MemoryStore()
    create(bucket)
    subject = library(bucket)
    subject.use("anna")
    bucket.fail["get"] = error
    with pytest.raises(type(error)):
        subject.use("anna")


def test_a_deleted_voice_that_was_used_in_the_same_moment_is_not_in_memory():
    class Busy(MemoryStore):
        def delete(self, key):
            if key.endswith("voice.json"):
                subject.use("anna")
            super().delete(key)

    bucket = Busy()
    create(bucket)
    subject = library(bucket)
    subject.delete("anna")
    bucket.fail["get"] = StoreUnavailable("timed out")
    with pytest.raises(StoreUnavailable):
        subject.use("anna")


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
    for _ in range(2):  # the second time by itself
        record = OVERWRITE(bucket)
        assert names(bucket) == named(record)
    assert whole(bucket) == "Quite"


@pytest.mark.parametrize("change", CHANGES)
def test_the_faults_of_the_tests_hit_every_request(change):
    act, requests = CHANGES[change]
    bucket = MemoryStore()
    create(bucket)
    counting = Faulty(bucket)
    act(counting)
    assert counting.requests == requests


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize(("change", "at"), [(name, at) for name, (_, requests) in CHANGES.items() for at in range(requests)])
def test_a_change_that_breaks_off_leaves_a_whole_voice_and_its_repetition_nothing_but_recordings_put_in_vain(change, at, done):
    act, _ = CHANGES[change]
    bucket = MemoryStore()
    create(bucket)
    with pytest.raises(StoreUnavailable):
        act(Faulty(bucket, at, done=done))
    assert whole(bucket) in ({"Some", None} if change == "delete" else {"Some", "Quite"})
    with suppress(VoiceNotFound):
        act(bucket)
    left = names(bucket) - (named(library(bucket).read("anna")) if whole(bucket) else set())
    in_vain = min(at + done, 2) if change in {"overwrite", "repeat"} and at + done < 4 else 0  # no voice.json has named them
    assert len(left) == in_vain


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("at", range(10))
@pytest.mark.parametrize("is_new", [False, True], ids=["overwritten", "new"])
def test_a_deletion_leaves_nothing_of_an_attempt_that_broke_off(is_new, at, done):
    bucket = MemoryStore()
    if not is_new:
        create(bucket)
    with suppress(StoreUnavailable):
        OVERWRITE(Faulty(bucket, at, done=done))
    assert not is_new or whole(bucket) in {None, "Quite"}
    with suppress(VoiceNotFound):
        library(bucket).delete("anna")
    assert bucket.objects == {}


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("at", range(9))
def test_a_creation_that_broke_off_can_be_repeated(at, done):
    bucket = MemoryStore()
    with suppress(StoreUnavailable):  # "not found" is an answer that does not get lost
        create(Faulty(bucket, at, done=done))
    assert create(bucket)["id"] == "anna"
    assert whole(bucket) == "Some"


def test_a_creation_that_is_repeated_gives_what_the_first_one_gave_and_writes_nothing():
    bucket = MemoryStore()
    first = create(bucket, notes={"consent": "Anna"})
    before = dict(bucket.objects)
    library(bucket).check_new("anna", wav(), overwrite=False)
    assert create(bucket, notes={"consent": "Anna", "name": None}) == first
    assert bucket.objects == before


@pytest.mark.parametrize("other", [{"hz": 440.0}, {"text": OTHER_TEXT}, {"notes": {"consent": "Bob"}}])
def test_a_creation_that_differs_from_what_stands_is_no_repetition(other):
    bucket = MemoryStore()
    create(bucket, notes={"consent": "Anna"})
    with pytest.raises(VoiceExists):
        create(bucket, **({"notes": {"consent": "Anna"}} | other))


def test_another_recording_is_refused_before_anything_is_made_of_it():
    bucket = MemoryStore()
    create(bucket)
    with pytest.raises(VoiceExists):
        library(bucket).check_new("anna", wav(440.0), overwrite=False)
    bucket.put("voices/anna/voice.json", b"{}", content_type="x/y")
    with pytest.raises(VoiceExists):
        library(bucket).check_new("anna", wav(), overwrite=False)


def test_what_is_left_of_a_deletion_that_broke_off_can_be_deleted():
    bucket = MemoryStore()
    create(bucket)
    with pytest.raises(StoreUnavailable):
        library(Faulty(bucket, 2)).delete("anna")
    assert "voice.json" not in names(bucket)
    assert names(bucket)
    library(bucket).delete("anna")
    assert bucket.objects == {}
    with pytest.raises(VoiceNotFound):
        library(bucket).delete("anna")


def test_the_overwrites_that_could_not_tidy_up_are_tidied_up_by_the_next():
    bucket = MemoryStore()
    for hz in (220.0, 330.0, 440.0):
        with suppress(StoreUnavailable):
            create(Faulty(bucket, 5), hz=hz, overwrite=True)
    assert len(names(bucket)) == 7
    OVERWRITE(bucket)
    assert len(names(bucket)) == 3


def test_only_so_many_replaced_names_are_remembered_the_latest_first():
    old = {"original": {"name": "o"}, "reference": {"name": "r"}, "replaced": [f"{number}" for number in range(20)]}
    assert voice_record.replacing({"replaced": []}, old)["replaced"] == ["o", "r", *(f"{number}" for number in range(18))]


def test_a_worker_that_loses_against_another_takes_its_recordings_away():
    bucket = MemoryStore()
    create(bucket, hz=330.0)
    order = [0] * 3 + [1] * 4 + [0] * 20  # the first has seen the old voice when the second puts its voice.json
    assert taking_turns(bucket, [OVERWRITE, CHANGES["repeat"][0]], order) == []
    assert whole(bucket) == "Quite"
    assert len(names(bucket)) == 3


@pytest.mark.parametrize("change", ["note", "text"])
@pytest.mark.parametrize("after", range(8))
def test_an_overwrite_is_not_taken_back_by_an_update_that_was_late(change, after):
    act, requests = CHANGES[change]
    bucket = MemoryStore()
    create(bucket)
    order = [0] * (requests - 4) + [1] * after + [0] * 30  # the update is about to put its voice.json when the overwrite begins
    errors = taking_turns(bucket, [act, OVERWRITE], order)
    assert all(isinstance(error, VoiceNotFound) for error in errors)  # of the update
    assert whole(bucket) == "Quite"
    assert names(bucket) == named(library(bucket).read("anna"))


@pytest.mark.parametrize(("change", "at"), [(name, at) for name in ("overwrite", "delete") for at in range(CHANGES[name][1])])
def test_a_worker_that_is_late_and_dies_takes_nothing_that_another_has_put_again(change, at):
    bucket = MemoryStore()
    create(bucket)
    late, again = CHANGES[change][0], CHANGES["repeat"][0]
    taking_turns(bucket, [lambda store: late(Faulty(store, at, done=True)), again], [0] * at + [1] * 30)
    last = {("overwrite", 3): "Quite", ("delete", 1): None}  # the request that writes or deletes the voice.json
    assert whole(bucket) == last.get((change, at), "Some")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("second", CHANGES)
@pytest.mark.parametrize("first", CHANGES)
def test_of_two_workers_that_change_a_voice_at_once_the_last_wins(first, second, seed):
    bucket = MemoryStore()
    create(bucket)
    errors = taking_turns(bucket, [CHANGES[first][0], CHANGES[second][0]], seed)
    assert all(isinstance(error, VoiceNotFound) for error in errors)
    assert whole(bucket) or errors or "delete" in {first, second}
    with suppress(VoiceNotFound):
        library(bucket).delete("anna")
    assert bucket.objects == {}


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("is_new", [False, True], ids=["overwritten", "new"])
def test_of_five_workers_that_write_one_voice_at_once_one_wins(is_new, seed):
    bucket = MemoryStore()
    if not is_new:
        create(bucket, hz=330.0)
    creates = [partial(create, hz=hz, text=text, overwrite=not is_new) for hz, text in ((220.0, TEXT), (440.0, OTHER_TEXT)) * 2]
    errors = taking_turns(bucket, [*creates, creates[0]], seed)
    assert all(isinstance(error, VoiceExists | StoreUnavailable) for error in errors)  # to some it may be said to try again
    assert len(errors) < 5
    assert whole(bucket)


def test_of_five_jobs_of_a_worker_that_create_one_voice_at_once_exactly_one_wins():
    class Crowded(MemoryStore):
        """Tells nobody that the voice is not there before all have asked, if they can ask at once."""

        crowd = threading.Barrier(5)

        def head(self, key):
            found = super().head(key)
            with suppress(threading.BrokenBarrierError):
                self.crowd.wait(0.3)
            return found

    bucket = Crowded()
    subject = library(bucket)
    with ThreadPoolExecutor(5) as jobs:
        futures = [jobs.submit(subject.create, "anna", prepared(hz, TEXT), wav(hz)) for hz in (220.0, 440.0, 220.0, 330.0, 440.0)]
    errors = [future.exception() for future in futures]
    winner = next(future.result() for future in futures if future.exception() is None)
    others = [hz for hz in (220.0, 440.0, 220.0, 330.0, 440.0) if hashlib.sha256(wav(hz)).hexdigest() != winner["original"]["sha256"]]
    assert [type(error) for error in errors].count(VoiceExists) == len(others)  # equal ones have made the same voice
    assert names(bucket) == named(winner)


@pytest.mark.parametrize(("change", "after"), [("note", 1), ("text", 1), ("text", 2)])
def test_an_update_that_is_overtaken_by_an_overwrite_changes_the_new_voice(change, after):
    bucket = MemoryStore()
    create(bucket)
    assert taking_turns(bucket, [CHANGES[change][0], OVERWRITE], [0] * after + [1] * 20) == []
    record = library(bucket).read("anna")
    assert (record["consent"] if change == "note" else record["text"].strip()) in {"by mail", CHANGED_TEXT}
    assert record["original"]["sha256"] == hashlib.sha256(wav(440.0)).hexdigest()
    assert library(bucket).use("anna").text == record["text"]


def test_a_deleted_voice_does_not_come_back_by_an_update_in_the_same_moment():
    bucket = MemoryStore()
    create(bucket)
    update, requests = CHANGES["note"]
    for after in range(requests + 1):
        create(bucket, overwrite=True)
        taking_turns(bucket, [update, CHANGES["delete"][0]], [0] * after + [1] * 20)
        assert bucket.objects == {}


def test_when_others_never_stop_changing_the_voice_it_is_said():
    class Restless(MemoryStore):
        """Its recordings vanish, and its folder is never empty."""

        def head(self, key):
            return None

        def delete(self, key):
            super().delete(key)
            self.put("voices/anna/x", b"", content_type="x/y")

    bucket = Restless()
    for change in (create, CHANGES["delete"][0]):
        with pytest.raises(StoreUnavailable, match="try again"):
            change(bucket)


def test_a_voice_whose_recording_is_not_its_own_or_gone_reads_as_absent():
    bucket = MemoryStore()
    key = f"voices/anna/{create(bucket)['reference']['name']}"
    bucket.put(key, wav(440.0), content_type="audio/wav")
    with pytest.raises(VoiceNotFound, match="recording"):
        library(bucket).use("anna")
    bucket.delete(key)
    for use in (lambda: library(bucket).use("anna"), lambda: library(bucket).update("anna", {"text": CHANGED_TEXT})):
        with pytest.raises(VoiceNotFound, match="recording"):
            use()


@pytest.mark.parametrize("after", range(3))
def test_a_reader_in_the_middle_of_an_overwrite_gets_a_whole_voice(after):
    bucket = MemoryStore()
    create(bucket)
    read = []
    taking_turns(bucket, [lambda store: read.append(library(store).use("anna").text), OVERWRITE], [0] * after + [1] * 20)
    assert read[0].startswith("Some" if after == 2 else "Quite")


@pytest.mark.parametrize(
    "name", ["../bob/voice.json", "", None, 7, "voice.json", "reference-0123456789ab.wav/../../x", "reference-0123456789ab.wav\n"]
)
@pytest.mark.parametrize("place", ["reference", "original", "replaced"])
def test_a_voice_json_names_nothing_but_recordings_of_its_voice(place, name):
    bucket = MemoryStore()
    create(bucket, "bob")
    record = create(bucket)
    record[place] = [name] if place == "replaced" else record[place] | {"name": name}
    bucket.put("voices/anna/voice.json", json.dumps(record).encode(), content_type="x/y")
    with pytest.raises(StoreCorrupt):
        library(bucket).use("anna")
    bob = set(names(bucket, "bob"))
    create(bucket, overwrite=True)
    assert whole(bucket)
    assert names(bucket, "bob") == bob


def test_a_voice_has_the_id_of_its_folder_whatever_its_voice_json_says():
    bucket = MemoryStore()
    create(bucket, "bob")
    bucket.put("voices/anna/voice.json", json.dumps(create(bucket) | {"id": "bob"}).encode(), content_type="x/y")
    bob = bucket.objects["voices/bob/voice.json"]
    assert listed(bucket) == ["default", "anna", "bob"]
    assert library(bucket).update("anna", {"name": "Anna"})["id"] == "anna"
    assert bucket.objects["voices/bob/voice.json"] == bob
    assert json.loads(bucket.objects["voices/anna/voice.json"][0])["id"] == "anna"
    assert library(bucket).read("anna")["name"] == "Anna"


def test_a_voice_has_its_warnings_in_the_form_of_every_result_and_speaks_with_them():
    bucket = MemoryStore()
    made = reference.prepare(wav(seconds=1.0), "Route 66.")
    assert "REFERENCE_DIGITS" in dict(made.warnings)
    record = library(bucket).create("anna", made, wav(seconds=1.0))
    shown = [{"code": code, "message": message} for code, message in made.warnings]
    assert [record["warnings"], library(bucket).read("anna")["warnings"]] == [shown, shown]
    assert library(bucket).use("anna").warnings == made.warnings


@pytest.mark.parametrize("raw", [b"{}", b"not json", b"[]", b'{"id": "anna", "text": 1}', b"\xff\xfe", b"null", b'"text"', b"[" * 60_000])
def test_a_foreign_voice_json_is_a_coded_error(raw):
    bucket = MemoryStore()
    create(bucket)
    bucket.put("voices/anna/voice.json", raw, content_type="x/y")
    with pytest.raises(StoreCorrupt):
        library(bucket).use("anna")
    assert listed(bucket) == ["default"]


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
    bucket.put("voices/unfinished/reference-0123456789ab.wav", b"", content_type="x/y")
    assert listed(bucket) == ["default", "anna", "bob"]


def test_a_list_that_is_cut_goes_on_where_it_ended():
    bucket = MemoryStore()
    for voice_id in ("bob", "anna", "anna-b"):
        create(bucket, voice_id)
    pages, after = [], None
    while len(pages) < 3:
        voices, after = library(bucket).list(limit=1, after=after)
        pages.append([record["id"] for record in voices])
    assert (pages, after) == ([["default", "anna"], ["anna-b"], ["bob"]], None)


def test_the_threads_that_read_a_list_log_under_the_jobs_id():
    class Watching(MemoryStore):
        def get(self, key, *, max_bytes):
            seen.append(logs.job_id.get())
            return super().get(key, max_bytes=max_bytes)

    bucket, seen = Watching(), []
    for voice_id in ("anna", "bob"):
        create(bucket, voice_id)
    seen.clear()
    token = logs.job_id.set("job-7")
    listed(bucket)
    logs.job_id.reset(token)
    assert seen == ["job-7", "job-7"]


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
    record = library(bucket).read("anna")
    assert f"voices/anna/{record['reference']['name']}?" in library(bucket).link(record, 600)["url"]
    assert library(None).link(library(None).read("default"), 600) == {}
