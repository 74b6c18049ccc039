"""The one place that decides where and how the model computes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Backend:
    """Device, precision, implementation of attention, and whether several chunks are computed at once."""

    device: torch.device
    dtype: torch.dtype
    attn_backend: str  # torch | flash_attn
    batched: bool = False


def choose_backend(flash_attn: str = "auto") -> Backend:
    """float16 on CUDA from compute capability 7.0 as upstream; on the CPU bfloat16 where it has instructions for it, else float32.

    flash-attn has kernels for compute capability 8.0 and newer; whether it works was tried before it was left importable.
    `flash_attn` is FLASH_ATTN: `off` leaves it alone also where it can be imported. Batches are computed with it only: it skips the
    padding, while torch's attention computes it and needs a mask of frames times frames (docs/decisions/0009-batching.md).
    """
    if not torch.cuda.is_available():
        return Backend(torch.device("cpu"), cpu_dtype(), "torch")
    device = torch.device("cuda", torch.cuda.current_device())
    major, _ = torch.cuda.get_device_capability(device)
    dtype = torch.float16 if major >= 7 else torch.float32
    flash = flash_attn != "off" and major >= 8 and importlib.util.find_spec("flash_attn") is not None
    return Backend(device, dtype, "flash_attn" if flash else "torch", batched=flash)


def cpu_dtype() -> torch.dtype:
    """AVX-512 BF16 and AMX take half of float32's time; where bfloat16 is emulated it takes three times as long (docs/decisions/0020)."""
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001 - torch has no public name
    return torch.bfloat16 if has_bfloat16 else torch.float32
