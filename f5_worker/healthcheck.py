"""HEALTHCHECK's command: exit code 0 once the worker of this container has finished its boot, 1 before that.

RunPod does not look at it; Docker and Compose do. The boot writes its report when the model is warm; one that an earlier
worker left on a volume names another start.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from f5_worker.report import process_start_unix_s

PROC = Path("/proc")
SAME_START_S = 2.0  # both are computed from the clock of the moment


def is_ready() -> bool:
    return any(_wrote_its_report(process) for process in _handlers())


def _handlers() -> Iterator[Path]:
    """The processes that run handler.py: PID 1, or a child of the init that `docker run --init` puts there."""
    for command in PROC.glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if any(Path(argument).name == "handler.py" for argument in command.read_text(encoding="utf-8", errors="replace").split("\0")):
                yield command.parent


def _wrote_its_report(process: Path) -> bool:
    try:
        variables = (process / "environ").read_text(encoding="utf-8", errors="replace").split("\0")
        home = next(v.removeprefix("HF_HOME=") for v in variables if v.startswith("HF_HOME="))
        report = json.loads((Path(home) / ".f5-worker" / "boot-report.json").read_text(encoding="utf-8"))
        return abs(float(report["started_unix_s"]) - process_start_unix_s(process)) < SAME_START_S
    except (OSError, StopIteration, ValueError, KeyError, TypeError):  # not begun, not finished, or not ours
        return False


if __name__ == "__main__":
    sys.exit(0 if is_ready() else 1)
