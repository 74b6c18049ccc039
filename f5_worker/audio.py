"""Samples to bytes in the formats that clients ask for."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Samples = npt.NDArray[np.float32]

CONTENT_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "pcm": "audio/L16",  # little-endian here, as every consumer of raw PCM expects
}
_SOUNDFILE = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}
_PIECE_FRAMES = 65_536  # libsndfile's opus and mp3 encoders overflow the stack when they get minutes of audio in one call


def encode(samples: Samples, sample_rate_hz: int, fmt: str = "wav") -> bytes:
    """Mono float samples as one file of the format; values outside [-1, 1] are clipped.

    The same samples give the same bytes, except for opus, whose stream carries a random serial number.

    Raises:
        KeyError: fmt is not one of CONTENT_TYPES.
    """
    clipped = np.clip(samples, -1.0, 1.0)
    if fmt == "pcm":
        return np.round(clipped * 32767.0).astype("<i2").tobytes()
    container, subtype = _SOUNDFILE[fmt]
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", sample_rate_hz, 1, subtype, format=container) as sound:
        for start in range(0, len(clipped), _PIECE_FRAMES):
            sound.write(clipped[start : start + _PIECE_FRAMES])
    return file.getvalue()


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Band-limited sample-rate conversion (soxr, high quality) along the first axis."""
    if from_hz == to_hz:
        return samples
    converted: Samples = soxr.resample(samples, from_hz, to_hz, quality="HQ")
    return converted
