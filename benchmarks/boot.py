"""`bench boot`: process start to a loaded model, full-size random checkpoint on the CPU, at 125 MB/s, 500 MB/s and unlimited.

Ours against the sequential flow (boto3's download, then the imports, then upstream's load), a hub download (once behind a line),
and the limit

    max(bytes / line, imports, CPU seconds of everything before the load / cores) + load

The store and the line run on the same cores, so their CPU seconds are in the third term. "Loaded" is the end of the load in every
flow; ours then warms up, which the others leave to the first job.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks import measure, report
from benchmarks.boots import boot_worker, cpu_seconds, only_model
from benchmarks.lines import Line, line
from f5_worker.manifest import ModelSpec
from f5_worker.waterfall import png
from tests.fakes.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed, seaweed
from tests.fakes.tiny_model import write_full_size_model

BUCKET, RTT_S, PER_CONNECTION = "bench-boot", 0.02, 40e6
RATES_MB_S = (125, 500, 0)
DOCS = Path(__file__).parents[1] / "docs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", type=Path, help="models.json of a full-size model made before")
    parser.add_argument("--dir", help="where the store and the caches lie")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-boot-", dir=args.dir) as name, ExitStack() as stack:
        folder = Path(name)
        models_file = args.model or write_full_size_model(folder / "model")
        spec = only_model(models_file)
        server = stack.enter_context(seaweed(folder / "store"))
        seed(server, spec, models_file.parent)
        hub = stack.enter_context(hub_process(models_file))
        os.environ["BENCH_DIR"] = name
        rows = [measure_rate(rate, models_file, folder, server, hub, args.runs) for rate in RATES_MB_S]
    draw(rows)
    print_table(rows)
    result = {
        "machine": measure.machine(),
        "runs": args.runs,
        "hub_runs_on_a_line": 1,
        "bytes": sum(f.size_bytes for f in spec.files),
        "rates": [summary(r) for r in rows],
    }
    measure.write(Path(__file__).with_name("results") / "boot.json", result)
    return report.verdict(report.boot_bars(result))


def seed(server: Seaweed, spec: ModelSpec, folder: Path) -> None:
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    for file in spec.files:
        client.upload_file(str(folder / file.repo / file.path), BUCKET, file.key("models/"))


@contextmanager
def hub_process(models_file: Path) -> Iterator[str]:
    """The hub stand-in in a process of its own: its Python must not share the measured ones' interpreter."""
    command = [sys.executable, "-m", "tests.fakes.hub_server", str(models_file), str(models_file.parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measure_rate(rate: int, models_file: Path, folder: Path, server: Seaweed, hub: str, runs: int) -> dict[str, Any]:
    """Every flow in turn, `runs` times, behind one line; the reports."""
    flows: dict[str, list[dict[str, Any]]] = {"ours": [], "sequential": [], "hub": []}
    for run in range(runs):
        for kind, reports in flows.items():
            if kind == "hub" and rate and run:  # its one connection is what binds, for 46 s
                continue
            upstream = (hub if kind == "hub" else server.endpoint_url).removeprefix("http://")
            with line_to(upstream, rate) as running:
                boot = one(kind, models_file, folder / f"{kind}-{rate}-{run}", server, running)
            reports.append(boot)
            print(f"{rate or 'unlimited'} MB/s {kind}: loaded after {loaded_s(boot):.2f} s", flush=True)
    return {"rate_mb_s": rate, "flows": flows}


def line_to(upstream: str, rate: int) -> Any:
    return line(upstream, rtt_s=RTT_S, per_connection=PER_CONNECTION, total=rate * 1e6) if rate else nullcontext(Line(upstream, 0))


def one(kind: str, models_file: Path, folder: Path, server: Seaweed, running: Line) -> dict[str, Any]:
    before, address = cpu_seconds(server.pid), f"http://{running.address}"
    if kind == "ours":
        env = server.env(BUCKET, endpoint_url=address) | {"HF_ENDPOINT": "http://127.0.0.1:1", "PUBLISH_JITTER_S": "600"}
        boot = boot_worker(models_file, folder, env)
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    else:
        env = {**os.environ, "S3_BUCKET": BUCKET, "AWS_ENDPOINT_URL": address, "HF_ENDPOINT": address, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        env |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.boots", kind, str(models_file)], env=env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        boot = json.loads(done.stdout.rpartition("FLOW ")[2])
    boot["server_cpu_s"] = cpu_seconds(server.pid) - before
    boot["line_cpu_s"] = cpu_seconds(running.pid) if running.pid else 0.0  # it serves this boot alone
    return boot


def loaded_s(boot: dict[str, Any]) -> float:
    """The end of the last phase that loads; ours goes on with the warm-up."""
    return max(p["end_s"] for p in boot["phases"] if p["name"] != "warm up")


def seconds(boot: dict[str, Any], *names: str) -> float:
    return sum(p["end_s"] - p["start_s"] for p in boot["phases"] if p["name"] in names)


def limit(row: dict[str, Any]) -> dict[str, float]:
    """The terms of the limit from ours' median run: nothing on this machine can be loaded before their maximum plus the load."""
    boot = sorted(row["flows"]["ours"], key=loaded_s)[len(row["flows"]["ours"]) // 2]
    size = sum(p["bytes"] for p in boot["phases"] if p["source"] == "bucket")
    after_cpu_s = boot["phase_cpu_s"]["load model"] + boot["phase_cpu_s"]["warm up"]
    terms = {
        "line": size / (row["rate_mb_s"] * 1e6) if row["rate_mb_s"] else 0.0,
        "imports": seconds(boot, "import runpod", "import torch", "build model"),
        "cpu": (boot["cpu_s"] - after_cpu_s + boot["server_cpu_s"] + boot["line_cpu_s"]) / measure.cores(),
    }
    return {**terms, "load": seconds(boot, "load model"), "total": max(terms.values()) + seconds(boot, "load model")}


def summary(row: dict[str, Any]) -> dict[str, Any]:
    medians = {kind: statistics.median(map(loaded_s, reports)) for kind, reports in row["flows"].items()}
    bound = limit(row)
    binding = max(("line", "imports", "cpu"), key=lambda term: bound[term])
    return {
        "rate_mb_s": row["rate_mb_s"] or None,
        "loaded_s": medians,
        "ready_s_ours": statistics.median(r["ready_s"] for r in row["flows"]["ours"]),
        "limit": bound,
        "binding_term": binding,
        "ours_to_limit": medians["ours"] / bound["total"],
        "sequential_to_ours": medians["sequential"] / medians["ours"],
        "hub_to_ours": medians["hub"] / medians["ours"],
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'line':>10} {'ours s':>8} {'sequential s':>13} {'hub s':>8} {'limit s':>8}  binds    ours/limit  sequential/ours")
    for s in map(summary, rows):
        rate = f"{s['rate_mb_s']} MB/s" if s["rate_mb_s"] else "unlimited"
        times = s["loaded_s"]
        print(f"{rate:>10} {times['ours']:>8.2f} {times['sequential']:>13.2f} {times['hub']:>8.2f} {s['limit']['total']:>8.2f}", end="")
        print(f"  {s['binding_term']:<8} {s['ours_to_limit']:>10.2f} {s['sequential_to_ours']:>16.2f}")


def draw(rows: list[dict[str, Any]]) -> None:
    row = next(r for r in rows if r["rate_mb_s"] == 500)
    ours, sequential = (sorted(row["flows"][kind], key=loaded_s)[len(row["flows"][kind]) // 2] for kind in ("ours", "sequential"))
    ours["title"], sequential["title"] = "this worker, 500 MB/s", "boto3 sync, then imports, then upstream's load, 500 MB/s"
    DOCS.mkdir(exist_ok=True)
    (DOCS / "boot-waterfall.png").write_bytes(png([ours, sequential]))


if __name__ == "__main__":
    raise SystemExit(main())
