"""The restore against a real S3 server and the real hub client: sources, and every fault of the bucket, the hub and the disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from f5_worker.breaker import Breaker
from f5_worker.cache import PART_SUFFIX, RANGES_SUFFIX, HubCache
from f5_worker.errors import StoreUnavailable
from f5_worker.fetch import Limits
from f5_worker.manifest import dump_manifest, manifest_key
from f5_worker.report import Timeline, process_start_unix_s
from f5_worker.restore import restore
from tests.fakes import fault_proxy as faults
from tests.fakes.fault_proxy import Fault
from tests.fakes.seaweed import READER_KEY, READER_SECRET
from tests.files import COMMIT, POISONED_MANIFESTS, seed_cache
from tests.integration.conftest import BIG, CONTENT, FILES, World, assert_no_secret, assert_whole

MODEL = "*model.safetensors"
MANIFEST = manifest_key("models/", BIG.repo, COMMIT)


def test_a_full_bucket_serves_every_file_and_the_hub_is_asked_for_nothing(world: World) -> None:
    world.seed()
    report = world.restore()
    assert_whole(report)
    assert set(report.sources.values()) == {"bucket"}
    assert (report.bucket_outcome, world.hub.requests) == ("hit", [])


def test_an_empty_bucket_costs_at_most_one_request_a_connection_and_the_hub_serves(world: World) -> None:
    report = world.restore()
    assert_whole(report)
    assert set(report.sources.values()) == {"hub"}
    assert report.bucket_outcome == "miss"
    assert len(world.proxy.log) <= Limits().connections + len(FILES)


def test_one_missing_object_comes_from_the_hub_alone(world: World) -> None:
    world.seed()
    world.client.delete_object(Bucket=world.bucket, Key=BIG.key("models/"))
    report = world.restore()
    assert_whole(report)
    assert {f.path for f, s in report.sources.items() if s == "hub"} == {BIG.path}
    assert report.bucket_outcome == "partial"


def test_what_is_on_the_disk_is_not_fetched_again(world: World) -> None:
    world.seed()
    world.restore()
    asked = len(world.proxy.log)
    report = world.restore()
    assert set(report.sources.values()) == {"cache"}
    assert len(world.proxy.log) == asked


def test_the_platforms_mount_comes_first_and_is_linked_not_copied(world: World) -> None:
    world.seed()
    mount = HubCache(world.root / "mount")
    for file in FILES:
        seed_cache(mount, file, CONTENT[file.path])
    (world.root / "platform").symlink_to(mount.root / "hub")
    report = world.restore()
    assert_whole(report)
    assert set(report.sources.values()) == {"mount"}
    assert world.proxy.log == []
    assert report.paths[BIG].resolve() == mount.blob(BIG)


# name -> (fault, on what, how often, expected outcome, who then serves the model, is the bucket left alone afterwards)
TRANSPORT_FAULTS: dict[str, tuple[Fault, str, int | None, str, str, bool]] = {
    "503 SlowDown without Retry-After, twice": (faults.slow_down(), MODEL, 2, "hit", "bucket", False),
    "503 SlowDown with Retry-After, once": (faults.slow_down(1), MODEL, 1, "hit", "bucket", False),
    "503 SlowDown for ever": (faults.slow_down(), "*", None, "STORE_UNAVAILABLE", "hub", True),
    "500 once": (faults.status(500, code="InternalError"), MODEL, 1, "hit", "bucket", False),
    "500 for ever": (faults.status(500, code="InternalError"), "*", None, "STORE_UNAVAILABLE", "hub", True),
    "reset in mid-body, once": (faults.reset(1_000_000), MODEL, 1, "hit", "bucket", False),
    "reset in mid-body, always": (faults.reset(1000), MODEL, None, "STORE_UNAVAILABLE", "hub", True),
    "truncated body, once": (faults.truncated(1_000_000), MODEL, 1, "hit", "bucket", False),
    "stall after 1 KB": (faults.stall(1000), "*", None, "STORE_UNAVAILABLE", "hub", True),
    "black hole": (faults.black_hole(), "*", None, "STORE_UNAVAILABLE", "hub", True),
    "slow line": (faults.slow(20_000), "*", None, "STORE_UNAVAILABLE", "hub", True),
    "server ignores Range": (faults.ignore_range(), "*", None, "hit", "bucket", False),
    "wrong Content-Range": (faults.wrong_content_range(), MODEL, None, "STORE_CORRUPT", "hub", False),
    "same-length wrong bytes": (faults.corrupt(), MODEL, None, "STORE_CORRUPT", "hub", False),
    "longer object": (faults.resized(100), MODEL, None, "STORE_CORRUPT", "hub", False),
    "shorter object": (faults.resized(-100), MODEL, None, "STORE_CORRUPT", "hub", False),
    "403 on GET": (faults.status(403, code="AccessDenied"), "*", None, "STORE_FORBIDDEN", "hub", False),
    "expired credentials": (faults.status(400, code="ExpiredToken"), "*", None, "STORE_FORBIDDEN", "hub", False),
    "unknown key id": (faults.status(403, code="InvalidAccessKeyId"), "*", None, "STORE_FORBIDDEN", "hub", False),
    "clock skew": (faults.status(403, code="RequestTimeTooSkewed"), "*", None, "STORE_FORBIDDEN", "hub", False),
    "wrong region": (faults.status(301, code="PermanentRedirect"), "*", None, "STORE_WRONG_REGION", "hub", False),
    "no bucket": (faults.status(404, code="NoSuchBucket"), "*", None, "STORE_NO_BUCKET", "hub", False),
    "a store that refuses checksum headers and If-None-Match": (faults.backblaze(), "*", None, "hit", "bucket", False),
}


@pytest.mark.parametrize("name", TRANSPORT_FAULTS)
def test_a_fault_of_the_bucket_never_stops_the_restore(world: World, name: str, caplog: pytest.LogCaptureFixture) -> None:
    fault, path, times, outcome, source, left_alone = TRANSPORT_FAULTS[name]
    world.seed()
    world.proxy.fail(fault, path=path, methods=("GET",), times=times)
    with caplog.at_level(logging.DEBUG, logger="f5_worker"):
        report = world.restore()
    assert_whole(report)
    assert report.bucket_outcome == outcome
    assert report.sources[BIG] == source
    s3 = world.settings.s3
    assert s3
    assert report.cache_dir
    assert (Breaker(HubCache(report.cache_dir), s3).open_cause() is not None) == left_alone
    assert (list(report.wrong_keys) == [BIG.key("models/")]) == (outcome == "STORE_CORRUPT")
    assert_no_secret(caplog.text)


def test_an_endpoint_that_is_a_web_server_is_not_taken_for_an_empty_bucket(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.changes["AWS_ENDPOINT_URL"] = world.hub.url  # answers 404, as a web server does
    with caplog.at_level(logging.WARNING, logger="f5_worker"):
        report = world.restore()
    assert_whole(report)
    assert report.bucket_outcome == "STORE_WRONG_REGION"
    assert "AWS_ENDPOINT_URL does not point at an S3 endpoint" in caplog.text


def test_an_object_replaced_during_the_download_is_never_half_used(world: World) -> None:
    world.seed()
    world.proxy.fail(faults.replaced(), path=MODEL, methods=("GET",), skip=1)
    report = world.restore()
    assert_whole(report)
    assert report.sources[BIG] == "hub"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://store.invalid"], ids=["refused", "no such host"])
def test_an_endpoint_that_is_not_there_is_left_alone(world: World, endpoint: str) -> None:
    world.changes["AWS_ENDPOINT_URL"] = endpoint
    report = world.restore()
    assert_whole(report)
    assert (report.bucket_outcome, set(report.sources.values())) == ("STORE_UNAVAILABLE", {"hub"})


def test_a_bucket_that_failed_is_not_asked_again_on_this_disk(world: World) -> None:
    world.proxy.fail(faults.black_hole(), methods=("GET",))
    world.restore(FILES[:2])
    asked = len(world.proxy.log)
    report = world.restore()
    assert_whole(report)
    assert report.bucket_outcome == "skipped"
    assert len(world.proxy.log) == asked


def test_a_bucket_that_is_left_alone_is_asked_when_the_hub_is_dead(world: World) -> None:
    world.seed()
    world.hub.fail_status = 401
    assert world.settings.s3
    Breaker(HubCache(world.settings.cache_dir_candidates[0]), world.settings.s3).trip(StoreUnavailable("dead a while ago"))
    report = world.restore()
    assert_whole(report)
    assert (report.bucket_outcome, set(report.sources.values())) == ("hit", {"bucket"})


def test_a_dead_bucket_that_is_left_alone_and_a_dead_hub_end_with_the_cause_of_each(world: World) -> None:
    world.hub.fail_status = 401
    world.changes["AWS_ENDPOINT_URL"] = faults.refused_url()
    world.restore()
    report = world.restore()
    assert report.paths == {}
    assert any("HUB_UNAVAILABLE" in why and "STORE_UNAVAILABLE" in why for why in report.missing.values())


def test_what_a_failing_bucket_brought_is_resumed_after_a_dead_hub(world: World) -> None:
    world.seed()
    world.hub.fail_status = 401
    world.proxy.fail(faults.stall(1000), path=MODEL, methods=("GET",), skip=3)
    assert BIG in world.restore().missing
    world.proxy.heal()
    report = world.restore()
    assert_whole(report)
    assert 0 < report.bucket_bytes < BIG.size_bytes


@pytest.mark.parametrize("ending", ["time-out", "stop"])
def test_who_waits_in_vain_for_the_lock_leaves_its_owners_download_alone(world: World, ending: str) -> None:
    world.seed()
    settings, stop = replace(world.settings, restore_deadline_s=0.1 if ending == "time-out" else 300), threading.Event()
    owner, second = map(HubCache, settings.cache_dir_candidates)
    left = [owner.part(BIG).with_name(BIG.etag + suffix) for suffix in (PART_SUFFIX, PART_SUFFIX + RANGES_SUFFIX, ".1a2b.incomplete")]
    for part in left:
        part.write_bytes(b"half")
    if ending == "stop":
        stop.set()
    with owner.lock(timeout_s=1):
        report = restore(FILES, [owner, second], settings, world.store, timeline=Timeline(process_start_unix_s()), stop=stop)
    assert [part.exists() for part in left] == [True] * len(left)
    assert all(path.is_relative_to(second.root) for path in report.paths.values())
    assert report.missing == {} or ending == "stop"


@pytest.mark.parametrize(
    "changes",
    [{"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": "unknown"}, {"S3_BUCKET": "no-such-bucket"}],
    ids=["wrong secret", "unknown key", "no bucket"],
)
def test_wrong_settings_answered_by_the_real_server_fall_back_to_the_hub(world: World, changes: dict[str, str]) -> None:
    world.seed()
    world.changes.update(changes)
    report = world.restore()
    assert_whole(report)
    assert set(report.sources.values()) == {"hub"}
    assert report.bucket_outcome in {"STORE_FORBIDDEN", "STORE_NO_BUCKET"}


def test_a_key_that_may_only_read_is_enough(world: World) -> None:
    world.seed()
    world.changes |= {"AWS_ACCESS_KEY_ID": READER_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET}
    assert world.restore().bucket_outcome == "hit"


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_restoring_needs_no_other_permission_than_get(world: World, method: str) -> None:
    world.seed()
    world.proxy.fail(faults.status(403, code="AccessDenied"), methods=(method,))
    assert world.restore().bucket_outcome == "hit"


def test_restoring_lists_nothing(world: World) -> None:
    world.seed()
    world.restore()
    assert {r.method for r in world.proxy.log} == {"GET"}
    assert not [r for r in world.proxy.log if "list-type" in r.query]


def test_a_truncated_object_in_the_bucket_is_reported_for_healing(world: World) -> None:
    world.seed()
    world.client.put_object(Bucket=world.bucket, Key=BIG.key("models/"), Body=CONTENT[BIG.path][:1000])
    report = world.restore()
    assert_whole(report)
    assert list(report.wrong_keys) == [BIG.key("models/")]


def test_an_empty_object_where_a_model_belongs_is_reported_for_healing(world: World) -> None:
    world.seed()
    world.client.put_object(Bucket=world.bucket, Key=BIG.key("models/"), Body=b"")
    report = world.restore()
    assert_whole(report)
    assert list(report.wrong_keys) == [BIG.key("models/")]


POISON = POISONED_MANIFESTS | {"wrong digests": lambda _files: dump_manifest([replace(BIG, sha256="0" * 64)])}


@pytest.mark.parametrize("name", POISON)
def test_a_poisoned_manifest_cannot_hurt_a_restore(world: World, name: str) -> None:
    world.seed()
    world.client.put_object(Bucket=world.bucket, Key=MANIFEST, Body=POISON[name](FILES))
    report = world.restore()
    assert_whole(report)
    assert report.bucket_outcome == "hit"


def test_a_manifest_without_its_objects_is_a_miss(world: World) -> None:
    world.client.put_object(Bucket=world.bucket, Key=MANIFEST, Body=dump_manifest(FILES))
    report = world.restore()
    assert_whole(report)
    assert report.bucket_outcome == "miss"


def dangling(cache: HubCache) -> None:
    cache.snapshot(BIG).parent.mkdir(parents=True)
    cache.snapshot(BIG).symlink_to("../../../blobs/gone")


def directory(cache: HubCache) -> None:
    (cache.blob(BIG) / "inside").mkdir(parents=True)


def foreign_file(cache: HubCache) -> None:
    cache.blob(BIG).parent.mkdir(parents=True)
    cache.blob(BIG).write_bytes(b"something else")


def circle(cache: HubCache) -> None:
    dangling(cache)
    cache.blob(BIG).parent.mkdir(parents=True)
    cache.blob(BIG).with_name("gone").symlink_to("gone")


def foreign_part(cache: HubCache) -> None:
    cache.part(BIG).write_bytes(b"x" * 100)


@pytest.mark.parametrize("spoil", [dangling, circle, directory, foreign_file, foreign_part], ids=lambda f: f.__name__)
def test_what_stands_in_a_blobs_place_is_replaced(world: World, spoil: Callable[[HubCache], None]) -> None:
    world.seed()
    spoil(HubCache(world.settings.cache_dir_candidates[0]))
    report = world.restore()
    assert_whole(report)
    assert report.bucket_outcome == "hit"


@pytest.mark.parametrize("status", [500, 404, 401])
def test_a_failing_hub_and_an_empty_bucket_end_with_the_cause_of_each(world: World, status: int) -> None:
    world.hub.fail_status = status
    report = world.restore()
    assert set(report.missing) == set(FILES)
    assert all("STORE_NOT_FOUND" in why for why in report.missing.values())
    assert any("HUB_UNAVAILABLE" in why for why in report.missing.values())
    assert report.paths == {}


def test_wrong_bytes_from_the_hub_are_never_used(world: World) -> None:
    world.hub.wrong_bytes = True
    report = world.restore(FILES[:2])
    assert set(report.missing) == set(FILES[:2])
    assert not list((world.root / "first").rglob("blobs/*"))


def test_a_dead_hub_behind_a_full_bucket_is_not_noticed(world: World) -> None:
    world.seed()
    world.hub.fail_status = 500
    assert_whole(world.restore())


def test_a_cache_dir_that_cannot_be_one_moves_on_to_the_next(world: World) -> None:
    world.seed()
    (world.root / "first").write_text("a file")
    report = world.restore()
    assert_whole(report)
    assert report.cache_dir == Path(world.root / "second")
