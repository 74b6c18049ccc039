"""English: written forms and how they are said."""

# ruff: noqa: SIM905 - lists of words read better as text

from __future__ import annotations

import re

from f5_worker.normalise import Rule

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"}
_MONTHS = "January February March April May June July August September October November December".split()
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"), "£": ("pound", "pounds", "penny", "pence"), "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
}  # fmt: skip
_UNITS = {
    "km/h": ("kilometer per hour", "kilometers per hour"), "mph": ("mile per hour", "miles per hour"),
    "m/s": ("meter per second", "meters per second"),
    "km": ("kilometer", "kilometers"), "cm": ("centimeter", "centimeters"), "mm": ("millimeter", "millimeters"), "m": ("meter", "meters"),
    "kg": ("kilogram", "kilograms"), "mg": ("milligram", "milligrams"), "g": ("gram", "grams"), "lb": ("pound", "pounds"),
    "lbs": ("pound", "pounds"),
    "oz": ("ounce", "ounces"), "ft": ("foot", "feet"), "mi": ("mile", "miles"), "l": ("liter", "liters"), "L": ("liter", "liters"),
    "ml": ("milliliter", "milliliters"), "°C": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "°": ("degree", "degrees"), "kHz": ("kilohertz", "kilohertz"), "MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"),
    "Hz": ("hertz", "hertz"), "KB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes"), "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"), "kW": ("kilowatt", "kilowatts"), "W": ("watt", "watts"), "V": ("volt", "volts"),
    "ms": ("millisecond", "milliseconds"), "min": ("minute", "minutes"), "hrs": ("hour", "hours"), "hr": ("hour", "hours"),
    "%": ("percent", "percent"),
}  # fmt: skip
_TITLES = {"Mr": "Mister", "Mrs": "Missus", "Dr": "Doctor", "Prof": "Professor", "vs": "versus", "approx": "approximately"}
_SAID_AS_WORDS = {"NASA", "NATO", "UNESCO", "UNICEF", "OPEC", "LASER", "RADAR", "COVID", "AIDS"}
_FRACTIONS = {
    "2": ("half", "halves"),
    "4": ("quarter", "quarters"),
    "3": ("third", "thirds"),
    "5": ("fifth", "fifths"),
    "8": ("eighth", "eighths"),
}

_INT = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = rf"(?:{_INT}(?:\.\d+)?)"
_START = r"(?<![\w.,:/-])"
_STOP = r"(?![\w])"
_MONTH = "|".join(_MONTHS) + "|" + "|".join(f"{name[:3]}\\.?" for name in _MONTHS if name != "May") + "|Sept\\.?"


def cardinal(number: int) -> str:
    """1234 -> one thousand two hundred thirty-four."""
    if number < 0:
        return f"minus {cardinal(-number)}"
    if number < 20:
        return _SMALL[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_SMALL[number % 10]}" if number % 10 else "")
    for value, name in _SCALES:
        if number >= value:
            rest = f" {cardinal(number % value)}" if number % value else ""
            return f"{cardinal(number // value)} {name}{rest}"
    raise AssertionError(number)


def ordinal(number: int) -> str:
    """21 -> twenty-first."""
    head, separator, last = re.fullmatch(r"(?:(.*)([ -]))?(\w+)", cardinal(number)).groups()  # type: ignore[union-attr]
    ending = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return f"{head or ''}{separator or ''}{ending}"


def year(number: int) -> str:
    """1999 -> nineteen ninety-nine; 2005 -> two thousand five."""
    if number % 1000 < 10:
        return cardinal(number)
    low = "hundred" if number % 100 == 0 else f"oh {_SMALL[number % 100]}" if number % 100 < 10 else cardinal(number % 100)
    return f"{cardinal(number // 100)} {low}"


def digits(text: str) -> str:
    """007 -> zero zero seven; separators are pauses."""
    return " ".join(_SMALL[int(char)] for char in text if char.isdigit())


def number(text: str) -> str:
    """1,234.50 -> one thousand two hundred thirty-four point five zero; endless and zero-led ones digit by digit."""
    whole, _, fraction = text.replace(",", "").partition(".")
    said = digits(whole) if len(whole) > 15 or (len(whole) > 1 and whole[0] == "0") else cardinal(int(whole))
    return f"{said} point {digits(fraction)}" if fraction else said


def _currency(match: re.Match[str]) -> str:
    one, many, small_one, small_many = _CURRENCIES[match["sign"]]
    amount, scale = match["amount"].replace(",", ""), match["scale"]
    if scale:
        return f"{number(amount)} {scale} {many}"
    whole, _, fraction = amount.partition(".")
    if fraction and len(fraction) != 2:
        return f"{number(amount)} {many}"
    cents = int(fraction or 0)
    small = f"{cardinal(cents)} {small_one if cents == 1 else small_many}"
    if cents and not int(whole):
        return small
    large = f"{number(whole)} {one if int(whole) == 1 else many}"
    return f"{large} and {small}" if cents else large


def _time(match: re.Match[str]) -> str | None:
    hour, minute, half = int(match["hour"]), int(match["minute"]), match["half"]
    if hour > 24 or minute > 59:
        return None
    said = cardinal(hour) if half and minute == 0 else f"{cardinal(hour)} {_minute(minute)}"
    return f"{said} {half[0].lower()}.m." if half else said


def _minute(minute: int) -> str:
    return "o'clock" if minute == 0 else f"oh {_SMALL[minute]}" if minute < 10 else cardinal(minute)


def _date(month: int, day: int, year_text: str | None) -> str | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"{_MONTHS[month - 1]} {ordinal(day)}" + (f", {year(int(year_text))}" if year_text else "")


def _month_number(name: str) -> int:
    return [month[:3] for month in _MONTHS].index(name[:3]) + 1


def _unit(match: re.Match[str]) -> str:
    one, many = _UNITS[match["unit"]]
    return f"{_signed(match['sign'])}{number(match['number'])} {one if match['number'] == '1' else many}"


def _signed(sign: str | None) -> str:
    return "minus " if sign else ""


def _fraction(match: re.Match[str]) -> str | None:
    top, bottom = match["top"], match["bottom"]
    if bottom not in _FRACTIONS or int(top) >= int(bottom):
        return None
    return f"{cardinal(int(top))} {_FRACTIONS[bottom][top != '1']}"


def _address(match: re.Match[str]) -> str:
    text = re.sub(r"^https?://(?:www\.)?|/$", "", match[0])
    for mark, word in ((".", "dot"), ("/", "slash"), ("@", "at"), ("-", "dash"), ("_", "underscore")):
        text = text.replace(mark, f" {word} ")
    return re.sub(r"\d+", lambda found: f" {digits(found[0])} ", text).strip().replace("  ", " ")


def _capitals(match: re.Match[str]) -> str | None:
    words = match[0]
    if words in _SAID_AS_WORDS or " " in words or (len(words) > 4 and re.search("[AEIOUY]", words)):
        return words.capitalize()
    return None


def _plain(match: re.Match[str]) -> str:
    text = match["number"]
    is_year = len(text) == 4 and (1900 <= int(text) <= 2099 if text.isdigit() else False)
    said = year(int(text)) if is_year else digits(text) if text.isdigit() and len(text) >= 7 else number(text)
    return _signed(match["sign"]) + said


RULES: list[Rule] = [
    (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b|https?://[^\s,;!?]+[\w/]|\bwww\.[^\s,;!?]+[\w/]"), _address),
    (
        re.compile(rf"(?P<sign>[$£€¥])\s?(?P<amount>{_NUMBER})(?:\s?(?P<scale>thousand|million|billion|trillion)\b)?(?![\d])"),
        _currency,
    ),
    (re.compile(rf"{_START}(?P<amount>{_NUMBER})(?P<scale>)\s?(?P<sign>[€£])"), _currency),
    (re.compile(rf"{_START}(?P<hour>\d{{1,2}}):(?P<minute>\d\d)(?:\s?(?P<half>[AaPp])\.?[Mm]\b\.?)?(?![\d:])"), _time),
    (re.compile(rf"{_START}(\d{{1,2}})\s?([ap])\.?m\b\.?", re.IGNORECASE), lambda m: f"{cardinal(int(m[1]))} {m[2].lower()}.m."),
    (re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b"), lambda m: _date(int(m[2]), int(m[3]), m[1])),
    (re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b"), lambda m: _date(int(m[1]), int(m[2]), m[3])),
    (
        re.compile(rf"\b({_MONTH}) (\d{{1,2}})(?:st|nd|rd|th)?(?:,? (\d{{4}}))?{_STOP}"),
        lambda m: _date(_month_number(m[1]), int(m[2]), m[3]),
    ),
    (
        re.compile(rf"{_START}(\d{{1,2}})(?:st|nd|rd|th)? ({_MONTH})(?:,? (\d{{4}}))?{_STOP}"),
        lambda m: _date(_month_number(m[2]), int(m[1]), m[3]),
    ),
    (
        re.compile(r"\b(1[1-9]|20)(\d0)s\b"),
        lambda m: f"{cardinal(int(m[1]))} {_TENS[int(m[2][0])].removesuffix('y')}ies" if m[2] != "00" else None,
    ),
    (re.compile(rf"{_START}({_INT})(?:st|nd|rd|th)\b"), lambda m: ordinal(int(m[1].replace(",", "")))),
    (re.compile(r"(?<=[Ii]n |[Bb]y |[Oo]f )(1[1-9]\d\d|20\d\d)(?![\w%,.]*\d)(?!\w)"), lambda m: year(int(m[1]))),
    (re.compile(rf"{_START}(?P<sign>[-\u2212])?(?P<number>{_NUMBER})\s?(?P<unit>{'|'.join(map(re.escape, _UNITS))})(?![\w/])"), _unit),
    (re.compile(rf"{_START}(?P<top>\d)/(?P<bottom>\d){_STOP}(?!/)"), _fraction),
    (re.compile(rf"{_START}(\d+(?:\.\d+){{2,}}){_STOP}"), lambda m: " point ".join(cardinal(int(part)) for part in m[1].split("."))),
    (re.compile(r"(?<![\w-])\+?\(?\d{3}\)?[- ]\d{3}[- ]\d{4}\b"), lambda m: ", ".join(digits(part) for part in re.findall(r"\d+", m[0]))),
    (
        re.compile(rf"{_START}(\d{{1,3}})\s?[-\u2013]\s?(\d{{1,3}}){_STOP}(?![-.]\d)"),
        lambda m: f"{cardinal(int(m[1]))} to {cardinal(int(m[2]))}",
    ),
    (re.compile(rf"{_START}24/7{_STOP}"), lambda _: "twenty-four seven"),
    (re.compile(rf"{_START}(\d{{1,3}}):(\d{{1,3}})(?![\d:])"), lambda m: f"{cardinal(int(m[1]))} to {cardinal(int(m[2]))}"),
    (re.compile(rf"#(\d+){_STOP}"), lambda m: f"number {number(m[1])}"),
    (re.compile(r"\bNo\. (?=\d)"), lambda _: "number "),
    (re.compile(rf"(?<![\w.,])(?P<sign>(?<![\w)])[-\u2212])?(?P<number>{_NUMBER})"), _plain),
    (re.compile(rf"\b({'|'.join(_TITLES)})\.(?= )"), lambda m: _TITLES[m[1]]),
    (re.compile(r"\be\.g\.,?|\bi\.e\.,?"), lambda m: "for example," if m[0].startswith("e") else "that is,"),
    (re.compile(r"\s&\s"), lambda _: " and "),
    (re.compile(r"(?<=\d )([+=\u00d7])(?= ?\d)"), lambda m: {"+": "plus", "=": "equals", "\u00d7": "times"}[m[1]]),
    (re.compile(r"\b[A-Z]{2,}(?: [A-Z]{2,}){2,}\b|\b[A-Z]{2,}\b"), _capitals),
]
