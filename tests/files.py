"""Small pinned files for tests: random bytes with right digests."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from f5_worker.cache import HubCache
from f5_worker.manifest import PinnedFile, dump_manifest

COMMIT = "c" * 40
# What a bucket may hold in a manifest's place, made from the files that it should name. None of them is valid.
POISONED_MANIFESTS: dict[str, Callable[[Sequence[PinnedFile]], bytes]] = {
    "truncated": lambda files: dump_manifest(files)[:-30],
    "no JSON": lambda _: b"\xff\xfe{",
    "unknown schema": lambda files: dump_manifest(files).replace(b'"schema": 1', b'"schema": 99'),
    "100 MB": lambda _: b" " * 100_000_000,
    "paths with ../": lambda files: _with_path(files[0], "../../etc/model"),
    "absolute paths": lambda files: _with_path(files[0], "/etc/model"),
    "a path twice": lambda files: dump_manifest([files[0], files[0]]),
}


def _with_path(file: PinnedFile, path: str) -> bytes:
    return dump_manifest([file]).replace(json.dumps(file.path).encode(), json.dumps(path).encode())


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
