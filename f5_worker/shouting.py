"""English words in capital letters: F5-TTS spells them out, so shouted words become small ones and acronyms stay."""

from __future__ import annotations

import re

from f5_worker.english_forms import COMMON, MAYBE_NAMES, SAID_AS_WORDS, SPELLED
from f5_worker.rewrite import Rule

_CAPITALS = r"[A-Z]+(?:['\u2019][A-Z]+)?"
_BEFORE = re.compile(rf"(?:(?<![A-Za-z])({_CAPITALS})[ ,;:!?\u2026-]{{1,3}})?(?<![A-Za-z])({_CAPITALS})[ ,;:!?\u2026-]{{1,3}}$")
_AFTER = re.compile(rf"[ ,;:!?\u2026-]{{1,3}}({_CAPITALS})(?![A-Za-z])(?:[ ,;:!?\u2026-]{{1,3}}({_CAPITALS})(?![A-Za-z]))?")
_WINDOW_CHARS = 40
_ROMAN = re.compile("M*(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_RUN = 3  # so many words in capitals in a row are shouted


def _word(match: re.Match[str]) -> str | None:
    word = match[0]
    if word in SAID_AS_WORDS:
        return word.capitalize()
    if not (_surely_shouted(word) or _among_shouted(match)):
        return None
    before = match.string[max(0, match.start() - 5) : match.start()]
    seen = before.rstrip(" \n\"'(\u201c\u2018")
    starts = "\n\n" in before or seen.endswith((".", "!", "?")) or (not seen and match.start() < 5)
    return word.capitalize() if starts or word.startswith(("I'", "I\u2019")) else word.lower()


def _surely_shouted(word: str) -> bool:
    stem, _, ending = word.replace("\u2019", "'").partition("'")
    if ending and ending != "S":  # DON'T, but the FBI'S
        return True
    if len(stem) == 1 or stem in SPELLED or _ROMAN.fullmatch(stem):
        return False
    small = stem.lower()
    return (len(stem) > 4 and bool(re.search("[AEIOUY]", stem))) or (small in COMMON and small not in MAYBE_NAMES) or word == "IT'S"


def _among_shouted(match: re.Match[str]) -> bool:
    """Among at least three words in capitals, one of which is no acronym for sure."""
    word = match[0]
    if word == "I" or (word in SPELLED and word.lower() not in MAYBE_NAMES) or not re.search("[AEIOUY]", word):
        return False
    before = _BEFORE.search(match.string[max(0, match.start() - _WINDOW_CHARS) : match.start()])
    after = _AFTER.match(match.string, match.end(), match.end() + _WINDOW_CHARS)
    around = [found for side in (before, after) if side for found in side.groups() if found]
    return len(around) + 1 >= _RUN and any(map(_surely_shouted, around))


CAPITALS: Rule = (re.compile(rf"(?<![A-Za-z0-9_'\u2019&.]){_CAPITALS}(?![A-Za-z0-9_&]|['\u2019][a-z]|\.[A-Z])"), _word)
