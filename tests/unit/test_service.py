"""The job boundary: every job ends once, with a result or a coded error; one GPU slot; a cancel frees it only when the thread ended."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import logging
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import handler
from f5_worker import audio, casting, reference, request, speaking
from f5_worker.errors import Cancelled, DeviceFailed, EngineError, FetchRefused, OutOfMemory, ReferenceInvalid, StoreUnavailable
from f5_worker.service import Service
from f5_worker.settings import Settings
from f5_worker.transcribe import Transcript
from tests.fakes.memory_store import MemoryStore
from tests.fakes.speaker import RATE, FakeEngine

WAIT_S = 10


def service(engine=None, *, store=None, **chosen) -> Service:
    return Service(engine or FakeEngine(), Settings(**chosen), store, boot=lambda: {"ready_s": 1.0})


def run(subject: Service, job_input, job_id="job-1"):
    return asyncio.run(subject.handle({"id": job_id, "input": job_input}))


def wav(seconds: float = 4.0) -> bytes:
    t = np.arange(int(RATE * seconds)) / RATE
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 220 * t), RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def test_a_result_says_everything_about_its_audio():
    result = run(service(), {"input": "Hello.", "seed": 7})
    data = base64.b64decode(result["audio"]["base64"])
    samples, rate = soundfile.read(io.BytesIO(data))
    assert (result["id"], result["seed"], result["format"], result["voice"]) == ("job-1", 7, "wav", "default")
    assert (result["sample_rate"], result["duration_s"]) == (rate, 0.5) == (RATE, len(samples) / rate)
    assert result["size_bytes"] == len(data)
    assert result["sha256"] == hashlib.sha256(data).hexdigest()
    assert result["segments"] == [{"text": "Hello.", "start_s": 0.0, "end_s": 0.5}]
    assert {"code": "CHARACTERS_UNKNOWN", "message": "1 character is not spoken"} in result["warnings"]
    assert {"reference", "gpu_wait", "synthesis", "encode", "delivery", "total"} == set(result["timings_ms"])
    json.dumps(result, allow_nan=False, ensure_ascii=False).encode()


def test_with_a_bucket_the_audio_comes_by_url():
    bucket = MemoryStore()
    result = run(service(store=bucket), {"input": "Hello."})
    ((key, (data, _)),) = bucket.objects.items()
    assert result["audio"]["url"].startswith(f"memory://{key}")
    assert hashlib.sha256(data).hexdigest() == result["sha256"]


def test_a_bucket_that_fails_costs_a_warning_and_not_the_audio():
    result = run(service(store=MemoryStore(fail={"put": StoreUnavailable("PUT: timed out")})), {"input": "Hello."})
    assert "base64" in result["audio"]
    assert "STORE_UNAVAILABLE" in {warning["code"] for warning in result["warnings"]}


def test_every_option_reaches_the_engine():
    engine = FakeEngine()
    asked = {"seed": 1, "nfe_step": 7, "cfg_strength": 1.5, "sway_sampling_coef": 0.5, "speed": 2.0, "target_rms": 0.2}
    run(service(engine), {"input": "Hello.", "cross_fade_duration": 0.3} | asked)
    options = engine.seen[0][2]
    assert {name: getattr(options, name) for name in asked} == asked
    assert options.cross_fade_s == 0.3


def test_what_the_caller_asks_for_beyond_the_defaults_reaches_the_engine_too():
    engine = FakeEngine()
    asked = {"duration": 3.0, "normalize_text": False, "language": "en", "allow_tags": True, "loudness": -18.0, "fade": 0.2}
    run(service(engine), {"input": "Hello.", "quality": "fast"} | asked)
    options = engine.seen[0][2]
    assert (options.duration_s, options.normalize, options.language, options.tags) == (3.0, False, "en", True)
    assert (options.longest_silence_s, options.loudness_lufs, options.nfe_step) == (None, -18.0, 7)
    assert options.fade_s == 0.2


def test_silences_are_shortened_when_that_is_asked_for():
    engine = FakeEngine()
    run(service(engine), {"input": "Hello.", "remove_silence": True})
    assert engine.seen[0][2].longest_silence_s == 0.5


def test_segments_are_spoken_in_their_voices():
    engine = FakeEngine()
    audio = base64.b64encode(wav()).decode()
    voices = {"anna": {"ref_audio": audio, "ref_text": "Some words that are spoken."}}
    parts = [{"text": "Hi.", "voice": "anna", "speed": 1.2, "seed": 9, "pause_after": 0.5}, {"text": "Yes."}]
    result = run(service(engine), {"segments": parts, "voices": voices})
    passages, cast, *_ = engine.seen[0]
    assert [(p.text, p.voice, p.speed, p.seed, p.pause_after_s) for p in passages] == [
        ("Hi.", "anna", 1.2, 9, 0.5),
        ("Yes.", None, None, None, 0.0),
    ]
    assert cast["anna"].text.startswith("Some words")
    assert cast[None].text == reference.default_voice().text
    assert [segment["text"] for segment in result["segments"]] == ["Hi.", "Yes."]


def test_the_format_and_rate_that_were_asked_for_are_delivered():
    result = run(service(), {"input": "Hello.", "response_format": "flac", "sample_rate": 16_000})
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(result["audio"]["base64"])))
    assert (result["format"], result["sample_rate"], rate) == ("flac", 16_000, 16_000)
    assert len(samples) / rate == pytest.approx(result["duration_s"], abs=0.01)


def test_raw_pcm_has_the_type_that_openais_api_gives_it():
    bucket = MemoryStore()
    run(service(store=bucket), {"input": "Hello.", "response_format": "pcm"})
    assert [content_type for content_type, _ in bucket.headers.values()] == ["audio/pcm"]


def test_the_bitrate_that_was_asked_for_decides_the_size():
    sizes = [run(service(), {"input": "a", "seed": 1, "response_format": "mp3", "bitrate_kbps": kbps})["size_bytes"] for kbps in (32, 128)]
    assert sizes[1] > 3 * sizes[0]


def test_subtitles_are_delivered_like_the_audio():
    bucket = MemoryStore()
    result = run(service(store=bucket), {"input": "Hello there.", "subtitles": ["srt", "json"]})
    assert {key.rpartition(".")[2] for key in bucket.objects} == {"wav", "srt", "json"}
    (key,) = [key for key in bucket.objects if key.endswith(".srt")]
    assert result["subtitles"]["srt"]["url"].startswith(f"memory://{key}")
    assert "Hello there." in bucket.objects[key][0].decode()
    assert bucket.headers[key] == ("application/x-subrip", "job-1.srt")


def test_subtitles_that_fit_nowhere_are_a_warning_and_the_audio_is_delivered():
    size = run(service(), {"input": "a", "seed": 1})["size_bytes"]
    result = run(service(max_inline_bytes=size + 5), {"input": "a", "seed": 1, "subtitles": ["srt", "vtt"]})
    assert "base64" in result["audio"]
    assert "subtitles" not in result
    told = [warning["message"] for warning in result["warnings"] if warning["code"] == "SUBTITLES_NOT_DELIVERED"]
    assert [message.partition(" ")[0] for message in told] == ["srt:", "vtt:"]


def test_a_url_works_as_long_as_the_request_says():
    result = run(service(store=MemoryStore()), {"input": "a", "url_expires_in": 77})
    assert result["audio"]["url"].endswith("expires=77")


def test_words_without_an_aligner_are_a_warning_and_segments_and_never_invented():
    result = run(service(), {"input": "Hello.", "timestamps": "word"})
    assert "TRANSCRIBER_MISSING" in {warning["code"] for warning in result["warnings"]}
    assert "words" not in result
    assert result["segments"]


def test_the_real_time_factor_is_synthesis_per_second_of_audio():
    result = run(service(), {"input": "Hello."})
    assert result["rtf"] == pytest.approx(result["timings_ms"]["synthesis"] / 1000 / result["duration_s"], abs=1e-4)


ROUTED = {"openai_route": "/v1/audio/speech", "openai_input": {"input": "a"}}


@pytest.mark.parametrize("job_input", [{"input": "a"}, {"action": "batch", "requests": [{"input": "a"}] * 2}, ROUTED])
def test_the_event_loop_runs_on_while_a_request_is_parsed(job_input, monkeypatch):
    async def handled():
        loop, parse, passed = asyncio.get_running_loop(), request.parse, []

        def parse_when_another_coroutine_has_run(*given):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(WAIT_S)
            passed.append(given)
            return parse(*given)

        monkeypatch.setattr(request, "parse", parse_when_another_coroutine_has_run)
        return await service().handle({"id": "job-1", "input": job_input}), passed

    result, passed = asyncio.run(handled())
    assert "error" not in result
    assert len(passed) == (3 if "requests" in job_input else 1)


def test_a_batch_gives_results_and_errors_one_by_one():
    subject = service()
    bad = [{"input": ""}, "no object", {"input": "c", "stream_format": "audio"}, {"action": "health"}]
    result = run(subject, {"action": "batch", "requests": [{"input": "a", "seed": 1}, *bad, {"input": "b", "seed": 2}]})
    assert [entry["index"] for entry in result["results"]] == list(range(6))
    assert [entry.get("output", {}).get("seed") for entry in result["results"]] == [1, None, None, None, None, 2]
    assert [entry["error"].partition(":")[0] for entry in result["results"][1:5]] == ["TEXT_EMPTY", *["INVALID_REQUEST"] * 3]
    assert result["results"][0]["output"]["id"] == "job-1-0"
    assert result["failed"] == 4
    assert "error" not in result


def test_a_request_of_a_batch_that_cannot_be_encoded_does_not_stop_the_next(monkeypatch):
    class Asking(FakeEngine):
        def stream(self, *asked, cancelled, **more):
            told.append(cancelled())
            return super().stream(*asked, cancelled=cancelled, **more)

    engine, told = Asking(ungated=1), []
    engine.gate.clear()  # the first request is still being spoken when its first part is encoded
    write, failed = audio.Recorder.write, []

    def fail_once(recorder, samples):
        if not failed:
            failed.append(samples)
            raise ValueError("no room")
        return write(recorder, samples)

    monkeypatch.setattr(audio.Recorder, "write", fail_once)
    result = run(service(engine), {"action": "batch", "requests": [{"input": "a|b"}, {"input": "c"}]})
    assert result["results"][0]["details"]["code"] == "INTERNAL"
    assert ("audio" in result["results"][1]["output"], told) == (True, [False, False])


def test_a_job_ends_although_what_it_speaks_cannot_be_told(monkeypatch):
    monkeypatch.setattr(speaking, "Passage", None)

    async def handled():
        return await asyncio.wait_for(service().handle({"id": "job-1", "input": {"input": "a"}}), WAIT_S)

    assert asyncio.run(handled())["details"]["code"] == "INTERNAL"


def test_the_results_of_a_batch_share_the_room_inside_the_answer():
    one = run(service(), {"input": "a", "seed": 1})["size_bytes"]
    requests = [{"input": "a", "seed": 1}] * 2
    result = run(service(max_inline_bytes=one * 3 // 2), {"action": "batch", "requests": requests})
    assert "audio" in result["results"][0]["output"]
    assert result["results"][1]["details"] == {"code": "RESULT_TOO_LARGE", "retryable": False}


def test_the_bucket_beside_the_input_is_used_as_the_one_inside_it(caplog):
    theirs, opened = MemoryStore(), []

    def new_store(s3):
        opened.append(s3)
        return theirs

    ours = MemoryStore()
    subject = Service(FakeEngine(), Settings(loopback_urls=True), ours, boot=dict, new_store=new_store)
    config = {"accessId": "their-key-id", "accessSecret": "their-secret", "bucketName": "their-bucket", "endpointUrl": "http://127.0.0.1:9"}
    call = {"openai_route": "/v1/audio/speech", "openai_input": {"model": "tts-1", "voice": "default", "input": "a"}}
    jobs = [
        {"input": {"input": "a"}, "s3Config": config},
        {"input": {"input": "a", "s3Config": config}},
        {"input": call, "s3Config": config},
        {"input": call | {"openai_input": {"input": "a", "s3Config": config}}},
    ]
    with caplog.at_level(logging.DEBUG):
        for job in jobs:
            result = asyncio.run(subject.handle({"id": "job-1", **job}))
            assert "url" in result["audio"], result
    assert len(theirs.calls) > 0
    assert ours.calls == []
    assert (opened[0].bucket, opened[0].access_key_id, opened[0].secret_access_key) == ("their-bucket", "their-key-id", "their-secret")
    assert "their-secret" not in caplog.text + repr(opened)


def test_a_bucket_of_the_request_that_moves_into_this_network_while_the_job_speaks_is_not_written_to(monkeypatch):
    def public_addresses(*_):
        if engine.seen:
            raise FetchRefused("not public")
        return ["192.0.2.1"]

    monkeypatch.setattr(speaking, "public_addresses", public_addresses)
    engine, theirs = FakeEngine(), MemoryStore()
    subject = Service(engine, Settings(), None, boot=dict, new_store=lambda _s3: theirs)
    result = run(subject, {"input": "a", "s3Config": OWN_BUCKET | {"endpointUrl": "https://example.com"}})
    assert "base64" in result["audio"]
    assert "STORE_UNAVAILABLE" in {warning["code"] for warning in result["warnings"]}
    assert theirs.calls == []


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9", "https://127.0.0.1:9", "https://10.0.0.1", "https://[::1]", "https://user:pw@example.org"]
)
def test_a_bucket_of_the_request_is_no_way_into_this_network(endpoint):
    config = {"accessId": "k", "accessSecret": "their-secret", "bucketName": "their-bucket", "endpointUrl": endpoint}
    opened = []
    subject = Service(FakeEngine(), Settings(), None, boot=dict, new_store=lambda s3: opened.append(s3) or MemoryStore())
    result = run(subject, {"input": "a", "s3Config": config})
    assert result["details"]["retryable"] is False
    assert "their-secret" not in json.dumps(result)
    assert opened == []


OWN_BUCKET = {"accessId": "k", "accessSecret": "their-secret", "bucketName": "their-bucket"}


def test_the_address_of_a_bucket_of_the_request_is_used_as_it_was_checked(monkeypatch):
    monkeypatch.setattr(speaking, "public_addresses", lambda *_: ["192.0.2.1"])
    opened = []
    subject = Service(FakeEngine(), Settings(), None, boot=dict, new_store=lambda s3: opened.append(s3) or MemoryStore())
    run(subject, {"input": "a", "s3Config": OWN_BUCKET | {"endpointUrl": "https://exämple.com:444/"}})
    assert opened[0].endpoint_url == "https://xn--exmple-cua.com:444"


def test_an_address_that_the_client_of_buckets_refuses_ends_the_job_before_it_speaks(monkeypatch, caplog):
    monkeypatch.setattr(speaking, "public_addresses", lambda *_: ["192.0.2.1"])
    engine = FakeEngine()
    subject = Service(engine, Settings(), None, boot=dict, new_store=handler.callers_store)
    result = run(subject, {"input": "a", "s3Config": OWN_BUCKET | {"endpointUrl": "https://a_b.example.com"}})
    assert result["error"].startswith("INVALID_REQUEST: s3Config")
    assert engine.seen == []
    assert "a_b.example" not in caplog.text + json.dumps(result)


def test_only_actions_that_need_the_model_wait_for_the_gpu():
    engine = FakeEngine()
    engine.gate.clear()
    subject = service(engine, store=MemoryStore())

    async def while_the_gpu_is_taken():
        speaking = asyncio.create_task(subject.handle({"id": "long", "input": {"input": "a"}}))
        await _reached(engine.started)
        asked = ["health", "models.list", "voices.list"]
        answers = [await asyncio.wait_for(subject.handle({"id": name, "input": {"action": name}}), WAIT_S) for name in asked]
        engine.gate.set()
        await speaking
        return answers

    health, models, voices = asyncio.run(while_the_gpu_is_taken())
    assert health["status"] == "ok"
    assert models["models"][0]["id"] == Settings().model
    assert [voice["id"] for voice in voices["voices"]] == ["default"]


def test_an_error_of_the_bucket_names_none_of_its_keys():
    store = MemoryStore(fail={"get": StoreUnavailable("GET voices/anna/voice.json: timed out")})
    result = run(service(store=store), {"input": "a", "voice": "anna"})
    assert result["error"].startswith("STORE_UNAVAILABLE: ")
    assert result["details"] == {"code": "STORE_UNAVAILABLE", "retryable": True}
    assert "voices/" not in json.dumps(result)


class FakeTranscriber:
    def __init__(self):
        self.asked = []

    @contextmanager
    def loaded(self):
        yield self

    def transcribe(self, samples, rate_hz, language=None, cancelled=None):
        self.asked.append((rate_hz, language, threading.current_thread().name))
        return Transcript("These are the words.", "en")


def test_transcribing_takes_the_gpu_slot():
    heard = FakeTranscriber()
    subject = Service(FakeEngine(), Settings(), None, boot=dict, transcriber=heard)
    result = run(subject, {"action": "transcribe", "ref_audio": base64.b64encode(wav()).decode(), "language": "en"})
    assert (result["text"], result["language"], result["duration_s"]) == ("These are the words.", "en", 4.0)
    ((_, language, thread),) = heard.asked
    assert (language, thread.startswith("gpu")) == ("en", True)


def test_a_reference_without_words_is_transcribed_once_in_the_gpu_slot():
    heard = FakeTranscriber()
    engine = FakeEngine()
    subject = Service(engine, Settings(), None, boot=dict, transcriber=heard)
    audio = base64.b64encode(wav(3.1)).decode()
    for _ in range(2):
        assert "audio" in run(subject, {"input": "a", "ref_audio": audio})
    assert engine.seen[0][1][None].text.startswith("These are the words.")
    ((_, _, thread),) = heard.asked
    assert thread.startswith("gpu")


def test_the_language_of_the_text_is_not_taken_for_that_of_the_reference():
    heard = FakeTranscriber()
    subject = Service(FakeEngine(), Settings(), None, boot=dict, transcriber=heard)
    assert "audio" in run(subject, {"input": "a", "language": "fr", "ref_audio": base64.b64encode(wav(3.1)).decode()})
    assert [language for _, language, _ in heard.asked] == [None]


def test_a_recording_that_is_too_long_to_transcribe_is_refused_and_not_cut(monkeypatch):
    monkeypatch.setattr(casting, "MAX_TRANSCRIBED_S", 2.0)
    heard = FakeTranscriber()
    subject = Service(FakeEngine(), Settings(), None, boot=dict, transcriber=heard)
    answers = [run(subject, {"action": "transcribe", "ref_audio": base64.b64encode(wav(s)).decode()}) for s in (2.0, 2.1)]
    assert answers[0]["text"] == "These are the words."
    assert answers[1]["error"].startswith("REFERENCE_INVALID: ")
    assert len(heard.asked) == 1


def test_a_cancelled_transcription_is_told_to_stop():
    class Waiting(FakeTranscriber):
        def transcribe(self, samples, rate_hz, language=None, cancelled=None):
            started.release()
            stopped = threading.Event()
            for _ in range(WAIT_S * 100):
                if cancelled():
                    ended.release()
                    raise Cancelled("stopped")
                stopped.wait(0.01)

    started, ended = threading.Semaphore(0), threading.Semaphore(0)
    subject = Service(FakeEngine(), Settings(), None, boot=dict, transcriber=Waiting())

    async def cancel():
        asked = {"action": "transcribe", "ref_audio": base64.b64encode(wav()).decode()}
        job = asyncio.create_task(subject.handle({"id": "job-1", "input": asked}))
        await _reached(started)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        await _reached(ended)

    asyncio.run(cancel())


def test_recordings_are_decoded_two_at_a_time(monkeypatch):
    running, most = [], []
    third = threading.Event()

    def prepare(_run, data, _text, _language):
        running.append(data)
        most.append(len(running))
        if len(running) > 2:
            third.set()
        third.wait(0.1)
        running.remove(data)
        return reference.default_voice()

    monkeypatch.setattr(casting, "prepare", prepare)
    voices = {f"v{i}": {"ref_audio": base64.b64encode(b"%d" % i).decode()} for i in range(6)}
    assert "audio" in run(service(), {"segments": [{"text": "a", "voice": name} for name in voices], "voices": voices})
    assert (len(most), max(most)) == (6, 2)


def test_recordings_of_a_failed_job_that_wait_for_their_turn_are_not_decoded(monkeypatch):
    begun, gate = [], threading.Event()

    def prepare(_run, data, _text, _language):
        begun.append(data)
        if data == b"0":
            raise ReferenceInvalid("noise")
        gate.wait(WAIT_S)
        return reference.default_voice()

    monkeypatch.setattr(casting, "prepare", prepare)
    voices = {f"v{i}": {"ref_audio": base64.b64encode(b"%d" % i).decode()} for i in range(6)}
    subject = service()
    assert "error" in run(subject, {"segments": [{"text": "a", "voice": name} for name in voices], "voices": voices})
    gate.set()
    subject._run.recordings.shutdown()
    assert len(begun) <= 3  # two at once, and one that began before the failure was known


RAW, WORDS = "voices/raw/anna.wav", "Some words that are spoken."


def test_a_recording_in_the_bucket_is_the_voice():
    bucket, engine = MemoryStore(), FakeEngine()
    bucket.put(RAW, wav(), content_type="audio/wav")
    assert "audio" in run(service(engine, store=bucket), {"input": "a", "ref_audio": {"s3_key": RAW}, "ref_text": WORDS})
    voice = engine.seen[0][1][None]
    assert (voice.text.strip(), round(voice.seconds)) == (WORDS, 4)


def test_a_recording_that_is_not_in_the_bucket_or_too_large_is_refused(monkeypatch):
    bucket, asked = MemoryStore(), {"input": "a", "ref_audio": {"s3_key": RAW}, "ref_text": WORDS}
    assert run(service(store=bucket), asked)["error"].startswith("INVALID_REQUEST: ref_audio: there is no object")
    bucket.put(RAW, wav(), content_type="audio/wav")
    monkeypatch.setattr(casting, "MAX_REFERENCE_BYTES", len(wav()) - 1)
    assert f"more than {len(wav()) - 1} bytes" in run(service(store=bucket), asked)["error"]
    monkeypatch.setattr(casting, "MAX_REFERENCE_BYTES", len(wav()))
    assert "audio" in run(service(store=bucket), asked)


def test_a_voice_is_created_changed_read_and_removed():
    bucket = MemoryStore()
    bucket.put(RAW, wav(), content_type="audio/wav")
    subject = service(store=bucket)
    asked = {"action": "voices.create", "voice": "anna", "ref_audio": {"s3_key": RAW}, "ref_text": WORDS, "consent": "Anna"}
    created = run(subject, asked)
    assert (created["id"], created["text"].strip(), created["consent"]) == ("anna", WORDS, "Anna")
    assert run(subject, asked, "job-2") == created
    other = asked | {"ref_audio": base64.b64encode(wav(5.0)).decode()}
    assert run(subject, other)["details"] == {"code": "VOICE_EXISTS", "retryable": False}
    changed = run(subject, {"action": "voices.update", "voice": "anna", "name": "A.", "ref_text": "Other words that are spoken."})
    read = run(subject, {"action": "voices.get", "voice": "anna"})
    assert (changed["name"], changed["consent"], read["text"].strip()) == ("A.", "Anna", "Other words that are spoken.")
    assert "url" in read
    assert run(subject, {"action": "voices.delete", "voice": "anna"}) == {"id": "anna", "deleted": True}
    assert list(bucket.objects) == [RAW]
    for action in ("voices.update", "voices.delete"):
        asked = {"action": action, "voice": "anna"} | ({"name": "x"} if action == "voices.update" else {})
        assert run(subject, asked)["details"]["code"] == "VOICE_NOT_FOUND"


def test_a_list_of_voices_says_where_it_goes_on():
    bucket = MemoryStore()
    subject = service(store=bucket)
    recording = {"ref_audio": base64.b64encode(wav()).decode(), "ref_text": WORDS}
    for name in ("anna", "bob"):
        run(subject, {"action": "voices.create", "voice": name} | recording)
    first = run(subject, {"action": "voices.list", "limit": 1})
    rest = run(subject, {"action": "voices.list", "limit": 1, "after": first["next"]})
    assert [[voice["id"] for voice in page["voices"]] for page in (first, rest)] == [["default", "anna"], ["bob"]]
    assert "next" not in rest


@pytest.mark.parametrize(
    ("job_input", "field"),
    [({"endpoint": "list_voices"}, "endpoint"), ({"action": "voices.get", "local_voice": "default.wav"}, "local_voice")],
)
def test_every_action_tells_of_deprecated_fields(job_input, field):
    (warning,) = run(service(store=MemoryStore()), job_input)["warnings"]
    assert (warning["code"], warning["message"].split()[0]) == ("DEPRECATED_FIELD", field)


def test_transcribing_without_a_transcriber_is_a_coded_error():
    result = run(service(), {"action": "transcribe", "ref_audio": base64.b64encode(wav()).decode()})
    assert result["details"] == {"code": "TRANSCRIBER_MISSING", "retryable": False}


def test_the_same_request_and_seed_give_the_same_bytes():
    subject = service()
    assert run(subject, {"input": "a", "seed": 3})["sha256"] == run(subject, {"input": "a", "seed": 3}, "job-2")["sha256"]


@pytest.mark.parametrize("job_input", [{"input": "a"}, {"action": "batch", "requests": [{"input": "a"}] * 2}])
def test_a_job_that_is_handed_out_twice_makes_the_same_bytes(job_input):
    made = []
    for _worker in range(2):
        bucket = MemoryStore()
        run(service(store=bucket), job_input)
        made.append({key: data for key, (data, _) in bucket.objects.items()})
    assert made[0] == made[1] != {}


def test_every_job_and_every_request_of_a_batch_has_a_seed_of_its_own():
    subject = service()
    batch = run(subject, {"action": "batch", "requests": [{"input": "a"}] * 2})["results"]
    seeds = [entry["output"]["seed"] for entry in batch] + [run(subject, {"input": "a"}, f"job-{i}")["seed"] for i in range(2)]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_jobs_without_an_id_share_neither_seed_nor_key():
    bucket = MemoryStore()
    results = [asyncio.run(service(store=bucket).handle({"input": {"input": "a"}})) for _ in range(2)]
    assert len({result["seed"] for result in results}) == len({result["id"] for result in results}) == len(bucket.objects) == 2


def test_only_the_first_job_is_a_cold_start():
    subject = service()
    assert [run(subject, {"input": "a"})["cold_start"] for _ in range(2)] == [True, False]


def test_a_reference_of_the_request_is_the_voice():
    engine = FakeEngine()
    audio = base64.b64encode(wav()).decode()
    result = run(service(engine), {"input": "a", "ref_audio": audio, "ref_text": "Some words that are spoken."})
    assert result["voice"] == "reference"
    assert engine.seen[0][1][None].text.startswith("Some words")


def test_without_a_reference_the_packaged_voice_speaks():
    engine = FakeEngine()
    run(service(engine), {"input": "a"})
    assert engine.seen[0][1][None].text == reference.default_voice().text


@pytest.mark.parametrize(
    ("job_input", "code"),
    [
        ({}, "TEXT_EMPTY"),
        ({"input": "a" * 100_000}, "TEXT_TOO_LONG"),
        ({"input": "a", "pitch": 2}, "INVALID_REQUEST"),
        ({"input": "a", "speed": "fast"}, "INVALID_REQUEST"),
        ({"input": "a", "ref_text": "words"}, "INVALID_REQUEST"),
        ({"input": "a", "delivery": "url"}, "INVALID_REQUEST"),
        ({"input": "a", "voice": "nobody"}, "VOICE_NOT_FOUND"),
        ({"input": "a", "ref_audio": "bm8gYXVkaW8=", "ref_text": "words"}, "REFERENCE_INVALID"),
        (None, "INVALID_REQUEST"),
        ("Hello.", "INVALID_REQUEST"),
    ],
)
def test_a_bad_job_gets_a_coded_error_and_never_the_gpu(job_input, code):
    engine = FakeEngine()
    result = run(service(engine), job_input)
    assert result["error"].startswith(f"{code}: ")
    assert result["details"] == {"code": code, "retryable": False}
    assert engine.seen == []


def test_a_job_without_an_input_or_an_id_gets_an_error_too():
    assert asyncio.run(service().handle({}))["error"].startswith("INVALID_REQUEST")


@pytest.mark.parametrize(
    ("error", "code", "refresh"),
    [
        (OutOfMemory("the GPU has no room for this text"), "OUT_OF_MEMORY", True),
        (MemoryError(), "OUT_OF_MEMORY", True),
        (EngineError("the model gave no numbers"), "ENGINE_FAILED", False),
        (DeviceFailed("the model failed: RuntimeError"), "DEVICE_FAILED", True),
        (RuntimeError("/home/x/.cache: CUDA error: an illegal memory access was encountered"), "DEVICE_FAILED", True),
        (RuntimeError("/home/x/.cache: no such thing"), "INTERNAL", False),
        (KeyError("x"), "INTERNAL", False),
    ],
)
def test_an_error_of_the_engine_is_a_string_with_a_code(error, code, refresh):
    result = run(service(FakeEngine(error=error)), {"input": "a"})
    assert result["error"].startswith(f"{code}: ")
    assert result.get("refresh_worker", False) is refresh
    assert "/home" not in json.dumps(result)
    assert "Traceback" not in json.dumps(result)


def test_a_failed_job_leaves_the_worker_serving():
    engine = FakeEngine(error=RuntimeError("once"))
    subject = service(engine)
    run(subject, {"input": "a"})
    engine.error = None
    assert "audio" in run(subject, {"input": "a"})


def test_the_cause_is_in_the_log_and_the_users_words_are_not(caplog):
    with caplog.at_level(logging.INFO, logger="f5_worker"):
        run(service(FakeEngine(error=RuntimeError("the cause"))), {"input": "my private words"})
        run(service(), {"input": "my private words", "my private field": 1})
    assert "the cause" in caplog.text
    assert "private" not in caplog.text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from([*request.Speech.model_fields, "text"]) | st.text(st.characters())


@settings(max_examples=200)
@given(st.dictionaries(_NAMES, _JSON | st.just("a"), max_size=5) | _JSON)
def test_whatever_a_job_holds_it_ends_with_a_payload_that_can_be_sent(job_input):
    result = run(service(), job_input)
    assert isinstance(result.get("error", ""), str)
    assert ("error" in result) != ("audio" in result or "status" in result)
    json.dumps(result, ensure_ascii=False, allow_nan=False).encode()


def test_health_needs_no_gpu_and_names_the_boot():
    engine = FakeEngine()
    result = run(service(engine), {"action": "health"})
    assert (result["status"], result["boot"], result["engine"]["device"]) == ("ok", {"ready_s": 1.0}, "cpu")
    assert engine.seen == []


def test_jobs_at_once_take_turns_on_the_gpu_and_each_keeps_its_id():
    engine = FakeEngine()
    subject = service(engine)

    async def both():
        return await asyncio.gather(*(subject.handle({"id": f"job-{i}", "input": {"input": f"text {i}", "seed": i}}) for i in range(4)))

    results = asyncio.run(both())
    assert [r["seed"] for r in results] == [0, 1, 2, 3]
    assert engine.most_running == 1
    assert {(passages[0].text, job_id) for passages, _, _, job_id in engine.seen} == {(f"text {i}", f"job-{i}") for i in range(4)}


async def _reached(semaphore: threading.Semaphore) -> None:
    assert await asyncio.to_thread(semaphore.acquire, timeout=WAIT_S)


def test_a_cancelled_job_ends_its_thread_and_then_frees_the_gpu():
    engine = FakeEngine()
    engine.gate.clear()
    subject = service(engine)

    async def cancel_the_first():
        first = asyncio.create_task(subject.handle({"id": "first", "input": {"input": "a"}}))
        await _reached(engine.started)
        second = asyncio.create_task(subject.handle({"id": "second", "input": {"input": "b"}}))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await _reached(engine.ended)
        engine.gate.set()
        return await asyncio.wait_for(second, WAIT_S)

    assert asyncio.run(cancel_the_first())["id"] == "second"
    assert engine.most_running == 1


@pytest.mark.parametrize("job_input", [{"input": "a"}, {"action": "batch", "requests": [{"input": "a"}] * 2}, ROUTED])
def test_a_cancelled_job_ends_in_the_log_once(job_input, caplog):
    engine = FakeEngine()
    engine.gate.clear()

    async def cancel():
        job = asyncio.create_task(service(engine).handle({"id": "job-1", "input": job_input}))
        await _reached(engine.started)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        await _reached(engine.ended)

    with caplog.at_level(logging.INFO, logger="f5_worker"):
        asyncio.run(cancel())
    assert caplog.text.count("job.end outcome=cancelled") == 1


def test_a_job_cancelled_while_it_waits_never_gets_the_gpu():
    engine = FakeEngine()
    engine.gate.clear()
    subject = service(engine)

    async def cancel_the_second():
        first = asyncio.create_task(subject.handle({"id": "first", "input": {"input": "a"}}))
        await _reached(engine.started)
        second = asyncio.create_task(subject.handle({"id": "second", "input": {"input": "b"}}))
        async with asyncio.timeout(WAIT_S):
            while not subject._run.gpu._work_queue.qsize():  # noqa: ASYNC110 - until it waits for the slot, of which nobody is told
                await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        engine.gate.set()
        await first

    asyncio.run(cancel_the_second())
    assert [passages[0].text for passages, *_ in engine.seen] == ["a"]
