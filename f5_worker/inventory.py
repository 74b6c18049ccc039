"""What a bucket holds compared with the pins: the facts behind `cache status`, `verify` and `gc`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from f5_worker.errors import StoreCorrupt, StoreNotFound
from f5_worker.manifest import MANIFEST_MAX_BYTES, PinnedFile, by_commit, load_model, load_transcriber, manifest_key, parse_manifest
from f5_worker.settings import Settings
from f5_worker.store import ObjectInfo, Store, Upload
from f5_worker.wheels import pinned_names

GC_AGE = timedelta(days=7)  # younger objects may belong to a publisher that is still at work
UPLOAD_STALE_S = 3600.0  # without the publishers' claim an upload is dead only by its age
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Weights:
    """What a `cache` command is about."""

    name: str
    files: Sequence[PinnedFile]

    @property
    def size_bytes(self) -> int:
        return sum(f.size_bytes for f in self.files)


@dataclass(frozen=True)
class FileState:
    """One pinned file in the bucket: ok | missing | wrong size | wrong bytes."""

    file: PinnedFile
    key: str
    state: str


@dataclass(frozen=True)
class Garbage:
    """What nothing needs: objects and unfinished uploads."""

    objects: list[ObjectInfo]
    uploads: list[Upload]


def weights(settings: Settings, *, transcriber: bool) -> Weights:
    """Those of the model that is served, and of speech recognition. Raises SettingsError as manifest.load_model does."""
    model = load_model(settings.model, settings.models_file)
    if not transcriber:
        return Weights(model.name, model.files)
    recogniser = load_transcriber(settings.models_file)
    return Weights(f"{model.name} and {recogniser.name}", (*model.files, *recogniser.files))


def file_states(store: Store, prefix: str, files: Iterable[PinnedFile]) -> list[FileState]:
    """Presence and size of every file, by HEAD."""
    states = []
    for file in files:
        info = store.head(file.key(prefix))
        size_ok = info is not None and info.size_bytes == file.size_bytes
        states.append(FileState(file, file.key(prefix), "missing" if info is None else "ok" if size_ok else "wrong size"))
    return states


def manifest_states(store: Store, prefix: str, files: Sequence[PinnedFile]) -> dict[str, str]:
    """Of each commit's manifest key: ok | missing | incomplete | invalid."""
    states = {}
    for (repo, commit), group in by_commit(files).items():
        key = manifest_key(prefix, repo, commit)
        try:
            states[key] = "ok" if set(group) <= set(parse_manifest(store.get(key, max_bytes=MANIFEST_MAX_BYTES))) else "incomplete"
        except StoreNotFound:
            states[key] = "missing"
        except StoreCorrupt:
            states[key] = "invalid"
    return states


def verify(store: Store, prefix: str, files: Iterable[PinnedFile], on_bytes: Callable[[int], None] = lambda _read: None) -> list[FileState]:
    """Read every byte of every file from the bucket and compare its sha256 with the pin."""
    states = []
    for file in files:
        digest, size = hashlib.sha256(), 0
        try:
            for piece in store.stream(file.key(prefix)):
                digest.update(piece)
                size += len(piece)
                on_bytes(len(piece))
        except StoreNotFound:
            states.append(FileState(file, file.key(prefix), "missing"))
            continue
        state = "wrong size" if size != file.size_bytes else "ok" if digest.hexdigest() == file.sha256 else "wrong bytes"
        states.append(FileState(file, file.key(prefix), state))
    return states


def garbage(
    store: Store, prefix: str, pinned: Iterable[PinnedFile], *, older_than: timedelta = GC_AGE, now: datetime | None = None
) -> Garbage:
    """Objects of the worker that no pin and no valid manifest names and that are older than older_than, and stale uploads.

    Only keys of the two forms that a publisher writes are looked at: `<prefix><org>--<name>/<commit>/...` and
    `<prefix>wheels/*.whl`. Whatever else lies below the prefix (results, voices) is the user's.
    """
    now = now or datetime.now(UTC)
    ours = re.compile(re.escape(prefix) + r"(?:[^/]+--[^/]+/[0-9a-f]{40}/.+|wheels/[^/]+\.whl)", re.DOTALL)
    objects = [o for o in store.list(prefix) if ours.fullmatch(o.key)]
    needed = {file.key(prefix) for file in pinned} | {f"{prefix}wheels/{name}" for name in pinned_names()}
    for info in objects:
        if info.key.endswith(f"/{MANIFEST_NAME}"):
            named = _named_by(store, prefix, info.key)
            needed |= named | ({info.key} if named else set())
    old = [o for o in objects if o.key not in needed and now - o.modified > older_than]
    pending = (u for u in store.pending_uploads(prefix) if ours.fullmatch(u.key))
    return Garbage(old, [u for u in pending if (now - u.started).total_seconds() > UPLOAD_STALE_S])


def _named_by(store: Store, prefix: str, key: str) -> set[str]:
    """Keys of the files that a manifest names, of its own commit alone; none when it is not valid."""
    try:
        files = parse_manifest(store.get(key, max_bytes=MANIFEST_MAX_BYTES))
    except (StoreCorrupt, StoreNotFound):
        return set()
    return {f.key(prefix) for f in files if manifest_key(prefix, f.repo, f.commit) == key}
