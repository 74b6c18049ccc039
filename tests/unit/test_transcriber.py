"""A Transcriber around a stand-in for the network: what it asks for, when, and what it says when it cannot have it."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from f5_worker import transcribe
from f5_worker.backend import Backend
from f5_worker.errors import Cancelled, RequestError, TranscriberUnavailable
from f5_worker.manifest import PinnedFile, load_transcriber
from f5_worker.transcribe import Transcriber, Transcript
from tests.sounds import Wave, silence, speech

SPEC = load_transcriber()
RATE_HZ = 24_000
LONG = np.concatenate([speech(2.5), silence(0.2), speech(2.3), silence(0.2), speech(1)])  # three windows


class FakeTokens:
    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))


@dataclass
class FakeWhisper:
    """Hears windows of 3 s; every window says ` w`."""

    built: list[FakeWhisper]
    window_s: int = 3
    tokens: FakeTokens = field(default_factory=FakeTokens)
    loaded: list[tuple[Path, Backend]] = field(default_factory=list)
    heard_s: list[float] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    detected: int = 0

    def load(self, weights: Path, backend: Backend) -> None:
        self.loaded.append((weights, backend))

    def listen(self, samples: Wave, rate_hz: int) -> Wave:
        self.heard_s.append(len(samples) / rate_hz)
        return samples

    def detect_language(self, heard: Wave) -> str:
        self.detected += 1
        return "fr"

    def recognise(self, heard: Wave, language: str) -> list[int]:
        self.languages.append(language)
        return [ord(" "), ord("w")]


@dataclass
class Weights:
    """The restore of a Transcriber; fails while `failing`."""

    failing: bool = False
    asked: int = 0

    def restore(self, files: Sequence[PinnedFile]) -> Mapping[PinnedFile, Path]:
        self.asked += 1
        if self.failing:
            raise TranscriberUnavailable("no weights")
        return {file: Path("/weights") for file in files}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[FakeWhisper]:
    """Every stand-in that was built."""
    made: list[FakeWhisper] = []

    def build(spec: object) -> FakeWhisper:
        assert spec is SPEC
        made.append(FakeWhisper(made))
        return made[-1]

    monkeypatch.setattr("f5_worker.whisper_model.Whisper", build)
    return made


@pytest.fixture
def weights() -> Weights:
    return Weights()


@pytest.fixture
def transcriber(built: list[FakeWhisper], weights: Weights) -> Transcriber:
    return Transcriber(SPEC, weights.restore, None)


def test_it_is_restored_and_loaded_once_on_first_need(transcriber: Transcriber, built: list[FakeWhisper], weights: Weights) -> None:
    assert (built, weights.asked) == ([], 0)
    threads = [threading.Thread(target=transcriber.transcribe, args=(speech(1), RATE_HZ)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(built), weights.asked, built[0].loaded) == (1, 1, [(Path("/weights"), None)])
    assert len(built[0].heard_s) == 4


def test_a_long_recording_is_heard_in_windows_that_end_where_it_is_quiet(transcriber: Transcriber, built: list[FakeWhisper]) -> None:
    assert transcriber.transcribe(LONG, RATE_HZ) == Transcript("w w w", "fr")
    assert built[0].heard_s == [pytest.approx(end, abs=0.1) for end in (2.65, 2.5, 1.05)]
    assert sum(built[0].heard_s) == pytest.approx(len(LONG) / RATE_HZ)


def test_speech_without_pauses_is_heard_whole(transcriber: Transcriber, built: list[FakeWhisper]) -> None:
    transcriber.transcribe(speech(20), RATE_HZ)
    assert sum(built[0].heard_s) == pytest.approx(20)
    assert max(built[0].heard_s) <= 3
    assert min(built[0].heard_s[:-1]) > 2


def test_silent_windows_are_not_heard(transcriber: Transcriber, built: list[FakeWhisper]) -> None:
    assert transcriber.transcribe(np.concatenate([silence(30), speech(1), silence(9)]), RATE_HZ).text == "w"
    assert len(built[0].heard_s) == 1
    assert transcriber.transcribe(silence(9), RATE_HZ) == Transcript("", None)


def test_the_language_is_detected_once_and_only_when_none_is_given(transcriber: Transcriber, built: list[FakeWhisper]) -> None:
    assert transcriber.transcribe(LONG, RATE_HZ).language == "fr"
    assert (built[0].detected, set(built[0].languages)) == (1, {"fr"})
    assert transcriber.transcribe(LONG, RATE_HZ, "PT_br") == Transcript("w w w", "pt")
    assert (built[0].detected, built[0].languages[3:]) == (1, ["pt"] * 3)


def test_a_cancelled_transcription_ends_before_its_next_window(transcriber: Transcriber, built: list[FakeWhisper]) -> None:
    with pytest.raises(Cancelled):
        transcriber.transcribe(LONG, RATE_HZ, cancelled=lambda: bool(built[0].heard_s))
    assert len(built[0].heard_s) == 1


def test_windows_of_languages_without_spaces_are_joined_without(transcriber: Transcriber) -> None:
    assert transcriber.transcribe(LONG, RATE_HZ, "zh-Hans").text == "www"


@pytest.mark.parametrize("language", ["", "tlh", "english", "-", "x" * 500])
def test_a_language_that_the_model_does_not_know_is_refused_before_it_is_loaded(
    language: str, transcriber: Transcriber, built: list[FakeWhisper]
) -> None:
    with pytest.raises(RequestError, match="it knows en, zh") as caught:
        transcriber.transcribe(speech(1), RATE_HZ, language)
    assert len(str(caught.value)) < 700
    assert built == []


@pytest.mark.parametrize("package", ["transformers", "tiktoken", "whisper"])
def test_without_its_packages_nothing_is_fetched_and_the_error_says_what_to_do(
    package: str, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "whisper":
        real = importlib.util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "whisper" else real(name, *rest))
    else:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TranscriberUnavailable, match=rf"not installed .*{package}.* pass ref_text and at most 12 s"):
        Transcriber(SPEC, weights.restore, None).transcribe(speech(1), RATE_HZ)
    assert weights.asked == 0


def test_a_failure_is_remembered_for_a_while_so_that_jobs_do_not_wait_for_a_dead_hub(
    transcriber: Transcriber, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights.failing = True
    for _ in range(3):
        with pytest.raises(TranscriberUnavailable, match="no weights"):
            transcriber.transcribe(speech(1), RATE_HZ)
    assert weights.asked == 1
    weights.failing = False
    now = transcribe.time.monotonic()
    monkeypatch.setattr(transcribe.time, "monotonic", lambda: now + transcribe.RETRY_S + 1)
    assert transcriber.transcribe(speech(1), RATE_HZ).text == "w"
    assert weights.asked == 2
