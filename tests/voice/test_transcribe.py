"""Recognition on a Whisper that has learned a few words: what it writes down is known."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from f5_worker import reference
from f5_worker.errors import DeviceFailed, EngineError, OutOfMemory, TranscriberUnavailable
from f5_worker.manifest import TranscriberSpec, load_transcriber
from f5_worker.transcribe import Transcriber, Transcript
from f5_worker.whisper_model import Whisper
from tests.fakes.tiny_whisper import ARCH, RATE_HZ, UTTERANCES, WINDOW_S, Utterance, sound, write_tiny_whisper
from tests.sounds import file_of
from tests.voice.conftest import CPU, transcriber_of


@pytest.mark.parametrize("utterance", UTTERANCES, ids=lambda u: u.text)
@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 44_100])
def test_the_words_and_their_language_are_told_at_any_rate(transcriber: Transcriber, utterance: Utterance, rate_hz: int) -> None:
    found = transcriber.transcribe(sound(utterance, rate_hz=rate_hz), rate_hz)
    assert found == Transcript(utterance.text, utterance.language)


def test_a_given_language_is_not_detected(transcriber: Transcriber) -> None:
    found = transcriber.transcribe(sound(UTTERANCES[2]), RATE_HZ, "de-AT")
    assert found == Transcript(UTTERANCES[2].text, "de")


def test_what_is_longer_than_the_model_hears_is_recognised_window_by_window(transcriber: Transcriber) -> None:
    gap = np.zeros(RATE_HZ * WINDOW_S, dtype=np.float32)
    long = np.concatenate([sound(UTTERANCES[0]), gap, sound(UTTERANCES[1])])
    assert transcriber.transcribe(long, RATE_HZ).text == f"{UTTERANCES[0].text} {UTTERANCES[1].text}"


def test_nothing_is_heard_in_silence(transcriber: Transcriber) -> None:
    assert transcriber.transcribe(np.zeros(5 * RATE_HZ, dtype=np.float32), RATE_HZ) == Transcript("", None)
    assert transcriber.transcribe(np.zeros(0, dtype=np.float32), RATE_HZ) == Transcript("", None)


def test_four_threads_at_once_get_what_one_gets(spec: TranscriberSpec, weights: Path) -> None:
    shared, found = transcriber_of(spec, weights), {}

    def run(index: int) -> None:
        found[index] = shared.transcribe(sound(UTTERANCES[index % 3]), RATE_HZ).text

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {index: UTTERANCES[index % 3].text for index in range(4)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_which_cuda_computes_in_tells_the_same_words(dtype: torch.dtype, spec: TranscriberSpec, weights: Path) -> None:
    whisper = Whisper(spec)
    whisper.load(weights, CPU)
    with torch.inference_mode():
        whisper._model.to(dtype)
    for utterance in UTTERANCES:
        heard = whisper.listen(sound(utterance), RATE_HZ)
        assert heard.dtype == dtype
        assert whisper.detect_language(heard) == utterance.language
        assert whisper.tokens.decode(whisper.recognise(heard, utterance.language)).strip() == utterance.text


def generated(model: Any, features: torch.Tensor, spec: TranscriberSpec, language: str) -> list[int]:
    """The tokens of transformers' own greedy loop."""
    from transformers.models.whisper.configuration_whisper import NON_SPEECH_TOKENS_MULTI

    asked = {
        "is_multilingual": True,
        "no_timestamps_token_id": 50_364,
        "task_to_id": {"translate": 50_359, "transcribe": 50_360},
        "lang_to_id": {f"<|{code}|>": 50_259 + index for index, code in enumerate(spec.languages)},
        "begin_suppress_tokens": [220, 50_257],
        "suppress_tokens": [*(t for t in NON_SPEECH_TOKENS_MULTI if t < 50_257), *range(50_258, ARCH["vocab_size"])],
        "max_length": ARCH["max_target_positions"],
    }
    for name, value in asked.items():
        setattr(model.generation_config, name, value)
    tokens = model.generate(features, language=language, task="transcribe", do_sample=False, num_beams=1)[0].tolist()
    return [token for token in tokens if token < 50_257]


@pytest.mark.parametrize("seed", [None, 0], ids=["trained", "random"])
def test_the_loop_gives_the_tokens_of_the_librarys_own(seed: int | None, folder: Path, tmp_path: Path) -> None:
    registry = folder / "models.json" if seed is None else write_tiny_whisper(tmp_path, seed=seed)
    spec = load_transcriber(registry)
    weights = registry.parent / spec.weights.repo / spec.weights.path
    whisper = Whisper(spec)
    whisper.load(weights, CPU)
    theirs = library_model(weights)
    lengths = set()
    for utterance in UTTERANCES:
        features = whisper._extract(sound(utterance), sampling_rate=RATE_HZ, return_tensors="pt").input_features
        ours = whisper.recognise(whisper.listen(sound(utterance), RATE_HZ), utterance.language)
        assert ours == generated(theirs, features, spec, utterance.language)
        lengths.add(len(ours))
    assert max(lengths) == (ARCH["max_target_positions"] - 4 if seed is not None else 3)  # a random model talks to the end


def test_only_speech_comes_and_never_nothing(spec: TranscriberSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules of openai-whisper: no brackets and notes, no control tokens, and at first neither the end nor a blank."""
    whisper = Whisper(spec)
    end, control = whisper.tokens.end, whisper.tokens.start
    [word], [blank], [bracket] = (whisper.tokens.encode(text) for text in (" one", " ", "("))
    ranked = iter([[end, blank, bracket, control, word], [bracket, control, blank, end], [bracket, control, end, word]])

    def best_first(*_: object) -> tuple[torch.Tensor, None]:
        logits = torch.zeros(ARCH["vocab_size"])
        for rank, token in enumerate(next(ranked)):
            logits[token] = 10.0 - rank
        return logits, None

    monkeypatch.setattr(whisper, "_next", best_first)
    assert whisper.recognise(torch.zeros(1, 150, 64), "en") == [word, blank]


def library_model(weights: Path) -> Any:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration(WhisperConfig(**ARCH))
    model.load_state_dict(load_file(weights), strict=False)
    model.tie_weights()
    return model.eval()


@pytest.mark.parametrize("damage", ["truncated", "no safetensors", "lacks a tensor", "unknown tensor", "other shape"])
def test_weights_that_do_not_fit_are_refused_with_what_to_do(damage: str, spec: TranscriberSpec, weights: Path, tmp_path: Path) -> None:
    bad, state = tmp_path / "bad.safetensors", load_file(weights)
    if damage == "lacks a tensor":
        state.pop("model.encoder.conv1.weight")
    elif damage == "unknown tensor":
        state["model.encoder.conv3.weight"] = torch.zeros(1)
    elif damage == "other shape":
        state["model.encoder.conv1.bias"] = torch.zeros(7)
    save_file(state, bad)
    if damage == "truncated":
        bad.write_bytes(bad.read_bytes()[:-1000])
    elif damage == "no safetensors":
        bad.write_bytes(b"x" * 5000)
    with pytest.raises(TranscriberUnavailable, match="its weights"):
        transcriber_of(spec, bad).transcribe(sound(UTTERANCES[0]), RATE_HZ)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory), (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OutOfMemory),
     (RuntimeError("CUDA error: device-side assert triggered"), DeviceFailed), (RuntimeError("shapes differ"), EngineError)],
    ids=str,
)  # fmt: skip
def test_failure_of_the_device_is_told_as_such(
    transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    with transcriber.loaded() as whisper:
        monkeypatch.setattr(whisper._model.model.encoder, "forward", fail)
    with pytest.raises(EngineError) as caught:
        transcriber.transcribe(sound(UTTERANCES[0]), RATE_HZ)
    assert type(caught.value) is kind
    assert str(raised) not in str(caught.value)


def test_a_reference_without_text_gets_the_words_that_are_heard(transcriber: Transcriber) -> None:
    voice = reference.prepare(file_of(sound(UTTERANCES[0]), RATE_HZ), None, transcriber=transcriber)
    assert (voice.text, voice.transcribed) == (f"{UTTERANCES[0].text}. ", True)


def test_nothing_heavy_is_imported_before_the_first_need() -> None:
    script = """
import sys
from f5_worker import align, reference, transcribe
from f5_worker.manifest import load_transcriber
transcribe.Transcriber(load_transcriber(), dict, None)
found = {"torch", "transformers", "tiktoken", "huggingface_hub", "safetensors", "boto3"} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_real_architecture_can_be_built_and_fits_the_pinned_file() -> None:
    """Parameters of 2 bytes each, and a header of some 70 KB: another architecture would not come out at the file's size."""
    spec = load_transcriber()
    whisper = Whisper(spec)
    tensors = {name: tensor for name, tensor in whisper._model.state_dict().items() if name != "proj_out.weight"}
    header_bytes = spec.weights.size_bytes - 2 * sum(tensor.numel() for tensor in tensors.values())
    assert 80 * len(tensors) < header_bytes < 160 * len(tensors)
    assert (whisper.window_s, whisper.max_tokens, whisper.tokens.end) == (30, 448, 50_257)
    layers, heads = spec.arch["decoder_layers"], spec.arch["decoder_attention_heads"]
    assert all(layer < layers and head < heads for layer, head in spec.alignment_heads)
    assert replace(spec, name="x").files == (spec.weights,)
