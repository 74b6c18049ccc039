"""One restore or publication in a process of its own, for tests that kill it. The imports are paid once: each run is a fork after them.

Takes the worker's settings from an environment and the files of tests.integration.conftest; HF_ENDPOINT names the hub.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from f5_worker import logs, publish
from f5_worker.placement import choose
from f5_worker.report import Timeline, process_start_unix_s
from f5_worker.restore import restore
from f5_worker.settings import Settings
from s3_utils import S3Store
from tests.integration.conftest import FILES

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Run:
    """A started run. `process` has pid, exitcode (-9 when killed), terminate and kill."""

    process: multiprocessing.process.BaseProcess
    log: Path

    def end(self, timeout_s: float = 60) -> str:
        """Wait for its end; what it logged."""
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running after {timeout_s} s: {self.log.read_text()}")
        return self.log.read_text(errors="replace")


def start(action: str, root: Path, env: Mapping[str, str], log: Path, *, constants: Mapping[str, float] | None = None) -> Run:
    """Begin a run.

    Args:
        action: restore | publish
        constants: values for the constants of f5_worker.publish, so that a dead publisher's claim is stale soon.
    """
    log.touch()
    process = _forks.Process(target=_main, args=(action, root, dict(env), log, dict(constants or {})))
    process.start()
    return Run(process, log)


def _main(action: str, root: Path, env: dict[str, str], log: Path, constants: dict[str, float]) -> None:
    with log.open("ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    for name, value in constants.items():
        setattr(publish, name, value)
    sys.exit(run(action, root))


def run(action: str, root: Path) -> int:
    candidates = (root / "first", root / "second")
    settings = replace(Settings.from_env(os.environ), cache_dir_candidates=candidates, platform_cache=root / "platform")
    logs.set_up_for(settings, os.environ)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    assert settings.s3
    store = S3Store(settings.s3)
    report = restore(
        FILES,
        choose(settings, FILES),
        settings,
        store if action == "restore" else None,
        timeline=Timeline(process_start_unix_s()),
        stop=stop,
    )
    if action == "publish":
        publisher = publish.Publisher(store, settings, FILES, report).start()
        while not publisher.wait(0.02):
            if stop.is_set():
                publisher.stop()
    return 1 if report.missing else 0
