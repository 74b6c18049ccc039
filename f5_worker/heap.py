"""Memory that Python has freed and the C library keeps."""

from __future__ import annotations

import ctypes

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl and macOS have none and need none
if _malloc_trim:
    _malloc_trim.argtypes = [ctypes.c_size_t]


def give_back() -> None:
    """Return to the system what lies free in glibc's heap: it keeps that for later and grows for what fits into none of the gaps."""
    if _malloc_trim:
        _malloc_trim(0)
