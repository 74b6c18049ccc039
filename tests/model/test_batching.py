"""Chunks computed as one batch are the chunks computed one by one. On a GPU batches are chosen by the backend; here they are forced."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from f5_worker import manifest, passes
from f5_worker.backend import Backend
from f5_worker.engine import Engine, Options, Passage
from f5_worker.errors import Cancelled, OutOfMemory
from f5_worker.passes import Pass
from f5_worker.reference import Voice
from tests.model.conftest import FLOAT32, OPTIONS, SENTENCE, Paths, digest, loaded, never, speak

TEXTS = ["The dog lay on a rug while the rain fell on the roof.", "A short one, quite short.", "The cat sat on a mat near the door."]
LONG = SENTENCE * 15  # runs of 1, 1, 2 and 4 chunks
ONE_STEP = replace(OPTIONS, nfe_step=1)


@pytest.fixture(scope="module")
def batched(spec: manifest.ModelSpec, paths: Paths) -> Engine:
    with pytest.warns(UserWarning, match="attn_mask_enabled"):  # of torch's attention, which computes batches in this test only
        return loaded(spec, paths, Backend(torch.device("cpu"), torch.float32, "torch", batched=True))


@pytest.fixture(scope="module")
def one_by_one(spec: manifest.ModelSpec, paths: Paths) -> Engine:
    return loaded(spec, paths, FLOAT32)


def planned(voice: Voice, texts: list[str] = TEXTS) -> list[Pass]:
    return passes.plan([Passage(text) for text in texts], {None: voice}, OPTIONS, hop=256).passes


@pytest.mark.parametrize("cfg_strength", [0.0, 2.0])
def test_every_mel_of_a_batch_is_that_of_the_pass_alone(batched: Engine, one_by_one: Engine, voice: Voice, cfg_strength: float) -> None:
    options = replace(OPTIONS, nfe_step=4, cfg_strength=cfg_strength)
    together = batched._renderer.render(planned(voice), options, never)
    alone = [one_by_one._renderer.render([one], options, never)[0] for one in planned(voice)]
    for (mel, wave), (mel_alone, wave_alone) in zip(together, alone, strict=True):
        assert mel.shape == mel_alone.shape
        assert float((mel - mel_alone).abs().max()) <= 1e-4
        assert float(np.abs(wave - wave_alone).max()) <= 1e-4


def test_padding_would_be_heard_without_the_mask(one_by_one: Engine, voice: Voice) -> None:
    together = one_by_one._renderer.render(planned(voice), OPTIONS, never)
    alone = [one_by_one._renderer.render([one], OPTIONS, never)[0] for one in planned(voice)]
    assert max(float((mel - mel_alone).abs().max()) for (mel, _), (mel_alone, _) in zip(together, alone, strict=True)) > 1e-3


def test_a_pass_alone_is_the_same_bits_with_and_without_the_mask(batched: Engine, one_by_one: Engine, voice: Voice) -> None:
    assert digest(speak(batched, SENTENCE, voice)) == digest(speak(one_by_one, SENTENCE, voice))


def test_speech_in_batches_is_the_speech_one_by_one(
    batched: Engine, one_by_one: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "f5_worker.engine")
    text = SENTENCE * 7
    expected = speak(one_by_one, text, voice)
    sizes, sample = [], batched._cfm.sample
    monkeypatch.setattr(batched._cfm, "sample", lambda **given: sizes.append(len(given["text"])) or sample(**given))
    speech = speak(batched, text, voice)
    assert sizes == [1, 1, 2]
    assert speech.segments == expected.segments
    np.testing.assert_allclose(speech.samples, expected.samples, atol=1e-4)
    assert digest(speak(batched, text, voice)) == digest(speech)
    chunks = len(speech.segments)
    assert f"choice=one_by_one chunks={chunks} runs={chunks}" in caplog.text
    assert f"choice=together chunks={chunks} runs={len(sizes) // 2}" in caplog.text


def test_batch_that_does_not_fit_the_memory_is_halved_once(batched: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, sample = [], batched._cfm.sample
    expected = speak(batched, LONG, voice, ONE_STEP)

    def short_of_memory(**given: object) -> object:
        sizes.append(len(given["text"]))
        if sizes[-1] == 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return sample(**given)

    monkeypatch.setattr(batched._cfm, "sample", short_of_memory)
    speech = speak(batched, LONG, voice, ONE_STEP)
    assert sizes == [1, 1, 2, 4, 2, 2]
    assert "4 chunks at once" in dict(speech.warnings)["MEMORY_HALVED"]
    assert speech.segments == expected.segments
    np.testing.assert_allclose(speech.samples, expected.samples, atol=1e-4)


def test_batch_whose_half_does_not_fit_either_is_its_own_error(batched: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, sample = [], batched._cfm.sample

    def no_memory(**given: object) -> object:
        sizes.append(len(given["text"]))
        if sizes[-1] > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return sample(**given)

    monkeypatch.setattr(batched._cfm, "sample", no_memory)
    with pytest.raises(OutOfMemory):
        speak(batched, LONG, voice, ONE_STEP)
    assert sizes == [1, 1, 2, 1, 1, 4, 2]


def test_cancel_ends_a_batch_within_one_step(batched: Engine, voice: Voice) -> None:
    asked: list[int] = []
    options = Options(seed=5, nfe_step=32)
    with pytest.raises(Cancelled):
        batched._renderer.render(planned(voice), options, lambda: len(asked) > 3 or bool(asked.append(1)))
    assert len(asked) == 4
    assert batched._cfm.transformer.text_cond is None
