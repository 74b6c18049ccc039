"""The boot report: when every phase of a boot began and ended, in which process, what it moved and from where.

Times are seconds since the start of the boot's first process, taken from one clock across processes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SCHEMA = 1
EXEC_UNIX_S = "F5_EXEC_UNIX_S"  # when the boot became the handler


@dataclass
class Phase:
    """One span of a boot. `lane` is the process or thread it ran in."""

    name: str
    lane: str
    start_s: float
    end_s: float = 0.0
    bytes: int = 0
    source: str = ""


@dataclass
class Timeline:
    """The phases of a boot, from several threads; times count from started_unix_s."""

    started_unix_s: float
    phases: list[Phase] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def now_s(self) -> float:
        return time.time() - self.started_unix_s

    @contextmanager
    def phase(self, name: str, *, lane: str) -> Iterator[Phase]:
        """Time a block; the block may set bytes and source. It is kept also when the block raises."""
        phase = Phase(name, lane, self.now_s())
        try:
            yield phase
        finally:
            phase.end_s = self.now_s()
            self.add(phase)
            log.info("phase name=%r lane=%s seconds=%.3f", name, lane, phase.end_s - phase.start_s)

    def add(self, phase: Phase) -> None:
        with self._lock:
            self.phases.append(phase)

    def as_dicts(self) -> list[dict[str, Any]]:
        """The phases in the order they began, times rounded to milliseconds."""
        rounded = [asdict(p) | {"start_s": round(p.start_s, 3), "end_s": round(p.end_s, 3)} for p in self.phases]
        return sorted(rounded, key=lambda p: p["start_s"])


def process_start_unix_s(process: Path = Path("/proc/self")) -> float:
    """When a process was started (exec keeps it), from its folder in /proc; resolution 10 ms."""
    after_name = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    since_boot_s = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22, starttime
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot_s


def compose(
    timeline: Timeline, *, model: str, files: Sequence[Mapping[str, Any]], bucket: Mapping[str, Any], engine: Mapping[str, Any]
) -> dict[str, Any]:
    """The report of a boot that ended now, ready to be written as JSON."""
    return {
        "schema": SCHEMA,
        "model": model,
        "started_unix_s": round(timeline.started_unix_s, 3),
        "ready_s": round(timeline.now_s(), 3),
        "bytes": sum(f["size_bytes"] for f in files),
        "phases": timeline.as_dicts(),
        "files": list(files),
        "bucket": dict(bucket),
        "engine": dict(engine),
    }


def summary_line(report: Mapping[str, Any]) -> str:
    """The boot in one log line: total, then each phase with its seconds."""
    parts = [f"{p['name'].replace(' ', '_')}={p['end_s'] - p['start_s']:.2f}s" for p in report["phases"]]
    sources = ",".join(sorted({f["source"] for f in report["files"]}))
    return f"boot.ready seconds={report['ready_s']:.2f} model={report['model']} source={sources} bytes={report['bytes']} " + " ".join(parts)
