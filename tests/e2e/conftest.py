"""The worker's surroundings, all real over loopback: a hub with a tiny model, SeaweedFS, and workers started by the Dockerfile's CMD."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from tests.fakes.hub_server import HubServer, hub_server
from tests.fakes.seaweed import Seaweed, seaweed
from tests.fakes.tiny_model import write_tiny_model
from tests.fakes.tiny_whisper import write_tiny_whisper
from tests.worker_process import ROOT, Started, base_env, kill_group, worker_process


@dataclass
class Worker(Started):
    """One started worker."""

    cache_dir: Path

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def boot_report(self) -> dict[str, Any]:
        return json.loads((self.cache_dir / ".f5-worker" / "boot-report.json").read_text())


@dataclass
class Surroundings:
    """What a worker is started into. Each start has an empty cache directory."""

    folder: Path
    models_file: Path
    hub: HubServer
    store: Seaweed
    stack: ExitStack
    numbers: Iterator[int]

    def model_env(self) -> dict[str, str]:
        return {"F5_MODEL": "demo-tiny", "F5_MODELS_FILE": str(self.models_file), "HF_ENDPOINT": self.hub.url, "PUBLISH_JITTER_S": "0"}

    def new_bucket(self) -> str:
        name = f"e2e-{uuid.uuid4().hex[:12]}"
        self.store.client().create_bucket(Bucket=name)
        return name

    def start(self, env: dict[str, str], *, arguments: Sequence[str] = (), alone: bool = False) -> Worker:
        """alone: handler.py by hand, without the boot."""
        number = next(self.numbers)
        cache_dir = self.folder / f"cache-{number}"
        output = self.folder / f"worker-{number}.log"
        full = self.model_env() | {"MODEL_CACHE_DIR": str(cache_dir)} | env
        with output.open("wb") as log:
            started = (
                handler_process(full, log, arguments) if alone else worker_process(full, home=self.folder, arguments=arguments, stdout=log)
            )
            process = self.stack.enter_context(started)
        return Worker(process, output, cache_dir)


@contextmanager
def handler_process(env: dict[str, str], log: IO[bytes], arguments: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-u", "handler.py", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env=base_env() | env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        kill_group(process)


@pytest.fixture(scope="session")
def hub_and_store(tmp_path_factory) -> Iterator[tuple[Path, HubServer, Seaweed]]:
    models_file = write_tiny_model(tmp_path_factory.mktemp("model"))
    write_tiny_whisper(models_file.parent)
    with hub_server(models_file) as hub, seaweed() as store:
        yield models_file, hub, store


@pytest.fixture(scope="module")
def surroundings(hub_and_store, tmp_path_factory) -> Iterator[Surroundings]:
    """Workers that a module starts live until its end."""
    models_file, hub, store = hub_and_store
    folder = tmp_path_factory.mktemp("workers")
    with ExitStack() as stack:
        yield Surroundings(folder, models_file, hub, store, stack, itertools.count(1))
