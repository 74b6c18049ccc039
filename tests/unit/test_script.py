"""From text to chunks and pauses."""

from __future__ import annotations

import pytest

from f5_worker.errors import RequestError, TextEmpty
from f5_worker.script import Chunk, plan


def test_chunk_says_the_spoken_and_keeps_the_written_text() -> None:
    assert plan("I paid $5.", 170).chunks == [Chunk("I paid five dollars.", "I paid $5.")]


def test_budget_counts_the_spoken_text() -> None:
    chunks = plan("It is 1,234,567 now. It was 7,654,321 then.", 100).chunks
    assert len(chunks) > 1
    assert all(len(chunk.spoken.encode()) <= 100 for chunk in chunks)
    assert chunks[0].written == "It is 1,234,567 now."


def test_without_normalisation_the_text_is_spoken_as_written() -> None:
    assert plan("I paid $5.", 170, normalize=False).chunks == [Chunk("I paid $5.", "I paid $5.")]


def test_pauses_stand_between_chunks_and_at_the_end() -> None:
    script = plan("[pause:1s]One. [pause:1.5s] Two.[pause:250ms][pause: 250 ms]\nThree. [pause:2s]", 170, tags=True)
    assert [(chunk.spoken, chunk.pause_before_s) for chunk in script.chunks] == [("One.", 1.0), ("Two.", 1.5), ("Three.", 0.5)]
    assert script.pause_after_s == 2.0


def test_tags_are_text_unless_they_are_allowed() -> None:
    assert [chunk.pause_before_s for chunk in plan("One. [pause:1s] Two.", 170).chunks] == [0.0]


def test_endless_pause_is_refused() -> None:
    with pytest.raises(RequestError, match="at most 30 s"):
        plan("One. [pause:31s] Two.", 170, tags=True)


def test_pauses_alone_are_nothing_to_speak() -> None:
    with pytest.raises(TextEmpty):
        plan("[pause:1s] ... [pause:1s]", 170, tags=True)


def test_digits_of_an_unknown_language_are_a_warning() -> None:
    assert [code for code, _ in plan("Das sind 5 und nicht 6.", 170).warnings] == ["NUMBERS_NOT_NORMALISED"]
    assert plan("These are 5 and not 6.", 170).warnings == []


def test_marks_without_a_word_are_never_a_chunk_of_their_own() -> None:
    chunks = plan("Hello there my friend. ... !!! *** --- Good bye.", 24).chunks
    assert all(any(char.isalnum() for char in chunk.spoken) for chunk in chunks)
