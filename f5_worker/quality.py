"""How good a recording is to clone a voice from: measured once, with a coded warning for what will be heard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from f5_worker.audio import Samples
from f5_worker.levels import levels_dbfs

Warnings = tuple[tuple[str, str], ...]  # (code, message)

_CLIPPED_LEVEL = 0.999
_MAX_CLIPPED_SHARE = 0.001
_QUIET_DBFS = -46.0  # raised to the model's level, the noise of such a recording is cloned too
_MIN_SNR_DB = 15.0
_MIN_BANDWIDTH_HZ = 6_000  # telephone speech ends at 3.4 kHz, wideband telephony at 7 kHz
_BAND_BELOW_PEAK_DB = 60.0  # speech reaches that far down at 8 kHz; what a resampler leaves above its edge is below -90 dB
_SPECTRUM_SAMPLES = 1_024  # bands of 23 Hz at 24 kHz
_DIGITAL_SILENCE_DBFS = -90.0  # of a noise gate: says nothing about the room


@dataclass(frozen=True)
class Quality:
    """What a reference recording is like. Everything but the first two describes the part that is used."""

    sample_rate_hz: int  # of the file
    clipped_share: float  # of the file's samples, 0 to 1
    seconds: float
    rms_dbfs: float
    snr_db: float  # estimate: the loud 5 % against the quiet 10 % of its 10 ms windows
    bandwidth_hz: int  # above it the spectrum lies 60 dB under its peak


def measure(samples: Samples, rate_hz: int, *, recorded: Samples, recorded_hz: int) -> Quality:
    """Measure the mono samples that are used of a recording, whose decoded samples are given too."""
    return Quality(
        sample_rate_hz=recorded_hz,
        clipped_share=float(np.mean(np.abs(recorded) >= _CLIPPED_LEVEL)),
        seconds=len(samples) / rate_hz,
        rms_dbfs=float(10.0 * np.log10(max(float(np.mean(np.square(samples))), 1e-20))),
        snr_db=_snr_db(samples, rate_hz),
        bandwidth_hz=_bandwidth_hz(samples, rate_hz),
    )


def warnings(quality: Quality) -> Warnings:
    """What of the quality will be heard in the cloned voice."""
    q = quality
    checks = (
        (q.rms_dbfs < _QUIET_DBFS, "REFERENCE_QUIET", f"the reference audio is very quiet ({q.rms_dbfs:.0f} dBFS)"),
        (q.snr_db < _MIN_SNR_DB, "REFERENCE_NOISY", f"the reference audio has noise ({q.snr_db:.0f} dB under the voice): it is cloned too"),
        (q.clipped_share > _MAX_CLIPPED_SHARE, "REFERENCE_CLIPPED",
         f"{q.clipped_share:.1%} of the reference audio is clipped: the voice may sound harsh"),
        (q.bandwidth_hz < _MIN_BANDWIDTH_HZ, "REFERENCE_NARROWBAND",
         f"the reference audio ends at {q.bandwidth_hz} Hz: the voice will sound muffled"),
    )  # fmt: skip
    return tuple((code, message) for found, code, message in checks if found)


def _snr_db(samples: Samples, rate_hz: int) -> float:
    levels = levels_dbfs(samples, rate_hz)
    audible = levels[levels > _DIGITAL_SILENCE_DBFS]
    if not len(audible):
        return 0.0
    quiet, loud = np.percentile(audible, [10, 95])
    return float(loud - quiet)


def _bandwidth_hz(samples: Samples, rate_hz: int) -> int:
    """The highest frequency whose power, averaged over the recording, is within 60 dB of the strongest."""
    padded = np.pad(samples, (0, -len(samples) % _SPECTRUM_SAMPLES)).reshape(-1, _SPECTRUM_SAMPLES)
    power = np.mean(np.square(np.abs(np.fft.rfft(padded * np.hanning(_SPECTRUM_SAMPLES)))), axis=0)
    present = np.flatnonzero(power > power.max() * 10.0 ** (-_BAND_BELOW_PEAK_DB / 10.0))
    return int(present[-1] * rate_hz / _SPECTRUM_SAMPLES) if len(present) else 0
