"""Text and voices to speech, by F5-TTS's own model code.

Differences from upstream's `infer_process`, whose mel is reproduced bit for bit for one chunk and one seed: every chunk has a seed of its
own, so that the same request gives the same bytes; speech is given out chunk by chunk; a job can be cancelled between two steps of the
solver.
"""

from __future__ import annotations

import importlib.metadata
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from f5_worker import characters, heap, passes, post, upstream, weights
from f5_worker.audio import Samples
from f5_worker.backend import Backend, choose_backend
from f5_worker.errors import EngineError, OutOfMemory, TextEmpty
from f5_worker.joined import Joined, matched, speech_rms
from f5_worker.manifest import ModelSpec, PinnedFile
from f5_worker.passes import Pass, Plan, Voices
from f5_worker.reference import default_voice
from f5_worker.renderer import Renderer
from f5_worker.speech import Options, Part, Passage, Segment, Speech, Warnings

__all__ = ["Engine", "Options", "Part", "Passage", "Segment", "Speech"]

log = logging.getLogger(__name__)

_LOUDNESS_TOLERANCE_LU = 0.5  # EBU R 128
_SCHEDULED_STEPS = (5, 6, 7, 10, 12, 16, 32)  # f5_tts.model.utils.get_epss_timesteps: its grid of 32, and what was pruned from it

_HALVED_BATCH = "the device's memory does not hold {} chunks at once: computed in two runs, their samples can differ in the last digits"
_HALVED_CHUNK = "the device's memory does not hold a chunk: said in {} parts, it sounds unlike the same request and seed with more memory"

_REHEARSED = "This is said to nobody, before there is a voice to say it in, and takes about five seconds."

IsCancelled = Callable[[], bool]
OnChunk = Callable[[int, int], None]


class Engine:
    """One model on one device. `stream` and `synthesize` may be called from several threads; passes are computed one at a time."""

    def __init__(self, spec: ModelSpec, backend: Backend, up: upstream.Upstream, cfm: Any) -> None:
        self.spec = spec
        self.backend = backend
        self.sample_rate_hz = int(spec.mel["target_sample_rate"])
        self._up = up
        self._cfm = cfm
        self._renderer = Renderer(spec, backend, up, cfm)

    @classmethod
    def build(cls, spec: ModelSpec, backend: Backend | None = None) -> Engine:
        """Import f5_tts and build the model without weights; needs no file and does not import huggingface_hub.

        Raises:
            EngineError: f5_tts cannot build this architecture.
        """
        backend = backend or choose_backend()
        up = upstream.load()
        return cls(spec, backend, up, weights.build_cfm(up, spec, backend))

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
        self._renderer.vocoder = weights.load_vocoder(self._up, spec, paths[spec.vocoder.config], paths[spec.vocoder.weights], device)
        seconds = time.perf_counter() - started
        log.info("model_load model=%s device=%s dtype=%s seconds=%.2f", spec.name, device, self.backend.dtype, seconds)

    def rehearse(self) -> None:
        """Make the device load what passes need before the weights are there: speak with zeros for weights, a model of its own.

        Raises:
            OutOfMemory, DeviceFailed, EngineError, RuntimeError: the device failed.
        """
        options, cfm = Options(seed=0, nfe_step=1), weights.blank_cfm(self._up, self.spec, self.backend)
        rehearsal = Renderer(self.spec, self.backend, self._up, cfm)
        try:
            rehearsal.vocoder = weights.blank_vocoder(self._up, self.spec, self.backend)
            two = passes.plan([Passage(_REHEARSED)] * 2, {None: default_voice()}, options, hop=int(self.spec.mel["hop_length"])).passes
            for batch in [two[:1], two] if self.backend.batched else [two[:1]]:
                rehearsal.render(batch, options, lambda: False)
        finally:
            rehearsal.close()
            del rehearsal, cfm
            torch.cuda.empty_cache()

    def warm_up(self) -> None:
        """Make the first job of this thread as fast as the later ones: one step over a short reference."""
        voice = default_voice()
        short = replace(voice, samples=voice.samples[: 2 * voice.sample_rate_hz], seconds=2.0)
        self.synthesize([Passage("Ready to speak.")], {None: short}, Options(seed=0, nfe_step=1), cancelled=lambda: False)

    def rest(self) -> None:
        """For after a job: what it has left free in the heap of a CPU worker goes back to the system, in about 5 ms."""
        if self.backend.device.type == "cpu":
            heap.give_back()

    def describe(self) -> dict[str, str]:
        """What `health` reports."""
        cuda = self.backend.device.type == "cuda"
        return {
            "model": self.spec.name,
            "device": torch.cuda.get_device_name(self.backend.device) if cuda else "cpu",
            "dtype": str(self.backend.dtype).removeprefix("torch."),
            "attn_backend": self.backend.attn_backend,
            "batches": "yes" if self.backend.batched else "no",
            "torch": torch.__version__,
            "f5_tts": importlib.metadata.version("f5-tts"),
        }

    def synthesize(
        self,
        passages: Sequence[Passage],
        voices: Voices,
        options: Options,
        *,
        cancelled: IsCancelled,
        on_chunk: OnChunk = lambda _done, _total: None,
    ) -> Speech:
        """The parts of `stream` as one."""
        parts = list(self.stream(passages, voices, options, cancelled=cancelled, on_chunk=on_chunk))
        return Speech(
            np.concatenate([part.samples for part in parts]),
            self.sample_rate_hz,
            [segment for part in parts for segment in part.segments],
            [warning for part in parts for warning in part.warnings],
        )

    def stream(
        self,
        passages: Sequence[Passage],
        voices: Voices,
        options: Options,
        *,
        cancelled: IsCancelled,
        on_chunk: OnChunk = lambda _done, _total: None,
    ) -> Iterator[Part]:
        """Speak the passages, a part for each chunk; the same arguments give the same samples on the same machine.

        Args:
            voices: By alias; None is the voice of passages that name none.
            cancelled: Asked before every step of the solver; true ends the job.
            on_chunk: Called with (done, total) after each chunk.
        Raises:
            TextEmpty, TextTooLong, VoiceNotFound, RequestError: at once; the text cannot be spoken like that.
            Cancelled: `cancelled` said so.
            OutOfMemory, DeviceFailed, EngineError: the model failed.
        """
        self._renderer.ready()
        planned = passes.plan(passages, voices, options, hop=int(self.spec.mel["hop_length"]))
        warnings = [*_of_voices(planned), *planned.warnings, *self._check_texts(passages, planned), *_check_options(options)]
        return self._parts(planned, options, warnings, cancelled, on_chunk)

    def _parts(self, planned: Plan, options: Options, warnings: Warnings, cancelled: IsCancelled, on_chunk: OnChunk) -> Iterator[Part]:
        joined = Joined(self._samples(options.cross_fade_s))
        given, total = 0, len(planned.passes)
        for done, (one, wave, late) in enumerate(self._finished(planned, options, cancelled), 1):
            joined.pause(self._samples(one.pause_before_s))
            joined.append(wave)
            if done < total:
                samples, complete = joined.take(), done - 1  # the next cross-fade decides where this chunk ends
            else:
                joined.pause(self._samples(planned.pause_after_s))
                samples, complete = joined.close(), done
            bounds = zip(planned.passes[given:complete], joined.bounds[given:complete], strict=True)
            segments = [Segment(said.chunk.written, said.alias, start, end, said.chunk, said.passage) for said, (start, end) in bounds]
            given = complete
            on_chunk(done, total)
            yield Part(samples, segments, [*(warnings if done == 1 else []), *late])

    def _finished(self, planned: Plan, options: Options, cancelled: IsCancelled) -> Iterator[tuple[Pass, Samples, Warnings]]:
        """Chunks as the options ask for them, and what is to be said of each; none waits for a later one, so that a stream is the same as
        the whole.
        """
        rate_hz, first, last = self.sample_rate_hz, planned.passes[0], planned.passes[-1]
        rms = speech_rms(first.voice.samples, first.voice.sample_rate_hz) if first is not last else 0.0
        lufs = options.loudness_lufs
        for index, (one, rendered, warnings) in enumerate(self._waves(planned, options, cancelled)):
            wave = post.time_stretch(rendered, rate_hz, one.stretch)
            if options.longest_silence_s is not None:
                ends = _silence_at_ends(planned, index, options.longest_silence_s, options.cross_fade_s)
                wave = post.shorten_silences(wave, rate_hz, options.longest_silence_s, *ends)
            if lufs is None:
                wave = matched(wave, rate_hz, rms)
            else:
                wave, lufs = post.set_loudness(wave, rate_hz, lufs)  # no chunk is louder than those before it could be
            if options.fade_s:
                wave = post.fade_ends(wave, rate_hz, options.fade_s, start=one is first, end=one is last)
            yield one, wave, [*warnings, *(_check_loudness(options.loudness_lufs, lufs) if one is last else [])]

    def _waves(self, planned: Plan, options: Options, cancelled: IsCancelled) -> Iterator[tuple[Pass, Samples, Warnings]]:
        batches = passes.batches(planned.passes, together=self.backend.batched)
        if len(planned.passes) > 1:
            choice = "together" if self.backend.batched else "one_by_one"
            log.info("engine.chunks choice=%s chunks=%d runs=%d", choice, len(planned.passes), len(batches))
        for batch in batches:
            waves, warnings = self._speak(batch, options, cancelled)
            for one, wave in zip(batch, waves, strict=True):
                yield one, wave, warnings if one is batch[0] else []

    def _speak(self, batch: list[Pass], options: Options, cancelled: IsCancelled) -> tuple[list[Samples], Warnings]:
        """The waves; when the device's memory does not suffice, once more in two halves, with a warning."""
        try:
            return self._rendered(batch, options, cancelled), []
        except OutOfMemory:
            middle = len(batch) // 2
            fade_frames = self._samples(options.cross_fade_s) // int(self.spec.mel["hop_length"])
            parts = [batch[:middle], batch[middle:]] if middle else [[half] for half in passes.halves(batch[0], fade_frames)]
            if len(parts) < 2:
                raise
        log.warning("engine.out_of_memory action=halve chunks=%d", len(batch))
        waves = [wave for part in parts for wave in self._rendered(part, options, cancelled)]
        if middle:
            return waves, [("MEMORY_HALVED", _HALVED_BATCH.format(len(batch)))]
        joined = Joined(self._samples(options.cross_fade_s))
        for wave in waves:
            joined.append(wave)
        return [joined.close()], [("MEMORY_HALVED", _HALVED_CHUNK.format(len(parts)))]

    def _rendered(self, batch: list[Pass], options: Options, cancelled: IsCancelled) -> list[Samples]:
        return [wave for _, wave in self._renderer.render(batch, options, cancelled)]

    def _samples(self, seconds: float) -> int:
        return int(seconds * self.sample_rate_hz)

    def _knows(self, char: str) -> bool:
        """Whether upstream's own conversion of the character (to itself, to an ASCII mark, to pinyin) is in the vocabulary."""
        vocab = self._cfm.vocab_char_map
        return char in vocab or all(token in vocab for token in self._up.convert_char_to_pinyin([char])[0])

    def _check_texts(self, passages: Sequence[Passage], planned: Plan) -> Warnings:
        found = []
        for alias, voice in {one.alias: one.voice for one in planned.passes}.items():
            unknown = characters.unknown(voice.text, voice.text, self._knows)
            found += characters.unknown_warnings(unknown, where="ref_text: " if alias is None else f"voice '{alias}': ref_text: ")
        for number, passage in enumerate(passages):
            spoken = "".join(one.chunk.spoken for one in planned.passes if one.passage == number)
            found += self._check_text(passage.text, spoken, where=f"segments.{number}: " if len(passages) > 1 else "")
        return found

    def _check_text(self, text: str, spoken: str, where: str) -> Warnings:
        """Characters that reach the model and are not in its vocabulary; those that became words are no matter."""
        unknown = characters.unknown(text, spoken, self._knows)
        if not any(char.isalnum() and char not in unknown for char in spoken):
            raise TextEmpty(f"{where}the model knows none of the characters of this text: its languages are those of its vocabulary")
        return characters.unknown_warnings(unknown, where)


def _silence_at_ends(planned: Plan, index: int, longest_s: float, cross_fade_s: float) -> tuple[float, float]:
    """Seconds at the start and the end of a chunk: where it touches another, both together are longest_s after their cross-fade."""
    touching_s, both = (longest_s + cross_fade_s) / 2, planned.passes[index : index + 2]
    start_s = touching_s if index and not both[0].pause_before_s else longest_s
    return start_s, touching_s if len(both) == 2 and not both[1].pause_before_s else longest_s


def _of_voices(planned: Plan) -> Warnings:
    """What is wrong with the references, each once."""
    voices = {one.alias: one.voice for one in planned.passes}
    found = [("" if alias is None else f"voice '{alias}': ", warning) for alias, voice in voices.items() for warning in voice.warnings]
    return [(code, where + message) for where, (code, message) in found]


def _check_loudness(asked_lufs: float | None, reached_lufs: float | None) -> Warnings:
    if asked_lufs is None or reached_lufs is None or reached_lufs > asked_lufs - _LOUDNESS_TOLERANCE_LU:
        return []
    message = f"{reached_lufs:.1f} LUFS instead of {asked_lufs:.1f}: louder, the peaks of this speech would clip"
    return [("LOUDNESS_LIMITED", message)]


def _check_options(options: Options) -> Warnings:
    if options.nfe_step in _SCHEDULED_STEPS:
        return []
    known = ", ".join(map(str, _SCHEDULED_STEPS))
    return [("NFE_NOT_PRUNED", f"nfe_step {options.nfe_step} has no pruned schedule, its steps are all equal: use one of {known}")]
