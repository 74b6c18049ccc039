"""`say` against a job server whose worker follows a script: cutting, joining, resuming, and every way in which it can fail."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from f5_worker import audio, cli, endpoint, parts, results
from f5_worker.endpoint_errors import EndpointOutdated, EndpointUnhealthy, EndpointUnreachable
from f5_worker.errors import RequestError
from tests.fakes.runpod_server import API_KEY, RunpodServer

RATE = 24_000
BOOK = "\n\n".join(f"Paragraph {number} begins. " + "It goes on for a while, as they do. " * 35 for number in range(4))
DONE_S = 30


def wave(job_input) -> np.ndarray:
    """A tone for each text, half a second long."""
    text = json.dumps(job_input.get("input") or job_input["segments"])
    hz = 200 + int(hashlib.sha256(text.encode()).hexdigest()[:4], 16) % 800
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(RATE // 2) / RATE)).astype(np.float32)


def spoken(job_input) -> dict:
    if job_input.get("action") == "health":
        return {"output": {"versions": {"worker": "0.1.0"}}}
    data = audio.encode(wave(job_input), RATE, job_input["response_format"])
    delivered = {"base64": base64.b64encode(data).decode()}
    return {"output": {"audio": delivered, "sha256": hashlib.sha256(data).hexdigest(), "duration_s": 0.5, "warnings": []}}


class Script:
    """A worker that answers as `answer` says; None: it never does. `seen` are the inputs in the order they came."""

    def __init__(self, server: RunpodServer, answer=spoken) -> None:
        self.server, self.answer, self.seen = server, answer, []
        self.url = server.worker_env()["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", "worker-1") + "&job_in_progress=0"
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                with urllib.request.urlopen(urllib.request.Request(self.url, headers={"Authorization": API_KEY}), timeout=10) as response:
                    raw = response.read()
            except OSError:  # the server has ended
                return
            if raw:
                job = json.loads(raw)
                self.seen.append(job["input"])
                if body := self.answer(job["input"]):
                    self.server.finish(job["id"], body)


@pytest.fixture
def server(monkeypatch):
    with RunpodServer(poll_s=0.3) as running:
        running.takes_client(monkeypatch)
        monkeypatch.setattr(endpoint, "TROUBLE_S", 0.1)
        yield running


def say(*arguments, to=("--endpoint", "f5-test")):
    return CliRunner().invoke(cli.app, ["say", *map(str, arguments), *to])


@pytest.fixture
def book(tmp_path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(BOOK)
    return path


def test_a_short_text_is_one_job_in_the_format_that_the_suffix_names(server, tmp_path):
    worker = Script(server)
    done = say("Hello.", "-o", tmp_path / "out.mp3", "--voice", "anna", "--seed", "5", "--quality", "fast")
    assert done.exit_code == 0, done.output
    assert worker.seen == [{"input": "Hello.", "voice": "anna", "seed": 5, "quality": "fast", "response_format": "mp3"}]
    assert (tmp_path / "out.mp3").read_bytes() == audio.encode(wave(worker.seen[0]), RATE, "mp3")
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp3"]


@pytest.mark.parametrize("fmt", ["wav", "flac", "opus", "mp3", "aac", "pcm"])
def test_a_long_text_is_many_jobs_joined_in_the_order_of_the_text(server, tmp_path, book, fmt):
    Script(server)
    out = tmp_path / f"out.{fmt}"
    done = say("--file", book, "-o", out)
    assert done.exit_code == 0, done.output
    pieces = parts.of_text(BOOK)
    assert len(pieces) == 4
    expected = np.concatenate([w for p in pieces for w in (wave(p.fields), np.zeros(round(p.pause_after_s * RATE), np.float32))])
    if fmt in {"wav", "flac"}:
        samples, _ = soundfile.read(out, dtype="float32")
        assert len(samples) == len(expected)
        assert np.abs(samples - expected).max() < 1e-4
    else:
        assert out.read_bytes() == audio.encode(np.round(expected * 32767) / np.float32(32768), RATE, fmt)
    assert {path.name for path in tmp_path.iterdir()} == {"book.txt", out.name}


def test_a_failed_part_keeps_the_others_and_a_second_run_sends_it_alone(server, tmp_path, book):
    def fails_third(job_input):
        failed = {"error": "ENGINE_FAILED: no", "output": {"details": {"code": "ENGINE_FAILED", "retryable": False}}}
        return failed if "Paragraph 2" in job_input["input"] else spoken(job_input)

    worker = Script(server, fails_third)
    first = say("--file", book, "-o", tmp_path / "out.wav")
    assert first.exit_code == 1
    assert "1 of 4 parts failed: ENGINE_FAILED: no" in first.output
    assert len(list((tmp_path / "out.wav.parts").iterdir())) == 3
    assert not (tmp_path / "out.wav").exists()
    worker.answer = spoken
    second = say("--file", book, "-o", tmp_path / "out.wav")
    assert second.exit_code == 0, second.output
    assert len(worker.seen) == 5
    assert "Paragraph 2" in worker.seen[4]["input"]
    assert worker.seen[4]["seed"] == next(job["seed"] for job in worker.seen[:4] if "Paragraph 2" in job["input"])
    assert not (tmp_path / "out.wav.parts").exists()


@pytest.mark.parametrize(
    "failure",
    [
        {"error": "OUT_OF_MEMORY: x", "output": {"details": {"code": "OUT_OF_MEMORY", "retryable": True}}},
        {"output": {"audio": {"base64": "b3RoZXI="}, "sha256": "0" * 64, "warnings": []}},  # bytes that did not arrive whole
    ],
)
def test_a_part_that_failed_for_a_passing_reason_is_sent_again_alone(server, tmp_path, book, failure):
    failures = iter([failure])
    worker = Script(server, lambda job_input: next(failures, None) or spoken(job_input))
    done = say("--file", book, "-o", tmp_path / "out.wav")
    assert done.exit_code == 0, done.output
    assert len(worker.seen) == 5


def test_other_options_or_another_endpoint_are_other_parts(tmp_path):
    pieces = parts.of_text(BOOK)
    asked = [({}, "a"), ({}, "b"), ({"voice": "anna"}, "a"), ({"seed": 1}, "a")]
    assert len({key for settings, name in asked for key in parts.keys(pieces, settings, name)}) == 16
    assert parts.keys(pieces, {}, "a") == parts.keys(pieces, {}, "a")


def test_a_damaged_part_is_spoken_again(server, tmp_path, book):
    folder = parts.PartsFolder(tmp_path / "out.wav")
    key = parts.keys(parts.of_text(BOOK), {}, "f5-test")[1]
    folder.keep(key, b"no audio")
    worker = Script(server)
    assert say("--file", book, "-o", tmp_path / "out.wav").exit_code == 1
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert say("--file", book, "-o", tmp_path / "out.wav").exit_code == 0
    assert len(worker.seen) == 4


def test_clearing_the_parts_leaves_a_users_files(tmp_path):
    folder = parts.PartsFolder(tmp_path / "out.wav")
    folder.keep("0" * 16, b"x")
    (folder.path / "notes.txt").touch()
    folder.clear()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def process(server, *arguments) -> subprocess.Popen[str]:
    env = {**os.environ, "RUNPOD_ENDPOINT_BASE_URL": server.client_url, "RUNPOD_API_KEY": API_KEY}
    command = [sys.executable, "-m", "f5_worker", "say", *map(str, arguments), "--endpoint", "f5-test"]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_what_runs_and_keeps_what_is_done(server, tmp_path, book, number):
    Script(server, lambda job_input: spoken(job_input) if "Paragraph 0" in job_input["input"] else None)
    folder = tmp_path / "out.wav.parts"
    with process(server, "--file", book, "-o", tmp_path / "out.wav") as started:
        deadline = time.monotonic() + DONE_S
        while not list(folder.glob("*.flac")) or len(server.jobs) < 4:
            assert time.monotonic() < deadline, started.poll()
            time.sleep(0.05)
        started.send_signal(number)
        output = started.communicate(timeout=DONE_S)[0]
    assert started.returncode == 130, output
    assert "kept in" in output
    assert sorted(job.status for job in server.jobs.values()) == ["CANCELLED"] * 3 + ["COMPLETED"]
    assert len(list(folder.iterdir())) == 1


# --- cutting ---


def test_nothing_of_a_text_is_lost_and_no_part_is_too_long():
    text = BOOK + "\r\n\r\n***\r\n\r\n" + "No end of this sentence " * 400
    pieces = [part.fields["input"] for part in parts.of_text(text)]
    assert " ".join(" ".join(pieces).split()) == " ".join(text.replace("***", "").split())
    assert max(len(piece.encode()) for piece in pieces) <= parts.PART_BYTES


def test_short_paragraphs_share_a_part():
    assert [part.fields for part in parts.of_text("One.\n\nTwo.\n \nThree.")] == [{"input": "One.\n\nTwo.\n\nThree."}]


def test_a_dialogue_is_cut_between_lines_and_names_its_voices():
    text = "anna: Who is it?\n\nbert : Me: Bert.\n" + "\n".join(f"anna: {number} " + "word " * 200 for number in range(5))
    pieces = parts.of_dialogue(text)
    lines = [line for part in pieces for line in part.fields["segments"]]
    assert len(pieces) == 5
    assert [(line["voice"], line["text"]) for line in lines[:2]] == [("anna", "Who is it?"), ("bert", "Me: Bert.")]
    assert len(lines) == 7


@pytest.mark.parametrize(
    ("text", "named"), [("anna: a\nno voice here", "line 2"), ("two words: a", "line 1"), ("anna: ...", "line 1"), ("", "no line")]
)
def test_a_line_of_another_form_is_named(text, named):
    with pytest.raises(RequestError, match=named):
        parts.of_dialogue(text)


# --- failures ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "out.wav"], "exactly once"),
        (["Hi.", "--file", "x", "-o", "out.wav"], "exactly once"),
        (["...", "-o", "out.wav"], "no text"),
        (["Hi.", "-o", "out.doc"], "format"),
        (["Hi.", "-o", "out.wav", "--format", "ra"], "--format ra"),
        (["--file", "absent.txt", "-o", "out.wav"], "absent.txt"),
        (["--file", "latin.txt", "-o", "out.wav"], "UTF-8"),
        (["Hi.", "-o", "absent/out.wav"], "nothing can be written"),
    ],
)
def test_wrong_options_are_named_before_any_job_is_sent(server, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("Käse".encode("latin-1"))
    done = say(*arguments)
    assert (done.exit_code, said in done.output) == (2, True), done.output
    assert server.calls == []


def test_an_endpoint_or_a_local_address_is_needed_and_not_both(tmp_path):
    assert say("Hi.", "-o", tmp_path / "a.wav", to=()).exit_code == 2
    assert say("Hi.", "-o", tmp_path / "a.wav", to=("--endpoint", "a", "--local", "http://127.0.0.1:1")).exit_code == 2


def test_a_key_that_is_refused_is_named(server, tmp_path, monkeypatch):
    for key in ("wrong", None):
        monkeypatch.setattr("runpod.api_key", key)
        done = say("Hi.", "-o", tmp_path / "a.wav")
        assert (done.exit_code, done.output.startswith("ENDPOINT_UNAUTHORIZED: ")) == (3, True), done.output


@pytest.mark.parametrize("name", ["unknown", "../x"])
def test_an_unknown_endpoint_is_named(server, tmp_path, name):
    done = say("Hi.", "-o", tmp_path / "a.wav", to=("--endpoint", name))
    assert (done.exit_code, done.output.startswith("ENDPOINT_NOT_FOUND: ")) == (3, True), done.output


def test_network_trouble_is_sat_out_and_then_named(server):
    asked = endpoint.RunpodEndpoint("f5-test", trouble_s=5)
    server.fail("client", drop=True)
    server.fail("client", status=502)
    assert asked.workers() == {}
    server.fail("client", status=502, times=100)
    with pytest.raises(EndpointUnreachable, match="502"):
        endpoint.RunpodEndpoint("f5-test", trouble_s=0.1).workers()


@pytest.mark.parametrize(("workers", "named"), [({"unhealthy": 2}, "2 unhealthy"), ({"throttled": 1}, "took a job")])
def test_an_endpoint_that_never_gets_healthy_is_given_up_and_its_job_cancelled(server, workers, named):
    server.workers = workers
    with pytest.raises(EndpointUnhealthy, match=named):
        dict(endpoint.run(endpoint.RunpodEndpoint("f5-test"), {"a": {"input": "Hi."}}, start_timeout_s=1.5, unhealthy_s=0.3))
    assert [job.status for job in server.jobs.values()] == ["CANCELLED"]


def test_a_worker_that_is_older_than_the_client_is_named_when_it_refuses_a_request(server, tmp_path):
    def old(job_input):
        health = {"output": {"versions": {"worker": "0.0.9"}}}
        return health if job_input.get("action") == "health" else {"error": "INVALID_REQUEST: quality: unknown field"}

    Script(server, old)
    done = say("Hi.", "-o", tmp_path / "a.wav", "--quality", "fast")
    assert done.exit_code == 3
    assert done.output.startswith("ENDPOINT_OUTDATED: the endpoint's worker has version 0.0.9")


@pytest.mark.parametrize("found", [{}, {"versions": {}}, {"versions": {"worker": "0.0.1"}}, {"versions": {"worker": "x y"}}])
def test_health_without_a_new_enough_version_is_outdated(found):
    with pytest.raises(EndpointOutdated):
        results.check_version(found)


def test_audio_with_other_bytes_than_the_worker_made_is_refused(server, tmp_path):
    def damaged(job_input):
        body = spoken(job_input)
        body["output"]["sha256"] = "0" * 64
        return body

    Script(server, damaged)
    done = say("Hi.", "-o", tmp_path / "a.wav")
    assert (done.exit_code, "other bytes" in done.output) == (3, True), done.output
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize("output", ["text", {"image": "x"}, {"audio": {}}, {"audio": "x"}])
def test_a_foreign_result_is_no_traceback(server, tmp_path, output):
    Script(server, lambda _job: {"output": output})
    done = say("Hi.", "-o", tmp_path / "a.wav")
    assert (done.exit_code, done.output.startswith("ENDPOINT_OUTDATED: ")) == (3, True), done.output


def test_a_local_api_that_does_not_run_is_named_with_how_to_start_it(tmp_path):
    done = say("Hi.", "-o", tmp_path / "a.wav", to=("--local", "http://127.0.0.1:1"))
    assert (done.exit_code, "--rp_serve_api" in done.output) == (3, True), done.output
    assert say("Hi.", "-o", tmp_path / "a.wav", to=("--local", "127.0.0.1:1")).exit_code == 2
