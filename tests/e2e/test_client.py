"""The operator's client against real workers: speech in a file, and an endpoint's validation over two cold boots."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from tests.fakes.runpod_server import API_KEY, FINAL, RunpodServer
from tests.worker_process import kill_group

ENDED_S = 150  # on a machine that others use as well
JOBS = 16  # of a validation before it waits for the second boot


def client(*arguments, env) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "f5_worker", *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=ENDED_S)


@pytest.fixture(scope="module")
def validated(surroundings, tmp_path_factory) -> Iterator[tuple[subprocess.CompletedProcess[str], str, Path, RunpodServer, dict[str, str]]]:
    """An endpoint after `validate`, whose first worker was killed while the endpoint was idle and has a successor."""
    bucket, folder = surroundings.new_bucket(), tmp_path_factory.mktemp("report")
    s3 = surroundings.store.env(bucket)
    with RunpodServer() as server:
        env = {"RUNPOD_ENDPOINT_BASE_URL": server.client_url, "RUNPOD_API_KEY": API_KEY}
        first = surroundings.start(server.worker_env("worker-1") | s3)

        first.until(lambda: any(call.kind == "take" for call in list(server.calls)))

        def replace_worker() -> None:
            while len(server.jobs) < JOBS or any(job.status not in FINAL for job in list(server.jobs.values())):
                server.wait_call("client", 60, after=len(server.calls))
            kill_group(first.process)
            surroundings.start(server.worker_env("worker-2") | s3)

        successor = threading.Thread(target=replace_worker)
        successor.start()
        out = folder / "report.md"
        options = ["--endpoint", server.endpoint_id, "--out", out, "--idle-s", "4", "--worker-log", first.output]
        done = client("validate", *options, env=env | s3 | surroundings.model_env() | {"MODEL_CACHE_DIR": str(first.cache_dir)})
        successor.join(60)
        yield done, out.read_text() if out.exists() else "", out, server, env


def row(report: str, check: str) -> str:
    return next(line for line in report.splitlines() if line.startswith(f"| {check} |"))


def test_an_endpoint_that_works_is_validated(validated):
    done, report, out, *_ = validated
    assert done.returncode == 0, done.stderr + report
    assert done.stdout == f"{out}\n"
    assert "0 checks failed" in report
    assert not re.search(r"\| failed \|", report)


def test_every_kind_of_request_is_sent_and_compared(validated):
    report = validated[1]
    for check in ("health", "a plain request", "a cloned voice", "a dialogue", "subtitles", "a stream", "format mp3", "format opus"):
        assert "| ok |" in row(report, check)
    assert re.search(r"s of audio, the other one INVALID_REQUEST \|$", row(report, "a batch, one of it wrong"))
    assert "| ok | default |" in row(report, "the list of voices")
    assert "| ok | demo-tiny |" in row(report, "an OpenAI-shaped call")
    assert "sha256" in row(report, "the same request again")
    assert "sample for sample as plain" in row(report, "format flac")
    assert "INVALID_REQUEST: " in row(report, "a wrong request is refused with its code")


def test_the_checklist_is_answered_by_what_was_seen(validated):
    report = validated[1]
    for check in ("import errors: none", "HF_HOME in the log", "models under /tmp/models or MODEL_CACHE_DIR", "background upload done"):
        assert "| ok |" in row(report, check)
    assert re.search(r"from hub, then [\d.]+ s from bucket: [\d.]+ times as fast", row(report, "second boot from S3"))
    assert "objects, listed below" in row(report, "bucket listing")
    assert report.count("manifest.json` |") == 2


def test_both_boots_are_drawn(validated):
    report, out = validated[1:3]
    assert re.findall(r"### Boot (\d) of (worker-\d), from (\w+)", report) == [("1", "worker-1", "hub"), ("2", "worker-2", "bucket")]
    assert len(re.findall(r"^load model +#+|^load model  +#", report, re.MULTILINE)) == 2
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_report_holds_no_secret(validated):
    assert API_KEY not in validated[1]
    assert "X-Amz" not in validated[1]


def test_a_report_that_cannot_be_written_is_an_error_before_any_job(validated):
    _, _, out, server, env = validated
    before = len(server.jobs)
    done = client("validate", "--endpoint", server.endpoint_id, "--out", out / "report.md", env=env)
    assert (done.returncode, "nothing can be written" in done.stderr) == (2, True), done.stderr
    assert len(server.jobs) == before


def test_a_dialogue_of_several_parts_is_spoken_into_one_file(validated, tmp_path):
    _, _, _, server, env = validated
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(f"default: Line {number} of them. " + "Word after word. " * 12 for number in range(8)))
    out = tmp_path / "out.mp3"
    before = len(server.jobs)
    arguments = ["say", "--dialogue", lines, "-o", out, "--quality", "fast", "--endpoint", server.endpoint_id]
    done = client(*arguments, env=env)
    assert done.returncode == 0, done.stderr
    assert len(server.jobs) == before + 2
    seconds = float(re.search(r"([\d.]+) s of audio", done.stdout)[1])
    assert soundfile.info(out).duration == pytest.approx(seconds, abs=0.2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines.txt", "out.mp3"]


def test_a_voice_that_the_endpoint_does_not_have_is_its_own_error(validated, tmp_path):
    _, _, _, server, env = validated
    arguments = ["say", "Hi.", "--voice", "nobody", "-o", tmp_path / "out.wav", "--endpoint", server.endpoint_id]
    done = client(*arguments, env=env)
    assert (done.returncode, "VOICE_NOT_FOUND" in done.stderr) == (1, True), done.stderr


def test_the_local_api_speaks_without_the_platform(surroundings, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    worker = surroundings.start({}, arguments=["--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)])
    worker.until(lambda: "Uvicorn running" in worker.log())
    out = tmp_path / "out.opus"
    done = client("say", "Hello there.", "-o", out, "--quality", "fast", "--seed", "5", "--local", f"http://127.0.0.1:{port}", env={})
    assert done.returncode == 0, done.stderr
    assert out.read_bytes()[:4] == b"OggS"
