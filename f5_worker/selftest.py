"""`python -m f5_worker selftest`: does this machine speak intelligibly, fast, and the same every time?

Fixed sentences (the first of the IEEE's Harvard sentences, in selftest.txt) are spoken in the default voice with every preset on every
backend that the machine has, and transcribed back. Where the backend computes batches they are also spoken as one text.

Exit codes: 0 all is well, 1 a bound is missed or a check failed, 2 the settings are wrong, 3 it could not be run.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from f5_worker import boot, logs, wheels
from f5_worker.audio import Samples
from f5_worker.errors import SettingsError, TranscriberUnavailable, WorkerError
from f5_worker.manifest import ModelSpec, PinnedFile, load_model, load_transcriber
from f5_worker.placement import choose
from f5_worker.reference import default_voice
from f5_worker.report import Timeline
from f5_worker.settings import Settings
from f5_worker.speech import Options, Passage, Speech
from f5_worker.speech_request import QUALITY_STEPS
from f5_worker.store import Store
from f5_worker.transcribe import Transcriber, WeightsOnDemand

if TYPE_CHECKING:  # torch only when it is run
    from f5_worker.backend import Backend
    from f5_worker.engine import Engine

MAX_WER = 0.03
MAX_RTF_CUDA = 1.0  # seconds of computing a second of speech; on the CPU nothing is promised
_AUDIBLE_RMS = 0.005
_EXIT_MISSED, _EXIT_SETTINGS, _EXIT_FAILED = 1, 2, 3
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")

Transcribe = Callable[[Samples, int], str]


@dataclass(frozen=True)
class Row:
    """One preset on one backend."""

    backend: str
    preset: str
    sentences: int
    audio_s: float
    rtf: float
    wer: float | None
    peak_memory_bytes: int  # allocated on the GPU, or the process's peak so far
    problems: list[str]


def command(
    context: typer.Context,
    without_wer: Annotated[bool, typer.Option("--without-wer", help="Do not transcribe: for models without real weights.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Speak fixed sentences with every preset and backend, transcribe them, and compare with the stated bounds."""
    try:
        settings = Settings.from_env(os.environ)
        logs.set_up_for(replace(settings, log_level="WARNING"), os.environ)
        spec = load_model(settings.model, settings.models_file)
        store: Store | None = context.obj(settings.s3) if settings.s3 and settings.cache_bucket else None
        paths = _provide(settings, spec, store)
        rows = [_told(row) for row in run(spec, paths, None if without_wer else transcriber(settings, store))]
    except SettingsError as exc:
        _tell(str(exc))
        raise typer.Exit(_EXIT_SETTINGS) from exc
    except WorkerError as exc:
        hint = "; --without-wer checks all but the words" if isinstance(exc, TranscriberUnavailable) else ""
        _tell(f"{exc}{hint}")
        raise typer.Exit(_EXIT_FAILED) from exc
    _show(spec.name, rows, as_json=as_json)
    logging.shutdown()
    if any(row.problems for row in rows):
        raise typer.Exit(_EXIT_MISSED)


def _told(row: Row) -> Row:
    """The row; minutes may pass until the next one."""
    _tell(f"{row.backend}, {row.preset}: real-time factor {row.rtf:.3f}")
    return row


def _tell(message: str) -> None:
    """One line on stderr, as it is."""
    Console(stderr=True).print(message, markup=False, soft_wrap=True)


def run(spec: ModelSpec, paths: Mapping[PinnedFile, Path], transcribe: Transcribe | None) -> Iterator[Row]:
    """A row for every preset on every backend."""
    from f5_worker.backend import choose_backend  # noqa: PLC0415 - torch
    from f5_worker.engine import Engine  # noqa: PLC0415 - torch

    for backend in dict.fromkeys([choose_backend(), choose_backend("off")]):
        engine = Engine.build(spec, backend)
        engine.load(paths)
        engine.warm_up()
        for preset, nfe_step in QUALITY_STEPS.items():
            yield measure(engine, sentences(), preset, nfe_step, transcribe)
            if backend.batched:
                yield measure(engine, [" ".join(sentences())], f"{preset}, one text", nfe_step, transcribe)
        del engine
        _free_memory()


def measure(engine: Engine, texts: Sequence[str], preset: str, nfe_step: int, transcribe: Transcribe | None) -> Row:
    """Speak every text, and the first once more."""
    voice, options = default_voice(), Options(seed=1, nfe_step=nfe_step)

    def speak(text: str) -> Speech:
        return engine.synthesize([Passage(text)], {None: voice}, options, cancelled=lambda: False)

    cuda = engine.backend.device.type == "cuda"
    _reset_peak_memory(cuda)
    started = time.perf_counter()
    spoken = [speak(text) for text in texts]
    seconds = time.perf_counter() - started
    problems = [f"text {number} is silent" for number, speech in enumerate(spoken) if _rms(speech.samples) < _AUDIBLE_RMS]
    if not np.array_equal(speak(texts[0]).samples, spoken[0].samples):
        problems.append("the same request gave other samples")
    audio_s = sum(len(speech.samples) for speech in spoken) / engine.sample_rate_hz
    rtf = seconds / audio_s
    if cuda and rtf > MAX_RTF_CUDA:
        problems.append(f"real-time factor {rtf:.2f}, at most {MAX_RTF_CUDA:g}")
    wer = word_error_rate(" ".join(texts), " ".join(_heard(spoken, transcribe))) if transcribe else None
    if wer is not None and wer > MAX_WER:
        problems.append(f"word error rate {wer:.1%}, at most {MAX_WER:.0%}")
    return Row(_name(engine.backend), preset, len(texts), round(audio_s, 2), round(rtf, 4), wer, _peak_memory_bytes(cuda), problems)


def sentences() -> list[str]:
    return Path(__file__).with_name("selftest.txt").read_text(encoding="utf-8").splitlines()


def word_error_rate(said: str, heard: str) -> float:
    """Words to change, add or leave out so that what was heard is what was said, to the words said. Case and marks do not count."""
    reference, words = _words(said), _words(heard)
    costs = list(range(len(words) + 1))
    for row, expected in enumerate(reference, 1):
        diagonal, costs[0] = costs[0], row
        for column, word in enumerate(words, 1):
            diagonal, costs[column] = costs[column], min(costs[column] + 1, costs[column - 1] + 1, diagonal + (word != expected))
    return costs[-1] / len(reference)


def transcriber(settings: Settings, store: Store | None) -> Transcribe:
    """The pinned speech recogniser, fetched when it is first asked. Raises SettingsError."""
    from f5_worker.backend import choose_backend  # noqa: PLC0415 - torch

    restore = WeightsOnDemand(settings, store).restore
    recogniser = Transcriber(load_transcriber(settings.models_file), restore, choose_backend(settings.flash_attn))
    return lambda samples, rate_hz: recogniser.transcribe(samples, rate_hz, "en").text


def _provide(settings: Settings, spec: ModelSpec, store: Store | None) -> Mapping[PinnedFile, Path]:
    """flash-attn and the weights, as a boot provides them."""
    timeline = Timeline(time.time())
    wheel = wheels.prepare(settings, choose(settings, spec.files)[0], store, env=os.environ, timeline=timeline)
    wheels.activate(wheel, settings.flash_attn, sys.modules, sys.path)  # type: ignore[arg-type] # None blocks an import
    return boot.join(spec.files, settings, store, os.environ, timeline=timeline).paths


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold().replace("\u2019", "'"))


def _heard(spoken: Sequence[Speech], transcribe: Transcribe) -> Iterator[str]:
    """Chunk by chunk, by the engine's own offsets."""
    for speech in spoken:
        for segment in speech.segments:
            yield transcribe(speech.samples[segment.start : segment.end], speech.sample_rate_hz)


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


def _name(backend: Backend) -> str:
    return f"{backend.device.type} {str(backend.dtype).removeprefix('torch.')} {backend.attn_backend}"


def _free_memory() -> None:
    """Of a model that is not used any more: its hooks point back to it, so that it goes with the next collection only."""
    import torch  # noqa: PLC0415

    gc.collect()
    torch.cuda.empty_cache()


def _reset_peak_memory(cuda: bool) -> None:
    if cuda:
        import torch  # noqa: PLC0415

        torch.cuda.reset_peak_memory_stats()


def _peak_memory_bytes(cuda: bool) -> int:
    if cuda:
        import torch  # noqa: PLC0415

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _show(model: str, rows: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        body = {"model": model, "bounds": {"wer": MAX_WER, "rtf_cuda": MAX_RTF_CUDA}, "rows": [asdict(row) for row in rows]}
        sys.stdout.write(json.dumps(body, indent=1) + "\n")
        return
    table = Table(title=model, title_justify="left")
    for column in ("backend", "preset", "audio s", "RTF", "WER", "peak memory MB", "problems"):
        table.add_column(column)
    for row in rows:
        wer = "-" if row.wer is None else f"{row.wer:.1%}"
        memory = f"{row.peak_memory_bytes / 1e6:.0f}"
        table.add_row(row.backend, row.preset, f"{row.audio_s:.1f}", f"{row.rtf:.3f}", wer, memory, "; ".join(row.problems) or "none")
    Console().print(table)
