"""A voice to clone: the reference recording, decoded and checked, and the words spoken in it."""

from __future__ import annotations

import importlib.util
import io
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from f5_worker import audio
from f5_worker.audio import Samples
from f5_worker.errors import InternalError, ReferenceInvalid

SAMPLE_RATE_HZ = 24_000
MIN_SECONDS = 0.5
MAX_SECONDS = 12.0  # F5-TTS was trained on clips of up to 30 s, reference and output together
_MAX_DECODE_SECONDS = 600.0  # bounds memory: 10 minutes of mono at 24 kHz are 58 MB
_RATES_HZ = (4_000, 384_000)
_MAX_CHANNELS = 32
_WINDOW = SAMPLE_RATE_HZ // 100  # 10 ms, the step in which loudness is looked at
_SILENCE_DBFS = -60.0  # nothing louder than this: not a recording of a voice
_EDGE_DBFS = -42.0  # upstream's threshold for trimming the edges
_EDGE_BELOW_PEAK_DB = 30.0  # of a quiet recording only what is this far below its loudest window is trimmed
_TAIL = SAMPLE_RATE_HZ // 20  # upstream appends 50 ms of silence
_CHARS_PER_S = (3.0, 35.0)
_SENTENCE_END = ".!?。！？…؟۔।"  # noqa: RUF001 - the marks of other scripts are meant
_QUIET_RMS = 0.005  # -46 dBFS: raised to the model's level, the noise of such a recording is cloned too
_NARROW_HZ = 16_000

Warnings = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Voice:
    """A prepared reference. `text` ends as F5-TTS expects it."""

    samples: Samples  # mono, 24 kHz, edges trimmed
    sample_rate_hz: int
    text: str
    seconds: float
    warnings: Warnings = ()  # (code, message)


def prepare(data: bytes, text: str) -> Voice:
    """Decode and check a recording (wav, flac, mp3, ogg, opus, aiff) and its words.

    Raises:
        ReferenceInvalid: the recording cannot be cloned from, or the text cannot be what is spoken in it; the message says what to change.
    """
    words = " ".join(text.split())
    if not any(char.isalnum() for char in words):
        raise ReferenceInvalid("ref_text is empty: pass the words that are spoken in the reference audio")
    samples, rate_hz = _decode(data)
    samples = _trim(audio.resample(_mono(samples), rate_hz, SAMPLE_RATE_HZ))
    seconds = len(samples) / SAMPLE_RATE_HZ
    _check_length(seconds, words)
    rms = float(np.sqrt(np.mean(np.square(samples))))
    return Voice(samples, SAMPLE_RATE_HZ, _ended(words), seconds, _warnings(rms, rate_hz, samples))


def default_voice() -> Voice:
    """The English example voice that f5_tts ships, and its text."""
    spec = importlib.util.find_spec("f5_tts")
    if spec is None or not spec.submodule_search_locations:
        raise InternalError("f5_tts is not installed")
    folder = Path(next(iter(spec.submodule_search_locations))) / "infer" / "examples" / "basic"
    example = tomllib.loads((folder / "basic.toml").read_text(encoding="utf-8"))
    return prepare((folder / "basic_ref_en.wav").read_bytes(), example["ref_text"])


def _decode(data: bytes) -> tuple[Samples, int]:
    if not data:
        raise ReferenceInvalid("the reference audio is empty (0 bytes)")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            rate_hz, channels = int(sound.samplerate), int(sound.channels)
            if not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1] or channels > _MAX_CHANNELS:
                raise ReferenceInvalid(f"the reference audio has {rate_hz} Hz and {channels} channels: send 8 to 192 kHz, mono or stereo")
            samples: Samples = sound.read(int(_MAX_DECODE_SECONDS * rate_hz), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, ValueError, TypeError) as exc:  # TypeError: headerless RAW is guessed
        raise ReferenceInvalid("the reference is not audio that can be read: send wav, flac, mp3, ogg or opus") from exc
    if not np.isfinite(samples).all():
        raise ReferenceInvalid("the reference audio holds samples that are not numbers (NaN or infinity): export it again")
    return samples, rate_hz


def _mono(samples: Samples) -> Samples:
    mixed: Samples = samples.mean(axis=1, dtype=np.float32)
    return mixed


def _levels_dbfs(samples: Samples) -> Samples:
    """Loudness of every 10 ms window; what is left over at the end counts as one window."""
    padded = np.pad(samples, (0, -len(samples) % _WINDOW)).reshape(-1, _WINDOW)
    levels: Samples = 20.0 * np.log10(np.maximum(np.sqrt(np.mean(np.square(padded), axis=1)), 1e-10))
    return levels


def _trim(samples: Samples) -> Samples:
    levels = _levels_dbfs(samples)
    if not len(levels) or levels.max() < _SILENCE_DBFS:
        raise ReferenceInvalid("the reference audio is silent: send a recording of a voice")
    loud = np.flatnonzero(levels > min(_EDGE_DBFS, float(levels.max()) - _EDGE_BELOW_PEAK_DB))
    kept = samples[loud[0] * _WINDOW : (loud[-1] + 1) * _WINDOW]
    return np.concatenate([kept, np.zeros(_TAIL, dtype=np.float32)])


def _check_length(seconds: float, words: str) -> None:
    if seconds < MIN_SECONDS:
        raise ReferenceInvalid(f"the reference audio holds {seconds:.2f} s of sound: send 3 to 12 s of speech")
    if seconds > MAX_SECONDS:
        raise ReferenceInvalid(f"the reference audio is {seconds:.1f} s long: cut it to at most 12 s and pass the text of that part")
    rate = len(words) / seconds
    if not _CHARS_PER_S[0] <= rate <= _CHARS_PER_S[1]:
        raise ReferenceInvalid(
            f"ref_text has {len(words)} characters for {seconds:.1f} s of audio, {rate:.1f} a second; speech has 3 to 35: "
            "pass exactly the words that are spoken in the reference audio"
        )


def _ended(words: str) -> str:
    """Upstream ends the reference text with a full stop and a space; other ends of a sentence are kept here."""
    if words[-1] not in _SENTENCE_END:
        words += "."
    return words if len(words[-1].encode()) > 1 else words + " "


def _warnings(rms: float, rate_hz: int, samples: Samples) -> Warnings:
    clipped = float(np.mean(np.abs(samples) >= 0.999))
    checks = (
        (rms < _QUIET_RMS, "REFERENCE_QUIET", f"the reference audio is very quiet ({20 * np.log10(max(rms, 1e-10)):.0f} dBFS)"),
        (rate_hz < _NARROW_HZ, "REFERENCE_NARROWBAND", f"the reference audio has only {rate_hz} Hz: the voice will sound muffled"),
        (clipped > 0.001, "REFERENCE_CLIPPED", f"{clipped:.1%} of the reference audio is clipped: the voice may sound harsh"),
    )
    return tuple((code, message) for found, code, message in checks if found)
