"""Hands the audio over: by a presigned URL when there is a bucket, else inside the result.

What was computed is not thrown away for a fault of the bucket: audio that fits goes inline, with a warning.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from f5_worker.audio import CONTENT_TYPES
from f5_worker.errors import DeliveryError, RequestError, StoreError
from f5_worker.settings import Settings
from f5_worker.store import Store

log = logging.getLogger(__name__)

Mode = Literal["auto", "url", "inline"]
Warnings = tuple[tuple[str, str], ...]  # (code, message), as everywhere in a result
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
MAX_NAME_CHARS = 80


@dataclass(frozen=True)
class Delivered:
    """How the client gets the audio: `{"url", "expires_at"}` or `{"base64"}`."""

    audio: dict[str, str]
    warnings: Warnings = ()


def check(mode: Mode, store: Store | None) -> None:
    """Refuse what cannot be delivered, before anything is computed.

    Raises:
        RequestError: a URL is asked for and this worker has no bucket.
    """
    if mode == "url" and store is None:
        raise RequestError("delivery: 'url' needs a bucket and this worker has none; use 'inline' or 'auto', or set S3_BUCKET")


def deliver(
    data: bytes, fmt: str, job_id: str, store: Store | None, settings: Settings, *, mode: Mode = "auto", expires_s: int | None = None
) -> Delivered:
    """Upload the audio and sign a URL, or put it inline.

    Args:
        expires_s: Seconds that the URL works; None: the worker's setting.
    Raises:
        DeliveryError: neither way is open; the message says which sizes and settings matter.
    """
    fits = len(data) <= settings.max_inline_bytes
    if store is None or (mode == "inline" and fits):
        return Delivered(_inline(data, settings))
    try:
        key = object_key(settings.output_prefix, job_id, fmt, datetime.now(UTC))
        audio = _upload(store, key, data, CONTENT_TYPES[fmt], expires_s or settings.url_expires_s)
    except StoreError as error:
        log.warning("delivery outcome=store_failed bytes=%d inline=%s error=%r", len(data), fits, str(error))
        if not fits:
            raise DeliveryError(f"the upload failed ({error.code}) and {_too_large(data, settings)}; send the job again later") from error
        return Delivered(_inline(data, settings), ((error.code, "the upload failed, so the audio is delivered inline"),))
    if mode == "inline":
        return Delivered(audio, (("INLINE_TOO_LARGE", f"delivered by URL: {_too_large(data, settings)}"),))
    return Delivered(audio)


def object_key(prefix: str, job_id: str, fmt: str, now: datetime) -> str:
    """`<prefix><yyyy-mm-dd>/<job id>.<format>`, whatever characters the job id is made of."""
    name = _UNSAFE.sub("-", job_id)[:MAX_NAME_CHARS]
    if name != job_id or not name:  # two ids must not meet in one name
        name = f"{name}-{hashlib.sha256(job_id.encode(errors='surrogatepass')).hexdigest()[:12]}"
    return f"{prefix}{now:%Y-%m-%d}/{name}.{fmt}"


def _upload(store: Store, key: str, data: bytes, content_type: str, expires_s: int) -> dict[str, str]:
    store.put(key, data, content_type=content_type)  # may take long: the URL's time starts after it
    expires = datetime.now(UTC) + timedelta(seconds=expires_s)
    url = store.sign_get(key, expires_s=expires_s)
    return {"url": url, "expires_at": expires.isoformat(timespec="seconds").replace("+00:00", "Z")}


def _inline(data: bytes, settings: Settings) -> dict[str, str]:
    if len(data) > settings.max_inline_bytes:
        raise DeliveryError(f"{_too_large(data, settings)}; set S3_BUCKET so that it can be uploaded, or speak less text in one job")
    return {"base64": base64.b64encode(data).decode()}


def _too_large(data: bytes, settings: Settings) -> str:
    return f"the audio has {len(data)} bytes, at most {settings.max_inline_bytes} fit in a result (MAX_INLINE_BYTES)"
