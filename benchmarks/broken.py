"""`bench broken`: what a broken bucket costs a boot, in seconds more than a boot without a bucket. Tiny model, hub stand-in."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import measure, report
from benchmarks.boots import boot_worker
from tests.fakes import fault_proxy as faults
from tests.fakes.fault_proxy import Fault, FaultProxy
from tests.fakes.hub_server import hub_server
from tests.fakes.seaweed import ACCESS_KEY, SECRET_KEY
from tests.fakes.tiny_model import write_tiny_model

BARS_S = {"refused": 4, "black-holed connect": 4, "black-holed request": 4, "stalled": 9, "slow": 9}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-broken-") as name:
        folder = Path(name)
        models_file = write_tiny_model(folder / "model")
        with hub_server(models_file) as hub:
            costs: dict[str, list[float]] = {"no bucket": [], **{name: [] for name in BARS_S}}
            for run in range(args.runs):
                for kind, seconds in costs.items():
                    with bucket(kind, models_file) as env:
                        boot = boot_worker(models_file, folder / f"{kind}-{run}", {"HF_ENDPOINT": hub.url, **env})
                    seconds.append(boot["ready_s"])
                    print(f"{kind}: ready after {boot['ready_s']:.2f} s, bucket {boot['bucket']['outcome']}", flush=True)
    base = statistics.median(costs["no bucket"])
    extra = {kind: statistics.median(seconds) - base for kind, seconds in costs.items() if kind in BARS_S}
    result = {"machine": measure.machine(), "runs": args.runs, "no_bucket_ready_s": base, "extra_s": extra, "bars_s": BARS_S}
    measure.write(Path(__file__).with_name("results") / "broken.json", result)
    return report.verdict(report.broken_bars(result))


@contextmanager
def bucket(kind: str, models_file: Path) -> Iterator[dict[str, str]]:
    """The worker's settings for one way of being broken."""
    env = {"S3_BUCKET": "broken", "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    if kind == "no bucket":
        yield {}
    elif kind == "refused":
        yield env | {"AWS_ENDPOINT_URL": faults.refused_url()}
    elif kind == "black-holed connect":
        with faults.full_backlog() as url:
            yield env | {"AWS_ENDPOINT_URL": url}
    else:
        fault: Fault = {"black-holed request": faults.black_hole(), "stalled": faults.stall(1000), "slow": faults.slow(60_000)}[kind]
        with FaultProxy(objects=objects(models_file)) as proxy:
            proxy.fail(fault)
            yield env | {"AWS_ENDPOINT_URL": proxy.url}


def objects(models_file: Path) -> dict[str, bytes]:
    from benchmarks.boots import only_model

    return {f"/broken/{f.key('models/')}": (models_file.parent / f.repo / f.path).read_bytes() for f in only_model(models_file).files}


if __name__ == "__main__":
    raise SystemExit(main())
