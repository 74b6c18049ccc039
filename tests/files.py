"""Small pinned files for tests: random bytes with right digests."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from f5_worker.cache import HubCache
from f5_worker.manifest import PinnedFile

COMMIT = "c" * 40


def pinned(path: str, data: bytes, *, repo: str = "org/name", commit: str = COMMIT) -> PinnedFile:
    digest = hashlib.sha256(data).hexdigest()
    return PinnedFile(repo, commit, path, len(data), digest, digest)


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def seed_cache(cache: HubCache, file: PinnedFile, data: bytes) -> Path:
    """Put a file into a cache as a finished download."""
    part = cache.part(file)
    part.write_bytes(data)
    return cache.adopt(file, part)
