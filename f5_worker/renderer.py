"""Passes of the model: F5-TTS's own sampling and vocoder, one pass or a batch of them at a time.

For one pass the mel is bit for bit that of upstream's `infer_batch_process`, of which `_render` is the counterpart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from f5_worker import device
from f5_worker.audio import Samples
from f5_worker.backend import Backend
from f5_worker.errors import Cancelled, EngineError, OutOfMemory
from f5_worker.manifest import ModelSpec
from f5_worker.passes import Pass, reference_text
from f5_worker.speech import Options
from f5_worker.upstream import Upstream
from f5_worker.weights import Vocoder

Rendered = tuple[torch.Tensor, Samples]  # mel (1, mels, frames) in float32, wave

# CFM.sample draws its noise from torch's global generator: seeding and drawing must not interleave with another job's.
_generator_lock = threading.Lock()


class Renderer:
    """A model and its vocoder on one device. Threads take turns."""

    def __init__(self, spec: ModelSpec, backend: Backend, up: Upstream, cfm: Any) -> None:
        self.vocoder: Vocoder | None = None
        self._hop = int(spec.mel["hop_length"])
        self._backend = backend
        self._up = up
        self._cfm = cfm
        self._cancelled: Callable[[], bool] | None = None  # of the job that holds the generator lock
        self._hooks = [
            cfm.transformer.register_forward_pre_hook(self._stop_if_cancelled),
            cfm.transformer.register_forward_pre_hook(_embed_texts_apart, with_kwargs=True),
        ]

    def render(self, passes: Sequence[Pass], options: Options, cancelled: Callable[[], bool]) -> list[Rendered]:
        """Mel and wave of every pass. The passes have one voice; several are computed as one batch.

        Raises:
            Cancelled: `cancelled`, asked before every step of the solver, said so.
            OutOfMemory, DeviceFailed, EngineError: the model failed.
        """
        with _generator_lock:
            if cancelled():
                raise Cancelled("the job was cancelled")
            self._cancelled = cancelled
            try:
                return self._render(passes, options)
            except (RuntimeError, AssertionError) as exc:
                if not device.out_of_memory(exc):
                    raise device.failure(exc)(f"the model failed: {type(exc).__name__}") from exc
            finally:
                self._cancelled = None
                self._cfm.transformer.clear_cache()  # an aborted pass leaves its text embedding there
            # Not before here, and without the cause, whose traceback holds the tensors of the aborted pass.
            torch.cuda.empty_cache()
            raise OutOfMemory("the device ran out of memory: use a shorter reference or a larger device")

    def _render(self, passes: Sequence[Pass], options: Options) -> list[Rendered]:
        # Line by line what infer_batch_process does, in its order of float operations.
        voice = passes[0].voice
        audio = torch.from_numpy(voice.samples).unsqueeze(0)
        rms = torch.sqrt(torch.mean(torch.square(audio)))
        quiet = bool(rms < options.target_rms)
        if quiet:
            audio = audio * options.target_rms / rms
        texts = self._up.convert_char_to_pinyin([reference_text(voice) + one.chunk.spoken for one in passes])
        # The least that CFM.sample computes: a frame more than tokens, and than frames of the reference, of which it counts one more.
        lengths = [
            max(one.reference_frames + one.frames, len(text) + 1, one.reference_frames + 2) for one, text in zip(passes, texts, strict=True)
        ]
        with torch.inference_mode(), self._forked_generator():
            mels = self._cfm.sample(
                cond=audio.to(self._backend.device).expand(len(passes), -1),
                text=texts,
                duration=torch.tensor(lengths, device=self._backend.device),
                steps=options.nfe_step,
                cfg_strength=options.cfg_strength,
                sway_sampling_coef=options.sway_sampling_coef,
                seed=_Seeds([one.seed for one in passes]),
            )[0]  # without the trajectory, which is a mel for every step
            rendered = []
            for index, (one, length) in enumerate(zip(passes, lengths, strict=True)):
                mel = mels[index : index + 1].to(torch.float32)[:, one.reference_frames : length].permute(0, 2, 1)
                wave = self.ready()(mel)
                if quiet:
                    wave = wave * rms.to(wave.device) / options.target_rms
                rendered.append((mel, _finite(wave.squeeze().cpu().numpy())))
        return rendered

    def close(self) -> None:
        """Let go of the model: its hooks point back to this object, so that its memory would stay until some collection of garbage."""
        for hook in self._hooks:
            hook.remove()

    def ready(self) -> Vocoder:
        """The vocoder. Raises EngineError when there are no weights yet."""
        if self.vocoder is None:
            raise EngineError("the model is not loaded")
        return self.vocoder

    def _forked_generator(self) -> Any:
        """Seeds that are set inside do not outlive it."""
        cuda = self._backend.device.type == "cuda"
        return torch.random.fork_rng(devices=[self._backend.device] if cuda else [])

    def _stop_if_cancelled(self, *_: object) -> None:
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("the job was cancelled")


class _Seeds:
    """A seed for each sequence of a batch: CFM.sample calls torch.manual_seed before it draws the noise of each, and that calls int()."""

    def __init__(self, seeds: Iterable[int]) -> None:
        self._seeds = iter(seeds)

    def __int__(self) -> int:
        return next(self._seeds)


def _embed_texts_apart(transformer: Any, _args: object, inputs: Mapping[str, Any]) -> None:
    """Fill DiT's cache of text embeddings one sequence at a time.

    As a batch they would differ from those of the sequences alone: the normalisation in the text blocks sums over the padding too.
    """
    mask = inputs["mask"]
    if mask is None or transformer.text_cond is not None:
        return
    alone = list(zip(inputs["text"].unsqueeze(1), mask.sum(dim=1).tolist(), strict=True))
    for name, drop in (("text_cond", False), ("text_uncond", True)):
        embedded = [transformer.text_embed(text, seq_len=frames, drop_text=drop)[0] for text, frames in alone]
        setattr(transformer, name, pad_sequence(embedded, batch_first=True))


def _finite(samples: Samples) -> Samples:
    if not np.isfinite(samples).all():
        raise EngineError("the model gave samples that are not numbers: its weights or this precision are broken")
    return samples
