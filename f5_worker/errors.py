"""Every error of the worker, each with a stable code; those of the operator's client are in endpoint_errors.py.

A docstring says what the error means and then what to do; docs/errors.md is written from them (f5_worker/docs.py). `retryable` says
whether the same job can succeed later without a change by the caller.
"""

from __future__ import annotations

from typing import ClassVar


class WorkerError(Exception):
    """Base of every error that the worker raises on purpose. `str()` is safe to show to a client.

    A subclass names its code, and `retryable` and `worn_out` where they are not its base's. After an error that is `worn_out` the platform
    replaces the worker.
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    worn_out: ClassVar[bool] = False

    def __init_subclass__(cls, *, code: str | None = None, retryable: bool | None = None, worn_out: bool | None = None) -> None:
        cls.code = code or cls.code
        cls.retryable = cls.retryable if retryable is None else retryable
        cls.worn_out = cls.worn_out if worn_out is None else worn_out

    def __str__(self) -> str:
        return f"{self.code}: {self.args[0] if self.args else type(self).__name__}"

    @property
    def message(self) -> str:
        """The text without its code."""
        return str(self.args[0]) if self.args else type(self).__name__


class SettingsError(WorkerError, code="SETTINGS_INVALID"):
    """The environment is wrong; the message names every bad variable.

    Set the named variables as the message says; the worker ends with exit code 2 until then.
    """


class StoreError(WorkerError, code="STORE_UNAVAILABLE"):
    """The S3-compatible bucket failed.

    As for the codes below.
    """


class StoreNotFound(StoreError, code="STORE_NOT_FOUND"):
    """There is no such object in the bucket.

    Check the key and the prefixes; for a result: it was deleted, or another bucket holds it.
    """


class StoreNoBucket(StoreError, code="STORE_NO_BUCKET"):
    """The bucket does not exist.

    Check S3_BUCKET and AWS_ENDPOINT_URL, or make the bucket.
    """


class StoreMisplaced(StoreError, code="STORE_WRONG_REGION"):
    """The bucket answers at another region or endpoint.

    Set AWS_REGION and AWS_ENDPOINT_URL to the bucket's own.
    """


class StoreForbidden(StoreError, code="STORE_FORBIDDEN"):
    """The bucket refuses the credentials: a missing permission, a wrong or expired key, or a clock that is off.

    Give the key the rights to list, read, write and delete, or make a new one; `python -m f5_worker doctor` tells which is missing.
    """


class StoreUnavailable(StoreError, code="STORE_UNAVAILABLE", retryable=True):
    """The bucket could not be reached, timed out, or failed after all retries.

    Send the job again; when it stays, check AWS_ENDPOINT_URL and the store's own status.
    """


class StoreCorrupt(StoreError, code="STORE_CORRUPT"):
    """An object in the bucket is not what it must be.

    The worker heals weights by itself; create a voice again with `overwrite`.
    """


class GpuUnavailable(WorkerError, code="GPU_UNAVAILABLE"):
    """A GPU is expected and CUDA does not work on it.

    The platform starts another worker; when it stays, allow only the CUDA versions of the image.
    """


class CacheError(WorkerError, code="CACHE_FAILED"):
    """The local cache of the weights cannot be used.

    Check MODEL_CACHE_DIR: it must be writable and have room.
    """


class DiskFull(CacheError, code="DISK_FULL"):
    """No directory for the cache has room.

    Give the container a larger disk, or set MODEL_CACHE_DIR to one with room.
    """


class HubUnavailable(CacheError, code="HUB_UNAVAILABLE", retryable=True):
    """The Hugging Face hub could not be used.

    It is asked again at the next start; a filled bucket makes the worker independent of it.
    """


class WeightsUnavailable(CacheError, code="WEIGHTS_UNAVAILABLE", retryable=True):
    """No source had the files of the model.

    Check the bucket and that the hub can be reached; `python -m f5_worker cache push` fills the bucket from any machine.
    """


class RequestError(WorkerError, code="INVALID_REQUEST"):
    """The request is wrong; the message names every problem.

    Change the named fields; docs/job-api.md and docs/job-schema.json say what is possible.
    """


class TextEmpty(RequestError, code="TEXT_EMPTY"):
    """There is nothing to speak.

    Send `input` with at least one word that the model's languages have.
    """


class TextTooLong(RequestError, code="TEXT_TOO_LONG"):
    """There is more text than fits in one job.

    Send several jobs of at most 50,000 characters each.
    """


class ReferenceInvalid(RequestError, code="REFERENCE_INVALID"):
    """The recording cannot be cloned from, or the text cannot be what is spoken in it.

    Send 3 to 12 s of clear speech of one person and exactly its words; the message says what was wrong.
    """


class VoiceNotFound(RequestError, code="VOICE_NOT_FOUND"):
    """There is no voice of that name.

    Use one that `voices.list` shows, create it, or send `ref_audio`.
    """


class VoiceExists(RequestError, code="VOICE_EXISTS"):
    """The id of the voice is taken.

    Choose another, or send `overwrite: true`.
    """


class FetchRefused(RequestError, code="URL_REFUSED"):
    """The URL may not be used, or what it points to cannot be.

    Send an `https` URL on a public address that needs no password, or the audio itself as `base64`.
    """


class FetchFailed(RequestError, code="URL_FAILED", retryable=True):
    """The URL's server could not be reached, was too slow or failed.

    Send the job again, or the audio itself as `base64`.
    """


class OutputNotFound(RequestError, code="OUTPUT_NOT_FOUND"):
    """The job has left no files in the bucket.

    Check the id; results that travelled inline, were deleted or lie in another bucket are not found.
    """


class IdempotencyConflict(RequestError, code="IDEMPOTENCY_CONFLICT"):
    """The `idempotency_key` was used for another request.

    Choose a new key, or send that request unchanged.
    """


class DeliveryError(WorkerError, code="DELIVERY_FAILED", retryable=True):
    """The result could not be handed over: the upload failed and it is too large to travel inline.

    Send the job again; speak less text in one job when it stays.
    """


class DeliveryRefused(DeliveryError, code="DELIVERY_REFUSED", retryable=False):
    """The bucket refuses the result, and it is too large to travel inline.

    Mend the bucket's name, its region or its key's right to write; `python -m f5_worker doctor` tells which of the worker's own is wrong.
    """


class ResultTooLarge(DeliveryError, code="RESULT_TOO_LARGE", retryable=False):
    """The result is too large to travel inline, and there is no bucket.

    Set S3_BUCKET, or speak less text in one job.
    """


class EngineError(WorkerError, code="ENGINE_FAILED"):
    """The model failed on this request.

    Change the text, the voice or the seed; the worker's log has the cause under the job's id.
    """


class OutOfMemory(EngineError, code="OUT_OF_MEMORY", retryable=True, worn_out=True):
    """The GPU or the machine ran out of memory. The worker is replaced.

    Send the job again with less text or a shorter reference, or use a larger GPU.
    """


class DeviceFailed(EngineError, code="DEVICE_FAILED", retryable=True, worn_out=True):
    """CUDA failed while it computed, and nothing that comes later can be computed in the same process. The worker is replaced.

    Send the job again; when it stays, the worker's log has the cause under the job's id.
    """


class TranscriberUnavailable(WorkerError, code="TRANSCRIBER_UNAVAILABLE", retryable=True):
    """The weights of speech recognition cannot be had.

    Send `ref_text` with at most 12 s of audio, or send the job again.
    """


class TranscriberMissing(TranscriberUnavailable, code="TRANSCRIBER_MISSING", retryable=False):
    """This worker has no speech recognition.

    Send `ref_text` with at most 12 s of audio, and ask for no word timestamps.
    """


class Cancelled(WorkerError, code="CANCELLED"):
    """The job was stopped.

    Nothing.
    """


class InternalError(WorkerError, code="INTERNAL", retryable=True):
    """A defect of the worker.

    Send the job again; when it stays, report it with the log lines that have the job's id.
    """
