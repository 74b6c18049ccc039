"""A Whisper of two layers in the real file format: the vocabulary, key names and precision of whisper-large-v3-turbo, 3 s at once.

`write_tiny_whisper` writes random weights. `train_tiny_whisper` writes weights that really recognise speech of a sort: every word of
WORDS is a tone, and the network has learned to write down the words of UTTERANCES, to tell their language, and to look at a word's tone
while it writes the word. So a transcript or a time that is wrong is the worker's fault.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RATE_HZ = 16_000
WINDOW_S = 3
FRAMES_PER_S = 50
ARCH = {
    "vocab_size": 51_866, "num_mel_bins": 128, "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 128,
    "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 128, "max_source_positions": WINDOW_S * FRAMES_PER_S,
    "max_target_positions": 24, "bos_token_id": 50_257, "eos_token_id": 50_257, "pad_token_id": 50_257, "decoder_start_token_id": 50_258,
}  # fmt: skip
ALIGNMENT_HEAD = (1, 0)  # the one that training teaches to look at the word
STEPS, LEARNING_RATE, SHIFT_FRAMES = 150, 3e-3, 5
WORDS = {"one": 300.0, "two": 520.0, "three": 900.0, "eins": 1_560.0, "zwei": 2_700.0, "drei": 4_680.0}  # Hz


@dataclass(frozen=True)
class Utterance:
    language: str
    words: tuple[tuple[str, float, float], ...]  # word, start and end in seconds

    @property
    def text(self) -> str:
        return " ".join(word for word, _, _ in self.words)


UTTERANCES = (
    Utterance("en", (("one", 0.2, 0.7), ("two", 1.0, 1.4), ("three", 1.9, 2.6))),
    Utterance("en", (("three", 0.4, 1.0), ("one", 1.2, 2.0))),
    Utterance("de", (("eins", 0.1, 0.6), ("drei", 0.9, 1.7), ("zwei", 2.0, 2.5))),
)


def sound(utterance: Utterance, *, rate_hz: int = RATE_HZ, seconds: float = WINDOW_S) -> npt.NDArray[np.float32]:
    """The utterance as tones in silence."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = np.zeros(len(time_s))
    for word, start_s, end_s in utterance.words:
        spoken = (time_s >= start_s) & (time_s < end_s)
        wave[spoken] = 0.3 * np.sin(2 * np.pi * WORDS[word] * time_s[spoken])
    return wave.astype(np.float32)


def write_tiny_whisper(folder: Path, *, seed: int = 0, name: str = "demo-tiny-whisper") -> Path:
    """Write folder/demo/<name>/model.safetensors with random weights, and its entry into folder/models.json, which is returned."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(WhisperConfig(**ARCH))
    return _write(folder, name, model.state_dict())


def train_tiny_whisper(folder: Path, *, name: str = "demo-tiny-whisper") -> Path:
    """The same with weights that recognise and align UTTERANCES; takes some seconds of one core."""
    return _write(folder, name, _trained())


def _write(folder: Path, name: str, state: dict[str, Any]) -> Path:
    import torch
    from safetensors.torch import save_file

    repo = folder / "demo" / name
    repo.mkdir(parents=True, exist_ok=True)
    weights = repo / "model.safetensors"
    tensors = {key: value.detach().to(torch.float16).contiguous().clone() for key, value in state.items() if key != "proj_out.weight"}
    save_file(tensors, weights, metadata={"format": "pt"})
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    packaged = json.loads((Path(__file__).parents[2] / "f5_worker" / "models.json").read_text())["transcribers"]["whisper-large-v3-turbo"]
    entry = {
        "repo": f"demo/{name}", "commit": digest[:40], "weights": "model.safetensors", "license": "CC0-1.0", "arch": ARCH,
        "languages": packaged["languages"], "alignment_heads": [ALIGNMENT_HEAD],
        "files": [{"path": "model.safetensors", "size": weights.stat().st_size, "sha256": digest}],
    }  # fmt: skip
    registry = folder / "models.json"
    body = json.loads(registry.read_text()) if registry.exists() else {"schema": 1, "models": {}}
    registry.write_text(json.dumps(body | {"transcribers": {name: entry}}, indent=1) + "\n")
    return registry


def _trained() -> dict[str, Any]:
    """Train with the few tokens that occur, and give every other token of the vocabulary a zero embedding.

    The softmax over the whole vocabulary is exact all the same: the tokens without a row have logit 0, whatever the state.
    """
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    batch = _Batch()
    small = {"vocab_size": len(batch.ids) + 1, "pad_token_id": len(batch.ids)}  # the padding's row is not trained
    config = WhisperConfig(**{**ARCH, **small, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0})
    config._attn_implementation = "eager"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are small: a second thread costs more than it brings
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = WhisperForConditionalGeneration(config)
        _train(model, batch)
    torch.set_num_threads(threads)
    state = model.state_dict()
    embedding = torch.zeros(ARCH["vocab_size"], ARCH["d_model"])
    embedding[batch.ids] = state["model.decoder.embed_tokens.weight"][:-1]
    return state | {"model.decoder.embed_tokens.weight": embedding}


class _Batch:
    """UTTERANCES as the network meets them. `ids` are the token ids in use; in the small vocabulary a token is its index there."""

    def __init__(self) -> None:
        import torch
        from transformers import WhisperFeatureExtractor

        from f5_worker.manifest import load_transcriber
        from f5_worker.whisper_tokens import load_tokens

        tokens = load_tokens(load_transcriber().languages)
        spoken = [(u, tokens.prompt(u.language), [(tokens.encode(f" {w}"), a, b) for w, a, b in u.words]) for u in UTTERANCES]
        sequences = [[*prompt, *(t for word, _, _ in words for t in word), tokens.end] for _, prompt, words in spoken]
        self.ids = sorted({token for sequence in sequences for token in sequence})
        length = max(map(len, sequences))
        self.fed = torch.zeros(len(spoken), length - 1, dtype=torch.long)
        self.wanted = torch.full((len(spoken), length - 1), -100)
        self.looked_at = torch.zeros(len(spoken), length - 1, WINDOW_S * FRAMES_PER_S)
        for row, ((_, prompt, words), sequence) in enumerate(zip(spoken, sequences, strict=True)):
            small = torch.tensor([self.ids.index(token) for token in sequence])
            self.fed[row, : len(sequence) - 1] = small[:-1]
            self.wanted[row, : len(sequence) - 1] = small[1:]
            self.wanted[row, 1 : len(prompt) - 1] = -100  # task and timestamps are always given
            place = len(prompt) - 1
            for word, start_s, end_s in words:
                first, last = start_s * FRAMES_PER_S, end_s * FRAMES_PER_S
                for part in range(len(word)):  # a word of several tokens is spelled in equal parts
                    step = (last - first) / len(word)
                    self.looked_at[row, place, round(first + part * step) : round(first + (part + 1) * step)] = 1.0
                    place += 1
            self.looked_at[row, place, round(words[-1][2] * FRAMES_PER_S) :] = 1.0  # the end is looked for after the last word
        extract = WhisperFeatureExtractor(feature_size=ARCH["num_mel_bins"], chunk_length=WINDOW_S)
        waves = [sound(u) for u in UTTERANCES]
        self.features = extract(waves, sampling_rate=RATE_HZ, return_tensors="pt").input_features


def _train(model: Any, batch: _Batch) -> None:
    import torch

    used = len(batch.ids)
    others = float(np.log(ARCH["vocab_size"] - used))  # all tokens that are not in use, as one
    head_layer, head = ALIGNMENT_HEAD
    looked_at = batch.looked_at / batch.looked_at.sum(dim=-1, keepdim=True).clamp(min=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    shifts = np.random.default_rng(1).integers(-SHIFT_FRAMES, SHIFT_FRAMES + 1, STEPS).tolist()
    for shift in shifts:
        features = batch.features.roll(2 * shift, dims=-1) + 0.05 * torch.randn(batch.features.shape)
        out = model(input_features=features, decoder_input_ids=batch.fed, output_attentions=True, use_cache=False)
        rest = torch.full((*out.logits.shape[:2], 1), others)
        logits = torch.cat([out.logits[..., :used], rest], dim=-1)
        words = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.wanted.flatten())
        # Cross-entropy with looking at all of the word alike.
        looking = torch.log(out.cross_attentions[head_layer][:, head] + 1e-6)
        loss = words - (looking * looked_at.roll(shift, dims=-1)).sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
