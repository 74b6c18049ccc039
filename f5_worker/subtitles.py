"""Subtitles: what was said and when, as srt, vtt, ass or json. A file says the text as it was sent, whatever is in it."""

from __future__ import annotations

import html
import importlib
import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from f5_worker.line_breaks import LINE_COLUMNS, Breakable, one_line

CONTENT_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt", "ass": "text/x-ssa", "json": "application/json"}
MAX_SECONDS = 7.0  # that one caption is shown
_CAPTION_COLUMNS = 2 * LINE_COLUMNS - 4  # lines that end between words are seldom full
_GREY = (160, 160, 160)


@dataclass(frozen=True)
class Word:
    """A word of a cue, as it is written there."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Cue:
    """What is said from start_s to end_s; its words in order, where they are known."""

    text: str
    start_s: float
    end_s: float
    words: Sequence[Word] | None = None


def render(cues: Sequence[Cue], fmt: str) -> str:
    """The file. json holds the cues as they are; the others hold captions of at most two lines of LINE_COLUMNS and MAX_SECONDS.

    A cue that has no words and is too much for one caption is divided in proportion to its characters: an estimate.
    What would be taken for markup is written in vtt as an entity; srt and ass have none: there it is the character's full-width form,
    which is equal to it under Unicode's NFKC.

    Raises:
        KeyError: fmt is not one of CONTENT_TYPES.
    """
    if fmt == "json":
        return json.dumps({"segments": [_as_json(cue) for cue in cues]}, ensure_ascii=False, indent=1)
    escape = _ESCAPES[fmt]
    pysubs2 = importlib.import_module("pysubs2")  # only for those who ask for subtitles
    file = pysubs2.SSAFile()
    for caption in (caption for cue in cues for caption in _captions(cue)):
        text = _with_karaoke(caption, escape) if fmt == "ass" and caption.words else r"\N".join(map(escape, caption.lines()))
        start_ms = round(1000 * caption.start_s)
        file.append(pysubs2.SSAEvent(start=start_ms, end=max(start_ms, round(1000 * caption.end_s)), text=text))
    if fmt == "ass":
        file.styles["Default"].secondarycolor = pysubs2.Color(*_GREY)  # of words that are not yet spoken
    return str(file.to_string(fmt))


@dataclass(frozen=True)
class _Placed:
    """A word and where it begins in the text."""

    start: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class _Caption:
    text: str  # of the whole cue
    borders: list[int]  # of the lines in it
    start_s: float
    end_s: float
    words: list[_Placed]

    def lines(self) -> list[str]:
        return [self.text[start:end].strip(" ") for start, end in pairwise(self.borders)]


def _captions(cue: Cue) -> list[_Caption]:
    text = Breakable(one_line(cue.text))
    clock = _Clock(text.text, cue)

    def split(start: int, end: int) -> list[_Caption]:
        start_s, end_s, words = clock.times(start, end)
        borders = text.lines(start, end)
        possible = text.breaks_between(start, end)
        if not possible or (borders and end_s - start_s <= MAX_SECONDS):
            return [_Caption(text.text, borders or [start, end], start_s, end_s, words)]
        parts = max(2, math.ceil(text.columns(start, end) / _CAPTION_COLUMNS), math.ceil((end_s - start_s) / MAX_SECONDS))
        left, right = ((count * _CAPTION_COLUMNS) for count in (parts // 2, parts - parts // 2))
        roomy = [at for at in possible if text.columns(start, at) <= left and text.columns(at, end) <= right]
        cut = text.best_break(start, end, roomy or possible, share=parts // 2 / parts, scale=_CAPTION_COLUMNS)
        return split(start, cut) + split(cut, end)

    return split(0, len(text.text)) if text.text else []


class _Clock:
    """When a part of a cue is said: as its words are, or in between in proportion to the characters."""

    def __init__(self, text: str, cue: Cue) -> None:
        self._words: list[_Placed] = []
        known, after = [(0, cue.start_s)], 0
        for word in cue.words or ():
            written = one_line(word.text)
            at = text.find(written, after)
            if written and at >= 0:
                after = at + len(written)
                self._words.append(_Placed(at, word.start_s, word.end_s))
                known += [(at, word.start_s), (after, word.end_s)]
        self._places, self._seconds = zip(*known, (max(len(text), 1), cue.end_s), strict=True)

    def times(self, start: int, end: int) -> tuple[float, float, list[_Placed]]:
        first, last = (bisect_left(self._words, place, key=lambda word: word.start) for place in (start, end))
        words = self._words[first:last]
        if words:
            return words[0].start_s, words[-1].end_s, words
        start_s, end_s = np.interp([start, end], self._places, self._seconds)
        return float(start_s), float(end_s), []


def _with_karaoke(caption: _Caption, escape: Callable[[str], str]) -> str:
    r"""The lines with ASS's \k before each word: it lights up when it is said. Durations in hundredths, without drift."""
    places = [caption.borders[0], *(word.start for word in caption.words[1:])]
    hundredths = [round(100 * (s - caption.start_s)) for s in (*(word.start_s for word in caption.words), caption.end_s)]
    tags = {place: rf"{{\k{later - now}}}" for place, (now, later) in zip(places, pairwise(hundredths), strict=True)}
    lines = []
    for start, end in pairwise(caption.borders):
        cuts = [start, *places[bisect_right(places, start) : bisect_left(places, end)], end]
        pieces = [caption.text[a:b] for a, b in pairwise(cuts)]
        pieces[-1] = pieces[-1].rstrip(" ")
        lines.append("".join(tags.get(cut, "") + escape(piece) for cut, piece in zip(cuts, pieces, strict=False)))
    return r"\N".join(lines)


def _escape_srt(text: str) -> str:
    """Tags, ASS overrides, arrows, pysubs2's line breaks, and the last colon of a time."""
    return re.sub(r"[{}]|<(?= */? *[a-zA-Z])|(?<=--)>|\\(?=[Nnh])|:(?=\d{1,2}[.,]\d)", _full_width, text)


def _escape_vtt(text: str) -> str:
    return re.sub(r"[{}]|\\(?=[Nnh])|:(?=\d{1,2}[.,]\d)", lambda found: f"&#{ord(found[0])};", html.escape(text, quote=False))


def _escape_ass(text: str) -> str:
    return re.sub(r"[{}]|\\(?=[Nnh]|$)", _full_width, text)


_ESCAPES = {"srt": _escape_srt, "vtt": _escape_vtt, "ass": _escape_ass}


def _full_width(found: re.Match[str]) -> str:
    return chr(ord(found[0]) + 0xFEE0)


def _as_json(cue: Cue) -> dict[str, object]:
    words = [{"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)} for word in cue.words or ()]
    segment = {"text": cue.text, "start": round(cue.start_s, 3), "end": round(cue.end_s, 3)}
    return segment if cue.words is None else {**segment, "words": words}
