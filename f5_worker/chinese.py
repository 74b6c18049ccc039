"""Chinese: written forms and how they are said."""

# ruff: noqa: RUF001 - full-width marks are meant

from __future__ import annotations

import re

from f5_worker.normalise import Rule

_DIGITS = "零一二三四五六七八九"
_CURRENCIES = {"¥": "元", "￥": "元", "$": "美元", "€": "欧元", "£": "英镑"}
_UNITS = {
    "km/h": "公里每小时", "km": "公里", "cm": "厘米", "mm": "毫米", "m": "米", "kg": "公斤", "mg": "毫克", "g": "克", "℃": "摄氏度",
    "°C": "摄氏度",
    "°": "度", "ml": "毫升", "L": "升", "GB": "吉字节", "MB": "兆字节", "kHz": "千赫兹", "Hz": "赫兹", "㎡": "平方米",
}  # fmt: skip
# Before these a two is 两.
_COUNTERS = "个只位本件条张辆次天年岁斤块元点种台家间层倍周千万亿百公米"
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_START = r"(?<![\d.,:/A-Za-z-])"
_STOP = r"(?![\d.]?\d|[A-Za-z])"


def cardinal(number: int) -> str:
    """10203 -> 一万零二百零三."""
    if number < 0:
        return "负" + cardinal(-number)
    for value, name in ((10**8, "亿"), (10**4, "万")):
        if number >= value:
            rest = number % value
            head = "两" if number // value == 2 else cardinal(number // value)
            return head + name + ("零" if 0 < rest < value // 10 else "") + (cardinal(rest) if rest else "")
    said = _below_10000(number)
    return said.removeprefix("一") if 10 <= number < 20 else said.replace("二千", "两千")


def _below_10000(number: int) -> str:
    if number == 0:
        return "零"
    text, said, zero = str(number), "", False
    for place, char in enumerate(text):
        if char == "0":
            zero = True
            continue
        said += ("零" if zero else "") + _DIGITS[int(char)] + ("", "十", "百", "千")[len(text) - place - 1]
        zero = False
    return said


def digits(text: str) -> str:
    """2024 -> 二零二四."""
    return "".join(_DIGITS[int(char)] for char in text if char.isdigit())


def number(text: str) -> str:
    """1,234.5 -> 一千二百三十四点五."""
    whole, _, fraction = text.replace(",", "").partition(".")
    said = digits(whole) if len(whole) > 12 or (len(whole) > 1 and whole[0] == "0") else cardinal(int(whole))
    return f"{said}点{digits(fraction)}" if fraction else said


def _signed(match: re.Match[str]) -> str:
    return "负" if match["sign"] else ""


def _time(match: re.Match[str]) -> str | None:
    hour, minute = int(match[1]), int(match[2])
    if hour > 24 or minute > 59:
        return None
    said = ("两" if hour == 2 else cardinal(hour)) + "点"
    return said + ("" if minute == 0 else f"零{cardinal(minute)}分" if minute < 10 else f"{cardinal(minute)}分")


def _date(match: re.Match[str]) -> str | None:
    month, day = int(match[2]), int(match[3])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"{digits(match[1])}年{cardinal(month)}月{cardinal(day)}日"


def _plain(match: re.Match[str]) -> str:
    text = match["number"]
    follows = match.string[match.end() : match.end() + 1]
    if text == "2" and follows and follows in _COUNTERS:
        return _signed(match) + "两"
    return _signed(match) + (digits(text) if text.isdigit() and len(text) >= 7 else number(text))


RULES: list[Rule] = [
    (
        re.compile(rf"(?P<sign>[¥￥$€£])\s?(?P<number>{_NUMBER})(?P<scale>[万亿]?)"),
        lambda m: number(m["number"]) + m["scale"] + _CURRENCIES[m["sign"]],
    ),
    (re.compile(rf"{_START}(?P<sign>[-\u2212])?(?P<number>{_NUMBER})\s?[%％]"), lambda m: f"{_signed(m)}百分之{number(m['number'])}"),
    (re.compile(r"(?<!\d)(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?!\d)"), _date),
    (re.compile(r"(?<!\d)(\d{4})(?=年)"), lambda m: digits(m[1])),
    (re.compile(rf"{_START}(\d{{1,2}})[:：](\d\d)(?![\d:：])"), _time),
    (re.compile(rf"{_START}(\d+)/(\d+){_STOP}(?!/)"), lambda m: f"{cardinal(int(m[2]))}分之{cardinal(int(m[1]))}"),
    (
        re.compile(rf"{_START}(?P<sign>[-\u2212])?(?P<number>{_NUMBER})\s?(?P<unit>{'|'.join(map(re.escape, _UNITS))})(?![A-Za-z/])"),
        lambda m: f"{_signed(m)}{number(m['number'])}{_UNITS[m['unit']]}",
    ),
    (re.compile(r"(?<![\d-])1\d{2}[- ]?\d{4}[- ]?\d{4}(?!\d)"), lambda m: digits(m[0]).replace("一", "幺")),
    (re.compile(rf"{_START}({_NUMBER})\s?[-\u2013~～]\s?({_NUMBER}){_STOP}"), lambda m: f"{number(m[1])}到{number(m[2])}"),
    (re.compile(r"(?<!\d)(\d{1,3})[:：](\d{1,3})(?![\d:：])"), lambda m: f"{cardinal(int(m[1]))}比{cardinal(int(m[2]))}"),
    (re.compile(rf"(?<![\d.,A-Za-z])(?P<sign>(?<![\dA-Za-z)])[-\u2212])?(?P<number>{_NUMBER})"), _plain),
]
