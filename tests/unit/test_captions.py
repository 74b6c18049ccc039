"""When what is said: exact segments, words by alignment alone, and the text as the request has it."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import contextmanager

import numpy as np
import pytest

from f5_worker import align, captions, request
from f5_worker.align import AlignedWord
from f5_worker.errors import Cancelled, DeviceFailed, EngineError, OutOfMemory, RequestError, TranscriberUnavailable
from f5_worker.jobs import InlineRoom, Job
from f5_worker.script import Chunk, Span
from f5_worker.service import Service
from f5_worker.settings import Settings
from f5_worker.speech import Part, Segment, Speech
from tests.fakes.speaker import CHUNK, RATE, FakeEngine


class FakeTranscriber:
    def __init__(self, error=None):
        self.error = error

    def code(self, language):
        if language not in {None, "en"}:
            raise RequestError("language: unknown")
        return language

    @contextmanager
    def loaded(self):
        if self.error:
            raise self.error
        yield self


def halves(_transcriber, samples, rate_hz, text, **_options):
    """Every word takes an equal share of the sound."""
    words, at, found = text.split(), 0, []
    share = len(samples) / rate_hz / len(words)
    for index, word in enumerate(words):
        start = text.index(word, at)
        at = start + len(word)
        found.append(AlignedWord(start, at, index * share, (index + 1) * share))
    return found


@pytest.fixture(autouse=True)
def aligner(monkeypatch):
    monkeypatch.setattr(align, "align", halves)


def run(job_input, *, engine=None, transcriber=None):
    subject = Service(engine or FakeEngine(), Settings(), None, boot=dict, transcriber=transcriber or FakeTranscriber())
    return asyncio.run(subject.handle({"id": "job-1", "input": job_input}))


def subtitle(result, fmt):
    return base64.b64decode(result["subtitles"][fmt]["base64"]).decode()


def test_segments_are_the_engines_own_offsets():
    result = run({"input": "One two.| Three."})
    assert result["segments"] == [{"text": "One two.", "start_s": 0.0, "end_s": 0.5}, {"text": " Three.", "start_s": 0.5, "end_s": 1.0}]
    assert "words" not in result


def test_timestamps_none_leaves_them_out():
    assert not {"segments", "words"} & set(run({"input": "One.", "timestamps": "none"}))


def test_words_lie_where_their_segment_lies():
    result = run({"input": "One two.|Three four.", "timestamps": "word"})
    assert [(word["text"], word["start_s"], word["end_s"]) for word in result["words"]] == [
        ("One", 0.0, 0.25), ("two.", 0.25, 0.5), ("Three", 0.5, 0.75), ("four.", 0.75, 1.0),
    ]  # fmt: skip
    assert "align" in result["timings_ms"]


class Normalising(FakeEngine):
    """Speaks "$3.50 now" as words."""

    def _parts(self, passages, options, cancelled, on_chunk):
        spoken = "three dollars fifty now"
        spans = (Span(0, 19, 0, 5), Span(20, 23, 6, 9))
        (part,) = super()._parts(passages, options, cancelled, on_chunk)
        yield Part(part.samples, [Segment("$3.50 now", None, 0, CHUNK, Chunk(spoken, "$3.50 now", spans), 0)], [])


def test_a_word_that_is_spoken_as_several_stays_as_it_was_written():
    result = run({"input": "$3.50 now", "timestamps": "word"}, engine=Normalising())
    assert [(word["text"], word["start_s"]) for word in result["words"]] == [("$3.50", 0.0), ("now", round(CHUNK / RATE * 3 / 4, 3))]


def test_words_of_segments_are_told_apart_by_their_own_text():
    result = run({"segments": [{"text": "Hi there."}, {"text": "Bye now."}], "timestamps": "word"})
    assert [word["text"] for word in result["words"]] == ["Hi", "there.", "Bye", "now."]


def test_an_aligner_that_cannot_be_had_is_a_coded_warning():
    result = run({"input": "One.", "timestamps": "word"}, transcriber=FakeTranscriber(TranscriberUnavailable("no room")))
    assert "TRANSCRIBER_UNAVAILABLE" in {warning["code"] for warning in result["warnings"]}
    assert (result["segments"][0]["text"], "words" in result) == ("One.", False)


@pytest.mark.parametrize(
    ("error", "worn_out"),
    [(OutOfMemory("the GPU is full"), True), (DeviceFailed("illegal access"), True), (EngineError("no numbers"), False)],
)
def test_the_audio_is_delivered_although_aligning_it_failed(error, worn_out, monkeypatch):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(align, "align", fail)
    result = run({"input": "One.", "timestamps": "word"})
    assert ("audio" in result, "words" in result) == (True, False)
    assert error.code in {warning["code"] for warning in result["warnings"]}
    assert result.get("refresh_worker", False) is worn_out
    batch = run({"action": "batch", "requests": [{"input": "One.", "timestamps": "word"}]})
    assert batch.get("refresh_worker", False) is worn_out
    assert "refresh_worker" not in batch["results"][0]["output"]


@pytest.mark.parametrize(("language", "told"), [("en", "en"), ("tlh", None)])
def test_the_aligner_is_told_the_language_when_it_knows_it(language, told, monkeypatch):
    asked = []
    monkeypatch.setattr(align, "align", lambda *args, language=None: asked.append(language) or halves(*args))
    assert run({"input": "One.", "timestamps": "word", "language": language})["words"]
    assert asked == [told]


@pytest.mark.parametrize("error", [IndexError("out of range"), RuntimeError("sizes differ"), ValueError("no path")])
def test_a_defect_of_the_aligner_costs_the_words_and_not_the_audio(error, monkeypatch, caplog):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(align, "align", fail)
    result = run({"input": "One.", "timestamps": "word"})
    assert ("audio" in result, "words" in result) == (True, False)
    assert "ENGINE_FAILED" in {warning["code"] for warning in result["warnings"]}
    assert str(error) in caplog.text
    assert str(error) not in json.dumps(result)


@pytest.mark.parametrize(
    ("said", "code"), [("CUDA error: an illegal memory access", "DEVICE_FAILED"), ("CUDA error: out of memory", "OUT_OF_MEMORY")]
)
def test_an_error_of_cuda_that_comes_late_replaces_the_worker(said, code, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError(said)

    monkeypatch.setattr(align, "align", fail)
    result = run({"input": "One.", "timestamps": "word"})
    assert ("audio" in result, result["refresh_worker"]) == (True, True)
    assert code in {warning["code"] for warning in result["warnings"]}


@pytest.mark.parametrize("part", ["_written", "_cues"])
def test_a_defect_beside_the_aligner_costs_no_audio_either(part, monkeypatch):
    def fail(*_args):
        raise KeyError(part)
        yield  # a generator as the real one

    monkeypatch.setattr(captions, part, fail)
    assert "audio" in run({"input": "One.", "timestamps": "word", "subtitles": ["srt"]})


def test_subtitles_that_cannot_be_made_cost_a_warning_and_not_the_audio(monkeypatch):
    def fail_for_srt(cues, fmt):
        if fmt == "srt":
            raise ValueError("a negative time")
        return render(cues, fmt)

    render = captions.subtitles.render
    monkeypatch.setattr(captions.subtitles, "render", fail_for_srt)
    result = run({"input": "One.", "subtitles": ["srt", "vtt"]})
    assert ("audio" in result, set(result["subtitles"])) == (True, {"vtt"})
    assert [w["message"].partition(":")[0] for w in result["warnings"] if w["code"] == "SUBTITLES_NOT_DELIVERED"] == ["srt"]


def test_nothing_more_is_aligned_once_the_job_is_cancelled():
    class Cancelling(FakeTranscriber):
        def code(self, _language):
            job.cancelled.set()

    asked = request.parse({"input": "One.|Two.", "timestamps": "word"})
    job = Job("job-1", InlineRoom(0))
    chunk = Chunk("One.", "One.", (Span(0, 4, 0, 4),))
    speech = Speech(np.ones(CHUNK, dtype=np.float32), RATE, [Segment("One.", None, 0, CHUNK, chunk, 0)], [])
    with pytest.raises(Cancelled):
        captions._align(Cancelling(), job, asked, speech)


def test_a_segment_that_could_not_be_aligned_is_a_warning_and_has_no_words(monkeypatch):
    monkeypatch.setattr(align, "align", lambda _t, _s, _r, text, **_o: [] if "Two" in text else [AlignedWord(0, 3, 0.0, 0.5)])
    result = run({"input": "One|Two", "timestamps": "word", "subtitles": ["json"]})
    assert [word["text"] for word in result["words"]] == ["One"]
    assert "WORDS_NOT_ALIGNED" in {warning["code"] for warning in result["warnings"]}
    cues = json.loads(subtitle(result, "json"))["segments"]
    assert [len(cue.get("words") or []) for cue in cues] == [1, 0]


def test_subtitles_carry_the_words_only_when_they_were_aligned():
    asked = {"input": "One two.", "subtitles": ["srt", "ass", "vtt", "json"]}
    plain, words = run(asked), run(asked | {"timestamps": "word"})
    assert set(plain["subtitles"]) == {"srt", "ass", "vtt", "json"}
    assert "One two." in subtitle(plain, "srt")
    assert "{\\k" not in subtitle(plain, "ass")
    assert "{\\k" in subtitle(words, "ass")


def test_subtitles_come_without_timestamps_in_the_result():
    result = run({"input": "One.", "subtitles": ["vtt"], "timestamps": "none"})
    assert "00:00:00.000 --> 00:00:00.500" in subtitle(result, "vtt")
    assert "segments" not in result
