"""Loading the full-size checkpoint: upstream's load_model against ours, each in a process of its own.

    python -m benchmarks.load [--model FOLDER] [--rounds 5]

FOLDER holds the models.json of `tests.fakes.tiny_model.write_full_size_model`; without it the model is written to a temporary folder
(1.4 GB).
Seconds are the best of the rounds, with the file in the page cache. Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import measure

ROOT = Path(__file__).parents[1]
BARS = {"load_s": 0.5, "worker_peak_rss_gb": 3.0}
COLUMNS = ("import_s", "build_s", "load_s", "touched_s", "peak_rss_gb")


def peak_rss_gb() -> float:
    """Of this program. ru_maxrss would count what the parent had at fork."""
    high_water = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert high_water
    return int(high_water[1]) / 1e6


def touch(model: Any) -> float:
    """Read every weight; the sum keeps the reads from being left out."""
    return sum(float(parameter.float().sum()) for parameter in model.parameters())


def measure_upstream(folder: Path) -> dict[str, float]:
    started = time.perf_counter()
    from tests.model.upstream_process import import_upstream

    utils_infer = import_upstream()
    from f5_tts.model import DiT

    spec, paths = spec_of(folder)
    imported = time.perf_counter()
    model = utils_infer.load_model(DiT, dict(spec.arch), str(paths[spec.checkpoint]), vocab_file=str(paths[spec.vocab]), device="cpu")
    loaded = time.perf_counter()
    touch(model)
    touched = time.perf_counter()
    return {
        "import_s": imported - started,
        "build_s": 0.0,
        "load_s": loaded - imported,
        "touched_s": touched - imported,
        "peak_rss_gb": peak_rss_gb(),
    }


def measure_ours(folder: Path, dtype: str) -> dict[str, float]:
    started = time.perf_counter()
    import torch

    from f5_worker import backend, engine, upstream

    upstream.load()
    spec, paths = spec_of(folder)
    imported = time.perf_counter()
    built = engine.Engine.build(spec, backend.Backend(torch.device("cpu"), getattr(torch, dtype), "torch"))
    ready = time.perf_counter()
    built.load(paths)  # the vocoder too, which upstream loads apart
    loaded = time.perf_counter()
    touch(built._cfm)  # noqa: SLF001 - a benchmark looks inside
    touched = time.perf_counter()
    return {
        "import_s": imported - started,
        "build_s": ready - imported,
        "load_s": loaded - ready,
        "touched_s": touched - ready,
        "peak_rss_gb": peak_rss_gb(),
    }


def measure_worker(folder: Path) -> dict[str, float]:
    """What the worker does on the CPU: build, load, warm up, speak."""
    from f5_worker import engine, reference

    spec, paths = spec_of(folder)
    built = engine.Engine.build(spec)
    built.load(paths)
    built.warm_up()
    started = time.perf_counter()
    text = "This sentence is spoken to see how much memory the worker takes."
    voices = {None: reference.default_voice()}
    built.synthesize([engine.Passage(text)], voices, engine.Options(seed=1, nfe_step=2), cancelled=lambda: False)
    return {"synthesize_s": time.perf_counter() - started, "peak_rss_gb": peak_rss_gb()}


def spec_of(folder: Path) -> tuple[Any, dict[Any, Path]]:
    from f5_worker import manifest

    own = manifest.load_models().keys()
    models = manifest.load_models(folder / "models.json")
    spec = next(model for name, model in models.items() if name not in own)
    return spec, {file: folder / file.repo / file.path for file in spec.files}


def in_process(what: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.load", "--measure", what, "--model", str(folder)]
    done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def best_of(rounds: int, what: str, folder: Path) -> dict[str, float]:
    runs = []
    for number in range(rounds):
        print(f"  {what}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        runs.append(in_process(what, folder))
    return {key: round(min(run[key] for run in runs), 3) for key in runs[0]}


def report(folder: Path, rounds: int) -> int:
    machine = measure.machine()
    rows = {what: best_of(rounds, what, folder) for what in ("upstream", "ours-float32", "ours-bfloat16")}
    worker = best_of(1, "worker", folder)
    print(f"{'':15}" + "".join(f"{column:>13}" for column in COLUMNS))
    for what, row in rows.items():
        print(f"{what:15}" + "".join(f"{row[column]:13.2f}" for column in COLUMNS))
    print(f"worker on the CPU, full size: peak {worker['peak_rss_gb']:.2f} GB")
    from f5_worker import backend  # torch: not beside what is measured

    shipped = rows[f"ours-{str(backend.cpu_dtype()).removeprefix('torch.')}"]  # what the worker computes in on this processor
    load_s = shipped["build_s"] + shipped["load_s"]
    met = {"load_s": load_s < BARS["load_s"], "worker_peak_rss_gb": worker["peak_rss_gb"] < BARS["worker_peak_rss_gb"]}
    print("  ".join(f"{name} < {BARS[name]}: {'met' if ok else 'MISSED'}" for name, ok in met.items()))
    body = {"machine": machine, "runs": rounds, "bars": BARS, "met": met, "worker": worker, **rows}
    measure.write(ROOT / "benchmarks" / "results" / "load.json", body)
    return 0 if all(met.values()) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    measures = {"upstream": measure_upstream, "worker": measure_worker} | {
        f"ours-{dtype}": lambda folder, dtype=dtype: measure_ours(folder, dtype) for dtype in ("float32", "bfloat16")
    }
    if args.measure:
        print(json.dumps(measures[args.measure](args.model)))
        return 0
    if args.model:
        return report(args.model, args.rounds)
    from tests.fakes.tiny_model import write_full_size_model

    with tempfile.TemporaryDirectory() as scratch:
        print("writing a full-size random model (1.4 GB)", file=sys.stderr)
        return report(write_full_size_model(Path(scratch)).parent, args.rounds)


if __name__ == "__main__":
    raise SystemExit(main())
