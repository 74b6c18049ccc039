"""What the answers of a store are taken for, and what the message tells the user to do."""

from __future__ import annotations

import pytest

from f5_worker.errors import StoreForbidden, StoreMisplaced, StoreNotFound
from f5_worker.store import answer_error

LACKS = {
    "GET k": "readFiles",
    "HEAD k": "readFiles",
    "PUT k": "writeFiles",
    "upload k": "writeFiles",
    "LIST p": "listFiles",
    "LIST uploads p": "listFiles",
    "DELETE k": "deleteFiles",
}


@pytest.mark.parametrize(("call", "permission"), LACKS.items())
def test_a_refused_call_names_the_permission_that_it_needs(call: str, permission: str) -> None:
    error = answer_error(call, 403, "AccessDenied")
    assert isinstance(error, StoreForbidden)
    assert [p for p in set(LACKS.values()) if f"B2: {p}" in error.message] == [permission]


@pytest.mark.parametrize(
    ("call", "may_be_missing"), [("GET k", True), ("HEAD k", True), ("PUT k", False), ("DELETE k", False), ("LIST p", False)]
)
def test_only_a_refused_read_can_mean_a_missing_object(call: str, may_be_missing: bool) -> None:
    assert ("the object is missing" in answer_error(call, 403, "AccessDenied").message) is may_be_missing


@pytest.mark.parametrize(
    ("code", "kind"),
    [("", StoreMisplaced), ("404", StoreNotFound), ("NoSuchKey", StoreNotFound)],  # botocore's own code for a HEAD is "404"
)
def test_a_404_without_an_s3_code_is_no_s3_endpoint(code: str, kind: type[Exception]) -> None:
    error = answer_error("GET", 404, code)
    assert type(error) is kind
    assert ("AWS_ENDPOINT_URL" in error.message) is (kind is StoreMisplaced)
