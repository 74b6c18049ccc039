"""A bucket that accepts and never answers costs one job some seconds, and those after it nothing."""

from __future__ import annotations

import time

import pytest

from f5_worker.errors import StoreUnavailable
from f5_worker.guard import GuardedStore
from f5_worker.settings import S3Settings
from s3_utils import S3Store
from tests.fakes.fault_proxy import FaultProxy, black_hole


def test_a_hanging_bucket_is_waited_for_once() -> None:
    with FaultProxy(objects={}) as proxy:
        proxy.fail(black_hole())
        s3 = S3Settings("bucket", "key-id", "secret", endpoint_url=proxy.url)
        store = GuardedStore(S3Store(s3, read_timeout_s=0.6, attempts=2))
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.put("k", b"x", content_type="x/y")
        assert 1.2 <= time.monotonic() - started < 5
        asked = len(proxy.log)
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                store.put("k", b"x", content_type="x/y")
        assert len(proxy.log) == asked
