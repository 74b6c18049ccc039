"""The boot's child processes: they restore the weights, and install flash-attn, while their parent becomes the handler.

`model_cache_init.py` forks a child and then execs `handler.py` in the same process, so the child stays the handler's
child. Its report travels in a memory file, which works on a read-only disk and is read only after the child has ended.
The variables F5_<NAME>_PID and F5_<NAME>_FD tell the handler which child and which file.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from f5_worker import hub
from f5_worker.cache import HubCache
from f5_worker.errors import WeightsUnavailable
from f5_worker.manifest import PinnedFile
from f5_worker.placement import choose
from f5_worker.report import Phase, Timeline, process_start_unix_s
from f5_worker.restore import RestoreReport, restore
from f5_worker.settings import Settings
from f5_worker.store import Store

if TYPE_CHECKING:
    from f5_worker.wheels import WheelReport

log = logging.getLogger(__name__)

HUB_DEADLINE_S = 900.0  # 1.4 GB at 1.5 MB/s; the platform calls a worker unhealthy after 7 minutes
WHEEL_DEADLINE_S = 180.0  # bucket and release have 60 s each, then it is installed and tried
_PR_SET_PDEATHSIG = 1


def start_restore(
    files: Sequence[PinnedFile], caches: Sequence[HubCache], settings: Settings, store: Store | None, env: MutableMapping[str, str]
) -> None:
    """Fork a child that restores; env then tells the handler, which this process becomes by exec, how to wait for it."""
    timeline = Timeline(process_start_unix_s())
    timeline.add(Phase("start, settings, cache dir", "boot", 0.0, timeline.now_s()))
    _start_child("RESTORE", env, lambda stop: restore(files, caches, settings, store, timeline=timeline, stop=stop).to_json(files))


def start_wheel(cache: HubCache, settings: Settings, store: Store | None, env: MutableMapping[str, str]) -> None:
    """Fork a child that installs flash-attn when it is wanted."""
    child_env = dict(env)
    _start_child("WHEEL", env, lambda stop: _prepare_wheel(cache, settings, store, child_env, stop))


def _prepare_wheel(cache: HubCache, settings: Settings, store: Store | None, env: Mapping[str, str], stop: threading.Event) -> bytes:
    from f5_worker import wheels  # noqa: PLC0415 - 0.1 s of imports that only this child pays

    return wheels.prepare(settings, cache, store, env=env, timeline=Timeline(process_start_unix_s()), stop=stop).to_json()


def join_wheel(env: Mapping[str, str]) -> WheelReport:
    """What became of flash-attn; an empty report, so that torch's attention serves, when its child died or is late."""
    from f5_worker.wheels import WheelReport  # noqa: PLC0415

    try:
        data = _childs_report("WHEEL", env, WHEEL_DEADLINE_S)
        return WheelReport.from_json(data) if data else WheelReport()
    except TimeoutError:
        log.warning("boot.wheel_late seconds=%.0f effect='torch attention serves'", WHEEL_DEADLINE_S)
    except (ValueError, KeyError, TypeError) as exc:
        log.warning("boot.wheel_report_broken error=%s effect='torch attention serves'", type(exc).__name__)
    return WheelReport()


def join(
    files: Sequence[PinnedFile], settings: Settings, store: Store | None, env: MutableMapping[str, str], *, timeline: Timeline
) -> RestoreReport:
    """The report of the boot's restore; without one (handler started alone, child killed) the restore runs here.

    Then every file is present and verified, and env tells whatever imports huggingface_hub later where they are and that
    it need not ask the hub.

    Raises:
        WeightsUnavailable: a file is missing, and why for each source; or the child outlived its deadlines.
        DiskFull: no directory can hold the files.
    """
    report = _restored_by_child(files, settings, env) or restore(files, choose(settings, files), settings, store, timeline=timeline)
    if report.missing:
        causes = "; ".join(dict.fromkeys(f"{f.path.rsplit('/', 1)[-1]}: {why}" for f, why in report.missing.items()))
        raise WeightsUnavailable(f"{len(report.missing)} of {len(files)} model files could not be had: {causes}")
    if report.cache_dir:
        hub.set_client_env(env, HubCache(report.cache_dir))
    env["HF_HUB_OFFLINE"] = "1"
    return report


def _restored_by_child(files: Sequence[PinnedFile], settings: Settings, env: Mapping[str, str]) -> RestoreReport | None:
    deadline_s = settings.restore_deadline_s + HUB_DEADLINE_S
    try:
        data = _childs_report("RESTORE", env, deadline_s)
        return RestoreReport.from_json(data, files) if data else None
    except TimeoutError as exc:  # a second try has no better chance
        raise WeightsUnavailable(f"the model files had not arrived after {deadline_s:.0f} s") from exc
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("boot.restore_report_broken action=restore_here")
        return None


def _start_child(name: str, env: MutableMapping[str, str], work: Callable[[threading.Event], bytes]) -> None:
    report_fd = os.memfd_create(name.lower(), 0)
    os.set_inheritable(report_fd, True)
    pid = os.fork()
    if pid == 0:
        _run_child(report_fd, work)
    env[f"F5_{name}_PID"], env[f"F5_{name}_FD"] = str(pid), str(report_fd)


def _run_child(report_fd: int, work: Callable[[threading.Event], bytes]) -> NoReturn:
    """Do the work, leave its report in the memory file, and end without returning into the parent's code."""
    code, stop = 1, threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.alarm(1)  # what does not heed the event within a second is killed by SIGALRM: nothing half-visible is left either way

    try:
        signal.signal(signal.SIGTERM, end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _die_with_parent()
        os.write(report_fd, work(stop))
        code = 0
    finally:
        if code:
            log.error("boot.child_failed", exc_info=True)  # noqa: LOG014 - _exit would end the process without a word
        logging.shutdown()
        os._exit(code)


def _childs_report(name: str, env: Mapping[str, str], timeout_s: float) -> bytes:
    """What a child of the boot reported, empty when there is no such child or it died. Raises TimeoutError, the child is killed then."""
    if f"F5_{name}_PID" not in env:
        return b""
    pid, report_fd = int(env[f"F5_{name}_PID"]), int(env[f"F5_{name}_FD"])
    try:
        _wait(pid, timeout_s)
        return os.pread(report_fd, os.fstat(report_fd).st_size, 0)
    except TimeoutError:
        raise
    except OSError as exc:
        log.warning("boot.child_lost name=%s pid=%d error=%s", name.lower(), pid, exc.strerror)
        return b""


def _wait(pid: int, timeout_s: float) -> None:
    """Reap the child. Raises ChildProcessError when it is none of ours, TimeoutError when it had to be killed."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    handle = os.pidfd_open(pid)
    try:
        in_time = bool(select.select([handle], [], [], timeout_s)[0])
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(handle)
    if not in_time:
        raise TimeoutError


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
