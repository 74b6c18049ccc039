"""What stands in a voice.json: a prepared voice without its samples."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from f5_worker import audio
from f5_worker.errors import StoreCorrupt
from f5_worker.jobs import coded
from f5_worker.reference import Quality, Voice

Record = dict[str, Any]

_MAX_SECONDS = 60.0
_MAX_REPLACED = 20  # names that are remembered until they are surely gone
_NAME = re.compile(r"(reference|original)-[0-9a-f]{12}\.[a-z0-9]{3,4}")
_UNREADABLE = "a voice.json cannot be read: create the voice again with overwrite: true"
_CONTAINERS = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3", b"\xff": "mp3", b"FORM": "aiff", b"\x1aE\xdf\xa3": "webm"}


def of(voice_id: str, voice: Voice, data: bytes, original: bytes, notes: Mapping[str, str | None]) -> Record:
    """The record of a new voice.

    Args:
        data: The prepared recording as it is stored.
        notes: What the client says about it; None is left out.
    """
    version = secrets.token_hex(6)
    return {
        "id": voice_id,
        "text": voice.text,
        "seconds": round(voice.seconds, 3),
        "sample_rate": voice.sample_rate_hz,
        "transcribed": voice.transcribed,
        "quality": asdict(voice.quality) if voice.quality else {},
        "warnings": coded(list(voice.warnings)),
        **{name: note for name, note in notes.items() if note is not None},
        "created_at": now(),
        "updated_at": now(),
        "reference": _file(f"reference-{version}.wav", data),
        "original": _file(f"original-{version}.{_extension(original)}", original),
        "replaced": [],
    }


def parse(raw: bytes, voice_id: str) -> Record:
    """The record under this id, whichever it says itself. Raises StoreCorrupt when it is none of ours."""
    try:
        record = json.loads(raw)
        kinds = {"text": str, "seconds": int | float, "sample_rate": int}
        whole = all(isinstance(record[name], kind) for name, kind in kinds.items()) and isinstance(record["reference"]["sha256"], str)
        whole = whole and all(_NAME.fullmatch(name) for name in [*files(record), *record["replaced"]])
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise StoreCorrupt(_UNREADABLE) from exc
    if not whole:
        raise StoreCorrupt(_UNREADABLE)
    return {**record, "id": voice_id}


def files(record: Record) -> list[str]:
    """The names of the recordings that belong to it."""
    return [record["original"]["name"], record["reference"]["name"]]


def renamed(record: Record) -> Record:
    """The same as another version: its recordings have names that nobody has seen, and the former ones count as replaced."""
    version = secrets.token_hex(6)
    names = {part: f"{part}-{version}.{record[part]['name'].rpartition('.')[2]}" for part in ("reference", "original")}
    parts = {part: record[part] | {"name": name} for part, name in names.items()}
    return record | parts | {"replaced": [*files(record), *record["replaced"]]}


def replacing(record: Record, old: Record | None) -> Record:
    """The record with the names of what it takes the place of, and of what that could not drop."""
    names = [*files(old), *record["replaced"], *old["replaced"]] if old else record["replaced"]
    return record | {"replaced": list(dict.fromkeys(names))[:_MAX_REPLACED]}


def has_replaced(record: Record, other: Record) -> bool:
    """Whether the other one is a version that this record took the place of, whatever was noted in it since."""
    return not set(files(other)).isdisjoint(record["replaced"])


def is_repeated(record: Record, other: Record) -> bool:
    """Whether both were made of the same recording with the same text and notes."""
    said = ("text", "name", "language", "consent")
    return record["original"].get("sha256") == other["original"].get("sha256") and all(record.get(name) == other.get(name) for name in said)


def to_voice(record: Record, data: bytes) -> Voice:
    """The voice that a record and its prepared recording describe. Raises StoreCorrupt."""
    samples, rate_hz = audio.decode(data, max_seconds=_MAX_SECONDS)
    try:
        quality = Quality(**record["quality"]) if record.get("quality") else None
        warnings = tuple((str(warning["code"]), str(warning["message"])) for warning in record.get("warnings", ()))
    except (KeyError, TypeError, ValueError) as exc:
        raise StoreCorrupt(_UNREADABLE) from exc
    transcribed = bool(record.get("transcribed"))
    seconds = len(samples) / rate_hz
    return Voice(samples[:, 0].copy(), rate_hz, record["text"], seconds, warnings, quality=quality, transcribed=transcribed)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _file(name: str, data: bytes) -> Record:
    return {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}


def _extension(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "m4a"
    return next((extension for magic, extension in _CONTAINERS.items() if data.startswith(magic)), "bin")
