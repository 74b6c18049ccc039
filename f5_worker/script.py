"""A text as the list of what is done to speak it: chunks of words that fit one pass of the model, by whom, and pauses."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from f5_worker import characters
from f5_worker import text as texts
from f5_worker.errors import RequestError, TextEmpty
from f5_worker.rewrite import Rewritten, Rule, apply

MAX_PAUSE_S = 30.0
_FIRST_SHARE = 3  # a short first chunk has a third of what a pass can say: some 5 s
FIRST_VOICE = "default"  # [voice:default], unless a voice of the request has that name
_MAX_WRITTEN_CHARS = 1_000  # a number of 50,000 digits is one word, for which each of 1,500 chunks stands
_TAG = re.compile(r"\s*\[(pause|voice):([^\[\]\n]*)\]\s*", re.IGNORECASE)
_PAUSE = re.compile(r"\s*(\d{1,5}(?:\.\d{1,3})?)\s*(ms|s)\s*", re.IGNORECASE)
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
# What a subtitle can show alone: a word, or a character of these scripts.
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_SINGLE = re.compile(f"[{_UNSPACED}]")


@dataclass(frozen=True)
class Span:
    """Characters spoken_start to spoken_end of a chunk's spoken text stand for start to end of the text as it was sent."""

    spoken_start: int
    spoken_end: int
    start: int
    end: int


@dataclass(frozen=True)
class Chunk:
    """What one pass of the model says. `spoken` goes to the model, `written` is the part of the given text that it stands for."""

    spoken: str
    written: str
    spans: tuple[Span, ...]  # the words in order; they touch no other and leave out only spaces of `spoken`
    voice: str | None = None  # alias; None: the voice that the text began with
    pause_before_s: float = 0.0


@dataclass(frozen=True)
class Script:
    chunks: list[Chunk]
    pause_after_s: float  # at the very end
    warnings: list[tuple[str, str]]


@dataclass(frozen=True)
class _Part:
    """Characters start to end of the cleaned text, in one voice, without a pause inside."""

    start: int
    end: int
    voice: str | None
    pause_before_s: float


def plan(
    text: str,
    max_bytes: Callable[[str | None], int],
    *,
    normalize: bool = True,
    language: str | None = None,
    tags: bool = False,
    voices: Collection[str] = (),
    short_start: bool = False,
) -> Script:
    """Cut the text into chunks that fit one pass of the model.

    Args:
        max_bytes: UTF-8 bytes of spoken text that one pass can say in a voice; None is the voice that the text begins with.
        normalize: Numbers, dates, amounts and the like are spoken as words.
        language: What the text is in, None to tell by the text.
        tags: `[pause:1.5s]` and `[pause:300ms]` are silences, `[voice:id]` is who speaks from there on, `[voice:]` and
            `[voice:default]` the first voice again; else they are text.
        voices: The ids that tags may name.
        short_start: The first chunk is a short one when what is said up to the first tag does not fit one pass, to be heard soon.
    Raises:
        TextEmpty, TextTooLong: the text cannot be spoken.
        RequestError: a tag is wrong: a pause longer than MAX_PAUSE_S, an unknown voice.
    """
    cleaned = texts.clean(text)
    parts, pause_after_s = _parts(cleaned.text, voices) if tags else ([_Part(0, len(cleaned.text), None, 0.0)], 0.0)
    rules = _rules(" ".join(cleaned.text[part.start : part.end] for part in parts), language) if normalize else []
    chunks: list[Chunk] = []
    long_words: list[int] = []
    for part in parts:
        spoken = apply(cleaned.text[part.start : part.end], rules)
        chunks += _chunks(cleaned, part, spoken, max_bytes(part.voice), short_start=short_start and not chunks)
        starts = (spoken.source(at, at + 1)[0] + part.start for at in characters.long_words(spoken.text))
        long_words += [cleaned.source(at, at + 1)[0] for at in starts]
    if not chunks:
        raise TextEmpty("the text holds nothing that can be spoken: pass at least one word")
    warnings = [*_left_out(text, cleaned, chunks, tags=tags), *_of_long(long_words), *(_of_numbers(chunks, language) if normalize else [])]
    return Script(chunks, pause_after_s, warnings)


def _rules(text: str, language: str | None) -> list[Rule]:
    from f5_worker.normalise import rules_for  # noqa: PLC0415 - compiles a hundred patterns

    return rules_for(text, language)


def _parts(text: str, voices: Collection[str]) -> tuple[list[_Part], float]:
    """What is spoken between the tags, and the seconds of silence after it."""
    parts: list[_Part] = []
    voice, pause_s, at = None, 0.0, 0
    for match in [*_TAG.finditer(text), None]:
        part = _Part(at, match.start() if match else len(text), voice, pause_s)
        if any(char.isalnum() for char in text[part.start : part.end]):
            parts.append(part)
            pause_s = 0.0
        if match and match[1].lower() == "pause":
            pause_s += _seconds(match[0].strip(), match[2])
        elif match:
            voice = _voice(match[0].strip(), match[2].strip(), voices)
        at = match.end() if match else at
    return parts, pause_s


def _seconds(tag: str, asked: str) -> float:
    match = _PAUSE.fullmatch(asked)
    if match is None:
        raise _wrong(tag, "write a pause as [pause:1.5s] or [pause:300ms]")
    seconds = float(match[1]) / (1000 if match[2].lower() == "ms" else 1)
    if seconds > MAX_PAUSE_S:
        raise _wrong(tag, f"a pause lasts at most {MAX_PAUSE_S:g} s")
    return seconds


def _voice(tag: str, asked: str, voices: Collection[str]) -> str | None:
    if asked in voices:
        return asked
    if asked in {"", FIRST_VOICE}:
        return None
    known = ", ".join(sorted(voices)) or "none, because the request has no `voices`"
    raise _wrong(tag, f"there is no such voice; known are: {known}")


def _wrong(tag: str, why: str) -> RequestError:
    from f5_worker.fields import shown  # noqa: PLC0415 - pydantic is not needed to speak

    return RequestError(f"{shown(tag)}: {why}")


def _chunks(cleaned: Rewritten, part: _Part, spoken: Rewritten, max_bytes: int, *, short_start: bool) -> list[Chunk]:
    chunks: list[Chunk] = []
    for start, end in _bounds(spoken.text, max_bytes, short_start=short_start):
        written_start, written_end = spoken.source(start, end)
        written = _shortened(" ".join(spoken.written[written_start:written_end].split()))
        if any(char.isalnum() for char in spoken.text[start:end]):
            said, spans = _words(cleaned, part, spoken, start, end)
            chunks.append(Chunk(said, written, spans, part.voice, 0.0 if chunks else part.pause_before_s))
        elif chunks and written:  # marks that no word carries belong to the words before
            chunks[-1] = replace(chunks[-1], written=f"{chunks[-1].written} {written}")
    return chunks


def _bounds(text: str, max_bytes: int, *, short_start: bool) -> list[tuple[int, int]]:
    if not short_start or len(text.encode()) <= max_bytes:
        return texts.spans(text, max_bytes)
    first = texts.opening(text, max_bytes // _FIRST_SHARE)
    return [(0, first), *((first + start, first + end) for start, end in texts.spans(text[first:], max_bytes))]


def _shortened(written: str) -> str:
    return written if len(written) <= _MAX_WRITTEN_CHARS else written[: _MAX_WRITTEN_CHARS - 1] + "…"


def _words(cleaned: Rewritten, part: _Part, spoken: Rewritten, start: int, end: int) -> tuple[str, tuple[Span, ...]]:
    """The spoken text of a chunk with single spaces, and where its words come from."""
    said = ""
    spans: list[Span] = []
    for word_start, word_end in _grouped(spoken, start, end):
        said += " " if said and spoken.text[word_start - 1].isspace() else ""
        source_start, source_end = spoken.source(word_start, word_end)
        sent = cleaned.source(part.start + source_start, part.start + source_end)
        words = " ".join(spoken.text[word_start:word_end].split())
        spans.append(Span(len(said), len(said) + len(words), *sent))
        said += words
    return said, tuple(spans)


def _grouped(spoken: Rewritten, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Words of the spoken text; those that stand for one written word are one, and marks go with the word before."""
    group: tuple[int, int] | None = None
    for match in _TOKEN.finditer(spoken.text, start, end):
        if group is None:
            group = match.span()
        elif _belongs(spoken, group, match):
            group = group[0], match.end()
        else:
            yield group
            group = match.span()
    if group:
        yield group


def _belongs(spoken: Rewritten, group: tuple[int, int], match: re.Match[str]) -> bool:
    end, start = spoken.source(*group)[1], spoken.source(*match.span())[0]
    one_word = start < end or (start == end and not _SINGLE.search(spoken.written[max(0, end - 1) : start + 1]))
    marks = not any(map(str.isalnum, match[0])) or not any(map(str.isalnum, spoken.text[slice(*group)]))
    return one_word or marks


def _of_long(words: list[int]) -> list[tuple[str, str]]:
    if not words:
        return []
    which = f"{len(words)}, the first at {words[0]}"
    message = f"words of more than {characters.MAX_WORD_CHARS} characters: {which}; no voice can speak them, and they are cut anywhere"
    return [("WORD_TOO_LONG", message)]


def _left_out(text: str, cleaned: Rewritten, chunks: list[Chunk], *, tags: bool) -> list[tuple[str, str]]:
    """Signs between two pauses, or so many that they fill a chunk, with no word to go with, and what is no character that can be said.

    Marks of punctuation are not missed.
    """
    used = bytearray(len(text))
    sent_tags = [cleaned.source(*match.span()) for match in _TAG.finditer(cleaned.text)] if tags else []
    for start, end in [*sent_tags, *((span.start, span.end) for chunk in chunks for span in chunk.spans)]:
        used[start:end] = b"\1" * (end - start)
    apart: dict[str, list[int]] = {}
    for at, char in enumerate(text):
        if not used[at] and unicodedata.category(char).startswith("S"):
            apart.setdefault(char, []).append(at)
    return characters.left_out_warnings({"stand apart from any word": apart, **characters.unsayable(text)})


def _of_numbers(chunks: list[Chunk], language: str | None) -> list[tuple[str, str]]:
    from f5_worker.normalise import is_guess  # noqa: PLC0415 - see _rules

    if any(char.isdecimal() for chunk in chunks for char in chunk.spoken):
        message = "digits are left as written, because rules exist for English and Chinese only: write numbers as words"
        return [("NUMBERS_NOT_NORMALISED", message)]
    written = " ".join(chunk.written for chunk in chunks)
    if not language and any(map(str.isdecimal, written)) and is_guess(written):
        return [("LANGUAGE_GUESSED", "numbers are spoken in English, but the text does not tell its language: pass language")]
    return []
