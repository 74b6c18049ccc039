"""The fault matrix of the transport: what each fault costs, which error it becomes, what lies on the disk after it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from f5_worker import part_file, transfer
from f5_worker.errors import (
    CacheError,
    Cancelled,
    DiskFull,
    StoreCorrupt,
    StoreForbidden,
    StoreMisplaced,
    StoreNoBucket,
    StoreNotFound,
    StoreUnavailable,
)
from f5_worker.fetch import Item, Limits, Outcome, fetch
from f5_worker.fetch_session import Session
from f5_worker.http_range import Answer, Connection
from tests.fakes import fault_proxy as faults
from tests.fakes.fault_proxy import Fault, FaultProxy
from tests.files import random_bytes
from tests.worker_process import until

MIB = 1024 * 1024
DATA = random_bytes(12 * MIB + 777, seed=2)
SMALL = random_bytes(10_000, seed=3)
LIMITS = Limits(connections=4, range_bytes=2 * MIB, connect_s=0.6, first_byte_s=0.6, stall_window_s=1.0, deadline_s=30)
PATH = "/bucket/models/weights.bin"


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy(objects={PATH: DATA, "/bucket/models/vocab.txt": SMALL}) as running:
        yield running


def item(proxy_url: str, folder: Path, path: str = PATH, data: bytes = DATA) -> Item:
    url = f"{proxy_url}{path}?X-Amz-Signature=topsecret"
    return Item(url, folder / f"{Path(path).name}.part", len(data), hashlib.sha256(data).hexdigest())


def get(items: list[Item], limits: Limits = LIMITS, stop: threading.Event | None = None) -> list[Outcome]:
    outcomes = fetch(items, limits, on_done=lambda _: None, stop=stop)
    for outcome in outcomes:
        assert "topsecret" not in str(outcome.error)
        assert "127.0.0.1" not in str(outcome.error)
    return outcomes


def get_one(proxy: FaultProxy, folder: Path, limits: Limits = LIMITS) -> Outcome:
    return get([item(proxy.url, folder)], limits)[0]


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def assert_whole(outcome: Outcome) -> None:
    assert outcome.error is None
    assert outcome.item.part.read_bytes() == DATA
    assert names(outcome.item.part.parent) == {outcome.item.part.name}


def assert_resumes(proxy: FaultProxy, outcome: Outcome) -> None:
    """A later run without the fault fetches the rest, and only the rest."""
    proxy.heal()
    again = get([outcome.item])[0]
    assert_whole(again)


# faults that pass: the file is whole in the end


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (faults.slow_down(), 2),
        (faults.slow_down(retry_after=0), 2),
        (faults.slow_down(retry_after="Thu, 01 Jan 1970 00:00:00 GMT"), 1),
        (faults.status(500, code="InternalError"), 2),
        (faults.status(502), 2),
        (faults.status(429, code="TooManyRequests"), 1),
        (faults.status(400, code="RequestTimeout"), 1),
        (faults.reset(1024), 2),
        (faults.reset(1_500_000), 3),
        (faults.truncated(1024), 2),
        (faults.truncated(0), 1),
        (faults.stall(1024), 1),
        (faults.stall(1_500_000), 1),
        (faults.black_hole(), 1),
        (faults.replaced(), 1),
    ],
    ids=lambda v: v.name if isinstance(v, Fault) else f"x{v}",
)
def test_a_passing_fault_costs_time_and_nothing_else(proxy: FaultProxy, tmp_path: Path, fault: Fault, times: int) -> None:
    proxy.fail(fault, times=times, skip=1)
    assert_whole(get_one(proxy, tmp_path, replace(LIMITS, stall_window_s=3)))


def test_retry_after_is_honoured(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fail(faults.slow_down(retry_after=1), times=1)
    outcome = get_one(proxy, tmp_path, Limits(connections=1, stall_window_s=3))
    assert_whole(outcome)
    assert outcome.seconds >= 1


def test_a_store_that_asks_for_more_patience_than_a_stall_gets_is_given_up_at_once(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fail(faults.slow_down(retry_after=120))
    outcome = get_one(proxy, tmp_path)
    assert isinstance(outcome.error, StoreUnavailable)
    assert "SlowDown" in outcome.error.message


def test_truncation_resumes_where_the_body_ended(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fail(faults.truncated(1024), times=3)
    outcome = get_one(proxy, tmp_path)
    assert_whole(outcome)
    assert sum(r.sent_bytes for r in proxy.log) == len(DATA)


def test_a_connection_that_the_store_closed_between_requests_is_no_failure(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keep-alive connection dies with each answer."""
    failures: list[object] = []
    monkeypatch.setattr(Session, "_after_failure", lambda _session, *failure: failures.append(failure))
    proxy.fail(Fault("close", after=lambda reply: reply.with_headers(Connection="close")))
    assert_whole(get_one(proxy, tmp_path, Limits(connections=2, range_bytes=MIB)))
    assert failures == []


def test_a_blip_that_one_range_meets_again_and_again_is_ridden_out(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_BACKOFF_S", 0.01)
    refusals = [faults.slow_down()] * 7

    def before(request: faults.Request) -> faults.Reply | None:
        return refusals.pop().before(request) if refusals and request.range and request.range.startswith("bytes=0-") else None

    proxy.fail(Fault("blip", before=before))
    assert_whole(get_one(proxy, tmp_path, replace(LIMITS, stall_window_s=3)))
    assert refusals == []


@pytest.mark.parametrize("connections", [1, 4])
def test_a_server_that_ignores_ranges_is_read_as_one_stream(proxy: FaultProxy, tmp_path: Path, connections: int) -> None:
    proxy.fail(faults.ignore_range())
    assert_whole(get_one(proxy, tmp_path, replace(LIMITS, connections=connections)))


def test_a_stream_that_breaks_starts_again(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fail(faults.ignore_range(), times=6)
    proxy.fail(faults.truncated(5 * MIB), times=1)
    proxy.fail(faults.ignore_range())
    assert_whole(get_one(proxy, tmp_path))


def test_a_stream_that_always_breaks_is_given_up_after_its_attempts(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_BACKOFF_S", 0.01)
    both = faults.ignore_range()
    both.after = faults.truncated(5 * MIB).after
    proxy.fail(both)
    limits = replace(LIMITS, connections=1, stall_window_s=30)
    outcome = get_one(proxy, tmp_path, limits)
    assert isinstance(outcome.error, StoreUnavailable)
    assert len(proxy.log) <= limits.attempts + 1  # the first answer tells that ranges are ignored


def test_a_server_that_ignores_ranges_and_sends_chunks_is_read_to_its_end(proxy: FaultProxy, tmp_path: Path) -> None:
    both = faults.ignore_range()
    both.after = faults.chunked().after
    proxy.fail(both)
    assert_whole(get_one(proxy, tmp_path))


# faults that stay: one error class each


REFUSALS = [
    (faults.status(404, code="NoSuchKey"), StoreNotFound, "no such object"),
    (faults.status(404), StoreMisplaced, "AWS_ENDPOINT_URL"),  # a web server
    (faults.status(404, code="NoSuchBucket"), StoreNoBucket, "S3_BUCKET"),
    (faults.status(301, code="PermanentRedirect"), StoreMisplaced, "PermanentRedirect"),
    (faults.status(307, code="TemporaryRedirect"), StoreMisplaced, "AWS_REGION"),
    (faults.status(401), StoreForbidden, "401"),
    (faults.status(403, code="AccessDenied"), StoreForbidden, "AccessDenied"),
    (faults.status(403, code="ExpiredToken"), StoreForbidden, "ExpiredToken"),
    (faults.status(400, code="ExpiredToken"), StoreForbidden, "ExpiredToken"),
    (faults.status(400, code="AuthorizationHeaderMalformed"), StoreMisplaced, "AWS_REGION"),
    (faults.status(403, code="InvalidAccessKeyId"), StoreForbidden, "AWS_ACCESS_KEY_ID"),
    (faults.status(403, code="SignatureDoesNotMatch"), StoreForbidden, "AWS_SECRET_ACCESS_KEY"),
    (faults.status(403, code="RequestTimeTooSkewed"), StoreForbidden, "clock"),
    (faults.status(501, code="NotImplemented"), StoreUnavailable, "NotImplemented"),
    (faults.status(418), StoreUnavailable, "418"),
]


@pytest.mark.parametrize(("fault", "error", "said"), REFUSALS, ids=lambda v: v.name if isinstance(v, Fault) else None)
def test_a_refusal_is_not_retried_and_leaves_nothing(proxy: FaultProxy, tmp_path: Path, fault: Fault, error: type, said: str) -> None:
    proxy.fail(fault, path=PATH)
    broken, fine = get([item(proxy.url, tmp_path), item(proxy.url, tmp_path, "/bucket/models/vocab.txt", SMALL)])
    assert type(broken.error) is error
    assert said in broken.error.message
    assert fine.error is None
    assert proxy.count(path=PATH) <= LIMITS.connections
    assert names(tmp_path) == {"vocab.txt.part"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (faults.wrong_content_range(), "another range"),
        (faults.replaced(), "sha256"),
        (faults.corrupt(), "sha256"),
        (faults.resized(+5000), "bytes"),
        (faults.resized(-5000), "bytes"),
        (faults.resized(-len(DATA)), "shorter"),
    ],
    ids=["wrong Content-Range", "replaced", "same length", "longer", "shorter", "empty"],
)
def test_wrong_bytes_are_corrupt_and_leave_nothing(proxy: FaultProxy, tmp_path: Path, fault: Fault, said: str) -> None:
    proxy.fail(fault, path=PATH)
    broken, fine = get([item(proxy.url, tmp_path), item(proxy.url, tmp_path, "/bucket/models/vocab.txt", SMALL)])
    assert type(broken.error) is StoreCorrupt
    assert said in broken.error.message
    assert fine.error is None
    assert names(tmp_path) == {"vocab.txt.part"}


@pytest.mark.parametrize("delta", [+5000, -5000])
def test_a_stream_of_another_length_is_corrupt(proxy: FaultProxy, tmp_path: Path, delta: int) -> None:
    wrong = faults.ignore_range()
    wrong.after = faults.resized(delta).after
    proxy.fail(wrong)
    assert type(get_one(proxy, tmp_path).error) is StoreCorrupt
    assert names(tmp_path) == set()


def test_a_longer_stream_without_length_is_corrupt(proxy: FaultProxy, tmp_path: Path) -> None:
    wrong = faults.ignore_range()
    wrong.after = lambda reply: faults.chunked().after(faults.resized(+1).after(reply))
    proxy.fail(wrong)
    assert type(get_one(proxy, tmp_path).error) is StoreCorrupt


def test_an_object_that_changes_again_and_again_is_corrupt(proxy: FaultProxy, tmp_path: Path) -> None:
    tags = iter(range(10_000))
    proxy.fail(Fault("flapping", after=lambda reply: reply.with_headers(ETag=f'"{next(tags)}"')))
    outcome = get_one(proxy, tmp_path)
    assert type(outcome.error) is StoreCorrupt
    assert "replaced" in outcome.error.message
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    "fault",
    [
        faults.slow_down(),
        faults.slow_down(retry_after=0),
        faults.status(500, code="InternalError"),
        faults.reset(1024),
        faults.truncated(1024),
        faults.stall(1024),
        faults.black_hole(),
        faults.slow(50_000),
    ],
    ids=lambda f: f.name,
)
def test_a_fault_that_stays_ends_as_unavailable_and_keeps_what_came(proxy: FaultProxy, tmp_path: Path, fault: Fault) -> None:
    proxy.fail(fault, skip=2)
    outcome = get_one(proxy, tmp_path, replace(LIMITS, connections=1))  # the first two ranges are done before the fault
    assert type(outcome.error) is StoreUnavailable
    assert names(tmp_path) == {"weights.bin.part", "weights.bin.part.ranges"}
    before = len(proxy.log)
    assert_resumes(proxy, outcome)
    assert sum(r.sent_bytes for r in proxy.log[before:]) < len(DATA)


def test_a_fault_from_the_first_byte_on_leaves_nothing(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fail(faults.slow_down())
    assert type(get_one(proxy, tmp_path).error) is StoreUnavailable
    assert names(tmp_path) == set()


def test_the_deadline_ends_everything_and_keeps_what_came(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fail(faults.slow(3e6), skip=1)
    outcome = get_one(proxy, tmp_path, Limits(connections=2, range_bytes=2 * MIB, stall_bytes_per_s=1, deadline_s=0.5))
    assert type(outcome.error) is StoreUnavailable
    assert "0.5 s" in outcome.error.message
    assert_resumes(proxy, outcome)


# dead endpoints: all items end together


def dead_items(url: str, folder: Path) -> list[Item]:
    return [item(url, folder), item(url, folder, "/bucket/models/vocab.txt", SMALL), item(url, folder, "/bucket/none", b"")]


def assert_all_unavailable(outcomes: list[Outcome], folder: Path) -> None:
    assert {type(o.error) for o in outcomes} == {StoreUnavailable}
    assert all(o.seconds < 4 and o.first_byte_s is None for o in outcomes)
    assert names(folder) == set()


def test_a_refused_endpoint_costs_under_4_seconds(tmp_path: Path) -> None:
    assert_all_unavailable(get(dead_items(faults.refused_url(), tmp_path), Limits()), tmp_path)


def test_an_endpoint_that_lets_nobody_connect_costs_under_4_seconds(tmp_path: Path) -> None:
    with faults.full_backlog() as url:
        assert_all_unavailable(get(dead_items(url, tmp_path), Limits()), tmp_path)


def test_an_endpoint_that_never_answers_costs_under_4_seconds(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fail(faults.black_hole())
    assert_all_unavailable(get(dead_items(proxy.url, tmp_path), Limits()), tmp_path)


def test_a_name_that_does_not_resolve_costs_under_4_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    outcomes = get(dead_items("http://store.invalid", tmp_path), Limits())
    assert_all_unavailable(outcomes, tmp_path)
    assert "name does not resolve" in str(outcomes[0].error)


def test_a_name_server_that_never_answers_costs_under_4_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: object, **__: object) -> None:
        release.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    outcomes = get(dead_items("http://store.invalid", tmp_path), Limits())
    release.set()
    assert_all_unavailable(outcomes, tmp_path)


@pytest.mark.parametrize("host", ["s3..example.com", "." * 3, "x" * 70])
def test_a_host_that_is_no_name_costs_under_4_seconds(tmp_path: Path, host: str) -> None:
    outcomes = get(dead_items(f"http://{host}", tmp_path), Limits())
    assert_all_unavailable(outcomes, tmp_path)
    assert "name does not resolve" in str(outcomes[0].error)


def test_a_tls_handshake_that_hangs_costs_under_4_seconds_and_ends_its_threads(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outcomes = get(dead_items(f"https://127.0.0.1:{silent.getsockname()[1]}", tmp_path), Limits())
        assert_all_unavailable(outcomes, tmp_path)
        until = time.monotonic() + 2
        while any(t.name.startswith("fetch-") for t in threading.enumerate()):
            assert time.monotonic() < until


def test_an_address_that_lets_nobody_connect_does_not_hide_the_next_one(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faults.full_backlog() as hole:
        ports = [int(url.rpartition(":")[2]) for url in (hole, proxy.url)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        outcome = get_one(proxy, tmp_path, Limits(connections=4))
    assert_whole(outcome)
    assert outcome.seconds < 4


def test_a_dead_endpoint_does_not_stop_the_items_of_another(proxy: FaultProxy, tmp_path: Path) -> None:
    dead, fine = get([item(faults.refused_url(), tmp_path, "/bucket/none", b"x"), item(proxy.url, tmp_path)])
    assert type(dead.error) is StoreUnavailable
    assert fine.error is None


@pytest.mark.parametrize("fault", [faults.stall(1024), faults.slow_down(), faults.reset(1024)], ids=lambda f: f.name)
def test_a_store_that_never_gets_anywhere_costs_under_9_seconds(proxy: FaultProxy, tmp_path: Path, fault: Fault) -> None:
    proxy.fail(fault)
    outcome = get_one(proxy, tmp_path, Limits())
    assert type(outcome.error) is StoreUnavailable
    assert outcome.seconds < 9


def test_a_slow_line_costs_under_9_seconds(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fail(faults.slow(100_000))
    outcome = get_one(proxy, tmp_path, Limits())
    assert type(outcome.error) is StoreUnavailable
    assert "MB/s" in outcome.error.message
    assert outcome.seconds < 9


def test_a_server_that_dies_in_mid_download_ends_as_unavailable(tmp_path: Path) -> None:
    with FaultProxy(objects={PATH: DATA}) as proxy:
        killer = threading.Thread(target=proxy.__exit__)
        proxy.fail(faults.hook(lambda _: killer.start()), skip=3, times=1)
        proxy.fail(faults.slow(2e6))  # too slow to be done by then
        outcome = get_one(proxy, tmp_path)
        killer.join()
    assert type(outcome.error) is StoreUnavailable
    assert outcome.bytes_received < len(DATA)


# stop and kill


def test_a_stop_ends_within_a_second_and_the_next_run_resumes(proxy: FaultProxy, tmp_path: Path) -> None:
    stop = threading.Event()
    proxy.fail(faults.hook(lambda _: stop.set()), skip=4, times=1)
    proxy.fail(faults.stall(1024), skip=4)
    started = time.monotonic()
    (outcome,) = get([item(proxy.url, tmp_path)], Limits(connections=2, range_bytes=2 * MIB), stop=stop)
    assert time.monotonic() - started < 2.5  # the part before the stop included
    assert type(outcome.error) is Cancelled
    assert names(tmp_path) == {"weights.bin.part", "weights.bin.part.ranges"}
    assert_resumes(proxy, outcome)


def test_a_stop_during_a_connect_that_hangs_ends_within_a_second(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with faults.full_backlog() as url:
        started = time.monotonic()
        outcomes = get(dead_items(url, tmp_path), Limits(), stop=stop)
    assert time.monotonic() - started < 1.3
    assert {type(o.error) for o in outcomes} == {Cancelled}


CHILD = """
import json, os, sys
from pathlib import Path
from f5_worker.fetch import Item, Limits, fetch
raw = json.loads(sys.argv[1])
item = Item(raw["url"], Path(raw["part"]), raw["size"], raw["sha256"])
print("go", flush=True)
(outcome,) = fetch([item], Limits(connections=4, range_bytes=1 << 20), on_done=lambda o: os.rename(o.item.part, raw["done"]))
sys.exit(0 if outcome.error is None else 1)
"""
KILLS = 50


def test_killed_at_50_random_moments_the_file_is_whole_or_absent_and_resumes(tmp_path: Path) -> None:
    """One file, killed again and again until it is there; then the next one. Nothing is ever half visible, no range is lost."""
    rng = random.Random(11)
    finished = kills = 0
    with FaultProxy(objects={PATH: DATA}) as proxy:
        proxy.fail(faults.slow(8e6))
        while kills < KILLS:
            done = tmp_path / f"done-{finished}"
            wanted = item(proxy.url, tmp_path)
            raw = {"url": wanted.url, "part": str(wanted.part), "size": wanted.size_bytes, "sha256": wanted.sha256, "done": str(done)}
            with subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(raw)], stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                child.stdout.readline()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(rng.uniform(0, 0.35))
                if child.poll() is None:
                    child.send_signal(signal.SIGKILL)
                    kills += 1
                child.wait()
            assert child.returncode in {0, -signal.SIGKILL}
            if done.exists():
                assert done.read_bytes() == DATA
                done.unlink()
                finished += 1
        proxy.heal()
        assert_whole_after_kills(proxy, tmp_path)
    assert finished > 0


def assert_whole_after_kills(proxy: FaultProxy, folder: Path) -> None:
    outcome = get_one(proxy, folder)
    assert outcome.error is None
    assert outcome.item.part.read_bytes() == DATA


# the disk


def test_a_disk_without_room_shows_before_a_byte_is_fetched(proxy: FaultProxy, tmpfs: Callable[[str], Path]) -> None:
    folder = tmpfs("size=5m")
    outcome = get_one(proxy, folder)
    assert type(outcome.error) is DiskFull
    assert proxy.log == []
    assert names(folder) == set()


def test_a_disk_that_fills_in_mid_file_is_freed_again(
    proxy: FaultProxy, tmpfs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_file, "_reserve", lambda fd, size: None)  # a file system without fallocate
    folder = tmpfs("size=5m")
    full, fine = get([item(proxy.url, folder), item(proxy.url, folder, "/bucket/models/vocab.txt", SMALL)])
    assert type(full.error) is DiskFull
    assert "MODEL_CACHE_DIR" in full.error.message
    assert "weights.bin.part" not in names(folder)
    assert fine.error is None or type(fine.error) is DiskFull


def test_a_file_system_without_fallocate_gets_the_length_alone(proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoFallocate:
        @staticmethod
        def fallocate(*_: object) -> int:
            import ctypes

            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    monkeypatch.setattr(part_file, "_libc", NoFallocate)
    assert_whole(get_one(proxy, tmp_path))


def test_a_disk_without_inodes_is_full(proxy: FaultProxy, tmpfs: Callable[[str], Path]) -> None:
    folder = tmpfs("size=50m,nr_inodes=2")
    assert type(get_one(proxy, folder).error) is DiskFull


def test_a_read_only_disk_is_a_cache_error(proxy: FaultProxy, tmpfs: Callable[[str], Path]) -> None:
    outcome = get_one(proxy, tmpfs("ro,size=50m"))
    assert type(outcome.error) is CacheError
    assert "Read-only" in outcome.error.message
    assert proxy.log == []


def test_a_directory_that_vanishes_fails_its_item(proxy: FaultProxy, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    outcome = get_one(proxy, blocker / "below")
    assert type(outcome.error) is CacheError


def test_fsync_is_asked_for_on_network_volumes_only(proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    assert get_one(proxy, tmp_path / "a").error is None
    assert synced == []
    assert get_one(proxy, tmp_path / "b", Limits(fsync=True)).error is None
    assert len(synced) == 1


# the width


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the threads that asked for anything: one for each connection."""
    asked: set[str] = set()
    real = Connection.get

    def noting(self: Connection, *args: object, **options: object) -> Answer:
        asked.add(threading.current_thread().name)
        return real(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "get", noting)
    return asked


def test_a_line_that_bounds_each_connection_gets_more_of_them(proxy: FaultProxy, tmp_path: Path, threads: set[str]) -> None:
    proxy.fail(faults.slow(2e6))
    assert_whole(get_one(proxy, tmp_path, Limits(connections=12, first_connections=2)))
    assert len(threads) > 2


class HeldDigest:
    """SHA-256 that waits to be let go."""

    let_go = threading.Event()

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, data: memoryview) -> None:
        assert self.let_go.wait(60)
        self._digest.update(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def test_a_digest_that_lags_gets_no_more_connections_to_wait_for_it(
    proxy: FaultProxy, tmp_path: Path, threads: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []
    real = Session.digest_lags
    monkeypatch.setattr(Session, "digest_lags", lambda self: looks.append(real(self)) or looks[-1])
    monkeypatch.setattr(transfer, "hashlib", SimpleNamespace(sha256=HeldDigest))
    monkeypatch.setattr("f5_worker.fetch._GREETING_S", 1e9)  # no wider
    HeldDigest.let_go.clear()
    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(get_one, proxy, tmp_path, Limits(connections=12, first_connections=2, range_bytes=MIB))
        try:
            until(lambda: looks[-1:] == [True], 30, lambda: f"{len(looks)} looks, none of which saw it lag")
            monkeypatch.setattr("f5_worker.fetch._GREETING_S", -1e9)  # whatever came was too little
            seen = len(looks)
            until(lambda: len(looks) > seen + 5, 30, lambda: "nobody looks")
            asked = len(threads)
        finally:
            HeldDigest.let_go.set()
        assert_whole(fetched.result())
    assert asked == 2
    assert all(looks[seen : seen + 5])


def test_buffers_that_wait_for_a_slow_connection_are_no_lagging_digest(proxy: FaultProxy, tmp_path: Path) -> None:
    session = Session([item(proxy.url, tmp_path)], Limits(connections=2, first_connections=2, range_bytes=MIB), lambda _: None)
    session.prepare()
    taken = [session._take() for _ in range(2 + 4)]  # every buffer there is
    assert not session.digest_lags()
    for _, piece in taken[1:]:
        piece.done = True
    assert not session.digest_lags()
    taken[0][1].done = True
    assert session.digest_lags()
    session.end(Cancelled("stopped"))
    session.collect()
