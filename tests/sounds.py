"""Recordings for tests, and files of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile

Wave = np.ndarray[Any, np.dtype[np.float32]]


def tone(seconds: float, rate_hz: int = 24_000, level: float = 0.3) -> Wave:
    return (level * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def speech(seconds: float, rate_hz: int = 24_000, level: float = 0.3) -> Wave:
    """A voice of 220 Hz with overtones, four syllables a second; loud at both ends; every second is like the first."""
    time_s = np.arange(rate_hz) / rate_hz
    wave = np.zeros(rate_hz)
    for overtone in range(1, int(0.45 * rate_hz / 220) + 1):
        wave += np.sin(2 * np.pi * 220 * overtone * time_s) / overtone
    second = level * wave / np.abs(wave).max() * (0.51 + 0.49 * np.cos(2 * np.pi * 4 * time_s))
    return np.resize(second.astype(np.float32), int(seconds * rate_hz))


def silence(seconds: float, rate_hz: int = 24_000) -> Wave:
    return np.zeros(int(seconds * rate_hz), dtype=np.float32)


def file_of(samples: Wave, rate_hz: int = 24_000, fmt: str = "WAV", subtype: str | None = None) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, samples, rate_hz, format=fmt, subtype=subtype)
    return data.getvalue()
