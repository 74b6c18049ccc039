"""Operator commands: `python -m f5_worker cache status|pull|push|verify|gc`, `doctor`, `selftest`,
`say`, `studio`, `validate` and `boot-report`.

Exit codes: 0 all is well, 1 something is missing or wrong (the table says what), 2 the settings are wrong, 3 the bucket
or the disk failed, 130 Ctrl-C.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from f5_worker import doctor, hub, inventory, logs, say, selftest, studio, validate, waterfall
from f5_worker.cache import HubCache
from f5_worker.errors import SettingsError, WorkerError
from f5_worker.inventory import Weights
from f5_worker.manifest import PinnedFile, load_pins
from f5_worker.placement import RAM_DIR, choose, why_not
from f5_worker.publish import Publication
from f5_worker.report import Timeline
from f5_worker.restore import RestoreReport, restore
from f5_worker.settings import S3Settings, Settings
from f5_worker.store import Store

EXIT_INCOMPLETE, EXIT_SETTINGS, EXIT_FAILED = 1, 2, 3
POLL_S = 0.2
Row = tuple[str | int | None, ...]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
cache_app = typer.Typer(no_args_is_help=True, help="The weights in the bucket and on this disk.")
app.add_typer(cache_app, name="cache")
app.command("doctor")(doctor.command)
app.command("selftest")(selftest.command)
app.command("say")(say.command)
app.command("studio")(studio.command)
app.command("validate")(validate.command)
console, errors = Console(), Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]
WithTranscriber = Annotated[
    bool,
    typer.Option(
        "--transcriber",
        help="Also the weights of speech recognition, 1.6 GB more. Left out by default: a worker restores them, and publishes what the "
        "bucket lacks of them, only when a job first transcribes or aligns, and many endpoints never do.",
    ),
]
CacheDir = Annotated[
    Path | None, typer.Option(help="Local cache directory, this one and no other; default MODEL_CACHE_DIR or the worker's own choice.")
]


def main(make_store: Callable[[S3Settings], Store]) -> None:
    """Run the command line; make_store is how the caller, who knows boto3, opens the bucket."""
    app(obj=make_store)


@cache_app.command()
def status(context: typer.Context, transcriber: WithTranscriber = False, as_json: AsJson = False, cache_dir: CacheDir = None) -> None:
    """What the bucket and the local cache hold of the model. Reads sizes only; `verify` reads the bytes."""
    with _session(context, cache_dir, transcriber=transcriber) as (settings, weights, store):
        states = inventory.file_states(store, settings.models_prefix, weights.files)
        manifests = inventory.manifest_states(store, settings.models_prefix, weights.files)
        local = _local_cache(settings, weights.files)
        rows: list[Row] = [(s.key, s.file.size_bytes, s.state, "yes" if _holds(local, s.file) else "no") for s in states]
        rows += [(key, None, state, "-") for key, state in manifests.items()]
        _show(as_json, f"{weights.name} in {store_name(settings)}, local cache {local.root}", ("key", "bytes", "bucket", "local"), rows)
        _end(all(row[2] == "ok" for row in rows))


@cache_app.command()
def verify(context: typer.Context, transcriber: WithTranscriber = False, as_json: AsJson = False) -> None:
    """Read every byte of the model from the bucket and compare it with the pinned sha256."""
    with _session(context, transcriber=transcriber) as (settings, weights, store):
        with _progress("verify", weights.size_bytes) as advance:
            states = inventory.verify(store, settings.models_prefix, weights.files, advance)
        _show(
            as_json,
            f"{weights.name} in {store_name(settings)}",
            ("key", "bytes", "bucket"),
            [(s.key, s.file.size_bytes, s.state) for s in states],
        )
        _end(all(s.state == "ok" for s in states))


@cache_app.command()
def pull(context: typer.Context, transcriber: WithTranscriber = False, as_json: AsJson = False, cache_dir: CacheDir = None) -> None:
    """Restore the model into a local cache as a boot does: from the disk, the bucket, else the hub."""
    with _session(context, cache_dir, transcriber=transcriber) as (settings, weights, store):
        report = _bring(settings, weights, store, cache_dir)
        _show(as_json, f"{weights.name} in {report.cache_dir}", ("file", "bytes", "source"), _source_rows(weights, report))
        _end(not report.missing)


@cache_app.command()
def push(
    context: typer.Context,
    mend: Annotated[bool, typer.Option("--mend", help="Read the bucket's bytes first and overwrite what is wrong.")] = False,
    transcriber: WithTranscriber = False,
    as_json: AsJson = False,
    cache_dir: CacheDir = None,
) -> None:
    """Seed the bucket from the local cache or the hub, on any machine: what it lacks is sent, manifest last."""
    with _session(context, cache_dir, transcriber=transcriber) as (settings, weights, store):
        look = inventory.verify if mend else inventory.file_states  # before gigabytes come: whether the bucket answers
        states = look(store, settings.models_prefix, weights.files)
        wrong = {s.key: time.time() for s in states if s.state == "wrong bytes"}
        report = _bring(settings, weights, None, cache_dir)
        if report.missing:
            _show(as_json, "cannot push: files are missing here", ("file", "bytes", "source"), _source_rows(weights, report))
            _end(False)
        report.wrong_keys = wrong
        with _progress("push", weights.size_bytes) as advance:
            sent = Publication(store, settings, weights.files, report, threading.Event(), on_bytes=advance).run()
        _show(as_json, f"{weights.name} in {store_name(settings)}", ("sent bytes",), [(sent,)])


@cache_app.command()
def gc(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is listed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List only, which is the default.")] = False,
    older_than_days: Annotated[
        float, typer.Option(min=0, help="Younger objects may belong to a publisher at work.")
    ] = inventory.GC_AGE.days,
    as_json: AsJson = False,
) -> None:
    """List what the worker put under the models prefix and no pin and no manifest needs; with --yes, delete it.

    Unfinished uploads that are older than an hour belong to it. Other objects under the prefix are never touched.
    """
    if yes and dry_run:
        raise typer.BadParameter("--yes deletes and --dry-run does not: give one of them")
    with _session(context) as (settings, _weights, store):
        pinned = load_pins(settings.models_file)
        found = inventory.garbage(store, settings.models_prefix, pinned, older_than=timedelta(days=older_than_days))
        verb = "deleted" if yes else "would delete"
        rows: list[Row] = [(o.key, o.size_bytes, verb) for o in found.objects]
        rows += [(u.key, None, f"{verb} (unfinished upload)") for u in found.uploads]
        if yes:
            for info in found.objects:
                store.delete(info.key)
            for upload in found.uploads:
                store.abort_upload(upload)
        _show(as_json, store_name(settings), ("key", "bytes", "action"), rows)


@app.command("boot-report")
def boot_report(
    report: Annotated[Path, typer.Argument(help="boot-report.json, as the worker leaves it in <cache dir>/.f5-worker/")],
    out: Annotated[Path, typer.Option(help="Where boot.png and boot.trace.json are written.")] = Path(),
) -> None:
    """Draw a boot as a waterfall (boot.png) and as a Chrome trace (boot.trace.json, for chrome://tracing or Perfetto)."""
    try:
        boot = json.loads(report.read_bytes())
        out.mkdir(parents=True, exist_ok=True)
        (out / "boot.trace.json").write_text(json.dumps(waterfall.chrome_trace(boot)))
        (out / "boot.png").write_bytes(waterfall.png([boot]))
    except ImportError as exc:  # the worker's image does not have it
        _complain(f"boot.png needs matplotlib: pip install matplotlib. The trace alone was written: {out / 'boot.trace.json'}")
        raise typer.Exit(EXIT_FAILED) from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        why = "it is no boot report of this version" if isinstance(exc, KeyError | TypeError) else f"{type(exc).__name__}: {exc}"
        _complain(f"no boot report could be drawn from {report}: {why}")
        raise typer.Exit(EXIT_FAILED) from exc
    console.print(f"{out / 'boot.png'}\n{out / 'boot.trace.json'}", markup=False, soft_wrap=True)


def store_name(settings: Settings) -> str:
    s3 = settings.s3
    return f"{s3.bucket} at {s3.endpoint_url or 'AWS'}" if s3 else "no bucket"


@contextmanager
def _session(
    context: typer.Context, cache_dir: Path | None = None, *, transcriber: bool = False
) -> Iterator[tuple[Settings, Weights, Store]]:
    """Settings, weights and bucket for one command; every known error, and Ctrl-C, becomes one line and an exit code."""
    signal.signal(signal.SIGTERM, say.stop)
    try:
        settings, s3 = _settings(cache_dir)
        yield settings, inventory.weights(settings, transcriber=transcriber), context.obj(s3)
    except SettingsError as exc:
        _complain(str(exc))
        raise typer.Exit(EXIT_SETTINGS) from exc
    except WorkerError as exc:
        _complain(str(exc))
        raise typer.Exit(EXIT_FAILED) from exc
    except KeyboardInterrupt:
        _complain("stopped; nothing is left half-written, the same command again goes on from there")
        raise typer.Exit(say.EXIT_INTERRUPTED) from None


def _settings(cache_dir: Path | None) -> tuple[Settings, S3Settings]:
    settings = Settings.from_env(os.environ)
    logs.set_up_for(replace(settings, log_level="WARNING"), os.environ)
    if settings.s3 is None:
        raise SettingsError("S3_BUCKET is not set: this command needs a bucket")
    return replace(settings, cache_dir=cache_dir.resolve() if cache_dir else settings.cache_dir), settings.s3


def _local_cache(settings: Settings, files: Sequence[PinnedFile]) -> HubCache:
    """The directory, of those a boot would try, that has the most of the files; nothing is written to find out."""
    roots = [settings.cache_dir] if settings.cache_dir else []
    caches = [HubCache(root) for root in (*roots, *settings.cache_dir_candidates, RAM_DIR)]
    return max(caches, key=lambda cache: sum(f.size_bytes for f in files if _holds(cache, f)))  # the first of equals


def _holds(cache: HubCache, file: PinnedFile) -> bool:
    """Whether a whole file is in a cache, by its size."""
    for place in (cache.snapshot(file), cache.blob(file)):
        with suppress(OSError):
            if place.stat().st_size == file.size_bytes:
                return True
    return False


def _caches(settings: Settings, weights: Weights, named: Path | None) -> list[HubCache]:
    """Where the files may lie: in the directory that was named, else in any that a boot would take."""
    if named is None:
        return choose(settings, weights.files)
    cache = HubCache(named.resolve())
    if reason := why_not(cache, weights.files, settings.platform_cache):
        raise SettingsError(f"--cache-dir {cache.root} cannot hold the files: {reason}")
    return [cache]


def _bring(settings: Settings, weights: Weights, store: Store | None, cache_dir: Path | None) -> RestoreReport:
    """Restore into the local cache, with the growth of its files as progress."""
    caches = _caches(settings, weights, cache_dir)
    hub.set_client_env(os.environ, caches[0])
    total, done = weights.size_bytes, threading.Event()
    with _progress("restore", total) as advance:

        def watch() -> None:
            shown = 0
            while not done.wait(POLL_S):
                have = min(total, sum(p.stat().st_blocks * 512 for p in caches[0].root.rglob("blobs/*") if p.is_file()))
                advance(max(0, have - shown))
                shown = max(shown, have)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            return restore(weights.files, caches, settings, store, timeline=Timeline(time.time()))
        finally:
            done.set()
            watcher.join()


def _source_rows(weights: Weights, report: RestoreReport) -> list[Row]:
    return [(f.path, f.size_bytes, report.sources.get(f) or report.missing.get(f, "missing")) for f in weights.files]


@contextmanager
def _progress(name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(name, total=total_bytes)
        yield lambda count: progress.advance(task, count)


def _show(as_json: bool, title: str, columns: tuple[str, ...], rows: list[Row]) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"title": title, "rows": [dict(zip(columns, row, strict=True)) for row in rows]}, indent=1) + "\n")
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if "bytes" in column else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    console.print(table)


def _complain(message: str) -> None:
    """One line on stderr, as it is."""
    errors.print(message, markup=False, soft_wrap=True)


def _end(all_well: bool) -> None:
    logging.shutdown()
    if not all_well:
        raise typer.Exit(EXIT_INCOMPLETE)
