"""Encoding: every format is what its content type says and holds the samples."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from f5_worker import audio

RATE_HZ = 24_000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)
MAGIC = {"wav": b"RIFF", "flac": b"fLaC", "opus": b"OggS"}


def test_wav_is_16_bit_pcm_with_the_samples() -> None:
    data = audio.encode(TONE, RATE_HZ)
    samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    assert soundfile.info(io.BytesIO(data)).subtype == "PCM_16"
    assert rate_hz == RATE_HZ
    np.testing.assert_allclose(samples, TONE, atol=1 / 32_000)


@pytest.mark.parametrize("fmt", sorted(audio.CONTENT_TYPES))
def test_every_format_keeps_the_tone(fmt: str) -> None:
    data = audio.encode(TONE, RATE_HZ, fmt)
    raw = {"samplerate": RATE_HZ, "channels": 1, "subtype": "PCM_16", "endian": "LITTLE", "format": "RAW"} if fmt == "pcm" else {}
    samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", **raw)
    spectrum = np.abs(np.fft.rfft(samples))
    assert data.startswith(MAGIC.get(fmt, b""))
    assert len(samples) / rate_hz == pytest.approx(1.0, abs=0.1)
    assert int(np.argmax(spectrum)) * rate_hz / len(samples) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("fmt", ["wav", "flac", "mp3", "pcm"])
def test_same_samples_give_the_same_bytes(fmt: str) -> None:
    assert audio.encode(TONE, RATE_HZ, fmt) == audio.encode(TONE, RATE_HZ, fmt)


@pytest.mark.parametrize("fmt", ["wav", "pcm"])
def test_samples_outside_the_range_are_clipped_not_wrapped(fmt: str) -> None:
    data = audio.encode(np.array([2.0, -2.0, 0.0], dtype=np.float32), RATE_HZ, fmt)[-6:]
    first, second, third = np.frombuffer(data, dtype="<i2")
    assert (first > 32_000, second < -32_000, third) == (True, True, 0)


@pytest.mark.parametrize("fmt", sorted(audio.CONTENT_TYPES))
def test_minutes_of_audio_are_encoded(fmt: str) -> None:
    assert len(audio.encode(np.tile(TONE, 180), RATE_HZ, fmt)) > 100_000


@pytest.mark.parametrize("fmt", ["wav", "flac", "pcm"])
def test_no_samples_give_an_empty_file(fmt: str) -> None:
    assert len(audio.encode(np.zeros(0, dtype=np.float32), RATE_HZ, fmt)) < 200


def test_resampling_keeps_pitch_and_length() -> None:
    half = audio.resample(TONE, RATE_HZ, 12_000)
    assert half.dtype == np.float32
    assert len(half) == 12_000
    assert int(np.argmax(np.abs(np.fft.rfft(half)))) == 440
    assert audio.resample(TONE, RATE_HZ, RATE_HZ) is TONE
