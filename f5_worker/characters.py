"""What of a text cannot be spoken, told with its positions in the text as it was sent."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from f5_worker.rewrite import Rewritten
from f5_worker.text import NO_SPACES, joins, tidied

MAX_WORD_CHARS = 100  # German's longest compounds have 80
_SHOWN = 10
# And what is rarer: bopomofo, half-width kana, Javanese, more of Han.
_UNBROKEN = re.compile(rf"[^\s{NO_SPACES}\u3100-\u312f\uff66-\uff9f\ua980-\ua9df\U00020000-\U0003ffff]+")
_NO_CHARACTERS = frozenset({"Cn", "Co", "Cs"})  # a newer Unicode's, private, halves of pairs


def unknown(text: str, spoken: str, knows: Callable[[str], bool]) -> dict[str, list[int]]:
    """Characters of what is spoken that the model does not know, with their positions in the text as it was sent; white space aside."""
    found: dict[str, list[int]] = {char: [] for char in dict.fromkeys(spoken) if not char.isspace() and not knows(char)}
    cleaned = tidied(text) if found else Rewritten("")
    for at, char in enumerate(cleaned.text):
        if char in found:
            found[char].append(cleaned.source(at, at + 1)[0])
    return found


def unknown_warnings(found: Mapping[str, Sequence[int]], where: str) -> list[tuple[str, str]]:
    message = f"{where}the model cannot speak these characters and leaves a gap: {listed(found)}"
    return [("CHARACTERS_UNKNOWN", message)] if found else []


def unsayable(text: str) -> dict[str, dict[str, list[int]]]:
    """By reason what `tidied` makes spaces of although it is not blank, with its positions."""
    no_characters: dict[str, list[int]] = {}
    controls: dict[str, list[int]] = {}
    for at, char in enumerate(text):
        category = unicodedata.category(char)
        if category in _NO_CHARACTERS:
            no_characters.setdefault(char, []).append(at)
        elif category == "Cc" and not char.isspace():
            controls.setdefault(char, []).append(at)
    return {f"have no meaning in Unicode {unicodedata.unidata_version}": no_characters, "are controls": controls}


def left_out_warnings(reasons: Mapping[str, Mapping[str, Sequence[int]]], where: str = "") -> list[tuple[str, str]]:
    messages = [f"{where}these characters {why} and are left out: {listed(found)}" for why, found in reasons.items() if found]
    return [("CHARACTERS_LEFT_OUT", message) for message in messages]


def long_words(text: str) -> Iterator[int]:
    """Where a word of more than MAX_WORD_CHARS begins, in scripts with spaces between words."""
    for run in _UNBROKEN.finditer(text):
        if len(run[0]) > MAX_WORD_CHARS:
            at = run.start()
            for is_word, chars in groupby(run[0], key=lambda char: char.isalnum() or joins(char)):
                length = len(list(chars))
                if is_word and length > MAX_WORD_CHARS:
                    yield at
                at += length


def listed(characters: Mapping[str, Sequence[int]]) -> str:
    """The first characters and positions, for a message."""
    shown = [f"{char!r} at {', '.join(map(str, at[:5]))}{' …' if len(at) > 5 else ''}" for char, at in characters.items()]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return "; ".join(shown[:_SHOWN]) + more
