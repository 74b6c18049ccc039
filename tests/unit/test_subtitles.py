# ruff: noqa: RUF001 - the marks of other scripts are meant
"""Subtitles: what is written is read back by a parser as the text that was said, at its times, in captions that fit a screen."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pysubs2
import pytest

from f5_worker import subtitles
from f5_worker.line_breaks import Breakable, one_line
from f5_worker.subtitles import Cue, Word

FILES = ["srt", "vtt", "ass"]
ENGLISH = (
    "The quick brown fox jumps over the lazy dog. It was a bright cold day in April, and the clocks were striking thirteen; "
    "Winston Smith, his chin nuzzled into his breast in an effort to escape the vile wind, slipped quickly through the glass doors."
)
CHINESE = (
    "人工智能正在改变我们的生活方式。从语音合成到自动驾驶，新的技术每天都在出现，"
    "而我们才刚刚开始理解它们的意义；未来会怎样呢？没有人知道答案。"
)
KOREAN = "동해 물과 백두산이 마르고 닳도록 하느님이 보우하사 우리나라 만세 무궁화 삼천리 화려 강산 대한 사람 대한으로 길이 보전하세"


def read(text: str, fmt: str) -> pysubs2.SSAFile:
    return pysubs2.SSAFile.from_string(text, fmt)


def said(event: Any, fmt: str) -> list[str]:
    """The lines of a caption as a player shows them."""
    shown = event.plaintext if fmt == "ass" else event.text.replace(r"\N", "\n")
    if fmt == "vtt":
        return html.unescape(shown).split("\n")
    return [unicodedata.normalize("NFKC", line) for line in shown.split("\n")]


def written(cues: Iterable[Cue], fmt: str) -> list[list[str]]:
    return [said(event, fmt) for event in read(subtitles.render(list(cues), fmt), fmt)]


def width(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else not unicodedata.combining(char) for char in line)


def timed(text: str, start_s: float = 0.0, word_s: float = 0.4) -> Cue:
    words = [Word(word, start_s + i * word_s, start_s + (i + 0.9) * word_s) for i, word in enumerate(text.split())]
    return Cue(text, start_s, start_s + len(words) * word_s, words)


@pytest.mark.parametrize("fmt", FILES)
def test_short_cues_are_captions_at_their_times(fmt: str) -> None:
    file = read(subtitles.render([Cue("Hello there.", 0.0, 1.234), Cue("Second", 3660.0, 3661.99)], fmt), fmt)
    assert [said(event, fmt) for event in file] == [["Hello there."], ["Second"]]
    assert (file[0].start, file[0].end) == (0, pytest.approx(1234, abs=6))
    assert (file[1].start, file[1].end) == (3_660_000, pytest.approx(3_661_990, abs=6))


@pytest.mark.parametrize("fmt", FILES)
@pytest.mark.parametrize("text", [ENGLISH, CHINESE, KOREAN, ENGLISH + CHINESE, "x" * 500, "word " * 200, "а́" * 100], ids=range(7))
def test_captions_fit_two_lines_and_seven_seconds_and_say_everything(fmt: str, text: str) -> None:
    cue = Cue(text, 10.0, 10.0 + len(text) / 12)
    events = list(read(subtitles.render([cue], fmt), fmt))
    lines = [said(event, fmt) for event in events]
    assert all(len(shown) <= 2 and width(line) <= 42 for shown in lines for line in shown)
    assert all(event.end - event.start <= 7_000 + 10 for event in events)
    everything = "".join(line for shown in lines for line in shown)
    assert everything.replace(" ", "") == (text if fmt == "vtt" else unicodedata.normalize("NFKC", text)).replace(" ", "")
    assert (events[0].start, events[-1].end) == (10_000, pytest.approx(1000 * cue.end_s, abs=10))
    assert all(a.end == b.start for a, b in pairwise(events))


def test_words_are_never_broken_in_scripts_with_spaces() -> None:
    assert " ".join(line for shown in written([Cue(ENGLISH, 0, 16)], "srt") for line in shown) == ENGLISH


def test_captions_and_lines_end_where_sentences_and_clauses_do() -> None:
    english = written([Cue(ENGLISH, 0, 16)], "srt")
    assert " ".join(english[0]) == "The quick brown fox jumps over the lazy dog."
    assert " ".join(english[1]).endswith(";")
    chinese = written([Cue(CHINESE, 0, 16)], "srt")
    assert chinese[0][-1].endswith("。")
    assert not any(line[0] in "，。；？" for shown in chinese for line in shown)


def test_lines_are_of_about_equal_width() -> None:
    ((upper, lower),) = written([Cue("one two three four five six seven eight nine ten", 0, 5)], "srt")
    assert abs(len(upper) - len(lower)) <= 6


def test_korean_is_broken_at_its_spaces() -> None:
    assert " ".join(line for shown in written([Cue(KOREAN, 0, 12)], "srt") for line in shown) == KOREAN


@pytest.mark.parametrize(
    "unit", ["👩‍💻", "👍🏽", "e\u0301", "का", "❤️"], ids=["profession", "skin tone", "accent", "vowel sign", "variation"]
)
def test_what_is_one_character_to_the_reader_is_not_broken(unit: str) -> None:
    text = Breakable("x" + unit * 120)
    breaks = text.breaks_between(0, len(text.text))
    assert breaks
    assert all((at - 1) % len(unit) == 0 for at in breaks)


def test_marks_stay_with_the_character_they_belong_to() -> None:
    text = "他说：「你好，世界。」走了（真的）"
    borders = [0, *Breakable(text).breaks_between(0, len(text)), len(text)]
    assert [text[start:end] for start, end in pairwise(borders)] == [
        "他", "说：", "「你", "好，", "世", "界。」", "走", "了", "（真", "的）",
    ]  # fmt: skip


@pytest.mark.parametrize("fmt", FILES)
def test_parts_of_a_cue_with_words_are_shown_when_these_are_said(fmt: str) -> None:
    cue = timed(ENGLISH, 3.0)
    events = list(read(subtitles.render([cue], fmt), fmt))
    assert cue.words is not None
    at = 0
    for event in events:
        count = len(" ".join(said(event, fmt)).split())
        assert event.start == pytest.approx(1000 * cue.words[at].start_s, abs=10)
        assert event.end == pytest.approx(1000 * cue.words[at + count - 1].end_s, abs=10)
        at += count
    assert at == len(cue.words)


def test_long_pauses_between_words_split_a_caption() -> None:
    cue = Cue("Wait for it now.", 0, 20, [Word("Wait", 0, 0.5), Word("for", 0.5, 0.8), Word("it", 0.8, 1.0), Word("now", 19, 20)])
    events = list(read(subtitles.render([cue], "srt"), "srt"))
    assert all(event.end - event.start <= 7_000 for event in events)
    assert " ".join(event.text for event in events) == "Wait for it now."


def test_ass_lights_up_each_word_when_it_is_said() -> None:
    text = subtitles.render(
        [Cue("“One, two three.”", 1.0, 3.0, [Word("One", 1.0, 1.5), Word("two", 1.7, 2.0), Word("three", 2.0, 2.9)])], "ass"
    )
    assert r"{\k70}“One, {\k30}two {\k90}three.”" in text


def test_karaoke_durations_do_not_drift() -> None:
    cue = timed("a b c d e f g h i j k l m n o p q r s t", 0.0, 1 / 3)
    events = list(read(subtitles.render([cue], "ass"), "ass"))
    for event in events:
        total = sum(int(found) for found in re.findall(r"\\k(\d+)", event.text))
        assert total == pytest.approx((event.end - event.start) / 10, abs=1)


def test_karaoke_words_of_chinese_have_no_spaces_between() -> None:
    cue = Cue("你好世界。", 0, 2, [Word("你好", 0, 0.8), Word("世界", 0.8, 1.8)])
    assert r"{\k80}你好{\k100}世界。" in subtitles.render([cue], "ass")


def test_words_are_found_in_order_also_when_repeated_or_missing() -> None:
    cue = Cue("the cat the dog", 0, 4, [Word("the", 0, 1), Word("bird", 1, 1.5), Word("the", 2, 3), Word("dog", 3, 4)])
    assert r"{\k200}the cat {\k100}the {\k100}dog" in subtitles.render([cue], "ass")


HOSTILE = {
    "newlines": "first line\n\nsecond line\r\nthird\u2028fourth",
    "a caption of its own": "one\n\n2\n00:00:05,000 --> 00:00:06,000\ntwo",
    "arrow": "a --> b ---> c -->",
    "times of srt": "from 00:00:01,000 to 00:00:02,000",
    "times of vtt": "from 00:01.000 to 12:30:02.500 and 1:02:03.50 too",
    "HTML": '<b>bold</b> <i>x</i> < b > </ font> <font color="red">y</font> <script>alert(1)</script>',
    "comparisons": "a < b and c > d, 1 <2> 3, x<y>z, I <3 you",
    "entities": "&lt;b&gt; &amp;amp; &#60; AT&T &nbsp",
    "overrides of ASS": r"{\an8}{\fs100}{\p1}m 0 0 l 100 0{\p0} {comment} } { {{}}",
    "breaks of ASS": r"C:\new\Nothing\hidden \n \N \h",
    "backslash at the end": "over\\ and \\",
    "a line of ASS": "Dialogue: 0,0:00:00.00,0:00:05.00,,,0,0,0,, injected, with, commas",
    "heading of ASS": "[Events]",
    "heading of VTT": "WEBVTT",
    "note of VTT": "NOTE this is said",
    "voice of VTT": "<v Mallory>I said nothing</v><00:00:01.000><c>",
    "a number": "1984",
    "number on the second line": "It happened in the month of June in the year 1984",
    "digits that must be the second line": "a" * 30 + " " + "1" * 30,
    "control characters": "a\x00b\x07c\x1bd\x7f",
    "quotes": "\"He's 'here'\"",
    "right to left": "\u202eright to left\u202c مرحبا بالعالم",
    "zero widths": "a\u200bb\ufeffc\u2060d",
}


@pytest.mark.parametrize("fmt", FILES)
@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("with_words", [False, True])
def test_hostile_text_is_read_back_as_text(fmt: str, case: str, with_words: bool) -> None:
    text = HOSTILE[case]
    file = read(
        subtitles.render([Cue("Before.", 0, 1), timed(text, 1.0) if with_words else Cue(text, 1, 5), Cue("After.", 30, 31)], fmt), fmt
    )
    shown = [" ".join(said(event, fmt)) for event in file]
    expected = one_line(text) if fmt == "vtt" else unicodedata.normalize("NFKC", one_line(text))
    assert (shown[0], shown[-1]) == ("Before.", "After.")
    assert " ".join(shown[1:-1]) == expected
    assert all(1_000 <= event.start <= event.end <= 30_000 for event in file[1:-1])


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_at_the_end_of_the_file_is_read_back_too(case: str) -> None:
    shown = written([Cue(HOSTILE[case], 1, 5)], "srt")
    assert " ".join(" ".join(lines) for lines in shown) == unicodedata.normalize("NFKC", one_line(HOSTILE[case]))


@pytest.mark.parametrize("fmt", FILES)
def test_markup_is_shown_and_not_obeyed(fmt: str) -> None:
    text = subtitles.render([Cue(r"<i>x</i> {\b1}y{\an8}", 0, 1)], fmt).partition("[Events]" if fmt == "ass" else "-->")[2]
    assert not re.search(r"{\\[a-z]", text)
    assert fmt == "ass" or not re.search(r"</?i>", text)


def test_srt_text_has_no_arrow() -> None:
    assert subtitles.render([Cue("a --> b --->", 0, 1)], "srt").count("-->") == 1


def test_vtt_text_has_no_bare_markup() -> None:
    body = subtitles.render([Cue("<v x> a & b --> c", 0, 1)], "vtt").splitlines()[4]
    assert body == "&lt;v x&gt; a &amp; b --&gt; c"


def test_json_holds_the_cues_as_they_are() -> None:
    cues = [timed(ENGLISH), Cue("没有\n词。", 100.00049, 101)]
    first, second = json.loads(subtitles.render(cues, "json"))["segments"]
    assert first["text"] == ENGLISH
    assert first["words"][1] == {"word": "quick", "start": 0.4, "end": 0.76}
    assert second == {"text": "没有\n词。", "start": 100.0, "end": 101}
    assert "没有" in subtitles.render(cues, "json")


@pytest.mark.parametrize("fmt", FILES)
@pytest.mark.parametrize("text", ["", "  \n ", "\x00"])
def test_cues_without_text_are_left_out(fmt: str, text: str) -> None:
    assert written([Cue(text, 0, 1), Cue("Said.", 1, 2), Cue(text, 2, 3)], fmt) == [["Said."]]
    assert written([], fmt) == []


def test_unknown_format_is_a_defect_of_the_caller() -> None:
    with pytest.raises(KeyError):
        subtitles.render([], "sub")


def test_a_text_of_50_000_characters_is_laid_out() -> None:
    lines = [line for shown in written([Cue(CHINESE * 750, 0, 3_600)], "ass") for line in shown]
    assert max(map(width, lines)) <= 42
    assert len("".join(lines)) == len(CHINESE) * 750


def test_no_break_is_forced_into_a_word_that_fits() -> None:
    text = Breakable("short " + "y" * 42 + " short")
    assert text.breaks_between(0, len(text.text)) == [6, 49]
