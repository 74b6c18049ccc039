"""Whisper, loaded: sound to what the decoder listens to, to a language, to words, and to the attention that aligns known words.

The network is transformers'; the loop around it is ours: greedy, so that the same sound gives the same words, and without the global
random state that synthesis seeds in another thread (the library's fallback to sampling uses it).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from f5_worker import audio, device
from f5_worker.audio import Samples
from f5_worker.backend import Backend
from f5_worker.errors import DeviceFailed, EngineError, OutOfMemory, TranscriberUnavailable
from f5_worker.manifest import TranscriberSpec
from f5_worker.whisper_tokens import load_tokens

RATE_HZ = 16_000
FRAMES_PER_S = 50  # of the encoder: it halves the 100 mel frames a second
_TIED = "proj_out.weight"  # is the token embedding and lies in no file


class Whisper:
    """One checkpoint. `load` comes first. Not thread-safe."""

    def __init__(self, spec: TranscriberSpec) -> None:
        """Build the network on the meta device, without weights.

        Raises:
            ImportError: transformers, tiktoken or openai-whisper is not installed.
        """
        from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration  # noqa: PLC0415 - 3 s
        from transformers.models.whisper.configuration_whisper import NON_SPEECH_TOKENS_MULTI  # noqa: PLC0415

        config = WhisperConfig(**spec.arch)
        self.tokens = load_tokens(spec.languages)
        self.window_s: int = config.max_source_positions // FRAMES_PER_S
        self.max_tokens: int = config.max_target_positions
        self._spec = spec
        self._extract: Any = WhisperFeatureExtractor(  # type: ignore[no-untyped-call]
            feature_size=config.num_mel_bins, chunk_length=self.window_s
        )
        self._not_speech = [token for token in NON_SPEECH_TOKENS_MULTI if token < self.tokens.end]
        with torch.device("meta"):
            self._model: Any = WhisperForConditionalGeneration(config)

    def load(self, weights: Path, backend: Backend) -> None:
        """Make the file's tensors the network's own: float16 on CUDA as the file has them, float32 on the CPU.

        Raises:
            TranscriberUnavailable: the file does not fit the architecture.
            OutOfMemory, DeviceFailed
        """
        dtype = backend.dtype if backend.device.type == "cuda" else torch.float32
        try:
            with _computing():
                state = {name: tensor.to(dtype) for name, tensor in load_file(weights, device=str(backend.device)).items()}
                lacks, unknown = self._model.load_state_dict(state, strict=False, assign=True)
        except (OutOfMemory, DeviceFailed):
            raise
        except (SafetensorError, OSError, EngineError) as exc:
            why = exc.__cause__ or exc
            raise TranscriberUnavailable(f"transcriber {self._spec.name}: its weights cannot be used: {type(why).__name__}: {why}") from exc
        if unknown or set(lacks) != {_TIED}:
            raise TranscriberUnavailable(
                f"transcriber {self._spec.name}: its weights lack {sorted(lacks)[:3]} and have unknown {sorted(unknown)[:3]}"
            )
        self._model.proj_out.weight = self._model.model.decoder.embed_tokens.weight
        self._model.requires_grad_(False).eval()
        _show_attention(self._model.model.decoder)

    def listen(self, samples: Samples, rate_hz: int) -> torch.Tensor:
        """The encoder's states (1, frames, channels) of at most window_s seconds of mono sound; what is longer is cut off."""
        wave = audio.resample(samples, rate_hz, RATE_HZ)
        features = self._extract(wave, sampling_rate=RATE_HZ, return_tensors="pt").input_features
        with _computing():
            states: torch.Tensor = self._model.model.encoder(features.to(self._model.device, self._model.dtype)).last_hidden_state
        return states

    def detect_language(self, heard: torch.Tensor) -> str:
        """The most likely of the languages that the checkpoint knows."""
        first = self.tokens.language(self.tokens.languages[0])
        logits, _ = self._next(heard, [self.tokens.start], None)
        return self.tokens.languages[int(logits[first : first + len(self.tokens.languages)].argmax())]

    def recognise(self, heard: torch.Tensor, language: str) -> list[int]:
        """The text tokens of what was said, each the most likely one after those before it."""
        end = self.tokens.end
        barred = torch.zeros(end + 1, device=heard.device)  # of the control tokens only the end may come
        barred[self._not_speech] = -torch.inf
        barred_first = barred.clone()
        barred_first[[*self.tokens.encode(" "), end]] = -torch.inf
        found: list[int] = []
        feed, cache = self.tokens.prompt(language), None
        for _ in range(self.max_tokens - len(feed)):
            logits, cache = self._next(heard, feed, cache)
            token = int((logits[: end + 1] + (barred if found else barred_first)).argmax())
            if token == end:
                break
            found.append(token)
            feed = [token]
        return found

    def attention(self, heard: torch.Tensor, text: list[int], language: str) -> torch.Tensor:
        """How the alignment heads look at the sound while the known text is said: (heads, len(text) + 1, frames) in float32.

        Row i belongs to the prediction of token i of the text, the last one to that of its end.
        """
        prompt = self.tokens.prompt(language)
        with _computing():
            decoded = self._model.model.decoder(
                input_ids=self._ids([*prompt, *text, self.tokens.end]), encoder_hidden_states=heard, output_attentions=True, use_cache=False
            )
        weights = torch.stack([decoded.cross_attentions[layer][0, head] for layer, head in self._spec.alignment_heads]).float()
        return weights[:, len(prompt) - 1 : -1]

    def _next(self, heard: torch.Tensor, feed: list[int], cache: Any) -> tuple[torch.Tensor, Any]:
        """Logits of the token after those fed, and the decoder's memory of them."""
        with _computing():
            out = self._model(encoder_outputs=(heard,), decoder_input_ids=self._ids(feed), past_key_values=cache, use_cache=True)
        return out.logits[0, -1].float(), out.past_key_values

    def _ids(self, tokens: list[int]) -> torch.Tensor:
        return torch.tensor([tokens], device=self._model.device)


def _show_attention(decoder: Any) -> None:
    """Let the decoder alone use the attention that can be looked at; over the encoder's 1500 frames it would cost time and memory."""
    config = copy.deepcopy(decoder.config)
    config._attn_implementation = "eager"  # noqa: SLF001 - the public setter changes encoder and decoder, which share one config
    for module in decoder.modules():
        if hasattr(module, "config"):
            module.config = config


@contextmanager
def _computing() -> Iterator[None]:
    """Raises OutOfMemory, EngineError for what torch says of it."""
    try:
        with torch.inference_mode():
            yield
    except (RuntimeError, AssertionError, IndexError) as exc:
        if device.out_of_memory(exc):
            raise OutOfMemory("the GPU's memory does not hold the transcriber: pass ref_text and ask for no word timestamps") from exc
        raise device.failure(exc)(f"speech recognition failed: {type(exc).__name__}") from exc
