"""What the worker needs of an object store. `s3_utils.S3Store` is the real one; the tests' fakes pass the same contract tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from f5_worker.errors import StoreError, StoreForbidden, StoreMisplaced, StoreNoBucket, StoreNotFound, StoreUnavailable

# S3 error codes by what the user has to do about them; everything else goes by its HTTP status.
_FORBIDDEN_HINTS = {
    "InvalidAccessKeyId": "the key id is unknown to this endpoint; check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "key id and secret do not belong together; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
    "RequestTimeTooSkewed": "this machine's clock is off by more than 15 minutes",
    "ExpiredToken": "the credentials have expired; make new ones",
    "InvalidToken": "AWS_SESSION_TOKEN is not valid",
    "TokenRefreshRequired": "AWS_SESSION_TOKEN must be renewed",
    "AuthorizationQueryParametersError": "the signature was not understood; check AWS_REGION",
}
# What a call needs, by the word that its message begins with.
PERMISSIONS = {
    "HEAD": "s3:GetObject (B2: readFiles)",
    "GET": "s3:GetObject (B2: readFiles)",
    "PUT": "s3:PutObject (B2: writeFiles)",
    "upload": "s3:PutObject (B2: writeFiles)",
    "LIST": "s3:ListBucket (B2: listFiles)",
    "DELETE": "s3:DeleteObject (B2: deleteFiles)",
}
_MISPLACED = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


@dataclass(frozen=True)
class ObjectInfo:
    """One object as the store reports it."""

    key: str
    size_bytes: int
    modified: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)  # empty in listings
    answered: datetime | None = None  # the store's clock when it answered a HEAD; None: not told


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    upload_id: str
    started: datetime


@dataclass(frozen=True)
class LifecycleRule:
    """What a bucket does by itself with all objects under a prefix."""

    prefix: str
    ends_old_versions: bool
    aborts_uploads: bool


class Store(Protocol):
    """Every method raises only `errors.StoreError` subclasses; keys are full keys in the bucket."""

    def head(self, key: str) -> ObjectInfo | None:
        """Size and metadata of one object, None when there is none."""

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """The whole object. Raises StoreNotFound, StoreCorrupt when it is longer than max_bytes."""

    def stream(self, key: str) -> Iterator[bytes]:
        """The object in pieces. Raises StoreNotFound."""

    def put(
        self, key: str, data: bytes, *, content_type: str, metadata: Mapping[str, str] | None = None, filename: str | None = None
    ) -> None:
        """Write one small object in one request.

        Args:
            filename: What a browser saves it as; only letters, digits, "-", "_" and ".".
        """

    def upload(self, key: str, path: Path, *, content_type: str, metadata: Mapping[str, str], on_bytes: Callable[[int], None]) -> None:
        """Write one file, in parts when it is large. An exception out of on_bytes(sent) aborts the upload and is raised."""

    def sign_get(self, key: str, *, expires_s: int) -> str:
        """A URL that reads the object without credentials, for GET with any Range. No request is made."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object under a prefix."""

    def delete(self, key: str) -> None:
        """Remove one object; a missing one is no error."""

    def pending_uploads(self, prefix: str) -> Iterator[Upload]:
        """Multipart uploads under a prefix that nobody finished."""

    def abort_upload(self, upload: Upload) -> None:
        """Drop the parts of an unfinished upload."""


def answer_error(what: str, status: int, code: str) -> StoreError:
    """The StoreError for an HTTP status and an S3 error code (empty when the answer had none)."""
    if code == "NoSuchBucket":
        return StoreNoBucket(f"{what}: the bucket does not exist at this endpoint; check S3_BUCKET and AWS_ENDPOINT_URL")
    if code in _MISPLACED or status in {301, 302, 303, 307, 308}:
        return StoreMisplaced(
            f"{what}: the bucket lies in another region ({code or status}); set AWS_REGION and AWS_ENDPOINT_URL to its own"
        )
    if status in {401, 403} or code in _FORBIDDEN_HINTS:
        return StoreForbidden(f"{what}: {code or status}: {_FORBIDDEN_HINTS.get(code) or _lacking(what)}")
    if status == 404 and not code:  # botocore gives the answer to a HEAD, which has no body, the code "404"
        return StoreMisplaced(f"{what}: 404 without an S3 error code: AWS_ENDPOINT_URL does not point at an S3 endpoint")
    if status == 404:
        return StoreNotFound(f"{what}: no such object")
    return StoreUnavailable(f"{what}: the store answered {status} {code}".rstrip())


def _lacking(what: str) -> str:
    """What a refused call says about the key."""
    call = what.partition(" ")[0]
    or_missing = ", or the object is missing and the key may not list" if call in {"GET", "HEAD"} else ""
    or_missing += ", or its secret is wrong, which this call does not tell: try the doctor" if call == "HEAD" else ""
    return f"the key lacks {PERMISSIONS.get(call, 'the permission for this call')}{or_missing}"
