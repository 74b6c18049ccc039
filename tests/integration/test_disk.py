"""Real full and read-only file systems under the cache."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from f5_worker import restore as restore_module
from f5_worker.cache import HubCache
from f5_worker.errors import CacheError
from f5_worker.manifest import PinnedFile
from f5_worker.report import Timeline, process_start_unix_s
from tests.fakes import fault_proxy as faults
from tests.integration.conftest import BIG, CONTENT, FILES, World, assert_whole


@pytest.fixture
def small_disk(tmpfs: Callable[[str], Path]) -> Path:
    """10 MB: less than the model."""
    return tmpfs("size=10m")


def restore_into(world: World, *roots: Path) -> restore_module.RestoreReport:
    """With the directories given: their room was counted before somebody else filled the disk."""
    caches = [HubCache(root) for root in roots]
    return restore_module.restore(FILES, caches, world.settings, world.store, timeline=Timeline(process_start_unix_s()))


@pytest.mark.parametrize("seeded", [True, False], ids=["from the bucket", "from the hub"])
def test_a_disk_that_fills_up_in_mid_file_moves_on_and_gives_its_room_back(world: World, small_disk: Path, seeded: bool) -> None:
    if seeded:
        world.seed()
    report = restore_into(world, small_disk / "models", world.root / "second")
    assert (report.missing, report.cache_dir) == ({}, world.root / "second")
    assert report.paths[BIG].is_relative_to(world.root / "second")
    assert not list(small_disk.rglob("*.f5-part*"))
    assert not list(small_disk.rglob("*.incomplete"))


@pytest.mark.parametrize("inodes", [4, 8, 12])
def test_a_disk_that_runs_out_of_inodes_moves_on(world: World, tmpfs: Callable[[str], Path], inodes: int) -> None:
    world.seed()
    report = restore_into(world, tmpfs(f"size=50m,nr_inodes={inodes}") / "models", world.root / "second")
    assert (report.missing, report.cache_dir) == ({}, world.root / "second")
    assert report.paths[BIG].read_bytes() == CONTENT[BIG.path]


def test_the_room_is_given_back_before_the_next_worker_gets_the_lock(
    world: World, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.seed()
    real = HubCache.remove_parts

    def remove_parts(self: HubCache, files: Iterable[PinnedFile]) -> None:
        with pytest.raises(CacheError, match="another process"), self.lock(timeout_s=0):
            pass
        real(self, files)

    monkeypatch.setattr(HubCache, "remove_parts", remove_parts)
    assert restore_into(world, small_disk / "models", world.root / "second").missing == {}


def test_a_disk_with_room_for_one_download_gives_the_buckets_up_for_the_hubs(world: World, tmpfs: Callable[[str], Path]) -> None:
    world.seed()
    world.proxy.fail(faults.stall(1000), path=f"*{BIG.path}", methods=("GET",), skip=3)
    report = restore_into(world, tmpfs("size=32m") / "models")
    assert_whole(report)
    assert report.sources[BIG] == "hub"


def test_when_every_disk_is_full_the_report_says_so(world: World, small_disk: Path) -> None:
    world.seed()
    report = restore_into(world, small_disk / "models")
    assert BIG in report.missing
    assert "DISK_FULL" in report.missing[BIG]


def test_a_disk_that_turns_read_only_moves_on(world: World, small_disk: Path) -> None:
    world.seed()
    (small_disk / "models" / ".f5-worker").mkdir(parents=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    report = restore_into(world, small_disk / "models", world.root / "second")
    assert (report.missing, report.cache_dir) == ({}, world.root / "second")
    assert all(path.is_relative_to(world.root / "second") for path in report.paths.values())


def test_restoring_needs_no_more_disk_than_the_files_and_five_percent(world: World) -> None:
    world.seed()
    assert_whole(world.restore())
    used = sum(p.stat().st_blocks * 512 for p in (world.root / "first").rglob("*") if p.is_file() and not p.is_symlink())
    assert used <= 1.05 * sum(f.size_bytes for f in FILES)
