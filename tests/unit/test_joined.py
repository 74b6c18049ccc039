"""Joining waves: lengths, cross-fade, pauses and where each wave lies."""

from __future__ import annotations

import numpy as np
import pytest

from f5_worker.joined import Joined, matched, speech_rms

RATE_HZ = 24_000


def wave(length: int, value: float = 1.0) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.full(length, value, dtype=np.float32)


def joined(fade: int, *lengths: int) -> Joined:
    whole = Joined(fade)
    for length in lengths:
        whole.append(wave(length))
    return whole


def test_one_wave_is_left_as_it_is() -> None:
    whole = joined(10, 50)
    np.testing.assert_array_equal(whole.close(), wave(50))
    assert whole.bounds == [(0, 50)]


def test_neighbours_overlap_by_the_fade_and_touch_in_its_middle() -> None:
    whole = joined(10, 100, 100, 100)
    assert len(whole.close()) == 280
    assert whole.bounds == [(0, 95), (95, 185), (185, 280)]


def test_fade_keeps_the_power_of_unrelated_waves() -> None:
    noise = np.random.default_rng(0).standard_normal((2, 48_000)).astype(np.float32)
    whole = Joined(24_000)
    whole.append(noise[0])
    whole.append(noise[1])
    assert np.mean(np.square(whole.close()[24_000:48_000])) == pytest.approx(1.0, abs=0.05)


def test_no_fade_is_plain_concatenation() -> None:
    assert joined(0, 10, 20).bounds == [(0, 10), (10, 30)]


def test_waves_shorter_than_the_fade_fade_over_their_length() -> None:
    whole = joined(100, 50, 20, 80)
    assert len(whole.close()) == 110
    assert whole.bounds[-1][1] == 110


def test_pause_is_silence_without_a_fade() -> None:
    whole = Joined(10)
    whole.pause(5)
    whole.append(wave(20))
    whole.pause(30)
    whole.append(wave(20))
    whole.pause(7)
    assert whole.bounds == [(5, 25), (55, 75)]
    assert whole.close().tolist() == [0] * 5 + [1] * 20 + [0] * 30 + [1] * 20 + [0] * 7


def test_caller_s_waves_are_not_changed() -> None:
    first, second = wave(20), wave(20)
    whole = Joined(10)
    whole.append(first)
    whole.append(second)
    np.testing.assert_array_equal(second, wave(20))


def test_nothing_joined_is_empty() -> None:
    assert len(Joined(10).take()) == len(Joined(10).close()) == 0


LENGTHS = [(100,), (100, 100, 100), (100, 3, 3, 3, 100), (5, 5, 5), (400, 20, 400), (30, 100, 0, 50)]


@pytest.mark.parametrize("pauses", [(), (1,), (0, 2)])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("fade", [0, 1, 10, 60])
def test_pieces_that_are_taken_are_the_whole(lengths: tuple[int, ...], pauses: tuple[int, ...], fade: int) -> None:
    noise = np.random.default_rng(1)
    at_once, bit_by_bit, taken = Joined(fade), Joined(fade), []
    for index, length in enumerate(lengths):
        part = noise.standard_normal(length).astype(np.float32)
        for whole in (at_once, bit_by_bit):
            whole.pause(7 if index in pauses else 0)
            whole.append(part)
        taken.append(bit_by_bit.take())
    np.testing.assert_array_equal(np.concatenate([*taken, bit_by_bit.close()]), at_once.close())
    assert bit_by_bit.bounds == at_once.bounds


def test_only_the_next_fade_is_kept_of_what_was_taken() -> None:
    whole = Joined(50)
    for _ in range(100):
        whole.append(wave(10_000))
        whole.take()
        assert [(len(part), part.base) for part in whole._parts] == [(50, None)]  # a view would keep its whole wave


def test_after_a_pause_nothing_is_kept() -> None:
    whole = Joined(50)
    whole.append(wave(1_000))
    whole.pause(20)
    assert len(whole.take()) == 1_020
    assert whole._parts == []


def noise(seconds: float, rms: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (rms * np.random.default_rng(3).standard_normal(int(seconds * 24_000))).astype(np.float32)


def rms(wave: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    return float(np.sqrt(np.mean(np.square(wave))))


@pytest.mark.parametrize("own", [0.02, 0.05, 0.1, 0.19])
def test_wave_is_brought_to_the_loudness_of_another(own: float) -> None:
    assert rms(matched(noise(1, own), RATE_HZ, speech_rms(noise(1, 0.05), RATE_HZ))) == pytest.approx(0.05, rel=0.01)


def test_wave_that_matches_is_not_touched() -> None:
    np.testing.assert_array_equal(matched(noise(1, 0.05), RATE_HZ, speech_rms(noise(1, 0.05), RATE_HZ)), noise(1, 0.05))


def test_pauses_inside_a_wave_do_not_count_as_quiet_speech() -> None:
    gaps = np.concatenate([noise(1, 0.05), np.zeros(24_000, np.float32), noise(1, 0.05)])
    assert speech_rms(gaps, RATE_HZ) == pytest.approx(0.05, rel=0.01)


def test_match_has_limits_and_never_clips() -> None:
    assert rms(matched(noise(1, 0.001), RATE_HZ, 0.2)) == pytest.approx(0.004, rel=0.01)
    assert rms(matched(noise(1, 0.2), RATE_HZ, 0.001)) == pytest.approx(0.05, rel=0.01)
    click = noise(1, 0.02)
    click[100] = 0.8
    assert np.abs(matched(click, RATE_HZ, 0.2)).max() == pytest.approx(0.891, rel=1e-3)


def test_silence_matches_nothing_and_nothing_matches_silence() -> None:
    silence = np.zeros(24_000, np.float32)
    np.testing.assert_array_equal(matched(silence, RATE_HZ, 0.1), silence)
    np.testing.assert_array_equal(matched(noise(1, 0.1), RATE_HZ, speech_rms(silence, RATE_HZ)), noise(1, 0.1))
    assert speech_rms(np.zeros(10, np.float32), RATE_HZ) == 0.0
