"""The operator commands as an operator runs them, against a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from f5_worker.manifest import load_transcriber
from tests.fakes import fault_proxy as faults
from tests.fakes.hub_server import hub_server
from tests.fakes.tiny_model import write_tiny_model
from tests.files import pinned, random_bytes
from tests.integration.conftest import World

EAR = random_bytes(40_000_000, seed=98)  # three parts of an upload


@pytest.fixture(scope="module")
def models_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and speech recognition, of bytes that no other cache of this machine holds."""
    registry = write_tiny_model(tmp_path_factory.mktemp("tiny"), seed=99)
    file = pinned("model.safetensors", EAR, repo="demo/ear")
    (registry.parent / file.repo).mkdir()
    (registry.parent / file.repo / file.path).write_bytes(EAR)
    real = load_transcriber()
    entry = {
        "repo": file.repo, "commit": file.commit, "weights": file.path, "license": real.license, "languages": " ".join(real.languages),
        "arch": real.arch, "alignment_heads": real.alignment_heads,
        "files": [{"path": file.path, "size": file.size_bytes, "sha256": file.sha256}],
    }  # fmt: skip
    registry.write_text(json.dumps(json.loads(registry.read_text()) | {"transcribers": {"ear": entry}}))
    return registry


def environment(world: World, models_file: Path, **changes: str) -> dict[str, str]:
    env = {**os.environ, **world.env, "F5_MODEL": "demo-tiny", "F5_MODELS_FILE": str(models_file), "HF_ENDPOINT": "http://127.0.0.1:1"}
    return env | {"MODEL_CACHE_DIR": str(world.root / "cli-cache"), "COLUMNS": "200"} | changes


def cli(world: World, models_file: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "f5_worker", *arguments],
        env=environment(world, models_file, **changes), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def states(done: subprocess.CompletedProcess[str]) -> set[str]:
    assert done.stdout, done.stderr
    return {row["bucket"] for row in json.loads(done.stdout)["rows"]}


def push(world: World, models_file: Path, *options: str) -> None:
    with hub_server(models_file) as hub:
        done = cli(world, models_file, "cache", "push", *options, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr


def test_push_fills_an_empty_bucket_from_the_hub_and_status_and_verify_agree(world: World, models_file: Path) -> None:
    before = cli(world, models_file, "cache", "status", "--json")
    assert (before.returncode, states(before)) == (1, {"missing"})
    push(world, models_file)
    after, verified = cli(world, models_file, "cache", "status", "--json"), cli(world, models_file, "cache", "verify", "--json")
    assert (after.returncode, states(after)) == (0, {"ok"})
    assert (verified.returncode, states(verified)) == (0, {"ok"})


def test_the_transcribers_weights_are_sent_and_looked_at_when_asked_for(world: World, models_file: Path) -> None:
    push(world, models_file)
    assert not [key for key in world.keys() if "ear" in key]  # noqa: SIM118 - a method of the world
    lacking = cli(world, models_file, "cache", "status", "--transcriber", "--json")
    assert (lacking.returncode, states(lacking)) == (1, {"ok", "missing"})
    push(world, models_file, "--transcriber")
    for command in ("status", "verify"):
        done = cli(world, models_file, "cache", command, "--transcriber", "--json")
        assert (done.returncode, states(done)) == (0, {"ok"})
    done = cli(world, models_file, "cache", "pull", "--transcriber", "--json", MODEL_CACHE_DIR=str(world.root / "other"))
    assert {row["source"] for row in json.loads(done.stdout)["rows"]} == {"bucket"}
    assert [path.stat().st_size for path in (world.root / "other").rglob("models--demo--ear/snapshots/*/*")] == [len(EAR)]


def interrupt(world: World, models_file: Path, number: signal.Signals, reached: threading.Event, *arguments: str, **changes: str) -> None:
    """Run a command, send it a signal as soon as the event is set, and see that it ends as it must."""
    process = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "f5_worker", *arguments],  # a shell's background job would ignore it
        env=environment(world, models_file, **changes), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert reached.wait(60)
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert said.startswith("stopped")
    assert (said.count("\n"), out) == (1, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_push_leaves_no_part_of_an_upload_no_claim_and_no_manifest(
    world: World, models_file: Path, number: signal.Signals
) -> None:
    sending = threading.Event()
    world.proxy.fail(faults.hook(lambda _request: sending.set()), path="*ear*", query="partNumber", skip=1)
    with hub_server(models_file) as hub:
        interrupt(world, models_file, number, sending, "cache", "push", "--transcriber", HF_ENDPOINT=hub.url)
        assert world.client.list_multipart_uploads(Bucket=world.bucket).get("Uploads", []) == []
        assert not [key for key in world.keys() if "ear" in key or "publishing" in key or "manifest" in key]  # noqa: SIM118
        world.proxy.heal()
        push(world, models_file, "--transcriber")


@pytest.mark.parametrize(("command", "number"), [("pull", signal.SIGINT), ("verify", signal.SIGTERM)])
def test_an_interrupted_reader_leaves_no_file_that_looks_whole_and_the_next_one_goes_on(
    world: World, models_file: Path, command: str, number: signal.Signals
) -> None:
    push(world, models_file)
    folder, reading = world.root / "reader", threading.Event()
    checkpoint = {"path": "*/demo--demo-tiny/*model.safetensors", "methods": ("GET",)}
    slowly = faults.Fault("slowly", before=lambda _request: reading.set(), after=faults.slow(2_000_000).after)
    world.proxy.fail(slowly, **checkpoint)
    interrupt(world, models_file, number, reading, "cache", command, MODEL_CACHE_DIR=str(folder))
    assert not list(folder.rglob("models--demo--demo-tiny/snapshots/*/*.safetensors"))
    world.proxy.heal()
    done = cli(world, models_file, "cache", command, "--json", MODEL_CACHE_DIR=str(folder))
    assert done.returncode == 0, done.stderr


def test_pull_restores_from_the_bucket(world: World, models_file: Path) -> None:
    push(world, models_file)
    done = cli(world, models_file, "cache", "pull", "--json", MODEL_CACHE_DIR=str(world.root / "other"))
    assert done.returncode == 0, done.stderr
    assert {row["source"] for row in json.loads(done.stdout)["rows"]} == {"bucket"}


@pytest.mark.parametrize("command", ["pull", "push"])
def test_a_directory_that_is_named_is_taken_or_nothing(world: World, models_file: Path, command: str) -> None:
    push(world, models_file)
    (world.root / "a file").touch()
    refused = cli(world, models_file, "cache", command, "--cache-dir", str(world.root / "a file"))
    assert refused.returncode == 2
    assert "a file cannot hold the files: " in refused.stderr
    taken = cli(world, models_file, "cache", "pull", "--json", "--cache-dir", str(world.root / "named"))
    assert taken.returncode == 0, taken.stderr
    assert json.loads(taken.stdout)["title"].endswith(str(world.root / "named"))


def test_push_asks_the_bucket_before_it_fetches_what_it_would_send(world: World, models_file: Path) -> None:
    with hub_server(models_file) as hub:
        refused = cli(world, models_file, "cache", "push", HF_ENDPOINT=hub.url, AWS_ENDPOINT_URL="http://127.0.0.1:1")
        assert hub.requests == []
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "STORE_UNAVAILABLE" in refused.stderr


def test_status_finds_the_directory_that_has_the_files_and_makes_none(world: World, models_file: Path) -> None:
    push(world, models_file)  # leaves its files in cli-cache
    local = {}
    for name in ("cli-cache", "absent", "a file/absent"):
        (world.root / "a file").touch()
        done = cli(world, models_file, "cache", "status", "--json", MODEL_CACHE_DIR=str(world.root / name))
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)["rows"]  # the vocabulary is every tiny model's: another cache of this machine may hold it
        local[name] = {row["local"] for row in rows if row["key"].endswith("model.safetensors")}
        assert not (world.root / "absent").exists()
    assert local == {"cli-cache": {"yes"}, "absent": {"no"}, "a file/absent": {"no"}}


def test_verify_finds_wrong_bytes_of_the_right_size_and_push_can_mend_them(world: World, models_file: Path) -> None:
    push(world, models_file)
    key = next(k for k in list(world.keys()) if k.endswith("model.safetensors"))
    size = world.client.head_object(Bucket=world.bucket, Key=key)["ContentLength"]
    world.client.put_object(Bucket=world.bucket, Key=key, Body=bytes(size))
    done = cli(world, models_file, "cache", "verify", "--json")
    assert done.returncode == 1
    assert [r["key"] for r in json.loads(done.stdout)["rows"] if r["bucket"] == "wrong bytes"] == [key]
    push(world, models_file, "--mend")
    assert cli(world, models_file, "cache", "verify").returncode == 0


GONE = [f"models/org--gone/{'d' * 40}/x.bin", "models/wheels/gone.whl"]
THEIRS = ["models/output/2026-01-02/job.wav", "models/voices/me.wav", "notes.txt"]


def test_gc_deletes_what_nothing_needs_and_only_when_told(world: World, models_file: Path) -> None:
    push(world, models_file)
    for key in GONE + THEIRS:
        world.client.put_object(Bucket=world.bucket, Key=key, Body=b"x")
    keys = world.keys()
    for options, action, left in (
        ([], "would delete", keys),
        (["--dry-run"], "would delete", keys),
        (["--yes"], "deleted", [k for k in keys if k not in GONE]),
    ):
        done = cli(world, models_file, "cache", "gc", "--json", "--older-than-days", "0", *options)
        assert done.returncode == 0, done.stderr
        assert [(row["key"], row["action"]) for row in json.loads(done.stdout)["rows"]] == [(key, action) for key in GONE]
        assert world.keys() == left


def test_gc_refuses_to_delete_and_to_list_only_at_once(world: World, models_file: Path) -> None:
    assert cli(world, models_file, "cache", "gc", "--yes", "--dry-run").returncode == 2


def test_gc_leaves_young_objects_and_what_is_needed_alone(world: World, models_file: Path) -> None:
    push(world, models_file)
    world.client.put_object(Bucket=world.bucket, Key="models/org--gone/" + "d" * 40 + "/x.bin", Body=b"x")
    keys = world.keys()
    done = cli(world, models_file, "cache", "gc", "--json", "--yes")
    assert (done.returncode, json.loads(done.stdout)["rows"], world.keys()) == (0, [], keys)


def test_a_table_for_people_names_every_file(world: World, models_file: Path) -> None:
    push(world, models_file)
    done = cli(world, models_file, "cache", "status")
    assert "model.safetensors" in done.stdout
    assert "manifest.json" in done.stdout


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"S3_BUCKET": ""}, 2, "S3_BUCKET"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, 2, "AWS_SECRET_ACCESS_KEY"),
        ({"F5_MODEL": "nope"}, 2, "demo-tiny"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, 3, "STORE_UNAVAILABLE"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, 3, "STORE_FORBIDDEN"),
    ],
)
def test_every_failure_is_one_line_and_an_exit_code(world: World, models_file: Path, changes: dict[str, str], code: int, said: str) -> None:
    done = cli(world, models_file, "cache", "status", **changes)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def draw(folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    phases = [{"name": "import torch", "lane": "handler", "start_s": 0.1, "end_s": 2.0, "bytes": 0, "source": ""}]
    report = folder / "boot-report.json"
    report.write_text(json.dumps({"model": "m", "ready_s": 2.5, "phases": phases}))
    command = [sys.executable, "-m", "f5_worker", "boot-report", str(report), "--out", str(folder / "out")]
    return subprocess.run(command, env={**os.environ, **changes}, check=False, capture_output=True, text=True, timeout=120)


def drawn_durations_us(folder: Path) -> list[int]:
    trace = json.loads((folder / "out" / "boot.trace.json").read_text())
    return [e["dur"] for e in trace["traceEvents"] if e["ph"] == "X"]


def test_a_boot_report_becomes_a_picture_and_a_trace(tmp_path: Path) -> None:
    done = draw(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "boot.png").read_bytes().startswith(b"\x89PNG")
    assert drawn_durations_us(tmp_path) == [1_900_000]


def test_without_matplotlib_a_boot_report_becomes_a_trace_and_the_message_names_the_package(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not installed')")
    done = draw(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 3
    assert "pip install matplotlib" in done.stderr
    assert "Traceback" not in done.stderr
    assert drawn_durations_us(tmp_path) == [1_900_000]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("{", "JSONDecodeError"), ("[]", "no boot report of this version"), ("{}", "no boot report of this version")],
)
def test_a_boot_report_that_is_none_is_one_line_and_an_exit_code(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "boot.json").write_text(content)
    command = [sys.executable, "-m", "f5_worker", "boot-report", str(tmp_path / "boot.json"), "--out", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert said in done.stderr
    assert "Traceback" not in done.stderr
