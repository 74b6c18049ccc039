"""Text for the model: cleaned, checked and cut into chunks that fit one pass.

Lengths are UTF-8 bytes where they stand for speaking time, because F5-TTS estimates durations in bytes.
"""

# ruff: noqa: RUF001 - the marks of other scripts are meant

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from itertools import accumulate, pairwise

from f5_worker.errors import TextEmpty, TextTooLong

MAX_CHARS = 50_000
SHORT_BYTES = 10  # F5-TTS speaks shorter chunks at a third of the speed
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n[\n ]*")
_CLOSERS = r"[\"'”’»)\]」』】）》]*"
# A sentence ends at a mark followed by a space, at a CJK, Arabic or Indic mark, or at a line's end.
_SENTENCE = re.compile(rf"(?:[.!?…]+{_CLOSERS}(?=\s)|[。！？｡؟۔।॥]+{_CLOSERS}|……{_CLOSERS}|(?=\n))\s*")
_CLAUSE = re.compile(rf"(?:[,;:]{_CLOSERS}(?=\s)|[，；：、،؛]{_CLOSERS}|\s[–—-](?=\s)|—)\s*")
_WORD = re.compile(r"\s+")
# Never the end of a sentence; those in _MAYBE_END are one when a capital follows.
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """
        mr mrs ms dr prof st mt gen col capt lt sgt rev hon gov sen rep pres vs no nos fig figs vol pp eq sec ch e.g i.e cf al approx
        dept est jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun z.b d.h u.a bzw ca nr str hr fr
        mme mlle m sra srta ud uds
        """,
    )
)
_MAYBE_END = frozenset({"etc", "inc", "ltd", "co", "corp", "bros", "jr", "sr", "a.m", "p.m", "u.s", "u.k", "usw"})
_LAST_WORD = re.compile(r"([^\s(\[\"“'‘]+)\.$")


def clean(text: str) -> str:
    """Composed characters, single spaces and line breaks; no control or invisible characters.

    Raises:
        TextTooLong: more than MAX_CHARS characters.
        TextEmpty: no letter and no digit is left.
    """
    if len(text) > MAX_CHARS:
        raise TextTooLong(f"the text has {len(text)} characters, at most {MAX_CHARS} are allowed: split it into several jobs")
    composed = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    visible = "".join(_visible(char) for char in composed)
    cleaned = _LINES.sub("\n", _SPACES.sub(" ", visible)).strip()
    if not any(char.isalnum() for char in cleaned):
        raise TextEmpty("the text holds nothing that can be spoken: pass at least one word")
    return cleaned


def _visible(char: str) -> str:
    if char == "\n" or char in "\u2028\u2029":
        return "\n"
    category = unicodedata.category(char)
    if category == "Cf":  # zero-width joiners, direction marks, soft hyphens, byte order marks
        return ""
    return " " if category in {"Cc", "Cs", "Co", "Cn", "Zs"} else char


def spans(text: str, max_bytes: int) -> list[tuple[int, int]]:
    """Cut cleaned text into (start, end) of at most max_bytes UTF-8 bytes: at sentences, else clauses, else words, else characters.

    The spans touch; white space at their ends does not count.
    """
    max_bytes = max(max_bytes, 4)  # any single character fits
    packed = _pack(_split_sentences(text), max_bytes, max_bytes, (_split_clauses, _split_words, list))
    ends = list(accumulate(sum(map(len, atoms)) for atoms in _without_short_end(packed, max_bytes)))
    return list(pairwise([0, *ends]))


def chunk(text: str, max_bytes: int) -> list[str]:
    """The texts of `spans`, line breaks as spaces."""
    chunks = [" ".join(text[start:end].split()) for start, end in spans(text, max_bytes)]
    return [piece for piece in chunks if piece]


def unknown_characters(text: str, knows: Callable[[str], bool]) -> dict[str, list[int]]:
    """Characters of the text as it was sent that the model cannot speak, with their positions; white space and controls aside."""
    found: dict[str, list[int]] = {}
    known: dict[str, bool] = {}
    for position, char in enumerate(text):
        if char not in known:
            known[char] = not _visible(char).strip() or knows(char)
        if not known[char] and not _composes(text, position):
            found.setdefault(char, []).append(position)
    return found


def _composes(text: str, position: int) -> bool:
    """Whether the character is an accent that becomes one with the letter before it."""
    return position > 0 and len(unicodedata.normalize("NFC", text[position - 1 : position + 1])) == 1


_Splitter = Callable[[str], list[str]]


def _pack(atoms: list[str], max_bytes: int, target: int, finer: tuple[_Splitter, ...]) -> list[list[str]]:
    """Fill chunks with atoms up to target bytes; an atom longer than max_bytes is cut by the next finer splitter."""
    chunks: list[list[str]] = [[]]
    size = 0
    for atom in atoms:
        length = _bytes(atom)
        if length > max_bytes and finer:
            chunks += _pack(finer[0](atom), max_bytes, max_bytes if finer[0] is _split_clauses else _even(length, max_bytes), finer[1:])
            size, target = sum(map(_bytes, chunks[-1])), max_bytes
        elif size + _bytes(atom.rstrip()) > target:
            chunks.append([atom])
            size = length
        else:
            chunks[-1].append(atom)
            size += length
    return [atoms for atoms in chunks if atoms]


def _even(length: int, max_bytes: int) -> int:
    """Inside a clause, parts of about the same length sound better than full ones and a scrap."""
    even = math.ceil(length / math.ceil(length / max_bytes))
    return min(max_bytes, even + even // 4)


def _without_short_end(chunks: list[list[str]], max_bytes: int) -> list[list[str]]:
    """A last chunk of a word or two takes the sentence before it along."""
    if len(chunks) > 1 and len(chunks[-2]) > 1:
        last = sum(map(_bytes, chunks[-1]))
        if last < min(2 * SHORT_BYTES, max_bytes // 4) and last + _bytes(chunks[-2][-1]) <= max_bytes:
            chunks[-1].insert(0, chunks[-2].pop())
    return chunks


def _bytes(text: str) -> int:
    return len(text.encode())


def _cut(text: str, at: list[int]) -> list[str]:
    bounds = [0, *at, len(text)]
    return [text[start:end] for start, end in pairwise(bounds) if end > start]


def _split_sentences(text: str) -> list[str]:
    return _cut(text, [match.end() for match in _SENTENCE.finditer(text) if _ends_sentence(text, match)])


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    if not match[0].startswith(".") or "\n" in match[0]:
        return True
    follows = text[match.end() : match.end() + 1]
    word = _LAST_WORD.search(text[max(0, match.start() - 20) : match.start() + 1])
    last = word[1].lower() if word else ""
    if match[0].startswith(".."):
        return not follows.islower()
    if last in _MAYBE_END:
        return follows.isupper()
    initial = len(last) == 1 and last.isalpha() and last != "i"
    return not (initial or last in _ABBREVIATIONS or follows.islower())


def _split_clauses(text: str) -> list[str]:
    return _cut(text, [match.end() for match in _CLAUSE.finditer(text)])


def _split_words(text: str) -> list[str]:
    return _cut(text, [match.end() for match in _WORD.finditer(text)])
