"""`python -m f5_worker say`: speech from an endpoint, or from the local job API, into a file.

Long texts are cut into many jobs on the endpoint's own queue and joined in order. What is done is kept in `<output>.parts` until all of
it is: run the same command again after a failure or Ctrl-C, and only what lacks is spoken.

Exit codes: 0 the file is written, 1 a job failed (the message has the worker's reason), 2 the options or the text are wrong, 3 the
endpoint or the disk failed, 130 Ctrl-C (jobs that ran are cancelled, parts that are done are kept).
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from f5_worker import parts as cutting
from f5_worker import results
from f5_worker.endpoint import TROUBLE_S, Endpoint, LocalApi, RunpodEndpoint, Status, run
from f5_worker.endpoint_errors import EndpointError, EndpointOutdated, EndpointUnreachable, JobFailed
from f5_worker.errors import RequestError, SettingsError, WorkerError
from f5_worker.parts import Part, PartsFolder

EXIT_JOB, EXIT_OPTIONS, EXIT_ENDPOINT, EXIT_INTERRUPTED = 1, 2, 3, 130
TRIES = 3  # of a part that failed for a passing reason
FORMATS = {"wav": "wav", "mp3": "mp3", "opus": "opus", "ogg": "opus", "aac": "aac", "flac": "flac", "pcm": "pcm"}  # by suffix
_PLAYERS = {"ffplay": "ffplay -autoexit -nodisp", "mpv": "mpv", "afplay": "afplay"}


class Quality(StrEnum):
    fast = "fast"
    balanced = "balanced"
    high = "high"


def command(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; its suffix is the format.")],
    text: Annotated[str | None, typer.Argument(help="What is spoken.")] = None,
    file: Annotated[Path | None, typer.Option(help="A text file to speak, of any length.")] = None,
    dialogue: Annotated[Path | None, typer.Option(help="A text file of lines `voice: text`, the voices by their ids.")] = None,
    voice: Annotated[str | None, typer.Option(help="An id of the voice library; default: the worker's own.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Id of a RunPod endpoint; the key is RUNPOD_API_KEY.")] = None,
    local: Annotated[str | None, typer.Option(help="Address of `python handler.py --rp_serve_api`: http://127.0.0.1:8000.")] = None,
    fmt: Annotated[str | None, typer.Option("--format", help="wav, mp3, opus, aac, flac or pcm; default: by the suffix.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**53 - 1, help="Same text, seed and worker: same speech.")] = None,
    quality: Annotated[Quality | None, typer.Option(help="Speed against quality; default: the worker's best.")] = None,
) -> None:
    """Speak a text, a file or a dialogue. Exit code 0: written, 1: a job failed, 2: options, 3: endpoint or disk, 130: Ctrl-C."""
    signal.signal(signal.SIGTERM, stop)
    console = Console(stderr=True)
    with exits(console, kept=PartsFolder(out).path):
        parts = _parts(text, file, dialogue)
        asked = {"voice": voice, "seed": seed, "quality": quality.value if quality else None}
        settings = {name: value for name, value in asked.items() if value is not None}
        output_format = _format(out, fmt)
        check_writable(out.parent)
        seconds, warnings = speak(chosen(endpoint, local), parts, settings, out=out, fmt=output_format, console=console)
        for warning in sorted(warnings):
            console.print(f"warning: {warning}", markup=False, highlight=False)
        sys.stdout.write(f"{out}: {seconds:.1f} s of audio\n")
        if sys.stdout.isatty() and output_format != "pcm":
            player = next((line for name, line in _PLAYERS.items() if shutil.which(name)), "open")
            sys.stdout.write(f"listen: {player} {out}\n")


def speak(
    endpoint: Endpoint, parts: list[Part], settings: Mapping[str, Any], *, out: Path, fmt: str, console: Console
) -> tuple[float, set[str]]:
    """Write the speech of all parts to a file; its seconds, and what the worker warns of.

    Raises:
        JobFailed: names every part that failed; those that are done are kept.
        EndpointError, RequestError, OSError: as the endpoint, the parts and the disk.
    """
    with _progress(console, sum(part.chars for part in parts)) as shown:
        if len(parts) == 1:
            return _speak_one(endpoint, {**parts[0].fields, **settings, "response_format": fmt}, out, shown, parts[0].chars)
        return _speak_many(endpoint, parts, settings, out=out, fmt=fmt, shown=shown)


def _speak_one(endpoint: Endpoint, job_input: dict[str, Any], out: Path, shown: _Shown, chars: int) -> tuple[float, set[str]]:
    folder, shown.chars = PartsFolder(out), {"text": chars}
    shown.jobs = 1
    done: dict[str, results.Result] = {}

    def keep(_key: str, result: results.Result, data: bytes) -> None:
        written = out.with_name(f".{out.name}.writing")
        written.write_bytes(data)
        written.replace(out)
        done["text"] = result

    _speak_missing(endpoint, {"text": job_input}, keep, shown)
    folder.clear()
    return float(done["text"]["duration_s"]), _warnings(done["text"])


def _speak_many(
    endpoint: Endpoint, parts: list[Part], settings: Mapping[str, Any], *, out: Path, fmt: str, shown: _Shown
) -> tuple[float, set[str]]:
    folder, inputs = PartsFolder(out), cutting.job_inputs(parts, settings, endpoint.name)
    order = cutting.keys(parts, settings, endpoint.name)
    shown.chars, shown.jobs = {}, len(inputs)
    for key, part in zip(order, parts, strict=True):
        shown.chars[key] = shown.chars.get(key, 0) + part.chars
    missing = {key: job_input for key, job_input in inputs.items() if not folder.has(key)}
    for key in inputs.keys() - missing.keys():
        shown.done(key)
    warnings: set[str] = set()

    def keep(key: str, result: results.Result, data: bytes) -> None:
        folder.keep(key, data)
        warnings.update(_warnings(result))

    _speak_missing(endpoint, missing, keep, shown)
    paused = zip((folder.file(key) for key in order), (part.pause_after_s for part in parts), strict=True)
    seconds = cutting.join(paused, out, fmt)
    folder.clear()
    return seconds, warnings


def _speak_missing(
    endpoint: Endpoint, inputs: Mapping[str, dict[str, Any]], keep: Callable[[str, results.Result, bytes], None], shown: _Shown
) -> None:
    """Speak every input; one that fails stops no other, and for a passing reason is tried again alone."""
    left, failed = dict(inputs), dict[str, EndpointError]()
    for tries_left in reversed(range(TRIES)):
        again = {}
        for key, status in run(endpoint, left, on_status=shown.status, on_workers=shown.workers):
            try:
                result = results.result_of(status)
                keep(key, result, results.file_of(result.get("audio", {}), sha256=result.get("sha256")))
                shown.done(key)
            except (JobFailed, EndpointUnreachable) as exc:  # the latter of the result's own URL
                passes = exc.may_succeed_later if isinstance(exc, JobFailed) else exc.retryable
                if passes and tries_left:
                    again[key] = left[key]
                else:
                    failed[key] = exc
        left = again
    if failed:
        raise _failure(endpoint, [failed[key] for key in inputs if key in failed], len(inputs))


def _failure(endpoint: Endpoint, failed: list[EndpointError], jobs: int) -> EndpointError:
    if not any(isinstance(error, JobFailed) for error in failed):
        return failed[0]
    reasons = list(dict.fromkeys(error.message for error in failed))
    if any("INVALID_REQUEST" in reason for reason in reasons):  # what this client sends an older worker may not know
        try:
            results.health(endpoint)
        except EndpointOutdated as exc:
            return exc
        except EndpointError:
            pass
    return JobFailed("; ".join(reasons) if jobs == 1 else f"{len(failed)} of {jobs} parts failed: {'; '.join(reasons)}")


def _warnings(result: results.Result) -> set[str]:
    return {f"{w.get('code')}: {w.get('message')}" for w in result.get("warnings", [])}


# --- options ---


def _parts(text: str | None, file: Path | None, dialogue: Path | None) -> list[Part]:
    if sum(source is not None for source in (text, file, dialogue)) != 1:
        raise SettingsError("give what is spoken exactly once: a text, --file or --dialogue")
    if dialogue:
        return cutting.of_dialogue(_read(dialogue))
    return cutting.of_text(_read(file) if file else text or "")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise SettingsError(f"{file} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{file} is not UTF-8 text (byte {exc.start}): save it as UTF-8") from exc


def chosen(endpoint: str | None, local: str | None, *, trouble_s: float = TROUBLE_S) -> Endpoint:
    """The one of both that is given. Raises SettingsError, EndpointError."""
    if (endpoint is None) == (local is None):
        raise SettingsError("say who speaks: --endpoint with the id of an endpoint, or --local with the address of the local API")
    return LocalApi(local) if local else RunpodEndpoint(endpoint or "", trouble_s=trouble_s)


def _format(out: Path, fmt: str | None) -> str:
    found = FORMATS.get((fmt or out.suffix.removeprefix(".")).lower())
    if found is None:
        raise SettingsError(f"{'--format ' + fmt if fmt else out}: the format must be one of wav, mp3, opus, aac, flac and pcm")
    return found


def check_writable(folder: Path) -> None:
    """Try a folder with a real file. Raises SettingsError."""
    try:
        with TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as exc:
        raise SettingsError(f"nothing can be written to {folder}: {exc.strerror}") from exc


# --- the terminal ---


def stop(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does: jobs are cancelled."""
    raise KeyboardInterrupt


@contextmanager
def exits(console: Console, *, kept: Path | None = None) -> Iterator[None]:
    """Every known error becomes one line and an exit code."""
    try:
        yield
    except WorkerError as exc:
        console.print(str(exc), markup=False, highlight=False, soft_wrap=True)
        is_option = isinstance(exc, SettingsError | RequestError)
        code = EXIT_OPTIONS if is_option else EXIT_JOB if isinstance(exc, JobFailed) else EXIT_ENDPOINT
        _tell_kept(console, kept)
        raise typer.Exit(code) from exc
    except OSError as exc:
        console.print(f"the disk failed: {exc.strerror or type(exc).__name__}", markup=False)
        raise typer.Exit(EXIT_ENDPOINT) from exc
    except KeyboardInterrupt:
        console.print("stopped; jobs of an endpoint were cancelled, a local worker ends what it speaks", markup=False)
        _tell_kept(console, kept)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _tell_kept(console: Console, folder: Path | None) -> None:
    if folder and folder.is_dir():
        console.print(f"what is done is kept in {folder}: the same command again goes on from there", markup=False, soft_wrap=True)


class _Shown:
    """What the bar shows: characters that are spoken, jobs that are done, run and wait."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.chars: dict[str, int] = {}
        self.jobs = 0
        self._progress, self._task = progress, progress.add_task("sending", total=total)
        self._share: dict[str, float] = {}
        self._queued: set[str] = set()

    def status(self, key: str, status: Status) -> None:
        told = status.get("output")
        if status.get("status") == "IN_QUEUE":
            self._queued.add(key)
        else:
            self._queued.discard(key)
        if isinstance(told, dict) and told.get("chunks_total"):
            self._share[key] = told.get("chunks_done", 0) / told["chunks_total"]
        self._show()

    def done(self, key: str) -> None:
        self._queued.discard(key)
        self._share[key] = 1.0
        self._show()

    def workers(self, workers: Mapping[str, int]) -> None:
        states = ", ".join(f"{count} {state}" for state, count in workers.items() if count)
        self._progress.update(self._task, description=f"waiting for a worker{f' ({states})' if states else ''}")

    def _show(self) -> None:
        ended = sum(share >= 1 for share in self._share.values())
        counts = f"{ended} of {self.jobs} parts, {len(self._queued)} in the queue" if self.jobs > 1 else "speaking"
        spoken = sum(self.chars.get(key, 0) * share for key, share in self._share.items())
        self._progress.update(self._task, completed=spoken, description="waiting" if self._queued and not self._share else counts)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[_Shown]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Shown(progress, total)
