"""A text in other words, and which of its words stand for which of the written ones."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

Speak = Callable[[re.Match[str]], str | None]  # None: not this rule's business after all
Rule = tuple[re.Pattern[str], Speak]
Claim = tuple[int, int, str]  # (start, end, words): this span of the written text is spoken as the words
_NAME_BEFORE = re.compile(r"[A-Za-z]-?\d{1,9}(?:\.\d{1,9})?$")


def follows_name(match: re.Match[str]) -> bool:
    """Whether a name with a number ends where the match begins: i7, GPT-4."""
    return _NAME_BEFORE.search(match.string[max(0, match.start() - 12) : match.start()]) is not None


@dataclass(frozen=True)
class Rewritten:
    """The written text with the claimed spans replaced. Claims are in order and do not overlap."""

    written: str
    claims: tuple[Claim, ...] = ()

    @cached_property
    def text(self) -> str:
        pieces, at = [], 0
        for start, end, words in self.claims:
            pieces += [self.written[at:start], words]
            at = end
        return "".join([*pieces, self.written[at:]])

    def source(self, start: int, end: int) -> tuple[int, int]:
        """The span of the written text that a span of the text, not empty, stands for; a replacement counts as a whole."""
        return self._source(start)[0], self._source(end - 1)[1]

    @cached_property
    def _spoken_starts(self) -> list[int]:
        starts, longer = [], 0
        for start, end, words in self.claims:
            starts.append(start + longer)
            longer += len(words) - (end - start)
        return starts

    def _source(self, position: int) -> tuple[int, int]:
        index = bisect_right(self._spoken_starts, position) - 1
        if index < 0:
            return position, position + 1
        start, end, words = self.claims[index]
        beyond = position - self._spoken_starts[index] - len(words)
        return (start, end) if beyond < 0 else (end + beyond, end + beyond + 1)


def apply(text: str, rules: Sequence[Rule]) -> Rewritten:
    """Rewrite the text by the rules; an earlier rule keeps its span from later ones, which go on behind it."""
    claims: list[Claim] = []
    for pattern, speak in rules:
        claims = sorted([*claims, *_new_claims(text, pattern, speak, claims)])
    return Rewritten(text, tuple(claims))


def _new_claims(text: str, pattern: re.Pattern[str], speak: Speak, claims: Sequence[Claim]) -> list[Claim]:
    found: list[Claim] = []
    at = 0
    while match := pattern.search(text, at):
        start, end = match.span()
        at = max(end, start + 1)
        index = bisect_right(claims, (start, end + 1))
        if index and claims[index - 1][1] > start:
            at = max(claims[index - 1][1], start + 1)
        elif index < len(claims) and claims[index][0] < end:
            at = claims[index][1]
        elif (words := speak(match)) is not None:
            found.append((start, end, words))
        if at > len(text):
            break
    return found
