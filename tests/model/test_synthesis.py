"""What synthesize promises: the text is spoken, the same request gives the same samples, a cancelled job ends at once."""

from __future__ import annotations

import gc
import tempfile
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import psutil
import pytest
import torch

from f5_worker import manifest, weights
from f5_worker.engine import Engine, Passage
from f5_worker.errors import Cancelled, DeviceFailed, EngineError, OutOfMemory, TextEmpty, TextTooLong
from f5_worker.passes import max_chunk_bytes
from f5_worker.post import integrated_lufs
from f5_worker.reference import Voice
from tests.model.conftest import FLOAT32, OPTIONS, SENTENCE, Paths, digest, loaded, never, speak


def test_speech_is_audible_and_as_long_as_the_text_takes(engine: Engine, voice: Voice) -> None:
    speech = speak(engine, SENTENCE, voice)
    rms = float(np.sqrt(np.mean(np.square(speech.samples))))
    expected_s = voice.seconds * len(SENTENCE.strip()) / len(voice.text.encode())
    assert speech.samples.dtype == np.float32
    assert speech.samples.ndim == 1
    assert rms > 0.005
    assert np.abs(speech.samples).max() < 1.0
    assert len(speech.samples) / speech.sample_rate_hz == pytest.approx(expected_s, rel=0.05)


def test_texts_of_the_same_length_sound_different(engine: Engine, voice: Voice) -> None:
    one, other = (speak(engine, text, voice).samples for text in ("The cat sat on a mat.", "The dog lay on a rug."))
    assert len(one) == len(other)
    assert float(np.sqrt(np.mean(np.square(one - other)))) > 0.1 * float(np.sqrt(np.mean(np.square(one))))


def test_seed_changes_the_samples(engine: Engine, voice: Voice) -> None:
    assert digest(speak(engine, SENTENCE, voice)) != digest(speak(engine, SENTENCE, voice, replace(OPTIONS, seed=6)))


def test_same_request_gives_the_same_bytes_alone_and_among_others(engine: Engine, voice: Voice) -> None:
    jobs = [(SENTENCE * 5, 5), (SENTENCE * 2, 6), ("Another text, quite short.", 7), (SENTENCE * 5, 5)]
    alone = [digest(speak(engine, text, voice, replace(OPTIONS, seed=seed))) for text, seed in jobs]
    torch.manual_seed(99)  # whatever the state of the shared generator is
    with ThreadPoolExecutor(4) as pool:
        among = list(pool.map(lambda job: digest(speak(engine, job[0], voice, replace(OPTIONS, seed=job[1]))), jobs))
    assert alone == among
    assert alone[0] == alone[3]


def test_shared_generator_is_left_as_it_was(engine: Engine, voice: Voice) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    speak(engine, SENTENCE, voice)
    assert torch.equal(before, torch.get_rng_state())


def test_segments_cover_the_speech_without_gaps(engine: Engine, voice: Voice) -> None:
    progress: list[tuple[int, int]] = []
    speech = engine.synthesize([Passage(SENTENCE * 6)], {None: voice}, OPTIONS, cancelled=never, on_chunk=lambda *at: progress.append(at))
    texts = [segment.text for segment in speech.segments]
    assert len(texts) > 1
    assert " ".join(texts) == (SENTENCE * 6).strip()
    bounds = [0, *(segment.end for segment in speech.segments)]
    assert [(segment.start, segment.end) for segment in speech.segments] == list(pairwise(bounds))
    assert bounds[-1] == len(speech.samples)
    assert progress == [(index + 1, len(texts)) for index in range(len(texts))]
    assert all(len(text.encode()) <= max_chunk_bytes(voice, 1.0) for text in texts)


@pytest.mark.parametrize("nfe_step", [16, 32, 64])
def test_common_step_counts_work_in_every_precision(any_engine: Engine, voice: Voice, nfe_step: int) -> None:
    short = replace(voice, samples=voice.samples[:24_000], seconds=1.0)
    assert len(speak(any_engine, "Hi.", short, replace(OPTIONS, nfe_step=nfe_step)).samples) > 0


def test_cancel_takes_effect_within_one_step(engine: Engine, voice: Voice) -> None:
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 3  # before the chunk, before steps 1 and 2; true before step 3

    with pytest.raises(Cancelled):
        engine.synthesize([Passage(SENTENCE)], {None: voice}, replace(OPTIONS, nfe_step=32), cancelled=cancelled)
    assert len(asked) == 4


def test_cancelled_job_leaves_nothing_behind_for_the_next(engine: Engine, voice: Voice) -> None:
    before = digest(speak(engine, SENTENCE, voice))
    asked: list[int] = []
    doomed = [Passage("A text of another length.")]
    with pytest.raises(Cancelled):
        engine.synthesize(doomed, {None: voice}, OPTIONS, cancelled=lambda: len(asked) > 1 or bool(asked.append(1)))
    assert digest(speak(engine, SENTENCE, voice)) == before


def test_cancel_of_one_job_does_not_touch_another(engine: Engine, voice: Voice) -> None:
    expected = digest(speak(engine, SENTENCE, voice))
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        doomed = pool.submit(engine.synthesize, [Passage(SENTENCE * 20)], {None: voice}, OPTIONS, cancelled=stop.is_set)
        kept = pool.submit(speak, engine, SENTENCE, voice)
        assert digest(kept.result(60)) == expected
        stop.set()
        with pytest.raises(Cancelled):
            doomed.result(60)


def test_unknown_characters_are_reported_with_their_positions(engine: Engine, voice: Voice) -> None:
    warnings = dict(speak(engine, "Hello \U0001f600 there, \u0e01\u0905 good day \U0001f600.", voice).warnings)
    assert "'\U0001f600' at 6, 27" in warnings["CHARACTERS_UNKNOWN"]
    assert "'\u0905' at 16" in warnings["CHARACTERS_UNKNOWN"]


def test_unknown_character_is_reported_however_it_was_composed(engine: Engine, voice: Voice) -> None:
    for text in ("Now bu\u1ed5i", "Now buo\u0302\u0309i"):
        assert "'\u1ed5' at 6" in dict(speak(engine, text, voice).warnings)["CHARACTERS_UNKNOWN"]


def test_unknown_characters_of_the_reference_are_reported(engine: Engine, voice: Voice) -> None:
    strange = replace(voice, text="Some \U0001f600 call me nature. ")
    passages = [Passage("Hello there."), Passage("And you?", voice="anna"), Passage("Good day.")]
    warnings = engine.synthesize(passages, {None: voice, "anna": strange}, OPTIONS, cancelled=never).warnings
    [message] = [message for code, message in warnings if code == "CHARACTERS_UNKNOWN"]
    assert message.startswith("voice 'anna': ref_text: the model cannot speak")
    assert "'\U0001f600' at 5" in message


def test_known_scripts_give_no_warning(engine: Engine, voice: Voice) -> None:
    assert (
        speak(
            engine,
            "Plain text, \u201cquoted\u201d; caf\u00e9, cafe\u0301.\n\u4f60\u597d\uff0c\u4e16\u754c\u3002",
            voice,
            replace(OPTIONS, nfe_step=5),
        ).warnings
        == []
    )


@pytest.mark.parametrize("steps", [1, 3, 8, 17, 24, 31, 33, 64])
def test_step_count_without_a_schedule_is_a_warning(engine: Engine, voice: Voice, steps: int) -> None:
    [(code, message)] = speak(engine, "Hello there.", voice, replace(OPTIONS, nfe_step=steps)).warnings
    assert code == "NFE_NOT_PRUNED"
    assert f"nfe_step {steps} has no pruned schedule" in message


@pytest.mark.parametrize("steps", [5, 6, 7, 10, 12, 16, 32])
def test_step_count_with_a_schedule_is_no_warning(engine: Engine, voice: Voice, steps: int) -> None:
    assert speak(engine, "Hello there.", voice, replace(OPTIONS, nfe_step=steps)).warnings == []


@pytest.mark.parametrize(
    "text",
    ["", "  \n\t", "...!?", "\U0001f600 \U0001f600", "\u200b\ufeff", "\x00\x07", "\u0938\u0941\u092a\u094d\u0930",
     "\u0958\u0959\u095a", "\u0915\u093c"],
)  # fmt: skip
def test_text_that_cannot_be_spoken_is_refused(engine: Engine, voice: Voice, text: str) -> None:
    with pytest.raises(TextEmpty):
        speak(engine, text, voice)


def test_control_characters_and_mixed_scripts_are_spoken_or_named(engine: Engine, voice: Voice) -> None:
    text = "Tab\there,\x00 \u202eturned\u202c; \u041f\u0440\u0438\u0432\u0435\u0442, \u4f60\u597d, \u0938\u0941.\x07"
    speech = speak(engine, text, voice)
    unknown = dict(speech.warnings)["CHARACTERS_UNKNOWN"]
    assert f"'\u0938' at {text.index(chr(0x938))}" in unknown
    assert "'\u041f'" not in unknown
    assert "x00" not in unknown
    assert len(speech.samples) > speech.sample_rate_hz


def test_text_over_the_limit_is_refused(engine: Engine, voice: Voice) -> None:
    with pytest.raises(TextTooLong, match="50001 characters"):
        speak(engine, "a" * 50_001, voice)


def test_one_endless_word_is_spoken_in_pieces(engine: Engine, voice: Voice) -> None:
    speech = speak(engine, "a" * 1_000, voice, replace(OPTIONS, nfe_step=1))
    assert "".join(segment.text for segment in speech.segments) == "a" * 1_000


def test_out_of_memory_speaks_the_chunk_in_two_halves(engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = engine._cfm.sample, []

    def sample(**arguments: object) -> object:
        asked.append(arguments["duration"])
        if len(asked) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(**arguments)

    monkeypatch.setattr(engine._cfm, "sample", sample)
    speech = speak(engine, SENTENCE, voice)
    assert [segment.text for segment in speech.segments] == [SENTENCE.strip()]
    assert "said in 2 parts" in dict(speech.warnings)["MEMORY_HALVED"]
    assert len(asked) == 3
    assert max(asked[1:]) < asked[0]
    assert len(speech.samples) == pytest.approx(len(speak(engine, SENTENCE, voice).samples), abs=256)


@pytest.mark.parametrize(
    "message",
    ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `it`", "cuFFT error: CUFFT_ALLOC_FAILED",
     "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"],
)  # fmt: skip
def test_out_of_memory_of_cuda_and_its_libraries_is_out_of_memory(
    engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def sample(**_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(engine._cfm, "sample", sample)
    with pytest.raises(OutOfMemory):
        speak(engine, SENTENCE, voice)


def test_memory_is_given_back_when_nothing_holds_it_any_more(engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    left: list[int] = []

    def sample(**_: object) -> None:
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine._cfm, "sample", sample)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(sum(one() is not None for one in held)))
    with pytest.raises(OutOfMemory):
        speak(engine, SENTENCE, voice)
    assert left == [0, 0]


def test_out_of_memory_again_is_its_own_error(engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def sample(**_: object) -> None:
        asked.append(1)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine._cfm, "sample", sample)
    with pytest.raises(OutOfMemory, match="ran out of memory"):
        speak(engine, SENTENCE, voice)
    assert len(asked) == 2


def test_numbers_are_spoken_and_shown_as_written(engine: Engine, voice: Voice) -> None:
    speech = speak(engine, "It costs $5 now.", voice)
    assert speech.segments[0].text == "It costs $5 now."
    assert digest(speech) == digest(speak(engine, "It costs five dollars now.", voice))
    assert digest(speech) != digest(speak(engine, "It costs $5 now.", voice, replace(OPTIONS, normalize=False)))


def test_character_that_becomes_words_is_not_unknown(engine: Engine, voice: Voice) -> None:
    assert "CHARACTERS_UNKNOWN" not in dict(speak(engine, "It costs \uffe55 \u5427\u3002", voice).warnings)


def test_pause_is_silence_of_its_length(engine: Engine, voice: Voice) -> None:
    plain = speak(engine, "One and one.", voice, replace(OPTIONS, tags=True))
    paused = speak(engine, "One and one. [pause:1.5s]", voice, replace(OPTIONS, tags=True))
    assert len(paused.samples) - len(plain.samples) == 36_000
    assert not paused.samples[-36_000:].any()


@pytest.mark.parametrize(
    ("message", "kind"),
    [("the sizes of the tensors differ", EngineError), ("CUDA error: device-side assert triggered", DeviceFailed),
     ("CUDA error: an illegal memory access was encountered", DeviceFailed),
     ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `it`", DeviceFailed),
     ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", DeviceFailed), ("cuFFT error: CUFFT_EXEC_FAILED", DeviceFailed)],
)  # fmt: skip
def test_failure_of_the_model_is_an_engine_error_and_one_of_cuda_wears_the_worker_out(
    engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch, message: str, kind: type[EngineError]
) -> None:
    def sample(**_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(engine._cfm, "sample", sample)
    with pytest.raises(EngineError, match="the model failed: RuntimeError") as caught:
        speak(engine, SENTENCE, voice)
    assert type(caught.value) is kind


def test_samples_that_are_not_numbers_are_an_engine_error(engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._renderer, "vocoder", lambda mel: mel[:, 0] * float("nan"))
    with pytest.raises(EngineError, match="not numbers"):
        speak(engine, SENTENCE, voice)


def test_nothing_is_printed_and_no_file_is_left(
    engine: Engine, voice: Voice, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    speak(engine, SENTENCE * 4, voice)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_many_jobs_leave_no_memory_and_no_file_behind(
    engine: Engine, voice: Voice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    short = replace(voice, samples=voice.samples[:12_000], seconds=0.5, text="Hi you. ")
    options = replace(OPTIONS, nfe_step=1)
    resident: list[int] = []
    arrays: list[int] = []
    of_numpy = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    tracemalloc.start()
    for job in range(120):
        speak(engine, f"Job {job % 7}.", short, options)
        if job in {39, 119}:
            gc.collect()
            resident.append(psutil.Process().memory_info().rss)
            arrays.append(len(tracemalloc.take_snapshot().filter_traces([of_numpy]).traces))
    tracemalloc.stop()
    assert resident[1] < resident[0] * 1.02
    assert arrays[1] == arrays[0]
    assert list(tmp_path.iterdir()) == []


def test_warm_up_speaks(engine: Engine) -> None:
    engine.warm_up()


def test_the_finish_that_was_asked_for_is_in_the_samples(engine: Engine, voice: Voice) -> None:
    plain = speak(engine, SENTENCE, voice)
    loud = speak(engine, SENTENCE, voice, replace(OPTIONS, loudness_lufs=-20.0))
    faded = speak(engine, SENTENCE, voice, replace(OPTIONS, fade_s=0.05))
    assert integrated_lufs(loud.samples, loud.sample_rate_hz) == pytest.approx(-20.0, abs=0.5)
    assert faded.samples[0] == faded.samples[-1] == 0.0
    assert digest(plain) not in {digest(loud), digest(faded)}


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """A GPU's memory must not wait for it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def left_by_rehearsal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[object]]]:
    """The models that were built in the block, None for each that is gone."""
    models, build = [], weights.build_cfm
    with monkeypatch.context() as patch:
        patch.setattr(weights, "build_cfm", lambda *given: models.append(weakref.ref(cfm := build(*given))) or cfm)
        yield lambda: [model() for model in models]


@pytest.mark.filterwarnings("ignore:attn_mask_enabled:UserWarning")  # of torch's attention, which computes batches in tests only
@pytest.mark.parametrize("batched", [False, True])
def test_a_rehearsal_needs_no_weights_changes_nothing_and_leaves_nothing(
    spec: manifest.ModelSpec, paths: Paths, voice: Voice, monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    expected = digest(speak(loaded(spec, paths, FLOAT32), SENTENCE, voice))
    rehearsed = Engine.build(spec, replace(FLOAT32, batched=batched))
    with without_garbage_collection(), left_by_rehearsal(monkeypatch) as left:
        rehearsed.rehearse()
        assert left() == [None]
    rehearsed.load(paths)
    assert digest(speak(rehearsed, SENTENCE, voice)) == expected


def test_a_rehearsal_that_fails_leaves_nothing(spec: manifest.ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.build(spec, FLOAT32)
    monkeypatch.setattr(weights, "blank_vocoder", MagicMock(side_effect=RuntimeError("CUDA out of memory")))
    with without_garbage_collection(), left_by_rehearsal(monkeypatch) as left:
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.rehearse()
        assert left() == [None]
