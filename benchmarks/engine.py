"""Speaking with the full-size model on the CPU: upstream's inference against ours, each in a process of its own.

    python -m benchmarks.engine --model FOLDER [--calls 3] [--nfe 4]

FOLDER holds the models.json of `tests.fakes.tiny_model.write_full_size_model`. Upstream is load_model, load_vocoder and infer_process,
which is what F5TTS.infer calls. Same weights, reference, text and steps. Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.load import ROOT, peak_rss_gb, spec_of

TEXT = "The worker says this sentence several times, so that its speed can be measured."
BARS = {"times_faster": 1.9, "overhead_share": 0.03, "overhead_ms_per_chunk": 5.0}


def measure_upstream(folder: Path, calls: int, nfe: int) -> dict[str, Any]:
    from tests.model.upstream_process import import_upstream

    utils_infer = import_upstream()
    import soundfile
    from f5_tts.model import DiT

    from f5_worker.reference import default_voice

    spec, paths = spec_of(folder)
    model = utils_infer.load_model(DiT, dict(spec.arch), str(paths[spec.checkpoint]), vocab_file=str(paths[spec.vocab]), device="cpu")
    vocoder = utils_infer.load_vocoder(is_local=True, local_path=str(paths[spec.vocoder.config].parent), device="cpu")
    voice, seconds, spoken_s = default_voice(), [], 0.0
    with tempfile.TemporaryDirectory() as scratch:
        wav = Path(scratch) / "reference.wav"
        soundfile.write(wav, voice.samples, voice.sample_rate_hz, subtype="FLOAT")
        for _ in range(calls):
            started = time.perf_counter()
            wave, rate_hz, _ = utils_infer.infer_process(
                str(wav), voice.text, TEXT, model, vocoder, nfe_step=nfe, progress=None, show_info=lambda *_: None, device="cpu"
            )
            seconds.append(time.perf_counter() - started)
            spoken_s = len(wave) / rate_hz
    return {"calls_s": seconds, "spoken_s": spoken_s, "peak_rss_gb": peak_rss_gb()}


def measure_ours(folder: Path, calls: int, nfe: int) -> dict[str, Any]:
    from f5_worker import engine, reference

    spec, paths = spec_of(folder)
    built = engine.Engine.build(spec)
    built.load(paths)
    built.warm_up()
    voice = reference.default_voice()
    inside = [0.0]

    def timed(compute: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = compute(*args, **kwargs)
            inside[0] += time.perf_counter() - started
            return result

        return run

    built._cfm.sample = timed(built._cfm.sample)  # noqa: SLF001 - a benchmark looks inside
    built._vocoder.forward = timed(built._vocoder.forward)  # noqa: SLF001
    seconds, overhead, spoken_s = [], [], 0.0
    for seed in range(calls):
        inside[0], started = 0.0, time.perf_counter()
        speech = built.synthesize(TEXT, voice, engine.Options(seed=seed, nfe_step=nfe), cancelled=lambda: False)
        seconds.append(time.perf_counter() - started)
        overhead.append(seconds[-1] - inside[0])
        spoken_s = len(speech.samples) / speech.sample_rate_hz
    return {
        "calls_s": seconds,
        "spoken_s": spoken_s,
        "peak_rss_gb": peak_rss_gb(),
        "overhead_s": min(overhead),
        "chunks": len(speech.segments),
    }


def in_process(what: str, args: argparse.Namespace) -> dict[str, Any]:
    print(f"  {what}: {args.calls} calls", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.engine", "--measure", what, "--model", str(args.model)]
    command += ["--calls", str(args.calls), "--nfe", str(args.nfe)]
    done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(args: argparse.Namespace) -> int:
    rows = {what: in_process(what, args) for what in ("upstream", "ours")}
    for row in rows.values():
        row["rtf"] = min(row["calls_s"]) / row["spoken_s"]
    upstream, ours = rows["upstream"], rows["ours"]
    print(f"{'':10}{'first call s':>14}{'best call s':>13}{'RTF':>8}{'peak RSS GB':>13}")
    for what, row in rows.items():
        print(f"{what:10}{row['calls_s'][0]:14.2f}{min(row['calls_s']):13.2f}{row['rtf']:8.2f}{row['peak_rss_gb']:13.2f}")
    figures = {
        "times_faster": upstream["rtf"] / ours["rtf"],
        "overhead_share": ours["overhead_s"] / min(ours["calls_s"]),
        "overhead_ms_per_chunk": 1000 * ours["overhead_s"] / ours["chunks"],
    }
    met = {name: figures[name] >= bar if name == "times_faster" else figures[name] < bar for name, bar in BARS.items()}
    met["peak_rss_lower"] = ours["peak_rss_gb"] < upstream["peak_rss_gb"]
    met["first_call_as_fast"] = ours["calls_s"][0] <= 1.1 * max(ours["calls_s"][1:], default=ours["calls_s"][0])
    for name, ok in met.items():
        figure = f" {figures[name]:.3f} (bar {BARS[name]})" if name in figures else ""
        print(f"{name}{figure}: {'met' if ok else 'MISSED'}")
    results = ROOT / "benchmarks" / "results" / "engine.json"
    results.parent.mkdir(exist_ok=True)
    body = {"cpus": os.cpu_count(), "nfe": args.nfe, "figures": figures, "bars": BARS, "met": met, **rows}
    results.write_text(json.dumps(body, indent=1) + "\n")
    return 0 if all(met.values()) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--nfe", type=int, default=4)
    parser.add_argument("--measure", choices=("upstream", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.measure:
        return report(args)
    measure = measure_upstream if args.measure == "upstream" else measure_ours
    print(json.dumps(measure(args.model, args.calls, args.nfe)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
