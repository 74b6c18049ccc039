"""English number words, as an American speaker reads them: without "and"."""

# ruff: noqa: RUF001, SIM905 - other dashes are meant; lists of words read better as text

from __future__ import annotations

import re

# At most ten groups: a list of 10,000 would be read to its end from each of them.
# How numbers are written: 1,234 and 1,00,000, 10 000 and 1 234 567, .5; with a decimal comma 3,5 and 1.234,56.
_INT = (
    r"(?:\d{1,3}(?:,\d{3}){1,10}(?!,?\d)|\d{1,2}(?:,\d\d){1,10},\d{3}(?!,?\d)"
    r"|\d{1,3}(?: 000){1,4}(?! ?\d)|(?<!\d )[1-9]\d?(?: \d{3}){2,4}(?! ?\d)|\d+)"
)
NUMBER = rf"(?:{_INT}(?:\.\d+)?|(?<!\w)\.\d+)"
WITH_COMMA = r"(?:\d{1,3}(?:\.\d{3}){1,10}|\d+),\d{1,2}(?!\d|[,.]\d)"
AMOUNT = rf"(?:{WITH_COMMA}|{NUMBER})"  # of money or in a unit; 3,5 alone may be a list
START = r"(?<![\w.,:/])"
MINUS = r"(?P<minus>(?<![\w)%°])[-−])?"
ONE = r"(?P<one>(?<=\ba )|(?<=\bA )|(?<=\ban ))?"  # a five dollar bill

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"}
_MOST_DIGITS = 15  # longer ones are read digit by digit


def cardinal(number: int) -> str:
    """1234 -> one thousand two hundred thirty-four."""
    if number < 20:
        return _SMALL[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_SMALL[number % 10]}" if number % 10 else "")
    value, name = next(scale for scale in _SCALES if number >= scale[0])
    rest = f" {cardinal(number % value)}" if number % value else ""
    return f"{cardinal(number // value)} {name}{rest}"


def ordinal(number: int) -> str:
    """21 -> twenty-first."""
    head, last = re.fullmatch(r"(.*?)([a-z]+)", cardinal(number)).groups()  # type: ignore[union-attr]
    return head + (_ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th"))


def pairs(number: int) -> str:
    """1999 -> nineteen ninety-nine; 1905 -> nineteen oh five; 2005 -> two thousand five; 380 -> three eighty. Years, models, addresses."""
    high, low = divmod(number, 100)
    if number < 100 or number >= 10_000 or number % 1000 < 10:
        return cardinal(number)
    return f"{cardinal(high)} {'hundred' if low == 0 else f'oh {_SMALL[low]}' if low < 10 else cardinal(low)}"


def digits(text: str) -> str:
    """007 -> zero zero seven; marks between them are left out."""
    return " ".join(_SMALL[int(char)] for char in text if char.isdecimal())


def number(text: str) -> str:
    """1,234.50 -> one thousand two hundred thirty-four point five zero; endless and zero-led ones digit by digit."""
    whole, _, fraction = re.sub("[, ]", "", text).partition(".")
    said = digits(whole) if len(whole) > _MOST_DIGITS or re.match("0.", whole) else cardinal(int(whole)) if whole else ""
    return f"{said} point {digits(fraction)}".lstrip() if fraction else said


def with_stop(amount: str) -> str:
    """Without marks between the thousands, and with a stop before the fraction."""
    if re.fullmatch(WITH_COMMA, amount):
        amount = amount.replace(".", "").replace(",", ".")
    return re.sub("[, ]", "", amount)


def code(text: str) -> str:
    """Digits inside names: 16 -> sixteen; 380 -> three eighty; 1080 -> ten eighty; 007 and 12345 digit by digit."""
    return digits(text) if len(text) > 4 or re.match("0.", text) else pairs(int(text))


def plural(words: str) -> str:
    """ninety -> nineties; six -> sixes; half -> halves; third -> thirds."""
    if words.endswith("half"):
        return words.removesuffix("f") + "ves"
    if words.endswith("y"):
        return words.removesuffix("y") + "ies"
    return words + ("es" if words.endswith("x") else "s")
