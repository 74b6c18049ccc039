"""A real S3 server, a hub stand-in and a set of pinned files, for tests of the whole restore and publish."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from f5_worker import hub, restore
from f5_worker.cache import HubCache
from f5_worker.fetch import Limits
from f5_worker.manifest import PinnedFile, by_commit, dump_manifest, manifest_key
from f5_worker.placement import choose
from f5_worker.report import Timeline, process_start_unix_s
from f5_worker.restore import RestoreReport
from f5_worker.settings import Settings
from s3_utils import S3Store
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.hub_server import HubServer, hub_server
from tests.fakes.seaweed import SECRET_KEY, Seaweed, seaweed
from tests.files import pinned, random_bytes

# Names that need escaping, an empty file, and one that takes several ranges.
CONTENT = {
    "F5/model.safetensors": random_bytes(20_000_000, seed=1),
    "mid.bin": random_bytes(3_000_000, seed=2),
    "odd/a b+ü%41.txt": b"words",
    "empty.txt": b"",
}
FILES: tuple[PinnedFile, ...] = tuple(pinned(path, data, repo="org/model") for path, data in CONTENT.items())
BIG = FILES[0]


@dataclass
class World:
    """One bucket behind a fault proxy, a hub, and two cache directories of one worker."""

    store_server: Seaweed
    proxy: FaultProxy
    hub: HubServer
    bucket: str
    root: Path
    changes: dict[str, str] = field(default_factory=dict)  # of the worker's environment

    @property
    def client(self):
        return self.store_server.client()

    @property
    def env(self) -> dict[str, str]:
        return self.store_server.env(self.bucket, endpoint_url=self.proxy.url) | {"PUBLISH_JITTER_S": "0"} | self.changes

    @property
    def settings(self) -> Settings:
        candidates = (self.root / "first", self.root / "second")
        return replace(Settings.from_env(self.env), cache_dir_candidates=candidates, platform_cache=self.root / "platform")

    @property
    def store(self) -> S3Store:
        s3 = self.settings.s3
        assert s3
        return S3Store(s3)

    def seed(self, files: Sequence[PinnedFile] = FILES) -> None:
        """The bucket as a publisher leaves it."""
        for file in files:
            self.client.put_object(Bucket=self.bucket, Key=file.key("models/"), Body=CONTENT[file.path], Metadata={"sha256": file.sha256})
        for (repo, commit), group in by_commit(files).items():
            self.client.put_object(Bucket=self.bucket, Key=manifest_key("models/", repo, commit), Body=dump_manifest(group))

    def restore(self, files: Sequence[PinnedFile] = FILES) -> RestoreReport:
        settings = self.settings
        return restore.restore(files, choose(settings, files), settings, self.store, timeline=Timeline(process_start_unix_s()))

    def keys(self) -> list[str]:
        return [o["Key"] for o in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]


@pytest.fixture(scope="session")
def store_server() -> Iterator[Seaweed]:
    with seaweed() as running:
        yield running


@pytest.fixture(scope="session")
def hub_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for file in FILES:
        path = folder / file.repo / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT[file.path])
    return folder


@pytest.fixture
def world(store_server: Seaweed, hub_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A fresh bucket and disk. The bounds of the restore are shrunk, so that faults cost tenths of seconds."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    store_server.client().create_bucket(Bucket=bucket)
    quick = partial(Limits, connect_s=0.5, first_byte_s=1.5, stall_window_s=1.5)
    monkeypatch.setattr(restore, "Limits", quick)
    monkeypatch.setattr("f5_worker.placement.RAM_DIR", tmp_path / "absent" / "models")
    with FaultProxy(upstream=store_server.endpoint_url.removeprefix("http://")) as proxy, hub_server() as hub_stand_in:
        hub_stand_in.add(hub_files, FILES)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub_stand_in.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub_stand_in.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        for name, value in hub.CLIENT_ENV.items():
            monkeypatch.setenv(name, value)
        yield World(store_server, proxy, hub_stand_in, bucket, tmp_path)


def assert_whole(report: RestoreReport, files: Sequence[PinnedFile] = FILES) -> None:
    """Every file is there with the pinned bytes, under the name huggingface_hub looks for, and nothing half-done beside it."""
    assert report.missing == {}
    for file in files:
        assert report.paths[file].read_bytes() == CONTENT[file.path]
    assert report.cache_dir
    assert not list(report.cache_dir.rglob("*.f5-part*"))
    assert not list(report.cache_dir.rglob("*.incomplete"))
    assert all(HubCache(path.parents[5]).find(f) for f, path in report.paths.items() if "hub" in path.parts[:-5])


def assert_no_secret(text: str) -> None:
    assert SECRET_KEY not in text
    assert "X-Amz-Signature=" not in text.replace("X-Amz-Signature=[redacted]", "")
