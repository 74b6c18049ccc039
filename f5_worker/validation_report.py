"""The Markdown report of a validation: the checklist, the jobs, both boots as waterfalls, the bucket."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from f5_worker import __version__, waterfall
from f5_worker.settings import CACHE_DIR_CANDIDATES, Settings
from f5_worker.validation import Check

if TYPE_CHECKING:
    from f5_worker.validate import Findings

Boot = Mapping[str, Any]
_BAR_CHARS = 48
_BROKEN_IMPORT = re.compile(r"\b(?:ImportError|ModuleNotFoundError)\b.*")
_HF_HOME = re.compile(r"HF_HOME=([^\s\"]+)")
_NO_LOG = "no job can tell: look for `boot.exec HF_HOME=` in the worker's log, or pass it as --worker-log"


def checklist(found: Findings, settings: Settings) -> list[Check]:
    """What the one who deployed it wants to know, answered from what was seen."""
    homes = [home for log in found.logs for home in _HF_HOME.findall(log)]
    return [
        _imports(found),
        Check("HF_HOME in the log", "ok" if homes else "not seen", ", ".join(dict.fromkeys(homes)) or _NO_LOG),
        _models_dir(homes, settings),
        _upload(found),
        _second_boot(found.boots),
        _listing(found),
    ]


def _imports(found: Findings) -> Check:
    broken = [match[0] for log in found.logs for match in _BROKEN_IMPORT.finditer(log)]
    if broken:
        return Check("import errors: none", "failed", broken[0][:200])
    imports = [phase for boot in found.boots for phase in boot["phases"] if phase["name"].startswith("import")]
    if not imports:
        return Check("import errors: none", "not seen", "no worker told of its boot")
    told = ", ".join(f"{p['name']} {p['end_s'] - p['start_s']:.2f} s" for p in imports)
    if not found.logs:
        return Check("import errors: none", "not seen", f"none ended the boot ({told}); for others pass the worker's log as --worker-log")
    return Check("import errors: none", "ok", f"none in the log; {told}")


def _models_dir(homes: Sequence[str], settings: Settings) -> Check:
    name = "models under /tmp/models or MODEL_CACHE_DIR"
    if not homes:
        return Check(name, "not seen", _NO_LOG)
    meant = [str(settings.cache_dir)] if settings.cache_dir else [str(path) for path in CACHE_DIR_CANDIDATES]
    elsewhere = [home for home in homes if home not in meant]
    return Check(name, "failed" if elsewhere else "ok", f"in {', '.join(dict.fromkeys(homes))}; meant: {', '.join(meant)}")


def _upload(found: Findings) -> Check:
    name = "background upload done"
    if found.objects is not None and found.boots:
        needed = {f"/{file['repo'].replace('/', '--')}/{file['commit']}/manifest.json" for file in found.boots[-1]["files"]}
        whole = {end for end in needed for o in found.objects if f"/{o.key}".endswith(end)}
        state = "ok" if whole == needed else "failed"
        return Check(name, state, f"manifests, which are written last: {len(whole)} of {len(needed)} repositories")
    restored = [boot for boot in found.boots if _sources(boot) == {"bucket"}]
    if restored:
        return Check(name, "ok", "a boot had every file from the bucket")
    return Check(name, "not seen", "no boot from the bucket was seen, and the bucket was not listed")


def _second_boot(boots: Sequence[Boot]) -> Check:
    name = "second boot from S3"
    if not boots:
        return Check(name, "not seen", "no worker told of its boot")
    if len(boots) < 2:
        why = "one worker answered all jobs: it was kept, or thawed by FlashBoot. Validate again after it was stopped"
        return Check(name, "not seen", f"the boot that was seen took its files from {_named(boots[0])}; {why}")
    first, second = boots[0], boots[1]
    seconds = f"ready after {first['ready_s']:.2f} s from {_named(first)}, then {second['ready_s']:.2f} s from {_named(second)}"
    faster = f"{first['ready_s'] / second['ready_s']:.2f} times as fast" if second["ready_s"] else ""
    if "hub" not in _sources(first):
        faster += "; the first fill from the hub was not seen"
    state = "ok" if _sources(second) == {"bucket"} else "failed" if "hub" in _sources(second) else "not seen"
    return Check(name, state, f"{seconds}: {faster}")


def _listing(found: Findings) -> Check:
    if found.objects is None:
        return Check("bucket listing", "not seen", found.no_listing)
    return Check("bucket listing", "ok" if found.objects else "failed", f"{len(found.objects)} objects, listed below")


def _sources(boot: Boot) -> set[str]:
    return {file["source"] for file in boot["files"]}


def _named(boot: Boot) -> str:
    return " and ".join(sorted(_sources(boot)))


def health_line(health: Mapping[str, Any]) -> str:
    """Versions and device in one line."""
    engine = health.get("engine", {})
    return f"worker {health['versions']['worker']}, " + ", ".join(f"{name} {value}" for name, value in engine.items())


# --- the file ---


def write(found: Findings, checks: Sequence[Check], out: Path) -> None:
    """Write the report, and the boots as a picture beside it where matplotlib is installed. Raises OSError."""
    picture = out.with_suffix(".png")
    try:
        drawn = (
            waterfall.png([{**boot, "title": _title(number, boot)} for number, boot in enumerate(found.boots, 1)]) if found.boots else b""
        )
    except ImportError:
        drawn = b""
    if drawn:
        _put(picture, drawn)
    _put(out, ("\n".join(_lines(found, checks, picture.name if drawn else "")) + "\n").encode())


def _put(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all."""
    writing = path.with_name(f".{path.name}.writing")
    try:
        writing.write_bytes(data)
        writing.replace(path)
    finally:
        writing.unlink(missing_ok=True)


def _lines(found: Findings, checks: Sequence[Check], picture: str) -> Iterator[str]:
    failed = sum(check.state == "failed" for check in (*checks, *found.checks))
    yield f"# Validation of endpoint {found.endpoint}\n"
    yield f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, client {__version__}. {failed} checks failed."
    yield f"\n**Ended early: {found.ended}**" if found.ended else ""
    yield "## Checklist\n"
    yield from _table(checks)
    yield "\n## Jobs\n"
    yield from _table(found.checks)
    yield "\nNot sent: words and `transcribe`, which fetch speech recognition's weights, and what writes voices into the bucket."
    yield "\n## Boots\n"
    silent = found.workers - {boot["worker"] for boot in found.boots}
    if silent:
        yield f"Not seen: the boots of {', '.join(sorted(silent))}, which answered other jobs.\n"
    for number, boot in enumerate(found.boots, 1):
        yield f"### {_title(number, boot)}\n"
        yield from ("```", *_waterfall(boot), "```\n")
    if picture:
        yield f"![the boots]({picture})\n"
    if found.objects is not None:
        yield "## Bucket\n\n| key | bytes | written |\n|---|---:|---|"
        yield from (f"| `{_cell(o.key)}` | {o.size_bytes:,} | {o.modified:%Y-%m-%d %H:%M:%S} |" for o in found.objects)


def _table(checks: Sequence[Check]) -> Iterator[str]:
    yield "| check | state | seen |\n|---|---|---|"
    yield from (f"| {_cell(check.name)} | {check.state} | {_cell(check.seen)} |" for check in checks)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _title(number: int, boot: Boot) -> str:
    worker = f" of {boot['worker']}" if boot["worker"] else ""
    return f"Boot {number}{worker}, from {_named(boot)}, ready after {boot['ready_s']:.2f} s"


def _waterfall(boot: Boot) -> Iterator[str]:
    """A line a phase: its bar on the time axis, when it ran, what it moved."""
    width = max(len(phase["name"]) for phase in boot["phases"])
    scale = _BAR_CHARS / max(boot["ready_s"], *(phase["end_s"] for phase in boot["phases"]), 0.001)
    for phase in boot["phases"]:
        start, end = round(phase["start_s"] * scale), round(phase["end_s"] * scale)
        bar = f"{' ' * min(start, _BAR_CHARS - 1)}{'#' * max(1, end - start)}"
        moved = f"  {phase['bytes'] / 1e6:,.1f} MB from {phase['source']}" if phase["bytes"] else ""
        yield f"{phase['name']:<{width}}  {bar:<{_BAR_CHARS}}  {phase['start_s']:6.2f} - {phase['end_s']:6.2f} s{moved}"
