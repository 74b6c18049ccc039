"""flash-attn's installation with real pip, a real bucket and wheels that stand in for the release's 250 MB."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from f5_worker import wheel_source, wheels
from f5_worker.breaker import Breaker
from f5_worker.cache import HubCache
from f5_worker.errors import CacheError, DiskFull, StoreNotFound, StoreUnavailable
from f5_worker.publish import Publication
from f5_worker.report import Timeline
from f5_worker.restore import RestoreReport
from f5_worker.wheels import Host, Wheel, WheelReport, install, prepare
from tests.fakes import fault_proxy as faults
from tests.fakes.fault_proxy import Fault, FaultProxy
from tests.files import pinned, seed_cache
from tests.integration.conftest import World

TEXT = pinned("small.txt", b"words")
NAME = "flash_attn-2.8.0.post2+cu12torch2.7cxx11abiTRUE-cp311-cp311-linux_x86_64.whl"


def build_wheel(source: str) -> bytes:
    """A wheel with one module, `flash_attn`."""
    info = "flash_attn-2.8.0.post2+cu12torch2.7cxx11abiTRUE.dist-info"
    files = {
        "flash_attn/__init__.py": source.encode(),
        "flash_attn/bert_padding.py": b"",
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


SOURCE = "flash_attn_func = flash_attn_varlen_func = None\n"
GOOD = build_wheel(SOURCE)
BROKEN = build_wheel("raise ImportError('flash_attn_2_cuda.so: undefined symbol: _ZN3c105Error')\n")


def wheel_of(data: bytes) -> Wheel:
    return Wheel(NAME, hashlib.sha256(data).hexdigest())


@pytest.fixture
def cache(tmp_path: Path) -> HubCache:
    return HubCache(tmp_path / "models")


@pytest.fixture
def release() -> Iterator[FaultProxy]:
    with FaultProxy(objects={f"/{NAME}": GOOD}) as server:
        yield server


def brought(wheel: Wheel, cache: HubCache, world: World, url: str = "http://127.0.0.1:1", timeline: Timeline | None = None) -> Path:
    """install() as the boot calls it; url is the release's."""
    timeline = timeline or Timeline(time.time())
    return install(wheel, cache, world.store, world.settings, env=os.environ, timeline=timeline, release_url=url + "/")


def prepared(world: World, cache: HubCache) -> WheelReport:
    return prepare(world.settings, cache, world.store, env=os.environ, timeline=Timeline(time.time()))


def test_the_wheel_comes_from_the_bucket_before_the_release(world: World, cache: HubCache, release: FaultProxy) -> None:
    world.client.put_object(Bucket=world.bucket, Key=f"models/wheels/{NAME}", Body=GOOD)
    site = brought(wheel_of(GOOD), cache, world, release.url)
    assert (site / "flash_attn" / "__init__.py").is_file()
    assert release.log == []


def test_without_it_in_the_bucket_the_release_serves_and_the_wheel_is_kept_for_publishing(
    world: World, cache: HubCache, release: FaultProxy
) -> None:
    brought(wheel_of(GOOD), cache, world, release.url)
    assert (cache.state / "wheels" / NAME).read_bytes() == GOOD
    assert len(release.log) == 1


def test_wrong_bytes_in_the_bucket_are_not_installed(world: World, cache: HubCache, release: FaultProxy) -> None:
    world.client.put_object(Bucket=world.bucket, Key=f"models/wheels/{NAME}", Body=BROKEN)
    brought(wheel_of(GOOD), cache, world, release.url)
    assert len(release.log) == 1


def test_wrong_bytes_in_the_release_are_not_installed(world: World, cache: HubCache, release: FaultProxy) -> None:
    with pytest.raises(StoreNotFound, match="pinned sha256"):
        brought(wheel_of(BROKEN), cache, world, release.url)
    assert not list(cache.state.glob("flash-attn-*/"))


def test_an_installed_wheel_is_only_looked_at_again(
    world: World, cache: HubCache, release: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = brought(wheel_of(GOOD), cache, world, release.url)
    monkeypatch.setattr(wheels, "_place", lambda *_: pytest.fail("installed again"))
    assert brought(wheel_of(GOOD), cache, world) == first


def test_a_wheel_that_does_not_import_is_removed_and_not_tried_again(world: World, cache: HubCache) -> None:
    world.client.put_object(Bucket=world.bucket, Key=f"models/wheels/{NAME}", Body=BROKEN)
    with pytest.raises(CacheError, match="undefined symbol"):
        brought(wheel_of(BROKEN), cache, world)
    assert not list(cache.state.glob("flash-attn-*/"))
    asked = len(world.proxy.log)
    with pytest.raises(CacheError, match="before"):
        brought(wheel_of(BROKEN), cache, world)
    assert len(world.proxy.log) == asked


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "this_host", lambda: Host((9, 0), (3, 11), "2.7", True))


def test_without_a_gpu_nothing_is_downloaded(world: World, cache: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "this_host", lambda: Host(None, (3, 11), "2.7", True))
    assert prepared(world, cache).site is None
    assert world.proxy.log == []


@pytest.mark.usefixtures("gpu")
def test_a_failing_download_is_never_fatal(world: World, cache: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels.install, "__kwdefaults__", wheels.install.__kwdefaults__ | {"release_url": "http://127.0.0.1:1/"})
    assert prepared(world, cache).site is None


@pytest.mark.parametrize(
    "fault", [faults.black_hole(), faults.status(503, code="SlowDown"), faults.status(403, code="AccessDenied"), faults.stall(0)]
)
def test_a_dead_bucket_costs_seconds_and_the_release_serves(world: World, cache: HubCache, release: FaultProxy, fault: Fault) -> None:
    world.proxy.fail(fault)
    start = time.monotonic()
    file_source = wheel_source.obtain(wheel_of(GOOD), made(cache), world.store, world.settings, release_url=release.url + "/", stop=None)
    assert (file_source, time.monotonic() - start < 4) == ("release", True)


def made(cache: HubCache) -> HubCache:
    cache.state.mkdir(parents=True)
    return cache


def test_a_bucket_that_lets_nobody_connect_costs_seconds(world: World, cache: HubCache, release: FaultProxy) -> None:
    with faults.full_backlog() as url:
        world.changes["AWS_ENDPOINT_URL"] = url
        start = time.monotonic()
        source = wheel_source.obtain(wheel_of(GOOD), made(cache), world.store, world.settings, release_url=release.url + "/", stop=None)
        assert (source, time.monotonic() - start < 4) == ("release", True)


def test_a_name_server_that_never_answers_is_not_waited_for(
    world: World, cache: HubCache, release: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, let_go, ended = socket.getaddrinfo, threading.Event(), threading.Event()

    def resolve(host: str, *args: object, **options: object) -> object:
        if host != "store.invalid":
            return real(host, *args, **options)  # type: ignore[arg-type]
        let_go.wait(30)
        ended.set()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(wheel_source, "SIZE_TIMEOUT_S", 0.2)
    world.changes["AWS_ENDPOINT_URL"] = "http://store.invalid"
    source = wheel_source.obtain(wheel_of(GOOD), made(cache), world.store, world.settings, release_url=release.url + "/", stop=None)
    assert (source, ended.is_set()) == ("release", False)
    let_go.set()
    assert ended.wait(10)


def test_a_release_that_is_too_slow_is_given_up_and_left_alone_on_this_disk(
    world: World, cache: HubCache, release: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.fail(faults.slow(200))
    monkeypatch.setattr(wheel_source, "DOWNLOAD_DEADLINE_S", 0.2)
    with pytest.raises(StoreNotFound, match="TimeoutError"):
        brought(wheel_of(GOOD), cache, world, release.url)
    release.heal()
    with pytest.raises(StoreNotFound, match="left alone"):
        brought(wheel_of(GOOD), cache, world, release.url)
    assert len(release.log) <= 1
    world.client.put_object(Bucket=world.bucket, Key=f"models/wheels/{NAME}", Body=GOOD)
    assert brought(wheel_of(GOOD), cache, world, release.url).is_dir()


def test_a_bucket_whose_breaker_is_open_is_not_asked(world: World, cache: HubCache, release: FaultProxy) -> None:
    s3 = world.settings.s3
    assert s3
    Breaker(cache, s3).trip(StoreUnavailable("dead"))
    brought(wheel_of(GOOD), cache, world, release.url)
    assert world.proxy.log == []


def test_a_bucket_that_fails_here_is_left_to_the_restores_judgement(world: World, cache: HubCache, release: FaultProxy) -> None:
    world.proxy.fail(faults.status(403, code="AccessDenied"))
    brought(wheel_of(GOOD), cache, world, release.url)
    assert world.settings.s3
    assert Breaker(cache, world.settings.s3).open_cause() is None


def test_a_wrong_wheel_in_the_bucket_is_healed_by_the_next_publication(world: World, cache: HubCache, release: FaultProxy) -> None:
    key = f"models/wheels/{NAME}"
    world.client.put_object(Bucket=world.bucket, Key=key, Body=b"\0" * len(GOOD))
    brought(wheel_of(GOOD), cache, world, release.url)
    Publication(world.store, world.settings, [TEXT], RestoreReport(cache.root, {TEXT: seeded(cache)}), threading.Event()).run()
    assert world.client.get_object(Bucket=world.bucket, Key=key)["Body"].read() == GOOD
    assert list((cache.state / "wheels").iterdir()) == []


def seeded(cache: HubCache) -> Path:
    return seed_cache(cache, TEXT, b"words")


def test_a_disk_without_room_for_wheel_and_content_is_left_alone(
    world: World, cache: HubCache, release: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel_source, "room", lambda _path: (3 * len(GOOD), 1000))
    with pytest.raises(DiskFull, match="MB are free"):
        brought(wheel_of(GOOD), cache, world, release.url)
    world.client.put_object(Bucket=world.bucket, Key=f"models/wheels/{NAME}", Body=GOOD)
    with pytest.raises(DiskFull, match="MB are free"):
        brought(wheel_of(GOOD), cache, world, release.url)
    assert not list(cache.state.glob("wheels/*"))


@pytest.mark.parametrize(("seconds", "script"), [(0.5, wheels.PROBE), (60, "raise SystemExit(137)")])
def test_a_probe_that_did_not_end_is_tried_again_at_the_next_boot(
    seconds: float, script: str, world: World, cache: HubCache, release: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(wheels, "PROBE_TIMEOUT_S", seconds)
        patch.setattr(wheels, "PROBE", script)
        with pytest.raises(CacheError, match="does not work here"):
            brought(wheel_of(GOOD), cache, world, release.url)
        assert not list(cache.state.glob("*flash-attn-*/"))
    assert brought(wheel_of(GOOD), cache, world, release.url).is_dir()


def test_another_torch_tries_a_wheel_that_was_broken(
    world: World, cache: HubCache, release: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.objects[f"/{NAME}"] = BROKEN
    with pytest.raises(CacheError, match="undefined symbol"):
        brought(wheel_of(BROKEN), cache, world, release.url)
    monkeypatch.setattr(wheels, "_runtime", lambda: "py3.11-torch2.7.9")
    monkeypatch.setattr(wheels, "_probe", lambda *_: None)
    assert brought(wheel_of(BROKEN), cache, world, release.url).is_dir()


@pytest.mark.parametrize("content", [b"[]", b"1", b"not json", b'"broken"'])
def test_a_state_file_of_another_kind_is_passed_over(content: bytes, world: World, cache: HubCache, release: FaultProxy) -> None:
    name = brought(wheel_of(GOOD), cache, world, release.url).name
    (cache.state / f"{name}.json").write_bytes(content)
    assert brought(wheel_of(GOOD), cache, world).name == name


def test_two_workers_on_one_volume_install_once(world: World, cache: HubCache, release: FaultProxy) -> None:
    with ThreadPoolExecutor(2) as pool:
        sites = list(pool.map(lambda _: brought(wheel_of(GOOD), cache, world, release.url), range(2)))
    assert sites[0] == sites[1]
    assert len(release.log) == 1
    assert not list(cache.state.glob(".flash-attn-*"))


def test_the_phases_are_timed(world: World, cache: HubCache, release: FaultProxy) -> None:
    timeline = Timeline(time.time())
    brought(wheel_of(GOOD), cache, world, release.url, timeline)
    assert [(p.name, p.lane, p.source) for p in timeline.phases] == [
        ("fetch flash-attn", "wheel", "release"),
        ("install flash-attn", "wheel", ""),
        ("probe flash-attn", "wheel", ""),
    ]
    assert timeline.phases[0].bytes == len(GOOD)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("source", "blocked"), [(SOURCE, None), ("raise ImportError('undefined symbol')", "undefined symbol")])
def test_a_baked_wheel_is_tried_too(
    source: str, blocked: str | None, world: World, cache: HubCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "flash_attn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    (package / "bert_padding.py").touch()
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    report = prepared(world, cache)
    assert (report.site, report.blocked, [p.name for p in report.phases]) == (None, blocked, ["probe flash-attn"])
    assert world.proxy.log == []


def test_a_baked_wheel_without_a_capable_gpu_is_blocked_untried(
    world: World, cache: HubCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site" / "flash_attn").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(wheels, "this_host", lambda: Host((7, 5), (3, 11), "2.7", True))
    report = prepared(world, cache)
    assert (report.blocked, report.phases) == ("compute capability 7.5 is below 8.0", [])
