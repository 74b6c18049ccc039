"""A tiny Whisper that has learned a few words, as files and behind a Transcriber."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from f5_worker.backend import Backend
from f5_worker.manifest import TranscriberSpec, load_transcriber
from f5_worker.transcribe import Transcriber
from tests.fakes.tiny_whisper import train_tiny_whisper

torch.set_num_threads(1)  # threads that wait for each other cost a tiny model more than they save, most of all on a busy machine

CPU = Backend(torch.device("cpu"), torch.bfloat16, "torch")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny_whisper(tmp_path_factory.mktemp("whisper")).parent


@pytest.fixture(scope="session")
def spec(folder: Path) -> TranscriberSpec:
    return load_transcriber(folder / "models.json")


@pytest.fixture(scope="session")
def weights(folder: Path, spec: TranscriberSpec) -> Path:
    return folder / spec.weights.repo / spec.weights.path


@pytest.fixture(scope="session")
def transcriber(spec: TranscriberSpec, weights: Path) -> Transcriber:
    return transcriber_of(spec, weights)


def transcriber_of(spec: TranscriberSpec, weights: Path) -> Transcriber:
    return Transcriber(spec, lambda files: dict.fromkeys(files, weights), CPU)
