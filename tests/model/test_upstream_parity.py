"""For one chunk and one seed the worker computes what upstream's own load_model and infer_process compute, bit for bit.

In the precisions that upstream has: float32, and float16, which it casts to on CUDA (here on the CPU). bfloat16, our precision for the CPU,
gives the same noise and is compared with upstream's float32 within its rounding.
"""

# ruff: noqa: RUF001 - texts of other scripts

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from f5_worker import manifest, passes
from f5_worker.backend import Backend
from f5_worker.engine import Engine, Options, Passage
from f5_worker.reference import Voice
from tests.model.conftest import BFLOAT16, FLOAT16, FLOAT32, Paths, loaded, never, speak

RUNS = [
    {"gen_text": "Hello there, this is a test of one chunk.", "seed": 7, "nfe_step": 4, "speed": 1.0},
    {"gen_text": "Hi.", "seed": 1, "nfe_step": 4, "speed": 1.0},  # short: upstream slows it down
    {"gen_text": "Quick; \u201cquoted\u201d words, at another speed!", "seed": 2**40, "nfe_step": 3, "speed": 1.2},
    {"gen_text": "你好，世界。今天天气很好。 Mixed with English.", "seed": 3, "nfe_step": 2, "speed": 1.0},
    {"gen_text": "Loud reference.  Нет.", "seed": 4, "nfe_step": 2, "speed": 1.0, "loud": True},
]


def mel_of(engine: Engine, text: str, voice: Voice, options: Options) -> torch.Tensor:
    planned = passes.plan([Passage(text)], {None: voice}, options, hop=256)
    ((mel, _),) = engine._renderer.render(planned.passes, options, never)
    return mel


def reference_of(run: dict[str, Any], voice: Voice) -> Voice:
    """The voice, or one above the target loudness, which upstream leaves as it is."""
    return replace(voice, samples=voice.samples * np.float32(4.0)) if run.get("loud") else voice


def of_upstream(spec: manifest.ModelSpec, paths: Paths, voice: Voice, folder: Path, backend: Backend) -> Any:
    """Everything upstream computes of RUNS on the backend's device, in its precision."""
    runs = []
    for run in RUNS:
        wav = folder / f"{run.get('loud', False)}.wav"
        soundfile.write(wav, reference_of(run, voice).samples, voice.sample_rate_hz, subtype="FLOAT")
        runs.append({**run, "wav": str(wav), "ref_text": voice.text})
    job = {
        "checkpoint": str(paths[spec.checkpoint]), "vocab": str(paths[spec.vocab]), "vocoder": str(paths[spec.vocoder.config].parent),
        "arch": dict(spec.arch), "dtype": str(backend.dtype).removeprefix("torch."), "device": backend.device.type, "runs": runs,
        "out": str(folder / "out.npz"),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.model.upstream_process", json.dumps(job)]
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on how many threads share them
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200, cwd=Path(__file__).parents[2], env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(folder / "out.npz")


def assert_upstreams(engine: Engine, upstream: Any, voice: Voice, index: int) -> None:
    """Mel and wave of one of RUNS, bit for bit."""
    run: dict[str, Any] = RUNS[index]
    reference = reference_of(run, voice)
    options = Options(seed=run["seed"], nfe_step=run["nfe_step"], speed=run["speed"])
    mel = mel_of(engine, run["gen_text"], reference, options)
    speech = speak(engine, run["gen_text"], reference, options)
    assert len(speech.segments) == 1
    np.testing.assert_array_equal(mel[0].cpu().numpy(), upstream[f"mel{index}"])
    np.testing.assert_array_equal(speech.samples, upstream[f"wave{index}"])


@pytest.fixture(scope="module", params=[FLOAT32, FLOAT16], ids=["float32", "float16"])
def pair(request: pytest.FixtureRequest, spec: manifest.ModelSpec, paths: Paths, voice: Voice, tmp_path_factory: Any) -> tuple[Engine, Any]:
    """Our engine, and everything upstream computed."""
    upstream = of_upstream(spec, paths, voice, tmp_path_factory.mktemp("upstream"), request.param)
    return loaded(spec, paths, request.param), upstream


def test_every_weight_and_buffer_is_what_upstream_loads(pair: tuple[Engine, Any]) -> None:
    engine, upstream = pair
    state = {f"model.{key}": value for key, value in [*engine._cfm.state_dict().items(), *engine._cfm.named_buffers()]}
    state |= {f"vocoder.{key}": value for key, value in engine._renderer.vocoder.state_dict().items()}
    theirs = {key for key in upstream.files if key.startswith(("model.", "vocoder.")) and "feature_extractor" not in key}
    assert theirs == set(state)
    for key in theirs:
        np.testing.assert_array_equal(state[key].float().numpy(), upstream[key], err_msg=key)


@pytest.mark.parametrize("index", range(len(RUNS)), ids=[str(run["gen_text"])[:12] for run in RUNS])
def test_mel_and_wave_of_one_chunk_are_upstreams(pair: tuple[Engine, Any], voice: Voice, index: int) -> None:
    assert_upstreams(*pair, voice, index)


@pytest.mark.parametrize("pair", [FLOAT32], ids=["float32"], indirect=True)
def test_bfloat16_is_upstreams_float32_within_its_rounding(
    pair: tuple[Engine, Any], spec: manifest.ModelSpec, paths: dict[manifest.PinnedFile, Path], voice: Voice
) -> None:
    _, upstream = pair
    options = Options(seed=RUNS[0]["seed"], nfe_step=RUNS[0]["nfe_step"])
    mel = mel_of(loaded(spec, paths, BFLOAT16), str(RUNS[0]["gen_text"]), voice, options)
    difference = np.abs(mel[0].numpy() - upstream["mel0"])
    assert difference.mean() < 0.05 * np.abs(upstream["mel0"]).mean()
