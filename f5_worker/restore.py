"""Restore: bring every wanted file into the cache, verified, from the first source that has it.

Sources per file: the platform's cached-model mount, the cache directory, the bucket, the hub.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from f5_worker import hub
from f5_worker.breaker import Breaker
from f5_worker.cache import HubCache
from f5_worker.errors import CacheError, HubUnavailable, StoreCorrupt, StoreError, StoreNotFound, StoreUnavailable, WorkerError
from f5_worker.fetch import Item, Limits, Outcome, fetch
from f5_worker.manifest import PinnedFile
from f5_worker.report import Phase, Timeline
from f5_worker.settings import Settings
from f5_worker.store import Store

log = logging.getLogger(__name__)

URL_EXPIRES_S = 3600


@dataclass
class RestoreReport:
    """What a restore brought and what it could not bring. `paths` are local, verified files."""

    cache_dir: Path | None = None
    paths: dict[PinnedFile, Path] = field(default_factory=dict)
    sources: dict[PinnedFile, str] = field(default_factory=dict)  # mount | cache | bucket | hub
    missing: dict[PinnedFile, str] = field(default_factory=dict)  # why
    wrong_keys: dict[str, float] = field(default_factory=dict)  # objects of other bytes than pinned -> when they were read, Unix s
    bucket_outcome: str = "off"  # off | skipped | hit | partial | miss | the code of the error
    bucket_seconds: float = 0.0
    bucket_bytes: int = 0
    hub_bytes: int = 0
    phases: list[Phase] = field(default_factory=list)

    def to_json(self, files: Sequence[PinnedFile]) -> bytes:
        """The report for another process that knows the same files."""
        index = {file: i for i, file in enumerate(files)}
        body = {
            **{name: getattr(self, name) for name in ("wrong_keys", "bucket_outcome", "bucket_seconds", "bucket_bytes", "hub_bytes")},
            "cache_dir": str(self.cache_dir) if self.cache_dir else None,
            "paths": {index[f]: str(p) for f, p in self.paths.items()},
            "sources": {index[f]: s for f, s in self.sources.items()},
            "missing": {index[f]: m for f, m in self.missing.items()},
            "phases": [vars(p) for p in self.phases],
        }
        return json.dumps(body).encode()

    @classmethod
    def from_json(cls, data: bytes, files: Sequence[PinnedFile]) -> RestoreReport:
        """The inverse of to_json. Raises ValueError, KeyError or TypeError when the bytes are no whole report."""
        raw: dict[str, Any] = json.loads(data)
        by_file = {name: {files[int(i)]: value for i, value in raw.pop(name).items()} for name in ("paths", "sources", "missing")}
        cache_dir = raw.pop("cache_dir")
        return cls(
            cache_dir=Path(cache_dir) if cache_dir else None,
            paths={f: Path(p) for f, p in by_file["paths"].items()},
            sources=by_file["sources"],
            missing=by_file["missing"],
            phases=[Phase(**p) for p in raw.pop("phases")],
            **raw,
        )

    def files_json(self) -> list[dict[str, Any]]:
        """One entry a file, for the boot report."""
        return [
            {"path": f.path, "repo": f.repo, "commit": f.commit, "size_bytes": f.size_bytes, "source": s} for f, s in self.sources.items()
        ]

    def bucket_json(self) -> dict[str, Any]:
        """What the sources over the network did, for the boot report."""
        return {
            "outcome": self.bucket_outcome,
            "seconds": round(self.bucket_seconds, 3),
            "bytes": self.bucket_bytes,
            "hub_bytes": self.hub_bytes,
            "wrong_objects": len(self.wrong_keys),
        }


def restore(
    files: Sequence[PinnedFile],
    caches: Sequence[HubCache],
    settings: Settings,
    store: Store | None,
    *,
    timeline: Timeline,
    stop: threading.Event | None = None,
) -> RestoreReport:
    """Bring every file into the first cache directory that takes it. Never raises a WorkerError: what failed is in the report.

    Args:
        caches: directories to try, best first; a full or failing disk moves on to the next with what is still missing.
        store: the bucket, None when it is off.
        stop: ends the restore within a second; unfinished downloads stay for the next one to resume.
    """
    run = _Restore(settings, store, timeline, stop or threading.Event())
    for cache in caches:
        wanted = [f for f in files if f not in run.report.paths]
        try:
            with cache.lock(timeout_s=settings.restore_deadline_s, stop=run.stop):
                run.fill(cache, wanted)
        except CacheError as exc:
            log.warning("restore.disk_failed dir=%s error=%r next=%s", cache.root, str(exc), cache is not caches[-1])
            run.report.missing.update({f: str(exc) for f in wanted if f not in run.report.paths})
            continue
        break
    run.report.phases = timeline.phases
    return run.report


class _Restore:
    """One run over the sources; collects the report."""

    def __init__(self, settings: Settings, store: Store | None, timeline: Timeline, stop: threading.Event) -> None:
        self.settings, self.store, self.timeline, self.stop = settings, store, timeline, stop
        self.report = RestoreReport()

    def fill(self, cache: HubCache, wanted: Sequence[PinnedFile]) -> None:
        """Call with the lock held. Raises CacheError when this directory cannot go on; what it cannot finish is given back then."""
        self.report.cache_dir = cache.root
        try:
            cache.remove_stale_parts()
            self._from_disk(cache, wanted)
            self._from_bucket(cache, self._lacking(wanted))
            self._from_hub(cache, self._lacking(wanted))
            if self.report.bucket_outcome == "skipped" and not self.stop.is_set():
                self._from_bucket(cache, self._lacking(wanted), is_last_resort=True)
        except CacheError:
            self._give_back(cache, wanted)
            raise
        for file in self._lacking(wanted):
            self.report.missing.setdefault(file, "not asked for any more")

    def _give_back(self, cache: HubCache, wanted: Sequence[PinnedFile]) -> None:
        try:
            cache.remove_parts(self._lacking(wanted))
        except CacheError as exc:
            log.warning("restore.parts_left error=%r", str(exc))

    def _lacking(self, wanted: Iterable[PinnedFile]) -> list[PinnedFile]:
        return [f for f in wanted if f not in self.report.paths]

    def _took(self, file: PinnedFile, path: Path, source: str) -> None:
        self.report.paths[file], self.report.sources[file] = path, source
        self.report.missing.pop(file, None)

    def _failed(self, file: PinnedFile, error: WorkerError) -> None:
        before = self.report.missing.get(file)
        self.report.missing[file] = f"{before}; {error}" if before else str(error)

    def _from_disk(self, cache: HubCache, wanted: Sequence[PinnedFile]) -> None:
        with self.timeline.phase("look on disk", lane="restore") as phase:
            for file in wanted:
                if path := cache.adopt_mount(file, self.settings.platform_cache):
                    self._took(file, path, "mount")
                elif path := cache.find(file):
                    self._took(file, path, "cache")
            found = [f for f in wanted if f in self.report.paths]
            phase.bytes, phase.source = sum(f.size_bytes for f in found), ",".join(sorted({self.report.sources[f] for f in found}))

    def _from_bucket(self, cache: HubCache, wanted: Sequence[PinnedFile], *, is_last_resort: bool = False) -> None:
        s3 = self.settings.cache_bucket
        if not wanted or self.store is None or s3 is None:
            return
        breaker = Breaker(cache, s3)
        if not is_last_resort and (cause := breaker.open_cause()):
            self.report.bucket_outcome = "skipped"
            log.warning("restore.bucket outcome=skipped remembered_failure=%r effect='asked again after 10 minutes, the hub serves'", cause)
            return
        with self.timeline.phase("restore from bucket", lane="restore") as phase:
            outcomes = self._fetch(cache, wanted)
        phase.source, phase.bytes = "bucket", sum(o.bytes_received for o in outcomes)
        self._judge(breaker, wanted, outcomes, phase)

    def _fetch(self, cache: HubCache, wanted: Sequence[PinnedFile]) -> list[Outcome]:
        assert self.store is not None  # noqa: S101 - the caller checked; mypy cannot see it
        prefix = self.settings.models_prefix
        by_part = {cache.part(f): f for f in wanted}
        items = [
            Item(self.store.sign_get(f.key(prefix), expires_s=URL_EXPIRES_S), part, f.size_bytes, f.sha256) for part, f in by_part.items()
        ]

        def adopt(outcome: Outcome) -> None:
            file = by_part[outcome.item.part]
            self._took(file, cache.adopt(file, outcome.item.part), "bucket")

        limits = Limits(deadline_s=self.settings.restore_deadline_s, fsync=cache.is_on_network, ca_file=self.settings.ca_file)
        return fetch(items, limits, on_done=adopt, stop=self.stop)

    def _judge(self, breaker: Breaker, wanted: Sequence[PinnedFile], outcomes: Sequence[Outcome], phase: Phase) -> None:
        """Turn the outcomes into the report, one log line and, for a bucket at fault, an open breaker."""
        report, prefix = self.report, self.settings.models_prefix
        report.bucket_seconds, report.bucket_bytes = phase.end_s - phase.start_s, phase.bytes
        errors: dict[PinnedFile, WorkerError] = {f: o.error for f, o in zip(wanted, outcomes, strict=True) if o.error is not None}
        for file, error in errors.items():
            self._failed(file, error)
        report.wrong_keys |= {f.key(prefix): time.time() for f, e in errors.items() if isinstance(e, StoreCorrupt)}
        faulty = next((f for f, e in errors.items() if not isinstance(e, StoreNotFound)), None)
        fault = errors[faulty] if faulty else None
        if isinstance(fault, StoreError):
            report.bucket_outcome = fault.code
            if isinstance(fault, StoreUnavailable):  # a refusal comes at once and may be mended by a setting: it is asked again
                self._trip(breaker, fault)
        else:
            report.bucket_outcome = "hit" if not errors else "miss" if len(errors) == len(wanted) else "partial"
        log.log(
            logging.WARNING if fault else logging.INFO,
            "restore.bucket outcome=%s files=%d of=%d bytes=%d seconds=%.2f%s",
            report.bucket_outcome,
            len(wanted) - len(errors),
            len(wanted),
            phase.bytes,
            report.bucket_seconds,
            f" file={faulty.path} error={str(fault)!r} effect='the hub serves what is missing'" if faulty else "",
        )
        if isinstance(fault, CacheError):
            raise fault

    def _trip(self, breaker: Breaker, fault: StoreError) -> None:
        try:
            breaker.trip(fault)
        except CacheError as exc:  # a full disk: the next directory has its own say
            log.warning("restore.breaker_not_kept error=%r", str(exc))

    def _from_hub(self, cache: HubCache, wanted: Sequence[PinnedFile]) -> None:
        if not wanted or self.stop.is_set():
            return
        cache.make_room(wanted)
        log.info("restore.hub outcome=started files=%d bytes=%d", len(wanted), sum(f.size_bytes for f in wanted))
        with self.timeline.phase("download from hub", lane="restore") as phase:
            phase.source = "hub"
            for file in wanted:  # one after the other: the hub's client shares one connection pool, which any error closes for all
                if error := self._download(file, cache):
                    self._failed(file, error)
                    break  # without this file the model cannot be loaded, and a dead hub costs 24 s of its client's retries each time
        phase.bytes = self.report.hub_bytes = sum(f.size_bytes for f in wanted if self.report.sources.get(f) == "hub")
        failed = self._lacking(wanted)
        seconds = phase.end_s - phase.start_s
        level = logging.WARNING if failed else logging.INFO
        log.log(
            level,
            "restore.hub outcome=ended files=%d of=%d bytes=%d seconds=%.2f",
            len(wanted) - len(failed),
            len(wanted),
            phase.bytes,
            seconds,
        )

    def _download(self, file: PinnedFile, cache: HubCache) -> WorkerError | None:
        try:
            hub.download(file, cache)
            if path := cache.find(file):
                self._took(file, path, "hub")
                return None
        except HubUnavailable as exc:
            return exc
        return HubUnavailable(f"the hub's bytes of {file.path} are not the pinned ones")
