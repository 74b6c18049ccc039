"""How fast the line to the bucket is, and what a cold start over it takes and costs."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from f5_worker.disk import room
from f5_worker.doctor_bucket import Scratch
from f5_worker.errors import CacheError, StoreError, StoreForbidden
from f5_worker.fetch import Item, Limits, fetch
from f5_worker.finding import Finding, failed, skipped, warning
from f5_worker.fitness import DEFAULT_INIT_TIMEOUT_S, init_timeout_s
from f5_worker.manifest import ModelSpec
from f5_worker.settings import Settings
from f5_worker.store import Store

STEPS = {1: 32_000_000, 8: 128_000_000, 16: 256_000_000}  # bytes to fetch by number of connections, about
STEP_S = 5.0  # at most; what came by then is the measurement
SAMPLE_BYTES = (8_000_000, 64_000_000)  # a model file of this size is fetched; without one, the smaller of it and STEPS[1] is uploaded
# Of the boots in docs/performance.md, on two CPU cores without a GPU: the imports, beside which the weights arrive, and the load.
IMPORTS_S, LOAD_S = 4.0, 0.6
RANGE_BYTES = 4 * 1024 * 1024  # of one GET while 24 connections are open
GIVES_UP_BYTES_PER_S = Limits().stall_bytes_per_s


@dataclass(frozen=True)
class Prices:
    """In US dollars; None: not known, the cost is not told."""

    worker_hour: float | None = None
    egress_gb: float | None = None
    thousand_gets: float | None = None


@dataclass(frozen=True)
class _Sample:
    """One object of the bucket with its pinned bytes, to be fetched again and again."""

    key: str
    size_bytes: int
    sha256: str


def throughput(store: Store, settings: Settings, spec: ModelSpec, kept: Scratch | None) -> Finding:
    """Bytes per second through the worker's own transport with 1, 8 and 16 connections, disk and sha256 included.

    Args:
        kept: Where an object may be uploaded when no model file fits; None: the key may not write it, or not delete it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="f5-doctor-") as name:
            folder = Path(name)
            if room(folder)[0] < 2 * max(STEPS.values()):
                return skipped("throughput", f"{tempfile.gettempdir()} has no room for it: set TMPDIR to a larger disk")
            sample = _in_bucket(store, settings, spec) or (_uploaded(store, settings, kept, folder) if kept else None)
            if sample is None:
                return skipped("throughput", "nothing to fetch: no model file in the bucket, and the key may not write and delete one")
            rates = {count: _rate(store, settings, sample, folder, count) for count in STEPS}
    except (OSError, CacheError) as exc:
        return skipped("throughput", f"the temporary directory cannot be used ({exc}): set TMPDIR to one with room")
    except StoreError as exc:
        return failed("throughput", "endpoint_failing", exc.message, "run this again; when it stays, look at the store's status page")
    return _judged(rates)


def _judged(rates: Mapping[int, float]) -> Finding:
    values = {f"bytes_per_s_{count}_connections": round(rate) for count, rate in rates.items()}
    seen = ", ".join(f"{rate / 1e6:.1f} MB/s with {count}" for count, rate in rates.items()) + " connections"
    if max(rates.values()) < GIVES_UP_BYTES_PER_S:
        remedy = "use a bucket in a region near the workers; below 5 MB/s a boot leaves the bucket and the hub serves"
        return replace(failed("throughput", "bucket_slow", seen, remedy), values=values)
    return Finding("throughput", seen, values=values)


def _in_bucket(store: Store, settings: Settings, spec: ModelSpec) -> _Sample | None:
    low, high = SAMPLE_BYTES
    for file in spec.files if settings.cache_bucket else ():
        key = file.key(settings.models_prefix)
        with suppress(StoreForbidden):  # of a missing object, to a key that may not list
            if low <= file.size_bytes <= high and (info := store.head(key)) and info.size_bytes == file.size_bytes:
                return _Sample(key, file.size_bytes, file.sha256)
    return None


def _uploaded(store: Store, settings: Settings, kept: Scratch, folder: Path) -> _Sample:
    data, path = os.urandom(min(STEPS[1], SAMPLE_BYTES[1])), folder / "sample"
    path.write_bytes(data)
    key = kept.key(settings.output_prefix)
    store.upload(key, path, content_type="application/octet-stream", metadata={}, on_bytes=lambda _sent: None)
    path.unlink()
    return _Sample(key, len(data), hashlib.sha256(data).hexdigest())


def _rate(store: Store, settings: Settings, sample: _Sample, folder: Path, connections: int) -> float:
    """Bytes per second; fetch() ends at STEP_S with what it has. Raises StoreError, CacheError when store or disk failed."""
    url = store.sign_get(sample.key, expires_s=3600)
    count = max(1, round(STEPS[connections] / sample.size_bytes))
    items = [Item(url, folder / f"{connections}-{n}", sample.size_bytes, sample.sha256) for n in range(count)]
    limits = Limits(
        connections=connections,
        first_connections=connections,
        first_tls_connections=connections,
        stall_bytes_per_s=0,
        deadline_s=STEP_S,
        ca_file=settings.ca_file,
    )
    started = time.monotonic()
    outcomes = fetch(items, limits, on_done=lambda outcome: outcome.item.part.unlink())
    seconds, received = time.monotonic() - started, sum(o.bytes_received for o in outcomes)
    for outcome in outcomes:
        outcome.item.part.unlink(missing_ok=True)
        is_early = isinstance(outcome.error, StoreError) and not received and seconds < STEP_S
        if outcome.error and (is_early or isinstance(outcome.error, CacheError)):
            raise outcome.error
    return received / seconds


def cold_start(line: Finding, settings: Settings, spec: ModelSpec, prices: Prices) -> Finding:
    """What a boot from the bucket takes at the best measured rate, and what it costs at the given prices."""
    if settings.cache_bucket is None:
        return skipped("cold start", "ENABLE_S3_MODEL_CACHE is off")
    if not line.values or line.state == "failed":
        return skipped("cold start", "no throughput to predict it from")
    size_bytes = sum(f.size_bytes for f in spec.files)
    restore_s = size_bytes / max(float(v or 0) for v in line.values.values())
    seconds = max(restore_s, IMPORTS_S) + LOAD_S
    gets = sum(-(-f.size_bytes // RANGE_BYTES) for f in spec.files)
    usd = _usd(prices, size_bytes, gets, seconds)
    cost = "pass prices for its cost" if usd is None else f"{usd:.6f} USD"
    seen = (
        f"about {seconds:.1f} s billed ({restore_s:.1f} s for {size_bytes / 1e6:.0f} MB in about {gets} GETs, beside {IMPORTS_S:g} s of "
        f"imports, then {LOAD_S:g} s to load; without image pull and GPU start), {cost}"
    )
    values = {"seconds": round(seconds, 2), "restore_s": round(restore_s, 2), "bytes": size_bytes, "gets": gets, "usd": usd}
    finding = Finding("cold start", seen, values=values)
    if restore_s > settings.restore_deadline_s:
        remedy = f"set RESTORE_DEADLINE_S={int(restore_s * 1.5)}, or use a bucket nearer to the workers"
        finding = replace(warning("cold start", "restore_late", f"RESTORE_DEADLINE_S ends the restore; {seen}", remedy), values=values)
    elif (init_s := init_timeout_s(size_bytes, size_bytes / restore_s)) > DEFAULT_INIT_TIMEOUT_S:
        remedy = f"set RUNPOD_INIT_TIMEOUT={init_s}"
        told = f"near or over the platform's {DEFAULT_INIT_TIMEOUT_S} s; {seen}"
        finding = replace(warning("cold start", "init_late", told, remedy), values=values)
    return finding


def _usd(prices: Prices, size_bytes: int, gets: int, seconds: float) -> float | None:
    if None in {prices.worker_hour, prices.egress_gb, prices.thousand_gets}:
        return None
    parts = (
        (prices.worker_hour or 0) * seconds / 3600,
        (prices.egress_gb or 0) * size_bytes / 1e9,
        (prices.thousand_gets or 0) * gets / 1000,
    )
    return round(sum(parts), 8)
