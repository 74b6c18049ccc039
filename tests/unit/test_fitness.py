from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from f5_worker import fitness
from f5_worker.errors import GpuUnavailable
from f5_worker.settings import Settings

OUT_PARAMETERS = {"cuDriverGetVersion": 12_080, "cuDeviceGetCount": 1, "cuDeviceGet": 0, "cuDeviceGetAttribute": 8}
TRIAL = ["cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemAlloc_v2", "cuMemsetD8_v2", "cuCtxSynchronize", "cuMemFree_v2"]


class FakeDriver:
    """libcuda.so.1: every call succeeds but the one in `failing`; `answers` are what the calls write."""

    def __init__(self, *, failing: str = "", code: int = 999, **answers: int) -> None:
        self.failing, self.code, self.answers = failing, code, OUT_PARAMETERS | answers
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: object) -> int:
            self.calls.append(name)
            if name in self.answers:
                arguments[0]._obj.value = self.answers[name]  # type: ignore[attr-defined]
            return self.code if name == self.failing else 0

        return call

    def cuGetErrorString(self, _code: int, text: object) -> int:  # noqa: N802 - the driver's name
        text._obj.value = b"the driver's words"  # type: ignore[attr-defined]
        return 0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir_candidates=(tmp_path / "models",))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[FakeDriver], FakeDriver]:
    monkeypatch.setattr(fitness, "DEVICE", tmp_path / "nvidiactl")

    def use(driver: FakeDriver) -> FakeDriver:
        monkeypatch.setattr(ctypes, "CDLL", lambda _name: driver)
        return driver

    return use


def test_a_gpu_that_computes_passes(settings, install):
    driver = install(FakeDriver())
    fitness.check(replace(settings, gpu_expected=True))
    assert [call for call in driver.calls if call in TRIAL] == TRIAL


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGetCount", *TRIAL])
def test_a_call_that_fails_is_named_with_the_drivers_reason(settings, install, call):
    install(FakeDriver(failing=call, code=100))
    with pytest.raises(GpuUnavailable, match=rf"^GPU_UNAVAILABLE: {call} failed: the driver's words \(100\)"):
        fitness.check(replace(settings, gpu_expected=True))


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"cuDeviceGetCount": 0}, "no GPU"),
        ({"cuDriverGetVersion": 11_080}, r"supports CUDA 11\.8, torch needs 12\.0"),
        ({"cuDeviceGetAttribute": 12}, r"compute capability 12\.x and torch's build runs on 5\.0 to 9\.x: choose an Ampere"),
    ],
)
def test_a_driver_that_cannot_serve_is_refused(settings, install, answers, reason):
    install(FakeDriver(**answers))
    with pytest.raises(GpuUnavailable, match=reason):
        fitness.check(replace(settings, gpu_expected=True))


def test_the_gpus_that_pass_are_those_that_the_installed_torch_has_kernels_for():
    import torch

    kernels = torch._C._cuda_getArchFlags().split()
    assert {int(kernel.removeprefix("sm_")) // 10 for kernel in kernels} == set(fitness.GENERATIONS)


def test_a_container_without_a_driver_is_refused(settings, monkeypatch):
    monkeypatch.setattr(fitness, "DRIVER", "libcuda-is-not-here.so")
    with pytest.raises(GpuUnavailable, match="--gpus all"):
        fitness.check(replace(settings, gpu_expected=True))


def test_a_gpu_that_hangs_ends_the_boot(settings, install, monkeypatch):
    released = threading.Event()
    driver = install(FakeDriver())
    driver.cuInit = lambda _flags: released.wait() and 0
    monkeypatch.setattr(fitness, "GPU_TIMEOUT_S", 0.05)
    try:
        with pytest.raises(GpuUnavailable, match="hangs"):
            fitness.check(replace(settings, gpu_expected=True))
    finally:
        released.set()


@pytest.mark.parametrize(
    ("expected", "has_device", "looks"), [(None, False, False), (None, True, True), (False, True, False), (True, False, True)]
)
def test_the_gpu_is_tried_where_one_is_promised_or_there(settings, install, expected, has_device, looks):
    driver = install(FakeDriver())
    if has_device:
        fitness.DEVICE.touch()
    fitness.check(replace(settings, gpu_expected=expected))
    assert bool(driver.calls) is looks


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"RUNPOD_GPU_COUNT": "1"}, True),
        ({"RUNPOD_GPU_COUNT": "0"}, None),
        ({"RUNPOD_GPU_COUNT": "many"}, None),
        ({"RUNPOD_GPU_COUNT": "1", "RUNPOD_SKIP_GPU_CHECK": "true"}, False),
    ],
)
def test_the_platform_says_whether_a_gpu_is_expected(env, expected):
    assert Settings.from_env(env).gpu_expected is expected


@pytest.mark.parametrize(
    ("size_bytes", "line_bytes_per_s", "seconds"),
    [
        (1_404_000_000, 500e6, 420),  # RunPod's default is enough
        (1_404_000_000, 7e6, 480),
        (3_020_000_000, 5e6, 1_320),  # with the transcriber, over a slow line
    ],
)
def test_the_init_timeout_follows_from_bytes_and_line(size_bytes, line_bytes_per_s, seconds):
    assert fitness.init_timeout_s(size_bytes, line_bytes_per_s) == seconds
