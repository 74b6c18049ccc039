"""Recordings that clients send, to samples: libsndfile here, what it cannot read by FFmpeg in a process of its own."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import soundfile

from f5_worker.errors import ReferenceInvalid

Samples = npt.NDArray[np.float32]

PADDING_S = 0.1  # that codecs may add: a recording of just the length that is allowed is not longer than it
MAX_SAMPLES = 1 << 26  # of one recording, all channels: 256 MiB
_RATES_HZ = (4_000, 384_000)
_MAX_CHANNELS = 32
_CANCELLED = 0.4  # of the power that the mean has when the channels have nothing in common, or all but one are silent
_FFMPEG_TIMEOUT_S = 30.0
# In libsndfile's log: what the header of a WAV or AIFF says that the data have, and what there is.
_PROMISED = re.compile(r"^ ?(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)
_MISSING_BYTES = 4_096  # less is a matter of rounding and padding
_STREAM_BYTES = 0x7FFF_0000  # so much and more says whoever does not know the length yet
_EBML = b"\x1a\x45\xdf\xa3"
_UNREADABLE = "the reference is not audio that can be read: send wav, flac, mp3, ogg, opus, m4a, aac or webm"


def is_cut(samples: Samples, rate_hz: int, max_seconds: float) -> bool:
    """Whether decode, given max_seconds, may have left out the rest of a recording."""
    return len(samples) >= int(max_seconds * rate_hz) or int(samples.size) + int(samples.shape[1]) > MAX_SAMPLES


def decode(data: bytes, *, max_seconds: float) -> tuple[Samples, int]:
    """A recording (wav, flac, mp3, ogg, opus, aiff; m4a, mp4, webm, aac) as frames x channels in [-1, 1], and its rate in Hz.

    Stops after max_seconds, and after MAX_SAMPLES: of a longer recording this is the beginning.

    Raises:
        ReferenceInvalid: not audio, or none that can be worked with; the message says what to change.
    """
    if not data:
        raise ReferenceInvalid("the reference audio is empty (0 bytes)")
    container = _ffmpeg_container(data)
    samples, rate_hz = _with_ffmpeg(data, container, max_seconds) if container else _with_libsndfile(data, max_seconds)
    if not np.isfinite(samples).all():
        raise ReferenceInvalid("the reference audio holds samples that are not numbers (NaN or infinity): export it again")
    return np.clip(samples, -1.0, 1.0), rate_hz


def is_truncated(data: bytes) -> bool:
    """Whether the header of a WAV or AIFF promises more than there is, as after an upload that broke off."""
    try:
        with _ReadOnce(_File(data)) as sound:
            match = _PROMISED.search(sound.extra_info)
    except (soundfile.SoundFileError, ValueError, TypeError):
        return False
    return match is not None and int(match[2]) + _MISSING_BYTES < int(match[1]) < _STREAM_BYTES


def downmix(samples: Samples) -> Samples:
    """All channels in one; of channels that cancel each other, one of which has its wires crossed, the loudest alone.

    What does not cancel, such as hum in both, has to be 6 dB under the voice for that to show.
    """
    mixed: Samples = samples.mean(axis=1, dtype=np.float32)
    power = np.einsum("ij,ij->j", samples, samples, dtype=np.float64)
    if np.dot(mixed, mixed) < _CANCELLED * power.mean() / len(power):
        return np.ascontiguousarray(samples[:, power.argmax()])
    return mixed


class _ReadOnce(soundfile.SoundFile):  # type: ignore[misc]  # publishes no types
    """Read from its start only: else soundfile seeks after it has read, which at the end of a damaged or endless file fails."""

    def seekable(self) -> bool:
        return False


class _File(io.BytesIO):
    """An error in soundfile's callback would be printed: libsndfile asks damaged files for places before their start."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return -1


def _with_libsndfile(data: bytes, max_seconds: float) -> tuple[Samples, int]:
    try:
        with _ReadOnce(_File(data)) as sound:
            rate_hz, channels = int(sound.samplerate), int(sound.channels)
            _check(rate_hz, channels)
            samples: Samples = sound.read(min(int(max_seconds * rate_hz), MAX_SAMPLES // channels), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, ValueError, TypeError) as exc:  # TypeError: headerless RAW is guessed
        raise ReferenceInvalid(_UNREADABLE) from exc
    return samples, rate_hz


def _with_ffmpeg(data: bytes, container: str, max_seconds: float) -> tuple[Samples, int]:
    command = [sys.executable, "-m", "f5_worker.av_decode", container, str(max_seconds), str(MAX_SAMPLES)]
    try:
        # Only what Python needs to find its modules: a parser that was taken over finds no keys here.
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command, input=data, capture_output=True, timeout=_FFMPEG_TIMEOUT_S, check=True, env={"PYTHONPATH": os.pathsep.join(sys.path)}
        )
    except subprocess.SubprocessError as exc:
        raise ReferenceInvalid(_UNREADABLE) from exc
    head, _, body = done.stdout.partition(b"\n")
    rate_hz, channels = map(int, head.split())
    _check(rate_hz, channels)
    return np.frombuffer(body, dtype=np.float32).reshape(-1, channels), rate_hz


def _ffmpeg_container(data: bytes) -> str | None:
    """FFmpeg's name of a container that libsndfile cannot read. FFmpeg itself is never let guess: some of its formats open other files."""
    if data[4:8] == b"ftyp":
        return "mov"
    if data.startswith(_EBML):
        return "matroska"
    adts = data[0] == 0xFF and len(data) > 1 and data[1] & 0xF6 == 0xF0
    return "aac" if adts else None


def _check(rate_hz: int, channels: int) -> None:
    if not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1] or not 1 <= channels <= _MAX_CHANNELS:
        raise ReferenceInvalid(f"the reference audio has {rate_hz} Hz and {channels} channels: send 8 to 192 kHz, mono or stereo")
