"""What the parts of one running job share, and what the jobs of one process share."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from f5_worker.guard import GuardedStore
from f5_worker.reference import VoiceCache
from f5_worker.settings import S3Settings, Settings
from f5_worker.store import Store

if TYPE_CHECKING:  # both import torch, and this module is also used where no model is
    from f5_worker.engine import Engine
    from f5_worker.transcribe import Transcriber
    from f5_worker.voices import VoiceLibrary

Result = dict[str, Any]
Warnings = list[tuple[str, str]]  # (code, message)
T = TypeVar("T")
MAX_RECORDINGS = 2  # downloaded and decoded at once
PREPARED_BYTES = 128_000_000  # 12 s of 24 kHz float32 are 1.2 MB, as a WAV file in stereo at 44.1 kHz 2.1 MB: some forty voices, or more


class Channel(Protocol):
    """The platform's ear while a job runs."""

    async def part(self, output: Result) -> None:
        """Hand over the next part of the stream. Raises DeliveryError when the platform does not take it."""

    async def progress(self, output: Result) -> None:
        """Say how far the job is; what cannot be said is dropped."""


@dataclass
class InlineRoom:
    """Bytes that still fit inside the job's result."""

    left_bytes: int


@dataclass
class Job:
    """One running job, or one request of a batch.

    Attributes:
        worn_out: Whether the platform shall replace the worker afterwards, although the job has a result.
    """

    id: str
    room: InlineRoom
    channel: Channel | None = None
    warnings: Warnings = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    timings_ms: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    worn_out: bool = False

    @property
    def seed(self) -> int:
        """Of a request that has none: a job that the platform hands out twice makes the same bytes under the same key."""
        return int.from_bytes(hashlib.sha256(self.id.encode(errors="surrogatepass")).digest()[:4]) >> 1

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.timings_ms[phase] = self.timings_ms.get(phase, 0) + round((time.monotonic() - start) * 1000)


def gpu_slot() -> ThreadPoolExecutor:
    """One thread that computes.

    It is a thread and not a semaphore, so it is free exactly when what it computes has ended: a cancelled job goes on for up to one step of
    the solver. And what CUDA and OpenMP set up for a thread is there for every job.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpu")


@dataclass
class Runtime:
    """What jobs are served with.

    Attributes:
        new_store: Makes a store for a bucket that a request brings along.
        open_channel: The platform's ear for a job, given as the platform gave it; None: there is no platform.
        served: Jobs that have spoken.
        remembered: Held by the job that has an idempotency_key, by the key of its memo.
    """

    engine: Engine
    settings: Settings
    store: GuardedStore | None
    saved_voices: VoiceLibrary
    boot: Callable[[], Result]
    transcriber: Transcriber | None = None
    new_store: Callable[[S3Settings], Store] | None = None
    open_channel: Callable[[Result], AbstractAsyncContextManager[Channel]] | None = None
    served: int = 0
    remembered: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    prepared: VoiceCache = field(default_factory=lambda: VoiceCache(max_bytes=PREPARED_BYTES))
    gpu: ThreadPoolExecutor = field(default_factory=gpu_slot)

    # The decoded recordings of many voices at once would not fit in memory.
    recordings: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(MAX_RECORDINGS, thread_name_prefix="recording"))

    _resting: Future[None] | None = None  # the last rest

    def rest(self) -> None:
        """Let the engine rest when the slot has done what it was given. Nobody waits for it."""
        if self._resting is None or self._resting.running() or self._resting.done():
            self._resting = self.gpu.submit(self.engine.rest)

    def on_gpu(self, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Run work in the GPU slot."""
        return _run_in(self.gpu, work, *args)

    def on_recording(self, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Run work that decodes a recording."""
        return _run_in(self.recordings, work, *args)


def _run_in(pool: ThreadPoolExecutor, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
    return asyncio.get_running_loop().run_in_executor(pool, lambda context: context.run(work, *args), copy_context())


def in_context(work: Callable[..., T]) -> Callable[..., T]:
    """The same work for the threads of another pool, whose logs then name this job."""
    context = copy_context()
    return lambda *args: context.copy().run(work, *args)


async def in_thread(work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Decoding, encoding and uploading, off the event loop: the SDK's polls and the next job go on meanwhile."""
    return await asyncio.to_thread(work, *args, **kwargs)


def coded(warnings: Warnings) -> list[dict[str, str]]:
    """Warnings as a result shows them, each once."""
    return [{"code": code, "message": message} for code, message in dict.fromkeys(warnings)]
