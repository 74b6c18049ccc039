from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from f5_worker.breaker import OPEN_S, Breaker
from f5_worker.cache import PART_SUFFIX, RANGES_SUFFIX, STALE_PART_S, HubCache
from f5_worker.errors import CacheError, StoreForbidden
from f5_worker.settings import S3Settings
from tests.files import pinned, seed_cache

DATA = b"the weights"
FILE = pinned("dir/model.bin", DATA)
NO_MOUNT = Path("/nowhere")


@pytest.fixture
def cache(tmp_path: Path) -> HubCache:
    return HubCache(tmp_path / "models")


def test_nothing_is_found_in_an_empty_cache(cache: HubCache) -> None:
    assert cache.find(FILE) is None


def test_an_adopted_file_is_found_where_huggingface_hub_looks(cache: HubCache) -> None:
    path = seed_cache(cache, FILE, DATA)
    assert cache.find(FILE) == path
    offline = hf_hub_download(FILE.repo, FILE.path, cache_dir=cache.root / "hub", local_files_only=True)
    assert Path(offline).read_bytes() == DATA
    assert not list(cache.root.rglob(f"*{PART_SUFFIX}*"))


def test_refs_main_is_forty_digits_without_a_newline(cache: HubCache) -> None:
    seed_cache(cache, FILE, DATA)
    assert (cache.repo_dir(FILE) / "refs" / "main").read_bytes() == FILE.commit.encode()


def test_a_verified_file_is_not_hashed_again(cache: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    seed_cache(cache, FILE, DATA)
    monkeypatch.setattr("f5_worker.cache._sha256", lambda _path: pytest.fail("hashed again"))
    assert cache.find(FILE)


def test_a_file_without_a_marker_is_hashed_and_marked(cache: HubCache) -> None:
    seed_cache(cache, FILE, DATA)
    (cache.state / "verified" / f"{FILE.sha256}.json").unlink()
    assert cache.find(FILE)
    assert (cache.state / "verified" / f"{FILE.sha256}.json").exists()


def test_changed_bytes_of_the_same_length_are_removed(cache: HubCache) -> None:
    seed_cache(cache, FILE, DATA)
    cache.blob(FILE).write_bytes(b"x" * len(DATA))
    assert cache.find(FILE) is None
    assert not cache.blob(FILE).exists()


def test_a_journal_left_behind_a_whole_file_is_removed(cache: HubCache) -> None:
    seed_cache(cache, FILE, DATA)
    journal = cache.part(FILE).with_name(cache.part(FILE).name + RANGES_SUFFIX)
    journal.write_bytes(b"0 11\n")
    assert cache.find(FILE)
    assert not journal.exists()


def test_a_blob_whose_link_was_never_made_is_linked(cache: HubCache) -> None:
    seed_cache(cache, FILE, DATA)
    cache.snapshot(FILE).unlink()
    assert cache.find(FILE) == cache.snapshot(FILE)


def test_a_dangling_link_is_removed(cache: HubCache) -> None:
    seed_cache(cache, FILE, DATA)
    cache.blob(FILE).unlink()
    assert cache.find(FILE) is None
    assert not cache.snapshot(FILE).is_symlink()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_file_that_cannot_be_read_gives_way(cache: HubCache, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seed_cache(cache, FILE, DATA)
    (cache.state / "verified" / f"{FILE.sha256}.json").unlink()

    def fail(_path: Path) -> str:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("f5_worker.cache._sha256", fail)
    assert cache.find(FILE) is None
    assert not cache.blob(FILE).exists()


@pytest.mark.parametrize("links", [["snapshot"], ["snapshot", "blob"]], ids=["snapshot", "blob"])
def test_a_link_that_leads_to_itself_gives_way(cache: HubCache, links: list[str]) -> None:
    for place in (cache.snapshot(FILE), cache.blob(FILE)):
        place.parent.mkdir(parents=True)
    last = getattr(cache, links[-1])(FILE)
    cache.snapshot(FILE).symlink_to(last)
    if not last.is_symlink():
        last.symlink_to(last)
    assert cache.find(FILE) is None
    assert not any(getattr(cache, name)(FILE).is_symlink() for name in links)
    assert seed_cache(cache, FILE, DATA).read_bytes() == DATA


@pytest.mark.parametrize("place", ["blob", "snapshot"])
def test_a_directory_where_a_file_belongs_gives_way(cache: HubCache, place: str) -> None:
    directory = getattr(cache, place)(FILE)
    (directory / "sub").mkdir(parents=True)
    assert cache.find(FILE) is None
    assert seed_cache(cache, FILE, DATA).read_bytes() == DATA


def test_a_plain_file_in_the_snapshot_is_taken_as_it_is(cache: HubCache) -> None:
    cache.snapshot(FILE).parent.mkdir(parents=True)
    cache.snapshot(FILE).write_bytes(DATA)
    assert cache.find(FILE) == cache.snapshot(FILE)
    assert not cache.snapshot(FILE).is_symlink()


def test_a_blob_under_another_name_is_taken_and_removed_when_wrong(cache: HubCache) -> None:
    blob = cache.repo_dir(FILE) / "blobs" / "etag-of-the-hub"
    blob.parent.mkdir(parents=True)
    cache.snapshot(FILE).parent.mkdir(parents=True)
    cache.snapshot(FILE).symlink_to(os.path.relpath(blob, cache.snapshot(FILE).parent))
    blob.write_bytes(DATA)
    assert cache.find(FILE)
    blob.write_bytes(b"x" * len(DATA))
    assert cache.find(FILE) is None
    assert not blob.exists()


def test_a_mounted_file_is_linked_and_never_copied(cache: HubCache, tmp_path: Path) -> None:
    mount = HubCache(tmp_path / "volume")
    seed_cache(mount, FILE, DATA)
    path = cache.adopt_mount(FILE, mount.root / "hub")
    assert path is not None
    assert path.resolve() == mount.blob(FILE)
    assert not cache.blob(FILE).exists()


def test_a_mounted_file_with_wrong_bytes_is_left_alone_and_not_used(cache: HubCache, tmp_path: Path) -> None:
    mount = HubCache(tmp_path / "volume")
    seed_cache(mount, FILE, DATA)
    mount.blob(FILE).write_bytes(b"x" * len(DATA))
    assert cache.adopt_mount(FILE, mount.root / "hub") is None
    assert mount.blob(FILE).exists()


def test_a_mount_that_cannot_be_read_is_as_good_as_none(cache: HubCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = HubCache(tmp_path / "volume")
    seed_cache(mount, FILE, DATA)

    def fail(_path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("f5_worker.cache._sha256", fail)
    assert cache.adopt_mount(FILE, mount.root / "hub") is None


def test_missing_bytes_counts_what_is_not_here(cache: HubCache) -> None:
    other = pinned("other", b"12345")
    seed_cache(cache, FILE, DATA)
    assert cache.missing_bytes([FILE, other], NO_MOUNT) == 5


def test_a_file_on_the_mount_needs_no_room(cache: HubCache, tmp_path: Path) -> None:
    mount = HubCache(tmp_path / "volume")
    seed_cache(mount, FILE, DATA)
    assert cache.missing_bytes([FILE], mount.root / "hub") == 0


def test_an_unfinished_download_has_its_room_already(cache: HubCache) -> None:
    big = pinned("big", b"x" * 100_000)
    with cache.part(big).open("wb") as part:
        os.posix_fallocate(part.fileno(), 0, big.size_bytes)
    assert cache.missing_bytes([big], NO_MOUNT) == 0


def test_stale_parts_are_removed_and_fresh_ones_kept(cache: HubCache) -> None:
    stale, fresh = cache.part(FILE), cache.part(pinned("other", b"12345"))
    of_the_hubs_client = cache.blob(FILE).with_name(f"{FILE.etag}.1a2b3c.incomplete")
    for part in (stale, fresh, of_the_hubs_client):
        part.write_bytes(b"half")
    for part in (stale, of_the_hubs_client):
        os.utime(part, (0, part.stat().st_mtime - STALE_PART_S - 1))
    cache.remove_stale_parts()
    assert (stale.exists(), fresh.exists(), of_the_hubs_client.exists()) == (False, True, False)


def test_a_given_up_download_gives_its_room_back_and_the_blob_stays(cache: HubCache) -> None:
    path = seed_cache(cache, FILE, DATA)
    leftovers = [cache.part(FILE), cache.blob(FILE).with_name(f"{FILE.etag}.1a2b3c.incomplete")]
    for part in leftovers:
        part.write_bytes(b"half")
    cache.remove_parts([FILE])
    assert not any(part.exists() for part in leftovers)
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(("free_bytes", "is_kept"), [(len(DATA), True), (len(DATA) - 1, False)])
def test_an_unfinished_download_gives_way_only_where_there_is_no_room_beside_it(
    cache: HubCache, free_bytes: int, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.part(FILE).write_bytes(b"half")
    monkeypatch.setattr("f5_worker.cache.room", lambda _path: (free_bytes, 1000))
    cache.make_room([FILE])
    assert cache.part(FILE).exists() == is_kept


def test_the_lock_admits_one_at_a_time(cache: HubCache) -> None:
    with cache.lock(timeout_s=1), pytest.raises(CacheError, match="another process"), cache.lock(timeout_s=0.1):
        pytest.fail("both hold the lock")


def test_a_wait_for_the_lock_ends_when_it_is_told_to_stop(cache: HubCache) -> None:
    stop = threading.Event()
    stop.set()
    with cache.lock(timeout_s=1), pytest.raises(CacheError, match="lock"), cache.lock(timeout_s=300, stop=stop):
        pytest.fail("both hold the lock")


def test_the_lock_is_free_after_its_owner(cache: HubCache) -> None:
    order: list[str] = []

    def second() -> None:
        with cache.lock(timeout_s=30):
            order.append("second")

    with cache.lock(timeout_s=1):
        thread = threading.Thread(target=second)
        thread.start()
        order.append("first")
    thread.join(timeout=30)
    assert order == ["first", "second"]


def test_two_workers_with_one_process_id_write_the_same_state_at_once(cache: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", real)
        cache.write_state("x.json", "of the other")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    cache.write_state("x.json", "of this one")
    assert cache.read_state("x.json") == "of this one"


def test_state_that_is_no_json_reads_as_nothing(cache: HubCache) -> None:
    cache.write_state("x.json", {"a": 1})
    assert cache.read_state("x.json") == {"a": 1}
    (cache.state / "x.json").write_bytes(b'{"a"')
    assert cache.read_state("x.json") is None


S3 = S3Settings("bucket", "key-id", "secret", endpoint_url="http://127.0.0.1:1")


def test_a_breaker_opens_for_one_bucket_and_key_alone(cache: HubCache) -> None:
    Breaker(cache, S3).trip(StoreForbidden("no"))
    assert "STORE_FORBIDDEN" in (Breaker(cache, S3).open_cause() or "")
    assert Breaker(cache, S3Settings("bucket", "other-key", "secret", endpoint_url="http://127.0.0.1:1")).open_cause() is None


def test_a_breaker_closes_after_its_time(cache: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    Breaker(cache, S3).trip(StoreForbidden("no"))
    now = __import__("time").time()
    monkeypatch.setattr("f5_worker.breaker.time.time", lambda: now + OPEN_S + 1)
    assert Breaker(cache, S3).open_cause() is None


@pytest.mark.parametrize(
    "state", [[], {"cause": 1, "until_unix_s": 2}, {"cause": "x", "until_unix_s": "y"}, {"cause": "x", "until_unix_s": 9e12}]
)
def test_a_damaged_breaker_file_is_a_closed_breaker(cache: HubCache, state: object) -> None:
    breaker = Breaker(cache, S3)
    cache.write_state(breaker._name, state)
    assert breaker.open_cause() is None
