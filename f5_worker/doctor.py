"""`python -m f5_worker doctor`: everything that keeps a worker from a fast cold start, tried for real, each with its remedy.

Exit codes: 0 nothing failed (warnings may be there), 1 something must be mended, 2 the settings are wrong, 130 Ctrl-C. The bucket is left
as it was: scratch objects are deleted, also on Ctrl-C; where the bucket keeps versions, they stay as old ones (32 MB at most), as every
deleted object does. At most 0.5 GB are read from it in 15 s.
"""

from __future__ import annotations

import difflib
import json
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from types import FrameType
from typing import Annotated
from uuid import uuid4

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from f5_worker import doctor_bucket, doctor_endpoint, doctor_host, doctor_line, logs
from f5_worker.doctor_bucket import Bucket, Scratch
from f5_worker.doctor_line import Prices
from f5_worker.errors import SettingsError
from f5_worker.finding import Finding, failed, skipped, warning
from f5_worker.manifest import ModelSpec, load_model
from f5_worker.settings import MEANING, S3Settings, Settings

EXIT_FAILED, EXIT_SETTINGS, EXIT_INTERRUPTED = 1, 2, 130
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}
_LOOKS_MEANT = 0.78  # likeness of a variable's name to one that is read: S3_BUCKET_NAME, AWS_ENDPOINT


def command(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
    usd_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price of the worker's GPU: with all three, a cold start's cost.")
    ] = None,
    usd_per_gb: Annotated[float | None, typer.Option(min=0, help="Price of a GB read from the bucket.")] = None,
    usd_per_1000_gets: Annotated[float | None, typer.Option(min=0, help="Price of 1000 GET requests.")] = None,
) -> None:
    """Check settings, bucket, line, disk, GPU and hub; say what to mend. Exit code 0: nothing failed, 1: something did, 2: settings."""
    signal.signal(signal.SIGTERM, _stop)
    prices = Prices(usd_per_hour, usd_per_gb, usd_per_1000_gets)
    console = Console(stderr=True)
    try:
        with console.status("looking") as status:
            findings = examine(os.environ, context.obj, prices, on_finding=lambda f: status.update(f"{f.check}: {f.state}"))
    except KeyboardInterrupt:
        console.print("stopped; the scratch objects were deleted where the key may", markup=False)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    code = exit_code(findings)
    if as_json:
        sys.stdout.write(json.dumps({"exit_code": code, "findings": [asdict(f) for f in findings]}, indent=1) + "\n")
    else:
        _print(findings)
    raise typer.Exit(code)


def examine(
    env: Mapping[str, str],
    make_store: Callable[[S3Settings], Bucket],
    prices: Prices,
    *,
    on_finding: Callable[[Finding], object] = lambda _finding: None,
) -> list[Finding]:
    """Every finding, in the order in which it was made; on_finding gets each at once."""
    findings = []
    with closing(_findings(env, make_store, prices)) as made:  # also when on_finding is interrupted the scratch objects are deleted
        for finding in made:
            findings.append(finding)
            on_finding(finding)
    return findings


def _findings(env: Mapping[str, str], make_store: Callable[[S3Settings], Bucket], prices: Prices) -> Generator[Finding, None, None]:
    try:
        settings = Settings.from_env(env)
        spec = load_model(settings.model, settings.models_file)
    except SettingsError as exc:
        yield from (_wrong_setting(problem) for problem in exc.args[1:] or exc.args)
        yield from _misspelt(env)
        return
    logs.set_up_for(replace(settings, log_level="ERROR", warnings=()), env)
    yield Finding("settings", f"model {spec.name}, {f'bucket {settings.s3.bucket}' if settings.s3 else 'no bucket'}")
    yield from (warning("settings", "settings_unused", text, "correct or unset it") for text in settings.warnings)
    yield from _misspelt(env)
    is_cached = yield from _bucket(settings, spec, make_store, prices)
    yield from doctor_host.disks(settings, spec.files)
    yield from doctor_host.gpu_and_packages(settings)
    yield doctor_host.hub(env, spec, is_needed=not is_cached)


def _wrong_setting(problem: str) -> Finding:
    wrong, _, line = problem.partition(": add ")
    remedy = f"add {line}" if line else "correct the variable in the endpoint's environment; docs/settings.md has them all"
    return failed("settings", "settings", wrong, remedy)


def _bucket(
    settings: Settings, spec: ModelSpec, make_store: Callable[[S3Settings], Bucket], prices: Prices
) -> Generator[Finding, None, bool]:
    """The findings about the bucket; the result is whether it holds the whole model."""
    if settings.s3 is None:
        yield warning("bucket", "no_bucket_set", "every cold start downloads from the hub, results travel inline", "set S3_BUCKET")
        return False
    way = doctor_endpoint.examine(settings.s3, settings.ca_file, absent_key=f"{settings.output_prefix}.doctor-{uuid4().hex}")
    yield from way
    if any(f.state == "failed" for f in way):
        yield skipped("permissions, line", "the bucket does not answer to this key")
        return False
    store = make_store(settings.s3)
    with doctor_bucket.scratch(store) as kept:
        is_cached = yield from _inside(store, settings, spec, prices, kept)
    if kept.left:
        remedy = "delete them with a key that may, or in the store's console"
        yield warning("scratch", "scratch_left", f"could not be deleted: {', '.join(kept.left)}", remedy)
    return is_cached


def _inside(store: Bucket, settings: Settings, spec: ModelSpec, prices: Prices, kept: Scratch) -> Generator[Finding, None, bool]:
    prefixes = [settings.voices_prefix, settings.output_prefix]
    prefixes = [settings.models_prefix, *prefixes] if settings.cache_bucket else prefixes
    allowed = doctor_bucket.permissions(store, prefixes, kept)
    yield from allowed
    yield from doctor_bucket.housekeeping(store, prefixes)
    refused = {f.check for f in allowed if f.state == "failed"}
    if refused & {"get", "head"}:
        yield skipped("model, line", "the key may not read")
        return False
    held = doctor_bucket.model(store, settings, spec)
    yield held
    line = doctor_line.throughput(store, settings, spec, None if refused & {"put", "delete"} else kept)
    yield line
    yield doctor_line.cold_start(line, settings, spec, prices)
    return held.state == "ok"


def _misspelt(env: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that nothing reads and whose names look like one that is not set."""
    unset = [name for name in MEANING if not env.get(name)]
    for name in sorted(set(env) - set(MEANING)):
        for meant in difflib.get_close_matches(name, unset, n=1, cutoff=_LOOKS_MEANT):
            yield warning("settings", "settings_misspelt", f"{name} is not read by the worker", f"if {meant} is meant, rename it")


def exit_code(findings: list[Finding]) -> int:
    """0 nothing failed, 1 something did, 2 the settings did."""
    faults = {f.fault for f in findings if f.state == "failed"}
    return EXIT_SETTINGS if "settings" in faults else EXIT_FAILED if faults else 0


def _print(findings: list[Finding]) -> None:
    """A table of what was seen, and below it, in lines that can be copied whole, what to do."""
    table = Table(title="F5-TTS worker: doctor", title_justify="left")
    for column in ("check", "state", "seen"):
        table.add_column(column, overflow="fold")
    for f in findings:
        table.add_row(Text(f.check), Text(f.state, _COLOURS[f.state]), Text(f.seen))
    console = Console()
    console.print(table)
    for state in ("failed", "warning"):
        found = [f for f in findings if f.state == state]
        if found:
            console.print(Text(f"\n{state}:", _COLOURS[state]))
        for f in found:
            console.print(Text(f"  {f.check} ({f.fault}): {f.remedy}"), soft_wrap=True)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # unwinds to the deleting of scratch objects, as Ctrl-C does
