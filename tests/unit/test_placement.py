from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from f5_worker import placement
from f5_worker.disk import room
from f5_worker.errors import DiskFull
from f5_worker.placement import choose
from f5_worker.settings import Settings
from tests.files import pinned, random_bytes

FILES = [pinned("model", random_bytes(2_000_000))]


@pytest.fixture(autouse=True)
def no_ram_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(placement, "RAM_DIR", tmp_path / "absent" / "models")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir_candidates=(tmp_path / "first", tmp_path / "second"))


@pytest.fixture
def small_disk(tmpfs: Callable[[str], Path]) -> Path:
    """A file system of 1 MB and 16 inodes."""
    return tmpfs("size=1m,nr_inodes=16")


def roots(settings: Settings) -> list[str]:
    return [c.root.name for c in choose(settings, FILES)]


def test_the_first_candidate_is_taken(settings: Settings) -> None:
    assert roots(settings) == ["first", "second"]


def test_an_asked_for_directory_comes_first(settings: Settings, tmp_path: Path) -> None:
    assert roots(replace(settings, cache_dir=tmp_path / "mine")) == ["mine", "first", "second"]


def test_a_path_that_cannot_be_a_directory_is_passed_over(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "first").write_text("a file")
    assert roots(settings) == ["second"]


def test_a_file_system_without_room_is_passed_over_and_left_clean(settings: Settings, small_disk: Path) -> None:
    assert roots(replace(settings, cache_dir=small_disk / "models")) == ["first", "second"]
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("step", ["write_bytes", "unlink"])
def test_a_directory_that_another_worker_removes_under_the_look_is_looked_at_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real, raced = getattr(Path, step), []

    def race(self: Path, *arguments: object) -> object:
        if "probe." in self.name and not raced:
            raced.append(self)
            shutil.rmtree(self.parent)
        return real(self, *arguments)

    monkeypatch.setattr(Path, step, race)
    assert roots(settings) == ["first", "second"]
    assert raced


def test_a_read_only_file_system_is_passed_over(settings: Settings, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert roots(replace(settings, cache_dir=small_disk / "models")) == ["first", "second"]


def test_a_file_system_without_inodes_is_passed_over(settings: Settings, small_disk: Path) -> None:
    small = [pinned("model", b"x" * 1000)]
    assert room(small_disk)[1] < placement.MIN_INODES
    caches = choose(replace(settings, cache_dir=small_disk / "models"), small)
    assert [c.root.name for c in caches] == ["first", "second"]


def test_no_usable_directory_is_disk_full_and_names_each_reason(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "first").write_text("a file")
    (tmp_path / "second").write_text("a file")
    with pytest.raises(DiskFull, match=r"first.*second.*MODEL_CACHE_DIR"):
        choose(settings, FILES)


def test_what_is_already_there_needs_no_room(settings: Settings, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_dir = small_disk / "models"
    monkeypatch.setattr("f5_worker.cache.HubCache.missing_bytes", lambda *_: 0)
    assert roots(replace(settings, cache_dir=cache_dir))[0] == "models"


def test_the_ram_disk_is_taken_when_no_other_has_room(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first").write_text("a file")
    (tmp_path / "second").write_text("a file")
    monkeypatch.setattr(placement, "RAM_DIR", tmp_path / "models")
    assert roots(settings) == ["models"]
