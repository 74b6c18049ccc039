"""Publish: after the first load, put what the bucket lacks of the model into it, in the background, manifest last.

Crash-safe by order: immutable keys, every object checked after its upload, and only then the manifest. Idempotent: what is
there with the right size is not sent again, unless a reader found its bytes wrong. Two publishers are harmless (the same
bytes to the same keys) and rare: one claims the commit, the others wait for it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from f5_worker.cache import HubCache
from f5_worker.errors import Cancelled, StoreCorrupt, StoreError, StoreNotFound, StoreUnavailable
from f5_worker.manifest import MANIFEST_MAX_BYTES, PinnedFile, by_commit, commit_prefix, dump_manifest, manifest_key, parse_manifest
from f5_worker.restore import RestoreReport
from f5_worker.settings import Settings
from f5_worker.store import Store
from f5_worker.wheels import publishable

log = logging.getLogger(__name__)

CLAIM_NAME = ".publishing"
CLAIM_SETTLE_S = 1.0  # two claims written within this time: the later one wins, both see it
CLAIM_STALE_S = 120.0  # an owner renews its claim far more often; an older one belongs to a dead worker
CLAIM_RENEW_S = 20.0
CLAIM_POLL_S = 5.0
PENDING_UPLOAD_STALE_S = 3600.0
Commit = tuple[str, str]  # (repo, commit)
NICE = 10  # the upload yields to synthesis when they compete for a core


class Publisher:
    """One background thread that publishes the files of a restore report, and never takes the worker down."""

    def __init__(self, store: Store, settings: Settings, files: Sequence[PinnedFile], report: RestoreReport) -> None:
        self._stop = threading.Event()
        self._jitter_s = settings.publish_jitter_s
        self._publication = Publication(store, settings, files, report, self._stop)
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> Publisher:
        self._thread.start()
        return self

    def wait(self, timeout_s: float) -> bool:
        """Whether publishing ended, done or not, within the time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self, timeout_s: float = 8.0) -> None:
        """End soon: an upload under way is aborted, so that no parts are left to be billed."""
        self._stop.set()
        self.wait(timeout_s)

    def _run(self) -> None:
        start = time.monotonic()
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # inherited by the upload's threads
            if not self._stop.wait(random.uniform(0, self._jitter_s)):  # noqa: S311 - no secret
                sent = self._publication.run()
                log.info("publish outcome=done bytes=%d seconds=%.1f", sent, time.monotonic() - start)
        except Cancelled:
            log.info("publish outcome=stopped seconds=%.1f", time.monotonic() - start)
        except StoreError as exc:
            log.warning("publish outcome=failed error=%r effect='the next cold start downloads from the hub'", str(exc))
        except Exception:  # the thread must never take the worker down
            log.exception("publish outcome=failed")


class Publication:
    """One pass that brings the files' commits into the bucket, for the publisher thread and `cache push`."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        files: Sequence[PinnedFile],
        report: RestoreReport,
        stop: threading.Event,
        *,
        on_bytes: Callable[[int], None] = lambda _sent: None,
    ) -> None:
        self._store, self._settings, self._files, self._report, self._stop, self._on_bytes = store, settings, files, report, stop, on_bytes
        self._owner = uuid.uuid4().hex
        self._renew_at = 0.0

    def run(self) -> int:
        """Publish what lacks; bytes sent.

        Raises:
            StoreError: the bucket refused or failed.
            Cancelled: stop was set.
        """
        commits = by_commit(self._files)
        lacking = [f for f in self._files if self._lacks(f)]
        wheels = publishable(HubCache(self._report.cache_dir), self._settings.models_prefix) if self._report.cache_dir else {}
        if not lacking and not wheels and all(self._manifest_is_current(key, files) for key, files in commits.items()):
            return 0
        claim = commit_prefix(self._settings.models_prefix, *next(iter(commits))) + CLAIM_NAME
        self._acquire(claim)
        try:
            self._abort_stale_uploads(commits)
            sent = sum(self._upload(f, claim) for f in lacking if self._lacks(f))  # asked again: the claim's last owner may have sent it
            sent += sum(self._upload_wheel(key, path, claim) for key, path in wheels.items())
            for commit, files in commits.items():
                self._put_manifest(commit, files)
        finally:
            self._release(claim)
        return sent

    def _key(self, file: PinnedFile) -> str:
        return file.key(self._settings.models_prefix)

    def _lacks(self, file: PinnedFile) -> bool:
        if self._key(file) in self._report.wrong_keys:
            return True
        if self._report.sources.get(file) == "bucket":
            return False
        info = self._store.head(self._key(file))
        return info is None or info.size_bytes != file.size_bytes

    def _manifest_is_current(self, commit: Commit, files: Sequence[PinnedFile]) -> bool:
        return set(files) <= set(self._read_manifest(manifest_key(self._settings.models_prefix, *commit)))

    def _read_manifest(self, key: str) -> list[PinnedFile]:
        try:
            return parse_manifest(self._store.get(key, max_bytes=MANIFEST_MAX_BYTES))
        except (StoreNotFound, StoreCorrupt):
            return []

    def _upload(self, file: PinnedFile, claim: str) -> int:
        key = self._key(file)
        self._send(key, self._report.paths[file].resolve(), claim, sha256=file.sha256)
        self._check(file)
        if key in self._report.wrong_keys:
            self._report.wrong_keys.remove(key)
        return file.size_bytes

    def _upload_wheel(self, key: str, path: Path, claim: str) -> int:
        """Send a wheel that came from its release and was checked against its pin; its local copy is not needed any more."""
        size_bytes, info = path.stat().st_size, self._store.head(key)
        if info is None or info.size_bytes != size_bytes:
            self._send(key, path, claim)
        path.unlink()
        return size_bytes

    def _send(self, key: str, path: Path, claim: str, **metadata: str) -> None:
        start = time.monotonic()

        def on_bytes(count: int) -> None:
            if self._stop.is_set():
                raise Cancelled("the worker stops")
            self._renew(claim)
            self._on_bytes(count)

        content_type = "text/plain; charset=utf-8" if key.endswith((".txt", ".yaml")) else "application/octet-stream"
        self._store.upload(key, path, content_type=content_type, metadata=metadata, on_bytes=on_bytes)
        log.info("publish.file key=%s seconds=%.1f", key, time.monotonic() - start)

    def _check(self, file: PinnedFile) -> None:
        info = self._store.head(self._key(file))
        if info is None or info.size_bytes != file.size_bytes:
            raise StoreUnavailable(f"{self._key(file)} is not in the bucket as it was sent")

    def _put_manifest(self, commit: Commit, files: Sequence[PinnedFile]) -> None:
        """Name the files of one commit, after checking that each is there; another model's files stay named."""
        for file in files:
            self._check(file)
        key = manifest_key(self._settings.models_prefix, *commit)
        known = self._read_manifest(key)
        if not set(files) <= set(known):
            others = [f for f in known if (f.repo, f.commit) == commit and f.path not in {g.path for g in files}]
            self._store.put(key, dump_manifest([*files, *others]), content_type="application/json")

    def _acquire(self, claim: str) -> None:
        """Wait until this worker owns the claim. Without conditional writes this makes two owners rare, not impossible."""
        while True:
            owner = self._claim_owner(claim)
            if owner == self._owner:
                return
            if owner is None:
                self._write_claim(claim)
                self._pause(CLAIM_SETTLE_S)
            else:
                self._pause(CLAIM_POLL_S)

    def _claim_owner(self, claim: str) -> str | None:
        """Who publishes this commit now, None when nobody does."""
        info = self._store.head(claim)
        if info is None or (datetime.now(UTC) - info.modified).total_seconds() > CLAIM_STALE_S:
            return None
        try:
            return str(json.loads(self._store.get(claim, max_bytes=1000))["owner"])
        except (StoreNotFound, StoreCorrupt, ValueError, KeyError, TypeError):
            return None

    def _write_claim(self, claim: str) -> None:
        self._renew_at = time.monotonic() + CLAIM_RENEW_S
        self._store.put(claim, json.dumps({"owner": self._owner}).encode(), content_type="application/json")

    def _release(self, claim: str) -> None:
        try:
            self._store.delete(claim)
        except StoreError as exc:  # a key without delete permission: the claim ages out
            log.info("publish.claim_left error=%r", str(exc))

    def _renew(self, claim: str) -> None:
        if time.monotonic() > self._renew_at:
            self._write_claim(claim)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Cancelled("the worker stops")

    def _abort_stale_uploads(self, commits: Iterable[Commit]) -> None:
        """Drop parts that a killed publisher left: stores bill them."""
        try:
            for commit in commits:
                for upload in self._store.pending_uploads(commit_prefix(self._settings.models_prefix, *commit)):
                    if (datetime.now(UTC) - upload.started).total_seconds() > PENDING_UPLOAD_STALE_S:
                        self._store.abort_upload(upload)
        except StoreError as exc:  # needs a list permission that publishing itself does not
            log.info("publish.stale_uploads_unchecked error=%r", str(exc))
