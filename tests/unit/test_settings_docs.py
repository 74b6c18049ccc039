"""docs/settings.md; that it is current is tests/unit/test_docs.py's."""

from __future__ import annotations

from f5_worker import settings_docs
from f5_worker.settings import MEANING


def rows() -> dict[str, list[str]]:
    cells = [[c.strip() for c in line.split(" | ")] for line in settings_docs.render().splitlines() if line.startswith("| `")]
    return {row[0].strip("| `"): row for row in cells}


def test_every_variable_that_has_a_meaning_is_read() -> None:
    assert set(MEANING) <= set(rows())


def test_defaults_and_errors_are_the_readers_own() -> None:
    assert rows()["URL_EXPIRES_S"][1] == "`86400`"
    assert "must be a number from 60 to 604800" in rows()["URL_EXPIRES_S"][3]
    assert "AWS_SECRET_ACCESS_KEY missing" in rows()["AWS_SECRET_ACCESS_KEY"][3]
    assert "is not known" in rows()["F5_MODEL"][3]
