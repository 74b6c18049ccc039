"""One boot each of what `bench boot` and `bench broken` compare: the worker, and the flows that a user would write instead.

python -m benchmarks.boots sequential|hub MODELS_FILE      one flow in this process; its phases as JSON on stdout
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from f5_worker.manifest import ModelSpec, load_models
from f5_worker.report import process_start_unix_s
from tests.worker_process import until, worker_process

READY = b"boot.ready"
PHASE_END = re.compile(rb"phase name='([^']+)' lane=handler")
BOOT_TIMEOUT_S = 300


def only_model(models_file: Path) -> ModelSpec:
    name = next(iter(json.loads(models_file.read_text())["models"]))
    return load_models(models_file)[name]


def boot_worker(models_file: Path, folder: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """Boot the worker by the image's command in an empty cache directory until it is ready.

    Its boot report with `cpu_s`, the CPU seconds of all of it, and `phase_cpu_s`, those between the ends of the handler's phases.
    """
    full_env = {
        "F5_MODELS_FILE": str(models_file),
        "F5_MODEL": only_model(models_file).name,
        "MODEL_CACHE_DIR": str(folder / "cache"),
        **env,
    }
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    with tempfile.TemporaryDirectory() as home, worker_process(full_env, home=Path(home), arguments=["--rp_serve_api"]) as worker:
        assert worker.stdout
        log, phase_cpu_s, spent_s = [], {}, 0.0
        for line in worker.stdout:
            log.append(line)
            if phase := PHASE_END.search(line):
                before_s, spent_s = spent_s, cpu_seconds(worker.pid)
                phase_cpu_s[phase[1].decode()] = spent_s - before_s
            if READY in line or time.monotonic() > deadline:
                break
        path = folder / "cache" / ".f5-worker" / "boot-report.json"
        until(path.exists, 10, lambda: b"".join(log).decode(errors="replace")[-2000:])
        report = json.loads(path.read_text())
        report |= {"cpu_s": cpu_seconds(worker.pid), "phase_cpu_s": phase_cpu_s}
    return report


def cpu_seconds(pid: int) -> float:
    """CPU of a process, its threads and the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(f) for f in fields[11:15]) / os.sysconf("SC_CLK_TCK")  # utime stime cutime cstime


class Flow:
    """Phases of a flow in this process, in the shape of a boot report."""

    def __init__(self, title: str) -> None:
        self.title, self.start, self.phases = title, process_start_unix_s(), []

    @contextmanager
    def phase(self, name: str, size: int = 0, source: str = "") -> Iterator[None]:
        begin = time.time() - self.start
        yield
        self.phases.append(
            {"name": name, "lane": "handler", "start_s": begin, "end_s": time.time() - self.start, "bytes": size, "source": source}
        )

    def report(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "model": self.title,
            "ready_s": time.time() - self.start,
            "phases": self.phases,
            "cpu_s": cpu_seconds(os.getpid()),
        }


def run_flow(kind: str, models_file: Path) -> dict[str, Any]:
    """What the previous workers did: first the whole download, then the imports, then upstream's load."""
    spec, flow = only_model(models_file), Flow(kind)
    size = sum(f.size_bytes for f in spec.files)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as name:
        folder = Path(name)
        with flow.phase(f"download ({kind})", size, "bucket" if kind == "sequential" else "hub"):
            paths = by_boto3(spec, folder) if kind == "sequential" else by_hub(spec, folder)
        with flow.phase("import runpod"):
            import runpod  # noqa: F401
        with flow.phase("import torch, f5_tts"):
            from tests.model.upstream_process import import_upstream

            utils_infer = import_upstream()
            from f5_tts.model import DiT
        with flow.phase("upstream load_model"):
            utils_infer.load_model(DiT, dict(spec.arch), str(paths[spec.checkpoint]), vocab_file=str(paths[spec.vocab]), device="cpu")
        with flow.phase("load vocos"):
            load_vocos(paths[spec.vocoder.config], paths[spec.vocoder.weights])
    return flow.report()


def by_boto3(spec: ModelSpec, folder: Path) -> dict[Any, Path]:
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    paths = {f: folder / f.sha256 for f in spec.files}
    for file, path in paths.items():
        client.download_file(os.environ["S3_BUCKET"], file.key("models/"), str(path))
    return with_suffixes(paths)


def by_hub(spec: ModelSpec, folder: Path) -> dict[Any, Path]:
    from huggingface_hub import hf_hub_download

    return {f: Path(hf_hub_download(f.repo, f.path, revision=f.commit, cache_dir=folder)) for f in spec.files}


def with_suffixes(paths: dict[Any, Path]) -> dict[Any, Path]:
    """upstream tells a safetensors file by its name."""
    return {file: path.rename(path.with_name(path.name + Path(file.path).suffix)) for file, path in paths.items()}


def load_vocos(config: Path, weights: Path) -> None:
    import torch
    from vocos import Vocos

    model = Vocos.from_hparams(str(config))
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model.eval()


if __name__ == "__main__":
    said = run_flow(sys.argv[1], Path(sys.argv[2]))
    sys.stdout.write("\nFLOW " + json.dumps(said) + "\n")
