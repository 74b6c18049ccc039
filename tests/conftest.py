"""What every test gets: an environment without the caller's settings, logging put back, and no network but loopback."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from f5_worker.logs import OURS

_SETTINGS = ("AWS_", "S3_", "F5_", "HF_", "RUNPOD_", "MODEL_CACHE_DIR", "ENABLE_S3", "FLASH_ATTN", "DEFAULT_VOICE", "LOG_LEVEL", "XDG_")
_KEPT = {"AWS_CA_BUNDLE"}
# The same examples on every machine, however slow it is; `--hypothesis-profile default` draws others.
hypothesis.settings.register_profile(
    "tests", derandomize=True, deadline=None, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the machine or of another test reaches this one; $HOME is empty (the SDK and boto3 read files there)."""
    for name in list(os.environ):
        if name.startswith(_SETTINGS) and name not in _KEPT:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    loggers = [logging.getLogger(), *map(logging.getLogger, OURS)]
    levels, handlers = [logger.level for logger in loggers], loggers[0].handlers[:]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    loggers[0].handlers[:] = handlers


@pytest.fixture(autouse=True)
def restore_signals() -> Iterator[None]:
    """The boot blocks SIGTERM and the operator commands handle it: run here, they would pass that on to every process of later tests."""
    mask, handler = signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`tmpfs("size=10m")` mounts a file system with these options and gives its directory.

    Where mounting is refused the test fails, so that nobody takes an unproven rule for a proven one; ALLOW_SKIP_MOUNT=1 skips it.
    """
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"tmpfs-{len(mounted)}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True, check=False)
        if done.returncode:
            refused = pytest.skip if os.environ.get("ALLOW_SKIP_MOUNT") == "1" else pytest.fail
            refused(f"mounting a tmpfs needs privileges (CAP_SYS_ADMIN), or ALLOW_SKIP_MOUNT=1: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anywhere but this machine fails the test that makes it."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6} and isinstance(address, tuple) and address[0] not in _LOOPBACK:
            raise AssertionError(f"a test connects to {address[0]}, which is not loopback")
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The fault matrix as a list: every rule that tests/integration proved through a fault, and over how many cases."""
    ran = [(report.outcome, report) for key in ("passed", "failed") for report in terminalreporter.stats.get(key, [])]
    rules = Counter((report.nodeid.partition("[")[0], outcome) for outcome, report in ran if report.when == "call")
    faults = {rule: count for rule, count in sorted(rules.items()) if rule[0].startswith("tests/integration/")}
    if faults:
        terminalreporter.section(f"fault matrix: {len(faults)} rules, {sum(faults.values())} cases")
        for (rule, outcome), count in faults.items():
            terminalreporter.line(f"{outcome:<7}{count:>4}  {rule.removeprefix('tests/integration/')}")
