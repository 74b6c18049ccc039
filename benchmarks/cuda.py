"""Speaking on a GPU: every preset by torch's attention and by flash-attn, chunk by chunk and in batches, against upstream.

    python -m benchmarks.cuda [--model FOLDER] [--calls 5]

FOLDER holds the models.json of `tests.fakes.tiny_model.write_full_size_model`; without it the model is written to a temporary folder
(1.4 GB). Each side is a process of its own; upstream is load_model, load_vocoder and infer_process. Without a GPU there is nothing to do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import measure
from benchmarks.engine import LONG_TEXT, TEXT, Inside, Upstream, in_process
from benchmarks.load import ROOT, peak_rss_gb, spec_of
from f5_worker.speech_request import QUALITY_STEPS

TEXTS = {"10 s": TEXT, "minute": " ".join([LONG_TEXT] * 2)}


def measure_ours(folder: Path, calls: int, attention: str) -> dict[str, Any]:
    import torch

    from f5_worker.backend import choose_backend
    from f5_worker.engine import Engine

    started = time.perf_counter()
    torch.zeros(1, device="cuda")
    context_s = time.perf_counter() - started
    spec, paths = spec_of(folder)
    engine = Engine.build(spec, choose_backend("off" if attention == "torch" else "auto"))
    assert engine.backend.attn_backend == attention, "flash-attn cannot be imported"
    started = time.perf_counter()
    engine.load(paths)
    torch.cuda.synchronize()
    load_s, started = time.perf_counter() - started, time.perf_counter()
    engine.warm_up()
    warm_up_s = time.perf_counter() - started
    inside, rows = Inside(engine), []
    for preset, nfe_step in QUALITY_STEPS.items():
        for name, text in TEXTS.items():
            rows.append({"preset": preset, "text": name} | spoken(engine, inside, text, nfe_step, calls))
    return {
        "device": engine.describe(), "context_s": context_s, "load_s": load_s, "warm_up_s": warm_up_s, "rows": rows,
        "weights_bytes": weights_bytes(engine), "peak_rss_gb": peak_rss_gb(),
    }  # fmt: skip


def spoken(engine: Any, inside: Inside, text: str, nfe_step: int, calls: int) -> dict[str, Any]:
    """Calls in turn: seconds of each, seconds to the first part, what is neither sampling nor vocoder, and the device's memory."""
    import torch

    from f5_worker.engine import Options, Passage
    from f5_worker.reference import default_voice

    seconds, first, overhead, audio_s, chunks = [], [], [], 0.0, 0
    torch.cuda.reset_peak_memory_stats()
    for seed in range(calls):
        inside.seconds, started, samples, chunks = 0.0, time.perf_counter(), 0, 0
        options = Options(seed=seed, nfe_step=nfe_step)
        for part in engine.stream([Passage(text)], {None: default_voice()}, options, cancelled=lambda: False):
            if not samples:
                first.append(time.perf_counter() - started)
            samples += len(part.samples)
            chunks += len(part.segments)
        seconds.append(time.perf_counter() - started)
        overhead.append(seconds[-1] - inside.seconds)
        audio_s = samples / engine.sample_rate_hz
    return {
        "calls_s": seconds, "first_part_s": median(first), "audio_s": audio_s, "chunks": chunks, "rtf": median(seconds) / audio_s,
        "outside_model_s": median(overhead), "peak_device_bytes": torch.cuda.max_memory_allocated(),
    }  # fmt: skip


def weights_bytes(engine: Any) -> int:
    modules = (engine._cfm, engine._renderer.vocoder)  # noqa: SLF001 - a benchmark looks inside
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def measure_upstream(folder: Path, calls: int) -> dict[str, Any]:
    import torch

    upstream, rows = Upstream("cuda"), []
    torch.zeros(1, device="cuda")
    started = time.perf_counter()
    upstream.load(folder)
    torch.cuda.synchronize()
    load_s = time.perf_counter() - started
    for preset, nfe_step in QUALITY_STEPS.items():
        for name, text in TEXTS.items():
            torch.cuda.reset_peak_memory_stats()
            seconds, audio_s = upstream.speak(text, calls, nfe_step)
            row = {"calls_s": seconds, "audio_s": audio_s, "rtf": median(seconds) / audio_s}
            rows.append({"preset": preset, "text": name, **row, "peak_device_bytes": torch.cuda.max_memory_allocated()})
    return {"load_s": load_s, "rows": rows, "peak_rss_gb": peak_rss_gb()}


def show(sides: dict[str, dict[str, Any]]) -> None:
    for name, side in sides.items():
        print(f"{name}: load {side['load_s']:.2f} s, peak RSS {side['peak_rss_gb']:.2f} GB")
    print(f"{'':12}{'preset':>10}{'text':>8}{'audio s':>9}{'call s':>8}{'RTF':>9}{'first part s':>14}{'outside ms':>12}{'device MB':>11}")
    for name, side in sides.items():
        for row in side["rows"]:
            first = f"{row['first_part_s']:.3f}" if "first_part_s" in row else "-"
            outside = f"{1000 * row['outside_model_s']:.1f}" if "outside_model_s" in row else "-"
            call_s = median(row["calls_s"])
            print(f"{name:12}{row['preset']:>10}{row['text']:>8}{row['audio_s']:9.1f}{call_s:8.3f}{row['rtf']:9.4f}", end="")
            print(f"{first:>14}{outside:>12}{row['peak_device_bytes'] / 1e6:11.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no GPU", file=sys.stderr)
        return 3
    if args.measure:
        measures = {
            "upstream": lambda: measure_upstream(args.model, args.calls),
            "torch": lambda: measure_ours(args.model, args.calls, "torch"),
            "flash_attn": lambda: measure_ours(args.model, args.calls, "flash_attn"),
        }
        print(json.dumps(measures[args.measure]()))
        return 0
    from tests.fakes.tiny_model import write_full_size_model

    with tempfile.TemporaryDirectory() as scratch:
        folder = args.model or write_full_size_model(Path(scratch)).parent
        sides = {name: in_process(name, folder, module="benchmarks.cuda", calls=args.calls) for name in ("upstream", "torch", "flash_attn")}
    show(sides)
    measure.write(ROOT / "benchmarks" / "results" / "cuda.json", {"machine": measure.machine(), "runs": args.calls, **sides})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
