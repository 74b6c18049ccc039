"""`python -m f5_worker validate`: proves a deployed endpoint with real jobs and writes what was seen into a Markdown report.

Two boots are looked for: that of the worker which answers first, and that of the one which answers after the endpoint was left
alone for `--idle-s`. Nothing is purged and no worker is stopped; a boot that was not seen is reported as not seen.

Exit codes: 0 nothing failed, 1 a check failed, 2 the options are wrong, 3 the endpoint failed, 130 Ctrl-C. The report is written in any
case but 2.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from f5_worker import logs, results, validation, validation_report
from f5_worker.endpoint import RunpodEndpoint
from f5_worker.endpoint_errors import EndpointError
from f5_worker.errors import SettingsError, StoreError
from f5_worker.say import EXIT_ENDPOINT, EXIT_INTERRUPTED, EXIT_JOB, check_writable, exits, stop
from f5_worker.settings import S3Settings, Settings
from f5_worker.store import ObjectInfo, Store
from f5_worker.validation import Check

IDLE_S = 90.0  # RunPod stops an idle worker after 5 s by default


@dataclass
class Findings:
    """All that the report is written from."""

    endpoint: str
    checks: list[Check] = field(default_factory=list)
    boots: list[dict[str, Any]] = field(default_factory=list)  # boot reports, each with `worker`
    health: Mapping[str, Any] = field(default_factory=dict)
    workers: set[str] = field(default_factory=set)  # that answered
    objects: list[ObjectInfo] | None = None  # under the models prefix; None: not looked at
    no_listing: str = "no bucket in this environment: set S3_BUCKET and its keys to have it listed"
    logs: list[str] = field(default_factory=list)
    ended: str = ""  # why it ended early


def command(
    context: typer.Context,
    *,
    endpoint: Annotated[str, typer.Option(help="Id of a RunPod endpoint; the key is RUNPOD_API_KEY.")],
    out: Annotated[Path, typer.Option(help="The report; a picture of the boots is put beside it.")] = Path("validation.md"),
    idle_s: Annotated[
        float,
        typer.Option(min=0, help="Seconds without a job before the second boot is looked for, more than the endpoint's idle timeout."),
    ] = IDLE_S,
    worker_log: Annotated[
        list[Path] | None, typer.Option(help="A worker's log out of RunPod's console, for what no job can tell. May be given again.")
    ] = None,
) -> None:
    """Prove an endpoint with jobs of each kind, and report it. Exit code 0: nothing failed, 1: a check, 2: options, 3: endpoint."""
    signal.signal(signal.SIGTERM, stop)
    console = Console(stderr=True)
    with exits(console):
        check_writable(out.parent)
        found = Findings(endpoint, logs=[_log(path) for path in worker_log or []])
        settings = _settings()

        def on_check(check: Check) -> None:
            found.checks.append(check)
            console.print(f"{check.state:<8} {check.name}: {check.seen}", markup=False, highlight=False, soft_wrap=True)

        code = _examine(found, settings, context.obj, on_check, idle_s)
        checklist = validation_report.checklist(found, settings)
        validation_report.write(found, checklist, out)
        sys.stdout.write(f"{out}\n")
        failed = any(check.state == "failed" for check in (*found.checks, *checklist))
        raise typer.Exit(code or (EXIT_JOB if failed else 0))


def _examine(
    found: Findings, settings: Settings, make_store: Callable[[S3Settings], Store], on_check: Callable[[Check], object], idle_s: float
) -> int:
    """Fill the findings; the exit code when it ends early, else 0."""
    try:
        endpoint = RunpodEndpoint(found.endpoint)
        _boot(endpoint, found)
        on_check(Check("health", "ok", validation_report.health_line(found.health)))
        found.workers |= validation.examine(endpoint, on_check)
        if idle_s:
            time.sleep(idle_s)
            _boot(endpoint, found)
        _list(found, settings, make_store)
    except EndpointError as exc:
        found.ended = str(exc)
        on_check(Check("the endpoint", "failed", str(exc)))
        return EXIT_ENDPOINT
    except KeyboardInterrupt:
        found.ended = "stopped by hand"
        on_check(Check("the validation", "not seen", "stopped by hand; the job that ran was cancelled"))
        return EXIT_INTERRUPTED
    return 0


def _boot(endpoint: RunpodEndpoint, found: Findings) -> None:
    """Ask who answers now how it booted."""
    health, worker = results.health(endpoint)
    found.health, boot = health, health["boot"]
    found.workers |= {worker} - {""}
    if boot["started_unix_s"] not in {seen["started_unix_s"] for seen in found.boots}:
        found.boots.append({**boot, "worker": worker})
        found.boots.sort(key=lambda seen: seen["started_unix_s"])  # of two workers the younger may answer first


def _list(found: Findings, settings: Settings, make_store: Callable[[S3Settings], Store]) -> None:
    if settings.s3 is None:
        return
    try:
        found.objects = list(make_store(settings.s3).list(settings.models_prefix))
    except StoreError as exc:
        found.no_listing = str(exc)


def _settings() -> Settings:
    """Those of this machine: they tell which bucket is listed."""
    settings = Settings.from_env(os.environ)
    logs.set_up(level="ERROR")
    return settings


def _log(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise SettingsError(f"--worker-log {path} cannot be read: {exc.strerror}") from exc
