"""From text to chunks, who says them, and pauses."""

# ruff: noqa: RUF001 - texts of other scripts

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f5_worker import script
from f5_worker.errors import RequestError, TextEmpty
from f5_worker.script import Chunk, Script
from tests.growth import assert_linear


def plan(text: str, max_bytes: int = 170, **options: Any) -> Script:
    return script.plan(text, lambda _voice: max_bytes, **options)


def words(text: str, chunk: Chunk) -> list[tuple[str, str]]:
    """What is spoken and what is written of every span."""
    return [(chunk.spoken[span.spoken_start : span.spoken_end], text[span.start : span.end]) for span in chunk.spans]


def test_chunk_says_the_spoken_and_keeps_the_written_text() -> None:
    (chunk,) = plan("I paid $5.").chunks
    assert (chunk.spoken, chunk.written) == ("I paid five dollars.", "I paid $5.")


def test_budget_counts_the_spoken_text() -> None:
    chunks = plan("It is 1,234,567 now. It was 7,654,321 then.", 100).chunks
    assert len(chunks) > 1
    assert all(len(chunk.spoken.encode()) <= 100 for chunk in chunks)
    assert chunks[0].written == "It is 1,234,567 now."


def test_without_normalisation_the_text_is_spoken_as_written() -> None:
    script_ = plan("I paid $5.", normalize=False)
    assert [chunk.spoken for chunk in script_.chunks] == ["I paid $5."]
    assert script_.warnings == []


def test_text_of_several_chunks_can_begin_with_a_short_one() -> None:
    text = "One short sentence. Another one follows it here. And now a third one ends it."
    assert [chunk.spoken for chunk in plan(text, 77, short_start=True).chunks] == [text]
    assert [chunk.spoken for chunk in plan(text, 76, short_start=True).chunks] == [text[:19], text[20:]]
    assert [chunk.spoken for chunk in plan(text, 76).chunks] == [text[:48], text[49:]]
    tagged = plan(f"{text}[pause:1s]{text}", 76, short_start=True, tags=True)
    assert [chunk.spoken for chunk in tagged.chunks] == [text[:19], text[20:], text[:48], text[49:]]
    assert all(len(chunk.spoken) <= 12 for chunk in plan("a" * 40, 36, short_start=True).chunks[:1])


# Spans


SPANS: list[tuple[str, list[tuple[str, str]]]] = [
    ("We paid $3.50 for it.", [("We", "We"), ("paid", "paid"), ("three dollars and fifty cents", "$3.50"), ("for", "for"), ("it.", "it.")]),
    ("It costs $5.", [("It", "It"), ("costs", "costs"), ("five dollars.", "$5.")]),
    ("(It costs $5)", [("(It", "(It"), ("costs", "costs"), ("five dollars)", "$5)")]),
    ("A 10-year-old boy", [("A", "A"), ("ten-year-old", "10-year-old"), ("boy", "boy")]),
    ("Pages 10-20", [("Pages", "Pages"), ("ten to twenty", "10-20")]),
    ("DO NOT GO THERE", [("Do", "DO"), ("not", "NOT"), ("go", "GO"), ("there", "THERE")]),
    ("He said - well - no.", [("He", "He"), ("said -", "said -"), ("well -", "well -"), ("no.", "no.")]),
    ("\u201c Well \u201d he said.", [("\u201c Well \u201d", "\u201c Well \u201d"), ("he", "he"), ("said.", "said.")]),
    ("  cafe\u0301 \u200b\u200b at\t\tno\u200bw  x", [("caf\u00e9", "cafe\u0301"), ("at", "at"), ("now", "no\u200bw"), ("x", "x")]),
    ("Line one\r\n\r\nline 2", [("Line", "Line"), ("one.", "one"), ("line", "line"), ("two", "2")]),
    ("我有12个。", [("我", "我"), ("有", "有"), ("十二", "12"), ("个。", "个。")]),
    ("花了￥3.50吗？", [("花", "花"), ("了", "了"), ("三元五角", "￥3.50"), ("吗？", "吗？")]),
    ("Hello 世界, hi", [("Hello", "Hello"), ("世", "世"), ("界,", "界,"), ("hi", "hi")]),
    ("أنا بخير، شكرا", [("أنا", "أنا"), ("بخير،", "بخير،"), ("شكرا", "شكرا")]),
    ("यह एक है।", [("यह", "यह"), ("एक", "एक"), ("है।", "है।")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SPANS, ids=lambda value: str(value)[:20])
def test_every_word_leads_back_to_the_text_as_it_was_sent(text: str, expected: list[tuple[str, str]]) -> None:
    (chunk,) = plan(text).chunks
    assert words(text, chunk) == expected


def test_spans_are_positions_in_the_whole_text_also_after_tags_and_in_later_chunks() -> None:
    text = "  One\u200b. [pause:1s]\n[voice:b] I paid $5 today. Now we go on and on and on."
    chunks = plan(text, 40, tags=True, voices=["b"]).chunks
    assert [words(text, chunk) for chunk in chunks] == [
        [("One.", "One\u200b.")],
        [("I", "I"), ("paid", "paid"), ("five dollars", "$5"), ("today.", "today.")],
        [(word, word) for word in ("Now", "we", "go", "on", "and", "on", "and", "on.")],
    ]


LETTERS = "abc DEF 12,.$%-年月我有个。！ \n\t\u200b\u0301\u0323é[]:'"


@settings(max_examples=300)
@given(text=st.text(alphabet=st.sampled_from(LETTERS), max_size=120), limit=st.integers(20, 120), short_start=st.booleans())
def test_spans_cover_the_spoken_text_in_order(text: str, limit: int, *, short_start: bool) -> None:
    try:
        chunks = plan(text, limit, short_start=short_start).chunks
    except TextEmpty:
        return
    for chunk in chunks:
        assert len(chunk.spoken.encode()) <= limit
        said = "".join(chunk.spoken[span.spoken_start : span.spoken_end] for span in chunk.spans)
        assert re.sub(r"\s", "", said) == re.sub(r"\s", "", chunk.spoken)
    spans = [span for chunk in chunks for span in chunk.spans]
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(before.start <= after.start for before, after in pairwise(spans))


# Tags


def test_pauses_stand_between_chunks_and_at_the_end() -> None:
    said = plan("[pause:1s]One. [pause:1.5s] Two.[pause:250ms][PAUSE: 250 ms]\nThree. [pause:2s]", tags=True)
    assert [(chunk.spoken, chunk.pause_before_s) for chunk in said.chunks] == [("One.", 1.0), ("Two.", 1.5), ("Three.", 0.5)]
    assert said.pause_after_s == 2.0


def test_voices_speak_until_the_next_tag() -> None:
    said = plan("One. [voice:bob] Two. [voice:eve][pause:1s] Three. [voice:]Four. [voice:bob]Five. [voice:default] Six.",
                tags=True, voices=["bob", "eve"])  # fmt: skip
    assert [(chunk.spoken, chunk.voice, chunk.pause_before_s) for chunk in said.chunks] == [
        ("One.", None, 0.0), ("Two.", "bob", 0.0), ("Three.", "eve", 1.0), ("Four.", None, 0.0), ("Five.", "bob", 0.0), ("Six.", None, 0.0),
    ]  # fmt: skip


def test_voice_of_the_request_may_be_called_default() -> None:
    assert [chunk.voice for chunk in plan("[voice:default] One.", tags=True, voices=["default"]).chunks] == ["default"]


def test_every_voice_has_its_own_budget() -> None:
    text = "One two three four. Five six seven. [voice:b] One two three four. Five six seven."
    said = script.plan(text, lambda voice: 20 if voice == "b" else 100, tags=True, voices=["b"])
    assert [(chunk.spoken, chunk.voice) for chunk in said.chunks] == [
        ("One two three four. Five six seven.", None), ("One two three four.", "b"), ("Five six seven.", "b"),
    ]  # fmt: skip


def test_unknown_voice_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"\[voice:bob\]: there is no such voice; known are: al, eve"):
        plan("[voice:bob] One.", tags=True, voices=["eve", "al"])
    with pytest.raises(RequestError, match="known are: none"):
        plan("[voice:bob] One.", tags=True)


@pytest.mark.parametrize("tag", ["[voice:{}]", "[pause:{}]"])
def test_a_wrong_tag_is_named_by_its_beginning(tag: str) -> None:
    with pytest.raises(RequestError) as caught:
        plan(f"One. {tag.format('private words ' * 1000)} Two.", tags=True)
    assert str(caught.value).startswith(f"INVALID_REQUEST: {tag[:7]}private words")
    assert len(str(caught.value)) < 150


def test_tags_are_text_unless_they_are_allowed() -> None:
    (chunk,) = plan("One. [pause:1s] Two [voice:b].", normalize=False).chunks
    assert chunk.spoken == "One. [pause:1s] Two [voice:b]."
    assert chunk.pause_before_s == 0.0


def test_other_brackets_are_text() -> None:
    assert [chunk.spoken for chunk in plan("One [sic] two.", tags=True).chunks] == ["One [sic] two."]


@pytest.mark.parametrize("tag", ["[pause:]", "[pause:2]", "[pause:-1s]", "[pause:1h]", "[pause:long]", "[pause:1e3s]"])
def test_pause_that_cannot_be_read_is_refused(tag: str) -> None:
    with pytest.raises(RequestError, match=r"write a pause as \[pause:1.5s\]"):
        plan(f"One. {tag} Two.", tags=True)


def test_endless_pause_is_refused() -> None:
    with pytest.raises(RequestError, match="at most 30 s"):
        plan("One. [pause:31s] Two.", tags=True)


@pytest.mark.parametrize("text", ["[pause:1s] ... [pause:1s]", "[voice:b]", "[voice:b] [pause:1s] \u200b ?!"])
def test_tags_alone_are_nothing_to_speak(text: str) -> None:
    with pytest.raises(TextEmpty):
        plan(text, tags=True, voices=["b"])


def test_language_is_told_by_the_whole_text_and_not_by_a_part() -> None:
    text = "[voice:b] Das ist nicht gut und auch nicht teuer. [voice:] Version 5."
    assert [chunk.spoken for chunk in plan(text, tags=True, voices=["b"]).chunks][-1] == "Version 5."


# Warnings and bad input


def test_digits_of_an_unknown_language_are_a_warning() -> None:
    assert [code for code, _ in plan("Das sind 5 und nicht 6.").warnings] == ["NUMBERS_NOT_NORMALISED"]
    assert plan("These are 5 and not 6.").warnings == []
    assert plan("Das ist gut.").warnings == []


@pytest.mark.parametrize(
    ("text", "options", "listed"),
    [("Hello. [pause:1s] \U0001f600 [pause:1s] Bye now.", {"tags": True}, "'\U0001f600' at 18"),
     ("Hello there my friend. " + "\U0001f600" * 60, {"short_start": True}, "'\U0001f600' at 23, 24, 25, 26, 27 …"),
     ("Hello there my friend. It is a nice day. " + "★" * 44, {"max_bytes": 48}, "'★' at 41, 42, 43, 44, 45 …"),
     ("Hello. [voice:b] \u2665\u200b + [voice:] Bye.", {"tags": True, "voices": ["b"]}, "'\u2665' at 17; '+' at 20")],
)  # fmt: skip
def test_signs_that_stand_alone_and_are_left_out_are_a_warning(text: str, options: dict[str, Any], listed: str) -> None:
    [(code, message)] = plan(text, **options).warnings
    assert code == "CHARACTERS_LEFT_OUT"
    assert listed in message


@pytest.mark.parametrize(
    ("text", "listed"),
    [("Hello \U0001fae9 there \ue000 friend\ue000.", "'\\U0001fae9' at 6; '\\ue000' at 14, 22"),
     ("\u4ed6\u53eb\U00031350\u5148\u751f\u3002", "'\\U00031350' at 2"), ("A lone \ud800 half.", "'\\ud800' at 7"),
     ("It is 5\ue000km away.", "'\\ue000' at 7"), ("He\x00llo wor\x1bld\x1b.", "'\\x00' at 2; '\\x1b' at 10, 13")],
)  # fmt: skip
def test_what_is_no_character_of_unicode_is_a_warning(text: str, listed: str) -> None:
    [(code, message)] = plan(text).warnings
    assert code == "CHARACTERS_LEFT_OUT"
    assert message.endswith(f" and are left out: {listed}")


@pytest.mark.parametrize(
    "text",
    ["Hello \U0001f600 there.", "Hello\tthere,\r\nmy\x0bfriend\x85.",
     "Hello. [pause:1s] ... --- !!! [pause:1s] Bye.", "★ Hello.", "It is 2 + 2.", "Hello \U0001f600. [voice:+]"],
)  # fmt: skip
def test_what_goes_to_the_model_marks_and_tags_are_not_left_out(text: str) -> None:
    assert plan(text, tags=True, voices=["+"]).warnings == []


@pytest.mark.parametrize(
    ("text", "said"),
    [("Look: " + "x" * 101 + " and " + "y" * 10_000, "2, the first at 6"), ("\u200bMy e" + "\u0301" * 300 + " here.", "1, the first at 4"),
     ("[voice:b] " + "z" * 200, "1, the first at 10")],
)  # fmt: skip
def test_words_longer_than_any_are_a_warning(text: str, said: str) -> None:
    [(code, message)] = plan(text, tags=True, voices=["b"]).warnings
    assert code == "WORD_TOO_LONG"
    assert said in message


@pytest.mark.parametrize(
    "text",
    ["x" * 100 + ".", "Well" + "." * 500 + " yes.", "—".join(["word"] * 40), "\u8a71" * 300, "\u0e01" * 300, "Hm " + "\uff76" * 101,
     "Hm " + "\U00020000" * 101, "I" + "'d've" * 30, "See https://example.com/" + "a/b-" * 40],
)  # fmt: skip
def test_long_runs_of_other_things_are_no_long_words(text: str) -> None:
    assert "WORD_TOO_LONG" not in [code for code, _ in plan(text).warnings]


def test_language_that_the_words_do_not_tell_is_a_warning() -> None:
    for text in ("Nvidia Geforce 5090", "Paid 5 in Las Vegas"):
        said = plan(text)
        assert [code for code, _ in said.warnings] == ["LANGUAGE_GUESSED"]
        assert not any(char.isdecimal() for char in said.chunks[0].spoken)
        assert plan(text, language="en").warnings == []
        assert plan(text, normalize=False).warnings == []
    for text in ("Chapter 5", "Hello there.", "I have 5.", "5", "我有12个。"):
        assert plan(text).warnings == []


@pytest.mark.parametrize("text", ["", " \n\t", "...", "?!", "\U0001f600\U0001f389", "\u200b\ufeff", "\x00\x07", "—", "。！"])
def test_nothing_to_speak_is_refused(text: str) -> None:
    with pytest.raises(TextEmpty):
        plan(text)


def test_marks_without_a_word_are_never_a_chunk_of_their_own() -> None:
    chunks = plan("Hello there my friend. ... !!! *** --- Good bye.", 24).chunks
    assert all(any(char.isalnum() for char in chunk.spoken) for chunk in chunks)


def test_word_of_ten_thousand_characters_is_cut() -> None:
    chunks = plan("Say " + "a" * 10_000 + " now.", 170).chunks
    assert all(len(chunk.spoken.encode()) <= 170 for chunk in chunks)
    assert "".join(chunk.spoken for chunk in chunks).count("a") == 10_001


def test_number_of_many_digits_is_written_shortened_in_each_of_its_chunks() -> None:
    chunks = plan("1" * 5_000).chunks
    assert len(chunks) > 100
    assert {chunk.written for chunk in chunks} == {"1" * 999 + "…"}
    assert sum(chunk.spoken.count("one") for chunk in chunks) == 5_000


PIECES = {
    "prose": "The price is $3.50, on May 5, 2024 at 5:30 pm; Dr. Smith paid 12% more. ",
    "numbers": "1,234 5.5 12/25 3-4 ",
    "chinese": "我在2024年5月1日花了￥12.50买了3本书，走了5km。",
    "capitals": "STOP DOING THAT AND LISTEN TO ME NOW. ",
    "one word": "a",
    "marks": "a ... !!! ",
    "tags": "One. [pause:10ms] [voice:b] Two. [voice:] ",
    "line breaks": "a line\nanother\n\n",
    "accents": "e\u0301a\u0300\u200b ",
    "digits": "0123456789",
    "one letter's marks": "\u0301\u0323",
}


@pytest.mark.parametrize("name", PIECES)
def test_the_work_of_planning_grows_with_the_text(name: str) -> None:
    def planned(chars: int) -> None:
        text = (PIECES[name] * chars)[:chars]
        plan("e" + (text.rpartition("[")[0] if name == "tags" else text[1:]), tags=name == "tags", voices=["b"])

    assert_linear(planned, 50_000)
