"""Joining waves: lengths, cross-fade, pauses and where each wave lies."""

from __future__ import annotations

import numpy as np
import pytest

from f5_worker.joined import Joined


def wave(length: int, value: float = 1.0) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.full(length, value, dtype=np.float32)


def joined(fade: int, *lengths: int) -> Joined:
    whole = Joined(fade)
    for length in lengths:
        whole.append(wave(length))
    return whole


def test_one_wave_is_left_as_it_is() -> None:
    whole = joined(10, 50)
    np.testing.assert_array_equal(whole.samples(), wave(50))
    assert whole.bounds == [(0, 50)]


def test_neighbours_overlap_by_the_fade_and_touch_in_its_middle() -> None:
    whole = joined(10, 100, 100, 100)
    assert len(whole.samples()) == 280
    assert whole.bounds == [(0, 95), (95, 185), (185, 280)]


def test_fade_keeps_the_power_of_unrelated_waves() -> None:
    noise = np.random.default_rng(0).standard_normal((2, 48_000)).astype(np.float32)
    whole = Joined(24_000)
    whole.append(noise[0])
    whole.append(noise[1])
    assert np.mean(np.square(whole.samples()[24_000:48_000])) == pytest.approx(1.0, abs=0.05)


def test_no_fade_is_plain_concatenation() -> None:
    assert joined(0, 10, 20).bounds == [(0, 10), (10, 30)]


def test_waves_shorter_than_the_fade_fade_over_their_length() -> None:
    whole = joined(100, 50, 20, 80)
    assert len(whole.samples()) == 110
    assert whole.bounds[-1][1] == 110


def test_pause_is_silence_without_a_fade() -> None:
    whole = Joined(10)
    whole.pause(5)
    whole.append(wave(20))
    whole.pause(30)
    whole.append(wave(20))
    whole.pause(7)
    assert whole.bounds == [(5, 25), (55, 75)]
    assert whole.samples().tolist() == [0] * 5 + [1] * 20 + [0] * 30 + [1] * 20 + [0] * 7


def test_caller_s_waves_are_not_changed() -> None:
    first, second = wave(20), wave(20)
    whole = Joined(10)
    whole.append(first)
    whole.append(second)
    np.testing.assert_array_equal(second, wave(20))


def test_nothing_joined_is_empty() -> None:
    assert len(Joined(10).samples()) == 0
