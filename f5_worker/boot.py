"""The boot's child process: it restores the weights while its parent becomes the handler and imports torch.

`model_cache_init.py` forks the child and then execs `handler.py` in the same process, so the child stays the handler's
child. Its report travels in a memory file, which works on a read-only disk and is read only after the child has ended.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import NoReturn

from f5_worker.cache import HubCache
from f5_worker.errors import WeightsUnavailable
from f5_worker.manifest import PinnedFile
from f5_worker.placement import choose
from f5_worker.report import Timeline, process_start_unix_s
from f5_worker.restore import RestoreReport, restore
from f5_worker.settings import Settings
from f5_worker.store import Store

log = logging.getLogger(__name__)

REPORT_FD, RESTORE_PID = "F5_RESTORE_FD", "F5_RESTORE_PID"  # how the boot tells the handler where its child is
HUB_DEADLINE_S = 900.0  # 1.4 GB at 1.5 MB/s; the platform calls a worker unhealthy after 7 minutes
_PR_SET_PDEATHSIG = 1


def start_child(
    files: Sequence[PinnedFile], caches: Sequence[HubCache], settings: Settings, store: Store | None, env: MutableMapping[str, str]
) -> None:
    """Fork a child that restores; env then tells the handler, which this process becomes by exec, how to wait for it."""
    report_fd = os.memfd_create("restore-report", 0)
    os.set_inheritable(report_fd, True)
    timeline = Timeline(process_start_unix_s())
    pid = os.fork()
    if pid == 0:
        _run_child(report_fd, lambda stop: restore(files, caches, settings, store, timeline=timeline, stop=stop).to_json(files))
    env[REPORT_FD], env[RESTORE_PID] = str(report_fd), str(pid)


def _run_child(report_fd: int, work: Callable[[threading.Event], bytes]) -> NoReturn:
    """Do the work, leave its report in the memory file, and end without returning into the parent's code."""
    code = 1
    try:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        _die_with_parent()
        os.write(report_fd, work(stop))
        code = 0
    finally:
        logging.shutdown()
        os._exit(code)


def join(
    files: Sequence[PinnedFile], settings: Settings, store: Store | None, env: Mapping[str, str], *, timeline: Timeline
) -> RestoreReport:
    """The report of the boot's restore; without one (handler started alone, child killed) the restore runs here.

    Raises:
        WeightsUnavailable: a file is missing; the message says why for each source.
    """
    report = _childs_report(files, settings, env)
    if report is None:
        report = restore(files, choose(settings, files), settings, store, timeline=timeline)
    if report.missing:
        causes = "; ".join(dict.fromkeys(f"{f.path.rsplit('/', 1)[-1]}: {why}" for f, why in report.missing.items()))
        raise WeightsUnavailable(f"{len(report.missing)} of {len(files)} model files could not be had: {causes}")
    return report


def _childs_report(files: Sequence[PinnedFile], settings: Settings, env: Mapping[str, str]) -> RestoreReport | None:
    if RESTORE_PID not in env:
        return None
    pid, report_fd = int(env[RESTORE_PID]), int(env[REPORT_FD])
    try:
        _wait(pid, settings.restore_deadline_s + HUB_DEADLINE_S)
        size = os.fstat(report_fd).st_size
        return RestoreReport.from_json(os.pread(report_fd, size, 0), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        log.warning("restore.child_lost pid=%d error=%s action=restore_here", pid, type(exc).__name__)
        return None


def _wait(pid: int, timeout_s: float) -> None:
    """Reap the child; kill it when it outlives every deadline of its own."""
    handle = os.pidfd_open(pid)
    try:
        if not select.select([handle], [], [], timeout_s)[0]:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(handle)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
