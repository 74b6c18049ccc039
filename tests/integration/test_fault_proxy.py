"""The fault proxy is transparent for signed S3 requests of every kind, and each fault hits only what it names."""

from __future__ import annotations

import io
from collections.abc import Iterator

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.fakes.fault_proxy import FaultProxy, backblaze, slow_down
from tests.fakes.seaweed import ACCESS_KEY, SECRET_KEY, seaweed
from tests.files import random_bytes

BUCKET = "proxied"
KEY = "models/a b+c%é/weights.bin"
DATA = random_bytes(7_000_000, seed=4)


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with seaweed() as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server.endpoint_url.partition("://")[2]


@pytest.fixture
def proxy(upstream: str) -> Iterator[FaultProxy]:
    with FaultProxy(upstream) as running:
        yield running


def client(proxy: FaultProxy, checksums: str = "when_required"):
    return boto3.client(
        "s3", endpoint_url=proxy.url, region_name="us-east-1", aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1},
                      request_checksum_calculation=checksums, response_checksum_validation=checksums),
    )  # fmt: skip


@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
def test_signed_requests_pass_unchanged(proxy: FaultProxy, checksums: str) -> None:
    s3 = client(proxy, checksums)
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=DATA[:1000])
    assert s3.get_object(Bucket=BUCKET, Key=KEY)["Body"].read() == DATA[:1000]
    assert s3.head_object(Bucket=BUCKET, Key=KEY)["ContentLength"] == 1000
    s3.upload_fileobj(io.BytesIO(DATA), BUCKET, "parts", Config=TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
    assert s3.get_object(Bucket=BUCKET, Key="parts", Range="bytes=5-9")["Body"].read() == DATA[5:10]
    assert {o["Key"] for o in s3.list_objects_v2(Bucket=BUCKET)["Contents"]} == {KEY, "parts"}
    s3.delete_object(Bucket=BUCKET, Key="parts")
    assert {r.status for r in proxy.log} <= {200, 204, 206}


def test_an_error_of_the_store_passes(proxy: FaultProxy) -> None:
    with pytest.raises(ClientError) as caught:
        client(proxy).get_object(Bucket=BUCKET, Key="none")
    assert caught.value.response["Error"]["Code"] == "NoSuchKey"


def test_a_fault_hits_its_method_and_path_so_often_and_is_logged(proxy: FaultProxy) -> None:
    s3 = client(proxy)
    s3.put_object(Bucket=BUCKET, Key="x/hit", Body=b"1")
    s3.put_object(Bucket=BUCKET, Key="x/spared", Body=b"2")
    proxy.fail(slow_down(), path="*/hit", methods=("GET",), times=1)
    assert s3.get_object(Bucket=BUCKET, Key="x/spared")["Body"].read() == b"2"
    assert s3.head_object(Bucket=BUCKET, Key="x/hit")["ContentLength"] == 1
    with pytest.raises(ClientError, match="SlowDown"):
        s3.get_object(Bucket=BUCKET, Key="x/hit")
    assert s3.get_object(Bucket=BUCKET, Key="x/hit")["Body"].read() == b"1"
    assert [(r.method, r.status) for r in proxy.log if r.path.endswith("hit")] == [("PUT", 200), ("HEAD", 200), ("GET", 503), ("GET", 200)]


def test_the_backblaze_fault_refuses_checksums_and_conditions_only(proxy: FaultProxy) -> None:
    proxy.fail(backblaze())
    client(proxy).put_object(Bucket=BUCKET, Key="plain", Body=b"1")
    for refused in ({"IfNoneMatch": "*"}, {"ChecksumAlgorithm": "SHA256"}):
        with pytest.raises(ClientError, match="NotImplemented"):
            client(proxy).put_object(Bucket=BUCKET, Key="plain", Body=b"1", **refused)
