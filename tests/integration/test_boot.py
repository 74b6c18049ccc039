"""The boot's children and the join, in a process of their own (they fork and reap)."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

import model_cache_init
from f5_worker import boot, hub
from f5_worker.cache import HubCache
from f5_worker.errors import WeightsUnavailable
from f5_worker.placement import choose
from f5_worker.report import Timeline, process_start_unix_s
from tests.integration.conftest import FILES, World, assert_whole
from tests.worker_process import ROOT, until


def start(world: World) -> dict[str, str]:
    env: dict[str, str] = {}
    settings = world.settings
    boot.start_restore(FILES, choose(settings, FILES), settings, world.store, env)
    return env


def join(world: World, env: dict[str, str]):
    return boot.join(FILES, world.settings, world.store, env, timeline=Timeline(process_start_unix_s()))


def test_the_child_restores_and_the_handler_learns_every_path(world: World) -> None:
    world.seed()
    env = start(world)
    report = join(world, env)
    assert_whole(report)
    assert report.bucket_outcome == "hit"
    assert [p.lane for p in report.phases] == ["boot", "restore", "restore"]


def test_after_the_join_the_hub_client_is_offline_and_looks_into_the_cache(world: World) -> None:
    world.seed()
    env = start(world)
    report = join(world, env)
    assert (env["HF_HUB_OFFLINE"], env["HF_HOME"], env["HF_HUB_CACHE"]) == ("1", str(report.cache_dir), f"{report.cache_dir}/hub")


def test_a_killed_child_is_replaced_by_a_restore_in_the_handler(world: World) -> None:
    world.seed()
    env = start(world)
    os.kill(int(env["F5_RESTORE_PID"]), signal.SIGKILL)
    assert_whole(join(world, env))


def test_sigterm_ends_a_child_that_does_not_heed_it_within_seconds() -> None:
    env: dict[str, str] = {}
    boot._start_child("RESTORE", env, lambda _stop: threading.Event().wait() and b"")
    started = time.monotonic()
    os.kill(int(env["F5_RESTORE_PID"]), signal.SIGTERM)
    assert boot._childs_report("RESTORE", env, 60) == b""
    assert time.monotonic() - started < 30


def test_a_child_that_outlives_its_deadlines_is_one_clear_error_and_no_second_try(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    env: dict[str, str] = {}
    boot._start_child("RESTORE", env, lambda _stop: threading.Event().wait() and b"")
    monkeypatch.setattr(boot, "HUB_DEADLINE_S", -world.settings.restore_deadline_s + 0.1)
    with pytest.raises(WeightsUnavailable, match="had not arrived"):
        join(world, env)
    assert world.proxy.log == []


def test_a_boot_that_cannot_fork_still_becomes_the_handler(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[str, list[str], dict[str, str]]] = []

    def no_fork() -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "fork", no_fork)
    monkeypatch.setattr(os, "execve", lambda *call: became.append(call))
    for name, value in world.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MODEL_CACHE_DIR", str(world.root / "first"))
    monkeypatch.setattr(model_cache_init, "choose", lambda *_: [HubCache(world.root / "first")])
    model_cache_init.main([])
    [(_, command, env)] = became
    assert command[-1].endswith("handler.py")
    assert env["HF_HOME"] == str(world.root / "first")


def test_a_pid_that_is_no_child_of_ours_is_replaced_by_a_restore_in_the_handler(world: World) -> None:
    world.seed()
    assert_whole(join(world, {"F5_RESTORE_PID": "1", "F5_RESTORE_FD": "0"}))


def test_a_handler_started_alone_restores_by_itself(world: World) -> None:
    world.seed()
    env: dict[str, str] = {}
    assert_whole(join(world, env))
    assert env["HF_HOME"] == str(world.root / "first")


def test_weights_that_nobody_has_are_one_error_with_every_cause_and_the_client_stays_online(world: World) -> None:
    world.hub.fail_status = 500
    env = start(world)
    with pytest.raises(WeightsUnavailable, match=r"STORE_NOT_FOUND.*HUB_UNAVAILABLE"):
        join(world, env)
    assert "HF_HUB_OFFLINE" not in env


def test_a_users_own_hub_time_outs_stay() -> None:
    env = {"HF_HUB_ETAG_TIMEOUT": "77"}
    hub.set_client_env(env, HubCache(Path("/x")))
    assert env["HF_HUB_ETAG_TIMEOUT"] == "77"
    assert env["HF_HOME"] == "/x"


def test_the_boot_loads_neither_torch_nor_runpod() -> None:
    code = (
        'import model_cache_init, sys; assert not {"torch", "runpod", "boto3", "huggingface_hub"} & set(sys.modules), sorted(sys.modules)'
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_signal_that_comes_before_the_handler_listens_ends_pid_1_all_the_same(tmp_path: Path) -> None:
    """In a PID namespace of its own, as in a container: there the kernel drops what the process does not listen to."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "MODEL_CACHE_DIR": str(tmp_path / "models"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-u", str(ROOT / "model_cache_init.py")]
    outside = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen = partial(until, timeout_s=30, explain=lambda: "the boot did not come so far")
    pid = seen(lambda: Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split())[0]
    seen(lambda: b"model_cache_init" in Path(f"/proc/{pid}/cmdline").read_bytes())
    seen(lambda: int(re.search(r"SigBlk:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())[1], 16) >> (signal.SIGTERM - 1) & 1)
    os.kill(int(pid), signal.SIGTERM)
    _, said = outside.communicate(timeout=60)
    assert outside.returncode == 128 + signal.SIGTERM, said
