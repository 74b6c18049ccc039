"""Publishing into a real store that refuses what Backblaze B2 refuses, or one kind of call to the publisher's key."""

from __future__ import annotations

import logging

import pytest

from f5_worker.cache import HubCache
from f5_worker.manifest import manifest_key
from f5_worker.publish import Publisher
from f5_worker.restore import RestoreReport
from tests.fakes import fault_proxy as faults
from tests.files import COMMIT, seed_cache
from tests.integration.conftest import BIG, CONTENT, FILES, World, assert_whole

MANIFEST = manifest_key("models/", BIG.repo, COMMIT)
WHOLE = {MANIFEST, *(f.key("models/") for f in FILES)}


@pytest.fixture
def report(world: World) -> RestoreReport:
    """Files that a boot got from the hub."""
    cache = HubCache(world.root / "first")
    return RestoreReport(cache.root, {f: seed_cache(cache, f, CONTENT[f.path]) for f in FILES}, dict.fromkeys(FILES, "hub"))


def publish(world: World, report: RestoreReport) -> None:
    assert Publisher(world.store, world.settings, FILES, report).start().wait(60)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("f5_worker")]


def test_nothing_is_sent_that_backblaze_refuses(world: World, report: RestoreReport, caplog: pytest.LogCaptureFixture) -> None:
    world.proxy.fail(faults.backblaze())
    publish(world, report)
    assert set(world.keys()) == WHOLE
    assert [r for r in world.proxy.log if r.status == 501] == []
    assert {"PUT", "POST", "DELETE", "HEAD"} <= {r.method for r in world.proxy.log}
    assert any("uploadId" in r.query for r in world.proxy.log)  # the largest file went in parts
    assert warnings(caplog) == []


@pytest.mark.parametrize(("method", "permission"), [("HEAD", "s3:GetObject"), ("PUT", "s3:PutObject")])
def test_a_key_that_may_not_head_or_put_leaves_one_warning_and_nothing_in_the_bucket(
    world: World, report: RestoreReport, caplog: pytest.LogCaptureFixture, method: str, permission: str
) -> None:
    world.proxy.fail(faults.status(403, code="AccessDenied"), methods=(method,))
    publish(world, report)
    [warning] = warnings(caplog)
    assert permission in warning
    assert world.keys() == []
    assert list(world.store.pending_uploads("")) == []
    assert_whole(report)


def test_a_key_that_may_not_list_publishes_all_the_same(world: World, report: RestoreReport, caplog: pytest.LogCaptureFixture) -> None:
    world.proxy.fail(faults.status(403, code="AccessDenied"), path=f"/{world.bucket}", methods=("GET",))
    publish(world, report)
    assert world.proxy.count("GET", f"/{world.bucket}", status=403) > 0
    assert set(world.keys()) == WHOLE
    assert warnings(caplog) == []


def test_a_key_that_may_not_upload_parts_leaves_no_manifest(world: World, report: RestoreReport, caplog: pytest.LogCaptureFixture) -> None:
    world.proxy.fail(faults.status(403, code="AccessDenied"), methods=("PUT",), query="partNumber")
    publish(world, report)
    assert len(warnings(caplog)) == 1
    assert world.keys() == []
    assert list(world.store.pending_uploads("")) == []
