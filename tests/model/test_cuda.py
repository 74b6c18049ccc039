"""The same promises on a GPU, in its precision: upstream's bits, the same bytes every time, memory that runs out, a device that dies.

Skipped without a GPU. The batches need flash-attn.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from f5_worker import manifest
from f5_worker.backend import choose_backend
from f5_worker.engine import Engine, Options, Passage
from f5_worker.errors import Cancelled, OutOfMemory
from f5_worker.reference import Voice
from tests.model.conftest import OPTIONS, SENTENCE, Paths, digest, loaded, speak
from tests.model.test_batching import planned
from tests.model.test_upstream_parity import RUNS, assert_upstreams, of_upstream

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ROOT = Path(__file__).parents[2]
LONG = SENTENCE * 15


@pytest.fixture(scope="module", params=["off", "auto"], ids=["torch", "flash_attn"])
def gpu(request: pytest.FixtureRequest, spec: manifest.ModelSpec, paths: Paths) -> Engine:
    backend = choose_backend(request.param)
    if request.param == "auto" and backend.attn_backend != "flash_attn":
        pytest.skip("needs flash-attn")
    return loaded(spec, paths, backend)


@pytest.fixture
def little_memory() -> Iterator[Any]:
    """Call it with the bytes that torch may have besides what is allocated."""

    def leave(size: int) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + size) / total)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_backend_is_the_gpus(gpu: Engine) -> None:
    assert gpu.backend.device.type == "cuda"
    assert gpu.backend.dtype == torch.float16
    assert gpu.backend.batched == (gpu.backend.attn_backend == "flash_attn")
    assert gpu.describe()["device"] == torch.cuda.get_device_name()
    assert all(parameter.is_cuda for parameter in gpu._cfm.parameters())


def test_mel_and_wave_of_one_chunk_are_upstreams(spec: manifest.ModelSpec, paths: Paths, voice: Voice, tmp_path: Path) -> None:
    backend = choose_backend("off")
    upstream, engine = of_upstream(spec, paths, voice, tmp_path, backend), loaded(spec, paths, backend)
    for index in range(len(RUNS)):
        assert_upstreams(engine, upstream, voice, index)


def test_the_same_request_is_the_same_bytes_at_any_concurrency(gpu: Engine, voice: Voice) -> None:
    expected = digest(speak(gpu, LONG, voice))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: digest(speak(gpu, LONG, voice)), range(8)))
    assert set(found) == {expected}


def test_seeds_do_not_touch_the_devices_own_generator(gpu: Engine, voice: Voice) -> None:
    torch.cuda.manual_seed(11)
    before = torch.cuda.get_rng_state()
    speak(gpu, SENTENCE, voice)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_every_mel_of_a_batch_is_that_of_the_pass_alone_within_its_rounding(gpu: Engine, voice: Voice) -> None:
    """float16's rounding: upstream's own bits change by as much between one pass and another of the same text in float32."""
    if not gpu.backend.batched:
        pytest.skip("one by one without flash-attn")
    options = replace(OPTIONS, nfe_step=16)
    together = gpu._renderer.render(planned(voice), options, lambda: False)
    for (mel, _), one in zip(together, planned(voice), strict=True):
        ((alone, _),) = gpu._renderer.render([one], options, lambda: False)
        spread = float(alone.max() - alone.min())
        assert mel.shape == alone.shape
        assert float((mel - alone).abs().max()) <= 0.02 * spread, (float((mel - alone).abs().max()), spread)


def test_memory_is_given_back_after_each_job(gpu: Engine, voice: Voice) -> None:
    speak(gpu, SENTENCE, voice)
    before = torch.cuda.memory_allocated()
    for seed in range(20):
        speak(gpu, SENTENCE * (1 + seed % 5), voice, replace(OPTIONS, seed=seed))
    assert torch.cuda.memory_allocated() == before


def test_a_chunk_that_does_not_fit_is_said_in_parts_or_refused_and_the_next_job_is_served(
    gpu: Engine, voice: Voice, little_memory: Any
) -> None:
    expected = digest(speak(gpu, SENTENCE * 2, voice))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    idle = torch.cuda.memory_reserved()
    speak(gpu, SENTENCE * 2, voice)
    needed = torch.cuda.max_memory_reserved() - idle
    outcomes = []
    for share in (1.5, 0.9, 0.7, 0.5, 0.3, 0.0):
        little_memory(int(needed * share))
        try:
            warnings = [code for code, _ in speak(gpu, SENTENCE * 2, voice).warnings]
            outcomes.append("halved" if "MEMORY_HALVED" in warnings else "whole")
        except OutOfMemory:
            outcomes.append("refused")
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert (outcomes[0], outcomes[-1]) == ("whole", "refused"), outcomes
    assert outcomes == sorted(outcomes, key=["whole", "halved", "refused"].index), outcomes
    assert digest(speak(gpu, SENTENCE * 2, voice)) == expected


def test_a_cancelled_job_ends_within_one_step(gpu: Engine, voice: Voice) -> None:
    speak(gpu, SENTENCE, voice)
    steps, cancel = [], threading.Event()

    def cancelled() -> bool:
        steps.append(time.monotonic())
        if len(steps) == 6:
            cancel.set()
        return cancel.is_set()

    with pytest.raises(Cancelled):
        gpu.synthesize([Passage(SENTENCE)], {None: voice}, Options(seed=1, nfe_step=32), cancelled=cancelled)
    assert len(steps) == 6


def test_a_rehearsal_changes_nothing(gpu: Engine, voice: Voice) -> None:
    expected = digest(speak(gpu, SENTENCE, voice))
    gpu.rehearse()
    assert digest(speak(gpu, SENTENCE, voice)) == expected


DIES = """
import sys, torch
from pathlib import Path
from f5_worker import manifest
from f5_worker.engine import Engine
from f5_worker.errors import DeviceFailed
from f5_worker.speech import Options, Passage
from f5_worker.reference import default_voice
tiny = Path(sys.argv[1])
spec = manifest.load_models(tiny / "models.json")["demo-tiny"]
engine = Engine.build(spec)
engine.load({file: tiny / file.repo / file.path for file in spec.files})
speak = lambda: engine.synthesize([Passage("Hello there.")], {None: default_voice()}, Options(seed=1, nfe_step=2), cancelled=lambda: False)
speak()
try:
    torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].cpu()  # an assertion on the device ends the process's context
except RuntimeError as exc:
    print("device:", type(exc).__name__)
for _ in range(2):
    try:
        speak()
    except DeviceFailed as exc:
        print("job:", exc.code)
"""


def test_a_dead_context_is_told_from_a_failed_job(tiny: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIES, str(tiny)], check=False, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.count("job: DEVICE_FAILED") == 2, done.stdout + done.stderr[-3000:]
