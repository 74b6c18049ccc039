from __future__ import annotations

from pathlib import Path

import pytest

from f5_worker.report import Phase, Timeline, process_start_unix_s, summary_line
from f5_worker.restore import RestoreReport
from tests.files import pinned

FILES = [pinned("a", b"a"), pinned("b", b"bb")]


def test_a_report_comes_back_as_it_was_written() -> None:
    report = RestoreReport(
        cache_dir=Path("/x"),
        paths={FILES[0]: Path("/x/a")},
        sources={FILES[0]: "bucket"},
        missing={FILES[1]: "no source has it"},
        wrong_keys={"k": 5.5},
        bucket_outcome="partial",
        bucket_seconds=1.5,
        bucket_bytes=1,
        hub_bytes=2,
        phases=[Phase("p", "restore", 0.1, 0.2, 3, "bucket")],
    )
    assert RestoreReport.from_json(report.to_json(FILES), FILES) == report


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b"[]"])
def test_half_a_report_is_no_report(data: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        RestoreReport.from_json(data, FILES)


def test_a_phase_that_raises_is_kept() -> None:
    timeline = Timeline(process_start_unix_s())

    def fail() -> None:
        with timeline.phase("p", lane="handler") as phase:
            phase.bytes = 5
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(p["name"], p["bytes"]) for p in timeline.as_dicts()] == [("p", 5)]
    assert timeline.phases[0].end_s >= timeline.phases[0].start_s


def test_the_summary_is_one_line() -> None:
    report = {
        "ready_s": 1.0,
        "model": "m",
        "bytes": 3,
        "files": [{"source": "bucket"}, {"source": "hub"}],
        "phases": [{"name": "load model", "start_s": 0.0, "end_s": 0.5}],
    }
    assert summary_line(report) == "boot.ready seconds=1.00 model=m source=bucket,hub bytes=3 load_model=0.50s"
