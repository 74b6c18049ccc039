"""Results that lie in the bucket: clients look them up and remove them by the job's id, and a repeated job gets its own again."""

from __future__ import annotations

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from f5_worker import request
from f5_worker.delivery import signed, stem_of
from f5_worker.errors import IdempotencyConflict, OutputNotFound, RequestError, StoreCorrupt, StoreError, StoreNotFound
from f5_worker.guard import GuardedStore
from f5_worker.jobs import Job, Result, Runtime
from f5_worker.settings import Settings

log = logging.getLogger(__name__)

SEARCHED_DAYS = 31  # outputs lie in a folder per day, and the job's id does not tell the day
_READERS = 8
_MAX_MEMO_BYTES = 24_000_000  # a result with MAX_INLINE_BYTES of audio, in base64
_NOT_SPOKEN = {"idempotency_key", "s3_config"}  # fields that do not change what is spoken


def get(run: Runtime, asked: request.OutputsGet) -> Result:
    """Fresh URLs of a job's files by their extensions. Raises OutputNotFound, RequestError."""
    store = _needed(run.store)
    expires_s = asked.url_expires_in or run.settings.url_expires_s
    files = {key.rpartition(".")[2]: signed(store, key, expires_s) for key in _found(store, run.settings, asked.id)}
    return {"id": asked.id, "files": files}


def delete(run: Runtime, asked: request.OutputsDelete) -> Result:
    """Remove a job's files. Raises OutputNotFound, RequestError."""
    store = _needed(run.store)
    keys = _found(store, run.settings, asked.id)
    for key in keys:
        store.delete(key)
    return {"id": asked.id, "deleted": sorted(key.rpartition(".")[2] for key in keys)}


def _needed(store: GuardedStore | None) -> GuardedStore:
    if store is None:
        raise RequestError("outputs lie in the bucket and this worker has none: set S3_BUCKET")
    return store


def _found(store: GuardedStore, settings: Settings, job_id: str) -> list[str]:
    """The keys of a job's files, looked for from today backwards."""
    today = datetime.now(UTC)
    days = [stem_of(settings, job_id, today - timedelta(days=ago)) for ago in range(SEARCHED_DAYS)]
    if keys := _keys_of(store, days[0]):
        return keys
    with ThreadPoolExecutor(_READERS) as readers:
        keys = [key for found in readers.map(lambda stem: _keys_of(store, stem), days[1:]) for key in found]
    if keys:
        return keys
    raise OutputNotFound(f"no job of that id left files in the bucket in the last {SEARCHED_DAYS} days")


def _keys_of(store: GuardedStore, stem: str) -> list[str]:
    return [info.key for info in store.list(f"{stem}.")]


@dataclass(frozen=True)
class Memo:
    """What a job with an idempotency_key leaves in the bucket: its result, and the keys of its files by their extensions."""

    store: GuardedStore
    key: str
    request: str  # fingerprint

    def recall(self, job: Job, expires_s: int) -> Result | None:
        """The result of the same request, its URLs signed anew; None when there is none, or its files are gone.

        A failing bucket is a warning: then the job is computed.

        Raises:
            IdempotencyConflict: the idempotency_key was used for another request.
        """
        try:
            kept = _parsed(self.store.get(self.key, max_bytes=_MAX_MEMO_BYTES))
            if not all(self.store.head(key) for key in kept["keys"].values()):
                return None
        except StoreNotFound:
            return None
        except StoreError as error:
            self._unavailable(job, error)
            return None
        if kept["request"] != self.request:
            raise IdempotencyConflict("idempotency_key was used for another request: choose a new key, or send that request unchanged")
        result: Result = kept["result"]
        for extension, key in kept["keys"].items():
            place = result["audio"] if extension == result["format"] else result["subtitles"][extension]
            place |= signed(self.store, key, expires_s)
        return result | {"repeated": True}

    def keep(self, job: Job, result: Result, keys: dict[str, str]) -> None:
        """Store the result. A failing bucket is a warning: the client has its audio."""
        text = json.dumps({"request": self.request, "result": _without_urls(result), "keys": keys}, ensure_ascii=False)
        try:
            self.store.put(self.key, text.encode(), content_type="application/json")
        except StoreError as error:
            self._unavailable(job, error)

    def _unavailable(self, job: Job, error: StoreError) -> None:
        log.warning("idempotency outcome=store_failed error=%r", str(error))
        message = f"the bucket failed ({error.code}), so this job cannot be told from its repetition"
        job.warnings.append(("IDEMPOTENCY_UNAVAILABLE", message))


def memo(store: GuardedStore | None, settings: Settings, idempotency_key: str, asked: BaseModel) -> Memo:
    """The memo of a request; the idempotency_key itself stands nowhere in the bucket.

    Raises:
        RequestError: there is no bucket to remember anything in.
    """
    if store is None:
        raise RequestError("idempotency_key: needs a bucket and this worker has none; leave it out, or set S3_BUCKET")
    # Only what was given counts: a seed that was drawn differs from job to job.
    given = asked.model_dump(exclude_unset=True, exclude=_NOT_SPOKEN)
    text = json.dumps(given, sort_keys=True, default=_digest)
    key = f"{settings.output_prefix}idempotent/{hashlib.sha256(idempotency_key.encode()).hexdigest()[:32]}.json"
    return Memo(store, key, hashlib.sha256(text.encode()).hexdigest())


def _digest(value: object) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def _parsed(raw: bytes) -> Result:
    try:
        kept = json.loads(raw)
        whole = isinstance(kept["result"]["audio"], dict) and isinstance(kept["keys"], dict) and isinstance(kept["request"], str)
    except (ValueError, KeyError, TypeError) as exc:
        raise StoreCorrupt("a stored result cannot be read") from exc
    if not whole:
        raise StoreCorrupt("a stored result cannot be read")
    return dict(kept)


def _without_urls(value: Any) -> Any:
    """URLs are credentials for some time: none is stored."""
    if isinstance(value, dict):
        return {name: _without_urls(part) for name, part in value.items() if name not in {"url", "expires_at"}}
    return value
