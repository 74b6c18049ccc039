"""S3Store on a real server: the contract, what a key may not do, and what goes wrong between the two."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import boto3.exceptions
import botocore.exceptions
import botocore.parsers
import pytest

import s3_utils
from f5_worker.errors import StoreError, StoreForbidden, StoreMisplaced, StoreNoBucket, StoreNotFound, StoreUnavailable
from f5_worker.settings import S3Settings
from f5_worker.store import Store
from s3_utils import S3Store
from tests.fakes import fault_proxy as faults
from tests.fakes.fault_proxy import Fault, FaultProxy
from tests.fakes.seaweed import ACCESS_KEY, READER_KEY, READER_SECRET, SECRET_KEY, Seaweed
from tests.store_contract import StoreContract


@pytest.fixture(scope="module")
def bucket(store_server: Seaweed) -> str:
    """One for all: each bucket takes volumes of the server, which are few."""
    name = f"store-{uuid.uuid4().hex[:12]}"
    store_server.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def writer(store_server: Seaweed, bucket: str) -> Iterator[S3Settings]:
    """The settings of a key that may do everything in an empty bucket."""
    settings = S3Settings(bucket, ACCESS_KEY, SECRET_KEY, store_server.endpoint_url)
    yield settings
    direct = S3Store(settings)
    for info in list(direct.list("")):
        direct.delete(info.key)
    for upload in list(direct.pending_uploads("")):
        direct.abort_upload(upload)


class TestS3StoreOnARealServer(StoreContract):
    @pytest.fixture
    def store(self, writer: S3Settings) -> Store:
        return S3Store(writer)

    def test_a_head_tells_the_stores_clock(self, store: Store) -> None:
        store.put("k", b"x", content_type="text/plain")
        info = store.head("k")
        assert info is not None
        assert info.answered is not None
        assert abs((info.answered - info.modified).total_seconds()) < 60


CALLS: dict[str, Callable[[Store], object]] = {
    "head": lambda store: store.head("k"),
    "get": lambda store: store.get("k", max_bytes=10),
    "stream": lambda store: list(store.stream("k")),
    "put": lambda store: store.put("k", b"x", content_type="text/plain"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("k"),
    "pending_uploads": lambda store: list(store.pending_uploads("")),
}
WRITES = ("put", "delete")


@pytest.mark.parametrize("call", WRITES)
def test_a_key_that_only_reads_is_told_so(writer: S3Settings, call: str) -> None:
    reader = S3Store(replace(writer, access_key_id=READER_KEY, secret_access_key=READER_SECRET))
    with pytest.raises(StoreForbidden, match="AccessDenied"):
        CALLS[call](reader)


def test_a_key_that_only_reads_reads(writer: S3Settings) -> None:
    S3Store(writer).put("k", b"x", content_type="text/plain")
    reader = S3Store(replace(writer, access_key_id=READER_KEY, secret_access_key=READER_SECRET))
    assert (reader.get("k", max_bytes=1), [o.key for o in reader.list("")]) == (b"x", ["k"])


@pytest.mark.parametrize("call", ["get", "put", "list"])
def test_a_wrong_secret_is_told_so(writer: S3Settings, call: str) -> None:
    with pytest.raises(StoreForbidden, match="AWS_SECRET_ACCESS_KEY"):
        CALLS[call](S3Store(replace(writer, secret_access_key="another")))


def test_a_missing_bucket_is_told_so(writer: S3Settings) -> None:  # this server makes it when something is written
    with pytest.raises(StoreNoBucket):
        S3Store(replace(writer, bucket="no-such-bucket")).get("k", max_bytes=10)


@pytest.fixture
def proxy(store_server: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(s3_utils, "CONNECT_TIMEOUT_S", 0.3)
    with FaultProxy(upstream=store_server.endpoint_url.removeprefix("http://")) as running:
        yield running


@pytest.fixture
def store(proxy: FaultProxy, writer: S3Settings) -> S3Store:
    direct = S3Store(writer)
    direct.put("k", b"x" * 10, content_type="text/plain")
    return S3Store(replace(writer, endpoint_url=proxy.url), read_timeout_s=0.3, attempts=1)


PORTAL = b"<html><br>log in</html>"
NOT_XML = Fault("captive portal", after=lambda r: replace(r, body=iter([PORTAL])).with_headers(Content_Length=str(len(PORTAL))))
FAULTS: dict[str, tuple[Fault, type[StoreError]]] = {
    "403": (faults.status(403, code="AccessDenied"), StoreForbidden),
    "503": (faults.slow_down(), StoreUnavailable),
    "500": (faults.status(500, code="InternalError"), StoreUnavailable),
    "time-out": (faults.black_hole(), StoreUnavailable),
    "reset": (faults.reset(0), StoreUnavailable),
    "no bucket": (faults.status(404, code="NoSuchBucket"), StoreNoBucket),
    "wrong region": (faults.status(301, code="PermanentRedirect"), StoreMisplaced),
}


@pytest.mark.parametrize("call", ["get", "stream", "list", "pending_uploads"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_between_is_one_of_our_errors(store: S3Store, proxy: FaultProxy, call: str, fault: str) -> None:
    fails, expected = FAULTS[fault]
    proxy.fail(fails)
    with pytest.raises(expected) as caught:
        CALLS[call](store)
    assert not any(secret in str(caught.value) for secret in (SECRET_KEY, proxy.url, "Signature="))


@pytest.mark.parametrize("call", ["put", "delete", "head"])
@pytest.mark.parametrize("fault", ["403", "503", "500", "time-out"])
def test_what_goes_wrong_with_a_call_without_an_answer_body_is_one_of_our_errors(
    store: S3Store, proxy: FaultProxy, call: str, fault: str
) -> None:
    fails, expected = FAULTS[fault]
    proxy.fail(fails)
    with pytest.raises(expected):
        CALLS[call](store)


@pytest.mark.parametrize("call", ["get", "stream"])
@pytest.mark.parametrize("fault", [faults.truncated(3), faults.reset(3), faults.stall(3)])
def test_a_body_that_breaks_off_is_one_of_our_errors(store: S3Store, proxy: FaultProxy, call: str, fault: Fault) -> None:
    proxy.fail(fault)
    with pytest.raises(StoreUnavailable):
        CALLS[call](store)


@pytest.mark.parametrize("call", ["list", "pending_uploads"])
def test_an_answer_that_is_no_xml_is_one_of_our_errors(store: S3Store, proxy: FaultProxy, call: str) -> None:
    proxy.fail(NOT_XML)
    with pytest.raises(StoreUnavailable):
        CALLS[call](store)


def test_a_head_without_a_time_is_one_of_our_errors(store: S3Store, proxy: FaultProxy) -> None:
    proxy.fail(Fault("no time", after=lambda r: replace(r, headers=[h for h in r.headers if h[0].lower() != "last-modified"])))
    with pytest.raises(StoreUnavailable, match="LastModified"):
        store.head("k")


@pytest.mark.parametrize("call", CALLS)
def test_a_refused_endpoint_is_one_of_our_errors(proxy: FaultProxy, writer: S3Settings, call: str) -> None:
    with pytest.raises(StoreUnavailable):
        CALLS[call](S3Store(replace(writer, endpoint_url=faults.refused_url())))


def classes(module: object, *bases: type) -> list[type[Exception]]:
    return [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, bases)]


def raised(kind: type[Exception]) -> Exception:
    """An instance without the arguments that its message would need."""
    error = kind.__new__(kind)
    Exception.__init__(error, "x")
    return error


LIBRARY_ERRORS = [
    *classes(botocore.exceptions, botocore.exceptions.BotoCoreError),
    *classes(boto3.exceptions, boto3.exceptions.Boto3Error),
    botocore.parsers.ResponseParserError,
]


@pytest.mark.parametrize("kind", LIBRARY_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_library_is_translated(kind: type[Exception]) -> None:
    with pytest.raises(StoreUnavailable, match=kind.__name__), s3_utils._translated("GET k"):
        raise raised(kind)


def test_the_library_has_no_error_outside_these_families() -> None:
    """A new family in botocore or boto3 has to be looked at."""
    known = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, boto3.exceptions.Boto3Error, Warning)
    others = {c.__name__ for m in (botocore.exceptions, boto3.exceptions) for c in classes(m, Exception) if not issubclass(c, known)}
    assert others == {"MissingServiceIdError", "UndefinedModelAttributeError"}  # of service models and plug-ins, not of calls


ANSWERS = [
    (400, "ExpiredToken", StoreForbidden),
    (400, "AuthorizationHeaderMalformed", StoreMisplaced),
    (400, "BadDigest", StoreUnavailable),
    (401, "", StoreForbidden),
    (403, "403", StoreForbidden),
    (403, "AccessDenied", StoreForbidden),
    (403, "InvalidAccessKeyId", StoreForbidden),
    (403, "RequestTimeTooSkewed", StoreForbidden),
    (403, "SignatureDoesNotMatch", StoreForbidden),
    (301, "PermanentRedirect", StoreMisplaced),
    (404, "404", StoreNotFound),
    (404, "NoSuchBucket", StoreNoBucket),
    (404, "NoSuchKey", StoreNotFound),
    (412, "PreconditionFailed", StoreUnavailable),
    (429, "TooManyRequests", StoreUnavailable),
    (500, "InternalError", StoreUnavailable),
    (501, "NotImplemented", StoreUnavailable),
    (503, "SlowDown", StoreUnavailable),
    (200, "InternalError", StoreUnavailable),  # CompleteMultipartUpload fails like this
]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("status", "code", "expected"), ANSWERS)
def test_every_answer_of_a_store_is_translated(status: int, code: str, expected: type[StoreError], wrapped: bool) -> None:
    error: Exception = botocore.exceptions.ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"
    )
    if wrapped:  # as boto3 does it: the answer is the context only
        answer, error = error, boto3.exceptions.S3UploadFailedError("Failed to upload")
        error.__context__ = answer
    with pytest.raises(StoreError) as caught, s3_utils._translated("GET k"):
        raise error
    assert type(caught.value) is expected


@pytest.mark.parametrize("kind", classes(botocore.exceptions, botocore.exceptions.ClientError), ids=lambda kind: kind.__name__)
def test_every_kind_of_client_error_is_translated_even_when_it_is_empty(kind: type[botocore.exceptions.ClientError]) -> None:
    with pytest.raises(StoreError), s3_utils._translated("GET k"):
        raise kind({}, "GetObject")
