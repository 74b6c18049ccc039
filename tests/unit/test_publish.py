from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from f5_worker import publish
from f5_worker.cache import HubCache
from f5_worker.errors import StoreForbidden
from f5_worker.manifest import dump_manifest, manifest_key, parse_manifest
from f5_worker.publish import CLAIM_STALE_S, Publication, Publisher
from f5_worker.restore import RestoreReport
from f5_worker.settings import Settings
from f5_worker.store import ObjectInfo, Upload
from f5_worker.wheel_source import wrong_note
from f5_worker.wheels import KeptWheel, pinned_names, publishable
from tests.fakes.memory_store import MemoryStore
from tests.files import COMMIT, POISONED_MANIFESTS, pinned, random_bytes, seed_cache

DATA = {"big.bin": random_bytes(3_000_000), "small.txt": b"words"}
FILES = [pinned(path, data) for path, data in DATA.items()]
VOCODER = pinned("config.yaml", b"x: 1", repo="org/vocoder")
MANIFEST = manifest_key("models/", "org/name", COMMIT)
SETTINGS = Settings(publish_jitter_s=0)


@pytest.fixture(autouse=True)
def fast_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "CLAIM_SETTLE_S", 0.05)
    monkeypatch.setattr(publish, "CLAIM_POLL_S", 0.05)


@pytest.fixture
def report(tmp_path: Path) -> RestoreReport:
    cache = HubCache(tmp_path)
    paths = {f: seed_cache(cache, f, DATA[f.path]) for f in FILES}
    return RestoreReport(paths=paths, sources=dict.fromkeys(FILES, "hub"))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def run(store: MemoryStore, report: RestoreReport, files: list | None = None) -> None:
    publisher = Publisher(store, SETTINGS, files or FILES, report).start()
    assert publisher.wait(30)


def writes(store: MemoryStore) -> list[str]:
    return [key for method, key in store.calls if method in {"put", "upload"} and publish.CLAIM_NAME not in key]


def test_files_appear_by_name_and_the_manifest_is_written_last(store: MemoryStore, report: RestoreReport) -> None:
    run(store, report)
    assert writes(store) == [*(f.key("models/") for f in FILES), MANIFEST]
    assert sorted(store.objects) == sorted([*(f.key("models/") for f in FILES), MANIFEST])
    assert set(parse_manifest(store.objects[MANIFEST][0])) == set(FILES)


def test_every_object_carries_its_sha256(store: MemoryStore, report: RestoreReport) -> None:
    run(store, report)
    assert all(store.objects[f.key("models/")][1].metadata["sha256"] == f.sha256 for f in FILES)


def test_publishing_again_sends_nothing(store: MemoryStore, report: RestoreReport) -> None:
    run(store, report)
    store.calls.clear()
    run(store, report)
    assert writes(store) == []


def test_only_what_is_missing_is_sent(store: MemoryStore, report: RestoreReport) -> None:
    run(store, report)
    del store.objects[FILES[1].key("models/")]
    store.calls.clear()
    run(store, report)
    assert writes(store) == [FILES[1].key("models/")]


def test_a_missing_manifest_is_written_after_a_boot_from_the_bucket(store: MemoryStore, report: RestoreReport) -> None:
    run(store, report)
    del store.objects[MANIFEST]
    store.calls.clear()
    report.sources = dict.fromkeys(FILES, "bucket")
    run(store, report)
    assert writes(store) == [MANIFEST]


def test_an_object_of_another_size_is_overwritten(store: MemoryStore, report: RestoreReport) -> None:
    store.put(FILES[0].key("models/"), b"short", content_type="x")
    run(store, report)
    assert store.objects[FILES[0].key("models/")][0] == DATA["big.bin"]


def test_an_object_that_a_reader_found_wrong_is_overwritten(store: MemoryStore, report: RestoreReport) -> None:
    run(store, report)
    key = FILES[0].key("models/")
    store.put(key, b"\0" * FILES[0].size_bytes, content_type="x")
    report.wrong_keys = {key: time.time()}
    run(store, report)
    assert store.objects[key][0] == DATA["big.bin"]
    assert report.wrong_keys == {}


@pytest.mark.parametrize("poison", POISONED_MANIFESTS)
def test_a_poisoned_manifest_is_replaced(store: MemoryStore, report: RestoreReport, poison: str) -> None:
    store.put(MANIFEST, POISONED_MANIFESTS[poison](FILES), content_type="x")
    run(store, report)
    assert set(parse_manifest(store.objects[MANIFEST][0])) == set(FILES)


def test_another_models_files_of_the_same_commit_stay_in_the_manifest(store: MemoryStore, report: RestoreReport) -> None:
    other = pinned("other.bin", b"other")
    store.put(MANIFEST, dump_manifest([other]), content_type="x")
    run(store, report)
    assert set(parse_manifest(store.objects[MANIFEST][0])) == {*FILES, other}


def test_each_commit_gets_its_manifest(store: MemoryStore, report: RestoreReport, tmp_path: Path) -> None:
    report.paths[VOCODER] = seed_cache(HubCache(tmp_path), VOCODER, b"x: 1")
    run(store, report, [*FILES, VOCODER])
    assert {MANIFEST, manifest_key("models/", "org/vocoder", COMMIT)} <= set(store.objects)


def test_a_key_without_write_permission_leaves_one_warning(
    store: MemoryStore, report: RestoreReport, caplog: pytest.LogCaptureFixture
) -> None:
    store.fail["put"] = StoreForbidden("PUT x: AccessDenied")
    with caplog.at_level(logging.INFO, logger="f5_worker"):
        run(store, report)
    assert [r.levelname for r in caplog.records if r.levelno >= logging.WARNING] == ["WARNING"]
    assert "STORE_FORBIDDEN" in caplog.text
    assert store.objects == {}


def test_a_defect_in_the_store_is_logged_and_goes_no_further(
    store: MemoryStore, report: RestoreReport, caplog: pytest.LogCaptureFixture
) -> None:
    store.fail["head"] = ZeroDivisionError()  # type: ignore[assignment]
    run(store, report)
    assert "publish outcome=failed" in caplog.text


def test_without_delete_permission_the_publication_is_still_whole(store: MemoryStore, report: RestoreReport) -> None:
    store.fail["delete"] = StoreForbidden("DELETE x: AccessDenied")
    run(store, report)
    assert MANIFEST in store.objects


def test_stop_during_an_upload_leaves_no_object_and_no_manifest(store: MemoryStore, report: RestoreReport) -> None:
    publisher = Publisher(store, SETTINGS, FILES, report)
    real = store.upload

    def upload_and_stop(key: str, path: Path, **kwargs: object) -> None:
        publisher._stop.set()
        real(key, path, **kwargs)  # type: ignore[arg-type]

    store.upload = upload_and_stop  # type: ignore[method-assign]
    publisher.start()
    assert publisher.wait(30)
    assert store.objects == {}


CLAIM = f"models/org--name/{COMMIT}/{publish.CLAIM_NAME}"


def claim(store: MemoryStore, *, age_s: float) -> str:
    written = datetime.now(UTC) - timedelta(seconds=age_s)
    store.objects[CLAIM] = (b"", ObjectInfo(CLAIM, 0, written, {"owner": "somebody else"}))
    return CLAIM


@pytest.fixture
def wheel(report: RestoreReport, tmp_path: Path) -> KeptWheel:
    """A wheel from its release, as its installation leaves it for the publisher."""
    report.cache_dir = tmp_path
    path = HubCache(tmp_path).state / "wheels" / pinned_names()[0]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"wheel")
    [kept] = publishable(HubCache(tmp_path), "models/")
    return kept


def test_a_wheel_from_its_release_goes_into_the_bucket_after_the_manifest_and_leaves_the_disk(
    store: MemoryStore, report: RestoreReport, wheel: KeptWheel
) -> None:
    run(store, report)
    assert writes(store)[-2:] == [MANIFEST, wheel.key]
    assert (store.objects[wheel.key][0], store.objects[wheel.key][1].metadata) == (b"wheel", {"sha256": wheel.sha256})
    assert not wheel.path.exists()


def sent(store: MemoryStore, report: RestoreReport) -> int:
    return Publication(store, SETTINGS, FILES, report, threading.Event()).run()


def test_a_wheel_that_is_there_already_is_not_counted_as_sent(store: MemoryStore, report: RestoreReport, wheel: KeptWheel) -> None:
    store.put(wheel.key, b"wheel", content_type="x")
    assert sent(store, report) == sum(f.size_bytes for f in FILES)
    assert not wheel.path.exists()


def test_a_wheel_that_another_worker_on_the_volume_sent_meanwhile_is_no_fault(
    store: MemoryStore, report: RestoreReport, wheel: KeptWheel
) -> None:
    real = store.upload

    def upload(key: str, path: Path, **kwargs: object) -> None:
        if key == wheel.key:
            wheel.path.unlink()
        real(key, path, **kwargs)  # type: ignore[arg-type]

    store.upload = upload  # type: ignore[method-assign]
    assert sent(store, report) == sum(f.size_bytes for f in FILES)
    assert MANIFEST in store.objects


def test_a_wheel_that_a_reader_found_wrong_is_overwritten(store: MemoryStore, report: RestoreReport, wheel: KeptWheel) -> None:
    store.put(wheel.key, b"wrong", content_type="x")
    wrong_note(wheel.path).touch()
    run(store, report)
    assert store.objects[wheel.key][0] == b"wheel"
    assert not wrong_note(wheel.path).exists()


def heads(store: MemoryStore) -> list[str]:
    return [key for method, key in store.calls if method == "head" and key != CLAIM]


def test_a_sent_file_is_looked_at_once_before_and_once_after_and_another_once(store: MemoryStore, report: RestoreReport) -> None:
    store.put(FILES[1].key("models/"), DATA[FILES[1].path], content_type="x")
    run(store, report)
    assert sorted(heads(store)) == sorted([FILES[0].key("models/")] * 2 + [FILES[1].key("models/")])


def test_a_file_that_this_boot_read_from_the_bucket_is_not_looked_at(store: MemoryStore, report: RestoreReport) -> None:
    report.sources = dict.fromkeys(FILES, "bucket")
    run(store, report)
    assert heads(store) == []
    assert MANIFEST in store.objects


@dataclass
class SkewedStore(MemoryStore):
    """A store whose clock is behind (-) or ahead (+) of this machine's."""

    ahead_s: float = 0.0

    def head(self, key: str) -> ObjectInfo | None:
        info, skew = super().head(key), timedelta(seconds=self.ahead_s)
        return info and replace(info, modified=info.modified + skew, answered=datetime.now(UTC) + skew)


@pytest.mark.parametrize("ahead_s", [-600.0, 600.0])
def test_a_clock_that_is_off_neither_hides_this_workers_claim_nor_keeps_a_dead_ones(ahead_s: float, report: RestoreReport) -> None:
    store = SkewedStore(ahead_s=ahead_s)
    claim(store, age_s=CLAIM_STALE_S + 1)
    run(store, report)
    assert MANIFEST in store.objects
    assert store.calls.count(("put", CLAIM)) == 1


@pytest.mark.parametrize("ahead_s", [-600.0, 600.0])
def test_a_clock_that_is_off_does_not_break_a_living_claim(ahead_s: float, report: RestoreReport) -> None:
    store = SkewedStore(ahead_s=ahead_s)
    key = claim(store, age_s=0)
    publisher = Publisher(store, SETTINGS, FILES, report).start()
    while store.calls.count(("head", key)) < 3:
        assert not publisher.wait(0.01)
    publisher.stop()
    assert writes(store) == []
    assert store.objects[key][1].metadata["owner"] == "somebody else"


def wrong_object(store: MemoryStore, *, age_s: float) -> str:
    """Other bytes in the largest file's place, written a while ago."""
    key = FILES[0].key("models/")
    written = datetime.now(UTC) - timedelta(seconds=age_s)
    store.objects[key] = (b"\0" * FILES[0].size_bytes, ObjectInfo(key, FILES[0].size_bytes, written))
    return key


@pytest.mark.parametrize("ahead_s", [-600.0, 0.0, 600.0])
def test_a_wrong_object_is_sent_again_unless_it_was_written_after_it_was_read(ahead_s: float, report: RestoreReport) -> None:
    store = SkewedStore(ahead_s=ahead_s)
    key = wrong_object(store, age_s=60)
    report.wrong_keys = {key: time.time() - 30}
    run(store, report)
    assert writes(store).count(key) == 1
    report.wrong_keys = {key: time.time() - 30}
    run(store, report)
    assert writes(store).count(key) == 1


def test_five_publishers_that_read_the_same_wrong_object_send_it_once(store: MemoryStore, report: RestoreReport) -> None:
    key = wrong_object(store, age_s=60)
    reports = [replace(report, wrong_keys={key: time.time() - 30}) for _ in range(5)]
    publishers = [Publisher(store, replace(SETTINGS, publish_jitter_s=0.3), FILES, r).start() for r in reports]
    assert all(p.wait(60) for p in publishers)
    assert 1 <= writes(store).count(key) <= 2  # without conditional writes one doubling can happen
    assert store.objects[key][0] == DATA["big.bin"]


def test_a_claim_that_never_stays_is_written_a_few_times_and_then_done_without(store: MemoryStore, report: RestoreReport) -> None:
    real = store.head
    store.head = lambda key: None if key == CLAIM else real(key)  # type: ignore[method-assign]
    run(store, report)
    assert store.calls.count(("put", CLAIM)) == publish.CLAIM_WRITES
    assert MANIFEST in store.objects


def test_a_claim_that_never_ends_is_not_waited_for_for_ever(
    store: MemoryStore, report: RestoreReport, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "CLAIM_WAIT_S", 0.2)
    key = claim(store, age_s=0)
    run(store, report)
    assert "another worker has been publishing" in caplog.text
    assert list(store.objects) == [key]


class StoreWithoutList(MemoryStore):
    """AWS to a key without s3:ListBucket: 403 for what is not there."""

    def head(self, key: str) -> ObjectInfo | None:
        info = super().head(key)
        if info is None:
            raise StoreForbidden(f"HEAD {key}: 403: the key lacks the permission for this call")
        return info

    def get(self, key: str, *, max_bytes: int) -> bytes:
        if key not in self.objects:
            raise StoreForbidden(f"GET {key}: AccessDenied: the key lacks the permission for this call")
        return super().get(key, max_bytes=max_bytes)


def test_a_key_that_may_not_list_publishes(report: RestoreReport, caplog: pytest.LogCaptureFixture) -> None:
    store = StoreWithoutList()
    run(store, report)
    assert set(store.objects) == {MANIFEST, *(f.key("models/") for f in FILES)}
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(("method", "permission"), [("put", "s3:PutObject"), ("head", "s3:GetObject")])
def test_the_warning_names_the_permission_that_looks_missing(
    store: MemoryStore, report: RestoreReport, caplog: pytest.LogCaptureFixture, method: str, permission: str
) -> None:
    store.fail[method] = StoreForbidden(f"{method.upper()} x: AccessDenied: the key lacks the permission for this call")
    run(store, report)
    assert permission in caplog.text
    assert store.objects == {}  # also no claim and no file


def test_a_dead_publishers_claim_is_taken_over(store: MemoryStore, report: RestoreReport) -> None:
    claim(store, age_s=CLAIM_STALE_S + 1)
    run(store, report)
    assert MANIFEST in store.objects


def test_a_living_publishers_claim_is_waited_for_and_nothing_sent_twice(store: MemoryStore, report: RestoreReport) -> None:
    key = claim(store, age_s=0)
    publisher = Publisher(store, SETTINGS, FILES, report).start()
    while ("head", key) not in store.calls:  # it has seen the claim
        publisher.wait(0.01)
    assert writes(store) == []
    for file in FILES:
        store.put(file.key("models/"), DATA[file.path], content_type="x")
    store.put(MANIFEST, dump_manifest(FILES), content_type="x")
    store.calls.clear()
    store.delete(key)
    assert publisher.wait(30)
    assert writes(store) == []


def test_five_publishers_at_once_send_each_file_once(store: MemoryStore, report: RestoreReport) -> None:
    publishers = [Publisher(store, replace(SETTINGS, publish_jitter_s=0.3), FILES, report).start() for _ in range(5)]
    assert all(p.wait(60) for p in publishers)
    assert writes(store).count(FILES[0].key("models/")) <= 2  # without conditional writes one doubling can happen
    assert set(parse_manifest(store.objects[MANIFEST][0])) == set(FILES)


def pending(key: str, age_s: float, *, ahead_s: float = 0.0) -> Upload:
    return Upload(key, f"{age_s} s old", datetime.now(UTC) + timedelta(seconds=ahead_s - age_s))


@pytest.mark.parametrize("ahead_s", [-600.0, 0.0, 600.0])
def test_parts_of_a_killed_publisher_are_aborted_as_soon_as_its_claim_is_taken_over_and_a_running_ones_kept(
    ahead_s: float, report: RestoreReport
) -> None:
    store = SkewedStore(ahead_s=ahead_s)
    claim(store, age_s=CLAIM_STALE_S + 1)
    key = FILES[0].key("models/")
    killed, running = (pending(key, age_s, ahead_s=ahead_s) for age_s in (CLAIM_STALE_S, 10))
    of_another_key = pending(f"{key}.other", 10 * CLAIM_STALE_S, ahead_s=ahead_s)
    store.pending = [killed, running, of_another_key]
    run(store, report)
    assert store.pending == [running, of_another_key]


def test_parts_of_a_killed_publisher_stay_where_no_claim_shows_who_else_is_sending(store: MemoryStore, report: RestoreReport) -> None:
    real = store.head
    store.head = lambda key: None if key == CLAIM else real(key)  # type: ignore[method-assign]
    store.pending = left = [pending(FILES[0].key("models/"), 7200)]
    run(store, report)
    assert store.pending == left


@pytest.mark.usefixtures("wheel")
def test_parts_of_a_wheel_that_a_killed_publisher_left_are_aborted(store: MemoryStore, report: RestoreReport) -> None:
    store.pending = [pending(f"models/wheels/{pinned_names()[0]}", 7200)]
    run(store, report)
    assert store.pending == []
