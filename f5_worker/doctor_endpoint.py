"""The way to the bucket: name, connection, certificate, protocol, clock, credentials.

One signed GET of a key that does not exist, taken apart step by step. A store that can be used answers it with an S3 error
code for the missing key; every other answer, or none, says what is wrong.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from f5_worker.finding import Finding, failed, skipped, warning
from f5_worker.http_range import Target, tls_context
from f5_worker.settings import S3Settings
from f5_worker.signing import presigned_get

CONNECT_TIMEOUT_S = 3.0  # as long as a boot waits
ANSWER_TIMEOUT_S = 10.0
SKEW_REFUSED_S = 900.0  # stores refuse a signature that is older or younger
SKEW_WARNED_S = 60.0
_BODY_BYTES = 65_536
_URL_EXPIRES_S = 3600

REMEDIES = {
    "endpoint_name": "the host name does not resolve: correct AWS_ENDPOINT_URL, or this machine's DNS",
    "endpoint_refused": "nothing listens there: correct host and port in AWS_ENDPOINT_URL",
    "endpoint_silent": "packets are dropped or the store hangs: open the firewall for this port, or correct AWS_ENDPOINT_URL",
    "endpoint_unreachable": "this machine has no way there: check its network, then AWS_ENDPOINT_URL",
    "endpoint_broken": "the connection breaks: check AWS_ENDPOINT_URL (https:// or http://, port) and any proxy between",
    "endpoint_certificate": "set AWS_CA_BUNDLE to the file of the authority that signed it, or AWS_ENDPOINT_URL to the name that it was "
    "made for; a bucket with dots in its name needs S3_ADDRESSING_STYLE=path",
    "endpoint_tls": "the port does not speak TLS: write http:// in AWS_ENDPOINT_URL, or its https port",
    "endpoint_failing": "the store has a fault of its own: look at its status page and try again",
    "not_s3": "AWS_ENDPOINT_URL points at something else than an S3 endpoint (Backblaze B2: https://s3.<region>.backblazeb2.com)",
    "no_bucket": "correct S3_BUCKET, make the bucket, or set AWS_ENDPOINT_URL to the endpoint where it lies",
    "unknown_key_id": "correct AWS_ACCESS_KEY_ID, or AWS_ENDPOINT_URL: a key belongs to one store and region. "
    "Backblaze B2: make an application key, its master key does not work with S3",
    "wrong_secret": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY do not belong together: set both from one key, without quotes or blanks",
    "session_token": "make new temporary credentials, or unset AWS_SESSION_TOKEN and use a key that lasts",
    "credentials_refused": "make a new key for this bucket and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to it",
    "clock_skew": "set this machine's clock (NTP): the store refuses signatures that are more than 15 minutes off",
}
_FAULT_OF_CODE = {
    "NoSuchBucket": "no_bucket",
    "InvalidBucketName": "no_bucket",
    "InvalidAccessKeyId": "unknown_key_id",
    "Unauthorized": "unknown_key_id",
    "SignatureDoesNotMatch": "wrong_secret",
    "ExpiredToken": "session_token",
    "InvalidToken": "session_token",
    "TokenRefreshRequired": "session_token",
    "RequestTimeTooSkewed": "clock_skew",
}
_REGION_CODES = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "AuthorizationQueryParametersError",
    "IllegalLocationConstraintException",
}


class Unreachable(Exception):
    """No answer came. `fault` is one of REMEDIES."""

    def __init__(self, fault: str, seen: str) -> None:
        super().__init__(seen)
        self.fault = fault
        self.seen = seen


@dataclass(frozen=True)
class Answer:
    """The answer to one request. `code` is the S3 error code, empty where there was none."""

    status: int
    headers: Mapping[str, str]  # by lower-case name
    code: str
    region: str  # of the bucket, where the answer tells it
    seconds: float


def ask(url: str, ca_file: Path | None, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    """One request on a connection of its own; redirects are answers.

    Raises:
        Unreachable: with the step at which it failed; its text has the host and never the URL.
    """
    started = time.monotonic()
    try:
        target = Target.parse(url)
    except ValueError as exc:  # a port that is no number
        raise Unreachable("endpoint_name", "the address is no URL: https://host[:port]") from exc
    where = f"{target.host}:{target.port}"
    with _connected(target, where) as plain, _secured(plain, target, ca_file, where) as sock:
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.sock = sock
        try:
            connection.request(method, target.path, headers={"Host": target.authority, **(headers or {})})
            response = connection.getresponse()
            body = response.read(_BODY_BYTES)
        except TimeoutError as exc:
            raise Unreachable("endpoint_silent", f"{where} takes the request and does not answer within {ANSWER_TIMEOUT_S:g} s") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise Unreachable("endpoint_broken", f"{where} breaks the request off ({type(exc).__name__})") from exc
        except ValueError:  # its text has the header
            raise Unreachable("endpoint_broken", f"{where} cannot be asked: a header has characters that none may have") from None
        told = {name.lower(): value for name, value in response.headers.items()}
    region = told.get("x-amz-bucket-region") or _tag(b"Region", body)
    return Answer(response.status, told, _tag(b"Code", body), region, time.monotonic() - started)


def _connected(target: Target, where: str) -> socket.socket:
    try:
        return socket.create_connection((target.host, target.port), CONNECT_TIMEOUT_S)
    except (socket.gaierror, UnicodeError) as exc:
        raise Unreachable("endpoint_name", f"the name {target.host} has no address") from exc
    except TimeoutError as exc:
        raise Unreachable("endpoint_silent", f"{where} lets nobody connect within {CONNECT_TIMEOUT_S:g} s") from exc
    except ConnectionRefusedError as exc:
        raise Unreachable("endpoint_refused", f"{where} refuses connections") from exc
    except OSError as exc:
        raise Unreachable("endpoint_unreachable", f"{where}: {(exc.strerror or type(exc).__name__).lower()}") from exc


def _secured(sock: socket.socket, target: Target, ca_file: Path | None, where: str) -> socket.socket:
    sock.settimeout(ANSWER_TIMEOUT_S)
    if not target.tls:
        return sock
    try:
        return tls_context(ca_file).wrap_socket(sock, server_hostname=target.host)
    except ssl.SSLCertVerificationError as exc:
        raise Unreachable("endpoint_certificate", f"the certificate of {where} is not trusted: {exc.verify_message}") from exc
    except TimeoutError as exc:
        raise Unreachable("endpoint_silent", f"{where} connects and says nothing") from exc
    except ssl.SSLError as exc:
        raise Unreachable("endpoint_tls", f"{where}: {exc.reason or 'TLS failed'}") from exc
    except OSError as exc:
        raise Unreachable("endpoint_broken", f"{where} breaks the TLS handshake off") from exc


def _tag(name: bytes, body: bytes) -> str:
    match = re.search(rb"<%b>([A-Za-z0-9._-]{1,64})</%b>" % (name, name), body)
    return match[1].decode() if match else ""


def examine(s3: S3Settings, ca_file: Path | None, *, absent_key: str) -> list[Finding]:
    """The findings `endpoint`, `clock` and `credentials`; none of them failed: the bucket answers to this key.

    Args:
        absent_key: A key that no object has.
    """
    try:
        answer = ask(presigned_get(s3, absent_key, expires_s=_URL_EXPIRES_S), ca_file)
    except Unreachable as exc:
        return [failed("endpoint", exc.fault, exc.seen, REMEDIES[exc.fault])]
    host = Target.parse(s3.endpoint_url or f"https://s3.{s3.region}.amazonaws.com").host
    if not answer.code:
        kind = "endpoint_failing" if answer.status >= 500 else "not_s3"
        return [failed("endpoint", kind, f"{host} answers {answer.status} without an S3 error code", REMEDIES[kind])]
    reached = Finding("endpoint", f"{host} answers in {answer.seconds * 1000:.0f} ms, region {s3.region}")
    clock = _clock(answer)
    return [reached, clock] if clock.state == "failed" else [reached, clock, _credentials(answer, s3)]


def _clock(answer: Answer) -> Finding:
    try:
        told = parsedate_to_datetime(answer.headers["date"]).replace(tzinfo=UTC)  # HTTP dates are GMT
    except (KeyError, ValueError):
        return skipped("clock", "the store does not tell its time")
    skew_s = (datetime.now(UTC) - told).total_seconds()
    seen = f"this machine is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the store"
    if abs(skew_s) > SKEW_REFUSED_S:
        return failed("clock", "clock_skew", seen, REMEDIES["clock_skew"])
    if abs(skew_s) > SKEW_WARNED_S:
        return warning("clock", "clock_skew", seen, REMEDIES["clock_skew"])
    return Finding("clock", seen, values={"skew_s": round(skew_s, 1)})


def _credentials(answer: Answer, s3: S3Settings) -> Finding:
    said = f"the store answers {answer.status} {answer.code}"
    if answer.code in _REGION_CODES:
        known = f"AWS_REGION={answer.region}" if answer.region else "AWS_REGION"
        seen = f"{said}: the bucket does not lie in {s3.region}"
        return failed("credentials", "wrong_region", seen, f"set {known} and AWS_ENDPOINT_URL to the bucket's own region")
    if answer.code in {"NoSuchKey", "AccessDenied"}:  # of a missing key, and to a key that may not list
        return Finding("credentials", "the store accepts the signature")
    default = "endpoint_failing" if answer.status >= 500 or answer.status == 429 else "credentials_refused"
    fault = _FAULT_OF_CODE.get(answer.code, default)
    check = {"clock_skew": "clock", "endpoint_failing": "endpoint", "no_bucket": "bucket"}.get(fault, "credentials")
    return failed(check, fault, said, REMEDIES[fault])
