"""Whether this worker can serve at all, found out before it takes a job: a bad boot ends at once and says why.

That a disk has room and that the weights are the pinned ones is found out on the way (placement.choose, restore.restore).
The GPU is tried through the driver's own library, so that neither torch nor another process is needed. The context that
this makes is the one that torch uses later.
"""

from __future__ import annotations

import ctypes
import logging
import math
import threading
from pathlib import Path
from typing import Any

from f5_worker.errors import GpuUnavailable
from f5_worker.settings import Settings

log = logging.getLogger(__name__)

DRIVER = "libcuda.so.1"
DEVICE = Path("/dev/nvidiactl")  # what the container runtime puts into a container that gets a GPU
MIN_CUDA = (12, 0)  # torch's CUDA 12.6 runs on every driver of CUDA 12 (minor version compatibility)
GENERATIONS = range(5, 10)  # major compute capabilities that torch 2.7.1 for CUDA 12.6 has kernels for; it has no PTX for later ones
GPU_TIMEOUT_S = 60.0  # a context takes 0.2-2 s; a broken GPU can keep the call for ever
TRIAL_BYTES = 1 << 20
_COMPUTE_CAPABILITY_MAJOR = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR

DEFAULT_INIT_TIMEOUT_S = 420  # RunPod's own: a worker that is not ready by then counts as unhealthy
START_S = 60  # imports, GPU context, load and warm-up on a slow disk
TRANSFER_MARGIN = 2.0  # a line that is shared with neighbours


def check(settings: Settings) -> None:
    """Pass when this worker can serve; to be called before the first job is asked for.

    Raises:
        GpuUnavailable: the platform promised a GPU, or a device is there, and CUDA does not work on it.
    """
    if settings.gpu_expected or (settings.gpu_expected is None and DEVICE.exists()):
        check_gpu()


def check_gpu() -> None:
    """Compute something on the first GPU. Raises GpuUnavailable with the driver's reason."""
    failures: list[GpuUnavailable] = []

    def attempt() -> None:
        try:
            _use_gpu()
        except GpuUnavailable as exc:
            failures.append(exc)

    thread = threading.Thread(target=attempt, name="gpu-check", daemon=True)
    thread.start()
    thread.join(GPU_TIMEOUT_S)
    if thread.is_alive():
        raise GpuUnavailable(f"CUDA did not answer within {GPU_TIMEOUT_S:.0f} s; the GPU or its driver hangs: use another machine")
    if failures:
        raise failures[0]


def _use_gpu() -> None:
    """Make the first GPU's context, write to its memory and wait for it. The context stays."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError as exc:
        raise GpuUnavailable(f"{DRIVER} is not in the container: start it with a GPU (docker run --gpus all)") from exc

    def call(name: str, *arguments: Any) -> None:
        code = getattr(driver, name)(*arguments)
        if code:
            raise GpuUnavailable(f"{name} failed: {_reason(driver, code)}; use another machine, or RUNPOD_SKIP_GPU_CHECK=true for the CPU")

    count, version, device, generation = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    context, memory = ctypes.c_void_p(), ctypes.c_uint64()
    call("cuInit", 0)
    call("cuDriverGetVersion", ctypes.byref(version))
    cuda = (version.value // 1000, version.value % 1000 // 10)
    if cuda < MIN_CUDA:
        raise GpuUnavailable(
            f"the driver supports CUDA {cuda[0]}.{cuda[1]}, torch needs {MIN_CUDA[0]}.{MIN_CUDA[1]}: allow newer machines only"
        )
    call("cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise GpuUnavailable("the driver shows no GPU; CUDA_VISIBLE_DEVICES may hide it")
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDeviceGetAttribute", ctypes.byref(generation), _COMPUTE_CAPABILITY_MAJOR, device)
    if generation.value not in GENERATIONS:
        raise GpuUnavailable(
            f"the GPU has compute capability {generation.value}.x and torch's build runs on {GENERATIONS[0]}.0 to {GENERATIONS[-1]}.x: "
            "choose an Ampere, Ada or Hopper GPU"
        )
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxPushCurrent_v2", context)
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(TRIAL_BYTES))
    call("cuMemsetD8_v2", memory, ctypes.c_ubyte(0), ctypes.c_size_t(TRIAL_BYTES))
    call("cuCtxSynchronize")
    call("cuMemFree_v2", memory)
    call("cuCtxPopCurrent_v2", ctypes.byref(context))
    log.info("fitness gpu=ok devices=%d driver_cuda=%d.%d", count.value, *cuda)


def _reason(driver: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    return f"{(text.value or b'unknown error').decode()} ({code})"


def init_timeout_s(size_bytes: int, line_bytes_per_s: float) -> int:
    """The RUNPOD_INIT_TIMEOUT in seconds to set for a first boot that downloads so much over such a line.

    Whole minutes, never below RunPod's default, which then needs no setting.
    """
    wanted_s = START_S + TRANSFER_MARGIN * size_bytes / line_bytes_per_s
    return max(DEFAULT_INIT_TIMEOUT_S, 60 * math.ceil(wanted_s / 60))
