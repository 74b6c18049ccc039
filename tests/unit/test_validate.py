"""`validate` against endpoints that do not answer as they should, and stopped by hand; the whole of it is in tests/e2e/test_client.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from f5_worker import cli, endpoint, results, validation, validation_report
from f5_worker import validate as validate_command
from f5_worker.endpoint_errors import EndpointUnhealthy
from f5_worker.settings import Settings
from f5_worker.store import ObjectInfo
from f5_worker.validate import Findings
from s3_utils import S3Store
from tests.fakes.runpod_server import API_KEY, RunpodServer
from tests.unit.test_say import Script
from tests.worker_process import until

DONE_S = 30
BOOT = {
    "model": "demo",
    "started_unix_s": 1.0,
    "ready_s": 2.0,
    "phases": [{"name": "import torch", "lane": "handler", "start_s": 0.1, "end_s": 1.0, "bytes": 0, "source": ""}],
    "files": [{"path": "model", "repo": "org/name", "commit": "c" * 40, "size_bytes": 1, "source": "hub"}],
}


def healthy(job_input, *, version: str = "0.1.0"):
    return {"output": {"versions": {"worker": version}, "boot": BOOT, "engine": {}}}


@pytest.fixture
def server(monkeypatch):
    with RunpodServer(poll_s=0.3) as running:
        running.takes_client(monkeypatch)
        yield running


@pytest.fixture
def impatient(monkeypatch):
    """Nobody waits long for a worker."""
    quick = partial(endpoint.run, start_timeout_s=1.0, unhealthy_s=0.3)
    for module in (results, validation):
        monkeypatch.setattr(module, "run", quick)


def validate(out: Path):
    return CliRunner().invoke(cli.app, ["validate", "--endpoint", "f5-test", "--out", str(out), "--idle-s", "0"], obj=S3Store)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("workers", "named"), [({"unhealthy": 2}, "2 unhealthy"), ({"throttled": 1}, "1 throttled"), ({}, "none")])
def test_an_endpoint_that_never_gets_healthy_is_reported_as_that(server, tmp_path, workers, named):
    server.workers = workers
    done = validate(tmp_path / "report.md")
    assert (done.exit_code, "ENDPOINT_UNHEALTHY: " in done.stderr) == (3, True), done.output
    report = (tmp_path / "report.md").read_text()
    assert "**Ended early: ENDPOINT_UNHEALTHY: " in report
    assert named in report
    assert [job.status for job in server.jobs.values()] == ["CANCELLED"]


def test_a_worker_older_than_the_client_is_reported_as_that_and_sent_nothing_more(server, tmp_path):
    Script(server, partial(healthy, version="0.0.9"))
    done = validate(tmp_path / "report.md")
    assert (done.exit_code, "has version 0.0.9, this client 0.1.0" in done.stderr) == (3, True), done.output
    assert "**Ended early: ENDPOINT_OUTDATED: " in (tmp_path / "report.md").read_text()
    assert len(server.jobs) == 1


@pytest.mark.usefixtures("impatient")
def test_a_stream_that_no_worker_takes_is_given_up_and_cancelled(server):
    with pytest.raises(EndpointUnhealthy):
        validation._streamed(endpoint.RunpodEndpoint("f5-test"))
    assert [job.status for job in server.jobs.values()] == ["CANCELLED"]


def test_the_parts_of_a_stream_are_taken_while_it_runs_and_at_its_end(server):
    def answer(job_input):
        [job_id] = server.jobs
        for number in range(3):
            server.add_part(job_id, {"output": {"index": number}})
        return {"output": {"done": True}}

    Script(server, answer)
    status, parts = validation._streamed(endpoint.RunpodEndpoint("f5-test"))
    assert status["output"] == {"done": True}
    assert [part["index"] for part in parts] == [0, 1, 2]


@pytest.mark.parametrize("out", ["absent/report.md", "file/report.md"])
def test_a_folder_that_takes_no_report_is_named_before_any_job_is_sent(server, tmp_path, out):
    (tmp_path / "file").touch()
    done = validate(tmp_path / out)
    assert (done.exit_code, "nothing can be written to" in done.stderr) == (2, True), done.output
    assert server.calls == []


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "report.md").write_text("the last one")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        validation_report._put(tmp_path / "report.md", b"half")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"report.md": "the last one"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_job_and_reports_what_was_seen(server, tmp_path, number):
    """The health job is answered, the plain request is not."""
    Script(server, lambda job_input: healthy(job_input) if job_input.get("action") == "health" else None)
    env = {**os.environ, "RUNPOD_ENDPOINT_BASE_URL": server.client_url, "RUNPOD_API_KEY": API_KEY, "COLUMNS": "200"}
    out = tmp_path / "report.md"
    command = ["env", "--default-signal=INT", sys.executable, "-m", "f5_worker", "validate", "--endpoint", "f5-test", "--out", str(out)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        plain = until(lambda: [i for i, job in list(server.jobs.items()) if "action" not in job.payload["input"]], DONE_S, str)[0]
        until(lambda: f"/v2/f5-test/status/{plain}" in {call.path for call in list(server.calls)}, DONE_S, str)  # it has the job's id
        started.send_signal(number)
        said, told = started.communicate(timeout=DONE_S)
    assert started.returncode == 130, told
    assert said == f"{out}\n"
    assert [line for line in told.splitlines() if "stopped by hand" in line] == [told.splitlines()[-1]]
    assert "Traceback" not in told
    report = out.read_text()
    assert "**Ended early: stopped by hand**" in report
    assert "| health | ok |" in report
    assert sorted(job.status for job in server.jobs.values()) == ["CANCELLED", "COMPLETED"]
    assert {path.name for path in tmp_path.iterdir()} <= {"report.md", "report.png"}


def boot(started_unix_s: float, source: str, ready_s: float, commit: str = "c" * 40):
    files = [BOOT["files"][0] | {"source": source, "commit": commit}]
    return BOOT | {"started_unix_s": started_unix_s, "ready_s": ready_s, "files": files, "worker": f"w-{started_unix_s}"}


@pytest.mark.parametrize(("source", "state"), [("bucket", "ok"), ("disk", "not seen"), ("hub", "failed")])
def test_a_second_boot_is_judged_by_where_its_files_came_from(source, state):
    checks = validation_report.checklist(Findings("e", boots=[boot(1, "hub", 20.0), boot(2, source, 4.0)]), Settings())
    [second] = [check for check in checks if check.name == "second boot from S3"]
    assert (second.state, "5.00 times as fast" in second.seen) == (state, True)


def test_boots_are_told_in_the_order_in_which_they_began(monkeypatch):
    found, told = Findings("e"), [boot(200, "bucket", 4.0), boot(100, "hub", 20.0)]
    monkeypatch.setattr(results, "health", lambda _endpoint: ({"boot": told.pop(0)}, "w"))
    for _ in range(2):
        validate_command._boot(None, found)
    assert [seen["started_unix_s"] for seen in found.boots] == [100, 200]


@pytest.mark.parametrize(("commit", "state"), [("c" * 40, "ok"), ("d" * 40, "failed")])
def test_an_upload_is_done_when_the_manifest_of_the_boots_own_commit_is_there(commit, state):
    manifest = ObjectInfo(f"models/org--name/{commit}/manifest.json", 1, datetime.now(UTC))
    checks = validation_report.checklist(Findings("e", boots=[boot(1, "hub", 20.0)], objects=[manifest]), Settings())
    assert [check.state for check in checks if check.name == "background upload done"] == [state]


def test_without_a_log_nothing_is_said_of_import_errors():
    [imports, *_] = validation_report.checklist(Findings("e", boots=[boot(1, "hub", 20.0)]), Settings())
    assert (imports.state, "--worker-log" in imports.seen) == ("not seen", True)
