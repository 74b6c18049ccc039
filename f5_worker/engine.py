"""Text and a voice to speech, by F5-TTS's own model code.

Differences from upstream's `infer_process`, whose mel is reproduced bit for bit for one chunk and one seed: chunks are rendered one after
the other with a seed each, so that the same request gives the same bytes; a job can be cancelled between two steps of the solver.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from f5_worker import post, upstream, weights
from f5_worker import text as texts
from f5_worker.audio import Samples
from f5_worker.backend import Backend, choose_backend
from f5_worker.errors import Cancelled, EngineError, OutOfMemory, TextEmpty
from f5_worker.joined import Joined
from f5_worker.manifest import ModelSpec, PinnedFile
from f5_worker.reference import Voice, default_voice
from f5_worker.script import plan

log = logging.getLogger(__name__)

PASS_SECONDS = 22.0  # reference and output of one pass; the model was trained on up to 30 s, upstream leaves this margin
PRESETS = {"fast": 7, "balanced": 16, "high": 32}  # nfe_step; the first two have pruned schedules
_SHORT_SPEED = 0.3  # upstream's speed for a chunk of fewer than texts.SHORT_BYTES
_PRUNED_STEPS = frozenset({5, 6, 7, 10, 12, 16})  # f5_tts.model.utils.get_epss_timesteps
_CHARACTERS_SHOWN = 10

# CFM.sample draws its noise from torch's global generator: seeding and drawing must not interleave with another job's.
_generator_lock = threading.Lock()


@dataclass(frozen=True)
class Options:
    """How to speak. Defaults are upstream's."""

    seed: int
    nfe_step: int = 32
    cfg_strength: float = 2.0
    sway_sampling_coef: float = -1.0
    speed: float = 1.0
    target_rms: float = 0.1
    cross_fade_s: float = 0.15
    normalize: bool = True  # numbers, dates, amounts as words
    language: str | None = None  # of the text; None: told by the text
    tags: bool = False  # [pause:1.5s] is a silence
    longest_silence_s: float | None = None
    loudness_lufs: float | None = None
    fade_s: float = 0.0  # at both ends


@dataclass(frozen=True)
class Speech:
    samples: Samples  # mono
    sample_rate_hz: int
    segments: list[tuple[str, float, float]]  # (text as written, start_s, end_s) of every chunk; they touch in the middle of the cross-fade
    warnings: list[tuple[str, str]]  # (code, message)


class Engine:
    """One model on one device. `synthesize` may be called from several threads; passes are computed one at a time."""

    def __init__(self, spec: ModelSpec, backend: Backend, up: upstream.Upstream, cfm: Any) -> None:
        self.spec = spec
        self.backend = backend
        self.sample_rate_hz = int(spec.mel["target_sample_rate"])
        self._up = up
        self._cfm = cfm
        self._vocoder: weights.Vocoder | None = None
        self._cancelled: Callable[[], bool] | None = None  # of the job that holds the generator lock
        cfm.transformer.register_forward_pre_hook(self._stop_if_cancelled)

    @classmethod
    def build(cls, spec: ModelSpec, backend: Backend | None = None) -> Engine:
        """Import f5_tts and build the model without weights; needs no file and does not import huggingface_hub.

        Raises:
            EngineError: f5_tts cannot build this architecture.
        """
        backend = backend or choose_backend()
        up = upstream.load()
        return cls(spec, backend, up, weights.build_cfm(up, spec, attn_backend=backend.attn_backend))

    def load(self, paths: Mapping[PinnedFile, Path]) -> None:
        """Put the files' weights into the model.

        Raises:
            EngineError: a file is missing, unreadable, or of another model.
        """
        started = time.perf_counter()
        spec, device = self.spec, self.backend.device
        missing = [file.path for file in spec.files if file not in paths]
        if missing:
            raise EngineError(f"model {spec.name}: no file for {', '.join(missing)}")
        try:
            vocab, _ = self._up.get_tokenizer(str(paths[spec.vocab]), "custom")
        except (OSError, UnicodeDecodeError) as exc:
            raise EngineError(f"model {spec.name}: its vocabulary cannot be read: {type(exc).__name__}") from exc
        weights.load_cfm(self._cfm, spec, vocab, paths[spec.checkpoint], device=device, dtype=self.backend.dtype)
        self._vocoder = weights.load_vocoder(self._up, spec, paths[spec.vocoder.config], paths[spec.vocoder.weights], device)
        seconds = time.perf_counter() - started
        log.info("model_load model=%s device=%s dtype=%s seconds=%.2f", spec.name, device, self.backend.dtype, seconds)

    def warm_up(self) -> None:
        """Make the first job as fast as the later ones: one step over a short reference."""
        voice = default_voice()
        short = replace(voice, samples=voice.samples[: 2 * voice.sample_rate_hz], seconds=2.0)
        self.synthesize("Ready to speak.", short, Options(seed=0, nfe_step=1), cancelled=lambda: False)

    def describe(self) -> dict[str, str]:
        """What `health` reports."""
        cuda = self.backend.device.type == "cuda"
        return {
            "model": self.spec.name,
            "device": torch.cuda.get_device_name(self.backend.device) if cuda else "cpu",
            "dtype": str(self.backend.dtype).removeprefix("torch."),
            "attn_backend": self.backend.attn_backend,
            "torch": torch.__version__,
            "f5_tts": importlib.metadata.version("f5-tts"),
        }

    def synthesize(
        self,
        text: str,
        voice: Voice,
        options: Options,
        *,
        cancelled: Callable[[], bool],
        on_chunk: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Speech:
        """Speak the text in the voice; the same arguments give the same samples on the same machine.

        Args:
            cancelled: Asked before every step of the solver; true ends the job.
            on_chunk: Called with (done, total) after each chunk.
        Raises:
            TextEmpty, TextTooLong: the text cannot be spoken.
            Cancelled: `cancelled` said so.
            OutOfMemory, EngineError: the model failed.
        """
        self._ready()
        budget = max_chunk_bytes(voice, options.speed)
        script = plan(text, budget, normalize=options.normalize, language=options.language, tags=options.tags)
        warnings = [
            *voice.warnings,
            *script.warnings,
            *self._check_text(text, {*"".join(chunk.spoken for chunk in script.chunks)}),
            *_check_options(options),
        ]
        joined = Joined(int(options.cross_fade_s * self.sample_rate_hz))
        for index, piece in enumerate(script.chunks):
            joined.pause(int(piece.pause_before_s * self.sample_rate_hz))
            joined.append(self._speak(piece.spoken, voice, replace(options, seed=chunk_seed(options.seed, index)), cancelled))
            on_chunk(index + 1, len(script.chunks))
        joined.pause(int(script.pause_after_s * self.sample_rate_hz))
        rate_hz = self.sample_rate_hz
        samples, bounds = _finish(joined.samples(), joined.bounds, rate_hz, options)
        segments = [(piece.written, start / rate_hz, end / rate_hz) for piece, (start, end) in zip(script.chunks, bounds, strict=True)]
        return Speech(samples, rate_hz, segments, warnings)

    def _speak(self, chunk: str, voice: Voice, options: Options, cancelled: Callable[[], bool]) -> Samples:
        """One chunk; when the device's memory does not suffice, once more in two halves."""
        try:
            return self.render(chunk, voice, options, cancelled)[1]
        except OutOfMemory:
            halves = texts.chunk(chunk, len(chunk.encode()) * 3 // 5)
            if len(halves) < 2:
                raise
        log.warning("out_of_memory action=halve bytes=%d", len(chunk.encode()))
        joined = Joined(int(options.cross_fade_s * self.sample_rate_hz))
        for index, half in enumerate(halves):
            joined.append(self.render(half, voice, replace(options, seed=chunk_seed(options.seed, index)), cancelled)[1])
        return joined.samples()

    def render(self, chunk: str, voice: Voice, options: Options, cancelled: Callable[[], bool]) -> tuple[torch.Tensor, Samples]:
        """One pass of the model: mel (1, mels, frames) in float32 and wave of one chunk."""
        with _generator_lock:
            if cancelled():
                raise Cancelled("the job was cancelled")
            self._cancelled = cancelled
            try:
                return self._render(chunk, voice, options)
            except torch.cuda.OutOfMemoryError as exc:
                torch.cuda.empty_cache()
                raise OutOfMemory("the device ran out of memory: use a shorter reference or a larger device") from exc
            except (RuntimeError, AssertionError) as exc:
                raise EngineError(f"the model failed: {type(exc).__name__}") from exc
            finally:
                self._cancelled = None
                self._cfm.transformer.clear_cache()  # an aborted pass leaves its text embedding there

    def _render(self, chunk: str, voice: Voice, options: Options) -> tuple[torch.Tensor, Samples]:
        # Line by line what infer_batch_process does, in its order of float operations.
        ref_text = voice.text + " " if len(voice.text[-1].encode()) == 1 else voice.text
        audio = torch.from_numpy(voice.samples).unsqueeze(0)
        rms = torch.sqrt(torch.mean(torch.square(audio)))
        quiet = bool(rms < options.target_rms)
        if quiet:
            audio = audio * options.target_rms / rms
        ref_frames = audio.shape[-1] // int(self.spec.mel["hop_length"])
        with torch.inference_mode(), self._forked_generator():
            mel, _ = self._cfm.sample(
                cond=audio.to(self.backend.device),
                text=self._up.convert_char_to_pinyin([ref_text + chunk]),
                duration=_frames(ref_frames, ref_text, chunk, options.speed),
                steps=options.nfe_step,
                cfg_strength=options.cfg_strength,
                sway_sampling_coef=options.sway_sampling_coef,
                seed=options.seed,
            )
            mel = mel.to(torch.float32)[:, ref_frames:, :].permute(0, 2, 1)
            wave: torch.Tensor = self._ready()(mel)
            if quiet:
                wave = wave * rms.to(wave.device) / options.target_rms
        samples: Samples = wave.squeeze().cpu().numpy()
        if not np.isfinite(samples).all():
            raise EngineError("the model gave samples that are not numbers: its weights or this precision are broken")
        return mel, samples

    def _ready(self) -> weights.Vocoder:
        if self._vocoder is None:
            raise EngineError("the model is not loaded")
        return self._vocoder

    def _forked_generator(self) -> Any:
        """Seeds that are set inside do not outlive it."""
        cuda = self.backend.device.type == "cuda"
        return torch.random.fork_rng(devices=[self.backend.device] if cuda else [])

    def _stop_if_cancelled(self, *_: object) -> None:
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("the job was cancelled")

    def _knows(self, char: str) -> bool:
        """Whether upstream's own conversion of the character (to itself, to an ASCII mark, to pinyin) is in the vocabulary."""
        vocab = self._cfm.vocab_char_map
        return char in vocab or all(token in vocab for token in self._up.convert_char_to_pinyin([char])[0])

    def _check_text(self, text: str, spoken: set[str]) -> list[tuple[str, str]]:
        """Characters that reach the model and are not in its vocabulary; those that became words are no matter."""
        unknown = texts.unknown_characters(text, lambda char: char not in spoken or self._knows(char))
        if not unknown:
            return []
        if not any(char.isalnum() and char not in unknown for char in spoken):
            raise TextEmpty("the model knows none of the characters of this text: its languages are those of its vocabulary")
        listed = [f"{char!r} at {', '.join(map(str, at[:5]))}{' …' if len(at) > 5 else ''}" for char, at in unknown.items()]
        more = f" and {len(listed) - _CHARACTERS_SHOWN} more" if len(listed) > _CHARACTERS_SHOWN else ""
        message = f"the model cannot speak these characters and leaves a gap: {'; '.join(listed[:_CHARACTERS_SHOWN])}{more}"
        return [("CHARACTERS_UNKNOWN", message)]


def max_chunk_bytes(voice: Voice, speed: float) -> int:
    """How much text one pass can speak after this reference, by the reference's own rate of speech."""
    return int(len(voice.text.encode()) / voice.seconds * (PASS_SECONDS - voice.seconds) * speed)


def chunk_seed(seed: int, index: int) -> int:
    """The request's seed for its first chunk, for the others a hash of both."""
    if index == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()) >> 1


def _frames(ref_frames: int, ref_text: str, chunk: str, speed: float) -> int:
    """Mel frames of reference and output together: the chunk takes as long per byte as the reference."""
    length = len(chunk.encode())
    if length < texts.SHORT_BYTES:
        speed = _SHORT_SPEED
    return ref_frames + int(ref_frames / len(ref_text.encode()) * length / speed)


def _finish(samples: Samples, bounds: post.Bounds, rate_hz: int, options: Options) -> tuple[Samples, post.Bounds]:
    """What the options ask for after the join; segments move with the samples."""
    if options.longest_silence_s is not None:
        samples, bounds = post.shorten_silences(samples, rate_hz, bounds, options.longest_silence_s)
    if options.loudness_lufs is not None:
        samples = post.set_loudness(samples, rate_hz, options.loudness_lufs)
    if options.fade_s:
        samples = post.fade_ends(samples, rate_hz, options.fade_s)
    return samples, bounds


def _check_options(options: Options) -> list[tuple[str, str]]:
    if options.nfe_step < 16 and options.nfe_step not in _PRUNED_STEPS:
        return [("NFE_NOT_PRUNED", f"nfe_step {options.nfe_step} has no pruned schedule: 7 sounds better in less time, or use 16 or 32")]
    return []
