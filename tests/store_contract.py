"""The contract of f5_worker.store.Store as tests; a subclass gives the fixture `store`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from f5_worker.errors import Cancelled, StoreCorrupt, StoreNotFound
from f5_worker.store import Store

ODD_KEY = "models/a b+ü%41#?&.txt"


class StoreContract:
    def test_head_of_nothing_is_none(self, store: Store) -> None:
        assert store.head("nothing") is None

    def test_get_of_nothing_is_not_found(self, store: Store) -> None:
        with pytest.raises(StoreNotFound):
            store.get("nothing", max_bytes=10)

    @pytest.mark.parametrize("key", ["models/x", ODD_KEY])
    def test_what_was_put_comes_back_with_size_time_and_metadata(self, store: Store, key: str) -> None:
        store.put(key, b"hello", content_type="text/plain", metadata={"sha256": "abc"})
        info = store.head(key)
        assert info is not None
        assert (info.key, info.size_bytes, info.metadata) == (key, 5, {"sha256": "abc"})
        assert abs((datetime.now(UTC) - info.modified).total_seconds()) < 60
        assert store.get(key, max_bytes=5) == b"hello"

    def test_get_refuses_more_than_max_bytes(self, store: Store) -> None:
        store.put("k", b"hello", content_type="text/plain")
        with pytest.raises(StoreCorrupt):
            store.get("k", max_bytes=4)

    def test_stream_gives_the_whole_object(self, store: Store) -> None:
        store.put("k", b"hello" * 500_000, content_type="text/plain")
        assert b"".join(store.stream("k")) == b"hello" * 500_000

    def test_stream_of_nothing_is_not_found(self, store: Store) -> None:
        with pytest.raises(StoreNotFound):
            list(store.stream("nothing"))

    def test_put_overwrites(self, store: Store) -> None:
        store.put("k", b"one", content_type="text/plain")
        store.put("k", b"other", content_type="text/plain")
        assert store.get("k", max_bytes=10) == b"other"

    def test_list_gives_every_object_under_the_prefix(self, store: Store) -> None:
        for key in ("a/1", "a/2/3", "b/1"):
            store.put(key, b"x", content_type="text/plain")
        assert [o.key for o in store.list("a/")] == ["a/1", "a/2/3"]

    def test_delete_removes_and_does_not_mind_absence(self, store: Store) -> None:
        store.put("k", b"x", content_type="text/plain")
        store.delete("k")
        store.delete("k")
        assert store.head("k") is None

    @pytest.mark.parametrize("size", [0, 1, 40 * 1024 * 1024 + 1])
    def test_upload_sends_the_whole_file_and_tells_how_far_it_is(self, store: Store, tmp_path: Path, size: int) -> None:
        path, sent = tmp_path / "file", []
        path.write_bytes(b"\xa5" * size)
        store.upload("k", path, content_type="application/octet-stream", metadata={"sha256": "abc"}, on_bytes=sent.append)
        info = store.head("k")
        assert info is not None
        assert (info.size_bytes, sum(sent), info.metadata["sha256"]) == (size, size, "abc")

    def test_an_exception_out_of_on_bytes_aborts_the_upload_and_is_raised(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(40 * 1024 * 1024))

        def stop(_sent: int) -> None:
            raise Cancelled("enough")

        with pytest.raises(Cancelled):
            store.upload("k", path, content_type="application/octet-stream", metadata={}, on_bytes=stop)
        assert store.head("k") is None
        assert list(store.pending_uploads("")) == []
