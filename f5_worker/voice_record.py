"""What stands in a voice.json: a prepared voice without its samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from f5_worker import audio
from f5_worker.errors import StoreCorrupt
from f5_worker.reference import Quality, Voice

Record = dict[str, Any]

_MAX_SECONDS = 60.0
_UNREADABLE = "a voice.json cannot be read: create the voice again with overwrite: true"
_CONTAINERS = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3", b"\xff": "mp3", b"FORM": "aiff", b"\x1aE\xdf\xa3": "webm"}


def of(voice_id: str, voice: Voice, data: bytes, original: bytes, notes: Mapping[str, str | None]) -> Record:
    """The record of a new voice.

    Args:
        data: reference.wav.
        notes: What the client says about it; None is left out.
    """
    return {
        "id": voice_id,
        "text": voice.text,
        "seconds": round(voice.seconds, 3),
        "sample_rate": voice.sample_rate_hz,
        "transcribed": voice.transcribed,
        "quality": asdict(voice.quality) if voice.quality else {},
        "warnings": [list(warning) for warning in voice.warnings],
        **{name: note for name, note in notes.items() if note is not None},
        "created_at": now(),
        "updated_at": now(),
        "reference": {"sha256": _sha256(data), "size_bytes": len(data)},
        "original": {"name": f"original.{_extension(original)}", "sha256": _sha256(original), "size_bytes": len(original)},
    }


def parse(raw: bytes) -> Record:
    """Raises StoreCorrupt when it is none of ours."""
    try:
        record = json.loads(raw)
        kinds = {"id": str, "text": str, "seconds": int | float, "sample_rate": int, "reference": dict}
        whole = all(isinstance(record[name], kind) for name, kind in kinds.items()) and isinstance(record["reference"]["sha256"], str)
    except (ValueError, KeyError, TypeError) as exc:
        raise StoreCorrupt(_UNREADABLE) from exc
    if not whole:
        raise StoreCorrupt(_UNREADABLE)
    return dict(record)


def to_voice(record: Record, data: bytes) -> Voice:
    """The voice that a record and its reference.wav describe. Raises StoreCorrupt."""
    samples, rate_hz = audio.decode(data, max_seconds=_MAX_SECONDS)
    try:
        quality = Quality(**record["quality"]) if record.get("quality") else None
        warnings = tuple((str(code), str(message)) for code, message in record.get("warnings", ()))
    except (TypeError, ValueError) as exc:
        raise StoreCorrupt(_UNREADABLE) from exc
    transcribed = bool(record.get("transcribed"))
    seconds = len(samples) / rate_hz
    return Voice(samples[:, 0].copy(), rate_hz, record["text"], seconds, warnings, quality=quality, transcribed=transcribed)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _extension(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "m4a"
    return next((extension for magic, extension in _CONTAINERS.items() if data.startswith(magic)), "bin")
