from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from f5_worker import healthcheck

STAT = "7 (python -u) S 1 " + "0 " * 17 + "{ticks} 0"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc with one process, handler.py, that has just started."""
    process = tmp_path / "proc" / "7"
    process.mkdir(parents=True)
    ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * 100)
    (process / "stat").write_text(STAT.format(ticks=ticks))
    (process / "cmdline").write_text("python\0-u\0/app/handler.py\0")
    (process / "environ").write_text(f"HOME=/root\0HF_HOME={tmp_path / 'models'}\0")
    (tmp_path / "models" / ".f5-worker").mkdir(parents=True)
    monkeypatch.setattr(healthcheck, "PROC", tmp_path / "proc")
    return process


def write_report(proc: Path, started_unix_s: float) -> None:
    report = proc.parents[1] / "models" / ".f5-worker" / "boot-report.json"
    report.write_text(json.dumps({"started_unix_s": started_unix_s}))


def test_a_worker_whose_boot_has_ended_is_healthy(proc):
    write_report(proc, time.time())
    assert healthcheck.is_ready()


def test_a_booting_worker_is_not_healthy(proc):
    assert not healthcheck.is_ready()


def test_the_report_of_an_earlier_worker_on_the_same_volume_does_not_count(proc):
    write_report(proc, time.time() - 3600)
    assert not healthcheck.is_ready()


def test_a_broken_report_does_not_count(proc):
    (proc.parents[1] / "models" / ".f5-worker" / "boot-report.json").write_text("{")
    assert not healthcheck.is_ready()


def test_another_programs_process_does_not_count(proc):
    write_report(proc, time.time())
    (proc / "cmdline").write_text("vim\0/app/handler.py.orig\0")
    assert not healthcheck.is_ready()
