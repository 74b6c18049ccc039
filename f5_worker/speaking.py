"""One speech from the request to the result: voices -> synthesis -> encoding -> timestamps -> delivery."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from f5_worker import audio, casting, delivery, outputs
from f5_worker.captions import Captions, caption
from f5_worker.delivery import File, Outbox
from f5_worker.errors import DeliveryError, RequestError, StoreError, StoreUnavailable, WorkerError
from f5_worker.fetch_url import Network, check, public_addresses
from f5_worker.guard import GuardedStore
from f5_worker.jobs import Job, Result, Runtime, coded, in_thread
from f5_worker.reference import Voice
from f5_worker.settings import S3Settings, region_of
from f5_worker.speech import Options, Part, Passage, Segment, Speech
from f5_worker.streaming import Progress, Stream

if TYPE_CHECKING:
    from f5_worker import request

log = logging.getLogger(__name__)

ENDPOINT_S = 5.0  # to find the address of a bucket that a request brings along

Voices = dict[str | None, Voice]


async def speak(run: Runtime, job: Job, asked: request.Speech) -> Result:
    """The result of one speech.

    Raises:
        WorkerError: what it failed of.
    """
    store = await in_thread(_store_of, run, asked)
    delivery.check(asked.delivery, store)
    if asked.idempotency_key is None:
        return await _delivered(run, job, asked, store)
    memo = await in_thread(outputs.memo, store, run.settings, asked.idempotency_key, asked)
    async with run.remembered.setdefault(memo.key, asyncio.Lock()):  # the second of two such jobs waits for the first one's result
        known = await in_thread(memo.recall, job, _expires_s(run, asked))
        if known:
            log.info("job.end outcome=repeated")
            return known
        return await _delivered(run, job, asked, store, memo)


async def _delivered(run: Runtime, job: Job, asked: request.Speech, store: GuardedStore | None, memo: outputs.Memo | None = None) -> Result:
    """The result, computed."""
    log.info("job.start chars=%d voice=%s seed=%d", sum(len(p.text) for p in asked.passages()), _voice_kind(asked), _seed(job, asked))
    job.warnings += asked.warnings
    with job.timed("reference"):
        voices = await casting.cast(run, asked)
    spoken = await _spoken(run, job, asked, voices)
    captions = await caption(run, job, asked, spoken.speech)
    stem = delivery.stem_of(run.settings, job.id, datetime.now(UTC))
    outbox = Outbox(store, stem, job.room, asked.delivery, _expires_s(run, asked), run.settings.max_inline_bytes)
    with job.timed("delivery"):
        heard = spoken.streamed is not None and job.channel is not None
        files = await in_thread(_deliver, outbox, spoken.data, captions, asked, streamed=heard)
    job.warnings += outbox.warnings
    result = _described(run, job, asked, spoken) | captions.described | files
    if spoken.streamed:
        result["stream"] = spoken.streamed
    if memo:
        await in_thread(memo.keep, job, result, outbox)
    run.served += 1
    log.info("job.end outcome=done audio_s=%.2f bytes=%d %s", result["duration_s"], len(spoken.data), _pairs(job.timings_ms))
    return result | {"warnings": coded(job.warnings)}


def _expires_s(run: Runtime, asked: request.Speech) -> int:
    return asked.url_expires_in or run.settings.url_expires_s


def _store_of(run: Runtime, asked: request.Speech) -> GuardedStore | None:
    """The bucket that the request brings along, else the worker's."""
    theirs = asked.s3_config
    if theirs is None:
        return run.store
    if run.new_store is None:
        raise RequestError("s3Config: this worker uploads to its own bucket only")
    network = Network(loopback=run.settings.loopback_urls)
    target = check(theirs.endpoint_url, network)

    def check_address() -> None:  # no way into this network either
        public_addresses(target, time.monotonic() + ENDPOINT_S, network)

    check_address()
    endpoint_url = f"{target.scheme}://{target.netloc.decode('ascii')}{target.path}".rstrip("/")  # in ASCII, as it was checked
    s3 = S3Settings(
        bucket=theirs.bucket_name,
        access_key_id=theirs.access_id.get_secret_value(),
        secret_access_key=theirs.access_secret.get_secret_value(),
        endpoint_url=endpoint_url,
        region=region_of(endpoint_url),
    )
    try:
        return GuardedStore(run.new_store(s3), before=lambda: _or_unavailable(check_address))  # the speech may have taken minutes
    except StoreError as error:
        raise RequestError("s3Config: no store can be asked at the 'endpointUrl'; send one such as https://s3.example.com") from error


def _or_unavailable(check_address: Callable[[], None]) -> None:
    try:
        check_address()
    except RequestError as error:
        raise StoreUnavailable("the name of the request's bucket has no public address any more") from error


# --- synthesis ---


@dataclass(frozen=True)
class _Spoken:
    speech: Speech  # has samples only for those who align words with them: an hour takes 350 MB
    seconds: float
    data: bytes = field(repr=False)  # as the file that was asked for
    sha256: str
    streamed: Result | None  # what the result says of the stream when there was one


async def _spoken(run: Runtime, job: Job, asked: request.Speech, voices: Voices) -> _Spoken:
    """The whole speech, encoded while it comes."""
    rate_hz, count = run.engine.sample_rate_hz, 0
    stream = Stream(asked, rate_hz, job.channel) if asked.stream_format != "none" else None
    progress = Progress(None if stream else job.channel)
    recorder = audio.Recorder(asked.response_format, rate_hz, asked.sample_rate, asked.bitrate_kbps)
    kept, segments = [np.zeros(0, dtype=np.float32)], list[Segment]()
    try:
        async with aclosing(_parts(run, job, asked, voices, progress)) as arriving:
            async for part in arriving:
                if stream:
                    await stream.write(part.samples)
                    job.timings_ms.setdefault("first_audio", _ms_since(job.started))
                with job.timed("encode"):
                    await in_thread(recorder.write, part.samples)
                kept += [part.samples] if asked.timestamps == "word" else []
                segments += part.segments
                job.warnings += part.warnings
                count += len(part.samples)
        streamed = await stream.close() if stream else None
    except WorkerError as error:
        if stream:
            await stream.fail(error)
        raise
    finally:
        await progress.close()
    with job.timed("encode"):
        data = await in_thread(recorder.close)
        sha256 = await in_thread(lambda: hashlib.sha256(data).hexdigest())
    samples = await in_thread(np.concatenate, kept)
    return _Spoken(Speech(samples, rate_hz, segments, []), count / rate_hz, data, sha256, streamed)


async def _parts(run: Runtime, job: Job, asked: request.Speech, voices: Voices, progress: Progress) -> AsyncGenerator[Part, None]:
    """The engine's parts as they come. The GPU slot does not wait for whoever takes them."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Queue[Part | None]()
    abandoned = threading.Event()  # these parts alone: a batch goes on
    queued = time.monotonic()

    def is_stopped() -> bool:
        return abandoned.is_set() or job.cancelled.is_set()

    def work() -> None:
        job.timings_ms["gpu_wait"] = _ms_since(queued)
        try:
            passages, options = [Passage(*passage) for passage in asked.passages()], _options(job, asked)
            with job.timed("synthesis"):
                for part in run.engine.stream(passages, voices, options, cancelled=is_stopped, on_chunk=progress.report):
                    loop.call_soon_threadsafe(arrived.put_nowait, part)
        finally:
            loop.call_soon_threadsafe(arrived.put_nowait, None)

    working = run.on_gpu(work)
    try:
        while (part := await arrived.get()) is not None:
            yield part
        await working
    finally:
        if not working.done():  # nobody takes the parts any more
            abandoned.set()
            working.cancel()  # while it waits for the slot it never runs; its outcome is asked for by nobody
        del working  # with this frame its error would make a ring, which keeps a failed job's tensors until some collection of garbage


def _seed(job: Job, asked: request.Speech) -> int:
    return job.seed if asked.seed is None else asked.seed


def _options(job: Job, asked: request.Speech) -> Options:
    return Options(
        seed=_seed(job, asked),
        nfe_step=asked.steps,
        cfg_strength=asked.cfg_strength,
        sway_sampling_coef=asked.sway_sampling_coef,
        speed=asked.speed,
        duration_s=asked.duration,
        target_rms=asked.target_rms,
        cross_fade_s=asked.cross_fade_duration,
        normalize=asked.normalize_text,
        language=asked.language,
        tags=asked.allow_tags,
        longest_silence_s=asked.longest_silence_s,
        loudness_lufs=asked.loudness,
        fade_s=asked.fade,
    )


# --- the result ---


def _deliver(outbox: Outbox, data: bytes, captions: Captions, asked: request.Speech, *, streamed: bool) -> Result:
    delivered: Result = {"audio": {}}
    try:
        delivered["audio"] = outbox.deliver(File(data, asked.response_format, audio.CONTENT_TYPES[asked.response_format]))
    except DeliveryError as error:
        if not streamed:
            raise
        outbox.warnings.append(("DELIVERED_BY_STREAM", f"the audio is in the stream alone: {error.message}"))
    subtitles: Result = {}
    for file in captions.files:
        try:
            subtitles[file.extension] = outbox.deliver(file)
        except DeliveryError as error:
            outbox.warnings.append(("SUBTITLES_NOT_DELIVERED", f"{file.extension}: {error.message}"))
    return delivered | ({"subtitles": subtitles} if subtitles else {})


def _described(run: Runtime, job: Job, asked: request.Speech, spoken: _Spoken) -> Result:
    job.timings_ms["total"] = _ms_since(job.started)
    return {
        "id": job.id,
        "model": run.settings.model,
        "voice": "reference" if asked.ref_audio else asked.voice or run.settings.default_voice,
        "seed": _seed(job, asked),
        "format": asked.response_format,
        "sample_rate": asked.sample_rate or spoken.speech.sample_rate_hz,
        "duration_s": round(spoken.seconds, 3),
        "size_bytes": len(spoken.data),
        "sha256": spoken.sha256,
        "timings_ms": job.timings_ms,
        "rtf": round(job.timings_ms["synthesis"] / 1000 / spoken.seconds, 4) if spoken.seconds else 0.0,
        "warnings": coded(job.warnings),
        "cold_start": run.served == 0,
    }


def _voice_kind(asked: request.Speech) -> str:
    return "own" if asked.ref_audio else "library"


def _ms_since(moment: float) -> int:
    return round((time.monotonic() - moment) * 1000)


def _pairs(values: dict[str, int]) -> str:
    return " ".join(f"{name}_ms={value}" for name, value in values.items())
