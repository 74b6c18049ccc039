"""Written forms as spoken words. The rows of data/normalise_*.tsv are: written, spoken."""

# ruff: noqa: RUF001 - texts of other scripts

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f5_worker import chinese, english
from f5_worker.normalise import looks_english, normalise

DATA = Path(__file__).with_name("data")


def rows(name: str) -> list[list[str]]:
    return [line.split("\t") for line in (DATA / name).read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(("written", "spoken"), rows("normalise_en.tsv"), ids=lambda value: str(value)[:40])
def test_english(written: str, spoken: str) -> None:
    assert normalise(written, "en").text == spoken
    assert normalise(written).text == spoken


@pytest.mark.parametrize(("written", "spoken"), rows("normalise_zh.tsv"), ids=lambda value: str(value)[:40])
def test_chinese(written: str, spoken: str) -> None:
    assert normalise(written).text == spoken


@pytest.mark.parametrize(
    "text",
    ["Das kostet 5 Euro und ist nicht teuer.", "Il a 5 chats et 3 chiens.", "Tiene 5 gatos y los 3 perros.", "У него 5 кошек.",
     "أنا عمري 25 سنة", "Jest 5 osób i nie ma 3.", "今天は5時です"],
)  # fmt: skip
def test_digits_of_other_languages_are_left_and_reported(text: str) -> None:
    spoken = normalise(text, "ja" if "は" in text else None)
    assert spoken.text == text
    assert spoken.language_unknown


@pytest.mark.parametrize("text", ["Das ist gut.", "No digits.", "没有数字。", "I have 5."])
def test_nothing_is_reported_when_no_digit_is_left(text: str) -> None:
    assert not normalise(text).language_unknown


def test_named_language_decides() -> None:
    assert normalise("5 Chat", "en").text == "five Chat"
    assert normalise("5", "zh-CN").text == "五"
    assert normalise("I have 5.", "fr").text == "I have 5."


def test_english_is_told_from_its_neighbours_by_frequent_words() -> None:
    assert looks_english("Version 5")
    assert looks_english("The house is in the city.")
    assert not looks_english("Das Haus ist in der Stadt und nicht hier.")
    assert not looks_english("Это русский текст")


def test_numbers_in_mixed_text_follow_their_neighbours() -> None:
    assert normalise("我有5个 and we have 7 left.").text == "我有五个 and we have seven left."


def test_spans_of_the_spoken_text_lead_back_to_the_written() -> None:
    written = "We paid $3.50 for 12 of the 5 km."
    spoken = normalise(written)
    sources = {
        "We paid": "We paid", "three dollars and fifty cents": "$3.50", "twelve": "12", "for twelve of": "for 12 of",
        "five kilometers": "5 km", "cents for": "$3.50 for",
    }  # fmt: skip
    for words, source in sources.items():
        start = spoken.text.index(words)
        assert written[slice(*spoken.written(start, start + len(words)))] == source


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.sampled_from(list("0123456789 ,.:/-$%€ap.mkg元年月号千 theof#&@AZ+=°")), max_size=60))
def test_no_text_breaks_the_rules_and_every_span_leads_back(text: str) -> None:
    spoken = normalise(text, "en")
    assert spoken.written(0, len(spoken.text)) == (0, len(text))
    for start in range(len(spoken.text)):
        low, high = spoken.written(start, start + 1)
        assert 0 <= low < high <= len(text)
    normalise(text)
    normalise(text, "zh")


@given(number=st.integers(min_value=0, max_value=10**15 - 1))
def test_cardinals_read_back(number: int) -> None:
    assert value_of(english.cardinal(number)) == number
    assert chinese.cardinal(number)


def value_of(words: str) -> int:
    small = {english.cardinal(n): n for n in range(100)}
    scales = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
    total = group = 0
    for word in words.split():
        if word == "hundred":
            group *= 100
        elif word in scales:
            total, group = total + group * scales[word], 0
        else:
            group += small[word]
    return total + group
