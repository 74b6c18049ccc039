"""Every error of the worker, each with a stable code.

    WorkerError
    ├── SettingsError            SETTINGS_INVALID       the environment is wrong; the message names every bad variable
    ├── StoreError                                      the S3-compatible bucket
    │   ├── StoreNotFound        STORE_NOT_FOUND        no such object
    │   ├── StoreNoBucket        STORE_NO_BUCKET        the bucket does not exist
    │   ├── StoreMisplaced       STORE_WRONG_REGION     the bucket answers at another region or endpoint
    │   ├── StoreForbidden       STORE_FORBIDDEN        credentials refused: missing permission, wrong or expired key, clock skew
    │   ├── StoreUnavailable     STORE_UNAVAILABLE      unreachable, timed out, 5xx after all retries
    │   └── StoreCorrupt         STORE_CORRUPT          the bytes are not the pinned bytes
    ├── CacheError
    │   ├── DiskFull             DISK_FULL              no candidate directory has room
    │   ├── HubUnavailable       HUB_UNAVAILABLE        the Hugging Face hub could not be used
    │   └── WeightsUnavailable   WEIGHTS_UNAVAILABLE    no source had the model files
    ├── RequestError             INVALID_REQUEST        the job is wrong; the message names every problem
    │   ├── TextEmpty            TEXT_EMPTY
    │   ├── TextTooLong          TEXT_TOO_LONG
    │   ├── ReferenceInvalid     REFERENCE_INVALID
    │   └── VoiceNotFound        VOICE_NOT_FOUND
    ├── DeliveryError            DELIVERY_FAILED        the result could not be handed over
    ├── EngineError              ENGINE_FAILED          the model failed
    │   └── OutOfMemory          OUT_OF_MEMORY
    ├── Cancelled                CANCELLED
    └── InternalError            INTERNAL               a defect of the worker; the log holds the cause

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
    code = "SETTINGS_INVALID"


class StoreError(WorkerError):
    code = "STORE_UNAVAILABLE"


class StoreNotFound(StoreError):
    code = "STORE_NOT_FOUND"


class StoreNoBucket(StoreError):
    code = "STORE_NO_BUCKET"


class StoreMisplaced(StoreError):
    code = "STORE_WRONG_REGION"


class StoreForbidden(StoreError):
    code = "STORE_FORBIDDEN"


class StoreUnavailable(StoreError):
    code = "STORE_UNAVAILABLE"
    retryable = True


class StoreCorrupt(StoreError):
    code = "STORE_CORRUPT"


class CacheError(WorkerError):
    code = "CACHE_FAILED"


class DiskFull(CacheError):
    code = "DISK_FULL"


class HubUnavailable(CacheError):
    code = "HUB_UNAVAILABLE"
    retryable = True


class WeightsUnavailable(CacheError):
    code = "WEIGHTS_UNAVAILABLE"
    retryable = True


class RequestError(WorkerError):
    code = "INVALID_REQUEST"


class TextEmpty(RequestError):
    code = "TEXT_EMPTY"


class TextTooLong(RequestError):
    code = "TEXT_TOO_LONG"


class ReferenceInvalid(RequestError):
    code = "REFERENCE_INVALID"


class VoiceNotFound(RequestError):
    code = "VOICE_NOT_FOUND"


class DeliveryError(WorkerError):
    code = "DELIVERY_FAILED"
    retryable = True


class EngineError(WorkerError):
    code = "ENGINE_FAILED"


class OutOfMemory(EngineError):
    code = "OUT_OF_MEMORY"
    retryable = True


class Cancelled(WorkerError):
    code = "CANCELLED"


class InternalError(WorkerError):
    code = "INTERNAL"
    retryable = True
