"""Presigned GET URLs by AWS Signature Version 4, on the standard library.

botocore signs the same (tests/unit/test_signing.py compares), but importing it takes 0.1 s at the start of every boot, and
the first byte of the weights waits for the signature.
Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from f5_worker.settings import S3Settings

_ALGORITHM = "AWS4-HMAC-SHA256"


def presigned_get(s3: S3Settings, key: str, *, expires_s: int, now: datetime | None = None) -> str:
    """A URL that reads the object without credentials, for GET with any Range, until expires_s after now."""
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{s3.region}/s3/aws4_request"
    scheme, host, path = _address(s3, key)
    query = {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{s3.access_key_id}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(expires_s),
        "X-Amz-SignedHeaders": "host",
    }
    if s3.session_token:
        query["X-Amz-Security-Token"] = s3.session_token
    canonical_query = "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(query.items()))
    request = f"GET\n{path}\n{canonical_query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signing_key = f"AWS4{s3.secret_access_key}".encode()
    for part in (stamp[:8], s3.region, "s3", "aws4_request"):
        signing_key = hmac.digest(signing_key, part.encode(), "sha256")
    signature = hmac.digest(signing_key, text.encode(), "sha256").hex()
    return f"{scheme}://{host}{path}?{canonical_query}&X-Amz-Signature={signature}"


def _address(s3: S3Settings, key: str) -> tuple[str, str, str]:
    """Scheme, host as the Host header names it, and encoded path of an object."""
    base = urlsplit(s3.endpoint_url or f"https://s3.{s3.region}.amazonaws.com")
    default_port = {"http": 80, "https": 443}[base.scheme]
    host = f"{base.hostname}" if base.port in {None, default_port} else f"{base.hostname}:{base.port}"
    if ":" in (base.hostname or ""):
        host = host.replace(str(base.hostname), f"[{base.hostname}]", 1)
    by_path = s3.path_style or (base.scheme == "https" and "." in s3.bucket)  # a wildcard certificate covers no dot; boto3 does the same
    path = quote(f"{base.path.rstrip('/')}/{s3.bucket}/{key}" if by_path else f"{base.path.rstrip('/')}/{key}", safe="/~")
    return base.scheme, host if by_path else f"{s3.bucket}.{host}", path
