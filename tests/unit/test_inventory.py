from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from f5_worker import inventory
from f5_worker.manifest import dump_manifest, manifest_key
from f5_worker.store import Upload
from f5_worker.wheels import pinned_names
from tests.fakes.memory_store import MemoryStore
from tests.files import COMMIT, POISONED_MANIFESTS, pinned

DATA = {"a.bin": b"aaaa", "b.bin": b"bb"}
FILES = [pinned(path, data) for path, data in DATA.items()]
MANIFEST = manifest_key("models/", "org/name", COMMIT)
OLD = f"models/org--old/{COMMIT}/x.bin"
LATER = datetime.now(UTC) + inventory.GC_AGE + timedelta(hours=1)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    for file in FILES:
        store.put(file.key("models/"), DATA[file.path], content_type="x")
    store.put(MANIFEST, dump_manifest(FILES), content_type="x")
    return store


def collected(store: MemoryStore, pins: list, now: datetime = LATER) -> list[str]:
    return [o.key for o in inventory.garbage(store, "models/", pins, now=now).objects]


def test_a_whole_bucket_is_ok(store: MemoryStore) -> None:
    assert {s.state for s in inventory.file_states(store, "models/", FILES)} == {"ok"}
    assert {s.state for s in inventory.verify(store, "models/", FILES)} == {"ok"}
    assert inventory.manifest_states(store, "models/", FILES) == {MANIFEST: "ok"}


def test_wrong_sizes_and_wrong_bytes_are_told_apart(store: MemoryStore) -> None:
    store.put(FILES[0].key("models/"), b"xxxx", content_type="x")
    store.put(FILES[1].key("models/"), b"x", content_type="x")
    assert [s.state for s in inventory.verify(store, "models/", FILES)] == ["wrong bytes", "wrong size"]
    assert [s.state for s in inventory.file_states(store, "models/", FILES)] == ["ok", "wrong size"]


@pytest.mark.parametrize(("body", "state"), [(dump_manifest(FILES[:1]), "incomplete"), (b"{", "invalid"), (None, "missing")])
def test_a_manifests_state(store: MemoryStore, body: bytes | None, state: str) -> None:
    store.delete(MANIFEST)
    if body is not None:
        store.put(MANIFEST, body, content_type="x")
    assert inventory.manifest_states(store, "models/", FILES) == {MANIFEST: state}


@pytest.mark.parametrize("poison", POISONED_MANIFESTS)
def test_a_poisoned_manifest_is_invalid_and_protects_nothing_but_what_is_pinned(store: MemoryStore, poison: str) -> None:
    store.put(MANIFEST, POISONED_MANIFESTS[poison](FILES), content_type="x")
    assert inventory.manifest_states(store, "models/", FILES) == {MANIFEST: "invalid"}
    assert collected(store, FILES) == [MANIFEST]
    assert set(collected(store, [])) == set(store.objects)


def test_what_a_manifest_names_is_kept_without_a_pin(store: MemoryStore) -> None:
    assert collected(store, []) == []


def test_what_nothing_names_is_collected_when_it_is_old(store: MemoryStore) -> None:
    store.put(OLD, b"x", content_type="x")
    assert collected(store, FILES) == [OLD]
    assert collected(store, FILES, now=datetime.now(UTC)) == []


def test_a_pinned_file_without_a_manifest_is_kept(store: MemoryStore) -> None:
    store.delete(MANIFEST)
    assert collected(store, FILES) == []


def test_a_manifest_protects_only_its_own_commit(store: MemoryStore) -> None:
    foreign = manifest_key("models/", "evil/repo", COMMIT)
    store.put(OLD, b"x", content_type="x")
    store.put(foreign, dump_manifest(FILES), content_type="x")
    assert foreign in collected(store, [])


def test_pinned_wheels_are_kept_and_others_collected(store: MemoryStore) -> None:
    for name in (pinned_names()[0], "other.whl"):
        store.put(f"models/wheels/{name}", b"x", content_type="x")
    assert collected(store, FILES) == ["models/wheels/other.whl"]


@pytest.mark.parametrize("prefix", ["models/", "f5/", ""])
def test_other_objects_under_the_prefix_are_the_users_and_never_collected(prefix: str) -> None:
    store = MemoryStore()
    theirs = [
        "output/2026-01-02/job-1.wav",
        "voices/org--name/mine.wav",
        "org--name/notes.txt",
        f"org--name/{COMMIT}",
        f"org--name/{COMMIT[:-1]}/x.bin",
        f"backup/org--name/{COMMIT}/x.bin",
        f"name/{COMMIT}/x.bin",
        "wheels/notes.txt",
        "wheels/mine/other.whl",
        "other.whl",
    ]
    for key in theirs:
        store.put(prefix + key, b"x", content_type="x")
        store.pending.append(Upload(prefix + key, "old", datetime.now(UTC) - timedelta(days=9)))
    assert inventory.garbage(store, prefix, [], now=LATER) == inventory.Garbage([], [])
    store.put(f"{prefix}org--name/{COMMIT}/a/b.bin", b"x", content_type="x")
    assert [o.key for o in inventory.garbage(store, prefix, [], now=LATER).objects] == [f"{prefix}org--name/{COMMIT}/a/b.bin"]


def test_the_age_can_be_chosen(store: MemoryStore) -> None:
    store.put(OLD, b"x", content_type="x")
    now = datetime.now(UTC) + timedelta(hours=2)
    ages = {hours: inventory.garbage(store, "models/", FILES, older_than=timedelta(hours=hours), now=now).objects for hours in (0, 1, 3)}
    assert {hours: len(found) for hours, found in ages.items()} == {0: 1, 1: 1, 3: 0}


def test_stale_uploads_are_collected_and_running_ones_kept(store: MemoryStore) -> None:
    old, young = (Upload(OLD, name, datetime.now(UTC) - timedelta(hours=hours)) for name, hours in (("old", 2), ("young", 0)))
    store.pending = [old, young]
    assert inventory.garbage(store, "models/", FILES).uploads == [old]
