"""The job boundary: every job ends once, with a result or a coded error; one GPU slot; a cancel frees it only when the thread ended."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import logging
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from f5_worker import logs, reference, request
from f5_worker.errors import Cancelled, EngineError, OutOfMemory, StoreUnavailable
from f5_worker.service import Service
from f5_worker.settings import Settings
from tests.fakes.memory_store import MemoryStore

RATE = 24_000
WAIT_S = 10


@dataclass
class FakeSpeech:
    samples: np.ndarray
    sample_rate_hz: int = RATE
    segments: list = field(default_factory=list)
    warnings: list = field(default_factory=list)


class FakeEngine:
    """Speaks noise of the seed. `gate` holds every synthesis until it is set; `error` is raised instead of a result."""

    def __init__(self, *, error: BaseException | None = None) -> None:
        self.error = error
        self.gate = threading.Event()
        self.gate.set()
        self.running, self.most_running, self.seen = 0, 0, []
        self.started, self.ended = threading.Semaphore(0), threading.Semaphore(0)
        self._lock = threading.Lock()

    def describe(self):
        return {"device": "cpu", "model": "fake"}

    def synthesize(self, text, voice, options, *, cancelled, on_chunk=lambda _i, _n: None):
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self.seen.append((text, voice, options, logs.job_id.get()))
        self.started.release()
        try:
            while not self.gate.wait(0.01):
                if cancelled():
                    raise Cancelled("stopped")
            if self.error:
                raise self.error
            samples = np.random.default_rng(options.seed).uniform(-0.1, 0.1, RATE // 2).astype(np.float32)
            return FakeSpeech(samples, segments=[(text, 0.0, 0.5)], warnings=[("UNKNOWN_CHARACTERS", "1 character is not spoken")])
        finally:
            with self._lock:
                self.running -= 1
            self.ended.release()


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
    assert {"code": "UNKNOWN_CHARACTERS", "message": "1 character is not spoken"} in result["warnings"]
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


def test_the_same_request_and_seed_give_the_same_bytes():
    subject = service()
    assert run(subject, {"input": "a", "seed": 3})["sha256"] == run(subject, {"input": "a", "seed": 3}, "job-2")["sha256"]


def test_only_the_first_job_is_a_cold_start():
    subject = service()
    assert [run(subject, {"input": "a"})["cold_start"] for _ in range(2)] == [True, False]


def test_a_reference_of_the_request_is_the_voice():
    engine = FakeEngine()
    audio = base64.b64encode(wav()).decode()
    result = run(service(engine), {"input": "a", "ref_audio": audio, "ref_text": "Some words that are spoken."})
    assert result["voice"] == "reference"
    assert engine.seen[0][1].text.startswith("Some words")


def test_without_a_reference_the_packaged_voice_speaks():
    engine = FakeEngine()
    run(service(engine), {"input": "a"})
    assert engine.seen[0][1].text == reference.default_voice().text


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
        (RuntimeError("/home/x/.cache: CUDA error"), "INTERNAL", False),
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


@settings(max_examples=200, deadline=None, database=None)
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
    assert {(text, job_id) for text, _, _, job_id in engine.seen} == {(f"text {i}", f"job-{i}") for i in range(4)}


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


def test_a_job_cancelled_while_it_waits_never_gets_the_gpu():
    engine = FakeEngine()
    engine.gate.clear()
    subject = service(engine)

    async def cancel_the_second():
        first = asyncio.create_task(subject.handle({"id": "first", "input": {"input": "a"}}))
        await _reached(engine.started)
        second = asyncio.create_task(subject.handle({"id": "second", "input": {"input": "b"}}))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        engine.gate.set()
        await first

    asyncio.run(cancel_the_second())
    assert [text for text, *_ in engine.seen] == ["a"]
