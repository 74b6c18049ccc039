"""What may be done to finished speech: long silences shortened, loudness set, tempo changed, ends faded. All of it off by default."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from f5_worker import audio
from f5_worker.audio import Samples
from f5_worker.levels import WINDOWS_PER_S, levels_dbfs

TRUE_PEAK_DBFS = -1.0  # EBU R 128
_SILENCE_DBFS = -50.0  # upstream's threshold for silence in its output
_STEP_S, _STEPS_PER_BLOCK = 0.1, 4  # ITU-R BS.1770: blocks of 400 ms that overlap by 75 %
_ABSOLUTE_GATE_LUFS, _RELATIVE_GATE_LU = -70.0, -10.0


def shorten_silences(samples: Samples, rate_hz: int, longest_s: float, start_s: float = math.inf, end_s: float = math.inf) -> Samples:
    """Cut the middle out of every silence longer than longest_s; of the one at the start than start_s, of that at the end than end_s."""
    silent = np.concatenate([[False], levels_dbfs(samples, rate_hz) < _SILENCE_DBFS, [False]])
    edges = np.flatnonzero(silent[1:] != silent[:-1]) * (rate_hz // WINDOWS_PER_S)
    keep = np.ones(len(samples), dtype=bool)
    for start, end in edges.reshape(-1, 2):
        longest = int(rate_hz * min(longest_s, start_s if start == 0 else math.inf, end_s if end >= len(samples) else math.inf))
        if end - start > longest:
            keep[start + longest // 2 : min(end, len(samples)) - (longest - longest // 2)] = False
    return samples[keep]


def time_stretch(samples: Samples, rate_hz: int, factor: float) -> Samples:
    """Speak `factor` times as fast at the same pitch: above 1 gives fewer samples, len(samples) / factor. Equal input, equal output.

    No peak is higher than the highest was, or than TRUE_PEAK_DBFS.
    """
    if factor == 1.0 or not len(samples):
        return samples
    stretch = importlib.import_module("python_stretch").Signalsmith.Stretch(seed=0)
    stretch.preset(1, rate_hz)
    stretch.setTimeFactor(factor)
    stretched: Samples = stretch.process(np.ascontiguousarray(samples[np.newaxis]))[0]
    limit, peak = max(_peak(samples), 10 ** (TRUE_PEAK_DBFS / 20)), _peak(stretched)
    return stretched * np.float32(limit / peak) if peak > limit else stretched


def fade_ends(samples: Samples, rate_hz: int, seconds: float, *, start: bool = True, end: bool = True) -> Samples:
    """Raised-cosine fade in and out, each over half of the samples at most."""
    length = min(int(seconds * rate_hz), len(samples) // 2)
    faded = samples.copy()
    ramp = (0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, length))).astype(np.float32)
    if start and length:
        faded[:length] *= ramp
    if end and length:
        faded[-length:] *= ramp[::-1]
    return faded


def set_loudness(samples: Samples, rate_hz: int, lufs: float) -> tuple[Samples, float]:
    """Scale to an integrated loudness, or to what is reached without a true peak over TRUE_PEAK_DBFS. Silence is left alone."""
    loudness = integrated_lufs(samples, rate_hz)
    if loudness == -math.inf:
        return samples, lufs
    gain_db = min(lufs - loudness, TRUE_PEAK_DBFS - true_peak_dbfs(samples, rate_hz))
    return samples * np.float32(10 ** (gain_db / 20)), loudness + gain_db


def true_peak_dbfs(samples: Samples, rate_hz: int) -> float:
    """The highest level, between the samples too: found at four times the rate, where what lies close to half the rate is filtered out."""
    peak = max(_peak(samples), _peak(audio.resample(samples, rate_hz, 4 * rate_hz)))
    return 20 * math.log10(max(peak, 1e-10))


def integrated_lufs(samples: Samples, rate_hz: int) -> float:
    """Gated loudness of mono samples by ITU-R BS.1770-4; minus infinity when nothing passes the gate.

    What is shorter than one block counts as one.
    """
    if not len(samples):
        return -math.inf
    squares = np.square(_k_weighted(samples, rate_hz))
    step = int(_STEP_S * rate_hz)
    if len(squares) < _STEPS_PER_BLOCK * step:
        powers = squares.mean(keepdims=True)
    else:
        steps = squares[: len(squares) // step * step].reshape(-1, step).mean(axis=1)
        powers = np.lib.stride_tricks.sliding_window_view(steps, _STEPS_PER_BLOCK).mean(axis=1)
    loud = powers[_lufs(powers) > _ABSOLUTE_GATE_LUFS]
    if not len(loud):
        return -math.inf
    gated = loud[_lufs(loud) > _lufs(loud.mean()) + _RELATIVE_GATE_LU]
    return float(_lufs(gated.mean()))


def _peak(samples: Samples) -> float:
    return float(np.abs(samples).max(initial=0.0))


def _lufs(power: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    return np.asarray(-0.691 + 10 * np.log10(np.maximum(power, 1e-20)))


def _k_weighted(samples: Samples, rate_hz: int) -> Samples:
    """The head's shelf and the ear's high pass of BS.1770, for any rate."""
    sosfilt = importlib.import_module("scipy.signal").sosfilt  # 0.5 s, only for those who ask for loudness

    k, q = math.tan(math.pi * 1681.974450955533 / rate_hz), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    middle, norm = high**0.4996667741545416, 1 + k / q + k * k
    shelf = [(high + middle * k / q + k * k) / norm, 2 * (k * k - high) / norm, (high - middle * k / q + k * k) / norm]
    shelf += [1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm]
    k, q = math.tan(math.pi * 38.13547087602444 / rate_hz), 0.5003270373238773
    norm = 1 + k / q + k * k
    high_pass = [1.0, -2.0, 1.0, 1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm]
    weighted: Samples = sosfilt([shelf, high_pass], samples)
    return weighted
