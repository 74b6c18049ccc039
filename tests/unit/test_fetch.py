"""The transport against a small HTTP server: what it asks for, what it writes, what it resumes."""

from __future__ import annotations

import errno
import hashlib
import os
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from f5_worker.disk import disk_error
from f5_worker.errors import CacheError, Cancelled, DiskFull, InternalError, StoreCorrupt, StoreUnavailable, WorkerError
from f5_worker.fetch import Item, Limits, Outcome, fetch
from f5_worker.http_range import Interrupted, Target, refusal
from f5_worker.part_file import PartFile
from f5_worker.transfer import backoff_s, plan
from tests.fakes.fault_proxy import FaultProxy, black_hole, chunked, hook
from tests.files import random_bytes

MIB = 1024 * 1024
LIMITS = Limits(connections=4, range_bytes=2 * MIB)
BIG = random_bytes(9 * MIB + 12_345, seed=1)


def item_for(proxy: FaultProxy, folder: Path, path: str, data: bytes, *, url_path: str | None = None) -> Item:
    proxy.objects[path] = data
    return Item(f"{proxy.url}{url_path or path}", folder / (Path(path).name + ".part"), len(data), hashlib.sha256(data).hexdigest())


def get(items: list[Item], limits: Limits = LIMITS, **options: object) -> list[Outcome]:
    return fetch(items, limits, on_done=lambda _: None, **options)  # type: ignore[arg-type]


def test_every_byte_arrives_for_every_size(tmp_path: Path) -> None:
    sizes = (0, 1, 511, MIB, 2 * MIB, 2 * MIB + 1, len(BIG))
    with FaultProxy() as proxy:
        items = [item_for(proxy, tmp_path, f"/b/{size}", BIG[:size]) for size in sizes]
        outcomes = get(items)
    assert [o.error for o in outcomes] == [None] * len(sizes)
    assert [i.part.read_bytes() == BIG[: i.size_bytes] for i in items] == [True] * len(sizes)
    assert [o.bytes_received for o in outcomes] == list(sizes)


def test_no_items_is_no_work() -> None:
    assert get([]) == []


def test_outcomes_keep_the_order_of_the_items(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        items = [item_for(proxy, tmp_path, f"/b/{n}", BIG[:n]) for n in (5, 3 * MIB, 0)]
        assert [o.item for o in get(items)] == items


def test_on_done_is_called_once_for_each_finished_part_and_may_rename_it(tmp_path: Path) -> None:
    done: list[Outcome] = []

    def rename(outcome: Outcome) -> None:
        done.append(outcome)
        outcome.item.part.rename(outcome.item.part.with_suffix(".done"))

    with FaultProxy() as proxy:
        items = [item_for(proxy, tmp_path, "/b/a", BIG), item_for(proxy, tmp_path, "/b/b", b"small")]
        fetch(items, LIMITS, on_done=rename)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.done", "b.done"]
    assert {o.item.part.name for o in done} == {"a.part", "b.part"}


def test_on_done_is_not_called_for_a_failed_item(tmp_path: Path) -> None:
    done: list[Outcome] = []
    with FaultProxy() as proxy:
        item = item_for(proxy, tmp_path, "/b/a", BIG)
        proxy.objects.clear()
        (outcome,) = fetch([item], LIMITS, on_done=done.append)
    assert outcome.error is not None
    assert done == []


@pytest.mark.parametrize("raised", [CacheError("no rename"), OSError(30, "Read-only file system")])
def test_an_error_of_on_done_becomes_the_error_of_its_item(tmp_path: Path, raised: Exception) -> None:
    def refuse(outcome: Outcome) -> None:
        if outcome.item.part.name == "a.part":
            raise raised

    with FaultProxy() as proxy:
        items = [item_for(proxy, tmp_path, "/b/a", BIG), item_for(proxy, tmp_path, "/b/b", b"small")]
        first, second = fetch(items, LIMITS, on_done=refuse)
    assert isinstance(first.error, CacheError)
    assert second.error is None


def test_a_defect_of_on_done_ends_the_call_with_an_internal_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    died = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _raised: died.set())

    def defect(_outcome: Outcome) -> None:
        raise ZeroDivisionError

    with FaultProxy() as proxy:
        (outcome,) = fetch([item_for(proxy, tmp_path, "/b/a", BIG)], LIMITS, on_done=defect)
    assert type(outcome.error) is InternalError
    assert died.wait(10)  # its thread may outlive the call


def test_all_files_share_the_connections(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        accepted = _count_connections(proxy)
        get([item_for(proxy, tmp_path, f"/b/{n}", BIG[: 3 * MIB]) for n in range(6)])
    assert len(accepted) <= LIMITS.connections


def _count_connections(proxy: FaultProxy) -> list[object]:
    accepted: list[object] = []
    real = proxy._server.process_request
    proxy._server.process_request = lambda *args: (accepted.append(args[1]), real(*args))[1]  # type: ignore[method-assign]
    return accepted


def test_no_byte_is_fetched_twice(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        get([item_for(proxy, tmp_path, "/b/a", BIG)])
        assert sum(r.sent_bytes for r in proxy.log) == len(BIG)


def test_the_url_is_sent_as_it_was_signed(tmp_path: Path) -> None:
    encoded = "/b/a%20b%2Bc%25%C3%A9/x+y?X-Amz-Signature=ab%2Fc%3D&versionId=1"
    with FaultProxy() as proxy:
        item = item_for(proxy, tmp_path, "/b/a b+c%é/x+y", b"data", url_path=encoded)
        seen: list[str] = []
        proxy.fail(hook(lambda r: seen.append(r.query)))
        (outcome,) = get([item])
    assert outcome.error is None
    assert seen == ["X-Amz-Signature=ab%2Fc%3D&versionId=1"]


def test_requests_carry_nothing_that_backblaze_refuses(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        get([item_for(proxy, tmp_path, "/b/a", b"data")])
        assert {name.lower() for name in proxy.log[0].headers} == {"host", "range", "accept-encoding"}


def test_a_body_without_length_is_read_to_its_end(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        proxy.fail(chunked())
        items = [item_for(proxy, tmp_path, "/b/a", BIG), item_for(proxy, tmp_path, "/b/none", b"")]
        assert [o.error for o in get(items)] == [None, None]
    assert items[0].part.read_bytes() == BIG


def test_ipv6_works(tmp_path: Path) -> None:
    try:
        proxy = FaultProxy(host="::1")
    except OSError as exc:
        pytest.skip(f"no IPv6 loopback: {exc}")
    with proxy:
        assert get([item_for(proxy, tmp_path, "/b/a", BIG)])[0].error is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", key,
         "-out", cert, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture
def tls_proxy(certificate: tuple[Path, Path]):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with FaultProxy(tls=context) as proxy:
        yield proxy


def test_https_with_a_given_ca(tmp_path: Path, tls_proxy: FaultProxy, certificate: tuple[Path, Path]) -> None:
    (outcome,) = get([item_for(tls_proxy, tmp_path, "/b/a", BIG)], Limits(connections=4, range_bytes=2 * MIB, ca_file=certificate[0]))
    assert outcome.error is None
    assert outcome.item.part.read_bytes() == BIG


def test_https_honours_ssl_cert_file(
    tmp_path: Path, tls_proxy: FaultProxy, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    assert get([item_for(tls_proxy, tmp_path, "/b/a", BIG)])[0].error is None


def test_https_with_an_unknown_ca_is_refused(tmp_path: Path, tls_proxy: FaultProxy) -> None:
    (outcome,) = get([item_for(tls_proxy, tmp_path, "/b/a", BIG)])
    assert isinstance(outcome.error, StoreUnavailable)
    assert "certificate is not trusted" in outcome.error.message


# resume


def half_done(proxy: FaultProxy, folder: Path, data: bytes = BIG) -> Item:
    """An item whose first 4 MiB an earlier run has fetched."""
    item = item_for(proxy, folder, "/b/a", data)
    part = PartFile(item.part, item.size_bytes, item.sha256)
    part.open()
    part.write(memoryview(data)[: 4 * MIB], 0)
    part.mark(0, 2 * MIB)
    part.mark(2 * MIB, 4 * MIB)
    part.close()
    return item


def test_finished_ranges_are_not_fetched_again(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        item = half_done(proxy, tmp_path)
        (outcome,) = get([item])
    assert outcome.error is None
    assert outcome.bytes_received == len(BIG) - 4 * MIB
    assert item.part.read_bytes() == BIG
    assert not item.part.with_name("a.part.ranges").exists()


def test_a_part_that_was_complete_needs_no_request(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        item = half_done(proxy, tmp_path)
        part = PartFile(item.part, item.size_bytes, item.sha256)
        part.open()
        part.write(memoryview(BIG)[4 * MIB :], 4 * MIB)
        part.mark(4 * MIB, len(BIG))
        part.close()
        (outcome,) = get([item])
        assert outcome.error is None
        assert proxy.log == []


def test_wrong_bytes_of_an_earlier_run_are_thrown_away_and_fetched_once(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        item = half_done(proxy, tmp_path)
        with item.part.open("r+b") as file:
            file.write(b"wrong")
        (outcome,) = get([item])
    assert outcome.error is None
    assert item.part.read_bytes() == BIG
    assert outcome.bytes_received == 2 * len(BIG) - 4 * MIB


@pytest.mark.parametrize(
    "journal",
    [b"", b"garbage", b"f5-part 1 5 abc\n0 5\n", b"\xff" * 100],
    ids=["empty", "garbage", "other file", "binary"],
)
def test_a_foreign_journal_is_ignored(tmp_path: Path, journal: bytes) -> None:
    with FaultProxy() as proxy:
        item = half_done(proxy, tmp_path)
        item.part.with_name("a.part.ranges").write_bytes(journal)
        (outcome,) = get([item])
    assert outcome.error is None
    assert outcome.bytes_received == len(BIG)


@pytest.mark.parametrize("line", [b"0 999999999999\n", b"-5 3\n", b"7 3\n", b"1 2 3\n", b"x y\n"])
def test_a_journal_with_an_impossible_range_is_ignored(tmp_path: Path, line: bytes) -> None:
    with FaultProxy() as proxy:
        item = half_done(proxy, tmp_path)
        with item.part.with_name("a.part.ranges").open("ab") as file:
            file.write(line)
        (outcome,) = get([item])
    assert outcome.error is None
    assert outcome.bytes_received == len(BIG)


def test_a_torn_last_line_of_the_journal_costs_only_its_range(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        item = half_done(proxy, tmp_path)
        journal = item.part.with_name("a.part.ranges")
        os.truncate(journal, journal.stat().st_size - 1)
        (outcome,) = get([item])
    assert outcome.error is None
    assert outcome.bytes_received == len(BIG) - 2 * MIB


def test_a_part_of_another_length_starts_over(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        item = half_done(proxy, tmp_path)
        os.truncate(item.part, 3 * MIB)
        (outcome,) = get([item])
    assert outcome.error is None
    assert item.part.read_bytes() == BIG


def test_a_symlink_in_place_of_the_part_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    with FaultProxy() as proxy:
        item = item_for(proxy, tmp_path, "/b/a", BIG)
        item.part.symlink_to(outside)
        (outcome,) = get([item])
    assert isinstance(outcome.error, CacheError)
    assert outside.read_bytes() == b"precious"


def test_a_directory_in_place_of_the_part_fails_its_item_alone(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        items = [item_for(proxy, tmp_path, "/b/a", BIG), item_for(proxy, tmp_path, "/b/b", b"fine")]
        items[0].part.mkdir()
        first, second = get(items)
    assert isinstance(first.error, CacheError)
    assert second.error is None


# stop


def test_a_stop_before_the_start_ends_everything(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with FaultProxy() as proxy:
        proxy.fail(black_hole())
        (outcome,) = get([item_for(proxy, tmp_path, "/b/a", BIG)], stop=stop)
    assert type(outcome.error) is Cancelled
    assert list(tmp_path.iterdir()) == []


# pure parts


@pytest.mark.parametrize(
    ("size", "finished"),
    [(0, []), (1, []), (10, [(0, 10)]), (100, [(0, 10), (50, 60)]), (100, [(90, 100)]), (100, [(3, 4), (5, 6)])],
)
def test_the_plan_covers_the_file_once_and_in_order(size: int, finished: list[tuple[int, int]]) -> None:
    ranges = plan(size, finished)
    assert [r.start for r in ranges[1:]] == [r.end for r in ranges[:-1]]
    assert (ranges[0].start, ranges[-1].end) == (0, size)
    assert [(r.start, r.end) for r in ranges if r.on_disk] == finished


@pytest.mark.parametrize(
    ("url", "endpoint", "authority", "path"),
    [
        ("http://h:81/a%2Fb?x=%20", (False, "h", 81), "h:81", "/a%2Fb?x=%20"),
        ("https://h/k", (True, "h", 443), "h", "/k"),
        ("http://[::1]:5/k", (False, "::1", 5), "[::1]:5", "/k"),
        ("https://bucket.h", (True, "bucket.h", 443), "bucket.h", "/"),
    ],
)
def test_an_url_is_taken_apart_without_encoding(url: str, endpoint: tuple[bool, str, int], authority: str, path: str) -> None:
    target = Target.parse(url)
    assert (target.endpoint, target.authority, target.path) == (endpoint, authority, path)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("7", 7.0), ("0", 0.0), ("soon", None), ("\u00b2", None), ("-1", None),
     ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("Thu, 01 Jan 1970 00:00:00 +99999999999999", None)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    interruption = refusal(503, b"<Code>SlowDown</Code>", header)
    assert isinstance(interruption, Interrupted)
    assert interruption.retry_after_s == seconds


def test_the_wait_after_a_failure_grows_to_a_bound() -> None:
    assert max(backoff_s(1) for _ in range(100)) < min(backoff_s(4) for _ in range(100))
    assert max(backoff_s(failures) for failures in (4, 40, 4000)) <= 2.4


def test_a_refusal_never_shows_the_url() -> None:
    error = refusal(403, b"<Code>AccessDenied</Code><Resource>/secret/path?sig=abc</Resource>", None)
    assert isinstance(error, WorkerError)
    assert "secret" not in str(error)


def test_a_wrong_digest_of_a_fresh_download_is_corrupt_and_leaves_nothing(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        item = item_for(proxy, tmp_path, "/b/a", BIG)
        proxy.objects["/b/a"] = BIG[:-1] + bytes([BIG[-1] ^ 1])
        (outcome,) = get([item])
    assert isinstance(outcome.error, StoreCorrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, CacheError), (errno.EACCES, CacheError), (None, CacheError)],
)
def test_a_disk_error_has_one_translation(code: int | None, kind: type) -> None:
    error = disk_error(OSError(code, os.strerror(code)) if code else OSError("cut short"))
    assert type(error) is kind
    assert "MODEL_CACHE_DIR" in error.message if kind is DiskFull else "written" in error.message
