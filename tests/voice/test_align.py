"""Alignment on a Whisper that has learned to look at the word that it writes: the times are known."""

from __future__ import annotations

import numpy as np
import pytest

from f5_worker.align import align
from f5_worker.errors import RequestError
from f5_worker.transcribe import Transcriber
from tests.fakes.tiny_whisper import RATE_HZ, UTTERANCES, Utterance, sound

TOLERANCE_S = 0.05


@pytest.mark.parametrize("utterance", UTTERANCES, ids=lambda u: u.text)
@pytest.mark.parametrize("rate_hz", [16_000, 24_000])
def test_every_word_is_found_where_it_is_said(transcriber: Transcriber, utterance: Utterance, rate_hz: int) -> None:
    words = align(transcriber, sound(utterance, rate_hz=rate_hz), rate_hz, utterance.text)
    assert [utterance.text[w.start : w.end] for w in words] == [word for word, _, _ in utterance.words]
    assert [(w.start_s, w.end_s) for w in words] == [pytest.approx((start, end), abs=TOLERANCE_S) for _, start, end in utterance.words]


def test_offsets_are_those_of_the_text_as_it_was_given(transcriber: Transcriber) -> None:
    text = "  one \n\t two three"
    words = align(transcriber, sound(UTTERANCES[0]), RATE_HZ, text, language="en")
    assert [(text[w.start : w.end], w.start) for w in words] == [("one", 2), ("two", 9), ("three", 13)]


def test_times_stay_within_a_recording_that_ends_early_and_never_go_back(transcriber: Transcriber) -> None:
    short = sound(UTTERANCES[0])[: int(1.3 * RATE_HZ)]
    words = align(transcriber, short, RATE_HZ, UTTERANCES[0].text)
    edges = [edge for w in words for edge in (w.start_s, w.end_s)]
    assert len(words) == 3
    assert edges == sorted(edges)
    assert edges[-1] <= 1.3


@pytest.mark.parametrize("utterance", UTTERANCES, ids=lambda u: u.text)
@pytest.mark.parametrize("moved_s", [-0.08, 0.08])
def test_the_times_come_from_the_sound(transcriber: Transcriber, utterance: Utterance, moved_s: float) -> None:
    """The same text over the same recording, begun earlier or later."""
    words = align(transcriber, np.roll(sound(utterance), round(moved_s * RATE_HZ)), RATE_HZ, utterance.text)
    expected = [pytest.approx((start + moved_s, end + moved_s), abs=TOLERANCE_S) for _, start, end in utterance.words]
    assert [(w.start_s, w.end_s) for w in words] == expected


CANNOT = {
    "no text": ("", 0.0, 3.0),
    "blank": (" \n ", 0.0, 3.0),
    "more sound than a window": ("one two three", 0.0, 3.5),
    "more text than the model holds": ("one " * 60, 0.0, 3.0),
    "more text than sound": ("one two three one two three", 0.3, 0.4),
    "no sound": ("one", 0.0, 0.0),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_cannot_be_aligned_gives_no_words(case: str, transcriber: Transcriber) -> None:
    text, start_s, end_s = CANNOT[case]
    samples = sound(UTTERANCES[0], seconds=4.0)[int(start_s * RATE_HZ) : int(end_s * RATE_HZ)]
    assert align(transcriber, samples, RATE_HZ, text) == []


def test_silence_gives_no_words(transcriber: Transcriber) -> None:
    assert align(transcriber, np.zeros(RATE_HZ, dtype=np.float32), RATE_HZ, "one two") == []


def test_an_unknown_language_is_refused(transcriber: Transcriber) -> None:
    with pytest.raises(RequestError, match="language"):
        align(transcriber, sound(UTTERANCES[0]), RATE_HZ, "one", language="tlh")
