"""`make demo` as a user runs it, with the tiny model: to its end, and interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from f5_worker.manifest import load_models, manifest_key
from tests.worker_process import ROOT, kill_group, killed_after, until

DEMO_S = 240
BOOTING_S = 90
CLEAR_UP_S = 20


@contextmanager
def demo(out: Path) -> Iterator[subprocess.Popen[bytes]]:
    env = os.environ | {"DEMO_MODEL": "tiny", "DEMO_OUT": str(out)}
    out.mkdir()
    with (out / "demo.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.demo"],
            cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        kill_group(process)
        for pid in processes_of(out):  # only when the test failed
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def processes_of(out: Path) -> dict[int, str]:
    """Every process that was started for this demo, whoever its parent is now: the folder is in its arguments or environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (folder / "cmdline").read_bytes()
            if str(out).encode() in arguments + (folder / "environ").read_bytes():
                found[int(folder.name)] = arguments.replace(b"\0", b" ").decode(errors="replace")
    return found


def test_the_demo_boots_twice_and_the_second_boot_comes_from_the_bucket_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with demo(out) as process:
        code = process.wait(DEMO_S)
        text = (out / "demo.log").read_text()
        assert code == 0, text
        assert processes_of(out) == {}
    audio = (out / "first.wav").read_bytes()
    assert audio[:4] == b"RIFF"
    assert (out / "second.wav").read_bytes() == audio
    assert re.search(r"^READY .* hub +first$", text, re.MULTILINE)
    assert re.search(r"^READY .* bucket +second$", text, re.MULTILINE)
    assert re.search(r"^asked of the hub +- +0  hub +second$", text, re.MULTILINE)
    keys = Counter(re.findall(r"^  \d\d:\d\d:\d\d +[\d,]+  (.+)$", text, re.MULTILINE))
    files = load_models(out / "demo-model" / "models.json")["demo-tiny"].files
    expected = {f.key("models/") for f in files} | {manifest_key("models/", f.repo, f.commit) for f in files}
    assert {key for key in keys if not key.startswith("output/")} == expected
    assert len(keys) == len(expected) + 1  # the result of the second boot
    assert set(keys.values()) == {1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    with demo(out) as process:

        def log() -> str:
            return (out / "demo.log").read_text(errors="replace")

        until(lambda: " first | " in log() or process.poll() is not None, BOOTING_S, log)
        running = processes_of(out).values()
        assert any("weed server" in command for command in running), running
        assert any("handler.py" in command or "model_cache_init.py" in command for command in running), running
        process.send_signal(number)
        assert process.wait(CLEAR_UP_S) == 128 + number, log()
        assert processes_of(out) == {}
    assert "Traceback" not in log()


def test_a_worker_that_hangs_without_a_word_is_ended_in_time() -> None:
    process = subprocess.Popen(["sleep", "600"], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout
        with killed_after(process, 0.2) as fired:
            assert process.stdout.read() == b""
            assert process.wait(10) == -signal.SIGKILL
        assert fired.is_set()
    finally:
        kill_group(process)
