"""Written forms as spoken words. The rows of data/normalise_*.tsv are: written, spoken (\\n is a line break)."""

# ruff: noqa: RUF001 - texts of other scripts

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f5_worker import chinese, english_numbers
from f5_worker.normalise import looks_chinese, looks_english, normalise
from f5_worker.rewrite import Rewritten
from tests.growth import assert_linear

DATA = Path(__file__).with_name("data")


def rows(name: str) -> list[list[str]]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n").split("\t") for line in lines if line and not line.startswith("# ")]


@pytest.mark.parametrize(("written", "spoken"), rows("normalise_en.tsv"), ids=lambda value: str(value)[:40])
def test_english(written: str, spoken: str) -> None:
    assert normalise(written, "en").text == spoken
    assert normalise(written).text == spoken


@pytest.mark.parametrize(("written", "spoken"), rows("normalise_zh.tsv"), ids=lambda value: str(value)[:40])
def test_chinese(written: str, spoken: str) -> None:
    assert normalise(written).text == spoken


@pytest.mark.parametrize("name", ["normalise_en.tsv", "normalise_zh.tsv"])
def test_what_is_spoken_is_spoken_as_it_is(name: str) -> None:
    language = name[-6:-4]
    for _, spoken in rows(name):
        assert normalise(spoken, language).text == spoken


@pytest.mark.parametrize("name", ["normalise_en.tsv", "normalise_zh.tsv"])
def test_no_digit_is_left_in_a_known_language(name: str) -> None:
    assert [spoken for _, spoken in rows(name) if any(char.isdecimal() for char in spoken)] == []


@pytest.mark.parametrize(
    "text",
    ["Das kostet 5 Euro und ist nicht teuer.", "Il a 5 chats et 3 chiens.", "Tiene 5 gatos y los 3 perros.", "У него 5 кошек.",
     "أنا عمري 25 سنة", "Jest 5 osób i nie ma 3.", "今日は5時に起きました。", "저는 5시에 일어났어요.", "मेरे पास 5 किताबें हैं।",
     "Ich habe 5 Hunde.", "Tengo 3 gatos.", "J'ai 3 chats.", "Saya punya 5 apel.", "Minulla on 5 koiraa.", "Ho 3 gatti.", "Mam 3 koty.",
     "Wir haben 5 Kinder.", "Ik heb 3 katten.", "Jag har 3 katter.", "Jeg har 3 katte.", "Tenho 3 gatos.", "Elle a 3 chats.",
     "Van 3 kutyánk.", "Benim 3 kedim var.", "Mají 3 kočky."],
)  # fmt: skip
def test_digits_of_other_languages_are_left(text: str) -> None:
    assert normalise(text).text == text


def test_named_language_decides() -> None:
    assert normalise("5 Chat", "en").text == "five Chat"
    assert normalise("5", "zh-CN").text == "五"
    assert normalise("I have 5.", "fr").text == "I have 5."
    assert normalise("今日は5時", "ja").text == "今日は5時"
    assert normalise("发邮件到 a@b.com", "zh").text == "发邮件到 a艾特b点com"


def test_english_is_told_from_its_neighbours_by_frequent_words() -> None:
    assert looks_english("Version 5")
    assert looks_english("The house is in the city.")
    assert not looks_english("Das Haus ist in der Stadt und nicht hier.")
    assert not looks_english("Это русский текст")


def test_chinese_is_told_from_japanese_by_kana() -> None:
    assert looks_chinese("我要一个の字标志，在这里写上去吧")
    assert not looks_chinese("今日は5時に起きました。")
    assert not looks_chinese("No such character.")


def test_spans_of_the_spoken_text_lead_back_to_the_written() -> None:
    written = "We paid $3.50 for 12 of the 5 km."
    spoken = normalise(written)
    sources = {
        "We paid": "We paid", "three dollars and fifty cents": "$3.50", "twelve": "12", "for twelve of": "for 12 of",
        "five kilometers": "5 km", "cents for": "$3.50 for",
    }  # fmt: skip
    for words, source in sources.items():
        start = spoken.text.index(words)
        assert written[slice(*spoken.source(start, start + len(words)))] == source


def test_words_that_stand_for_nothing_and_for_much_keep_the_map() -> None:
    rewritten = Rewritten("abcdef", ((0, 2, ""), (3, 3, "+"), (4, 5, "eee")))
    assert rewritten.text == "c+deeef"
    assert [rewritten.source(at, at + 1) for at in range(7)] == [(2, 3), (3, 3), (3, 4), (4, 5), (4, 5), (4, 5), (5, 6)]


@settings(max_examples=200)
@given(text=st.text(alphabet=st.sampled_from(list("0123456789 ,.:/-$%€ap.mkg元年月号千 theof#&@AZ+=°½'s\nx")), max_size=60))
def test_no_text_breaks_the_rules_and_every_span_leads_back(text: str) -> None:
    for language in ("en", "zh", None):
        spoken = normalise(text, language)
        assert all(0 <= low <= high <= len(text) for low, high in (spoken.source(at, at + 1) for at in range(len(spoken.text))))
        assert language is None or not any(char.isdecimal() for char in spoken.text)


@pytest.mark.parametrize(
    "piece",
    ["1", "1,", "1.", "1-", "1/", "1:", "$", "a.", "a@", "www.", "A ", "AA ", "1 000", "½", "+1 ", "0 ", "1 ", "12/", "-", "a", "1a", " 1-",
     "1x", "http://", "a-", "I'", "年1", "1年", "～1", "电话1", "£1-", "1.5.", "Dr. ", "1 1/",
     "1元-", "1m-", "甲-1", "1h2m", "3m 2s", "1 380 ", "i7-9", "1%~", "5€-", "x^", "2³", "10⁹", "1:1", "C#8"],
)  # fmt: skip
@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_text_makes_the_rules_slow(piece: str, language: str) -> None:
    assert_linear(lambda chars: normalise((piece * chars)[:chars], language), 20_000)


@given(number=st.integers(min_value=0, max_value=10**15 - 1))
def test_cardinals_read_back(number: int) -> None:
    assert value_of(english_numbers.cardinal(number)) == number


@given(number=st.integers(min_value=0, max_value=10**12 - 1))
def test_chinese_cardinals_read_back(number: int) -> None:
    assert chinese_value_of(chinese.cardinal(number)) == number


def value_of(words: str) -> int:
    small = {english_numbers.cardinal(n): n for n in range(100)}
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


def chinese_value_of(words: str) -> int:
    for mark, scale in (("亿", 10**8), ("万", 10**4)):
        head, found, rest = words.rpartition(mark)
        if found:
            return chinese_value_of(head) * scale + chinese_value_of(rest)
    total, digit = 0, 1 if words.startswith("十") else 0
    for char in words:
        if char in "十百千":
            total, digit = total + digit * {"十": 10, "百": 100, "千": 1000}[char], 0
        else:
            digit = "零一二三四五六七八九".index(char.replace("两", "二"))
    return total + digit
