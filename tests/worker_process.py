"""Starts the worker as the container does: by the command that stands in the Dockerfile's CMD, in its own process group."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, TypeVar

ROOT = Path(__file__).parent.parent
POLL_S = 0.02
T = TypeVar("T")


def until(found: Callable[[], T], timeout_s: float, explain: Callable[[], str]) -> T:
    """What `found` gives once it is true. Raises AssertionError, with the explanation, when that takes longer."""
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"nothing after {timeout_s} s:\n{explain()}"
        time.sleep(POLL_S)
    return value


@dataclass
class Started:
    """A program that was started; what it writes goes to `output`."""

    process: subprocess.Popen[bytes]
    output: Path
    ready_s: ClassVar[float] = 90  # torch is imported on 2 cores that others use as well

    def log(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def until(self, found: Callable[[], T], *, timeout_s: float | None = None) -> T:
        """What `found` gives once it is true; fails with the log, at once when the program ends before that."""

        def found_alive() -> T:
            value = found()
            assert value or self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log()}"
            return value

        return until(found_alive, timeout_s or self.ready_s, self.log)

    def ended(self, timeout_s: float | None = None) -> int:
        """The exit code."""
        try:
            return self.process.wait(timeout_s or self.ready_s)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(f"still running after {exc.timeout} s:\n{self.log()}") from None


def container_command() -> list[str]:
    """The Dockerfile's CMD (exec form), with this interpreter for `python`."""
    found = re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    command = json.loads(found[-1])
    assert command[0] == "python", command
    return [sys.executable, *command[1:]]


def base_env() -> dict[str, str]:
    """What a fresh container has, and no setting of the caller's: no bucket, no hub token, no proxy."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
    return kept | {"RUNPOD_SKIP_GPU_CHECK": "true"}  # also where a GPU is, the tests are of the CPU


@contextmanager
def worker_process(
    env: Mapping[str, str],
    *,
    home: Path,
    arguments: Sequence[str] = (),
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.STDOUT,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the worker until the block ends; then nothing of its process group is left.

    Args:
        home: `$HOME` of the worker: the SDK reads `~/.runpod/config.toml`.
    """
    command = [*container_command(), *arguments]
    full_env = {**base_env(), "HOME": str(home), **env}
    process = subprocess.Popen(
        command, cwd=ROOT, env=full_env, stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        kill_group(process)


@contextmanager
def killed_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill the process's group when the block lasts longer, which ends a read of its output as well; the event says that it did."""
    fired = threading.Event()

    def fire() -> None:
        fired.set()
        _signal_group(process)

    timer = threading.Timer(seconds, fire)
    timer.daemon = True
    timer.start()
    try:
        yield fired
    finally:
        timer.cancel()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the whole group: the SDK's ping process survives its parent."""
    _signal_group(process)
    process.wait(timeout=30)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


def _signal_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
