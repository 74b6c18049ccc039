"""What every Store does: the fake in memory and S3Store on moto. tests/integration runs the same on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto import mock_aws

from f5_worker.settings import S3Settings
from f5_worker.store import Store
from s3_utils import S3Store
from tests.fakes.memory_store import MemoryStore
from tests.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestS3StoreOnMoto(StoreContract):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        import boto3

        with mock_aws():
            boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="contract")
            yield S3Store(S3Settings("contract", "key-id", "secret", path_style=False))
