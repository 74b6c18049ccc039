"""A text as the list of what is done to speak it: chunks of words that fit one pass of the model, and pauses."""

from __future__ import annotations

import re
from dataclasses import dataclass

from f5_worker import text as texts
from f5_worker.errors import RequestError, TextEmpty
from f5_worker.normalise import Spoken, normalise

MAX_PAUSE_S = 30.0
_PAUSE = re.compile(r"\s*\[pause:\s*(\d+(?:\.\d+)?)\s*(ms|s)\]\s*")


@dataclass(frozen=True)
class Chunk:
    """What one pass of the model says. `spoken` goes to the model, `written` is the part of the given text that it stands for."""

    spoken: str
    written: str
    pause_before_s: float = 0.0


@dataclass(frozen=True)
class Script:
    chunks: list[Chunk]
    pause_after_s: float  # at the very end
    warnings: list[tuple[str, str]]


def plan(text: str, max_bytes: int, *, normalize: bool = True, language: str | None = None, tags: bool = False) -> Script:
    """Cut the text into chunks of at most max_bytes UTF-8 bytes of spoken text.

    Args:
        normalize: Numbers, dates, amounts and the like are spoken as words.
        language: What the text is in, None to tell by the text.
        tags: `[pause:1.5s]` and `[pause:300ms]` are silences; else they are text.
    Raises:
        TextEmpty, TextTooLong: the text cannot be spoken.
        RequestError: a pause is longer than MAX_PAUSE_S.
    """
    cleaned = texts.clean(text)
    chunks: list[Chunk] = []
    pause_s, unknown = 0.0, False
    for part, pause_after_s in _parts(cleaned) if tags else [(cleaned, 0.0)]:
        if any(char.isalnum() for char in part):
            spoken = normalise(part, language) if normalize else Spoken(part)
            unknown |= spoken.language_unknown
            chunks += _chunks(part, spoken, max_bytes, pause_s)
            pause_s = 0.0
        pause_s += pause_after_s
    if not chunks:
        raise TextEmpty("the text holds nothing that can be spoken: pass at least one word")
    return Script(chunks, pause_s, _warnings(unknown=unknown))


def _parts(text: str) -> list[tuple[str, float]]:
    """(text, seconds of silence after it), in order."""
    parts, at = [], 0
    for match in _PAUSE.finditer(text):
        seconds = float(match[1]) / (1000 if match[2] == "ms" else 1)
        if seconds > MAX_PAUSE_S:
            raise RequestError(f"{match[0].strip()}: a pause lasts at most {MAX_PAUSE_S:g} s")
        parts.append((text[at : match.start()], seconds))
        at = match.end()
    return [*parts, (text[at:], 0.0)]


def _chunks(part: str, spoken: Spoken, max_bytes: int, pause_s: float) -> list[Chunk]:
    chunks: list[Chunk] = []
    for start, end in texts.spans(spoken.text, max_bytes):
        written_start, written_end = spoken.written(start, end)
        said, written = (" ".join(piece.split()) for piece in (spoken.text[start:end], part[written_start:written_end]))
        if any(char.isalnum() for char in said):
            chunks.append(Chunk(said, written, 0.0 if chunks else pause_s))
        elif chunks and said:  # marks that no word carries belong to the words before
            chunks[-1] = Chunk(chunks[-1].spoken, f"{chunks[-1].written} {written}", chunks[-1].pause_before_s)
    return chunks


def _warnings(*, unknown: bool) -> list[tuple[str, str]]:
    message = "digits are left as written, because rules exist for English and Chinese only: write numbers as words"
    return [("NUMBERS_NOT_NORMALISED", message)] if unknown else []
