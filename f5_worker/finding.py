"""What a check of the doctor found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line of the report. `check` and `fault` are stable names for machines; no field ever holds a secret.

    `values` are the measured numbers, with their units in the names.
    """

    check: str
    seen: str
    state: State = "ok"
    fault: str = ""
    remedy: str = ""
    values: Mapping[str, float | int | None] = field(default_factory=dict)


def failed(check: str, fault: str, seen: str, remedy: str) -> Finding:
    """What must be mended before the worker does all that it is for."""
    return Finding(check, seen, "failed", fault, remedy)


def warning(check: str, fault: str, seen: str, remedy: str) -> Finding:
    """What works but costs something, or could not be looked at."""
    return Finding(check, seen, "warning", fault, remedy)


def skipped(check: str, seen: str) -> Finding:
    """What was not looked at, and why."""
    return Finding(check, seen, "skipped")
