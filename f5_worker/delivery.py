"""Hands files over: by a presigned URL when there is a bucket, else inside the result.

What was computed is not thrown away for a fault of the bucket: a file that fits goes inline, with a warning.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from f5_worker.errors import DeliveryError, DeliveryRefused, RequestError, ResultTooLarge, StoreError, StoreUnavailable
from f5_worker.guard import GuardedStore
from f5_worker.jobs import InlineRoom, Warnings
from f5_worker.settings import Settings

log = logging.getLogger(__name__)

Mode = Literal["auto", "url", "inline"]
Delivered = dict[str, str]  # {"url", "expires_at"} or {"base64"}
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
MAX_NAME_CHARS = 80
PATIENT_TRIES = 3  # of an upload whose file fits nowhere else; the store itself has a time-out of seconds


@dataclass(frozen=True)
class File:
    data: bytes = field(repr=False)
    extension: str
    content_type: str


@dataclass
class Outbox:
    """Delivers the files of one job.

    Attributes:
        stem: The files' key in the bucket without extension, see `stem_of`.
        expires_s: Seconds that a URL works.
        max_bytes: MAX_INLINE_BYTES, for messages; `room` is what is left of it.
        keys: Of what was uploaded, by extension.
    """

    store: GuardedStore | None
    stem: str
    room: InlineRoom
    mode: Mode
    expires_s: int
    max_bytes: int
    warnings: Warnings = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)

    def deliver(self, file: File) -> Delivered:
        """Upload a file and sign a URL, or put it inline.

        Raises:
            DeliveryError: neither way is open; the message says which sizes and settings matter.
        """
        fits = len(file.data) <= self.room.left_bytes
        if self.store is None or (self.mode == "inline" and fits):
            return self._inline(file)
        try:
            url = self._upload(self.store, file, patient=not fits)
        except StoreError as error:
            log.warning("delivery outcome=store_failed bytes=%d inline=%s error=%r", len(file.data), fits, str(error))
            if not fits:
                raise self._not_uploaded(file, error) from error
            self.warnings.append((error.code, "the upload failed, so the file is delivered inline"))
            return self._inline(file)
        if self.mode == "inline":
            self.warnings.append(("INLINE_TOO_LARGE", f"delivered by URL: {self._too_large(file)}"))
        return url

    def _upload(self, store: GuardedStore, file: File, *, patient: bool) -> Delivered:
        key = f"{self.stem}.{file.extension}"
        for left in reversed(range(PATIENT_TRIES if patient else 1)):
            if patient:
                store.ask_again()
            try:
                # The name is made of letters, digits, "-" and "_" alone, so nothing can break out of the header.
                store.put(key, file.data, content_type=file.content_type, filename=key.rpartition("/")[2])
                break
            except StoreUnavailable:
                if not left:
                    raise
        self.keys[file.extension] = key
        return signed(store, key, self.expires_s)  # an upload may take long: the URL's time starts after it

    def _inline(self, file: File) -> Delivered:
        if len(file.data) > self.room.left_bytes:
            way_out = "set S3_BUCKET so that it can be uploaded, or speak less text in one job"
            raise ResultTooLarge(f"{self._too_large(file)}; {way_out}")
        self.room.left_bytes -= len(file.data)
        return {"base64": base64.b64encode(file.data).decode()}

    def _not_uploaded(self, file: File, error: StoreError) -> DeliveryError:
        why = f"the upload failed ({error.code}) and {self._too_large(file)}"
        if error.retryable:
            return DeliveryError(f"{why}; send the job again later")
        return DeliveryRefused(f"{why}; no repetition helps: check the bucket's name and region and what its key may write")

    def _too_large(self, file: File) -> str:
        return f"the {file.extension} has {len(file.data)} bytes, at most {self.max_bytes} fit in a result (MAX_INLINE_BYTES)"


def check(mode: Mode, store: object | None) -> None:
    """Refuse what cannot be delivered, before anything is computed.

    Raises:
        RequestError: a URL is asked for and this worker has no bucket.
    """
    if mode == "url" and store is None:
        raise RequestError("delivery: 'url' needs a bucket and this worker has none; use 'inline' or 'auto', or set S3_BUCKET")


def signed(store: GuardedStore, key: str, expires_s: int) -> Delivered:
    """A URL that works from now on for expires_s seconds."""
    expires = datetime.now(UTC) + timedelta(seconds=expires_s)
    url = store.sign_get(key, expires_s=expires_s)
    return {"url": url, "expires_at": expires.isoformat(timespec="seconds").replace("+00:00", "Z")}


def stem_of(settings: Settings, job_id: str, day: date) -> str:
    """`<output prefix><yyyy-mm-dd>/<job id>`, whatever characters the job id is made of."""
    name = _UNSAFE.sub("-", job_id)[:MAX_NAME_CHARS]
    if name != job_id or not name:  # two ids must not meet in one name
        name = f"{name}-{hashlib.sha256(job_id.encode(errors='surrogatepass')).hexdigest()[:12]}"
    return f"{settings.output_prefix}{day:%Y-%m-%d}/{name}"
