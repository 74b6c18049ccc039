"""The presigned URLs of the restore are what boto3 itself would make, for every way of addressing a bucket."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest

from f5_worker.settings import S3Settings
from f5_worker.signing import presigned_get
from s3_utils import S3Store

KEYS = ["models/org--name/model.safetensors", "models/a b+ü%41#?&~.txt"]
PORTS = {"http": 80, "https": 443}
STYLES = {
    "AWS, virtual host": S3Settings("bucket-1", "key-id", "secret", region="eu-central-1", path_style=False),
    "B2, path": S3Settings("bucket-1", "key-id", "secret", "https://s3.us-west-004.backblazeb2.com", "us-west-004"),
    "B2, virtual host": S3Settings(
        "bucket-1", "key-id", "secret", "https://s3.us-west-004.backblazeb2.com", "us-west-004", path_style=False
    ),
    "loopback with a port": S3Settings("bucket-1", "key-id", "secret", "http://127.0.0.1:8333"),
    "a default port and a path": S3Settings("bucket-1", "key-id", "secret", "https://store.example:443/s3"),
    "AWS, virtual host, dots in the name": S3Settings("models.example.com", "key-id", "secret", region="eu-central-1", path_style=False),
    "session token": S3Settings("bucket-1", "key-id", "secret", "http://127.0.0.1:8333", session_token="to+ken/="),
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("style", STYLES)
def test_a_signed_url_is_boto3s(style: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: now)
    store = S3Store(STYLES[style])
    ours = urlsplit(presigned_get(STYLES[style], key, expires_s=60, now=now))
    boto3s = urlsplit(store._client.generate_presigned_url("get_object", Params={"Bucket": store.bucket, "Key": key}, ExpiresIn=60))
    assert (ours.scheme, ours.hostname, ours.port or PORTS[ours.scheme], ours.path) == (
        boto3s.scheme,
        boto3s.hostname,
        boto3s.port or PORTS[boto3s.scheme],
        boto3s.path,
    )
    assert sorted(parse_qsl(ours.query)) == sorted(parse_qsl(boto3s.query))
