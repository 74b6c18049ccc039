"""Cleaning and chunking. The rows of data/chunks.tsv are: limit in bytes (`=`: of the longest chunk), text, chunks separated by `|`."""

# ruff: noqa: RUF001 - texts of other scripts

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f5_worker import characters
from f5_worker import text as texts
from f5_worker.errors import TextEmpty, TextTooLong

DATA = Path(__file__).with_name("data")


def rows(name: str) -> list[list[str]]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n").split("\t") for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(("limit", "text", "expected"), rows("chunks.tsv"), ids=lambda value: str(value)[:30])
def test_chunks(limit: str, text: str, expected: str) -> None:
    chunks = expected.split("|")
    max_bytes = max(len(piece.encode()) for piece in chunks) if limit == "=" else int(limit)
    assert texts.chunk(texts.clean(text).text, max_bytes) == chunks


@pytest.mark.parametrize(
    ("given_text", "cleaned"),
    [("  a \t b  ", "a b"), ("a\r\nb\rc", "a\nb\nc"), ("a \n\n \n b", "a\n\nb"),
     ("a\r\n\r\nb \r\n c", "a\n\nb\nc"), ("a \u200b b\u200b\n c", "a b\nc"), ("a\u00a0b\u3000c", "a b c"),
     ("zero\u200bwidth", "zerowidth"),
     ("\ufeffmark", "mark"), ("soft\u00adhyphen", "softhyphen"), ("bell\x07\x00here", "bell here"), ("cafe\u0301", "caf\u00e9"),
     ("right\u202eto\u202cleft", "righttoleft"), ("\uff21\uff11\uff05，", "A1%，"), ("555\u20111234", "555-1234"),
     ("\u1100\u1161\u11a8", "\uac01"), ("a\u0323\u0302", "\u1ead"),
     ("\u0958", "\u0915\u093c"), ("line\u2028break", "line\nbreak"), ("lone \ud800 half", "lone half"),
     ("a\u200b\u0301\u0323 b", "a\u0323\u0301 b"), ("a  \u0301\u0323b", "a \u0323\u0301b")],
)  # fmt: skip
def test_cleaning_keeps_words_and_drops_what_is_not_seen(given_text: str, cleaned: str) -> None:
    assert texts.clean(given_text).text == cleaned


@given(text=st.text(alphabet=st.sampled_from("ae \n\t\0\u200b\u0301\u0323\u1100\u1161"), max_size=40))
def test_what_is_tidied_is_claimed_once_and_in_order(text: str) -> None:
    tidied = texts.tidied(text)
    assert all(before[1] <= after[0] for before, after in pairwise(tidied.claims))
    assert "\0" not in tidied.text


def test_cleaned_characters_lead_back_to_those_that_were_sent() -> None:
    sent = " \ufeffe\u0301 \t\u200bz\u00ado\r\n\r\n \uff11  "
    cleaned = texts.clean(sent)
    assert cleaned.text == "\u00e9 zo\n\n1"
    pieces = [sent[slice(*cleaned.source(at, at + 1))] for at in range(len(cleaned.text))]
    assert pieces == ["e\u0301", " \t\u200b", "z", "o", *["\r\n\r\n "] * 2, "\uff11"]


@pytest.mark.parametrize("nothing", ["", " ", "\n\t ", ".", "?!…", "—", "😀🎉", "\u200b", "。，", "***"])
def test_nothing_to_speak_is_refused(nothing: str) -> None:
    with pytest.raises(TextEmpty, match="nothing that can be spoken"):
        texts.clean(nothing)


def test_limit_is_50000_characters() -> None:
    assert len(texts.clean("a" * 50_000).text) == 50_000
    with pytest.raises(TextTooLong, match="50001 characters, at most 50000"):
        texts.clean("a" * 50_001)


@pytest.mark.parametrize(
    ("text", "known", "unknown"),
    [("abXc X\n\ty\u200b", "abc", {"X": [2, 5], "y": [8]}), ("cafe\u0301", "cafeé", {}), ("x\u0301", "x", {"\u0301": [1]}),
     ("a buo\u0302\u0309i", "abuoi", {"\u1ed5": [4]}), ("\u0958 a", "a", {"\u0915": [0], "\u093c": [0]})],
)  # fmt: skip
def test_unknown_characters_are_those_that_are_spoken_with_every_position_in_what_was_sent(
    text: str, known: str, unknown: dict[str, list[int]]
) -> None:
    assert characters.unknown(text, texts.clean(text).text, known.__contains__) == unknown


def test_characters_that_became_words_are_not_unknown() -> None:
    assert characters.unknown("½ ★", "half ★", "half".__contains__) == {"★": [2]}


SPOKEN = st.text(alphabet=st.sampled_from(list("abcdefgh  ..,!?;\n\"'()。，！你好世界؟ककا—…1239DrMs")), min_size=1, max_size=400)


@settings(max_examples=300)
@given(text=SPOKEN, limit=st.integers(min_value=4, max_value=120))
def test_no_chunk_is_too_long_and_nothing_is_lost(text: str, limit: int) -> None:
    if not any(char.isalnum() for char in text):
        return
    cleaned = texts.clean(text).text
    chunks = texts.chunk(cleaned, limit)
    assert all(len(piece.encode()) <= limit for piece in chunks)
    assert all(piece == piece.strip() and "\n" not in piece for piece in chunks)
    assert re.sub(r"\s", "", "".join(chunks)) == re.sub(r"\s", "", cleaned)


def test_long_text_is_chunked_in_linear_time() -> None:
    assert len(texts.chunk(texts.clean("A sentence of some words. " * 1_900).text, 170)) > 250


@pytest.mark.parametrize("marks", [".", "!?", "…", '."', "。", ","])
def test_a_run_of_marks_is_chunked_in_linear_time_too(marks: str) -> None:
    """From every mark on anew it would be minutes, in which no other thread goes on: hence the process, and its deadline."""
    chunks = f"from f5_worker import text; print(len(text.spans({marks!r} * {49_000 // len(marks)} + 'hi', 135)))"
    assert int(subprocess.run([sys.executable, "-c", chunks], timeout=60, check=True, capture_output=True).stdout) > 300


@pytest.mark.parametrize("group", ["11,", "111,", "1.111,"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_list_of_numbers_is_read_in_linear_time(group: str, language: str) -> None:
    read = f"from f5_worker import rewrite, normalise; t = {group!r} * {48_000 // len(group)} + '1111'; "
    read += f"print(len(rewrite.apply(t, normalise.rules_for(t, {language!r})).text))"
    assert int(subprocess.run([sys.executable, "-c", read], timeout=60, check=True, capture_output=True).stdout) > 10_000


def test_text_that_fits_is_one_chunk_as_it_is() -> None:
    assert texts.chunk("One. Two! Three?", 170) == ["One. Two! Three?"]


@pytest.mark.parametrize(
    ("text", "begins"),
    [("It was late. We went home. And then nothing at all happened to us for a very long time.", "It was late. We went home."),
     ("When the rain came down, we went inside and stayed there until it had stopped.", "When the rain came down,"),
     ("Well then. When the rain came, we went inside and stayed there for the whole day.", "Well then. When the rain came,"),
     ("The quick brown fox jumps over the lazy dog today. The rest of it follows here.",
      "The quick brown fox jumps over the lazy dog today."),
     ("Good evening. The quick brown fox jumps over the lazy dog near the bank of the river.", "Good evening."),
     ("Yes. The quick brown fox jumps over the lazy dog near the bank of the river and on.", "Yes. The quick brown fox jumps over"),
     ("the quick brown fox jumps over the lazy dog near the bank of the river and goes on", "the quick brown fox jumps over the"),
     ("今天天气很好。我们一起去公园散步吧，那里有很多花。", "今天天气很好。"),
     ("a" * 200, "a" * 40)],
)  # fmt: skip
def test_opening_is_short_and_ends_where_a_speaker_pauses(text: str, begins: str) -> None:
    assert text[: texts.opening(text, 40)].strip() == begins


@settings(max_examples=300)
@given(text=SPOKEN, limit=st.integers(min_value=12, max_value=120))
def test_opening_has_at_most_half_of_what_is_too_much(text: str, limit: int) -> None:
    cleaned = texts.tidied(text).text
    if len(cleaned.encode()) <= limit:
        return
    end = texts.opening(cleaned, limit // 3)
    assert 0 < end < len(cleaned)
    assert len(cleaned[:end].strip().encode()) <= limit / 2
