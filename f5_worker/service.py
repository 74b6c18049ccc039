"""One job from its input to its result: request -> voice -> synthesis -> encoding -> delivery.

`Service.handle` is the job boundary: the one place where an error becomes a payload. RunPod's SDK makes of a raised
exception a result with a traceback and the host's name, and of an error that is no string nothing useful at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from f5_worker import __version__, audio, delivery, logs, reference, request
from f5_worker.errors import EngineError, InternalError, OutOfMemory, RequestError, VoiceNotFound, WorkerError
from f5_worker.settings import Settings
from f5_worker.store import Store

if TYPE_CHECKING:  # engine imports torch, and this module is also used where no model is
    from f5_worker.engine import Engine, Options, Speech

log = logging.getLogger(__name__)

Result = dict[str, Any]
T = TypeVar("T")
BUILT_IN_VOICE = "default"


@dataclass
class _Job:
    """What the parts of one running job share."""

    id: str
    cancelled: threading.Event = field(default_factory=threading.Event)
    timings_ms: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.timings_ms[phase] = round((time.monotonic() - start) * 1000)


class Service:
    """Serves jobs with one engine. `handle` may run for several jobs at once; one of them at a time has the GPU."""

    def __init__(self, engine: Engine, settings: Settings, store: Store | None, boot: Callable[[], Result]) -> None:
        """Take the parts that jobs are served with.

        Args:
            boot: How this worker got its weights, for the action `health`.
        """
        self._engine, self._settings, self._store, self._boot = engine, settings, store, boot
        # The GPU slot. It is a thread and not a semaphore, so it is free exactly when the thread that computes has ended:
        # a cancelled job's thread goes on for up to one step of the solver.
        self._gpu = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpu")
        self._served = 0

    async def handle(self, job: Result) -> Result:
        """The job's result, or `{"error": "CODE: message", "details": {…}}`.

        Raises nothing but CancelledError, when the platform stops the job; the computation then ends by itself.
        """
        running = _Job(str(job.get("id", "")))
        token = logs.job_id.set(running.id)
        try:
            return await self._act(running, job.get("input"))
        except asyncio.CancelledError:
            running.cancelled.set()
            log.info("job.end outcome=cancelled seconds=%.3f", time.monotonic() - running.started)
            raise
        except WorkerError as error:
            return _failure(error)
        except Exception as error:  # noqa: BLE001 - the job boundary: whatever went wrong, the client gets one clear error
            return _failure(_unexpected(error))
        finally:
            logs.job_id.reset(token)

    async def _act(self, job: _Job, job_input: object) -> Result:
        asked = request.parse(job_input)
        if isinstance(asked, request.Health):
            return self._health()
        return await self._speak(job, asked)

    def _health(self) -> Result:
        versions = {"worker": __version__}
        return {"status": "ok", "versions": versions, "engine": self._engine.describe(), "boot": self._boot(), "jobs_served": self._served}

    async def _speak(self, job: _Job, asked: request.Speech) -> Result:
        delivery.check(asked.delivery, self._store)
        log.info("job.start chars=%d voice=%s seed=%d", len(asked.input), "own" if asked.ref_audio else "library", asked.seed)
        with job.timed("reference"):
            voice = await _in_thread(_voice, asked, self._settings)
        queued = time.monotonic()
        speech = await self._on_gpu(_synthesize, self._engine, job, asked, voice, queued)
        with job.timed("encode"):
            data, sha256 = await _in_thread(_encode, speech, asked.response_format)
        with job.timed("delivery"):
            delivered = await _in_thread(self._deliver, data, job, asked)
        job.timings_ms["total"] = round((time.monotonic() - job.started) * 1000)
        result = _described(job, asked, speech) | {
            "size_bytes": len(data),
            "sha256": sha256,
            "model": self._settings.model,
            "voice": "reference" if asked.ref_audio else asked.voice or self._settings.default_voice,
            "audio": delivered.audio,
            "warnings": _coded([*speech.warnings, *delivered.warnings]),
            "cold_start": self._served == 0,
        }
        self._served += 1
        log.info("job.end outcome=done audio_s=%.2f bytes=%d %s", result["duration_s"], len(data), _pairs(job.timings_ms))
        return result

    def _deliver(self, data: bytes, job: _Job, asked: request.Speech) -> delivery.Delivered:
        return delivery.deliver(
            data, asked.response_format, job.id, self._store, self._settings, mode=asked.delivery, expires_s=asked.url_expires_in
        )

    async def _on_gpu(self, work: Callable[..., T], *args: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._gpu, lambda context: context.run(work, *args), copy_context())


async def _in_thread(work: Callable[..., T], *args: object) -> T:
    """Decoding, encoding and uploading, off the event loop: the SDK's polls and the next job go on meanwhile."""
    return await asyncio.to_thread(work, *args)


def _voice(asked: request.Speech, settings: Settings) -> reference.Voice:
    if asked.ref_audio:
        return reference.prepare(asked.ref_audio.data, asked.ref_text or "")
    name = asked.voice or settings.default_voice
    if name != BUILT_IN_VOICE:
        raise VoiceNotFound(f"there is no voice of that name; use '{BUILT_IN_VOICE}' or send ref_audio with ref_text")
    return reference.default_voice()


def _synthesize(engine: Engine, job: _Job, asked: request.Speech, voice: reference.Voice, queued: float) -> Speech:
    job.timings_ms["gpu_wait"] = round((time.monotonic() - queued) * 1000)
    with job.timed("synthesis"):
        return engine.synthesize(asked.input, voice, _options(asked), cancelled=job.cancelled.is_set)


def _options(asked: request.Speech) -> Options:
    from f5_worker.engine import Options  # noqa: PLC0415 - see the top

    return Options(
        seed=asked.seed,
        nfe_step=asked.nfe_step,
        cfg_strength=asked.cfg_strength,
        sway_sampling_coef=asked.sway_sampling_coef,
        speed=asked.speed,
        target_rms=asked.target_rms,
        cross_fade_s=asked.cross_fade_duration,
    )


def _encode(speech: Speech, fmt: str) -> tuple[bytes, str]:
    data = audio.encode(speech.samples, speech.sample_rate_hz, fmt)
    return data, hashlib.sha256(data).hexdigest()


def _described(job: _Job, asked: request.Speech, speech: Speech) -> Result:
    return {
        "id": job.id,
        "seed": asked.seed,
        "format": asked.response_format,
        "sample_rate": speech.sample_rate_hz,
        "duration_s": round(len(speech.samples) / speech.sample_rate_hz, 3),
        "segments": [{"text": text, "start_s": round(start, 3), "end_s": round(end, 3)} for text, start, end in speech.segments],
        "timings_ms": job.timings_ms,
    }


def _coded(warnings: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"code": code, "message": message} for code, message in warnings]


def _pairs(values: dict[str, int]) -> str:
    return " ".join(f"{name}_ms={value}" for name, value in values.items())


def _unexpected(error: Exception) -> WorkerError:
    if isinstance(error, MemoryError):
        return OutOfMemory("the worker ran out of memory; send the job again with less text")
    wrapped = InternalError("the worker failed; its log has the cause under this job's id")
    wrapped.__cause__ = error
    return wrapped


def _failure(error: WorkerError) -> Result:
    """The payload of an error. The SDK takes `error` out, which must be a string; the other keys become the output."""
    if isinstance(error, RequestError):  # the message may quote names out of the request: it is the client's, not the log's
        log.warning("job.end outcome=refused code=%s", error.code)
    else:
        defect = isinstance(error, InternalError | EngineError)  # the others say all in one line
        log.error("job.end outcome=failed error=%r", str(error), exc_info=error if defect else None)
    payload: Result = {"error": str(error), "details": {"code": error.code, "retryable": error.retryable}}
    # Memory that a failed allocation left fragmented does not come back: the platform replaces the worker.
    return payload | ({"refresh_worker": True} if isinstance(error, OutOfMemory) else {})
