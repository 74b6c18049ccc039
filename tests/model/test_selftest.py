"""The self-test finds what is wrong, and runs on the tiny model without transcription."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from f5_worker import backend, manifest, selftest
from f5_worker.audio import Samples
from f5_worker.backend import Backend
from f5_worker.engine import Engine, Speech
from f5_worker.selftest import Row, measure, word_error_rate
from tests.model.conftest import BFLOAT16, FLOAT32, Paths

TEXTS = ["The cat sat on the mat.", "It rained all day."]


@pytest.mark.parametrize(
    ("said", "heard", "rate"),
    [
        ("It's a good day.", "it\u2019s a GOOD day", 0.0),
        ("one two three four", "one two three four", 0.0),
        ("one two three four", "one three four", 0.25),
        ("one two three four", "one two two three four", 0.25),
        ("one two three four", "one too three for", 0.5),
        ("one two three four", "", 1.0),
        ("one", "two three", 2.0),
        ("\u4f60 \u597d", "\u4f60 \u597d", 0.0),
    ],
)
def test_word_error_rate_counts_words_changed_added_and_left_out(said: str, heard: str, rate: float) -> None:
    assert word_error_rate(said, heard) == rate


def test_sentences_are_words_only() -> None:
    """Digits and abbreviations can be transcribed in more ways than one."""
    sentences = selftest.sentences()
    assert len(sentences) == 20
    assert all(sentence.replace("'", "").replace(".", "").replace(" ", "").isalpha() for sentence in sentences)


def heard(*texts: str) -> selftest.Transcribe:
    given = iter(texts)
    return lambda samples, _rate_hz: next(given) if len(samples) else ""


def measured(engine: Engine, transcribe: selftest.Transcribe | None) -> Row:
    return measure(engine, TEXTS, "fast", 7, transcribe)


def test_good_transcript_passes(engine: Engine) -> None:
    row = measured(engine, heard(*TEXTS))
    assert (row.backend, row.preset, row.sentences, row.wer, row.problems) == ("cpu bfloat16 torch", "fast", 2, 0.0, [])
    assert row.audio_s > 1.0
    assert row.rtf > 0.0
    assert row.peak_memory_bytes > 50_000_000


def test_bad_transcript_is_a_problem(engine: Engine) -> None:
    assert measured(engine, heard("The cat sat on the hat.", TEXTS[1])).problems == ["word error rate 10.0%, at most 3%"]


def test_without_transcription_there_is_no_rate(engine: Engine) -> None:
    row = measured(engine, None)
    assert (row.wer, row.problems) == (None, [])


def test_silence_is_a_problem(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder = engine._renderer.vocoder
    monkeypatch.setattr(engine._renderer, "vocoder", lambda mel: 0.0 * vocoder(mel))
    assert measured(engine, None).problems == ["text 0 is silent", "text 1 is silent"]


def test_speech_that_changes_is_a_problem(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    loudness, synthesize = iter(range(1, 9)), engine.synthesize

    def drifting(*given: object, **options: object) -> Speech:
        speech = synthesize(*given, **options)
        scaled: Samples = speech.samples * next(loudness)
        return Speech(scaled, speech.sample_rate_hz, speech.segments, speech.warnings)

    monkeypatch.setattr(engine, "synthesize", drifting)
    assert measured(engine, None).problems == ["the same request gave other samples"]


def test_model_of_one_backend_is_gone_before_that_of_the_next_is_built(spec: manifest.ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[weakref.ref[Engine]] = []

    def build(_spec: manifest.ModelSpec, of: Backend) -> Engine:
        assert not any(one() for one in built)
        stub = MagicMock(backend=of)
        stub.itself = stub  # as a model has: its hooks point back to it
        built.append(weakref.ref(stub))
        return stub

    gc.disable()  # the test must not succeed by chance
    monkeypatch.setattr(Engine, "build", build)
    monkeypatch.setattr(backend, "choose_backend", lambda flash_attn="auto": FLOAT32 if flash_attn == "off" else BFLOAT16)
    monkeypatch.setattr(selftest, "measure", lambda *_: None)
    try:
        assert len(list(selftest.run(spec, {}, None))) == 6
    finally:
        gc.enable()
    assert len(built) == 2


# All of the sentences take the tiny model half a minute.
SHORTENED = """
import runpy, sys
from f5_worker import selftest
selftest.sentences = lambda: ["It rained all day.", "The sun rose."]
sys.argv = ["f5_worker", "selftest", *sys.argv[1:]]
runpy.run_module("f5_worker", run_name="__main__")
"""


def run(tiny: Path, cache: Path, *options: str, **changes: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "HF_"))}
    env |= {"F5_MODEL": "demo-tiny", "F5_MODELS_FILE": str(tiny / "models.json"), "MODEL_CACHE_DIR": str(cache), "COLUMNS": "200"}
    env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | changes
    command = [sys.executable, "-c", SHORTENED, *options]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120, cwd=Path(__file__).parents[2])


def fill(cache: Path, spec: manifest.ModelSpec, paths: Paths) -> None:
    from f5_worker.cache import HubCache

    for file, path in paths.items():
        place = HubCache(cache).snapshot(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def test_command_reports_every_preset_of_the_tiny_model(tiny: Path, tmp_path: Path, spec: manifest.ModelSpec, paths: Paths) -> None:
    fill(tmp_path, spec, paths)
    done = run(tiny, tmp_path, "--without-wer", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["model"], found["bounds"]["wer"]) == ("demo-tiny", 0.03)
    assert [(row["preset"], row["sentences"], row["wer"], row["problems"]) for row in found["rows"]] == [
        (preset, 2, None, []) for preset in ("fast", "balanced", "high")
    ]
    assert [line.partition(": real-time factor")[0].partition(", ")[2] for line in done.stderr.splitlines()] == ["fast", "balanced", "high"]


@pytest.mark.parametrize(("changes", "code", "said"), [({}, 3, "WEIGHTS_UNAVAILABLE"), ({"F5_MODEL": "nothing"}, 2, "SETTINGS_INVALID")])
def test_command_that_cannot_be_run_says_why(tiny: Path, tmp_path: Path, changes: dict[str, str], code: int, said: str) -> None:
    done = run(tiny, tmp_path, "--without-wer", **changes)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (code, True, False)


def test_command_without_a_transcriber_names_the_option_that_needs_none(
    tiny: Path, tmp_path: Path, spec: manifest.ModelSpec, paths: Paths
) -> None:
    fill(tmp_path, spec, paths)
    done = run(tiny, tmp_path, HF_ENDPOINT="http://127.0.0.1:1")
    assert (done.returncode, "TRANSCRIBER_UNAVAILABLE" in done.stderr, "--without-wer" in done.stderr) == (3, True, True), done.stderr
