"""English: amounts of money."""

# ruff: noqa: RUF001 - signs and other dashes are meant

from __future__ import annotations

import re

from f5_worker.english_forms import CURRENCIES, SCALES, dollars_of
from f5_worker.english_numbers import AMOUNT, MINUS, NUMBER, ONE, START, cardinal, number, with_stop
from f5_worker.rewrite import Rule

Match = re.Match[str]

_SCALE = r"(?:[\s-]?(?P<scale>thousand|million|billion|trillion|mn|bn|tn)|(?P<letter>[kKmMbBT]))\b"
_CODES = "USD|EUR|GBP|JPY|INR|CNY|RMB|CHF|AUD|CAD"
_DEAL = re.compile(r" (?:deal|fund|loan|bond|grant|bid|offer|contract|project|plan|budget|bill|settlement|lawsuit|investment|valuation)\b")


def _currency(match: Match) -> str:
    found = match.groupdict()
    one, many, small_one, small_many = CURRENCIES.get(match["sign"]) or dollars_of(match["sign"][:-1])  # XX$
    if found.get("one") is not None and re.compile("[ -][a-z]").match(match.string, match.end()):
        many, small_many = one, small_one
    amount, scale = with_stop(match["amount"]), match["scale"] or SCALES.get(match["letter"])
    if scale and _DEAL.match(match.string, match.end()):
        many = one
    low = f"{number(found['low'])} to " if found.get("low") else ""
    minus = "minus " if found.get("minus") or found.get("inner") else ""
    whole, _, fraction = amount.partition(".")
    if scale or low or (fraction and (len(fraction) != 2 or not small_one)):
        return f"{minus}{low}{number(amount)} {f'{SCALES.get(scale, scale)} ' if scale else ''}{many}"
    cents, units = int(fraction or 0), whole.lstrip("0")
    small = f"{cardinal(cents)} {small_one if cents == 1 else small_many}"
    if cents and not units:
        return minus + small
    large = f"{number(units or '0')} {one if units == '1' else many}"
    return f"{minus}{large} and {small}" if cents else minus + large


MONEY_RULES: list[Rule] = [
    (
        re.compile(
            rf"{ONE}{MINUS}(?<![A-Za-z\d])(?P<sign>[A-Z]{{0,2}}\$|[£€¥₹₩₽₿]|\b(?:{_CODES})\b)\s?(?P<inner>(?<=[$£€¥₹₩₽₿])[-−])?"
            rf"(?:(?P<low>{NUMBER})\s?[-–]\s?)?(?P<amount>{AMOUNT})(?:{_SCALE})?(?!\d)"
        ),
        _currency,
    ),
    (re.compile(rf"{START}(?P<amount>{AMOUNT})(?:{_SCALE})?\s?(?P<sign>[€£¢]|\$(?!\w)|(?:{_CODES})\b)"), _currency),
]
