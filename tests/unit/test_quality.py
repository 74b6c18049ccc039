"""The quality report tells good recordings from bad ones."""

from __future__ import annotations

import numpy as np
import pytest

from f5_worker import audio, quality
from f5_worker.quality import Quality
from tests.sounds import Wave, silence, speech


def measured(samples: Wave, rate_hz: int = 24_000) -> Quality:
    used = audio.resample(samples, rate_hz, 24_000)
    return quality.measure(used, 24_000, recorded=samples, recorded_hz=rate_hz)


def codes(found: Quality) -> list[str]:
    return [code for code, _ in quality.warnings(found)]


def noise(seconds: float, level: float, seed: int = 0) -> Wave:
    return (level * np.random.default_rng(seed).normal(size=int(seconds * 24_000))).astype(np.float32)


def test_a_clean_recording_has_no_warning() -> None:
    found = measured(speech(5))
    assert codes(found) == []
    assert (found.seconds, found.sample_rate_hz, found.clipped_share) == (5.0, 24_000, 0.0)
    assert found.bandwidth_hz > 9_000
    assert found.snr_db > 20


@pytest.mark.parametrize("level", [0.002, 0.01, 0.05])
def test_the_noise_under_the_voice_is_estimated(level: float) -> None:
    paused = np.concatenate([speech(2), silence(0.5), speech(2)])
    loud_db = 20 * np.log10(np.sqrt(np.mean(np.square(speech(0.02)))))
    expected_db = loud_db - 20 * np.log10(level)
    assert measured(paused + noise(4.5, level)).snr_db == pytest.approx(expected_db, abs=4)


def test_a_noisy_recording_is_warned_about() -> None:
    assert "REFERENCE_NOISY" in codes(measured(speech(5) + noise(5, 0.08)))


def test_the_silence_of_a_noise_gate_hides_no_noise() -> None:
    noisy = speech(4) + noise(4, 0.08)
    assert "REFERENCE_NOISY" in codes(measured(np.concatenate([noisy, silence(2)])))


@pytest.mark.parametrize(("rate_hz", "warned"), [(8_000, True), (11_025, True), (16_000, False), (48_000, False)])
def test_the_bandwidth_is_that_of_the_sound(rate_hz: int, warned: bool) -> None:
    found = measured(speech(4, rate_hz), rate_hz)
    assert found.bandwidth_hz == pytest.approx(min(0.45 * rate_hz, 11_000), rel=0.15)
    assert ("REFERENCE_NARROWBAND" in codes(found)) == warned


def test_telephone_speech_in_a_file_of_a_high_rate_is_found_out() -> None:
    upsampled = audio.resample(speech(4, 8_000), 8_000, 48_000)
    found = measured(upsampled, 48_000)
    assert found.bandwidth_hz < 4_200
    assert codes(found) == ["REFERENCE_NARROWBAND"]


def test_a_quiet_and_a_clipped_recording_are_warned_about() -> None:
    assert codes(measured(0.005 * speech(4))) == ["REFERENCE_QUIET"]
    clipped = measured(np.clip(20 * speech(4), -1, 1))
    assert "REFERENCE_CLIPPED" in codes(clipped)
    assert clipped.clipped_share > 0.1


def test_every_value_is_a_plain_number_for_json() -> None:
    found = measured(speech(1))
    assert {type(value) for value in vars(found).values()} == {int, float}
    assert measured(silence(1)).snr_db == 0.0
