"""Post-processing by the numbers of the standards it names."""

from __future__ import annotations

import math

import numpy as np
import pytest

from f5_worker import post

RATE_HZ = 24_000


def tone(seconds: float, dbfs: float = 0.0, hz: float = 997.0, rate_hz: int = RATE_HZ) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (10 ** (dbfs / 20) * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def silence(seconds: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.zeros(int(seconds * RATE_HZ), dtype=np.float32)


@pytest.mark.parametrize("rate_hz", [24_000, 48_000])
def test_a_997_hz_tone_of_one_channel_measures_3_lu_below_its_peak(rate_hz: int) -> None:
    assert post.integrated_lufs(tone(5, rate_hz=rate_hz), rate_hz) == pytest.approx(-3.01, abs=0.05)
    assert post.integrated_lufs(tone(5, -20, rate_hz=rate_hz), rate_hz) == pytest.approx(-23.01, abs=0.05)


def test_silence_between_speech_does_not_count() -> None:
    alone, with_pause = tone(5, -20), np.concatenate([tone(5, -20), silence(20), tone(5, -20)])
    assert post.integrated_lufs(with_pause, RATE_HZ) == pytest.approx(post.integrated_lufs(alone, RATE_HZ), abs=0.3)


def test_loudness_is_set() -> None:
    assert post.integrated_lufs(post.set_loudness(tone(5, -40), RATE_HZ, -16), RATE_HZ) == pytest.approx(-16, abs=0.1)


def test_true_peak_limits_the_gain() -> None:
    spiky = tone(5, -40)
    spiky[60_000] = 0.9
    assert post.true_peak_dbfs(post.set_loudness(spiky, RATE_HZ, -10), RATE_HZ) == pytest.approx(post.TRUE_PEAK_DBFS, abs=0.05)


def test_true_peak_lies_between_the_samples() -> None:
    between = np.tile(np.array([1, 1, -1, -1], dtype=np.float32) * np.float32(0.5), 6_000)  # a quarter of the rate, sampled at 45 degrees
    assert post.true_peak_dbfs(between, RATE_HZ) > 20 * math.log10(0.5) + 2.5


@pytest.mark.parametrize("samples", [silence(1), silence(0), silence(0.01)], ids=["second", "none", "moment"])
def test_silence_is_left_alone(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    np.testing.assert_array_equal(post.set_loudness(samples, RATE_HZ, -16), samples)


def test_long_silences_are_shortened_and_bounds_move_along() -> None:
    samples = np.concatenate([tone(1), silence(3), tone(1), silence(0.3), tone(1)])
    bounds = [(0, 96_000), (96_000, len(samples))]
    short, moved = post.shorten_silences(samples, RATE_HZ, bounds, 0.5)
    assert len(short) / RATE_HZ == pytest.approx(3.8, abs=0.03)
    assert moved[0][1] == moved[1][0]
    assert moved[-1][1] == len(short)
    np.testing.assert_allclose(short[moved[1][0] : moved[1][0] + RATE_HZ], tone(1), atol=1e-6)


def test_speech_without_long_silences_is_left_as_it_is() -> None:
    samples = np.concatenate([tone(1), silence(0.3), tone(1)])
    short, moved = post.shorten_silences(samples, RATE_HZ, [(0, len(samples))], 0.5)
    np.testing.assert_array_equal(short, samples)
    assert moved == [(0, len(samples))]


def test_ends_are_faded_and_the_middle_is_not() -> None:
    ones = np.ones(2_400, dtype=np.float32)
    faded = post.fade_ends(ones, RATE_HZ, 0.01)
    assert (faded[0], faded[-1]) == (0, 0)
    np.testing.assert_array_equal(faded[240:-240], ones[240:-240])
    assert ones[0] == 1
    assert len(post.fade_ends(ones[:3], RATE_HZ, 0.01)) == 3
