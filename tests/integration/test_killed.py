"""Killed at random moments, stopped, doubled: the disk and the bucket are whole or absent for whoever comes next."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from f5_worker import publish, restore
from f5_worker.cache import HubCache
from f5_worker.fetch import Limits
from f5_worker.manifest import manifest_key, parse_manifest
from f5_worker.placement import choose
from f5_worker.publish import CLAIM_NAME, Publisher
from f5_worker.report import Timeline, process_start_unix_s
from tests.fakes import fault_proxy as faults
from tests.files import COMMIT, seed_cache
from tests.integration import runner
from tests.integration.conftest import BIG, CONTENT, FILES, World, assert_no_secret, assert_whole

KILLS = 50
MANIFEST = manifest_key("models/", BIG.repo, COMMIT)
SENT = tuple(f for f in FILES if f.size_bytes)  # an empty file takes no transfer
TOTAL_BYTES = sum(f.size_bytes for f in SENT)
LINE_BYTES_PER_S = 60e6  # of each connection: the client stays close to what the proxy has passed on
SIGKILLED = -9
# A dead publisher's claim is stale when the store's clock has moved on by a second, and its parts are as dead as its claim.
CONSTANTS = {"CLAIM_SETTLE_S": 0.05, "CLAIM_POLL_S": 0.05, "CLAIM_STALE_S": 0.0}


def start(world: World, action: str, **constants: float) -> runner.Run:
    env = world.env | {"HOME": str(world.root), "HF_ENDPOINT": world.hub.url}
    log = world.root / f"run-{len(list(world.root.glob('run-*.log')))}.log"
    return runner.start(action, world.root, env, log, constants=constants)


class Killer:
    """SIGKILLs a run when a number of bytes has passed the line, from inside the proxy: the bytes after it never leave it."""

    def __init__(self, after_bytes: int, delay_s: float = 0.0) -> None:
        self._left, self._delay_s = after_bytes, delay_s
        self._run: runner.Run | None = None
        self._armed, self._struck, self._lock = threading.Event(), threading.Event(), threading.Lock()

    def aim(self, run: runner.Run) -> str:
        """Wait for the kill; what the run logged before it."""
        self._run = run
        self._armed.set()
        logged = run.end()
        assert self._struck.is_set(), f"ended by itself with {run.process.exitcode}: {logged}"
        return logged

    def strike(self) -> None:
        """Kill when the delay has passed, or the run has ended."""
        assert self._armed.wait(10)
        assert self._run
        self._struck.set()
        time.sleep(self._delay_s)  # the random moment itself: nothing is waited for
        self._run.process.kill()

    def strike_beside(self) -> None:
        """Kill after the delay while the line goes on."""
        threading.Thread(target=self.strike, daemon=True).start()

    def count(self, size: int) -> None:
        with self._lock:
            due = 0 < self._left <= size
            self._left -= size
        if due:
            self.strike_beside() if self._delay_s else self.strike()

    def watch(self, body: Iterator[bytes]) -> Iterator[bytes]:
        for data in body:
            for at in range(0, len(data), 65536):
                self.count(len(data[at : at + 65536]))
                yield data[at : at + 65536]

    def fault(self) -> faults.Fault:
        """For downloads: a slow line that counts."""
        return faults.Fault("kill", after=lambda r: replace(r, body=self.watch(r.body), bytes_per_s=LINE_BYTES_PER_S))

    def hook(self) -> faults.Fault:
        """For one request: it reaches the store, and the run is killed while it does."""
        return faults.hook(lambda _: self.strike_beside())


def assert_every_visible_file_is_whole(cache: HubCache) -> None:
    for file in FILES:
        for place in (cache.snapshot(file), cache.blob(file)):
            if place.exists():
                assert place.read_bytes() == CONTENT[file.path], place


def keys_below_the_prefix(world: World) -> set[str]:
    return {key for key in list(world.keys()) if key.startswith(world.settings.models_prefix)}


def expected_keys(world: World) -> set[str]:
    prefix = world.settings.models_prefix
    return {manifest_key(prefix, BIG.repo, COMMIT), *(f.key(prefix) for f in FILES)}


def assert_bucket_is_whole_or_says_nothing(world: World) -> set[str]:
    """What the bucket shows under a name is complete; a manifest is there only when every file is. The keys it has."""
    prefix, keys, client = world.settings.models_prefix, keys_below_the_prefix(world), world.client
    for file in FILES:
        if file.key(prefix) in keys:
            assert client.get_object(Bucket=world.bucket, Key=file.key(prefix))["Body"].read() == CONTENT[file.path]
    assert manifest_key(prefix, BIG.repo, COMMIT) not in keys or expected_keys(world) <= keys
    return keys


def slow_uploads(world: World, aimed: Sequence[Killer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let request bodies of the files trickle through the proxy, and count them for whom is aimed."""
    handler, ends = world.proxy._server.RequestHandlerClass, tuple(f.path for f in SENT)
    read = handler._body

    def body(self: Any, request: faults.Request) -> Iterator[bytes]:
        is_file = request.method == "PUT" and request.path.endswith(ends)
        for data in read(self, request):
            if is_file and aimed:
                world.proxy.pause(len(data) / LINE_BYTES_PER_S)
                for killer in aimed:
                    killer.count(len(data))
            yield data

    monkeypatch.setattr(handler, "_body", body)


def publish_in_process(world: World) -> None:
    """The next worker, which has the files on its disk: it must come to an end, and well."""
    settings = world.settings
    report = restore.restore(FILES, choose(settings, FILES), settings, None, timeline=Timeline(process_start_unix_s()))
    assert_whole(report)
    assert Publisher(world.store, settings, FILES, report).start().wait(60)


@pytest.mark.timeout(600)
def test_a_restore_killed_at_random_moments_leaves_only_whole_files_and_the_next_boot_is_whole(world: World) -> None:
    """Four in five while the bytes arrive, the others between the last byte and the end (digest, rename, link)."""
    world.seed()
    moments, seen = random.Random(7), Counter[str]()
    for kill in range(KILLS):
        boot = replace(world, root=world.root / f"disk-{kill}")
        boot.root.mkdir()
        killer = Killer(moments.randint(1, TOTAL_BYTES - 1)) if kill % 5 else Killer(TOTAL_BYTES, delay_s=moments.uniform(0, 0.1))
        for file in SENT:
            world.proxy.fail(killer.fault(), path=f"*{file.path}", methods=("GET",))
        run = start(boot, "restore")
        assert_no_secret(killer.aim(run))
        cache = HubCache(boot.root / "first")
        assert_every_visible_file_is_whole(cache)
        seen["killed"] += run.process.exitcode == SIGKILLED
        seen["in the transfer"] += not cache.snapshot(BIG).exists() and bool(list(cache.root.rglob("*.f5-part")))
        world.proxy.heal()
        report = boot.restore()
        assert_whole(report)
        assert report.bucket_outcome in {"hit", "off"}  # off: all was there
        seen["resumed"] += report.bucket_bytes < TOTAL_BYTES
        shutil.rmtree(boot.root)
    assert seen["killed"] >= KILLS * 4 // 5, seen
    assert seen["in the transfer"] >= KILLS // 2, seen
    assert seen["resumed"] > 0, seen


@pytest.mark.timeout(600)
def test_a_publish_killed_at_random_moments_leaves_only_whole_objects_and_the_next_one_completes_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three in five while the bytes leave (parts, single objects), one while a multipart is completed, one before the manifest."""
    for file in FILES:
        seed_cache(HubCache(world.root / "first"), file, CONTENT[file.path])
    for name, value in CONSTANTS.items():
        monkeypatch.setattr(publish, name, value)
    aimed: list[Killer] = []  # at what is uploaded now
    slow_uploads(world, aimed, monkeypatch)
    moments, seen = random.Random(8), Counter[str]()
    for kill in range(KILLS):
        boot = replace(world, changes={"S3_MODELS_PREFIX": f"kill-{kill}/"})
        keys, manifest = expected_keys(boot), manifest_key(f"kill-{kill}/", BIG.repo, COMMIT)
        if kill % 5 == 0:
            killer = Killer(0, delay_s=moments.uniform(0, 0.008))
            world.proxy.fail(killer.hook(), path=f"*/{manifest}", methods=("GET",), times=1)
        elif kill % 5 == 1:
            killer = Killer(0, delay_s=moments.uniform(0.001, 0.05))
            world.proxy.fail(killer.hook(), methods=("POST",), query="uploadId=", times=1)
        else:
            killer = Killer(moments.randint(1, TOTAL_BYTES - 1))
            aimed.append(killer)
        run = start(boot, "publish", **CONSTANTS)
        assert_no_secret(killer.aim(run))
        aimed.clear()
        world.proxy.heal()
        left = assert_bucket_is_whole_or_says_nothing(boot)
        seen["killed"] += run.process.exitcode == SIGKILLED
        seen["in the big file"] += BIG.key(boot.settings.models_prefix) not in left
        seen["before the manifest"] += keys - {manifest} <= left and manifest not in left
        publish_in_process(boot)
        # The claim of a worker that died after its manifest keeps nobody from anything; `cache gc` takes it.
        assert keys_below_the_prefix(boot) == keys | ({k for k in left if k.endswith(CLAIM_NAME)} if manifest in left else set())
        assert list(boot.store.pending_uploads(boot.settings.models_prefix)) == []
    assert seen["killed"] >= KILLS * 4 // 5, seen
    assert seen["in the big file"] >= KILLS // 3, seen
    assert seen["before the manifest"] > 0, seen


def test_sigterm_ends_a_restore_soon_and_the_next_one_resumes_it(world: World) -> None:
    world.seed()
    world.proxy.fail(faults.slow(900_000), path="*model.safetensors", methods=("GET",))  # x 16 connections: above the stall bound
    run = start(world, "restore")
    world.proxy.wait_for(lambda log: any(r.status == 206 for r in log), timeout_s=30)
    run.process.terminate()
    begin = time.monotonic()
    run.end(timeout_s=30)
    assert time.monotonic() - begin < 5
    assert_every_visible_file_is_whole(HubCache(world.root / "first"))
    world.proxy.heal()
    report = world.restore()
    assert_whole(report)
    assert report.bucket_outcome == "hit"


def test_sigterm_aborts_the_upload_and_leaves_no_parts_behind(world: World) -> None:
    for file in FILES:
        seed_cache(HubCache(world.root / "first"), file, CONTENT[file.path])
    run = start(world, "publish")
    world.proxy.wait_for(lambda log: any("uploads" in r.query for r in log), timeout_s=30)  # a multipart upload was begun
    run.process.terminate()
    run.end()
    assert list(world.store.pending_uploads("models/")) == []
    assert_bucket_is_whole_or_says_nothing(world)


def finish_all(runs: Sequence[runner.Run]) -> None:
    outputs = [run.end(timeout_s=120) for run in runs]
    assert [run.process.exitcode for run in runs] == [0] * len(runs), outputs


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
    finish_all([start(world, "publish", CLAIM_POLL_S=0.5) for _ in range(5)])
    assert set(world.keys()) == {MANIFEST, *(f.key("models/") for f in FILES)}
    sent = sum(r.received_bytes for r in world.proxy.log if r.method in {"PUT", "POST"})
    assert sent < 2.2 * sum(f.size_bytes for f in FILES)
    body = world.client.get_object(Bucket=world.bucket, Key=MANIFEST)["Body"].read()
    assert set(parse_manifest(body)) == set(FILES)


def test_a_wrong_object_is_healed_by_the_next_publication(world: World) -> None:
    world.seed()
    world.client.put_object(Bucket=world.bucket, Key=BIG.key("models/"), Body=b"\0" * BIG.size_bytes)
    report = world.restore()
    assert list(report.wrong_keys) == [BIG.key("models/")]
    assert Publisher(world.store, world.settings, FILES, report).start().wait(60)
    body = world.client.get_object(Bucket=world.bucket, Key=BIG.key("models/"))["Body"].read()
    assert body == CONTENT[BIG.path]


def test_limits_used_in_production_are_the_documented_ones() -> None:
    limits = Limits()
    assert (limits.first_byte_s, limits.stall_bytes_per_s, limits.stall_window_s) == (3.0, 5e6, 5.0)
