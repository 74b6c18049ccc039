"""What the key may do in the bucket, what the bucket keeps, what it holds of the model: all tried, nothing assumed."""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from f5_worker import inventory
from f5_worker.errors import StoreError, StoreForbidden, StoreMisplaced, StoreNotFound
from f5_worker.finding import Finding, failed, skipped, warning
from f5_worker.manifest import ModelSpec
from f5_worker.settings import Settings
from f5_worker.store import PERMISSIONS, LifecycleRule, Store

_DATA = b"written by the doctor of the F5-TTS worker, may be deleted\n"
_AGAIN = "run this again; when it stays, look at the store's status page and at AWS_ENDPOINT_URL"
_PERMISSION = {"put": "PUT", "get": "GET", "head": "HEAD", "list": "LIST", "delete": "DELETE"}
_WITHOUT = {
    "put": "results, voices and weights cannot be stored",
    "get": "neither weights nor voices can be read",
    "head": "the worker cannot see what is there",
    "list": "saved voices cannot be listed, and a missing object looks like a refused one",
    "delete": "voices and results cannot be deleted",
}


class Bucket(Store, Protocol):
    """A store that also tells how its bucket is set up."""

    def is_versioned(self) -> bool:
        """Whether overwritten and deleted objects are kept."""

    def lifecycle(self) -> Sequence[LifecycleRule]:
        """The rules of the bucket that hold for whole prefixes."""


@dataclass
class Scratch:
    """Keys that the doctor may have written. `left` are those that it could not delete."""

    store: Store
    keys: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def key(self, prefix: str) -> str:
        """A key that no object has."""
        self.keys.append(f"{prefix}.doctor-{uuid.uuid4().hex}")
        return self.keys[-1]

    def clear(self) -> None:
        while self.keys:
            try:
                self.store.delete(self.keys[-1])
            except StoreError:
                self.left.append(self.keys[-1])
            self.keys.pop()


@contextmanager
def scratch(store: Store) -> Iterator[Scratch]:
    """Scratch keys that are deleted when the block ends, also by Ctrl-C; a second Ctrl-C does not stop the deleting."""
    kept = Scratch(store)
    try:
        yield kept
    finally:
        with _uninterrupted():
            kept.clear()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def permissions(store: Store, prefixes: list[str], kept: Scratch) -> list[Finding]:
    """One finding for each of put, get, head, list and delete, from a real call under every prefix.

    A key that may neither write nor list is told of an object that is not there what it is told of one that it may not read: whether it
    may get and head is then skipped.
    """
    errors: dict[str, dict[str, StoreError]] = {call: {} for call in _PERMISSION}
    untold = []
    for prefix in prefixes:
        key = kept.key(prefix)
        found = _try_out(store, key)
        refused = {call for call, error in found.items() if isinstance(error, StoreForbidden)}
        if "put" in refused:
            kept.keys.remove(key)  # surely not written
        if {"put", "list"} <= refused:
            untold.append(prefix)
            found = {call: error for call, error in found.items() if call not in {"get", "head"}}
        for call, error in found.items():
            errors[call][prefix] = error
    return [_permission(call, errors[call], prefixes, untold if call in {"get", "head"} else []) for call in _PERMISSION]


def _try_out(store: Store, key: str) -> dict[str, StoreError]:
    """The calls that failed. Delete comes first, on a key that is not there: what may not be deleted is left in the bucket."""
    calls: dict[str, Callable[[], object]] = {
        "delete": lambda: store.delete(key),
        "put": lambda: store.put(key, _DATA, content_type="text/plain"),
        "head": lambda: store.head(key),
        "get": lambda: store.get(key, max_bytes=len(_DATA)),
        "list": lambda: next(iter(store.list(key)), None),
    }
    errors: dict[str, StoreError] = {}
    for name, call in calls.items():
        try:
            call()
        except StoreNotFound as exc:  # asked and answered: the key may read
            if "put" not in errors:
                errors[name] = exc
        except StoreError as exc:
            errors[name] = exc
    return errors


def _permission(call: str, errors: dict[str, StoreError], prefixes: list[str], untold: list[str]) -> Finding:
    if not errors and untold:
        return skipped(call, f"cannot be told under {', '.join(untold)}: the key may neither write nor list there")
    if not errors:
        return Finding(call, f"allowed under {', '.join(prefixes)}")
    error = next(iter(errors.values()))
    where = ", ".join(errors)
    if isinstance(error, StoreForbidden):
        remedy = f"give the key {PERMISSIONS[_PERMISSION[call]]} for {where}"
        return failed(call, f"no_{call}", f"refused under {where}: {_WITHOUT[call]}", remedy)
    fault = "wrong_region" if isinstance(error, StoreMisplaced) else "endpoint_failing"
    return failed(call, fault, error.message, _AGAIN)


def housekeeping(store: Bucket, prefixes: list[str]) -> list[Finding]:
    """Whether old versions and unfinished uploads, which are billed, go away by themselves. Never failed: the worker works without."""
    try:
        versioned = store.is_versioned()
        rules = store.lifecycle()
    except StoreError as exc:
        seen = "the key may not look" if isinstance(exc, StoreForbidden) else exc.message
        remedy = "look at the bucket's versioning and lifecycle rules yourself, or give the key the right to read them"
        return [warning(check, "unknown", seen, remedy) for check in ("old versions", "unfinished uploads")]
    ends = [p for p in prefixes if not any(r.ends_old_versions and p.startswith(r.prefix) for r in rules)]
    aborts = [p for p in prefixes if not any(r.aborts_uploads and p.startswith(r.prefix) for r in rules)]
    return [_versions(ends if versioned else [], versioned=versioned), _uploads(aborts)]


def _versions(kept: list[str], *, versioned: bool) -> Finding:
    if not kept:
        return Finding("old versions", "deleted by a lifecycle rule" if versioned else "none are kept: the bucket is not versioned")
    remedy = (
        "add a lifecycle rule with NoncurrentVersionExpiration of 1 day "
        "(Backblaze B2: bucket, Lifecycle Settings, 'Keep only the last version of the file')"
    )
    return warning("old versions", "versions_grow", f"kept and billed for ever under {', '.join(kept)}, what this deleted as well", remedy)


def _uploads(kept: list[str]) -> Finding:
    if not kept:
        return Finding("unfinished uploads", "aborted by a lifecycle rule")
    remedy = (
        "add a lifecycle rule with AbortIncompleteMultipartUpload of 1 day (Backblaze B2: daysFromStartingToCancelingUnfinishedLargeFiles)"
    )
    return warning("unfinished uploads", "uploads_stay", f"parts that a killed worker left are billed under {', '.join(kept)}", remedy)


def model(store: Store, settings: Settings, spec: ModelSpec) -> Finding:
    """Whether a cold start finds the whole model in the bucket, by the sizes of its objects."""
    if settings.cache_bucket is None:
        return skipped("model", "ENABLE_S3_MODEL_CACHE is off: every cold start downloads from the hub")
    total_bytes = sum(f.size_bytes for f in spec.files)
    states = []
    try:
        with suppress(StoreForbidden):  # of a missing object, to a key that may not list
            states = inventory.file_states(store, settings.models_prefix, spec.files)
    except StoreError as exc:
        return failed("model", "endpoint_failing", exc.message, _AGAIN)
    bad = [s for s in states if s.state != "ok"]
    if states and not bad:
        return Finding("model", f"{spec.name} is there, {len(states)} files, {total_bytes / 1e6:.0f} MB", values={"bytes": total_bytes})
    seen = ", ".join(f"{s.file.path} {s.state}" for s in bad) or "refused, or missing"
    remedy = "nothing: the first worker fills the bucket; `python -m f5_worker cache push` does it now"
    return warning("model", "model_missing", f"{spec.name}: {seen}", remedy)
