from __future__ import annotations

import pytest

from benchmarks.report import Bar, broken_bars, restore_bars, taken, verdict

MACHINE = {"taken": "2026-01-02T03:04:05+00:00", "cores": 2, "cpu": "cpu", "load_average_1min": 0.5}


@pytest.mark.parametrize(("met", "code"), [([True, True], 0), ([True, False], 1), ([], 0)])
def test_a_missed_bar_is_an_exit_code(met: list[bool], code: int) -> None:
    assert verdict([Bar("bar", 1.0, "<= 1", is_met) for is_met in met]) == code


def test_a_broken_bucket_that_costs_more_than_its_bar_misses_it() -> None:
    bars = broken_bars({"bars_s": {"refused": 4, "slow": 9}, "extra_s": {"refused": 4.1, "slow": 9.0}})
    assert [bar.is_met for bar in bars] == [False, True]


def test_a_restore_without_peers_has_no_bars() -> None:
    assert restore_bars({"medians": {"ours": {"seconds": 1.0}}, "line": None, "tls": False}) == []


@pytest.mark.parametrize(("rate_mb_s", "bars"), [(125, 3), (500, 4)])
def test_only_on_a_fast_line_a_restore_has_to_be_faster_than_whoever_does_not_verify(rate_mb_s: int, bars: int) -> None:
    row = {"seconds": 10.0, "fast_guaranteed_seconds": 12.0, "peak_rss_bytes": 1e6}
    line = {"total_bytes_per_s": rate_mb_s * 1e6}
    found = restore_bars({"medians": {"ours": row, "peer": row}, "line": line, "tls": False, "bytes": 1e9})
    assert len(found) == bars


@pytest.mark.parametrize(("commit", "shown"), [("a" * 40, "aaaaaaa,"), ("a" * 40 + "+changes", "aaaaaaa+changes,")])
def test_what_was_measured_with_changes_says_so(commit: str, shown: str) -> None:
    assert f"at commit {shown}" in taken({"runs": 3, "machine": {**MACHINE, "commit": commit}})
