"""The transcriber's weights on first need, in a handler whose boot has set the hub's client offline: sources, publishing, failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from f5_worker import publish
from f5_worker.errors import TranscriberUnavailable
from f5_worker.manifest import PinnedFile, dump_manifest, manifest_key
from f5_worker.transcribe import WeightsOnDemand
from tests.fakes import fault_proxy as faults
from tests.integration.conftest import CONTENT, FILES, World, assert_no_secret

FILE: PinnedFile = FILES[1]


@pytest.fixture(autouse=True)
def after_the_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(publish, "CLAIM_SETTLE_S", 0.05)


def on_demand(world: World, *, disk: str = "first", ask_hub: bool = True) -> WeightsOnDemand:
    settings = replace(world.settings, cache_dir_candidates=(world.root / disk,))
    return WeightsOnDemand(settings, world.store, ask_hub=ask_hub)


def test_the_first_worker_asks_the_hub_and_publishes_and_the_next_finds_it_in_the_bucket(world: World) -> None:
    first = on_demand(world)
    assert first.restore([FILE])[FILE].read_bytes() == CONTENT[FILE.path]
    assert first.publisher
    assert first.publisher.wait(60)
    assert set(world.keys()) == {FILE.key("models/"), manifest_key("models/", FILE.repo, FILE.commit)}
    asked = len(world.hub.requests)
    second = on_demand(world, disk="second")
    assert second.restore([FILE])[FILE].read_bytes() == CONTENT[FILE.path]
    assert len(world.hub.requests) == asked
    second.stop()


def test_publishing_keeps_what_the_manifest_of_the_commit_already_names(world: World) -> None:
    world.seed(FILES[:1])
    weights = on_demand(world)
    weights.restore([FILE])
    assert weights.publisher
    assert weights.publisher.wait(60)
    manifest = world.client.get_object(Bucket=world.bucket, Key=manifest_key("models/", FILE.repo, FILE.commit))["Body"].read()
    assert manifest == dump_manifest(FILES[:2])


def test_wrong_bytes_in_the_bucket_are_not_used_and_are_mended(world: World) -> None:
    key = FILE.key("models/")
    world.client.put_object(Bucket=world.bucket, Key=key, Body=bytes(FILE.size_bytes))
    weights = on_demand(world)
    assert weights.restore([FILE])[FILE].read_bytes() == CONTENT[FILE.path]
    assert weights.publisher
    assert weights.publisher.wait(60)
    assert world.client.get_object(Bucket=world.bucket, Key=key)["Body"].read() == CONTENT[FILE.path]


def test_the_client_is_offline_again_afterwards(world: World) -> None:
    from huggingface_hub import constants

    on_demand(world).restore([FILE])
    assert constants.HF_HUB_OFFLINE
    assert world.hub.requests


def test_a_user_who_set_the_hub_offline_is_obeyed(world: World) -> None:
    with pytest.raises(TranscriberUnavailable):
        on_demand(world, ask_hub=False).restore([FILE])
    assert world.hub.requests == []


def test_weights_that_no_source_has_are_a_clear_error_and_come_when_they_are_there(world: World, caplog: pytest.LogCaptureFixture) -> None:
    weights = on_demand(world)
    world.hub.fail_status = 404
    world.proxy.fail(faults.status(403, code="AccessDenied"), methods=("GET",))
    with pytest.raises(TranscriberUnavailable, match="pass ref_text and at most 12 s") as caught:
        weights.restore([FILE])
    assert caught.value.retryable
    assert str(world.root) not in str(caught.value)
    assert_no_secret(caplog.text)
    assert weights.publisher is None
    world.hub.fail_status = None
    assert weights.restore([FILE])[FILE].read_bytes() == CONTENT[FILE.path]
    weights.stop()


def test_no_room_on_any_disk_is_a_clear_error(world: World) -> None:
    huge = replace(FILE, size_bytes=10**18)
    with pytest.raises(TranscriberUnavailable, match="no room"):
        on_demand(world).restore([huge])


def test_stopping_ends_a_publication_under_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("f5_worker.publish.random.uniform", lambda *_: 600.0)
    weights = on_demand(world)
    weights.restore([FILE])
    assert weights.publisher
    assert not weights.publisher.wait(0)
    weights.stop()
    assert weights.publisher.wait(0)
    assert world.keys() == []


def test_a_worker_that_stops_fetches_nothing_more(world: World) -> None:
    weights = on_demand(world)
    weights.stop()
    with pytest.raises(TranscriberUnavailable):
        weights.restore([FILE])
    assert world.hub.requests == []


def test_without_a_bucket_the_hub_serves_and_nothing_is_published(world: World, tmp_path: Path) -> None:
    settings = replace(world.settings, cache_dir_candidates=(tmp_path / "third",), s3=None)
    weights = WeightsOnDemand(settings, None)
    assert weights.restore([FILE])[FILE].read_bytes() == CONTENT[FILE.path]
    assert weights.publisher is None
    weights.stop()
