"""Results that lie in the bucket: clients look them up and remove them by the job's id, and a repeated job gets its own again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from f5_worker import request
from f5_worker.delivery import Outbox, signed, stem_of
from f5_worker.errors import IdempotencyConflict, OutputNotFound, RequestError, StoreCorrupt, StoreError, StoreNotFound
from f5_worker.guard import GuardedStore
from f5_worker.jobs import Job, Result, Runtime, in_context
from f5_worker.settings import Settings

log = logging.getLogger(__name__)

_MARKER = "memo"  # the extension of what lies beside a job's files and names its stored result
_READERS = 8
_MAX_MEMO_BYTES = 24_000_000  # a result with MAX_INLINE_BYTES of audio, in base64
# Fields that do not change the result: the worker has one model, and another bucket keeps results of its own.
_NOT_SPOKEN = {"action", "idempotency_key", "model", "s3_config", "url_expires_in"}


def get(run: Runtime, asked: request.OutputsGet) -> Result:
    """Fresh URLs of a job's files by their extensions. Raises OutputNotFound, RequestError."""
    store = _needed(run.store)
    expires_s = asked.url_expires_in or run.settings.url_expires_s
    of_days = ([key for key in keys if _extension(key) != _MARKER] for keys in _by_days(store, run.settings, asked.id))
    files = {_extension(key): signed(store, key, expires_s) for key in next(filter(None, of_days), ())}
    if not files:
        raise _not_found()
    return {"id": asked.id, "files": files}


def delete(run: Runtime, asked: request.OutputsDelete) -> Result:
    """Remove a job's files and its stored result. Raises OutputNotFound, RequestError."""
    store = _needed(run.store)
    keys = [key for of_day in _by_days(store, run.settings, asked.id) for key in of_day]
    if not keys:
        raise _not_found()
    markers = [key for key in keys if _extension(key) == _MARKER]
    memos = [key for marker in markers if _leads_to(store, marker, key := _memo_key(run.settings, marker.split(".")[-2]))]
    # A deletion that is cut short can be repeated: what leads to the rest goes last.
    for key in [*memos, *(key for key in keys if key not in markers), *markers]:
        store.delete(key)
    return {"id": asked.id, "deleted": sorted(_extension(key) for key in keys)}


def _leads_to(store: GuardedStore, marker: str, memo_key: str) -> bool:
    """Whether the stored result is the one that the marker names: a later job with the same key may have left another there."""
    try:
        return bool(_parsed(store.get(memo_key, max_bytes=_MAX_MEMO_BYTES))["marker"] == marker)
    except StoreNotFound:
        return False
    except StoreCorrupt:
        return True  # nobody's


def _needed(store: GuardedStore | None) -> GuardedStore:
    if store is None:
        raise RequestError("outputs lie in the bucket and this worker has none: set S3_BUCKET")
    return store


def _by_days(store: GuardedStore, settings: Settings, job_id: str) -> Iterator[list[str]]:
    """The keys that a job has left, day by day from today backwards: its id does not tell the day, and it may have run on two."""
    today = datetime.now(UTC).date()
    yield _keys_of(store, settings, job_id, today)
    earlier = (today - timedelta(days=ago) for ago in range(1, (today - _first_day(store, settings, today)).days + 1))
    with ThreadPoolExecutor(_READERS) as readers:
        yield from readers.map(in_context(lambda day: _keys_of(store, settings, job_id, day)), earlier)


def _first_day(store: GuardedStore, settings: Settings, today: date) -> date:
    """The first day that has outputs: keys are listed in their order."""
    for info in store.list(f"{settings.output_prefix}2"):  # the years'
        with suppress(ValueError):
            return date.fromisoformat(info.key.removeprefix(settings.output_prefix).partition("/")[0])
    return today


def _keys_of(store: GuardedStore, settings: Settings, job_id: str, day: date) -> list[str]:
    return [info.key for info in store.list(f"{stem_of(settings, job_id, day)}.")]


def _extension(key: str) -> str:
    return key.rpartition(".")[2]


def _not_found() -> OutputNotFound:
    return OutputNotFound("no job of that id has left files in the bucket")


@dataclass(frozen=True)
class Memo:
    """What a job with an idempotency_key leaves in the bucket: its result, and the keys of its files by their extensions.

    Beside the files lies a marker that names the memo. A memo whose marker is gone counts for nothing.
    """

    store: GuardedStore
    key: str
    name: str  # made of the idempotency_key
    request: str  # fingerprint

    def recall(self, job: Job, expires_s: int) -> Result | None:
        """The result of the same request, its URLs signed anew; None when there is none, or its files are gone.

        A failing bucket is a warning: then the job is computed.

        Raises:
            IdempotencyConflict: the idempotency_key was used for another request.
        """
        try:
            kept = _parsed(self.store.get(self.key, max_bytes=_MAX_MEMO_BYTES))
            if not all(self.store.head(key) for key in (kept["marker"], *kept["keys"].values())):
                return None
        except StoreNotFound:
            return None
        except StoreCorrupt as error:
            log.warning("idempotency outcome=unreadable error=%r", str(error))
            return None
        except StoreError as error:
            self._unavailable(job, error)
            return None
        if kept["request"] != self.request:
            raise IdempotencyConflict("idempotency_key was used for another request: choose a new key, or send that request unchanged")
        result: Result = kept["result"]
        for extension, key in kept["keys"].items():
            place = _place(result, extension)
            place |= signed(self.store, key, expires_s)
        return result | {"repeated": True}

    def keep(self, job: Job, result: Result, outbox: Outbox) -> None:
        """Store the result, after the marker that leads to it. A failing bucket is a warning: the client has its audio."""
        marker = f"{outbox.stem}.{self.name}.{_MARKER}"
        memo = {"request": self.request, "result": _without_urls(result), "keys": outbox.keys, "marker": marker}
        try:
            self.store.put(marker, b"", content_type="text/plain")
            self.store.put(self.key, json.dumps(memo, ensure_ascii=False).encode(), content_type="application/json")
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
    # A default that was written out is no other request, and one without a seed is the same one in every job.
    given = asked.model_dump(exclude_defaults=True, exclude=_NOT_SPOKEN)
    text = json.dumps(given, sort_keys=True, default=_digest)
    name = hashlib.sha256(idempotency_key.encode()).hexdigest()[:32]
    return Memo(store, _memo_key(settings, name), name, hashlib.sha256(text.encode()).hexdigest())


def _memo_key(settings: Settings, name: str) -> str:
    return f"{settings.output_prefix}idempotent/{name}.json"


def _digest(value: object) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def _parsed(raw: bytes) -> Result:
    """What `Memo.keep` wrote. Raises StoreCorrupt for anything else."""
    try:
        kept = json.loads(raw)
        result, keys = kept["result"], kept["keys"]
        texts = (kept["request"], kept["marker"], result["format"], *keys.values())
        places = (result["audio"], *(_place(result, extension) for extension in keys))
        has_audio = result["format"] in keys or "base64" in result["audio"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise StoreCorrupt("a stored result cannot be read") from exc
    if not has_audio or not all(isinstance(text, str) for text in texts) or not all(isinstance(place, dict) for place in places):
        raise StoreCorrupt("a stored result cannot be read")
    return dict(kept)


def _place(result: Result, extension: str) -> Any:
    """Where the result describes one of its files."""
    return result["audio"] if extension == result["format"] else result["subtitles"][extension]


def _without_urls(value: Any) -> Any:
    """URLs are credentials for some time: none is stored."""
    if isinstance(value, dict):
        return {name: _without_urls(part) for name, part in value.items() if name not in {"url", "expires_at"}}
    return value
