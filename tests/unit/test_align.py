"""The parts of alignment that need no network: the path, and the words that the tokens spell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from f5_worker.align import _timed, _Word, monotonic_starts, spell
from f5_worker.manifest import load_transcriber
from f5_worker.whisper_tokens import Tokens, load_tokens
from tests.growth import assert_linear


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return load_tokens(load_transcriber().languages)


@pytest.mark.parametrize(("count", "frames"), [(1, 1), (1, 6), (2, 2), (3, 7), (4, 4), (5, 9)])
def test_the_path_is_the_best_of_all_that_there_are(count: int, frames: int) -> None:
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(size=(count, frames))
        paths = [(0, *cuts) for cuts in itertools.combinations(range(1, frames), count - 1)]

        def total(starts: tuple[int, ...], scores: np.ndarray = scores, frames: int = frames) -> float:
            ends = (*starts[1:], frames)
            return sum(scores[token, start:end].sum() for token, (start, end) in enumerate(zip(starts, ends, strict=True)))

        assert tuple(monotonic_starts(scores)) == max(paths, key=total)


def test_a_drawn_attention_is_followed() -> None:
    scores = np.full((3, 30), -1.0)
    scores[0, 0:10] = scores[1, 10:13] = scores[2, 13:30] = 1.0
    assert monotonic_starts(scores).tolist() == [0, 10, 13]


def test_the_work_of_the_path_grows_with_the_sound() -> None:
    scores = np.random.default_rng(0).normal(size=(100, 1500))
    assert_linear(lambda frames: monotonic_starts(scores[:, :frames]), 1500)


# loud 10 ms windows, where the first of two words ends, expected times
EDGES = {
    "touching words": (range(10, 100), 0.5, [(0.1, 0.5), (0.5, 1.0)]),
    "the silence between is nobody's": ([*range(10, 40), *range(70, 100)], 0.6, [(0.1, 0.4), (0.7, 1.0)]),
    "a bit of the next word is not the first's": ([*range(10, 40), *range(70, 100)], 0.78, [(0.1, 0.4), (0.78, 1.0)]),
    "a bit of the word before is not the second's": ([*range(10, 40), *range(70, 100)], 0.34, [(0.1, 0.34), (0.7, 1.0)]),
    "a plosive after a short closure stays": ([*range(10, 40), *range(46, 50), *range(70, 100)], 0.6, [(0.1, 0.5), (0.7, 1.0)]),
    "a word in silence keeps what attention says": (range(10, 40), 0.5, [(0.1, 0.4), (0.5, 1.2)]),
}


@pytest.mark.parametrize("case", EDGES)
def test_a_word_begins_and_ends_with_sound_of_its_own(case: str) -> None:
    loud, second_starts_s, expected = EDGES[case]
    timed = _timed([_Word(0, 2, 1), _Word(3, 5, 1)], np.array([0.0, second_starts_s, 1.3]), list(loud), 1.2)
    assert [(w.start_s, w.end_s) for w in timed] == expected


WORDS = {
    "plain": ("Hello there, friend.", ["Hello", "there,", "friend."]),
    "contractions and numbers": ("I don't pay $3.50 a day", ["I", "don't", "pay", "$3.50", "a", "day"]),
    "white space": ("\n one\t two \u3000three ", ["one", "two", "three"]),
    "a dash of its own belongs to the word before": ("yes \u2014 no ...", ["yes \u2014", "no ..."]),
    "a dash comes first": ("\u2014 yes", ["\u2014", "yes"]),
    "quotes": ("\u201cOh!\u201d he said", ["\u201cOh!\u201d", "he", "said"]),
    "Arabic": ("\u0645\u0631\u062d\u0628\u0627 \u0628\u0643\u061f", ["\u0645\u0631\u062d\u0628\u0627", "\u0628\u0643\u061f"]),
    "Korean is written with spaces": ("\uc548\ub155 \uc138\uacc4", ["\uc548\ub155", "\uc138\uacc4"]),
    "one word of many scripts": ("na\u00efve\U0001f600caf\u00e9", ["na\u00efve\U0001f600caf\u00e9"]),
    "only punctuation": ("...", ["..."]),
    "nothing": (" \n", []),
}


@pytest.mark.parametrize("case", WORDS)
def test_words_are_what_spaces_part(case: str, tokens: Tokens) -> None:
    text, expected = WORDS[case]
    _, words = spell(text, tokens)
    assert [text[w.start : w.end] for w in words] == expected


UNSPACED = {
    "Chinese": "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "Chinese with quotes": "\u4ed6\u8bf4\uff1a\u300c\u4f60\u597d\u300d\u3002",
    "Japanese": "\u3053\u3093\u306b\u3061\u306f\u3001\u5143\u6c17\u3067\u3059\u304b\uff1f",
    "Thai": "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e04\u0e23\u0e31\u0e1a",
    "Burmese": "\u1019\u1004\u103a\u1039\u1002\u101c\u102c\u1015\u102b",
    "mixed": "\u6211\u7528 Python 3.11 \u5199code\u3002",
    "rare characters of several tokens": "\U00020bb7\U00029e3d\U0001f469\u200d\U0001f467",
}


@pytest.mark.parametrize("case", UNSPACED)
def test_words_of_scripts_without_spaces_are_whole_characters_and_no_lone_punctuation(case: str, tokens: Tokens) -> None:
    text = UNSPACED[case]
    spelling, words = spell(text, tokens)
    parts = [text[w.start : w.end] for w in words]
    assert "".join(parts) == "".join(text.split())
    assert len(words) > 1 or case.startswith("rare")
    assert all(any(char.isalnum() for char in part) for part in parts) or case.startswith("rare")
    assert sum(w.tokens for w in words) == len(spelling)


@pytest.mark.parametrize("text", [case[0] for case in WORDS.values()] + list(UNSPACED.values()))
def test_every_token_belongs_to_one_word_and_the_tokens_spell_the_text(text: str, tokens: Tokens) -> None:
    spelling, words = spell(text, tokens)
    assert sum(w.tokens for w in words) == len(spelling)
    assert "".join(tokens.decode(spelling).split()) == "".join(text.split())
    edges = [edge for w in words for edge in (w.start, w.end)]
    assert edges == sorted(edges)
