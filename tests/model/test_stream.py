"""Speech in parts: what a part holds is final, the parts are the whole, and several voices, jobs and long texts change nothing of it."""

from __future__ import annotations

import asyncio
import base64
import gc
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from f5_worker import heap
from f5_worker.audio import Samples
from f5_worker.engine import Engine, Options, Part, Passage, Speech
from f5_worker.errors import Cancelled, RequestError, TextEmpty, TextTooLong
from f5_worker.joined import speech_rms
from f5_worker.passes import PASS_SECONDS
from f5_worker.post import integrated_lufs, true_peak_dbfs
from f5_worker.reference import Voice
from f5_worker.service import Service
from f5_worker.settings import Settings
from tests.model.conftest import OPTIONS, SENTENCE, digest, never, speak

TEXT = SENTENCE * 6
DIALOGUE = [
    Passage(SENTENCE * 3, pause_after_s=0.3),
    Passage("And who are you?", voice="anna", speed=0.9),
    Passage(f"I asked first. [voice:anna] {SENTENCE}", voice="bert", seed=9),
]


@pytest.fixture(scope="module")
def anna(voice: Voice) -> Voice:
    """Another recording: the first 3 s, played backwards."""
    samples = voice.samples[: 3 * voice.sample_rate_hz][::-1].copy()
    return replace(voice, samples=samples, seconds=3.0, text="Some call me nature, others call me mother. ")


@pytest.fixture(scope="module")
def voices(voice: Voice, anna: Voice) -> dict[str | None, Voice]:
    return {None: voice, "anna": anna, "bert": voice}


def parts_of(engine: Engine, passages: Sequence[Passage], voices: dict[str | None, Voice], options: Options = OPTIONS) -> list[Part]:
    return list(engine.stream(passages, voices, options, cancelled=never))


def whole(parts: list[Part]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.concatenate([part.samples for part in parts])


EVERYTHING = replace(OPTIONS, tags=True, speed=1.6, longest_silence_s=0.05, loudness_lufs=-20.0, fade_s=0.1)


@pytest.mark.parametrize("options", [replace(OPTIONS, tags=True), EVERYTHING], ids=["plain", "everything"])
def test_parts_are_the_whole(engine: Engine, voices: dict[str | None, Voice], options: Options) -> None:
    passages = [replace(DIALOGUE[0], text=SENTENCE * 4), *DIALOGUE[1:]]
    parts = parts_of(engine, passages, voices, options)
    speech = engine.synthesize(passages, voices, options, cancelled=never)
    assert len(parts) == len(speech.segments) > 4
    np.testing.assert_array_equal(whole(parts), speech.samples)
    assert [segment for part in parts for segment in part.segments] == speech.segments
    assert parts[0].warnings == speech.warnings
    assert not any(part.warnings for part in parts[1:])


def test_segments_come_with_the_last_of_their_audio(engine: Engine, voices: dict[str | None, Voice]) -> None:
    given = 0
    for part in parts_of(engine, DIALOGUE, voices, replace(OPTIONS, tags=True)):
        before, given = given, given + len(part.samples)
        assert all(before < segment.end <= given for segment in part.segments)


def test_first_audio_comes_after_the_first_chunk_which_is_short(engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, sample = [], engine._cfm.sample
    monkeypatch.setattr(engine._cfm, "sample", lambda **given: calls.append(1) or sample(**given))
    stream = engine.stream([Passage(TEXT)], {None: voice}, OPTIONS, cancelled=never)
    assert calls == []
    first = next(stream)
    assert len(calls) == 1
    assert 0.5 < len(first.samples) / engine.sample_rate_hz < (PASS_SECONDS - voice.seconds) / 2


def test_streamed_pcm_of_a_long_text_is_the_bytes_of_the_job_without_a_stream(engine: Engine) -> None:
    service = Service(engine, Settings(), None, boot=dict)
    asked = {"input": TEXT, "seed": 7, "nfe_step": 2, "response_format": "pcm", "cross_fade_duration": 0.1}
    jobs = [{"id": shape, "input": asked | {"stream_format": shape}} for shape in ("none", "audio")]
    plain, streamed = (asyncio.run(service.handle(job)) for job in jobs)
    heard = [base64.b64decode(part["audio"]) for part in streamed["stream"]["output"]]
    assert len(heard) == len(streamed["segments"]) == len(plain["segments"]) > 3
    assert b"".join(heard) == base64.b64decode(plain["audio"]["base64"])


@pytest.mark.parametrize(
    ("passages", "error"),
    [([Passage("...")], TextEmpty), ([Passage("a" * 50_001)], TextTooLong), ([Passage("Hi [voice:carl] there.")], RequestError)],
)
def test_what_cannot_be_spoken_is_refused_before_the_first_part(
    engine: Engine, voices: dict[str | None, Voice], passages: list[Passage], error: type[Exception]
) -> None:
    with pytest.raises(error):
        engine.stream(passages, voices, replace(OPTIONS, tags=True), cancelled=never)


def test_each_chunk_is_spoken_in_its_voice(engine: Engine, voices: dict[str | None, Voice]) -> None:
    segments = engine.synthesize(DIALOGUE, voices, replace(OPTIONS, tags=True), cancelled=never).segments
    said = [(segment.passage, segment.voice) for segment in segments]
    assert list(dict.fromkeys(said)) == [(0, None), (1, "anna"), (2, "bert"), (2, "anna")]


def test_a_voice_sounds_like_itself_not_like_the_other(engine: Engine, voices: dict[str | None, Voice]) -> None:
    by = {
        alias: engine.synthesize([Passage("The same words.", voice=alias)], voices, OPTIONS, cancelled=never)
        for alias in (None, "anna", "bert")
    }
    assert digest(by[None]) == digest(by["bert"]) != digest(by["anna"])


def test_warnings_name_the_passage_and_the_voice(engine: Engine, voices: dict[str | None, Voice]) -> None:
    warned = {**voices, "anna": replace(voices["anna"], warnings=(("REFERENCE_QUIET", "the reference audio is very quiet"),))}
    passages = [Passage("Hello."), Passage("Good \U0001f600 day.", voice="anna")]
    found = dict(engine.synthesize(passages, warned, OPTIONS, cancelled=never).warnings)
    assert found["REFERENCE_QUIET"] == "voice 'anna': the reference audio is very quiet"
    assert found["CHARACTERS_UNKNOWN"].startswith("segments.1: the model cannot speak")


@pytest.mark.parametrize("workers", [1, 4])
def test_same_requests_give_the_same_bytes_at_any_concurrency(engine: Engine, voices: dict[str | None, Voice], workers: int) -> None:
    jobs = [replace(OPTIONS, nfe_step=1, tags=True, seed=seed) for seed in (1, 2, 3, 1)]
    torch.manual_seed(workers)  # whatever the state of the shared generator is
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda options: digest(engine.synthesize(DIALOGUE, voices, options, cancelled=never)), jobs))
    assert found[0] == found[3]
    assert len(set(found)) == 3
    reference = digest(engine.synthesize(DIALOGUE, voices, jobs[0], cancelled=never))
    assert found[0] == reference


def test_stream_that_nobody_reads_on_does_not_block_others(engine: Engine, voice: Voice) -> None:
    expected = digest(speak(engine, SENTENCE, voice))
    left = engine.stream([Passage(TEXT)], {None: voice}, OPTIONS, cancelled=never)
    next(left)
    with ThreadPoolExecutor(1) as pool:
        assert digest(pool.submit(speak, engine, SENTENCE, voice).result(30)) == expected
    left.close()


def test_cancel_between_parts_ends_the_stream_before_the_next_step(engine: Engine, voice: Voice) -> None:
    stop: list[int] = []
    stream = engine.stream([Passage(TEXT)], {None: voice}, OPTIONS, cancelled=lambda: bool(stop))
    next(stream)
    stop.append(1)
    with pytest.raises(Cancelled):
        next(stream)


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_speed_beyond_the_models_is_met(engine: Engine, voice: Voice, speed: float) -> None:
    plain, changed = speak(engine, SENTENCE, voice), speak(engine, SENTENCE, voice, replace(OPTIONS, speed=speed))
    assert len(changed.samples) == pytest.approx(len(plain.samples) / speed, rel=0.01)


@pytest.mark.parametrize("duration_s", [8.0, 18.0, 40.0])
def test_duration_is_that_of_the_output(engine: Engine, voice: Voice, duration_s: float) -> None:
    speech = speak(engine, SENTENCE * 4, voice, replace(OPTIONS, duration_s=duration_s))
    assert len(speech.samples) / speech.sample_rate_hz == pytest.approx(duration_s, abs=0.03)


def test_every_chunk_has_the_loudness_that_was_asked_for(engine: Engine, voices: dict[str | None, Voice]) -> None:
    options = replace(OPTIONS, tags=True, loudness_lufs=-23.0, cross_fade_s=0.0)
    speech = engine.synthesize(DIALOGUE, voices, options, cancelled=never)
    for segment in speech.segments:
        samples = speech.samples[segment.start : segment.end]
        assert true_peak_dbfs(samples, speech.sample_rate_hz) <= -0.99
        if segment.end - segment.start > speech.sample_rate_hz:
            assert integrated_lufs(samples, speech.sample_rate_hz) == pytest.approx(-23.0, abs=0.5)


def test_pause_that_was_asked_for_stays_when_silences_are_shortened(engine: Engine, voice: Voice) -> None:
    options = replace(OPTIONS, tags=True, longest_silence_s=0.2)
    paused, plain = (speak(engine, f"{SENTENCE}{pause}{SENTENCE}", voice, options) for pause in ("[pause:3s]", "[pause:1s]"))
    assert len(paused.samples) - len(plain.samples) == 48_000


def test_long_silence_of_the_model_is_shortened(engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder = engine._renderer.vocoder

    def halting(mel: torch.Tensor) -> torch.Tensor:
        wave = vocoder(mel)
        wave[:, 24_000:60_000] = 0.0
        return wave

    monkeypatch.setattr(engine._renderer, "vocoder", halting)
    plain, shorter = (speak(engine, SENTENCE, voice, replace(OPTIONS, longest_silence_s=longest)) for longest in (None, 0.5))
    assert len(plain.samples) - len(shorter.samples) == pytest.approx(24_000, abs=600)
    assert shorter.segments[0].end == len(shorter.samples)


@pytest.mark.parametrize("cross_fade_s", [0.0, 0.15])
def test_long_silence_at_a_join_is_shortened_too(
    engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch, cross_fade_s: float
) -> None:
    vocoder = engine._renderer.vocoder

    def halting(mel: torch.Tensor) -> torch.Tensor:
        wave = vocoder(mel)
        wave[:, :24_000] = wave[:, -24_000:] = 0.0
        return wave

    monkeypatch.setattr(engine._renderer, "vocoder", halting)
    speech = speak(engine, TEXT, voice, replace(OPTIONS, longest_silence_s=0.5, cross_fade_s=cross_fade_s))
    assert len(speech.segments) > 2
    loud = np.flatnonzero(np.abs(speech.samples) > 10 ** (-50 / 20))
    assert np.diff(loud).max() / speech.sample_rate_hz == pytest.approx(0.5, abs=0.05)
    assert loud[0] / speech.sample_rate_hz == pytest.approx(0.5, abs=0.05)
    assert (len(speech.samples) - loud[-1]) / speech.sample_rate_hz == pytest.approx(0.5, abs=0.05)


def test_loudness_of_a_long_text_is_the_voices_whatever_its_first_chunk_is_like(
    engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocoder, loudness = engine._renderer.vocoder, iter([0.02, *[0.05] * 9])

    def levelled(mel: torch.Tensor) -> torch.Tensor:
        wave = vocoder(mel)
        return wave * next(loudness) / wave.std()

    monkeypatch.setattr(engine._renderer, "vocoder", levelled)
    voice = replace(voice, samples=voice.samples * np.float32(0.2))
    speech = speak(engine, TEXT, voice, replace(OPTIONS, cross_fade_s=0.0, target_rms=0.001))
    assert len(speech.segments) > 2
    for segment in speech.segments:
        own = speech_rms(speech.samples[segment.start : segment.end], speech.sample_rate_hz)
        assert own == pytest.approx(speech_rms(voice.samples, voice.sample_rate_hz), rel=0.01)


def test_loudness_that_cannot_be_reached_is_a_warning_and_no_chunk_is_louder_than_those_before(
    engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocoder, peaks = engine._renderer.vocoder, iter([1.0, 30.0, *[1.0] * 9])

    def clicking(mel: torch.Tensor) -> torch.Tensor:
        wave = vocoder(mel)
        wave[:, 30_000] = next(peaks) * wave.abs().max()
        return wave

    monkeypatch.setattr(engine._renderer, "vocoder", clicking)
    speech = speak(engine, TEXT, voice, replace(OPTIONS, loudness_lufs=-23.0, cross_fade_s=0.0))
    found = [integrated_lufs(speech.samples[one.start : one.end], speech.sample_rate_hz) for one in speech.segments]
    assert found[0] == pytest.approx(-23.0, abs=0.5)
    assert found[1] < -26.0
    assert found[2:] == pytest.approx([found[1]] * len(found[2:]), abs=0.2)
    assert dict(speech.warnings)["LOUDNESS_LIMITED"].startswith(f"{found[1]:.1f} LUFS instead of -23.0: ")


def test_only_the_ends_fade(engine: Engine, voice: Voice) -> None:
    plain, faded = (speak(engine, TEXT, voice, replace(OPTIONS, fade_s=fade_s)).samples for fade_s in (0.0, 0.1))
    changed = np.flatnonzero(plain != faded)
    assert faded[0] == faded[-1] == 0.0
    assert set(changed // 2_400) == {0, (len(plain) - 1) // 2_400, (len(plain) - 2_400) // 2_400}


def test_streaming_keeps_no_wave_that_was_given_out(engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 50,000 characters, of which not all have to be spoken for it. What Joined keeps has its own test."""
    waves: list[weakref.ref[Samples]] = []
    render = engine._renderer.render

    def watched(*given: object) -> object:
        rendered = render(*given)
        waves.extend(weakref.ref(wave) for _, wave in rendered)
        return rendered

    monkeypatch.setattr(engine._renderer, "render", watched)
    stream = engine.stream([Passage((SENTENCE * 705)[:50_000])], {None: voice}, replace(OPTIONS, nfe_step=1), cancelled=never)
    for part in islice(stream, 8):
        waves.append(weakref.ref(part.samples))
        del part
        kept = {number for number, wave in enumerate(waves) if wave() is not None}
        assert kept <= {len(waves) - 2, len(waves) - 1}  # of this chunk: as rendered, and as given out


@pytest.mark.parametrize(("device", "given_back"), [("cpu", 1), ("cuda", 0)])
def test_a_rest_gives_the_heap_back_where_tensors_lie_in_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, device: str, given_back: int
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(heap, "give_back", lambda: calls.append(None))
    monkeypatch.setattr(engine, "backend", replace(engine.backend, device=torch.device(device)))
    engine.rest()
    assert len(calls) == given_back


def test_soak_leaves_no_tensor_and_no_file(
    engine: Engine, voices: dict[str | None, Voice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    live: list[int] = []
    for job in range(60):
        options = replace(OPTIONS, nfe_step=1, seed=job, tags=True, speed=(1.0, 2.0)[job % 2])
        if job % 10 == 9:
            with pytest.raises(Cancelled):
                engine.synthesize([Passage(SENTENCE)], voices, options, cancelled=lambda: True)
        else:
            spoken: Speech = engine.synthesize([Passage(f"Job {job}. [voice:anna] Yes.")], voices, options, cancelled=never)
            assert len(spoken.segments) == 2
        if job in {19, 59}:
            gc.collect()
            live.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))
    assert live[0] == live[1]
    assert list(tmp_path.iterdir()) == []
