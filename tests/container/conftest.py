"""Containers of the built image, between a loopback hub with a tiny model, SeaweedFS and a job server.

Not part of `make test`: the image must exist. `make image-test` says so by TEST_IMAGE.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.container import image
from tests.fakes.hub_server import HubServer, hub_server
from tests.fakes.seaweed import Seaweed, seaweed
from tests.fakes.tiny_model import write_tiny_model
from tests.worker_process import Started

collect_ignore_glob = [] if os.environ.get("TEST_IMAGE") else ["test_image*.py"]

MODELS_FILE = "/models/models.json"  # in the container


@dataclass
class Container(Started):
    """One started container."""

    name: str
    engine: Engine
    ready_s: ClassVar[float] = 120

    def terminate(self) -> None:
        self.engine.do("kill", "--signal", "TERM", self.name)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.engine.do("exec", self.name, *command, check=False)


@dataclass
class Engine:
    """docker or podman, and the image under test."""

    program: str
    env: dict[str, str]
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)
    started: list[Container] = field(default_factory=list)

    def do(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.program, *arguments], env=self.env, capture_output=True, text=True, check=False, timeout=Container.ready_s
        )
        if check and done.returncode:
            pytest.fail(f"{self.program} {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
        return done

    def once(self, *command: str, options: Sequence[str] = ()) -> str:
        """What a command prints in a fresh container of the image."""
        return self.do("run", "--rm", "--no-healthcheck", "--network=host", *options, image.tag(), *command).stdout

    def inspect(self, name: str) -> Any:
        """One entry of the image's configuration."""
        (described,) = json.loads(self.do("image", "inspect", image.tag()).stdout)
        return described["Config"].get(name) or described[name]

    def start(self, env: Mapping[str, str], *, options: Sequence[str] = ()) -> Container:
        """The image's own command with these variables."""
        name, output = f"f5-test-{uuid.uuid4().hex[:8]}", self.folder / f"container-{next(self.numbers)}.log"
        variables = [word for key, value in env.items() for word in ("-e", f"{key}={value}")]
        command = [self.program, "run", "--rm", "--name", name, "--no-healthcheck", "--network=host", *variables, *options, image.tag()]
        with output.open("wb") as log:
            process = subprocess.Popen(command, env=self.env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        container = Container(process, output, name, self)
        self.started.append(container)
        return container

    def stop_all(self) -> None:
        for container in self.started:
            if container.process.poll() is None:
                self.do("kill", "--signal", signal.SIGKILL.name.removeprefix("SIG"), container.name, check=False)
                container.process.wait(60)


@dataclass
class Surroundings:
    """What a container is started into."""

    engine: Engine
    models_file: Path
    hub: HubServer
    store: Seaweed

    def new_bucket(self) -> str:
        name = f"image-{uuid.uuid4().hex[:12]}"
        self.store.client().create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str, prefix: str) -> list[str]:
        listed = self.store.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
        return [o["Key"] for o in listed.get("Contents", [])]

    def start(self, env: Mapping[str, str] | None = None, *, bucket: str | None = None, options: Sequence[str] = ()) -> Container:
        """A worker that knows the tiny model only by the mounted models file; its bytes come from the hub or the bucket."""
        worker = {"F5_MODEL": "demo-tiny", "F5_MODELS_FILE": MODELS_FILE, "HF_ENDPOINT": self.hub.url, "PUBLISH_JITTER_S": "0"}
        platform = {"RUNPOD_SKIP_GPU_CHECK": "true"}
        store = self.store.env(bucket) if bucket else {}
        return self.engine.start(
            worker | platform | store | dict(env or {}), options=["-v", f"{self.models_file}:{MODELS_FILE}:ro", *options]
        )


@pytest.fixture(scope="session")
def engine(tmp_path_factory) -> Iterator[Engine]:
    running = Engine(image.engine(), image.engine_env(), tmp_path_factory.mktemp("containers"))
    yield running
    running.stop_all()


@pytest.fixture(scope="session")
def surroundings(engine, tmp_path_factory) -> Iterator[Surroundings]:
    models_file = write_tiny_model(tmp_path_factory.mktemp("model"))
    with ExitStack() as stack:
        hub = stack.enter_context(hub_server(models_file))
        store = stack.enter_context(seaweed())
        yield Surroundings(engine, models_file, hub, store)
