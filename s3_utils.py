"""The bucket: every boto3 call of the worker and the translation of its errors into `f5_worker.errors`; nothing else.

Portable between AWS S3, Backblaze B2, Cloudflare R2, MinIO and SeaweedFS: no conditional writes, no checksum headers that
B2 and R2 refuse, path-style addresses for custom endpoints, time-outs of seconds instead of boto3's minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from f5_worker.errors import StoreCorrupt, StoreError, StoreMisplaced, StoreNotFound, StoreUnavailable
from f5_worker.settings import S3Settings
from f5_worker.signing import presigned_get
from f5_worker.store import LifecycleRule, ObjectInfo, Upload, answer_error

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CONNECT_TIMEOUT_S = 3  # boto3's default of 60 s would bill minutes for a dead endpoint
READ_TIMEOUT_S = 10
ATTEMPTS = 3
PART_BYTES = 16 * 1024 * 1024  # 10,000 parts of it are 160 GB; R2 wants equal parts
STREAM_BYTES = 1024 * 1024
UPLOAD_CONNECTIONS = 2  # serving goes first: a cache fill is in no hurry


class S3Store:
    """`f5_worker.store.Store` over boto3. Thread-safe; no request is made before the first call."""

    def __init__(self, settings: S3Settings, *, read_timeout_s: float = READ_TIMEOUT_S, attempts: int = ATTEMPTS) -> None:
        """Args:
        read_timeout_s: Longest silence of the store within one attempt.
        """
        self._settings, self._read_timeout_s, self._attempts = settings, read_timeout_s, attempts

    def opened(self) -> Self:
        """This store with its client made, which tells whether its endpoint can be used.

        Raises:
            StoreMisplaced: it cannot.
        """
        with _translated("open"):
            _ = self._client
        return self

    @property
    def bucket(self) -> str:
        return self._settings.bucket

    @cached_property
    def _client(self) -> Any:
        import boto3  # noqa: PLC0415 - 0.2 s that a boot from the bucket does not pay: it only signs
        from botocore.config import Config  # noqa: PLC0415

        s = self._settings
        config = Config(
            region_name=s.region,
            signature_version="s3v4",
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=self._read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": self._attempts},
            max_pool_connections=16,
            s3={"addressing_style": "path" if s.path_style else "virtual"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        # Made once, also from several threads: cached_property of Python 3.11 holds a lock.
        try:
            client = boto3.session.Session().client(
                "s3",
                endpoint_url=s.endpoint_url,
                aws_access_key_id=s.access_key_id,
                aws_secret_access_key=s.secret_access_key,
                aws_session_token=s.session_token,
                config=config,
            )
        except ValueError:  # the endpoint is none for botocore, whose text holds the address
            raise StoreMisplaced("the endpoint's address cannot be used; check AWS_ENDPOINT_URL") from None
        client.meta.events.register_last("before-parameter-build.s3", _forbid_redirect)
        return client

    def head(self, key: str) -> ObjectInfo | None:
        try:
            with _translated(f"HEAD {key}"):
                r = self._client.head_object(Bucket=self.bucket, Key=key)
        except StoreNotFound:
            return None
        try:
            return ObjectInfo(key, r["ContentLength"], r["LastModified"], r.get("Metadata", {}), _answered(r))
        except KeyError as exc:  # a login page of the network answers like this
            raise StoreUnavailable(f"HEAD {key}: the answer lacks {exc}; check AWS_ENDPOINT_URL and the network") from exc

    def get(self, key: str, *, max_bytes: int) -> bytes:
        data = bytearray()
        for piece in self.stream(key):  # to its end: a single read(n) does not notice that the body broke off
            data += piece
            if len(data) > max_bytes:
                raise StoreCorrupt(f"{key} is longer than the {max_bytes} bytes that are read of it")
        return bytes(data)

    def stream(self, key: str) -> Iterator[bytes]:
        with _translated(f"GET {key}"), closing(self._client.get_object(Bucket=self.bucket, Key=key)["Body"]) as body:
            yield from body.iter_chunks(STREAM_BYTES)

    def put(
        self, key: str, data: bytes, *, content_type: str, metadata: Mapping[str, str] | None = None, filename: str | None = None
    ) -> None:
        named = {"ContentDisposition": f'inline; filename="{filename}"'} if filename else {}
        with _translated(f"PUT {key}"):
            self._client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentType=content_type, Metadata=dict(metadata or {}), **named
            )

    def upload(self, key: str, path: Path, *, content_type: str, metadata: Mapping[str, str], on_bytes: Callable[[int], None]) -> None:
        from boto3.s3.transfer import TransferConfig  # noqa: PLC0415

        config = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=UPLOAD_CONNECTIONS)
        extra = {"ContentType": content_type, "Metadata": dict(metadata)}
        # upload_fileobj, not upload_file: that one leaves the file open when the callback raises.
        with _translated(f"upload {key}"), path.open("rb") as handle:
            self._client.upload_fileobj(handle, self.bucket, key, ExtraArgs=extra, Callback=on_bytes, Config=config)

    def sign_get(self, key: str, *, expires_s: int) -> str:
        return presigned_get(self._settings, key, expires_s=expires_s)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with _translated(f"LIST {prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for o in page.get("Contents", ()):
                    yield ObjectInfo(o["Key"], o["Size"], o["LastModified"])

    def delete(self, key: str) -> None:
        with _translated(f"DELETE {key}"):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def pending_uploads(self, prefix: str) -> Iterator[Upload]:
        with _translated(f"LIST uploads {prefix}"):
            for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix):
                for u in page.get("Uploads", ()):
                    yield Upload(u["Key"], u["UploadId"], u["Initiated"])

    def abort_upload(self, upload: Upload) -> None:
        with _translated(f"ABORT {upload.key}"):
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=upload.key, UploadId=upload.upload_id)

    def is_versioned(self) -> bool:
        """Whether the bucket keeps, and bills, what is overwritten or deleted."""
        with _translated("GET versioning"):
            return bool(self._client.get_bucket_versioning(Bucket=self.bucket).get("Status") == "Enabled")

    def lifecycle(self) -> Sequence[LifecycleRule]:
        """The enabled rules that hold for whole prefixes."""
        try:
            with _translated("GET lifecycle"):
                rules = self._client.get_bucket_lifecycle_configuration(Bucket=self.bucket)["Rules"]
        except StoreNotFound:  # NoSuchLifecycleConfiguration
            return []
        return [_lifecycle_rule(r) for r in rules if r.get("Status") == "Enabled" and set(r.get("Filter", ())) <= {"Prefix"}]


def _lifecycle_rule(rule: Mapping[str, Any]) -> LifecycleRule:
    prefix = rule.get("Filter", rule).get("Prefix", "")  # a rule without Filter is of the older form
    return LifecycleRule(prefix, "NoncurrentVersionExpiration" in rule, "AbortIncompleteMultipartUpload" in rule)


def _forbid_redirect(context: dict[str, Any], **_: object) -> None:
    """Let a redirect be an error. botocore asks the bucket for its region by a HEAD, and for the HEAD's redirect again, without end."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _answered(response: Mapping[str, Any]) -> datetime | None:
    """The store's clock, from its answer's Date."""
    try:
        return parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"]).replace(tzinfo=UTC)  # HTTP dates are GMT
    except (KeyError, ValueError):
        return None


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn every botocore and s3transfer error into a StoreError; `what` names the call, never a host or a secret."""
    from boto3.exceptions import Boto3Error  # noqa: PLC0415 - only calls that already loaded boto3 come here
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    try:
        yield
    except ClientError as exc:
        raise _store_error(what, exc) from exc
    except Boto3Error as exc:  # S3UploadFailedError holds the answer only as its context
        if isinstance(exc.__context__, ClientError):
            raise _store_error(what, exc.__context__) from exc
        raise StoreUnavailable(f"{what}: {type(exc).__name__}; check AWS_ENDPOINT_URL and the network") from exc
    except (BotoCoreError, ResponseParserError) as exc:
        raise StoreUnavailable(f"{what}: {type(exc).__name__}; check AWS_ENDPOINT_URL and the network") from exc


def _store_error(what: str, exc: ClientError) -> StoreError:
    """The StoreError for an answer of the store."""
    code = str(exc.response.get("Error", {}).get("Code", ""))
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return answer_error(what, status, code)
