from __future__ import annotations

import ctypes

from benchmarks.engine import rss_bytes
from f5_worker import heap

BLOCK_BYTES, BLOCKS = 64 * 1024, 2_000  # smaller than what malloc takes straight from the system


def test_what_lies_free_below_a_block_in_use_goes_back_to_the_system():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    blocks = [libc.malloc(BLOCK_BYTES) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK_BYTES)
    for block in blocks[:-1]:
        libc.free(block)
    kept = rss_bytes()
    heap.give_back()
    given = kept - rss_bytes()
    libc.free(blocks[-1])
    assert given > BLOCK_BYTES * BLOCKS * 0.9
