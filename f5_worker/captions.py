"""When what is said: segments by the engine's own offsets, words by aligning the known text with the audio, and subtitles of both.

Nothing here is estimated: without an aligner there are no words.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from f5_worker import device, subtitles
from f5_worker.casting import loaded_transcriber
from f5_worker.delivery import File
from f5_worker.errors import Cancelled, EngineError, RequestError, WorkerError
from f5_worker.jobs import Job, Result, Runtime, in_thread
from f5_worker.speech import Segment, Speech

if TYPE_CHECKING:
    from f5_worker import request
    from f5_worker.align import AlignedWord
    from f5_worker.transcribe import Transcriber

log = logging.getLogger(__name__)

# What a defect raises in code that only computes with texts and numbers: the speech that it is about is delivered all the same.
_DEFECTS = (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RuntimeError, ImportError)


@dataclass(frozen=True)
class Captions:
    described: Result  # `segments` and `words` of the result, as far as they were asked for
    files: list[File]


async def caption(run: Runtime, job: Job, asked: request.Speech, speech: Speech) -> Captions:
    """Timestamps and subtitles of a speech; without an aligner, a warning and no words."""
    words = await _aligned(run, job, asked, speech) if asked.timestamps == "word" else None
    described: Result = {}
    if asked.timestamps != "none":
        described["segments"] = [_timed(segment.text, *_seconds(segment, speech)) for segment in speech.segments]
    if words is not None:
        described["words"] = [word for of_segment in words for word in of_segment]
    return Captions(described, await in_thread(lambda: list(_files(job, asked.subtitles or [], speech, words))))


async def _aligned(run: Runtime, job: Job, asked: request.Speech, speech: Speech) -> list[list[Result]] | None:
    """The words of every segment; None when they cannot be had: the speech is delivered all the same."""
    try:
        with job.timed("align"):
            transcriber = await in_thread(loaded_transcriber, run)
            words = await run.on_gpu(_align, transcriber, job, asked, speech)
    except Cancelled:
        raise
    except WorkerError as error:
        log.warning("align outcome=unavailable error=%r", str(error), exc_info=error if isinstance(error, EngineError) else None)
        job.worn_out |= error.worn_out
        job.warnings.append((error.code, f"there are no word timestamps: {error.message}"))
        return None
    if silent := sum(not of_segment for of_segment in words):
        job.warnings.append(
            ("WORDS_NOT_ALIGNED", f"the words of {silent} segments could not be found in the audio: they have no timestamps")
        )
    return words


def _align(transcriber: Transcriber, job: Job, asked: request.Speech, speech: Speech) -> list[list[Result]]:
    from f5_worker.align import align  # noqa: PLC0415 - only for jobs that want words

    texts = [passage.text for passage in asked.passages()]
    language = _known(transcriber, asked.language)
    found = []
    for segment in speech.segments:
        if job.cancelled.is_set():
            raise Cancelled("the job was stopped")
        spoken = speech.samples[segment.start : segment.end]
        try:
            aligned = align(transcriber, spoken, speech.sample_rate_hz, segment.chunk.spoken, language=language)
            found.append(list(_written(segment, aligned, texts[segment.passage], segment.start / speech.sample_rate_hz)))
        except _DEFECTS as exc:  # CUDA tells of its errors at a later call
            raise device.failure(exc)("the words could not be aligned with the audio") from exc
    return found


def _known(transcriber: Transcriber, language: str | None) -> str | None:
    """The model's code of the text's language; None, so that the sound tells, when the model does not know it."""
    try:
        return transcriber.code(language)
    except RequestError:
        return None


def _written(segment: Segment, aligned: Sequence[AlignedWord], text: str, offset_s: float) -> Iterator[Result]:
    """The words as the request has them: "$3.50" and not "three dollars fifty"."""
    for span in segment.chunk.spans:
        inside = [word for word in aligned if word.start < span.spoken_end and word.end > span.spoken_start]
        if inside:
            start_s, end_s = min(word.start_s for word in inside), max(word.end_s for word in inside)
            yield _timed(text[span.start : span.end], offset_s + start_s, offset_s + end_s)


def _files(job: Job, formats: Sequence[str], speech: Speech, words: list[list[Result]] | None) -> Iterator[File]:
    """The subtitles; one that cannot be made is a warning."""
    for fmt in dict.fromkeys(formats):
        try:
            yield File(subtitles.render(list(_cues(speech, words)), fmt).encode(), fmt, subtitles.CONTENT_TYPES[fmt])
        except _DEFECTS as error:
            log.warning("subtitles outcome=failed format=%s", fmt, exc_info=error)
            job.warnings.append(("SUBTITLES_NOT_DELIVERED", f"{fmt}: they could not be made; the worker's log has the cause"))


def _cues(speech: Speech, words: list[list[Result]] | None) -> Iterator[subtitles.Cue]:
    for index, segment in enumerate(speech.segments):
        start_s, end_s = _seconds(segment, speech)
        said = [subtitles.Word(word["text"], word["start_s"], word["end_s"]) for word in words[index]] if words else None
        yield subtitles.Cue(segment.text, start_s, end_s, said)


def _seconds(segment: Segment, speech: Speech) -> tuple[float, float]:
    return segment.start / speech.sample_rate_hz, segment.end / speech.sample_rate_hz


def _timed(text: str, start_s: float, end_s: float) -> dict[str, Any]:
    return {"text": text, "start_s": round(start_s, 3), "end_s": round(end_s, 3)}
