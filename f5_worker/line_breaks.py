"""Where a text may be broken into lines, and where it is best to: also scripts that put no spaces between words."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

LINE_COLUMNS = 42  # a wide character (Chinese, Japanese, Korean) takes two
_SENTENCE_ENDS = ".!?…。！？؟۔।"  # noqa: RUF001 - the marks of other scripts are meant
_CLAUSE_ENDS = ",;:،，、；：—"  # noqa: RUF001
_NOT_AFTER = "([{“‘«‹「『（《〈【〔"  # noqa: RUF001
_NOT_BEFORE = ")]}”’»›」』）》〉】〕ー々" + _SENTENCE_ENDS + _CLAUSE_ENDS  # noqa: RUF001
_BREAKS = re.compile(r"[ \t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")
_QUOTES = " )]}”’»」』\"'"  # noqa: RUF001 - they close after the mark that counts
_JOINER = "\u200d"  # of emoji
_SKIN_TONES = range(0x1F3FB, 0x1F400)


def one_line(text: str) -> str:
    """Without line breaks, runs of spaces and control characters."""
    return "".join(char for char in _BREAKS.sub(" ", text) if unicodedata.category(char) not in {"Cc", "Cs"}).strip()


class Breakable:
    """A text of one line, as one_line makes it. All places are characters in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._columns = [0, *accumulate(map(_columns, text))]
        allowed = [0, *(at for at in range(1, len(text)) if _may_break(text, at)), len(text)]
        self._breaks = [at for start, end in pairwise(allowed) for at in (*self._forced(start, end), end)]

    def columns(self, start: int, end: int) -> int:
        """How wide this part is; a space at its end is not shown."""
        shown = end - (end > start and self.text[end - 1] == " ")
        return self._columns[shown] - self._columns[start]

    def breaks_between(self, start: int, end: int) -> list[int]:
        return self._breaks[bisect_right(self._breaks, start) : bisect_left(self._breaks, end)]

    def lines(self, start: int, end: int) -> list[int]:
        """The borders of one line or of two; none when these do not hold it."""
        if self.columns(start, end) <= LINE_COLUMNS:
            return [start, end]
        if self.columns(start, end) > 2 * LINE_COLUMNS + 1:  # the space at the break is not shown
            return []
        possible = [
            at
            for at in self.breaks_between(start, end)
            if max(self.columns(start, at), self.columns(at, end)) <= LINE_COLUMNS
            and not self.text[at:end].strip().isdecimal()  # readers of srt take such a last line for the number of the next caption
        ]
        return [start, self.best_break(start, end, possible, share=0.5, scale=LINE_COLUMNS), end] if possible else []

    def best_break(self, start: int, end: int, possible: Sequence[int], *, share: float, scale: int) -> int:
        """Of the possible breaks the nearest to a share of the width; after a sentence it may lie 0.3 scales farther off than elsewhere."""
        target = share * self.columns(start, end)
        return min(possible, key=lambda at: abs(self.columns(start, at) - target) / scale + self._rank(at))

    def _rank(self, at: int) -> float:
        before = self.text[max(0, at - 4) : at].rstrip(_QUOTES)[-1:]
        if before and before in _SENTENCE_ENDS:
            return 0.0
        if before and before in _CLAUSE_ENDS:
            return 0.1
        return 0.3 if self.text[at - 1] == " " else 0.4

    def _forced(self, start: int, end: int) -> list[int]:
        """Breaks in a word that is wider than a line."""
        forced: list[int] = []
        while self.columns(start, end) > LINE_COLUMNS:
            widest = bisect_right(self._columns, self._columns[start] + LINE_COLUMNS) - 1
            start = next((at for at in range(widest, start, -1) if not _extends(self.text, at)), widest)
            forced.append(start)
        return forced


def _columns(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if _is_wide(char) else 1


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in {"W", "F"}


def _may_break(text: str, at: int) -> bool:
    before, after = text[at - 1], text[at]
    if before == " " or after == " ":
        return before == " "
    if _extends(text, at) or before in _NOT_AFTER or after in _NOT_BEFORE:
        return False
    return _is_wide(before) or _is_wide(after) or before == "—"


def _extends(text: str, at: int) -> bool:
    """Whether the character belongs to the one before it."""
    joined = text[at] == _JOINER or text[at - 1] == _JOINER
    return joined or unicodedata.category(text[at]) in {"Mn", "Me", "Mc"} or ord(text[at]) in _SKIN_TONES
