"""Long texts as many jobs: where they are cut, the folder that keeps what is done, and the one file made of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from f5_worker.endpoint_errors import JobFailed
from f5_worker.errors import RequestError

PART_BYTES = 1_500  # some 100 s of speech: as FLAC it fits a result without a bucket, and several workers share a chapter
LINE_PAUSE_S = 0.3  # between the lines of a dialogue
_PARAGRAPH_PAUSE_S, _SENTENCE_PAUSE_S = 0.4, 0.15  # between two parts, by where the text was cut
PART_FORMAT = "flac"  # lossless, so that what is joined is encoded once
_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_LINE = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9_-]{0,63})\s*:\s*(\S.*)")
_KEY_CHARS = 16
_PART_NAME = re.compile(rf"[0-9a-f]{{{_KEY_CHARS}}}\.{PART_FORMAT}")


@dataclass(frozen=True)
class Part:
    """What one job speaks, as the fields of its input, and the silence after it."""

    fields: Mapping[str, Any]
    pause_after_s: float
    chars: int


def of_text(text: str) -> list[Part]:
    """A text cut at its paragraphs, and those that are too long for one part at their sentences.

    Raises:
        RequestError: nothing in it can be spoken.
    """
    from f5_worker.text import spans  # noqa: PLC0415 - compiles its patterns

    parts: list[Part] = []
    begun = ""
    for paragraph in (p.strip() for p in _PARAGRAPHS.split(text.replace("\r\n", "\n")) if any(map(str.isalnum, p))):
        both = f"{begun}\n\n{paragraph}" if begun else paragraph
        if len(both.encode()) <= PART_BYTES:
            begun = both
            continue
        if begun:
            parts.append(_spoken(begun, _PARAGRAPH_PAUSE_S))
        *cut, begun = (paragraph[start:end].strip() for start, end in spans(paragraph, PART_BYTES))
        parts += [_spoken(piece, _SENTENCE_PAUSE_S) for piece in cut if any(map(str.isalnum, piece))]
    if begun:
        parts.append(_spoken(begun, 0.0))
    if not parts:
        raise RequestError("there is no text to speak")
    return parts


def of_dialogue(text: str) -> list[Part]:
    """A dialogue of lines `voice: text`, cut between lines.

    Raises:
        RequestError: names the first line that has another form.
    """
    from f5_worker.text import spans  # noqa: PLC0415

    groups: list[list[dict[str, Any]]] = [[]]
    size = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None or not any(map(str.isalnum, match[2])):
            raise RequestError(f"line {number}: must be `voice: text`, with the id of a voice before the colon")
        pieces = [match[2][start:end].strip() for start, end in spans(match[2], PART_BYTES)]
        for piece in pieces:
            if size + len(piece.encode()) > PART_BYTES and groups[-1]:
                groups.append([])
                size = 0
            groups[-1].append({"text": piece, "voice": match[1], "pause_after": LINE_PAUSE_S if piece is pieces[-1] else 0.0})
            size += len(piece.encode())
    if not groups[-1]:
        raise RequestError("there is no line to speak")
    return [Part({"segments": lines}, 0.0, sum(len(line["text"]) for line in lines)) for lines in groups]


def _spoken(text: str, pause_s: float) -> Part:
    return Part({"input": text}, pause_s, len(text))


def job_inputs(parts: Sequence[Part], settings: Mapping[str, Any], endpoint: str) -> dict[str, dict[str, Any]]:
    """The input of each part's job by the part's key, which stands for all that was asked and of whom.

    Without a seed each part gets one out of its key: a part that is spoken again is the same.
    """
    inputs = {}
    for part in parts:
        asked = {**part.fields, **settings, "response_format": PART_FORMAT}
        digest = hashlib.sha256(json.dumps([endpoint, asked], sort_keys=True).encode()).hexdigest()
        inputs[digest[:_KEY_CHARS]] = {"seed": int(digest[:12], 16), **asked}
    return inputs


def keys(parts: Sequence[Part], settings: Mapping[str, Any], endpoint: str) -> list[str]:
    """The key of each part, in the order of the parts; equal parts have one key."""
    return [next(iter(job_inputs([part], settings, endpoint))) for part in parts]


class PartsFolder:
    """The parts that are done, beside the output in a folder named after it."""

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(f"{output.name}.parts")

    def file(self, key: str) -> Path:
        return self.path / f"{key}.{PART_FORMAT}"

    def has(self, key: str) -> bool:
        return self.file(key).is_file()

    def keep(self, key: str, data: bytes) -> None:
        """Whole or not at all."""
        self.path.mkdir(exist_ok=True)
        written = self.path / f"{key}.{os.getpid()}.writing"
        written.write_bytes(data)
        written.replace(self.file(key))

    def clear(self) -> None:
        """Remove the parts, also those of earlier texts; whatever else lies in the folder stays."""
        for entry in self.path.iterdir() if self.path.is_dir() else ():
            if _PART_NAME.fullmatch(entry.name) or entry.name.endswith(".writing"):
                entry.unlink()
        with suppress(OSError):
            self.path.rmdir()


def join(files: Iterable[tuple[Path, float]], output: Path, fmt: str) -> float:
    """Write the files one after the other, each with its seconds of silence after it, as one file; its seconds.

    One part at a time is in memory. The output appears when it is whole.

    Raises:
        JobFailed: a part cannot be read, or has another sample rate; it is removed, so that it is spoken again.
    """
    written = output.with_name(f".{output.name}.{os.getpid()}.writing")
    try:
        seconds = _joined(files, written, fmt)
        written.replace(output)
    finally:
        written.unlink(missing_ok=True)
    return seconds


def _joined(files: Iterable[tuple[Path, float]], written: Path, fmt: str) -> float:
    import numpy as np  # noqa: PLC0415 - and soundfile: only for those who join

    frames, rate_hz = 0, 0
    with ExitStack() as stack:
        for path, pause_s in files:
            samples, own_hz = _read(path)
            if not rate_hz:
                writer, rate_hz = stack.enter_context(closing(_Writer(written, fmt, own_hz))), own_hz
            if own_hz != rate_hz:
                path.unlink()
                raise JobFailed(f"{path.name} has another sample rate than the parts before it: run the command again")
            for piece in (samples, np.zeros(round(pause_s * rate_hz), dtype=np.float32)):
                writer.write(piece)
                frames += len(piece)
    return frames / rate_hz


def _read(path: Path) -> tuple[Any, int]:
    import soundfile  # noqa: PLC0415

    try:
        samples, rate_hz = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as exc:
        path.unlink()
        raise JobFailed(f"{path.name} cannot be read and was removed: run the command again") from exc
    return samples, rate_hz


class _Writer:
    """A file that grows. Formats whose header tells the length are written by libsndfile, which fills it in at the end."""

    def __init__(self, path: Path, fmt: str, rate_hz: int) -> None:
        import soundfile  # noqa: PLC0415

        from f5_worker.audio import Encoder  # noqa: PLC0415

        with_length = fmt in {"wav", "flac"}
        self._sound = soundfile.SoundFile(path, "w", rate_hz, 1, format=fmt.upper(), subtype="PCM_16") if with_length else None
        self._encoder = None if with_length else Encoder(fmt, rate_hz)
        self._file = None if with_length else path.open("wb")

    def write(self, samples: Any) -> None:
        if self._sound:
            self._sound.write(samples)
        elif self._encoder and self._file:
            self._file.write(self._encoder.write(samples))

    def close(self) -> None:
        if self._sound:
            self._sound.close()
        elif self._encoder and self._file:
            with self._file:
                self._file.write(self._encoder.close())
