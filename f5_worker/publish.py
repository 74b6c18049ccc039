"""Publish: after the first load, put what the bucket lacks of the model into it, in the background, manifest last.

Crash-safe by order: immutable keys, every object checked after its upload, and only then the manifest. Idempotent: what is
there with the right size is not sent again, unless a reader found its bytes wrong. Two publishers are harmless (the same
bytes to the same keys) and rare: one claims the commit, the others wait for it.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from f5_worker.cache import HubCache
from f5_worker.errors import Cancelled, StoreCorrupt, StoreError, StoreForbidden, StoreNotFound, StoreUnavailable
from f5_worker.manifest import MANIFEST_MAX_BYTES, PinnedFile, by_commit, commit_prefix, dump_manifest, manifest_key, parse_manifest
from f5_worker.restore import RestoreReport
from f5_worker.settings import Settings
from f5_worker.store import PERMISSIONS, ObjectInfo, Store
from f5_worker.wheels import KeptWheel, publishable

log = logging.getLogger(__name__)

CLAIM_NAME = ".publishing"
CLAIM_SETTLE_S = 1.0  # two claims written within this time: the later one wins, both see it
CLAIM_STALE_S = 120.0  # an owner renews its claim far more often; an older one belongs to a dead worker
CLAIM_RENEW_S = 20.0
CLAIM_POLL_S = 5.0
CLAIM_WAIT_S = 1800.0  # 1.4 GB at 0.8 MB/s
CLAIM_WRITES = 3  # a claim that does not stay this often does no more harm than none: the bytes are the same
STORE_CLOCK_S = 1.0  # resolution of the times in a store's answers
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
            log.warning(
                "publish outcome=failed error=%r%s effect='the next cold start downloads from the hub'", str(exc), _missing_permission(exc)
            )
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

    def run(self) -> int:
        """Publish what lacks; bytes sent. One HEAD per file that may lack, one more after its upload.

        Raises:
            StoreError: the bucket refused or failed.
            Cancelled: stop was set.
        """
        prefix, commits = self._settings.models_prefix, by_commit(self._files)
        lacking = [f for f in self._files if self._lacks(f)]
        wheels = publishable(HubCache(self._report.cache_dir), prefix) if self._report.cache_dir else []
        if not lacking and not wheels and all(self._manifest_is_current(key, files) for key, files in commits.items()):
            return 0
        claim = _Claim(self._store, commit_prefix(prefix, *next(iter(commits))) + CLAIM_NAME, self._stop)
        try:
            if claim.acquire():  # who owned it before may have sent them
                lacking = [f for f in lacking if self._lacks(f)]
            self._abort_dead_uploads([*map(self._key, lacking), *(w.key for w in wheels)], claim)
            sent = sum(self._upload(f, claim) for f in lacking)
            for commit, files in commits.items():
                self._put_manifest(commit, files)
            return sent + sum(self._upload_wheel(wheel, claim) for wheel in wheels)
        finally:
            claim.release()

    def _key(self, file: PinnedFile) -> str:
        return file.key(self._settings.models_prefix)

    def _lacks(self, file: PinnedFile) -> bool:
        key = self._key(file)
        if (read_wrong_unix_s := self._report.wrong_keys.get(key)) is None and self._report.sources.get(file) == "bucket":
            return False
        return not self._is_there(key, file.size_bytes, read_wrong_unix_s)

    def _is_there(self, key: str, size_bytes: int, read_wrong_unix_s: float | None = None) -> bool:
        """Whether the object is known to be in the bucket. AWS refuses the HEAD of a missing one to a key that may not list.

        Args:
            read_wrong_unix_s: When this worker read other bytes there, by its own clock: only what was written later counts.
        """
        try:
            info = self._store.head(key)
        except StoreForbidden:
            return False
        if info is None or info.size_bytes != size_bytes:
            return False
        return read_wrong_unix_s is None or _age_s(info) + STORE_CLOCK_S < time.time() - read_wrong_unix_s

    def _manifest_is_current(self, commit: Commit, files: Sequence[PinnedFile]) -> bool:
        return set(files) <= set(self._read_manifest(manifest_key(self._settings.models_prefix, *commit)))

    def _read_manifest(self, key: str) -> list[PinnedFile]:
        try:
            return parse_manifest(self._store.get(key, max_bytes=MANIFEST_MAX_BYTES))
        except (StoreNotFound, StoreCorrupt, StoreForbidden):
            return []

    def _upload(self, file: PinnedFile, claim: _Claim) -> int:
        key = self._key(file)
        self._send(key, self._report.paths[file].resolve(), claim, sha256=file.sha256)
        self._check(key, file.size_bytes)
        self._report.wrong_keys.pop(key, None)
        return file.size_bytes

    def _upload_wheel(self, wheel: KeptWheel, claim: _Claim) -> int:
        """Send a wheel that came from its release and was checked against its pin; its local copy is not needed any more."""
        sent = 0
        try:
            size_bytes = wheel.path.stat().st_size
            if not self._is_there(wheel.key, size_bytes, wheel.read_wrong_unix_s):
                self._send(wheel.key, wheel.path, claim, sha256=wheel.sha256)
                self._check(wheel.key, size_bytes)
                sent = size_bytes
        except FileNotFoundError:
            log.info("publish.wheel_gone key=%s cause='another worker on this volume has sent it'", wheel.key)
        wheel.drop()
        return sent

    def _send(self, key: str, path: Path, claim: _Claim, **metadata: str) -> None:
        start = time.monotonic()

        def on_bytes(count: int) -> None:
            if self._stop.is_set():
                raise Cancelled("the worker stops")
            claim.renew()
            self._on_bytes(count)

        content_type = "text/plain; charset=utf-8" if key.endswith((".txt", ".yaml")) else "application/octet-stream"
        self._store.upload(key, path, content_type=content_type, metadata=metadata, on_bytes=on_bytes)
        log.info("publish.file key=%s seconds=%.1f", key, time.monotonic() - start)

    def _check(self, key: str, size_bytes: int) -> None:
        info = self._store.head(key)
        if info is None or info.size_bytes != size_bytes:
            raise StoreUnavailable(f"{key} is not in the bucket as it was sent")

    def _put_manifest(self, commit: Commit, files: Sequence[PinnedFile]) -> None:
        """Name the files of one commit, each of which is known to be there; another model's files stay named."""
        key = manifest_key(self._settings.models_prefix, *commit)
        known = self._read_manifest(key)
        if not set(files) <= set(known):
            others = [f for f in known if (f.repo, f.commit) == commit and f.path not in {g.path for g in files}]
            self._store.put(key, dump_manifest([*files, *others]), content_type="application/json")

    def _abort_dead_uploads(self, keys: Sequence[str], claim: _Claim) -> None:
        """Drop the parts that a killed publisher left of what is sent now: stores bill them, and later runs do not look at these keys.

        Its claim ended before this one began, so its upload is older than a living claim can be; that of a second owner at the same
        moment is younger. Were one dropped all the same, its publisher would fail and this one go on with the same bytes.
        """
        if claim.since is None:  # a claim that never stayed: another may be sending the same
            return
        dead_since = claim.since - timedelta(seconds=CLAIM_STALE_S - CLAIM_RENEW_S)
        try:
            for key in keys:
                for upload in self._store.pending_uploads(key):
                    if upload.key == key and upload.started <= dead_since:
                        self._store.abort_upload(upload)
        except StoreError as exc:  # needs a list permission that publishing itself does not
            log.info("publish.dead_uploads_unchecked error=%r", str(exc))


class _Claim:
    """The object that says which worker publishes a commit. Without conditional writes it makes two owners rare, not impossible."""

    def __init__(self, store: Store, key: str, stop: threading.Event) -> None:
        self._store, self._key, self._stop = store, key, stop
        self.since: datetime | None = None  # when this worker was seen to own it, by the store's clock
        self._owner = uuid.uuid4().hex
        self._writes = 0  # since another worker owned it
        self._renew_at = 0.0

    def acquire(self) -> bool:
        """Wait until this worker owns the claim; whether it had to wait for another one.

        Raises:
            StoreForbidden: the key may not write, or not read what it wrote.
            StoreUnavailable: another worker has been publishing for CLAIM_WAIT_S.
            Cancelled: stop was set.
        """
        waited, deadline = False, time.monotonic() + CLAIM_WAIT_S
        while (owner := self._current_owner()) != self._owner:
            if owner is None and self._writes == CLAIM_WRITES:
                break
            if owner is None:
                self._write()
                self._pause(CLAIM_SETTLE_S)
                continue
            self._writes, waited = 0, True
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"another worker has been publishing for {CLAIM_WAIT_S:.0f} s")
            self._pause(CLAIM_POLL_S)
        return waited

    def renew(self) -> None:
        if time.monotonic() > self._renew_at:
            self._write()

    def release(self) -> None:
        """Give the claim up if this worker took it; one that went stale may be another's by now, who then publishes beside others."""
        if not self._writes:
            return
        try:
            self._store.delete(self._key)
        except StoreError as exc:  # a key without delete permission: the claim ages out
            log.info("publish.claim_left error=%r", str(exc))

    def _current_owner(self) -> str | None:
        """Who publishes this commit now, None when nobody does. A claim's age is read off the store's own clock."""
        try:
            info = self._store.head(self._key)
        except StoreForbidden:
            if self._writes:  # it is there: the key may not read
                raise
            return None
        if info is None:
            return None
        owner = info.metadata.get("owner")
        if owner == self._owner:
            self.since = info.modified
            return owner
        return owner if _age_s(info) <= CLAIM_STALE_S else None

    def _write(self) -> None:
        self._renew_at = time.monotonic() + CLAIM_RENEW_S
        self._store.put(self._key, b"", content_type="text/plain", metadata={"owner": self._owner})
        self._writes += 1

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Cancelled("the worker stops")


def _age_s(info: ObjectInfo) -> float:
    """Seconds since the object was written, by the store's own clock."""
    return ((info.answered or datetime.now(UTC)) - info.modified).total_seconds()


def _missing_permission(error: StoreError) -> str:
    """The permission that the key looks to lack, for the log line."""
    message = error.message
    permission = PERMISSIONS.get(message.partition(" ")[0])
    is_refusal = isinstance(error, StoreForbidden) and any(f": {code}" in message for code in ("AccessDenied", "403"))
    return f" missing_permission={permission!r}" if is_refusal and permission else ""
