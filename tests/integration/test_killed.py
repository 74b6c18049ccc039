"""Killed at random moments, stopped, doubled: the disk and the bucket are whole or absent for whoever comes next."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from f5_worker.cache import HubCache
from f5_worker.fetch import Limits
from f5_worker.manifest import manifest_key, parse_manifest
from f5_worker.publish import CLAIM_NAME
from tests.fakes import fault_proxy as faults
from tests.files import COMMIT, seed_cache
from tests.integration.conftest import BIG, CONTENT, FILES, World, assert_no_secret, assert_whole

KILLS = 50
MANIFEST = manifest_key("models/", BIG.repo, COMMIT)


def start(world: World, action: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, **world.env, "HF_ENDPOINT": world.hub.url}
    command = [sys.executable, "-m", "tests.integration.runner", action, str(world.root)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def end(process: subprocess.Popen[bytes], timeout_s: float = 60) -> str:
    output, _ = process.communicate(timeout=timeout_s)
    return output.decode(errors="replace")


def run(world: World, action: str) -> float:
    """One undisturbed run; its seconds."""
    begin = time.monotonic()
    process = start(world, action)
    output = end(process)
    assert process.returncode == 0, output
    assert_no_secret(output)
    return time.monotonic() - begin


def kill_at(process: subprocess.Popen[bytes], moment_s: float) -> None:
    """SIGKILL at a moment after the start, or let it end when it is faster."""
    try:
        process.wait(timeout=moment_s)
    except subprocess.TimeoutExpired:
        process.kill()
    end(process)


def assert_every_visible_file_is_whole(cache: HubCache) -> None:
    for file in FILES:
        for place in (cache.snapshot(file), cache.blob(file)):
            if place.exists():
                assert place.read_bytes() == CONTENT[file.path], place


def assert_bucket_is_whole_or_says_nothing(world: World) -> None:
    """What the bucket shows under a name is complete; a manifest is there only when every file is."""
    keys = world.keys()
    for file in FILES:
        if file.key("models/") in keys:
            assert world.client.get_object(Bucket=world.bucket, Key=file.key("models/"))["Body"].read() == CONTENT[file.path]
    if MANIFEST in keys:
        assert {f.key("models/") for f in FILES} <= set(keys)


@pytest.mark.timeout(600)
def test_a_restore_killed_at_random_moments_leaves_only_whole_files_and_is_resumed(world: World) -> None:
    world.seed()
    full_s = run(world, "restore")
    cache, moments = HubCache(world.root / "first"), random.Random(7)
    for kill in range(KILLS):
        if kill % 5 == 0:  # each disk is used by five boots, all killed
            subprocess.run(["rm", "-rf", str(cache.root)], check=True)
        kill_at(start(world, "restore"), moments.uniform(0.1, full_s))
        assert_every_visible_file_is_whole(cache)
    report = world.restore()
    assert_whole(report)


@pytest.mark.timeout(600)
def test_a_publish_killed_at_random_moments_leaves_only_whole_objects_and_is_completed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in FILES:
        seed_cache(HubCache(world.root / "first"), file, CONTENT[file.path])
    full_s = run(world, "publish")
    moments = random.Random(8)
    for _ in range(KILLS):
        for key in list(world.keys()):
            world.client.delete_object(Bucket=world.bucket, Key=key)
        kill_at(start(world, "publish"), moments.uniform(0.3, full_s))
        assert_bucket_is_whole_or_says_nothing(world)
    world.client.delete_object(Bucket=world.bucket, Key=f"models/org--model/{COMMIT}/{CLAIM_NAME}")  # else waited for until it is stale
    run(world, "publish")
    assert set(world.keys()) == {MANIFEST, *(f.key("models/") for f in FILES)}


def wait_for_download(world: World) -> None:
    world.proxy.wait_for(lambda log: any(r.status == 206 for r in log), timeout_s=30)


def test_sigterm_ends_a_restore_soon_and_the_next_one_resumes_it(world: World) -> None:
    world.seed()
    world.proxy.fail(faults.slow(900_000), path="*model.safetensors", methods=("GET",))  # x 16 connections: above the stall bound
    process = start(world, "restore")
    world.proxy.wait_for(lambda log: any(r.status == 206 for r in log), timeout_s=30)
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    end(process, timeout_s=30)
    assert time.monotonic() - begin < 5
    assert_every_visible_file_is_whole(HubCache(world.root / "first"))
    world.proxy.heal()
    report = world.restore()
    assert_whole(report)
    assert report.bucket_outcome == "hit"


def test_sigterm_aborts_the_upload_and_leaves_no_parts_behind(world: World) -> None:
    for file in FILES:
        seed_cache(HubCache(world.root / "first"), file, CONTENT[file.path])
    process = start(world, "publish")
    world.proxy.wait_for(lambda log: any("uploads" in r.query for r in log), timeout_s=30)  # a multipart upload was begun
    process.send_signal(signal.SIGTERM)
    end(process)
    assert list(world.store.pending_uploads("models/")) == []
    assert_bucket_is_whole_or_says_nothing(world)


def finish_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    outputs = [end(p, timeout_s=120) for p in processes]
    assert [p.returncode for p in processes] == [0] * len(processes), outputs


def test_two_restores_into_one_directory_fetch_every_file_once(world: World) -> None:
    world.seed()
    finish_all([start(world, "restore") for _ in range(2)])
    assert_whole(world.restore())
    fetched = sum(r.sent_bytes for r in world.proxy.log if r.status in {200, 206})
    assert fetched < 1.5 * sum(f.size_bytes for f in FILES)


@pytest.mark.timeout(300)
def test_five_publishers_at_once_upload_little_more_than_one(world: World) -> None:
    for file in FILES:
        seed_cache(HubCache(world.root / "first"), file, CONTENT[file.path])
    world.changes["PUBLISH_JITTER_S"] = "1"
    finish_all([start(world, "publish") for _ in range(5)])
    assert set(world.keys()) == {MANIFEST, *(f.key("models/") for f in FILES)}
    sent = sum(r.received_bytes for r in world.proxy.log if r.method in {"PUT", "POST"})
    assert sent < 2.2 * sum(f.size_bytes for f in FILES)
    body = world.client.get_object(Bucket=world.bucket, Key=MANIFEST)["Body"].read()
    assert set(parse_manifest(body)) == set(FILES)


def test_a_wrong_object_is_healed_by_the_next_publication(world: World) -> None:
    world.seed()
    world.client.put_object(Bucket=world.bucket, Key=BIG.key("models/"), Body=b"\0" * BIG.size_bytes)
    report = world.restore()
    assert report.wrong_keys == [BIG.key("models/")]
    from f5_worker.publish import Publisher

    assert Publisher(world.store, world.settings, FILES, report).start().wait(60)
    body = world.client.get_object(Bucket=world.bucket, Key=BIG.key("models/"))["Body"].read()
    assert body == CONTENT[BIG.path]


def test_limits_used_in_production_are_the_documented_ones() -> None:
    limits = Limits()
    assert (limits.first_byte_s, limits.stall_bytes_per_s, limits.stall_window_s) == (3.0, 5e6, 5.0)
