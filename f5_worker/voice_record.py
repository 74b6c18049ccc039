"""What stands in a voice.json: a prepared voice without its samples."""

from __future__ import annotations

import hashlib
import json
import re
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
        "reference": _file("reference", "wav", data),
        "original": _file("original", _extension(original), original),
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


def replacing(record: Record, old: Record | None) -> Record:
    """The record with the names of what it takes the place of, and of what that could not drop."""
    names = [*files(old), *old["replaced"]] if old else []
    return record | {"replaced": list(dict.fromkeys(names))[:_MAX_REPLACED]}


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


def _file(kind: str, extension: str, data: bytes) -> Record:
    """An object that is named by its content: what another version consists of is never written over."""
    sha256 = hashlib.sha256(data).hexdigest()
    return {"name": f"{kind}-{sha256[:12]}.{extension}", "sha256": sha256, "size_bytes": len(data)}


def _extension(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "m4a"
    return next((extension for magic, extension in _CONTAINERS.items() if data.startswith(magic)), "bin")
