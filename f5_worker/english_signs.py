"""English: signs of calculation, powers, comparisons."""

# ruff: noqa: RUF001 - signs and other dashes are meant

from __future__ import annotations

import re

from f5_worker.english_forms import BEFORE_NUMBER, MATHS
from f5_worker.english_numbers import NUMBER, START, number
from f5_worker.rewrite import Rule

Match = re.Match[str]

_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def _power(match: Match) -> str:
    return f"{number(match[1])} times ten to the power of {'minus ' if match[2] == '-' else ''}{number(match[3])}"


def _raised(match: Match) -> str:
    """10⁹, 2³, x², x^2."""
    power = match[0].lstrip("^").translate(_RAISED)
    if power in {"2", "3"}:
        return " squared" if power == "2" else " cubed"
    return f" to the power of {'minus ' if power[0] == '-' else ''}{number(power.lstrip('-'))}"


# Ahead of the ranges, which have the same marks.
FIRST_SIGN_RULES: list[Rule] = [
    (re.compile(rf"{START}({NUMBER})(?:[eE]([+-])|e)(\d{{1,3}})(?!\w)"), _power),
    (re.compile(r"(?<=\d)\s?[-−–]\s?(?=\d+(?:\.\d+)?\s?=)"), lambda _: " minus "),
    (re.compile(r"(?<=[^\W\d_])[²³](?![⁺⁻])|(?<=[^\W\d_])\^[23](?![\w.])|(?<=[\d)])⁻?[⁰¹²³⁴-⁹]{1,6}"), _raised),
]
SIGN_RULES: list[Rule] = [
    (
        re.compile(r"(?<=\d)\s?([+=×*÷^≠<>≤≥])\s?(?=-?[$£€]?\d)|(?<=\w) ([+=×÷]) (?=\w)|(?<=\w)(=)(?=\w)"),
        lambda m: f" {MATHS[m[1] or m[2] or m[3]]} ",
    ),
    (re.compile(r"(?<=[^\W_])\^(?=-?[^\W_])"), lambda _: f" {MATHS['^']} "),
    (re.compile(r"(?<=[\d%])\+(?!\w)"), lambda _: " plus"),
    (re.compile(r"(?<![\w<>=-])([~≈±<>≤≥+№§])\s?(?=[$£€]?\.?\d)"), lambda m: f"{BEFORE_NUMBER[m[1]]} "),
]
