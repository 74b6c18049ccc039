"""flash-attn's installation with real pip, a real bucket and wheels that stand in for the release's 250 MB."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from f5_worker import wheels
from f5_worker.cache import HubCache
from f5_worker.errors import CacheError, StoreNotFound
from f5_worker.wheels import Wheel, install
from tests.fakes.fault_proxy import FaultProxy
from tests.integration.conftest import World

NAME = "flash_attn-2.8.0.post2+cu12torch2.7cxx11abiTRUE-cp311-cp311-linux_x86_64.whl"


def build_wheel(source: str) -> bytes:
    """A wheel with one module, `flash_attn`."""
    info = "flash_attn-2.8.0.post2+cu12torch2.7cxx11abiTRUE.dist-info"
    files = {
        "flash_attn/__init__.py": source.encode(),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.8.0.post2+cu12torch2.7cxx11abiTRUE\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: cp311-cp311-linux_x86_64\n",
    }
    record = ""
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return buffer.getvalue()


GOOD = build_wheel("__version__ = '2.8.0.post2'\n")
BROKEN = build_wheel("raise ImportError('flash_attn_2_cuda.so: undefined symbol: _ZN3c105Error')\n")


def wheel_of(data: bytes) -> Wheel:
    return Wheel(NAME, hashlib.sha256(data).hexdigest())


@pytest.fixture
def cache(tmp_path: Path) -> HubCache:
    return HubCache(tmp_path / "models")


@pytest.fixture
def release():
    with FaultProxy(objects={f"/{NAME}": GOOD}) as server:
        yield server


def test_the_wheel_comes_from_the_bucket_before_the_release(world: World, cache: HubCache, release: FaultProxy) -> None:
    world.client.put_object(Bucket=world.bucket, Key=f"models/wheels/{NAME}", Body=GOOD)
    site = install(wheel_of(GOOD), cache, world.store, world.settings, release_url=release.url + "/")
    assert (site / "flash_attn" / "__init__.py").is_file()
    assert release.log == []


def test_without_it_in_the_bucket_the_release_serves_and_the_wheel_is_kept_for_publishing(
    world: World, cache: HubCache, release: FaultProxy
) -> None:
    install(wheel_of(GOOD), cache, world.store, world.settings, release_url=release.url + "/")
    assert (cache.state / "wheels" / NAME).read_bytes() == GOOD
    assert len(release.log) == 1


def test_wrong_bytes_in_the_bucket_are_not_installed(world: World, cache: HubCache, release: FaultProxy) -> None:
    world.client.put_object(Bucket=world.bucket, Key=f"models/wheels/{NAME}", Body=BROKEN)
    install(wheel_of(GOOD), cache, world.store, world.settings, release_url=release.url + "/")
    assert len(release.log) == 1


def test_wrong_bytes_in_the_release_are_not_installed(world: World, cache: HubCache, release: FaultProxy) -> None:
    with pytest.raises(StoreNotFound, match="pinned sha256"):
        install(wheel_of(BROKEN), cache, world.store, world.settings, release_url=release.url + "/")
    assert not list(cache.state.glob("flash-attn-*/"))


def test_an_installed_wheel_is_only_looked_at_again(
    world: World, cache: HubCache, release: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = install(wheel_of(GOOD), cache, world.store, world.settings, release_url=release.url + "/")
    monkeypatch.setattr(wheels, "_pip_install", lambda *_: pytest.fail("installed again"))
    assert install(wheel_of(GOOD), cache, world.store, world.settings) == first


def test_a_wheel_that_does_not_import_is_removed_and_not_tried_again(world: World, cache: HubCache) -> None:
    world.client.put_object(Bucket=world.bucket, Key=f"models/wheels/{NAME}", Body=BROKEN)
    with pytest.raises(CacheError, match="undefined symbol"):
        install(wheel_of(BROKEN), cache, world.store, world.settings)
    assert not list(cache.state.glob("flash-attn-*/"))
    asked = len(world.proxy.log)
    with pytest.raises(CacheError, match="before"):
        install(wheel_of(BROKEN), cache, world.store, world.settings)
    assert len(world.proxy.log) == asked


def test_without_a_gpu_nothing_is_downloaded(world: World, cache: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "gpu_capability", lambda: None)
    assert wheels.ensure(world.settings, cache, world.store) is None
    assert world.proxy.log == []


def test_a_failing_download_is_never_fatal(world: World, cache: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "gpu_capability", lambda: (9, 0))
    monkeypatch.setattr(wheels, "RELEASE_URL", "http://127.0.0.1:1/")
    assert wheels.ensure(world.settings, cache, world.store) is None
