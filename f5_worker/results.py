"""What an endpoint answered: the result or the error of a job, the files that belong to it, and whether its worker is new enough."""

from __future__ import annotations

import base64
import binascii
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from packaging.version import InvalidVersion, Version

from f5_worker import __version__
from f5_worker.endpoint import Endpoint, Status, run
from f5_worker.endpoint_errors import EndpointOutdated, EndpointUnreachable, JobFailed

MAX_FILE_BYTES = 1 << 30
_DOWNLOAD_TIMEOUT_S = 60.0
_DOWNLOAD_TRIES = 3
Result = dict[str, Any]


def result_of(status: Status) -> Result:
    """The output of a job that was COMPLETED.

    Raises:
        JobFailed: with the worker's own error, or what the platform did.
        EndpointOutdated: the output is none of this worker's.
    """
    state, output = status.get("status"), status.get("output")
    if state == "COMPLETED" and isinstance(output, dict):
        return output
    if state == "COMPLETED":
        raise EndpointOutdated(f"the endpoint answers {type(output).__name__} where an object was expected: it runs another program")
    if state == "TIMED_OUT":
        raise JobFailed("the platform ended the job: raise the endpoint's execution timeout", retryable=True)
    if state == "CANCELLED":
        raise JobFailed("the job was cancelled by somebody else")
    details = output.get("details", {}) if isinstance(output, dict) else {}
    raise JobFailed(str(status.get("error") or "the worker gave no reason"), retryable=details.get("retryable") is True)


def ask(endpoint: Endpoint, job_input: Mapping[str, Any]) -> Status:
    """One job's final status."""
    return next(status for _, status in run(endpoint, {"": job_input}))


def health(endpoint: Endpoint) -> tuple[Result, str]:
    """What the action `health` says, and the id of the worker that said it.

    Raises:
        EndpointOutdated: the worker is older than this client.
    """
    status = ask(endpoint, {"action": "health"})
    try:
        found = result_of(status)
    except JobFailed as exc:
        if "INVALID_REQUEST" in exc.message:
            raise EndpointOutdated(f"the worker does not know the action 'health': deploy the image of version {__version__}") from exc
        raise
    check_version(found)
    return found, str(status.get("workerId", ""))


def check_version(found: Mapping[str, Any]) -> None:
    """Raises EndpointOutdated when the worker that a health report is from is older than this client."""
    versions = found.get("versions")
    theirs = versions.get("worker") if isinstance(versions, dict) else None
    try:
        is_old = Version(str(theirs)) < Version(__version__)
    except InvalidVersion:
        is_old = True
    if is_old:
        raise EndpointOutdated(
            f"the endpoint's worker has version {theirs or 'unknown'}, this client {__version__}: deploy the image of {__version__}"
        )


def file_of(delivered: Mapping[str, str], *, sha256: str | None = None) -> bytes:
    """The bytes of a delivered file, `{"url"}` or `{"base64"}`.

    Raises:
        EndpointUnreachable: it cannot be downloaded, or arrives with another sha256.
    """
    for left in reversed(range(_DOWNLOAD_TRIES)):
        try:
            data = base64.b64decode(delivered["base64"], validate=True) if "base64" in delivered else _downloaded(delivered["url"])
            if sha256 in {None, hashlib.sha256(data).hexdigest()}:
                return data
            reason = "other bytes than the worker made"
        except (KeyError, TypeError) as exc:
            raise EndpointOutdated("the result has no audio: the endpoint runs another program or another version") from exc
        except binascii.Error:
            reason = "no base64"
        except urllib.error.HTTPError as exc:
            reason = f"the bucket answered {exc.code}"
        except (OSError, http.client.HTTPException, ValueError) as exc:
            reason = type(exc).__name__
        if left:
            time.sleep(0.5)
    raise EndpointUnreachable(f"the result could not be downloaded ({reason}): run the command again")


def _downloaded(url: str) -> bytes:
    if not url.startswith(("https://", "http://")):
        raise ValueError("not a URL")
    with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT_S) as response:  # noqa: S310 - checked above
        data: bytes = response.read(MAX_FILE_BYTES)
        return data
