"""docs/operations.md: each line that it quotes is what the worker really says when that is wrong, and each case of these tests is in it."""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from f5_worker import boot, fitness, placement, publish, wheels
from f5_worker.cache import HubCache
from f5_worker.errors import WorkerError
from f5_worker.fetch import Limits
from f5_worker.hub import CLIENT_ENV
from f5_worker.manifest import load_model
from f5_worker.placement import choose
from f5_worker.publish import Publisher
from f5_worker.report import Timeline, process_start_unix_s
from f5_worker.settings import Settings
from f5_worker.telemetry import Traces
from f5_worker.wheel_choice import Host
from tests.fakes import fault_proxy as faults
from tests.fakes.fault_proxy import Fault, refused_url
from tests.fakes.seaweed import READER_KEY, READER_SECRET
from tests.integration.conftest import FILES, World
from tests.unit.test_fitness import FakeDriver

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "operations.md"
B2_KEY = "005a1b2c3d4e5f6a7b8c9d0e1"
Case = Callable[[World, pytest.MonkeyPatch], object]  # does what is wrong; what it raises is said too


def settings(**changes: str) -> Case:
    """The boot's own reading of the environment."""

    def read(world: World, _monkeypatch: pytest.MonkeyPatch) -> object:
        found = Settings.from_env(world.env | changes)
        load_model(found.model, found.models_file)
        return found.warnings

    return read


def restore(fault: Fault | None = None, **changes: str) -> Case:
    """A boot's restore from a bucket that is whole."""

    def run(world: World, _monkeypatch: pytest.MonkeyPatch) -> object:
        world.seed()
        world.changes |= {name: value.replace("PROXY", world.proxy.url.removeprefix("http://")) for name, value in changes.items()}
        if fault:
            world.proxy.fail(fault, methods=("GET",))
        return world.restore().missing

    return run


def twice(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    restore(faults.slow_down())(world, monkeypatch)
    shutil.rmtree(world.root / "first" / "hub")
    return world.restore().missing


def upload(fault: Fault | None = None, **changes: str) -> Case:
    """A boot from the hub, and the publishing after it."""

    def run(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
        monkeypatch.setattr(publish, "CLAIM_SETTLE_S", 0.05)
        world.changes |= changes
        if fault:
            world.proxy.fail(fault, methods=("PUT", "POST"))
        report = world.restore()
        assert Publisher(world.store, world.settings, FILES, report).start().wait(60)
        return ""

    return run


def no_source(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    """Neither bucket nor hub."""
    return boot.join(FILES, world.settings, world.store, {}, timeline=Timeline(process_start_unix_s()))


def refusing_hub(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    world.hub.fail_status = 401
    return no_source(world, monkeypatch)


def offline_hub(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return no_source(world, monkeypatch)


def unwritable_dir(world: World, _monkeypatch: pytest.MonkeyPatch) -> object:
    (world.root / "file").touch()
    return choose(replace(world.settings, cache_dir=world.root / "file" / "models"), FILES)


def small_dir(world: World, _monkeypatch: pytest.MonkeyPatch) -> object:
    return choose(world.settings, [replace(FILES[0], size_bytes=10**15)])


def small_volume(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    volume = world.root / "volume"
    monkeypatch.setattr(placement, "room", lambda root: (1_000_000 if root == volume else 10**12, 10**6))
    return choose(replace(world.settings, cache_dir=volume), FILES)


def other_gpu(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    driver = FakeDriver(cuDeviceGetAttribute=12)
    monkeypatch.setattr("ctypes.CDLL", lambda _name: driver)
    return fitness.check(Settings.from_env(world.env | {"RUNPOD_GPU_COUNT": "1"}))


def other_torch(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(wheels, "this_host", lambda: Host((9, 0), (3, 11), "2.9", True))
    return wheels.prepare(world.settings, HubCache(world.root / "first"), None, env=CLIENT_ENV, timeline=Timeline(0.0))


def other_abi(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    package = world.root / "site" / "flash_attn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('flash_attn_2_cuda.so: undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(wheels, "this_host", lambda: Host((9, 0), (3, 11), "2.7", True))
    env = {"PYTHONPATH": str(package.parent)}
    return wheels.prepare(world.settings, HubCache(world.root / "first"), None, env=env, timeline=Timeline(0.0))


def flash_attn(world: World, _monkeypatch: pytest.MonkeyPatch) -> object:
    asked = replace(world.settings, flash_attn="on")
    return wheels.prepare(asked, HubCache(world.root / "first"), None, env=CLIENT_ENV, timeline=Timeline(0.0))


def broken_models_file(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    (world.root / "broken.json").write_text("models:")
    return settings(F5_MODELS_FILE=str(world.root / "broken.json"))(world, monkeypatch)


def no_gpu(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(fitness, "DRIVER", "libcuda.so.absent")
    return fitness.check(Settings.from_env(world.env | {"RUNPOD_GPU_COUNT": "1"}))


def no_telemetry(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    return Traces(Settings.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": refused_url()}), {}).stop()


# By the first cell of the row.
CASES: Mapping[str, Case] = {
    "a bucket without its key": settings(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY=""),
    "a Backblaze B2 key without the endpoint": settings(AWS_ENDPOINT_URL="", AWS_ACCESS_KEY_ID=B2_KEY),
    "an endpoint without `https://`": settings(AWS_ENDPOINT_URL="s3.us-west-004.backblazeb2.com"),
    "a bucket as a URL": settings(S3_BUCKET="b2://my-bucket"),
    "prefixes in each other": settings(S3_MODELS_PREFIX="f5/", S3_OUTPUT_PREFIX="f5/output/"),
    "a model that is not pinned": settings(F5_MODEL="F5TTS"),
    "a models file that is not there": settings(F5_MODELS_FILE="/absent/models.json"),
    "a models file that is none": broken_models_file,
    "certificates that are not there": settings(AWS_CA_BUNDLE="/absent/ca.pem"),
    "certificates that are none": settings(AWS_CA_BUNDLE=__file__),
    "a log level of another program": settings(RUNPOD_LOG_LEVEL="VERBOSE"),
    "credentials without a bucket": settings(S3_BUCKET=""),
    "the SDK's level DEBUG": settings(RUNPOD_LOG_LEVEL="DEBUG"),
    "flash-attn asked for on a machine that has no use for it": flash_attn,
    "flash-attn in the image for another torch or ABI": other_abi,
    "another torch or Python than the image's": other_torch,
    "HF_HOME or HF_HUB_CACHE by hand": settings(HF_HOME="/elsewhere"),
    "a cache directory without room, such as a small network volume": small_volume,
    "a cache directory that cannot be written": unwritable_dir,
    "the secret": restore(AWS_SECRET_ACCESS_KEY="another"),
    "the key id, or a key of another store": restore(AWS_ACCESS_KEY_ID="nobody"),
    "the bucket's name": restore(S3_BUCKET="no-such-bucket"),
    "another region's endpoint": restore(faults.status(301, code="PermanentRedirect")),
    "the region alone": restore(faults.status(400, code="AuthorizationQueryParametersError")),
    "a web site's address": restore(faults.status(404)),
    "a session token that has ended": restore(faults.status(400, code="ExpiredToken")),
    "the machine's clock": restore(faults.status(403, code="RequestTimeTooSkewed")),
    "a key that may not read, or a missing object and a key that may not list": restore(faults.status(403, code="AccessDenied")),
    "a key that may not write": upload(AWS_ACCESS_KEY_ID=READER_KEY, AWS_SECRET_ACCESS_KEY=READER_SECRET),
    "nothing listens": restore(AWS_ENDPOINT_URL=refused_url()),
    "no such host": restore(AWS_ENDPOINT_URL="http://store.invalid"),
    "`https://` to a port without TLS": restore(AWS_ENDPOINT_URL="https://PROXY"),
    "it takes requests and says nothing": restore(faults.black_hole()),
    "it is too slow": restore(faults.slow(100_000)),
    "it is overloaded": restore(faults.slow_down()),
    "it is slower than RESTORE_DEADLINE_S": restore(faults.slow(1_000_000), RESTORE_DEADLINE_S="1"),
    "it failed at the last boot on this disk": twice,
    "it is full, or its spending cap is reached": upload(faults.status(507, code="XMinioStorageFull")),
    "the hub refuses": refusing_hub,
    "HF_HUB_OFFLINE=1 with an empty bucket": offline_hub,
    "no directory has room": small_dir,
    "a GPU that this torch has no kernels for": other_gpu,
    "the container got no driver": no_gpu,
    "the packages are not installed": no_telemetry,
}


def rows() -> dict[str, str]:
    """What is wrong -> the line that the runbook quotes, out of its tables with the column `the log says`."""
    found, is_table = {}, False
    for line in RUNBOOK.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        is_table = bool(cells) and (is_table or cells[1] == "the log says")
        if is_table and set(cells[1]) - {"-"} and cells[1] != "the log says":
            found[cells[0]] = cells[1].removeprefix("`").removesuffix("`")
    return found


def said_by(case: Case, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> str:
    caplog.set_level(logging.INFO)
    try:
        said = str(case(world, monkeypatch))
    except WorkerError as error:
        said = str(error)
    said += "".join(f"\n{record.getMessage()}" for record in caplog.records)
    said = said.replace("no byte in 1.5 s", f"no byte in {Limits().first_byte_s:g} s")  # the fixture's bounds are shorter
    return said.replace("MB/s for 1.5 s", f"MB/s for {Limits().stall_window_s:g} s")


@pytest.mark.parametrize("wrong", CASES)
def test_the_runbook_quotes_what_the_worker_says(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    quoted = ".*".join(map(re.escape, rows()[wrong].split("…")))
    assert re.search(quoted, said_by(CASES[wrong], world, monkeypatch, caplog)), rows()[wrong]


def test_every_line_that_the_runbook_quotes_has_its_case() -> None:
    assert set(rows()) == set(CASES)


def test_the_events_that_the_runbook_lists_are_those_of_the_code() -> None:
    listed = re.findall(r"^\| ((?:`[a-z_.]+`,? ?)+)\|", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    events = re.findall(r"`([a-z_.]+)`", " ".join(listed))
    code = "".join(path.read_text(encoding="utf-8") for path in (*ROOT.glob("f5_worker/*.py"), *ROOT.glob("*.py")))
    assert len(events) > 9
    assert [event for event in events if f'"{event} ' not in code] == []
