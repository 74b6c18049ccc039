"""A Store in memory with fault knobs. It passes the same contract tests as S3Store (tests/unit/test_store_contract.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from f5_worker.errors import StoreCorrupt, StoreError, StoreNotFound
from f5_worker.store import ObjectInfo, Upload

_PART_BYTES = 1024 * 1024


@dataclass
class MemoryStore:
    """Objects in a dict. `fail[method]` is raised by that method; `calls` lists what was asked, in order."""

    objects: dict[str, tuple[bytes, ObjectInfo]] = field(default_factory=dict)
    fail: dict[str, StoreError] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    pending: list[Upload] = field(default_factory=list)
    headers: dict[str, tuple[str, str | None]] = field(default_factory=dict)  # content type and file name of what was put

    def _called(self, method: str, key: str) -> None:
        self.calls.append((method, key))
        if method in self.fail:
            raise self.fail[method]

    def head(self, key: str) -> ObjectInfo | None:
        self._called("head", key)
        found = self.objects.get(key)
        return found[1] if found else None

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self._called("get", key)
        if key not in self.objects:
            raise StoreNotFound(f"GET {key}: no such object")
        data = self.objects[key][0]
        if len(data) > max_bytes:
            raise StoreCorrupt(f"{key} is longer than the {max_bytes} bytes that are read of it")
        return data

    def stream(self, key: str) -> Iterator[bytes]:
        self._called("stream", key)
        if key not in self.objects:
            raise StoreNotFound(f"GET {key}: no such object")
        data = self.objects[key][0]
        yield from (data[i : i + _PART_BYTES] for i in range(0, len(data), _PART_BYTES))

    def put(
        self, key: str, data: bytes, *, content_type: str, metadata: Mapping[str, str] | None = None, filename: str | None = None
    ) -> None:
        self._called("put", key)
        self.headers[key] = (content_type, filename)
        self.objects[key] = (data, ObjectInfo(key, len(data), datetime.now(UTC), dict(metadata or {})))

    def upload(self, key: str, path: Path, *, content_type: str, metadata: Mapping[str, str], on_bytes: Callable[[int], None]) -> None:
        self._called("upload", key)
        data = path.read_bytes()
        for start in range(0, len(data), _PART_BYTES):
            on_bytes(len(data[start : start + _PART_BYTES]))
        self.objects[key] = (data, ObjectInfo(key, len(data), datetime.now(UTC), dict(metadata)))

    def sign_get(self, key: str, *, expires_s: int) -> str:
        self._called("sign_get", key)
        return f"memory://{key}?expires={expires_s}"

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._called("list", prefix)
        yield from (replace(info, metadata={}) for key, (_, info) in sorted(self.objects.items()) if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self._called("delete", key)
        self.objects.pop(key, None)

    def pending_uploads(self, prefix: str) -> Iterator[Upload]:
        self._called("pending_uploads", prefix)
        yield from (u for u in list(self.pending) if u.key.startswith(prefix))

    def abort_upload(self, upload: Upload) -> None:
        self._called("abort_upload", upload.key)
        self.pending.remove(upload)
