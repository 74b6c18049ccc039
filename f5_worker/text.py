"""Text for the model: cleaned, checked and cut into chunks that fit one pass.

Lengths are UTF-8 bytes where they stand for speaking time, because F5-TTS estimates durations in bytes.
"""

# ruff: noqa: RUF001 - the marks of other scripts are meant

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise

from f5_worker.errors import TextEmpty, TextTooLong
from f5_worker.rewrite import Claim, Rewritten

MAX_CHARS = 50_000
SHORT_BYTES = 10  # F5-TTS speaks shorter chunks at a third of the speed
_FULL_WIDTH = {ord(char) + 0xFEE0: char for char in f"%{string.digits}{string.ascii_letters}"}
_PLAIN = str.maketrans(_FULL_WIDTH | {"\u2010": "-", "\u2011": "-", "\u2028": "\n", "\u2029": "\n"})
_BLANK = re.compile(r"[\0 \n]+")  # \0 stands for a character that is not seen
_MAX_MARKS = 30  # of one letter (UAX #15, Stream-Safe Text): ordering 50,000 of them takes seconds, in which no other thread runs
NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai to Khmer, kana, Han
_CLOSERS = r"(?:[\"'”’“‘»)\]」』】）》]|(?<=[.!?…]) ?»)*"
# Marks are taken as a whole run: tried from each of its marks, one of 50,000 takes minutes and lets no other thread on meanwhile.
# A sentence ends at a mark followed by a space, at a mark of a script without spaces or with marks of its own, and at a line's end.
_SENTENCE = re.compile(
    rf"(?:(?<![.!?…])[.!?…]++{_CLOSERS}(?=\s|[{NO_SPACES}])|[。！？｡؟۔।॥։።။។།༎]+{_CLOSERS}|……{_CLOSERS}|(?=\n))\s*",
)
_CLAUSE = re.compile(rf"(?:[,;:]{_CLOSERS}(?=\s|[{NO_SPACES}])|[，；：、،؛]{_CLOSERS}|\s[–—-](?=\s)|—|(?=\n))\s*")
_WORD = re.compile(r"\s+")
# Never the end of a sentence, but for those of the next four kinds.
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """
        mr mrs ms dr prof mt capt lt sgt pres vs e.g i.e cf al approx dept est z.b d.h u.a bzw ca str hr fr mme mlle m sra srta ud uds
        u.s u.k т.е т.д т.п г ул др p.ej
        """,
    )
)
_TITLES = frozenset({"St", "Gen", "Col", "Rev", "Hon", "Gov", "Sen", "Rep"})  # with a small letter some of them are words
_BEFORE_NUMBER = frozenset({"no", "nos", "nr", "fig", "figs", "vol", "pp", "eq", "sec", "ch", "col"})  # without one, too
_OF_DATES = frozenset(
    {"jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec", "mon", "tue", "wed", "thu", "fri", "sat", "sun"}
)
_MAYBE_END = frozenset({"etc", "inc", "ltd", "co", "corp", "bros", "jr", "sr", "a.m", "p.m", "usw"})  # when a capital follows
_NUMERAL = re.compile(r"\d|[A-Z]\d{1,3}\b|(?:[IVXLC]{2,}|[VX])\b")
_LETTER = re.compile(r"[A-Z]\b")
_FIRST_WORD = re.compile(r"[^\W\d_]{1,5}\b")
_LAST_WORD = re.compile(r"([^\s(\[\"“'‘«]+)\.$")


def clean(text: str) -> Rewritten:
    """Composed characters, single spaces, line breaks (two between paragraphs); no control or invisible characters.

    Raises:
        TextTooLong: more than MAX_CHARS characters.
        TextEmpty: no letter and no digit is left.
    """
    if len(text) > MAX_CHARS:
        raise TextTooLong(f"the text has {len(text)} characters, at most {MAX_CHARS} are allowed: split it into several jobs")
    cleaned = tidied(text)
    if not any(char.isalnum() for char in cleaned.text):
        raise TextEmpty("the text holds nothing that can be spoken: pass at least one word")
    return cleaned


def tidied(text: str) -> Rewritten:
    """The same of any text, also of none."""
    visible = _same_length(text)
    return Rewritten(visible, tuple(sorted([*_compositions(visible), *_blanks(visible)])))


def _same_length(text: str) -> str:
    """The text with a character for each: what is not seen becomes \\0, every other blank a space or a line break."""
    lines = text.replace("\0", " ").replace("\r\n", "\0\n").replace("\r", "\n").translate(_PLAIN)
    return lines.translate({ord(char): _visible(char) or "\0" for char in set(lines) if char not in "\n\0"})


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    if unicodedata.category(char) == "Cf":  # zero-width joiners, direction marks, soft hyphens, byte order marks
        return ""
    return "\n" if char in "\n\r\u2028\u2029" else " "  # the other kinds are controls, halves of pairs, private, unassigned, spaces


def _blanks(text: str) -> Iterator[Claim]:
    for match in _BLANK.finditer(text):
        start, end = match.span()
        at_edge = start == 0 or end == len(text)
        blank = "" if at_edge else "\n\n" if match[0].count("\n") > 1 else "\n" if "\n" in match[0] else " " if " " in match[0] else ""
        if blank != match[0]:
            yield start, end, blank


def _compositions(text: str) -> Iterator[Claim]:
    """Letters followed by marks that make one character with them."""
    if all(unicodedata.is_normalized("NFC", char) and not joins(char) for char in set(text)):
        return
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or not joins(text[end]) or end - start > _MAX_MARKS or text[start] in "\0 \n":
            composed = unicodedata.normalize("NFC", text[start:end])
            if composed != text[start:end]:
                yield start, end, composed
            start = end


def joins(char: str) -> bool:
    return unicodedata.category(char).startswith("M") or "\u1160" <= char <= "\u11ff"  # marks; Hangul vowels and final consonants


def spans(text: str, max_bytes: int) -> list[tuple[int, int]]:
    """Cut cleaned text into (start, end) of at most max_bytes UTF-8 bytes: at sentences, else clauses, else words, else characters.

    The spans touch; white space at their ends does not count.
    """
    max_bytes = max(max_bytes, 4)  # any single character fits
    packed = _pack(_split_sentences(text), max_bytes, max_bytes, (_split_clauses, _split_words, _split_letters, list))
    ends = list(accumulate(sum(map(len, atoms)) for atoms in _without_short_end(packed, max_bytes)))
    return list(pairwise([0, *ends]))


def opening(text: str, few_bytes: int) -> int:
    """Where a short beginning of cleaned text ends, of which there is at least twice as much.

    After few_bytes at most, at the end of a sentence, else of a clause; when there is none in their second half, after up to half as many
    more; else in their first half; else at a word.
    """
    few_bytes = max(few_bytes, 4)  # as in spans
    begun = text[: 4 * few_bytes]
    sentences = _split_sentences(begun)
    clauses = [clause for sentence in sentences for clause in _split_clauses(sentence)]
    for least, most in ((few_bytes // 2, few_bytes), (few_bytes, few_bytes * 3 // 2), (0, few_bytes // 2)):
        for atoms in (sentences, clauses):
            ends = [end for end in accumulate(map(len, atoms)) if max(least, SHORT_BYTES) <= _bytes(begun[:end].rstrip()) <= most]
            if ends:
                return ends[-1]
    return spans(begun, few_bytes)[0][1]


def chunk(text: str, max_bytes: int) -> list[str]:
    """The texts of `spans`, line breaks as spaces."""
    chunks = [" ".join(text[start:end].split()) for start, end in spans(text, max_bytes)]
    return [piece for piece in chunks if piece]


_Splitter = Callable[[str], list[str]]


def _pack(atoms: list[str], max_bytes: int, target: int, finer: tuple[_Splitter, ...], begun: tuple[str, ...] = ()) -> list[list[str]]:
    """Fill chunks with atoms up to target bytes, the first one after what is begun.

    An atom longer than max_bytes is cut by the next finer splitter, and so is one that would leave a short chunk before it alone.
    """
    chunks: list[list[str]] = [[*begun]]
    size = sum(map(_bytes, begun))
    for atom in atoms:
        length, seen = _bytes(atom), _bytes(atom.rstrip())
        short = 0 < size < min(SHORT_BYTES, max_bytes // 4)
        if size + seen <= target:
            chunks[-1].append(atom)
            size += length
        elif finer and (seen > max_bytes or (short and finer[0] in (_split_clauses, _split_words))):
            kept = tuple(chunks.pop()) if short else ()
            inner = max_bytes if finer[0] is _split_clauses else _even(size * short + length, max_bytes)
            chunks += _pack(finer[0](atom), max_bytes, inner, finer[1:], kept)
            size, target = sum(map(_bytes, chunks[-1])), max_bytes
        else:
            chunks.append([atom])
            size = length
    return [atoms for atoms in chunks if atoms]


def _even(length: int, max_bytes: int) -> int:
    """Inside a clause, parts of about the same length sound better than full ones and a scrap."""
    even = math.ceil(length / math.ceil(length / max_bytes))
    return min(max_bytes, even + even // 4)


def _without_short_end(chunks: list[list[str]], max_bytes: int) -> list[list[str]]:
    """A last chunk of a word or two takes sentences of the one before along, a still shorter one clauses or words."""
    short = min(2 * SHORT_BYTES, max_bytes // 4)
    last = sum(map(_bytes, chunks[-1]))
    if len(chunks) < 2 or last >= short:
        return chunks
    for cut in (_whole, _split_clauses, _split_words) if last < SHORT_BYTES else (_whole,):
        atoms = [piece for atom in (*chunks[-2], *chunks[-1]) for piece in cut(atom)]
        at = _middle([_bytes(atom) for atom in atoms], short, max_bytes)
        if at:
            return [*chunks[:-2], atoms[:at], atoms[at:]]
    return chunks


def _middle(sizes: list[int], least: int, most: int) -> int | None:
    """Where two parts are of about the same size, the second one at least and both at most so large."""
    cuts = [(first, at) for at, first in enumerate(accumulate(sizes[:-1]), start=1)]
    fitting = [(abs(2 * first - sum(sizes)), at) for first, at in cuts if first <= most and least <= sum(sizes) - first <= most]
    return min(fitting)[1] if fitting else None


def _bytes(text: str) -> int:
    return len(text.encode())


def _cut(text: str, at: list[int]) -> list[str]:
    bounds = [0, *at, len(text)]
    return [text[start:end] for start, end in pairwise(bounds) if end > start]


def _whole(text: str) -> list[str]:
    return [text]


def _split_sentences(text: str) -> list[str]:
    return _cut(text, [match.end() for match in _SENTENCE.finditer(text) if _ends_sentence(text, match)])


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    follows = text[match.end() : match.end() + 1]
    if "\n\n" in match[0] or not match[0].startswith((".", "\n")):
        return True
    if match[0] == "\n":
        return not follows.islower()  # else a line that was wrapped
    word = _LAST_WORD.search(text[max(0, match.start() - 20) : match.start() + 1])
    written = word[1] if word else ""
    last = written.lower()
    if match[0].startswith(".."):
        return not follows.islower()
    if last in _MAYBE_END:
        return follows.isupper()
    if written in _TITLES or (last in _BEFORE_NUMBER | _OF_DATES and _goes_on(written, text, match.end())):
        return False
    initial = len(last) == 1 and last.isalpha() and last != "i"
    return not (initial or last in _ABBREVIATIONS or follows.islower())


def _goes_on(written: str, text: str, at: int) -> bool:
    """Whether a number follows, or a month after a day: no. 5, vol. II, Fig. A, Sun. Jan. 5."""
    if written.lower() in _BEFORE_NUMBER:
        lettered = written[:1].isupper() and written != "No" and _LETTER.match(text, at)
        return bool(lettered or _NUMERAL.match(text, at))
    follows = _FIRST_WORD.match(text, at)
    return text[at : at + 1].isdecimal() or (follows is not None and follows[0].lower() in _OF_DATES)


def _split_clauses(text: str) -> list[str]:
    return _cut(text, [match.end() for match in _CLAUSE.finditer(text)])


def _split_words(text: str) -> list[str]:
    return _cut(text, [match.end() for match in _WORD.finditer(text)])


def _split_letters(text: str) -> list[str]:
    """Characters with the marks that belong to them."""
    return _cut(text, [at for at, char in enumerate(text) if not joins(char)])
