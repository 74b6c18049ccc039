"""flash-attn: brought, installed beside the weights and tried, so that the handler can trust what it finds.

The wheel is installed into `<cache dir>/.f5-worker/flash-attn-<wheel, Python, torch>/`, not into site-packages: that works on
a read-only image, survives on a volume, and appears there whole or not at all. Without it torch's own attention serves.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from f5_worker.cache import HubCache
from f5_worker.disk import disk_error
from f5_worker.errors import CacheError, WorkerError
from f5_worker.report import Phase, Timeline
from f5_worker.settings import Settings
from f5_worker.store import Store
from f5_worker.wheel_choice import RELEASE_URL, Host, Wheel, choose, pinned, pinned_names, this_host
from f5_worker.wheel_source import local_copy, obtain, wrong_note

__all__ = [
    "Host",
    "KeptWheel",
    "Wheel",
    "WheelReport",
    "activate",
    "choose",
    "install",
    "pinned_names",
    "prepare",
    "publishable",
    "this_host",
]

log = logging.getLogger(__name__)

INSTALL_TIMEOUT_S = 120
PROBE_TIMEOUT_S = 60
LOCK_TIMEOUT_S = 120
LANE = "wheel"
# What f5_tts imports as soon as it finds the package. ImportError gets an exit code of its own: only that is the wheel's fault.
PROBE = r"""
import sys, torch
try:
    import flash_attn, flash_attn.bert_padding
    from flash_attn import flash_attn_func, flash_attn_varlen_func
except ImportError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(3)
"""
_IMPORT_ERROR = 3
_STALE_S = 3600.0


@dataclass
class WheelReport:
    """What became of flash-attn in the boot's child, for the handler."""

    site: Path | None = None  # for sys.path
    blocked: str | None = None  # why an importable flash_attn must not be imported here
    phases: list[Phase] = field(default_factory=list)

    def to_json(self) -> bytes:
        return json.dumps({"site": str(self.site or ""), "blocked": self.blocked, "phases": [asdict(p) for p in self.phases]}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> WheelReport:
        """The inverse of to_json. Raises ValueError, KeyError or TypeError when the bytes are no whole report."""
        raw: dict[str, Any] = json.loads(data)
        return cls(Path(raw["site"]) if raw["site"] else None, raw["blocked"], [Phase(**p) for p in raw["phases"]])


@dataclass(frozen=True)
class KeptWheel:
    """A wheel from its release that waits for the publisher."""

    key: str
    path: Path
    sha256: str

    @property
    def read_wrong_unix_s(self) -> float | None:
        """When the bucket's object was read and had other bytes; None: it was not."""
        note = wrong_note(self.path)
        return note.stat().st_mtime if note.exists() else None

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        wrong_note(self.path).unlink(missing_ok=True)


def publishable(cache: HubCache, models_prefix: str) -> list[KeptWheel]:
    """Wheels that came from the release and are to go into the bucket."""
    kept = [KeptWheel(w.key(models_prefix), local_copy(cache, w), w.sha256) for w in pinned()]
    return [w for w in kept if w.path.is_file()]


def activate(report: WheelReport, mode: str, modules: MutableMapping[str, ModuleType | None], path: list[str]) -> None:
    """Make flash_attn importable, or as good as absent, before f5_tts looks for it: f5_tts imports it wherever it is found.

    Args:
        mode: FLASH_ATTN.
        modules: sys.modules.
        path: sys.path.
    """
    if mode == "off" or report.blocked:
        modules["flash_attn"] = None  # the import system's way to say "not there"; importlib.util.find_spec answers None
    elif report.site:
        path.insert(0, str(report.site))


def prepare(
    settings: Settings,
    cache: HubCache,
    store: Store | None,
    *,
    env: Mapping[str, str],
    timeline: Timeline,
    stop: threading.Event | None = None,
) -> WheelReport:
    """Install the wheel when it is wanted, and try what is there already. Never raises a WorkerError.

    Args:
        env: For pip and the probe.
        timeline: Gets the phases of this call; the report carries all of its phases.
    """
    report = WheelReport(phases=timeline.phases)
    is_importable = importlib.util.find_spec("flash_attn") is not None
    choice = choose(settings.flash_attn, this_host(), importable=is_importable)
    if choice.wheel is None:
        fault = _probe(None, env, timeline) if choice.is_installed else None
        if is_importable and not choice.is_installed:
            report.blocked = choice.reason
        elif fault:
            report.blocked = fault.reason
        is_warning = choice.is_warning or fault is not None
        log.log(logging.WARNING if is_warning else logging.INFO, "flash_attn reason=%r blocked=%r", choice.reason, report.blocked)
        return report
    try:
        report.site = install(choice.wheel, cache, store, settings, env=env, timeline=timeline, stop=stop)
    except WorkerError as exc:
        log.warning("flash_attn outcome=failed error=%r effect='torch attention serves'", str(exc))
    return report


def install(
    wheel: Wheel,
    cache: HubCache,
    store: Store | None,
    settings: Settings,
    *,
    env: Mapping[str, str],
    timeline: Timeline,
    stop: threading.Event | None = None,
    release_url: str = RELEASE_URL,
) -> Path:
    """Fetch, install and probe one wheel; what was installed before is only looked at.

    Raises:
        StoreNotFound: neither the bucket nor the release had the pinned bytes.
        DiskFull: no room for it.
        CacheError: it does not install or does not import here. An import error is remembered, for this Python and torch.
    """
    name = f"flash-attn-{wheel.sha256[:16]}-{_runtime()}"
    state, site = cache.read_state(f"{name}.json"), cache.state / name
    if isinstance(state, dict) and state.get("broken"):
        raise CacheError(f"{wheel.name} did not work here before: {state['broken']}")
    try:
        with cache.lock(timeout_s=LOCK_TIMEOUT_S, stop=stop, name="flash-attn"):
            if site.is_dir():
                return site
            _remove_stale(cache.state)
            file = local_copy(cache, wheel)
            with timeline.phase("fetch flash-attn", lane=LANE) as phase:
                phase.source = source = obtain(wheel, cache, store, settings, release_url=release_url, stop=stop)
                phase.bytes = file.stat().st_size if source != "cache" else 0
            fault = _place(file, site, env, timeline)
            if store is None or source == "bucket":
                file.unlink(missing_ok=True)  # else the publisher sends it first
            if fault:
                if fault.exit_code == _IMPORT_ERROR:
                    cache.write_state(f"{name}.json", {"broken": fault.reason})
                raise CacheError(f"{wheel.name} does not work here: {fault.reason}")
    except OSError as exc:
        raise disk_error(exc, cache.state) from exc
    log.info("flash_attn outcome=installed wheel=%s source=%s", wheel.name, source)
    return site


def _runtime() -> str:
    """What decides, beside the wheel, whether it works: file name part."""
    return re.sub(r"[^\w.]", "_", f"py{sys.version_info[0]}.{sys.version_info[1]}-torch{importlib.metadata.version('torch')}")


def _remove_stale(state: Path) -> None:
    """Remove what installations that were killed left."""
    for folder in state.glob(".flash-attn-*"):
        if time.time() - folder.stat().st_mtime > _STALE_S:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Fault:
    """Why a command failed; exit_code None: it could not be run, or not to its end."""

    reason: str
    exit_code: int | None = None


def _place(file: Path, site: Path, env: Mapping[str, str], timeline: Timeline) -> _Fault | None:
    """Install into a directory of another name, try it there, and give it its name when it works."""
    folder = Path(tempfile.mkdtemp(prefix=".flash-attn-", dir=site.parent))
    try:
        with timeline.phase("install flash-attn", lane=LANE):
            fault = _pip("--no-compile", "--target", str(folder), str(file), env=env)
        if fault := fault or _probe(folder, env, timeline):
            return fault
        folder.chmod(0o755)  # mkdtemp's is its owner's alone
        folder.rename(site)
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pip(*arguments: str, env: Mapping[str, str]) -> _Fault | None:
    return _run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", *arguments], INSTALL_TIMEOUT_S, env)


def _probe(site: Path | None, env: Mapping[str, str], timeline: Timeline) -> _Fault | None:
    """Why flash_attn does not import beside torch, None when it does. A wheel of another ABI fails here with `undefined symbol`."""
    path = [str(site)] if site else []
    path += [env["PYTHONPATH"]] if env.get("PYTHONPATH") else []
    with timeline.phase("probe flash-attn", lane=LANE):
        return _run([sys.executable, "-c", PROBE], PROBE_TIMEOUT_S, {**env, "PYTHONPATH": os.pathsep.join(path)})


def _run(command: list[str], timeout_s: float, env: Mapping[str, str]) -> _Fault | None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, env=env, check=False, text=True)  # noqa: S603 - fixed commands
    except (OSError, subprocess.TimeoutExpired) as exc:
        return _Fault(type(exc).__name__)
    if done.returncode == 0:
        return None
    return _Fault((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300], done.returncode)
