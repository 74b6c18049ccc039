"""Loudness over time, in windows of 10 ms: what trimming, cutting and aligning look at."""

from __future__ import annotations

import numpy as np

from f5_worker.audio import Samples

WINDOWS_PER_S = 100
SILENCE_DBFS = -60.0  # nothing louder than this: not a recording of a voice
_EDGE_DBFS = -42.0  # upstream's threshold for trimming the edges
_EDGE_BELOW_PEAK_DB = 30.0  # of a quiet recording only what is this far below its loudest window counts as silence
_FLOOR = 1e-10  # -200 dBFS stands for digital silence
_CUT_WINDOWS = 10  # a cut lies in the middle of the quietest 100 ms: the closure of a plosive is shorter


def levels_dbfs(samples: Samples, rate_hz: int) -> Samples:
    """Loudness of every 10 ms window; what is left over at the end counts as one window."""
    window = rate_hz // WINDOWS_PER_S
    padded = np.pad(samples, (0, -len(samples) % window)).reshape(-1, window)
    levels: Samples = 20.0 * np.log10(np.maximum(np.sqrt(np.mean(np.square(padded), axis=1)), _FLOOR))
    return levels


def loud_windows(samples: Samples, rate_hz: int) -> list[int]:
    """The 10 ms windows that hold sound; none when all is silent."""
    levels = levels_dbfs(samples, rate_hz)
    if not len(levels) or levels.max() < SILENCE_DBFS:
        return []
    loud: list[int] = np.flatnonzero(levels > min(_EDGE_DBFS, float(levels.max()) - _EDGE_BELOW_PEAK_DB)).tolist()
    return loud


def quietest_cut(samples: Samples, rate_hz: int, *, from_s: float, to_s: float) -> int:
    """The sample between the two times where cutting hurts least: in the quietest 100 ms, the latest of equals."""
    first = int(from_s * WINDOWS_PER_S)
    levels = levels_dbfs(samples[: int(to_s * rate_hz)], rate_hz)[first:]
    power = np.convolve(np.power(10.0, levels / 10.0), np.ones(_CUT_WINDOWS), mode="valid")
    quietest = len(power) - 1 - int(np.argmin(power[::-1]))
    return (first + quietest + _CUT_WINDOWS // 2) * (rate_hz // WINDOWS_PER_S)
