"""Run one command and say what it cost: wall seconds, CPU seconds of all its processes, peak memory of them together."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

_SAMPLE_S = 0.05


@dataclass(frozen=True)
class Cost:
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


def run(command: Sequence[str], env: Mapping[str, str], *, timeout_s: float = 300) -> Cost:
    """Raises RuntimeError with the last lines of its stderr when the command fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    peak = _Peak(process.pid)
    killer = threading.Timer(timeout_s, process.kill)
    killer.start()
    said = process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    killer.cancel()
    peak.stop()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said.decode(errors='replace')[-600:]}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, peak.bytes)


class _Peak:
    """The largest sum of resident memory of a process and its descendants. ru_maxrss would count what the parent had at fork."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            self.bytes = max(self.bytes, _rss_bytes(self._pid))


def _rss_bytes(pid: int) -> int:
    try:
        children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(_rss_bytes, children))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    models = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    root = Path(__file__).parents[1]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=root)
    but_results = ["git", "status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs"]  # what benchmarks themselves write
    changed = subprocess.run(but_results, capture_output=True, text=True, check=False, cwd=root)
    return {
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() + ("+changes" if changed.stdout.strip() else ""),
        "cpu": models[0] if models else platform.machine(),
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "load_average_1min": os.getloadavg()[0],
    }


def write(path: Path, result: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
