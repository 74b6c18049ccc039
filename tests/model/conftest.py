"""The real f5_tts and vocos code on tiny random checkpoints, without a network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from f5_worker import manifest
from f5_worker.backend import Backend
from f5_worker.engine import Engine, Options, Passage, Speech
from f5_worker.reference import Voice, default_voice
from tests.fakes.tiny_model import write_tiny_model

torch.set_num_threads(1)  # threads that wait for each other cost a tiny model more than they save, most of all on a busy machine

FLOAT32 = Backend(torch.device("cpu"), torch.float32, "torch")
FLOAT16 = Backend(torch.device("cpu"), torch.float16, "torch")  # what CUDA computes in
BFLOAT16 = Backend(torch.device("cpu"), torch.bfloat16, "torch")


Paths = dict[manifest.PinnedFile, Path]

OPTIONS = Options(seed=5, nfe_step=2)
SENTENCE = "The quick brown fox jumps over the lazy dog near the river bank today. "


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with its models.json."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny")).parent


@pytest.fixture(scope="session")
def spec(tiny: Path) -> manifest.ModelSpec:
    return manifest.load_models(tiny / "models.json")["demo-tiny"]


@pytest.fixture(scope="session")
def paths(tiny: Path, spec: manifest.ModelSpec) -> Paths:
    return {file: tiny / file.repo / file.path for file in spec.files}


@pytest.fixture(scope="session", params=[FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def any_engine(request: pytest.FixtureRequest, spec: manifest.ModelSpec, paths: Paths) -> Engine:
    return loaded(spec, paths, request.param)


@pytest.fixture(scope="session")
def engine(spec: manifest.ModelSpec, paths: Paths) -> Engine:
    return loaded(spec, paths, BFLOAT16)


@pytest.fixture(scope="session")
def voice() -> Voice:
    return default_voice()


def loaded(spec: manifest.ModelSpec, paths: Paths, backend: Backend) -> Engine:
    engine = Engine.build(spec, backend)
    engine.load(paths)
    return engine


def never() -> bool:
    return False


def speak(engine: Engine, text: str, voice: Voice, options: Options = OPTIONS) -> Speech:
    return engine.synthesize([Passage(text)], {None: voice}, options, cancelled=never)


def digest(speech: Speech) -> str:
    return hashlib.sha256(speech.samples.tobytes()).hexdigest()
