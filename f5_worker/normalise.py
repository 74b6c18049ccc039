"""Numbers, dates, amounts, units and addresses as the words that are spoken, for English and Chinese.

F5-TTS was trained on written-out text and guesses at digits. Rules claim spans of the text in order; what no rule claims is left as it is.
"""

# ruff: noqa: SIM905 - lists of words read better as text

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str | None]]  # None: not this rule's business after all

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+")
_NEAR_CHARS = 12  # how far around a number its language is looked for
# Frequent words that tell English from other languages in the Latin script.
_ENGLISH = frozenset(
    "the and of to in is it that was for on are with as at be this have from or by not but what all were we you he she".split()
)
_OTHERS = frozenset(
    re.findall(
        r"\w+",
        """der die das und ist nicht ein eine den dem von mit auf es im zu le la les et est un une des du que qui pas pour dans el los las
        y en por con una se il che non per di della sono o os uma não het een van dat nie jest się na og er det att och är ve bir bu""",
    )
)


@dataclass(frozen=True)
class Spoken:
    """The text to speak and where it comes from."""

    text: str
    claims: tuple[tuple[int, int, str], ...] = ()  # (start, end, words): this span of the written text is spoken as the words
    language_unknown: bool = False  # digits are left that no rule of a known language covers

    def written(self, start: int, end: int) -> tuple[int, int]:
        """The span of the written text that a span of the spoken text stands for; a replacement counts as a whole."""
        return self._written(start, last=False), self._written(end, last=True)

    def _written(self, position: int, *, last: bool) -> int:
        shift = 0
        for start, end, words in self.claims:
            spoken_start = start + shift
            if position <= spoken_start:
                break
            if position < spoken_start + len(words):
                return end if last else start
            shift += len(words) - (end - start)
        return position - shift


def apply(text: str, rules: Sequence[Rule]) -> Spoken:
    """Rewrite the text by the rules; an earlier rule keeps its span from later ones."""
    claims: list[tuple[int, int, str]] = []
    for pattern, speak in rules:
        for match in pattern.finditer(text):
            at = bisect_right(claims, (match.start(),))
            free = (at == 0 or claims[at - 1][1] <= match.start()) and (at == len(claims) or claims[at][0] >= match.end())
            words = speak(match) if free else None
            if words is not None:
                claims.insert(at, (match.start(), match.end(), words))
    bounds = [(0, 0, ""), *claims, (len(text), len(text), "")]
    pieces = [left[2] + text[left[1] : right[0]] for left, right in pairwise(bounds)]
    return Spoken("".join(pieces), tuple(claims))


def normalise(text: str, language: str | None = None) -> Spoken:
    """The text as it is spoken.

    Args:
        language: `en`, `zh`, another code (the text is left alone) or None to tell by the text.
    """
    from f5_worker import chinese, english  # noqa: PLC0415 - both need Rule and apply of this module

    code = (language or "").lower().partition("-")[0]
    rules: list[Rule] = []
    if code == "zh" or (not code and _HAN.search(text)):
        rules += chinese.RULES if code else [_only_near_han(rule) for rule in chinese.RULES]
    if code == "en" or (not code and looks_english(text)):
        rules += english.RULES
    spoken = apply(text, rules)
    return Spoken(spoken.text, spoken.claims, any(char.isdigit() for char in spoken.text))


def looks_english(text: str) -> bool:
    """Whether the Latin part of the text is English, as far as its frequent words tell."""
    words = [word.lower() for word in _WORD.findall(_HAN.sub(" ", text))]
    foreign_letters = sum(not word.isascii() for word in words)
    english, others = sum(word in _ENGLISH for word in words), sum(word in _OTHERS for word in words)
    return english >= others and foreign_letters * 10 <= len(words)


def _only_near_han(rule: Rule) -> Rule:
    """The rule for spans whose nearest letter is a Chinese character."""
    pattern, speak = rule

    def near(match: re.Match[str]) -> str | None:
        text = match.string
        before = _LETTER.findall(text, max(0, match.start() - _NEAR_CHARS), match.start())
        after = _LETTER.search(text, match.end(), match.end() + _NEAR_CHARS)
        closest = [match[0], *before[-1:], *([after[0]] if after else [])]
        return speak(match) if any(_HAN.search(letters) for letters in closest) else None

    return pattern, near
