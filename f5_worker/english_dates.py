"""English: dates, times of day, decades."""

# ruff: noqa: RUF001 - other dashes and quotes are meant

from __future__ import annotations

import re

from f5_worker.english_forms import MONTHS
from f5_worker.english_numbers import START, cardinal, ordinal, pairs, plural
from f5_worker.rewrite import Rule

Match = re.Match[str]

_MONTH = "|".join(MONTHS) + "|" + "|".join(rf"{name[:3]}\b\.?" for name in MONTHS if name != "May") + r"|Sept\b\.?"
_TH = "(?:st|nd|rd|th)?"
_END = r"(?![\w/-]|\.\d)"


def _time(match: Match) -> str | None:
    hour, minute, second, half = int(match["hour"]), int(match["minute"]), match["second"], match["half"]
    if minute > 59 or int(second or 0) > 59 or (hour > 24 and not second) or (match["mark"] == "." and not half):
        return None
    if second and not half:
        return _duration(hour, minute, int(second))
    said = cardinal(hour) if half and minute == 0 else f"{cardinal(hour)} {_minute(hour, minute)}"
    said = "midnight" if hour in {0, 24} and minute == 0 and not half else said
    return said + (f" and {cardinal(int(second))} seconds" if second else "") + (f" {half[0].lower()}.m." if half else "")


def _duration(*parts: int) -> str:
    named = [f"{cardinal(part)} {name}{'s' * (part != 1)}" for part, name in zip(parts, ("hour", "minute", "second"), strict=True) if part]
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named) or "zero seconds"


def _lasting(match: Match) -> str | None:
    """1h 30m, 1h 30m 5s, 3m 20s."""
    parts = [int(part or 0) for part in match.groups()]
    return _duration(*parts) if max(parts[1:]) < 60 else None


def _minute(hour: int, minute: int) -> str:
    if minute == 0:
        return "hundred" if hour > 12 else "o'clock"
    return f"oh {cardinal(minute)}" if minute < 10 else cardinal(minute)


def _date(month: int, day: int, year_text: str | None, *, day_first: bool = False) -> str | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    said = f"the {ordinal(day)} of {MONTHS[month - 1]}" if day_first else f"{MONTHS[month - 1]} {ordinal(day)}"
    return said + (f", {_year(year_text)}" if year_text else "")


def _year(text: str) -> str:
    return pairs(int(text) if len(text) == 4 else int(text) + (2000 if int(text) < 50 else 1900))


def _numeric_date(match: Match) -> str | None:
    """25.12.2020 and 25/12/2020, but 12/25/2020 and 12-25-2020: the month is first unless it cannot be or the mark is a stop."""
    first, second = int(match[1]), int(match[3])
    day_first = match[2] == "." or first > 12
    return _date(*((second, first) if day_first else (first, second)), match[4], day_first=day_first)


def _stamp(match: Match) -> str | None:
    date = _date(int(match[2]), int(match[3]), match[1])
    return f"{date}, {cardinal(int(match[4]))} {_minute(24, int(match[5]))}{' UTC' if match[6] else ''}" if date else None


def _month_number(name: str) -> int:
    return [month[:3] for month in MONTHS].index(name[:3]) + 1


def _month_day(match: Match) -> str | None:
    """March 5, March 5-7, 2024."""
    said = _date(_month_number(match[1]), int(match[2]), None)
    until = f" to {ordinal(int(match[3]))}" if match[3] else ""
    return f"{said}{until}{f', {_year(match[4])}' if match[4] else ''}" if said else None


def _day_month(match: Match) -> str | None:
    """5 March 2024, 5-7 March."""
    until = f" to {ordinal(int(match['until']))}" if match["until"] else ""
    if _date(1, int(match["day"]), None) is None:
        return None
    said = f"{ordinal(int(match['day']))}{until} of {MONTHS[_month_number(match['month']) - 1]}"
    return ("" if match["the"] is not None else "the ") + said + (f", {_year(match['year'])}" if match["year"] else "")


def _decade(match: Match) -> str | None:
    century, tens = match["century"], match["tens"]
    if tens == "00":
        return plural(pairs(int(century + tens))) if century else None
    return f"{cardinal(int(century))} {plural(cardinal(int(tens)))}" if century else plural(cardinal(int(tens)))


_LASTING = (
    r"(\d{1,3}) ?(?:hrs?|h) ?(\d{1,2}) ?(?:mins?|m)(?: ?(\d{1,2}) ?(?:secs?|s))?(?!\w)",
    r"()(\d{1,2})(?: ?mins?|m) ?(\d{1,2})(?: ?secs?|s)(?!\w)",
)
DATE_RULES: list[Rule] = [
    *((re.compile(START + lasting), _lasting) for lasting in _LASTING),
    (re.compile(r"\b(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d)(?::\d\d(?:\.\d{1,9})?)?(Z\b)?(?![\d:])"), _stamp),
    (re.compile(rf"(?<![\w/.-])(\d{{4}})([-/.])(\d\d?)\2(\d\d?){_END}"), lambda m: _date(int(m[3]), int(m[4]), m[1])),
    (re.compile(rf"(?<![\w/.-])(\d{{1,2}})([-/.])(\d{{1,2}})\2(\d{{4}}){_END}"), _numeric_date),
    (re.compile(rf"(?<![\w/.-])(\d{{1,2}})(/)(\d{{1,2}})/(\d\d){_END}"), _numeric_date),
    (re.compile(rf"(?<![\w/.-])(\d{{4}})-(0[1-9]){_END}"), lambda m: f"{MONTHS[int(m[2]) - 1]} {pairs(int(m[1]))}"),
    (
        re.compile(rf"\b({_MONTH}) (\d{{1,2}}){_TH}(?:\s?[-–]\s?(\d{{1,2}}){_TH})?(?:,? (\d{{4}}))?(?![\w%]|[.:]\d)"),
        _month_day,
    ),
    (
        re.compile(
            rf"{START}(?P<the>(?<=\b[Tt]he ))?(?P<day>\d{{1,2}}){_TH}(?:\s?[-–]\s?(?P<until>\d{{1,2}}){_TH})?(?: of)? (?P<month>{_MONTH})"
            r"(?:,? (?P<year>\d{4}))?(?!\w)"
        ),
        _day_month,
    ),
    (re.compile(rf"(?<=\d)\s?[-–]\s?(?=(?:{_MONTH}) \d)"), lambda _: " to "),
    (re.compile(rf"(?<=[Oo]n )(\d{{1,2}})/(\d{{1,2}})(?! of){_END}"), lambda m: _date(int(m[1]), int(m[2]), None)),
    (re.compile(rf"\b({_MONTH}) (\d{{4}})(?!\w)"), lambda m: f"{MONTHS[_month_number(m[1]) - 1]} {pairs(int(m[2]))}"),
    (
        re.compile(
            rf"{START}(?P<hour>\d{{1,2}})(?P<mark>[:.])(?P<minute>\d\d)(?::(?P<second>\d\d))?(?:\s?(?P<half>[AaPp])(?:\.[Mm]\b\.?|[Mm]\b\.?))?(?![\d:])"
        ),
        _time,
    ),
    (re.compile(rf"{START}(\d{{1,2}})\s?([AaPp])(?:\.[Mm]\b\.?|[Mm]\b\.?)"), lambda m: f"{cardinal(int(m[1]))} {m[2].lower()}.m."),
    (re.compile(r"\b0(\d)00(?= hours\b)"), lambda m: f"oh {cardinal(int(m[1]))} hundred"),
    (re.compile(r"(?<![\w.])['’]?(?P<century>1[1-9]|20)?(?P<tens>\d0)['’]?s\b"), _decade),
]
