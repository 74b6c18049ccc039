"""The five requests of the README, run as they stand there but for the model, the recording's address, the steps and one duration."""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.util
import json
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.worker_process import ROOT

ENDED_S = 120
STEPS = 2


def commands() -> list[dict[str, Any]]:
    """The job of every `.venv/bin/python handler.py --test_input …` of the README, in order."""
    lines = [line.strip() for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    return [json.loads(shlex.split(line)[3]) for line in lines if line.startswith(".venv/bin/python handler.py --test_input ")]


@contextmanager
def recording_server() -> Iterator[str]:
    """The packaged reference by plain HTTP on loopback."""
    spec = importlib.util.find_spec("f5_tts")
    data = (Path(spec.submodule_search_locations[0]) / "infer" / "examples" / "basic" / "basic_ref_en.wav").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/me.wav"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture(scope="module")
def results(surroundings) -> Iterator[list[dict[str, Any]]]:
    """What each run printed. They run two at a time: each costs some seconds of one core."""
    with recording_server() as url:
        jobs = commands()
        jobs[1]["input"] |= {"ref_audio": {"url": url}, "ref_text": "Some call me nature, others call me mother nature."}
        jobs[3]["input"]["duration"] = 2.5  # the tiny aligner hears 3 s at once
        found = []
        for pair in (jobs[:2], jobs[2:4], jobs[4:]):
            arguments = [["--test_input", json.dumps({"input": job["input"] | {"nfe_step": STEPS}})] for job in pair]
            workers = [surroundings.start({"ALLOW_LOOPBACK_URLS": "true"}, arguments=given, alone=True) for given in arguments]
            for worker in workers:
                assert worker.ended(ENDED_S) == 0, worker.log()
                found.append(printed(worker.log()))
        yield found


def printed(log: str) -> dict[str, Any]:
    (shown,) = re.findall(r"Job result: (\{.*\})", log)
    return ast.literal_eval(shown)["output"]


def audio_of(result: dict[str, Any]) -> Path:
    return Path(result["audio"]["file"])


def test_the_readme_has_a_plain_a_cloned_a_dialogue_a_subtitled_and_a_streamed_request():
    asked = [set(job["input"]) for job in commands()]
    assert [bool(needed & fields) for needed, fields in zip(
        ({"input"}, {"ref_audio"}, {"segments"}, {"subtitles"}, {"stream_format"}), asked, strict=True)] == [True] * 5  # fmt: skip


def test_every_request_gives_the_audio_that_its_result_describes(results):
    for result in results:
        data = audio_of(result).read_bytes()
        assert hashlib.sha256(data).hexdigest() == result["sha256"]
        assert len(data) == result["size_bytes"] > 10_000
        assert result["rtf"] > 0


def test_no_run_prints_its_audio(results):
    assert max(len(str(result)) for result in results) < 6_000


def test_the_plain_text_is_spoken_with_the_built_in_voice(results):
    assert (results[0]["voice"], results[0]["seed"]) == ("default", 42)
    sound = soundfile.info(audio_of(results[0]))
    assert sound.frames / sound.samplerate == pytest.approx(results[0]["duration_s"], abs=0.001)


def test_the_voice_of_a_url_is_cloned(results):
    assert results[1]["voice"] == "reference"


def test_the_dialogue_has_a_segment_for_each_speaker(results):
    assert [segment["text"] for segment in results[2]["segments"]] == ["Who is there?", "It is me."]


def test_the_subtitles_hold_the_words_as_they_were_written(results):
    srt = Path(results[3]["subtitles"]["srt"]["file"]).read_text(encoding="utf-8")
    assert "$3.50" in srt
    assert [word["text"] for word in results[3]["words"]] == ["It", "costs", "$3.50."]
    times = [(word["start_s"], word["end_s"]) for word in results[3]["words"]]
    assert all(start < end for start, end in times)
    assert times == sorted(times)


def test_the_parts_of_the_stream_are_the_audio(results):
    stream, data = results[4]["stream"], audio_of(results[4]).read_bytes()
    assert [part["type"] for part in stream["output"]] == ["speech.audio.delta"] * stream["parts"] + ["speech.audio.done"]
    assert (stream["parts"] >= 2, stream["sha256"], stream["size_bytes"]) == (True, results[4]["sha256"], len(data))
    assert base64.b64decode(stream["output"][0]["audio"][:40]) == data[:30]


def test_a_test_input_that_is_no_json_is_one_line_and_no_traceback(surroundings):
    worker = surroundings.start({}, arguments=["--test_input", "not json"], alone=True)
    assert worker.ended(ENDED_S) == 2
    assert "--test_input is not JSON" in worker.log()
    assert len(worker.log().splitlines()) == 1
