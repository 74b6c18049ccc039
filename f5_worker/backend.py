"""The one place that decides where and how the model computes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch

_OUT_OF_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # torch has no type for these


@dataclass(frozen=True)
class Backend:
    """Device, precision, implementation of attention, and whether several chunks are computed at once."""

    device: torch.device
    dtype: torch.dtype
    attn_backend: str  # torch | flash_attn
    batched: bool = False


def choose_backend(flash_attn: str = "auto") -> Backend:
    """float16 on CUDA from compute capability 7.0 as upstream, bfloat16 on the CPU (half the time of float32).

    flash-attn has kernels for compute capability 8.0 and newer; whether it works was tried before it was left importable.
    `flash_attn` is FLASH_ATTN: `off` leaves it alone also where it can be imported. Batches are computed with it only: it skips the
    padding, while torch's attention computes it and needs a mask of frames times frames (docs/decisions/0009-batching.md).
    """
    if not torch.cuda.is_available():
        return Backend(torch.device("cpu"), torch.bfloat16, "torch")
    device = torch.device("cuda", torch.cuda.current_device())
    major, _ = torch.cuda.get_device_capability(device)
    dtype = torch.float16 if major >= 7 else torch.float32
    flash = flash_attn != "off" and major >= 8 and importlib.util.find_spec("flash_attn") is not None
    return Backend(device, dtype, "flash_attn" if flash else "torch", batched=flash)


def is_out_of_memory(exc: Exception) -> bool:
    """Whether an error of torch says that the device is full."""
    return isinstance(exc, torch.OutOfMemoryError) or any(said in str(exc) for said in _OUT_OF_MEMORY)
