"""Failures of a CUDA device, told by the message: torch has a type for one of them alone."""

from __future__ import annotations

from f5_worker.errors import DeviceFailed, EngineError, OutOfMemory

# The driver's, the allocator's, and those of cuBLAS, cuFFT and cuDNN up to 8 and from 9 on.
_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUFFT_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
                  "_ALLOCATION_FAILED")  # fmt: skip
_BROKEN = ("CUDA error:", "CUBLAS_", "cuDNN error", "cuFFT error")


def out_of_memory(error: Exception) -> bool:
    """Whether the device had no room: with less to do the next call can succeed."""
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _OUT_OF_MEMORY)


def broken(error: Exception) -> bool:
    """Whether CUDA failed of something else: most such errors stay with the process, and every later call fails of them too."""
    return isinstance(error, RuntimeError) and not out_of_memory(error) and any(said in str(error) for said in _BROKEN)


def failure(error: Exception) -> type[EngineError]:
    """What an error of torch is to a job."""
    return OutOfMemory if out_of_memory(error) else DeviceFailed if broken(error) else EngineError
