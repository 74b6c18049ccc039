"""What one speech costs in memory: audio is encoded as it comes, and kept only for those who align words with it; afterwards: nothing."""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import threading
import time
import weakref
from itertools import islice

import numpy as np
import pytest

from f5_worker import audio
from f5_worker.errors import EngineError
from f5_worker.jobs import gpu_slot
from f5_worker.service import Service
from f5_worker.settings import Settings
from tests.fakes.speaker import RATE, FakeEngine

WAIT_S = 5.0
SENTENCES = 6
REQUEST = {"input": "|".join(["Hello."] * SENTENCES), "seed": 3}


class WatchedEngine(FakeEngine):
    """Goes on when what it gave out before the last part is gone, or after WAIT_S; `kept` is how many parts live on then."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[int] = []
        self.spoken: list[bytes] = []

    def _parts(self, *asked):
        given = []
        for part in super()._parts(*asked):
            self.spoken.append(part.samples.tobytes())
            given.append(weakref.ref(part.samples))
            yield part
            del part
            deadline = time.monotonic() + WAIT_S
            while self._alive(given) > 1 and time.monotonic() < deadline:
                threading.Event().wait(0.005)
            self.kept.append(self._alive(given))

    @staticmethod
    def _alive(given) -> int:
        return sum(one() is not None for one in given)


def speech_of(engine: FakeEngine, job_input, slot=None):
    subject = Service(engine, Settings(), None, boot=dict, slot=slot)
    return asyncio.run(subject.handle({"id": "job-1", "input": job_input}))


@pytest.mark.parametrize("stream_format", ["none", "audio"])
def test_no_part_is_kept_after_it_was_encoded(stream_format):
    engine = WatchedEngine()
    result = speech_of(engine, REQUEST | {"stream_format": stream_format})
    assert result["duration_s"] == SENTENCES / 2
    assert max(engine.kept) <= 1


@pytest.mark.parametrize("fmt", sorted(audio.CONTENT_TYPES))
def test_the_audio_is_that_of_the_whole_encoded_at_once(fmt):
    engine = WatchedEngine()
    result = speech_of(engine, REQUEST | {"response_format": fmt, "sample_rate": 16_000})
    whole = np.frombuffer(b"".join(engine.spoken), np.float32)
    assert base64.b64decode(result["audio"]["base64"]) == audio.encode(whole, RATE, fmt, out_rate_hz=16_000)


@pytest.mark.parametrize("error", [None, EngineError("broken")])
def test_the_engine_rests_after_a_job_however_that_ended(error):
    engine, slot = FakeEngine(error=error), gpu_slot()
    assert ("error" in speech_of(engine, REQUEST, slot)) == bool(error)
    slot.shutdown()  # waits for what is queued
    assert engine.rested == 1


class Allocating(FakeEngine):
    """Fails with something in its hands; `kept` is whether that is still there when it rests."""

    def _parts(self, *asked):
        yield from islice(super()._parts(*asked), 1)
        tensor = np.zeros(1)
        self.tensor = weakref.ref(tensor)
        raise EngineError("broken")

    def rest(self) -> None:
        self.kept = self.tensor() is not None


def test_what_a_failed_job_held_is_free_when_the_engine_rests(monkeypatch):
    monkeypatch.setattr(logging.getLogger("f5_worker.service"), "disabled", True)  # pytest keeps what is logged, with the error
    engine, slot = Allocating(), gpu_slot()
    gc.disable()
    try:
        assert "error" in speech_of(engine, REQUEST, slot)
        slot.shutdown()
    finally:
        gc.enable()
    assert engine.kept is False


def test_the_engine_rests_after_every_speech_of_a_batch():
    engine, slot = FakeEngine(), gpu_slot()
    speech_of(engine, {"action": "batch", "requests": [REQUEST, REQUEST]}, slot)
    slot.shutdown()
    assert engine.rested in {2, 3}  # once more after the batch, unless that was still to come
