"""Every error of the worker, each with a stable code.

A docstring says what the error means and then what to do; docs/errors.md is written from them (f5_worker/docs.py).

    WorkerError
    ├── SettingsError            SETTINGS_INVALID
    ├── StoreError
    │   ├── StoreNotFound        STORE_NOT_FOUND
    │   ├── StoreNoBucket        STORE_NO_BUCKET
    │   ├── StoreMisplaced       STORE_WRONG_REGION
    │   ├── StoreForbidden       STORE_FORBIDDEN
    │   ├── StoreUnavailable     STORE_UNAVAILABLE
    │   └── StoreCorrupt         STORE_CORRUPT
    ├── GpuUnavailable           GPU_UNAVAILABLE
    ├── CacheError
    │   ├── DiskFull             DISK_FULL
    │   ├── HubUnavailable       HUB_UNAVAILABLE
    │   └── WeightsUnavailable   WEIGHTS_UNAVAILABLE
    ├── RequestError             INVALID_REQUEST
    │   ├── TextEmpty            TEXT_EMPTY
    │   ├── TextTooLong          TEXT_TOO_LONG
    │   ├── ReferenceInvalid     REFERENCE_INVALID
    │   ├── VoiceNotFound        VOICE_NOT_FOUND
    │   ├── VoiceExists          VOICE_EXISTS
    │   ├── FetchRefused         URL_REFUSED
    │   ├── FetchFailed          URL_FAILED
    │   ├── OutputNotFound       OUTPUT_NOT_FOUND
    │   └── IdempotencyConflict  IDEMPOTENCY_CONFLICT
    ├── DeliveryError            DELIVERY_FAILED
    │   └── ResultTooLarge       RESULT_TOO_LARGE
    ├── EngineError              ENGINE_FAILED
    │   └── OutOfMemory          OUT_OF_MEMORY
    ├── TranscriberUnavailable   TRANSCRIBER_UNAVAILABLE
    │   └── TranscriberMissing   TRANSCRIBER_MISSING
    ├── Cancelled                CANCELLED
    ├── InternalError            INTERNAL
    └── EndpointError            ENDPOINT_FAILED, of the operator commands
        ├── EndpointUnauthorized ENDPOINT_UNAUTHORIZED
        ├── EndpointNotFound     ENDPOINT_NOT_FOUND
        ├── EndpointUnhealthy    ENDPOINT_UNHEALTHY
        ├── EndpointOutdated     ENDPOINT_OUTDATED
        ├── EndpointUnreachable  ENDPOINT_UNREACHABLE
        └── JobFailed            JOB_FAILED

`retryable` says whether the same job can succeed later without a change by the caller.
"""

from __future__ import annotations

from typing import ClassVar


class WorkerError(Exception):
    """Base of every error that the worker raises on purpose. `str()` is safe to show to a client."""

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"{self.code}: {self.args[0] if self.args else type(self).__name__}"

    @property
    def message(self) -> str:
        """The text without its code."""
        return str(self.args[0]) if self.args else type(self).__name__


class SettingsError(WorkerError):
    """The environment is wrong; the message names every bad variable.

    Set the named variables as the message says; the worker ends with exit code 2 until then.
    """

    code = "SETTINGS_INVALID"


class StoreError(WorkerError):
    """The S3-compatible bucket failed.

    As for the codes below.
    """

    code = "STORE_UNAVAILABLE"


class StoreNotFound(StoreError):
    """There is no such object in the bucket.

    Check the key and the prefixes; for a result: it was deleted, or another bucket holds it.
    """

    code = "STORE_NOT_FOUND"


class StoreNoBucket(StoreError):
    """The bucket does not exist.

    Check S3_BUCKET and AWS_ENDPOINT_URL, or make the bucket.
    """

    code = "STORE_NO_BUCKET"


class StoreMisplaced(StoreError):
    """The bucket answers at another region or endpoint.

    Set AWS_REGION and AWS_ENDPOINT_URL to the bucket's own.
    """

    code = "STORE_WRONG_REGION"


class StoreForbidden(StoreError):
    """The bucket refuses the credentials: a missing permission, a wrong or expired key, or a clock that is off.

    Give the key the rights to list, read, write and delete, or make a new one; `python -m f5_worker doctor` tells which is missing.
    """

    code = "STORE_FORBIDDEN"


class StoreUnavailable(StoreError):
    """The bucket could not be reached, timed out, or failed after all retries.

    Send the job again; when it stays, check AWS_ENDPOINT_URL and the store's own status.
    """

    code = "STORE_UNAVAILABLE"
    retryable = True


class StoreCorrupt(StoreError):
    """An object in the bucket is not what it must be.

    The worker heals weights by itself; create a voice again with `overwrite`.
    """

    code = "STORE_CORRUPT"


class GpuUnavailable(WorkerError):
    """A GPU is expected and CUDA does not work on it.

    The platform starts another worker; when it stays, allow only the CUDA versions of the image.
    """

    code = "GPU_UNAVAILABLE"


class CacheError(WorkerError):
    """The local cache of the weights cannot be used.

    Check MODEL_CACHE_DIR: it must be writable and have room.
    """

    code = "CACHE_FAILED"


class DiskFull(CacheError):
    """No directory for the cache has room.

    Give the container a larger disk, or set MODEL_CACHE_DIR to one with room.
    """

    code = "DISK_FULL"


class HubUnavailable(CacheError):
    """The Hugging Face hub could not be used.

    It is asked again at the next start; a filled bucket makes the worker independent of it.
    """

    code = "HUB_UNAVAILABLE"
    retryable = True


class WeightsUnavailable(CacheError):
    """No source had the files of the model.

    Check the bucket and that the hub can be reached; `python -m f5_worker cache push` fills the bucket from any machine.
    """

    code = "WEIGHTS_UNAVAILABLE"
    retryable = True


class RequestError(WorkerError):
    """The request is wrong; the message names every problem.

    Change the named fields; docs/job-api.md and docs/job-schema.json say what is possible.
    """

    code = "INVALID_REQUEST"


class TextEmpty(RequestError):
    """There is nothing to speak.

    Send `input` with at least one word that the model's languages have.
    """

    code = "TEXT_EMPTY"


class TextTooLong(RequestError):
    """There is more text than fits in one job.

    Send several jobs of at most 50,000 characters each.
    """

    code = "TEXT_TOO_LONG"


class ReferenceInvalid(RequestError):
    """The recording cannot be cloned from, or the text cannot be what is spoken in it.

    Send 3 to 12 s of clear speech of one person and exactly its words; the message says what was wrong.
    """

    code = "REFERENCE_INVALID"


class VoiceNotFound(RequestError):
    """There is no voice of that name.

    Use one that `voices.list` shows, create it, or send `ref_audio`.
    """

    code = "VOICE_NOT_FOUND"


class VoiceExists(RequestError):
    """The id of the voice is taken.

    Choose another, or send `overwrite: true`.
    """

    code = "VOICE_EXISTS"


class FetchRefused(RequestError):
    """The URL may not be used, or what it points to cannot be.

    Send an `https` URL on a public address that needs no password, or the audio itself as `base64`.
    """

    code = "URL_REFUSED"


class FetchFailed(RequestError):
    """The URL's server could not be reached, was too slow or failed.

    Send the job again, or the audio itself as `base64`.
    """

    code = "URL_FAILED"
    retryable = True


class OutputNotFound(RequestError):
    """The job has left no files in the bucket.

    Check the id; results that travelled inline, were deleted or lie in another bucket are not found.
    """

    code = "OUTPUT_NOT_FOUND"


class IdempotencyConflict(RequestError):
    """The `idempotency_key` was used for another request.

    Choose a new key, or send that request unchanged.
    """

    code = "IDEMPOTENCY_CONFLICT"


class DeliveryError(WorkerError):
    """The result could not be handed over: the upload failed and it is too large to travel inline.

    Send the job again; speak less text in one job when it stays.
    """

    code = "DELIVERY_FAILED"
    retryable = True


class ResultTooLarge(DeliveryError):
    """The result is too large to travel inline, and there is no bucket.

    Set S3_BUCKET, or speak less text in one job.
    """

    code = "RESULT_TOO_LARGE"
    retryable = False


class EngineError(WorkerError):
    """The model failed on this request.

    Change the text, the voice or the seed; the worker's log has the cause under the job's id.
    """

    code = "ENGINE_FAILED"


class OutOfMemory(EngineError):
    """The GPU or the machine ran out of memory. The worker is replaced.

    Send the job again with less text or a shorter reference, or use a larger GPU.
    """

    code = "OUT_OF_MEMORY"
    retryable = True


class TranscriberUnavailable(WorkerError):
    """The weights of speech recognition cannot be had.

    Send `ref_text` with at most 12 s of audio, or send the job again.
    """

    code = "TRANSCRIBER_UNAVAILABLE"
    retryable = True


class TranscriberMissing(TranscriberUnavailable):
    """This worker has no speech recognition.

    Send `ref_text` with at most 12 s of audio, and ask for no word timestamps.
    """

    code = "TRANSCRIBER_MISSING"
    retryable = False


class Cancelled(WorkerError):
    """The job was stopped.

    Nothing.
    """

    code = "CANCELLED"


class InternalError(WorkerError):
    """A defect of the worker.

    Send the job again; when it stays, report it with the log lines that have the job's id.
    """

    code = "INTERNAL"
    retryable = True


class EndpointError(WorkerError):
    """The client: the endpoint refused a call.

    The message has the platform's answer.
    """

    code = "ENDPOINT_FAILED"


class EndpointUnauthorized(EndpointError):
    """The client: the API key is missing, wrong, or not for this endpoint.

    Set RUNPOD_API_KEY to a key of the account that owns the endpoint.
    """

    code = "ENDPOINT_UNAUTHORIZED"


class EndpointNotFound(EndpointError):
    """The client: there is no endpoint of that id, or it has forgotten the job.

    Copy the id from RunPod's console; results are kept for 30 minutes, then send the job again.
    """

    code = "ENDPOINT_NOT_FOUND"


class EndpointUnhealthy(EndpointError):
    """The client: no worker of the endpoint took the job.

    Read the worker's log in RunPod's console, and check that the endpoint has more than 0 workers and a GPU that is to be had.
    """

    code = "ENDPOINT_UNHEALTHY"
    retryable = True


class EndpointOutdated(EndpointError):
    """The client: the endpoint's worker is older than the client, or another program.

    Deploy the image of the client's version, or use a client of the worker's version.
    """

    code = "ENDPOINT_OUTDATED"


class EndpointUnreachable(EndpointError):
    """The client: the endpoint or the result's URL could not be reached, also not after several tries.

    Check the network and run the command again; parts that are done are kept.
    """

    code = "ENDPOINT_UNREACHABLE"
    retryable = True


class JobFailed(EndpointError):
    """The client: the endpoint ended a job without a result.

    The message has the worker's own code, or what the platform did.
    """

    code = "JOB_FAILED"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.may_succeed_later = retryable
