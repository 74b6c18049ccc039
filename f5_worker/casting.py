"""Who speaks: the voices that a request names or brings along, prepared. Downloads and decoding need no GPU slot; recognising does."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING

from f5_worker.audio import Samples, decode
from f5_worker.decode import PADDING_S, downmix, is_cut
from f5_worker.errors import ReferenceInvalid, RequestError, StoreCorrupt, StoreNotFound, TranscriberMissing
from f5_worker.fetch_url import Network, fetch
from f5_worker.fields import MAX_REFERENCE_BYTES, ReferenceAudio, VoiceSource
from f5_worker.guard import GuardedStore
from f5_worker.jobs import Runtime, in_thread
from f5_worker.reference import Voice

if TYPE_CHECKING:
    from f5_worker.request import Speech
    from f5_worker.transcribe import Transcriber, Transcript

MAX_TRANSCRIBED_S = 600.0
FETCH_S = 15.0  # for a recording of seconds


async def cast(run: Runtime, asked: Speech) -> dict[str | None, Voice]:
    """Every voice that the request's passages may name, all at once."""
    sources = asked.sources()
    # A voice that is at hand does not wait for recordings of other jobs.
    ways = ((run.on_recording if source.ref_audio else in_thread, source) for source in sources.values())
    started = [asyncio.ensure_future(way(_voice, run, source)) for way, source in ways]
    try:
        voices = await asyncio.gather(*started)
    finally:
        for one in started:  # after a failure the others are for nobody: what waits for its turn never runs
            one.cancel()
    return dict(zip(sources, voices, strict=True))


def prepare(run: Runtime, data: bytes, text: str | None, language: str | None) -> Voice:
    """A voice from a recording; the same one is prepared once. Not to be called in the GPU slot, which it may take."""
    transcriber = OnSlot(run) if run.transcriber else None
    return run.prepared.prepare(data, text, transcriber=transcriber, language=language)


def recording(run: Runtime, audio: ReferenceAudio) -> bytes:
    """The bytes of a recording, wherever the request says it is.

    Raises:
        RequestError: it is too large, not there, or may not be fetched from there.
    """
    if audio.data is not None:
        return audio.data
    if audio.url is not None:
        return fetch(audio.url, max_bytes=MAX_REFERENCE_BYTES, timeout_s=FETCH_S, network=Network(loopback=run.settings.loopback_urls))
    return _object(run.store, audio.s3_key or "")


def loaded_transcriber(run: Runtime) -> Transcriber:
    """The transcriber, its weights fetched and loaded: that may take minutes, for which nobody holds the GPU slot.

    Raises:
        TranscriberUnavailable: there is none, or it cannot be had.
    """
    if run.transcriber is None:
        raise TranscriberMissing("this worker has no model that recognises speech")
    with run.transcriber.loaded():
        return run.transcriber


def mono(data: bytes) -> tuple[Samples, int]:
    """A recording to transcribe, and its rate in Hz.

    Raises:
        ReferenceInvalid: it cannot be read, or is longer than can be transcribed in one job.
    """
    max_seconds = MAX_TRANSCRIBED_S + PADDING_S
    samples, rate_hz = decode(data, max_seconds=max_seconds)
    if is_cut(samples, rate_hz, max_seconds):
        raise ReferenceInvalid(f"the recording is too long: send pieces of at most {MAX_TRANSCRIBED_S:.0f} s, at 48 kHz or less")
    return downmix(samples), rate_hz


def _voice(run: Runtime, source: VoiceSource) -> Voice:
    if source.ref_audio is not None:  # in which language nobody said: `language` is that of the text
        return prepare(run, recording(run, source.ref_audio), source.ref_text, None)
    return run.saved_voices.use(source.voice or run.settings.default_voice)


def _object(store: GuardedStore | None, key: str) -> bytes:
    if store is None:
        raise RequestError("ref_audio: this worker has no bucket to read 's3_key' from")
    try:
        return store.get(key, max_bytes=MAX_REFERENCE_BYTES)
    except StoreNotFound as exc:
        raise RequestError("ref_audio: there is no object of that 's3_key'") from exc
    except StoreCorrupt as exc:
        raise RequestError(f"ref_audio: the object of that 's3_key' has more than {MAX_REFERENCE_BYTES} bytes") from exc


class OnSlot:
    """A transcriber whose work is done in the GPU slot, wherever it is asked from."""

    def __init__(self, run: Runtime) -> None:
        self._run = run

    def transcribe(self, samples: Samples, rate_hz: int, language: str | None = None) -> Transcript:
        transcriber = loaded_transcriber(self._run)
        return self._run.gpu.submit(copy_context().run, transcriber.transcribe, samples, rate_hz, language).result()
