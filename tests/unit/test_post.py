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
    assert post.integrated_lufs(post.set_loudness(tone(5, -40), RATE_HZ, -16)[0], RATE_HZ) == pytest.approx(-16, abs=0.1)


def test_true_peak_limits_the_gain() -> None:
    spiky = tone(5, -40)
    spiky[60_000] = 0.9
    assert post.true_peak_dbfs(post.set_loudness(spiky, RATE_HZ, -10)[0], RATE_HZ) == pytest.approx(post.TRUE_PEAK_DBFS, abs=0.05)


def test_loudness_that_was_reached_is_told() -> None:
    spiky = tone(5, -40)
    spiky[60_000] = 0.9
    for wave, lufs in ((tone(5, -40), -16), (spiky, -10)):
        loud, reached = post.set_loudness(wave, RATE_HZ, lufs)
        assert reached == pytest.approx(post.integrated_lufs(loud, RATE_HZ), abs=0.05)
    assert reached < -30


def test_true_peak_lies_between_the_samples() -> None:
    between = np.tile(np.array([1, 1, -1, -1], dtype=np.float32) * np.float32(0.5), 6_000)  # a quarter of the rate, sampled at 45 degrees
    assert post.true_peak_dbfs(between, RATE_HZ) > 20 * math.log10(0.5) + 2.5


def test_true_peak_is_never_below_the_samples() -> None:
    shrill = (np.tile([0.01, -0.01], 12_000) * np.hanning(24_000)).astype(np.float32)  # at half the rate, which oversampling filters out
    assert post.true_peak_dbfs(shrill, RATE_HZ) == pytest.approx(-40, abs=0.01)
    assert np.abs(post.set_loudness(shrill, RATE_HZ, 0)[0]).max() <= 10 ** (post.TRUE_PEAK_DBFS / 20) + 1e-4


@pytest.mark.parametrize("lufs", [-40, -23, -16, -5, 0])
def test_true_peak_stays_below_the_limit_at_any_target(lufs: float) -> None:
    wave = np.random.default_rng(0).standard_normal(3 * RATE_HZ).astype(np.float32) * np.linspace(0, 0.5, 3 * RATE_HZ, dtype=np.float32)
    loud, _ = post.set_loudness(wave, RATE_HZ, lufs)
    assert loud.dtype == np.float32
    assert post.true_peak_dbfs(loud, RATE_HZ) <= post.TRUE_PEAK_DBFS + 0.01


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.25, 0.39])
def test_loudness_of_what_is_shorter_than_a_block_is_its_own(seconds: float) -> None:
    """A word of 0.1 s measured over 0.4 s would be made 6 dB too loud."""
    assert post.integrated_lufs(tone(seconds, -20), RATE_HZ) == pytest.approx(-23.01, abs=1.0)


@pytest.mark.parametrize("samples", [silence(1), silence(0), silence(0.01)], ids=["second", "none", "moment"])
def test_silence_is_left_alone(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    unchanged, reached = post.set_loudness(samples, RATE_HZ, -16)
    np.testing.assert_array_equal(unchanged, samples)
    assert reached == -16


def test_long_silences_are_shortened() -> None:
    samples = np.concatenate([tone(1), silence(3), tone(1), silence(0.3), tone(1)])
    short = post.shorten_silences(samples, RATE_HZ, 0.5)
    assert len(short) / RATE_HZ == pytest.approx(3.8, abs=0.03)
    np.testing.assert_allclose(short[36_000 : 36_000 + RATE_HZ], tone(1), atol=1e-6)


def test_speech_without_long_silences_is_left_as_it_is() -> None:
    samples = np.concatenate([tone(1), silence(0.3), tone(1)])
    np.testing.assert_array_equal(post.shorten_silences(samples, RATE_HZ, 0.5), samples)


def test_silence_at_the_ends_is_shortened_too() -> None:
    samples = np.concatenate([silence(2), tone(1), silence(2.003)])
    assert len(post.shorten_silences(samples, RATE_HZ, 0.5)) / RATE_HZ == pytest.approx(2.0, abs=0.03)
    assert len(post.shorten_silences(silence(0), RATE_HZ, 0.5)) == 0


def test_silence_at_the_ends_has_a_limit_of_its_own() -> None:
    samples = np.concatenate([silence(2), tone(1), silence(2), tone(1), silence(2)])
    short = post.shorten_silences(samples, RATE_HZ, 0.5, start_s=0.3, end_s=0.1)
    assert len(short) / RATE_HZ == pytest.approx(0.3 + 1 + 0.5 + 1 + 0.1, abs=0.03)
    assert len(post.shorten_silences(silence(2), RATE_HZ, 0.5, start_s=0.3, end_s=0.1)) / RATE_HZ == pytest.approx(0.1, abs=0.03)


def peak_hz(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))))) * RATE_HZ / len(samples)


@pytest.mark.parametrize("factor", [0.35, 0.5, 0.7, 0.9, 1.1, 1.3, 2.0, 4.0])
def test_a_speed_above_one_is_shorter_at_the_same_pitch(factor: float) -> None:
    stretched = post.time_stretch(tone(4, -10, 220), RATE_HZ, factor)
    assert stretched.dtype == np.float32
    assert len(stretched) == pytest.approx(4 * RATE_HZ / factor, rel=0.01)
    assert peak_hz(stretched) == pytest.approx(220, abs=220 * 0.01)
    assert np.sqrt(np.mean(np.square(stretched))) == pytest.approx(np.sqrt(np.mean(np.square(tone(4, -10, 220)))), rel=0.1)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
@pytest.mark.parametrize("peak", [0.5, 0.99, 1.2])
def test_stretching_makes_no_peak_that_clips(factor: float, peak: float) -> None:
    noise = np.random.default_rng(2).uniform(-peak, peak, 2 * RATE_HZ).astype(np.float32)
    limit = max(np.abs(noise).max(), 10 ** (post.TRUE_PEAK_DBFS / 20))
    assert np.abs(post.time_stretch(noise, RATE_HZ, factor)).max() <= limit * 1.0001


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_stretched_events_keep_their_order_and_place(factor: float) -> None:
    samples = np.concatenate([silence(1), tone(0.5, -10, 220), silence(1), tone(0.5, -10, 880), silence(1)])
    stretched = post.time_stretch(samples, RATE_HZ, factor)
    for at_s, hz in ((1.25, 220), (2.75, 880)):
        middle, half = int(at_s / factor * RATE_HZ), int(0.1 / factor * RATE_HZ)
        assert peak_hz(stretched[middle - half : middle + half]) == pytest.approx(hz, rel=0.05)
    for at_s in (0.5, 2.0, 3.5):
        middle = int(at_s / factor * RATE_HZ)
        assert np.abs(stretched[middle - 1_000 : middle + 1_000]).max() < 0.03


@pytest.mark.parametrize("factor", [0.35, 1.7])
def test_stretching_gives_the_same_samples_again(factor: float) -> None:
    noise = np.random.default_rng(0).standard_normal(2 * RATE_HZ).astype(np.float32) * np.float32(0.1)
    np.testing.assert_array_equal(post.time_stretch(noise, RATE_HZ, factor), post.time_stretch(noise, RATE_HZ, factor))


@pytest.mark.parametrize("count", [0, 1, 2, 100, 1_000, 3_000])
@pytest.mark.parametrize("factor", [0.25, 1.5, 4.0])
def test_the_shortest_speech_can_be_stretched(count: int, factor: float) -> None:
    stretched = post.time_stretch(tone(1)[:count], RATE_HZ, factor)
    assert len(stretched) == pytest.approx(count / factor, abs=1)
    assert np.isfinite(stretched).all()
    assert np.abs(stretched).max(initial=0) < 2


def test_speed_one_changes_nothing() -> None:
    samples = tone(1)
    assert post.time_stretch(samples, RATE_HZ, 1.0) is samples


def test_ends_are_faded_and_the_middle_is_not() -> None:
    ones = np.ones(2_400, dtype=np.float32)
    faded = post.fade_ends(ones, RATE_HZ, 0.01)
    assert (faded[0], faded[-1]) == (0, 0)
    np.testing.assert_array_equal(faded[240:-240], ones[240:-240])
    assert ones[0] == 1
    assert len(post.fade_ends(ones[:3], RATE_HZ, 0.01)) == 3
