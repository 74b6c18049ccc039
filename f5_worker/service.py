"""The job boundary: from a job as the platform gives it to its payload.

`Service.handle` is the one place where an error becomes a payload. RunPod's SDK makes of a raised exception a result with a traceback and
the host's name, and of an error that is no string nothing useful at all.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any

from f5_worker import __version__, casting, device, library, logs, openai_api, outputs, request
from f5_worker.errors import DeviceFailed, EngineError, InternalError, OutOfMemory, RequestError, StoreError, WorkerError
from f5_worker.fields import Worker
from f5_worker.guard import GuardedStore
from f5_worker.jobs import Channel, InlineRoom, Job, Result, Runtime, coded, in_thread
from f5_worker.settings import S3Settings, Settings
from f5_worker.speaking import speak
from f5_worker.store import Store
from f5_worker.voices import VoiceLibrary

if TYPE_CHECKING:  # both import torch, and this module is also used where no model is
    from f5_worker.engine import Engine
    from f5_worker.transcribe import Transcriber

log = logging.getLogger(__name__)


class Service:
    """Serves jobs with one engine. `handle` may run for several jobs at once; one of them at a time has the GPU."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        store: Store | None,
        boot: Callable[[], Result],
        *,
        transcriber: Transcriber | None = None,
        new_store: Callable[[S3Settings], Store] | None = None,
        open_channel: Callable[[Result], AbstractAsyncContextManager[Channel]] | None = None,
        slot: ThreadPoolExecutor | None = None,
    ) -> None:
        """Take the parts that jobs are served with.

        Args:
            boot: How this worker got its weights, for the action `health`.
            new_store: Makes a store for a bucket that a request brings along; None: such requests are refused.
            open_channel: The platform's ear for a job; None: no platform listens, the parts of a stream become part of the result.
            slot: Where the engine was warmed up; None: a new one.
        """
        guarded = GuardedStore(store) if store else None
        self._run = Runtime(
            engine, settings, guarded, VoiceLibrary(guarded, settings), boot, transcriber, new_store=new_store, open_channel=open_channel
        )
        if slot:
            self._run.gpu = slot
        self._known = Worker(model=settings.model, s3_prefixes=(settings.voices_prefix, settings.output_prefix) if store else ())

    async def handle(self, job: Result) -> Result:
        """The job's result, or `{"error": "CODE: message", "details": {…}}`.

        Raises nothing but CancelledError, when the platform stops the job; the computation then ends by itself.
        """
        own_id = str(job.get("id") or uuid.uuid4())  # a job that has none is no repetition of another one
        running = Job(own_id, InlineRoom(self._run.settings.max_inline_bytes))
        token = logs.job_id.set(running.id)
        try:
            return await self._settled(running, self._serve(running, job))
        except asyncio.CancelledError:
            running.cancelled.set()
            log.info("job.end outcome=cancelled seconds=%.3f", time.monotonic() - running.started)
            raise
        finally:
            logs.job_id.reset(token)

    async def _settled(self, job: Job, work: Awaitable[Result]) -> Result:
        """What the work gives, or the payload of what it failed of."""
        try:
            result = await work
        except WorkerError as error:
            return _failure(error)
        except Exception as error:  # noqa: BLE001 - the job boundary: whatever went wrong, the client gets one clear error
            return _failure(_unexpected(error))
        finally:
            self._run.rest()  # not before: an error holds what its job held
        return result | _WORN_OUT if job.worn_out else result

    async def _serve(self, job: Job, given: Result) -> Result:
        asked = given.get("input")
        s3_config = given.get("s3Config")  # RunPod's clients put it beside the input
        if isinstance(asked, dict) and "openai_route" in asked:
            return await self._serve_openai(job, asked, s3_config)
        if isinstance(asked, dict) and s3_config is not None:
            asked = {"s3Config": s3_config} | asked
        async with AsyncExitStack() as stack:
            if self._run.open_channel and given.get("id"):
                job.channel = await stack.enter_async_context(self._run.open_channel(given))
            return await self._act(job, await in_thread(request.parse, asked, self._known))

    async def _serve_openai(self, job: Job, asked: Result, s3_config: object) -> Result:
        """The same actions; results and errors take OpenAI's shape."""
        route = asked["openai_route"]

        async def converted() -> Result:
            to_act = openai_api.to_request(route, asked.get("openai_input"), s3_config)
            return await self._act(job, await in_thread(request.parse, to_act, self._known))

        result = await self._settled(job, converted())
        if "error" not in result:
            return openai_api.reply(route, result)
        return openai_api.error(result["error"], result["details"]) | (_WORN_OUT if "refresh_worker" in result else {})

    async def _act(self, job: Job, asked: request.Request) -> Result:
        match asked:
            case request.Speech():
                return await speak(self._run, job, asked)
            case request.Batch():
                result = await self._batch(job, asked)
            case request.Transcribe():
                result = await _transcribe(self._run, job, asked)
            case request.VoicesCreate():
                result = await self._run.on_recording(library.create, self._run, asked)
            case _:
                result = await in_thread(_WITHOUT_MODEL[type(asked)], self._run, asked)
        log.info("job.end outcome=done action=%s seconds=%.3f", asked.action, time.monotonic() - job.started)
        if asked.warnings:
            result["warnings"] = [*coded(list(asked.warnings)), *result.get("warnings", [])]
        return result

    async def _batch(self, job: Job, asked: request.Batch) -> Result:
        """One after the other; what fails is told in its place and does not stop the others."""
        results = []
        for index, item in enumerate(await in_thread(request.each, asked, self._known)):
            one = Job(f"{job.id}-{index}", job.room, cancelled=job.cancelled)
            settled = await self._settled(one, _speak_or_raise(self._run, one, item))
            job.worn_out |= settled.pop("refresh_worker", False)
            results.append({"index": index, **(settled if "error" in settled else {"output": settled})})
            if job.channel and index + 1 < len(asked.requests):
                await job.channel.progress({"requests_done": index + 1, "requests_total": len(asked.requests)})
        failed = sum("error" in result for result in results)
        return {"id": job.id, "results": results, "failed": failed}


async def _speak_or_raise(run: Runtime, job: Job, item: request.Speech | RequestError) -> Result:
    if isinstance(item, RequestError):
        raise item
    return await speak(run, job, item)


async def _transcribe(run: Runtime, job: Job, asked: request.Transcribe) -> Result:
    with job.timed("recording"):
        data = await in_thread(casting.recording, run, asked.ref_audio)
        samples, rate_hz = await run.on_recording(casting.mono, data)
        transcriber = await in_thread(casting.loaded_transcriber, run)
    with job.timed("transcription"):
        transcript = await run.on_gpu(transcriber.transcribe, samples, rate_hz, asked.language, job.cancelled.is_set)
    return {
        "id": job.id,
        "text": transcript.text,
        "language": transcript.language,
        "duration_s": round(len(samples) / rate_hz, 3),
        "timings_ms": job.timings_ms,
    }


def _health(run: Runtime, _asked: request.Health) -> Result:
    versions = {"worker": __version__, "runpod": importlib.metadata.version("runpod")}
    return {"status": "ok", "versions": versions, "engine": run.engine.describe(), "boot": run.boot(), "jobs_served": run.served}


def _models(run: Runtime, _asked: request.ModelsList) -> Result:
    return {"models": [{"id": run.settings.model, **run.engine.describe()}]}


_WITHOUT_MODEL: dict[type, Callable[[Runtime, Any], Result]] = {
    request.Health: _health,
    request.ModelsList: _models,
    request.OutputsGet: outputs.get,
    request.OutputsDelete: outputs.delete,
    **library.ACTIONS,
}


# --- errors ---


def _unexpected(error: Exception) -> WorkerError:
    if isinstance(error, MemoryError) or device.out_of_memory(error):
        return OutOfMemory("the worker ran out of memory; send the job again with less text")
    kind = DeviceFailed if device.broken(error) else InternalError
    wrapped = kind("the worker failed; its log has the cause under this job's id")
    wrapped.__cause__ = error
    return wrapped


def _failure(error: WorkerError) -> Result:
    """The payload of an error. The SDK takes `error` out, which must be a string; the other keys become the output."""
    if isinstance(error, RequestError):  # the message may quote names out of the request: it is the client's, not the log's
        log.warning("job.end outcome=refused code=%s", error.code)
    else:
        defect = isinstance(error, InternalError | EngineError)  # the others say all in one line
        log.error("job.end outcome=failed error=%r", str(error), exc_info=error if defect else None)
    said = f"{error.code}: {_STORE_FAILED}" if isinstance(error, StoreError) else str(error)  # theirs names keys of the bucket
    payload: Result = {"error": said, "details": {"code": error.code, "retryable": error.retryable}}
    # Memory that a failed allocation left fragmented does not come back, nor does a CUDA context after an illegal access.
    return payload | (_WORN_OUT if error.worn_out else {})


_WORN_OUT = {"refresh_worker": True}
_STORE_FAILED = "the bucket did not do what this job needs; the worker's log has the cause under this job's id"
