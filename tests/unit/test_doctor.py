"""The doctor's parts that need no server: disks, packages, prices, names, exit codes, rules of the bucket."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from moto import mock_aws

from f5_worker import doctor, doctor_bucket, doctor_host, doctor_line, fitness
from f5_worker.doctor_line import Prices
from f5_worker.errors import GpuUnavailable, StoreForbidden, StoreNotFound, StoreUnavailable
from f5_worker.finding import Finding, failed, warning
from f5_worker.manifest import load_model
from f5_worker.settings import S3Settings, Settings
from f5_worker.wheel_choice import Host
from s3_utils import S3Store
from tests.fakes.hub_server import hub_server
from tests.fakes.memory_store import MemoryStore
from tests.files import pinned, random_bytes

FILES = [pinned("model", random_bytes(2_000_000))]
SPEC = load_model("F5TTS_v1_Base")
B2_KEY = {"S3_BUCKET": "b", "AWS_ACCESS_KEY_ID": "005" + "a1b2c3d4e5f6a7b8c9d0e1", "AWS_SECRET_ACCESS_KEY": "very-secret"}


def no_store(_s3: S3Settings) -> S3Store:
    raise AssertionError("nothing may be asked of the bucket")


def faults(findings: list[Finding], state: str = "failed") -> set[str]:
    return {f.fault for f in findings if f.state == state}


def test_a_b2_key_without_an_endpoint_is_exit_code_2_and_gets_the_exact_line() -> None:
    findings = doctor.examine(B2_KEY, no_store, Prices())
    assert doctor.exit_code(findings) == 2
    assert findings[0].remedy == "add AWS_ENDPOINT_URL=https://s3.us-east-005.backblazeb2.com"
    assert not any(secret in str(findings) for secret in ("very-secret", B2_KEY["AWS_ACCESS_KEY_ID"]))


def test_each_bad_variable_is_a_finding_of_its_own() -> None:
    findings = doctor.examine({"FLASH_ATTN": "maybe", "LOG_LEVEL": "loud", "URL_EXPIRES_S": "soon"}, no_store, Prices())
    assert [f.seen.partition(" ")[0] for f in findings] == ["FLASH_ATTN", "URL_EXPIRES_S", "LOG_LEVEL"]
    assert all(f.remedy and f.state == "failed" for f in findings)


def test_an_unknown_model_is_a_wrong_setting() -> None:
    findings = doctor.examine({"F5_MODEL": "nope"}, no_store, Prices())
    assert (doctor.exit_code(findings), "F5TTS_v1_Base" in findings[0].seen) == (2, True)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("AWS_ENDPOINT", "AWS_ENDPOINT_URL"), ("S3_BUCKET_NAME", "S3_BUCKET"), ("AWS_SECRET_KEY", "AWS_SECRET_ACCESS_KEY"), ("HOME", None)],
)
def test_a_variable_that_nothing_reads_and_looks_like_one_that_is_read_is_named(written: str, meant: str | None) -> None:
    findings = doctor.examine({"FLASH_ATTN": "maybe", written: "x"}, no_store, Prices())
    assert [f.remedy for f in findings if f.fault == "settings_misspelt"] == ([f"if {meant} is meant, rename it"] if meant else [])


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([Finding("a", "fine"), warning("b", "w", "", "")], 0),
        ([Finding("a", "fine"), failed("b", "no_put", "", "")], 1),
        ([failed("a", "settings", "", ""), failed("b", "no_put", "", "")], 2),
    ],
)
def test_the_exit_code_tells_settings_from_the_rest_and_warnings_are_well(findings: list[Finding], code: int) -> None:
    assert doctor.exit_code(findings) == code


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir_candidates=(tmp_path / "first", tmp_path / "second"))


def test_a_candidate_without_room_is_named_with_what_is_taken_instead(settings: Settings, tmpfs: Callable[[str], Path]) -> None:
    small = tmpfs("size=1m,nr_inodes=16") / "models"
    findings = doctor_host.disks(replace(settings, cache_dir=small), FILES)
    assert [(f.check, f.state) for f in findings] == [
        (f"disk {small}", "warning"),
        (f"disk {settings.cache_dir_candidates[0]}", "ok"),
        (f"disk {settings.cache_dir_candidates[1]}", "ok"),
    ]
    assert "MB needed" in findings[0].seen
    assert str(settings.cache_dir_candidates[0]) in findings[0].seen
    assert findings[0].remedy.startswith("make room there, ")
    assert list(small.parent.iterdir()) == []


def test_a_candidate_that_is_a_file_needs_no_room(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    [first, _] = doctor_host.disks(settings, FILES)
    assert (first.fault, first.remedy.partition(",")[0]) == ("disk_unusable", "make it a directory that can be written")


def test_no_candidate_with_room_is_disk_full(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    (tmp_path / "second").touch()
    findings = doctor_host.disks(settings, FILES)
    assert faults(findings) == {"disk_full"}
    assert "MODEL_CACHE_DIR" in findings[0].remedy


def test_a_later_candidate_that_cannot_be_used_is_not_needed(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "second").touch()
    assert [f.state for f in doctor_host.disks(settings, FILES)] == ["ok", "ok"]


HOSTS = [
    (Host(None, (3, 11), None, None), "auto", {"no_gpu", "no_torch"}),
    (Host((9, 0), (3, 11), "2.7", True), "auto", set()),
    (Host((9, 0), (3, 11), "1.0", True), "auto", {"flash_attn_unfit"}),
    (Host((7, 5), (3, 11), "2.7", True), "on", {"flash_attn_unfit"}),
]


@pytest.mark.parametrize(("host", "mode", "expected"), HOSTS)
def test_gpu_torch_and_flash_attn_are_judged_without_importing_torch(
    host: Host, mode: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_host, "this_host", lambda: host)
    monkeypatch.setattr(doctor_host, "_version", lambda _package: host.torch)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setattr(fitness, "DEVICE", Path("/nowhere"))
    findings = doctor_host.gpu_and_packages(Settings(flash_attn=mode))
    assert faults(findings, "warning") == expected
    assert faults(findings) == set()


def test_a_gpu_that_is_there_and_does_not_work_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise GpuUnavailable("cuInit failed")

    monkeypatch.setattr(fitness, "check_gpu", broken)
    [gpu, *_] = doctor_host.gpu_and_packages(Settings(gpu_expected=True))
    assert (gpu.state, gpu.fault, gpu.seen) == ("failed", "gpu_broken", "cuInit failed")


@pytest.mark.parametrize("lists", [False, True])
def test_a_key_that_may_only_read_is_not_told_that_it_may_not(lists: bool) -> None:
    refused, missing = StoreForbidden("AccessDenied"), StoreNotFound("NoSuchKey")
    told = missing if lists else refused  # what stores answer of a missing object
    bucket = MemoryStore(fail={"put": refused, "delete": refused, "get": told, **({} if lists else {"head": told, "list": refused})})
    with doctor_bucket.scratch(bucket) as kept:
        found = {f.check: f for f in doctor_bucket.permissions(bucket, ["models/"], kept)}
    expected = "ok" if lists else "skipped"
    assert {call: found[call].state for call in ("get", "head")} == {"get": expected, "head": expected}
    assert faults(list(found.values())) == {"no_put", "no_delete"} | (set() if lists else {"no_list"})


def test_a_store_that_fails_while_the_model_is_looked_at_is_a_finding(settings: Settings) -> None:
    bucket = MemoryStore(fail={"head": StoreUnavailable("503")})
    found = doctor_bucket.model(bucket, replace(settings, s3=S3Settings("bucket", "key-id", "secret")), SPEC)
    assert (found.state, found.fault) == ("failed", "endpoint_failing")


@pytest.mark.parametrize(
    ("env", "seen"),
    [
        ({"HF_ENDPOINT": "https://hub.example:abc"}, "is no URL"),
        ({"HF_ENDPOINT": "http://127.0.0.1:1", "HF_TOKEN": "hf_very_secret"}, "refuses"),
    ],
)
def test_a_hub_that_is_set_wrong_is_a_finding_without_the_token(env: dict[str, str], seen: str) -> None:
    found = doctor_host.hub(env, SPEC, is_needed=True)
    assert (found.state, seen in found.seen, "hf_very_secret" in str(found)) == ("failed", True, False)


@pytest.mark.parametrize(("token", "seen"), [("hf_very_secret\n", "the hub answers 404"), ("hf_very\nsecret", "a header has characters")])
def test_a_token_with_a_line_break_is_no_traceback(token: str, seen: str) -> None:
    with hub_server() as hub:
        found = doctor_host.hub({"HF_ENDPOINT": hub.url, "HF_TOKEN": token}, SPEC, is_needed=True)
    assert (found.seen.startswith(seen) or seen in found.seen, "secret" in str(found)) == (True, False)


def test_a_hub_that_is_down_matters_only_when_the_bucket_lacks_the_model() -> None:
    dead = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_TOKEN": "hf_very_secret"}
    needed, spare = (doctor_host.hub(dead, SPEC, is_needed=is_needed) for is_needed in (True, False))
    assert (needed.state, spare.state, needed.fault) == ("failed", "warning", "hub_unreachable")
    assert "hf_very_secret" not in f"{needed}{spare}"


def test_a_hub_that_refuses_is_told_with_the_token_to_set() -> None:
    with hub_server() as server:
        server.fail_status = 401
        finding = doctor_host.hub({"HF_ENDPOINT": server.url}, SPEC, is_needed=True)
    assert (finding.fault, "HF_TOKEN" in finding.remedy) == ("hub_refuses", True)


LINE = Finding("throughput", "", values={"bytes_per_s_1_connections": 20_000_000, "bytes_per_s_16_connections": 140_000_000})
CACHED = Settings(s3=S3Settings("b", "key-id", "secret"))


def test_a_cold_start_is_predicted_from_the_best_rate_and_priced_from_its_parts() -> None:
    finding = doctor_line.cold_start(LINE, CACHED, SPEC, Prices(worker_hour=3.6, egress_gb=0.01, thousand_gets=0.004))
    size_bytes = sum(f.size_bytes for f in SPEC.files)
    seconds = size_bytes / 140e6 + doctor_line.LOAD_S
    assert finding.values["seconds"] == pytest.approx(seconds, abs=0.01)
    assert finding.values["usd"] == pytest.approx(seconds * 0.001 + size_bytes / 1e9 * 0.01 + finding.values["gets"] * 4e-6, rel=1e-3)


def test_a_fast_line_is_bound_by_the_imports_and_without_prices_there_is_no_cost() -> None:
    finding = doctor_line.cold_start(replace(LINE, values={"x": 10**10}), CACHED, SPEC, Prices(worker_hour=1))
    assert finding.values["seconds"] == doctor_line.IMPORTS_S + doctor_line.LOAD_S
    assert finding.values["usd"] is None


@pytest.mark.parametrize(
    ("rate", "deadline_s", "fault", "remedy"),
    [(4e6, 300, "restore_late", "RESTORE_DEADLINE_S=526"), (3e6, 3600, "init_late", "RUNPOD_INIT_TIMEOUT=1020")],
)
def test_a_cold_start_that_the_bounds_would_end_gets_the_value_to_set(rate: float, deadline_s: float, fault: str, remedy: str) -> None:
    line = replace(LINE, values={"x": rate})
    finding = doctor_line.cold_start(line, replace(CACHED, restore_deadline_s=deadline_s), SPEC, Prices())
    assert (finding.state, finding.fault, remedy in finding.remedy) == ("warning", fault, True)


def test_a_machine_without_a_temporary_directory_skips_the_throughput(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(**_: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(doctor_line.tempfile, "TemporaryDirectory", none)
    finding = doctor_line.throughput(MemoryStore(), CACHED, SPEC, None)
    assert (finding.state, "TMPDIR" in finding.seen) == ("skipped", True)


def test_a_temporary_directory_without_room_skips_the_throughput(monkeypatch: pytest.MonkeyPatch, tmpfs: Callable[[str], Path]) -> None:
    monkeypatch.setattr(doctor_line.tempfile, "tempdir", str(tmpfs("size=1m")))
    finding = doctor_line.throughput(MemoryStore(), CACHED, SPEC, None)
    assert (finding.state, "TMPDIR" in finding.seen) == ("skipped", True)


class TestHousekeeping:
    """Lifecycle rules as a real client gets them."""

    @pytest.fixture
    def client(self) -> Iterator:
        import boto3

        with mock_aws():
            client = boto3.client("s3", region_name="us-east-1")
            client.create_bucket(Bucket="rules")
            yield client

    def examine(self) -> dict[str, Finding]:
        store = S3Store(S3Settings("rules", "key-id", "secret", path_style=False))
        return {f.check: f for f in doctor_bucket.housekeeping(store, ["models/", "output/"])}

    def rule(self, client, **changes: object) -> None:
        rule = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}
        rule["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": 1}
        client.put_bucket_lifecycle_configuration(Bucket="rules", LifecycleConfiguration={"Rules": [rule | changes]})

    def version(self, client) -> None:
        client.put_bucket_versioning(Bucket="rules", VersioningConfiguration={"Status": "Enabled"})

    def test_a_bucket_without_versions_and_rules_is_warned_of_unfinished_uploads_only(self, client) -> None:
        found = self.examine()
        assert (found["old versions"].state, found["unfinished uploads"].fault) == ("ok", "uploads_stay")

    def test_versions_without_a_rule_grow(self, client) -> None:
        self.version(client)
        assert self.examine()["old versions"].fault == "versions_grow"

    def test_a_rule_for_the_whole_bucket_is_enough(self, client) -> None:
        self.version(client)
        self.rule(client)
        assert {f.state for f in self.examine().values()} == {"ok"}

    @pytest.mark.parametrize(
        "changes", [{"Status": "Disabled"}, {"Filter": {"Prefix": "models/"}}, {"Filter": {"Tag": {"Key": "a", "Value": "b"}}}]
    )
    def test_a_rule_that_does_not_hold_for_everything_is_not_enough(self, client, changes: dict) -> None:
        self.version(client)
        self.rule(client, **changes)
        found = self.examine()["old versions"]
        assert (found.fault, "output/" in found.seen) == ("versions_grow", True)

    @pytest.mark.parametrize("error", [StoreForbidden("GET versioning: AccessDenied"), StoreUnavailable("the store answered 501")])
    def test_a_store_that_does_not_tell_is_a_warning(self, error: Exception) -> None:
        class Silent(MemoryStore):
            def is_versioned(self) -> bool:
                raise error

        assert {f.state for f in doctor_bucket.housekeeping(Silent(), ["models/"])} == {"warning"}


def test_scratch_keys_are_deleted_when_the_block_is_interrupted() -> None:
    store = MemoryStore()

    def interrupted() -> None:
        with doctor_bucket.scratch(store) as kept:
            store.put(kept.key("output/"), b"x", content_type="text/plain")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.objects == {}


def test_a_second_interrupt_does_not_stop_the_deleting() -> None:
    class Impatient(MemoryStore):
        def delete(self, key: str) -> None:
            signal.raise_signal(signal.SIGINT)
            super().delete(key)

    store = Impatient()
    with suppress(KeyboardInterrupt), doctor_bucket.scratch(store) as kept:
        store.put(kept.key("output/"), b"x", content_type="text/plain")
    assert store.objects == {}


def test_an_interrupt_while_a_finding_is_shown_still_deletes() -> None:
    store = MemoryStore()

    def made(*_: object) -> Iterator[Finding]:
        with doctor_bucket.scratch(store) as kept:
            store.put(kept.key("output/"), b"x", content_type="text/plain")
            yield Finding("put", "allowed")

    def interrupt(_finding: Finding) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "_findings", made)
        with pytest.raises(KeyboardInterrupt) as caught:
            doctor.examine({}, no_store, Prices(), on_finding=interrupt)
    assert store.objects == {}, caught.traceback  # which keeps the generator alive until here
