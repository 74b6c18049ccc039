"""`doctor` against a real S3 server: what is wrong is named, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from f5_worker import doctor, doctor_endpoint, doctor_line
from f5_worker.doctor_line import Prices
from f5_worker.finding import Finding
from f5_worker.manifest import load_models
from f5_worker.settings import S3Settings
from s3_utils import S3Store
from tests.fakes import fault_proxy as faults
from tests.fakes.fault_proxy import Fault, FaultProxy, Reply, full_backlog, refused_url
from tests.fakes.hub_server import HubServer, hub_server
from tests.fakes.seaweed import ACCESS_KEY, READER_KEY, READER_SECRET, SECRET_KEY
from tests.fakes.tiny_model import write_tiny_model
from tests.integration.conftest import World

SCRATCH = "*.doctor-*"
DENIED = faults.status(403, code="AccessDenied")


@pytest.fixture(scope="module")
def models_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_hub(models_file: Path) -> Iterator[HubServer]:
    with hub_server(models_file) as server:
        yield server


@dataclass
class Patient:
    """A worker's environment whose bucket, line and disk are well until a test breaks one."""

    world: World
    env: dict[str, str]
    models_file: Path

    @property
    def proxy(self) -> FaultProxy:
        return self.world.proxy

    def examine(self, **changes: str) -> list[Finding]:
        findings = doctor.examine(self.env | changes, S3Store, Prices())
        assert all(f.remedy for f in findings if f.state in {"failed", "warning"})
        assert not any(secret in str(findings) for secret in (SECRET_KEY, ACCESS_KEY, "X-Amz-Signature"))
        return findings

    def faults(self, **changes: str) -> set[str]:
        return {f.fault for f in self.examine(**changes) if f.state == "failed"}

    def seed(self) -> None:
        [spec] = [m for name, m in load_models(self.models_file).items() if name == "demo-tiny"]
        for file in spec.files:
            data = (self.models_file.parent / file.repo / file.path).read_bytes()
            self.world.client.put_object(Bucket=self.world.bucket, Key=file.key("models/"), Body=data)


@pytest.fixture
def patient(world: World, models_file: Path, tiny_hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Patient:
    monkeypatch.setattr(doctor_line, "STEPS", {1: 500_000, 8: 1_000_000, 16: 2_000_000})
    monkeypatch.setattr(doctor_line, "STEP_S", 0.3)
    monkeypatch.setattr(doctor_endpoint, "CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(doctor_endpoint, "ANSWER_TIMEOUT_S", 1.0)
    env = {"F5_MODEL": "demo-tiny", "F5_MODELS_FILE": str(models_file), "HF_ENDPOINT": tiny_hub.url}
    return Patient(world, world.env | env | {"MODEL_CACHE_DIR": str(world.root / "cache")}, models_file)


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {f.check: f for f in findings}


def test_a_healthy_bucket_has_no_failure_and_is_left_as_it_was(patient: Patient) -> None:
    patient.seed()
    keys = patient.world.keys()
    findings = by_check(patient.examine())
    assert {f.fault for f in findings.values() if f.state == "failed"} == set()
    for check in ("settings", "endpoint", "clock", "credentials", "put", "get", "head", "list", "delete", "model", "throughput", "hub"):
        assert findings[check].state == "ok", findings[check]
    assert set(findings["throughput"].values) == {f"bytes_per_s_{n}_connections" for n in (1, 8, 16)}
    assert min(findings["throughput"].values.values()) > 5e6
    assert findings["cold start"].values["bytes"] == findings["model"].values["bytes"]
    assert patient.world.keys() == keys
    assert not (patient.world.root / "cache").exists()


def test_every_permission_is_tried_under_every_prefix(patient: Patient) -> None:
    patient.examine()
    for method, status in (("PUT", 200), ("HEAD", 200), ("GET", 200), ("DELETE", 204)):
        for prefix in ("models", "voices", "output"):
            assert patient.proxy.count(method, f"/{patient.world.bucket}/{prefix}/.doctor-*", status)


def test_a_model_file_in_the_bucket_is_fetched_instead_of_a_scratch_object(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_line, "SAMPLE_BYTES", (100_000, 64_000_000))
    patient.seed()
    assert by_check(patient.examine())["throughput"].state == "ok"
    uploaded = [r.received_bytes for r in patient.proxy.log if r.method in {"PUT", "POST"}]
    assert max(uploaded) < 1000


ENVIRONMENTS = {
    "wrong secret": ({"AWS_SECRET_ACCESS_KEY": "another"}, {"wrong_secret"}, "AWS_SECRET_ACCESS_KEY"),
    "unknown key id": ({"AWS_ACCESS_KEY_ID": "nobody"}, {"unknown_key_id"}, "AWS_ACCESS_KEY_ID"),
    "no bucket": ({"S3_BUCKET": "no-such-bucket"}, {"no_bucket"}, "S3_BUCKET"),
    "dead endpoint": ({"AWS_ENDPOINT_URL": refused_url()}, {"endpoint_refused"}, "AWS_ENDPOINT_URL"),
    "TLS to a port without": ({"AWS_ENDPOINT_URL": "https"}, {"endpoint_tls"}, "http://"),
    "a web server": ({"AWS_ENDPOINT_URL": "hub"}, {"not_s3"}, "AWS_ENDPOINT_URL"),
    "hub down, bucket empty": ({"HF_ENDPOINT": refused_url()}, {"hub_unreachable"}, "HF_ENDPOINT"),
    "a key that only reads": (
        {"AWS_ACCESS_KEY_ID": READER_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET}, {"no_put", "no_delete"}, "B2: writeFiles",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_wrong_environment_is_named_and_nothing_else(patient: Patient, tiny_hub: HubServer, name: str) -> None:
    changes, expected, remedy = ENVIRONMENTS[name]
    stand_ins = {"https": patient.proxy.url.replace("http:", "https:"), "hub": tiny_hub.url}
    findings = patient.examine(**{variable: stand_ins.get(value, value) for variable, value in changes.items()})
    assert {f.fault for f in findings if f.state == "failed"} == expected
    assert any(remedy in f.remedy for f in findings if f.state == "failed")
    assert "scratch_left" not in {f.fault for f in findings}
    assert doctor.exit_code(findings) == 1


ELSEWHERE = Reply(301, [("x-amz-bucket-region", "eu-west-1"), ("Content-Length", "45")], iter(()))
WRONG_REGION = Fault(
    "wrong region", before=lambda _: replace(ELSEWHERE, body=iter([b"<Error><Code>PermanentRedirect</Code></Error>"]))
)  # fmt: skip
AN_HOUR_AGO = Fault("clock", after=lambda r: r.with_headers(Date=format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)))
TWO_MINUTES_AGO = Fault(
    "clock", after=lambda r: r.with_headers(Date=format_datetime(datetime.now(UTC) - timedelta(minutes=2), usegmt=True))
)
# name: fault, path, methods, query, what is named, a word of the remedy
BROKEN = {
    "read-only key": (DENIED, "*", ("PUT",), "", {"no_put"}, "s3:PutObject (B2: writeFiles)"),
    "no list": (DENIED, "*", ("GET",), "list-type", {"no_list"}, "s3:ListBucket (B2: listFiles)"),
    "no delete": (DENIED, "*", ("DELETE",), "", {"no_delete"}, "s3:DeleteObject (B2: deleteFiles)"),
    "no read": (DENIED, SCRATCH, ("GET", "HEAD"), "", {"no_get", "no_head"}, "s3:GetObject (B2: readFiles)"),
    "clock an hour ahead": (AN_HOUR_AGO, "*", (), "", {"clock_skew"}, "NTP"),
    "clock refused": (faults.status(403, code="RequestTimeTooSkewed"), "*", (), "", {"clock_skew"}, "NTP"),
    "black hole": (faults.black_hole(), "*", (), "", {"endpoint_silent"}, "firewall"),
    "reset": (faults.reset(0), "*", (), "", {"endpoint_broken"}, "AWS_ENDPOINT_URL"),
    "wrong region": (WRONG_REGION, "*", (), "", {"wrong_region"}, "AWS_REGION=eu-west-1"),
    "expired token": (faults.status(400, code="ExpiredToken"), "*", (), "", {"session_token"}, "AWS_SESSION_TOKEN"),
    "store down": (faults.slow_down(), "*", (), "", {"endpoint_failing"}, "status page"),
    "slow line": (faults.slow(50_000), SCRATCH, ("GET",), "X-Amz-Signature", {"bucket_slow"}, "region near"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_fault_of_the_bucket_is_named_and_nothing_else(patient: Patient, name: str) -> None:
    fault, path, methods, query, expected, remedy = BROKEN[name]
    patient.proxy.fail(fault, path=path, methods=methods, query=query, skip=1 if name == "slow line" else 0)
    findings = patient.examine()
    assert {f.fault for f in findings if f.state == "failed"} == expected
    assert any(remedy in f.remedy for f in findings if f.state == "failed")
    assert doctor.exit_code(findings) == 1
    if name != "no delete":
        assert patient.world.keys() == []


def test_what_cannot_be_deleted_is_small_and_named(patient: Patient) -> None:
    patient.proxy.fail(DENIED, methods=("DELETE",))
    findings = by_check(patient.examine())
    assert findings["throughput"].state == "skipped"
    left = patient.world.keys()
    assert len(left) == 3
    assert all(key in findings["scratch"].seen for key in left)


def test_a_clock_two_minutes_ahead_is_a_warning(patient: Patient) -> None:
    patient.proxy.fail(TWO_MINUTES_AGO)
    clock = by_check(patient.examine())["clock"]
    assert (clock.state, "ahead of" in clock.seen) == ("warning", True)


def test_an_endpoint_that_lets_nobody_connect_is_silent(patient: Patient) -> None:
    with full_backlog() as url:
        assert patient.faults(AWS_ENDPOINT_URL=url) == {"endpoint_silent"}


def test_a_name_that_does_not_resolve_is_named(patient: Patient) -> None:
    assert patient.faults(AWS_ENDPOINT_URL="http://store.invalid") == {"endpoint_name"}


def test_a_certificate_that_nobody_signed_is_named_and_AWS_CA_BUNDLE_mends_it(  # noqa: N802 - the variable's name
    patient: Patient, tmp_path: Path
) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", "key.pem",
         "-out", "cert.pem", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with FaultProxy(tls=context) as server:
        assert patient.faults(AWS_ENDPOINT_URL=server.url) == {"endpoint_certificate"}
        assert patient.faults(AWS_ENDPOINT_URL=server.url, AWS_CA_BUNDLE=str(tmp_path / "absent.pem")) == {"settings"}
        s3 = S3Settings("b", ACCESS_KEY, SECRET_KEY, endpoint_url=server.url)
        mended = doctor_endpoint.examine(s3, tmp_path / "cert.pem", absent_key="absent")
        assert by_check(mended)["credentials"].state == "ok"


def test_a_hub_that_is_down_is_a_warning_when_the_bucket_holds_the_model(patient: Patient) -> None:
    patient.seed()
    findings = patient.examine(HF_ENDPOINT=refused_url())
    assert (by_check(findings)["hub"].state, doctor.exit_code(findings)) == ("warning", 0)


def test_a_model_that_is_not_whole_in_the_bucket_is_a_warning_with_the_command(patient: Patient) -> None:
    patient.seed()
    key = next(k for k in patient.world.keys() if k.endswith("vocab.txt"))  # noqa: SIM118 - a method of the world
    patient.world.client.delete_object(Bucket=patient.world.bucket, Key=key)
    model = by_check(patient.examine())["model"]
    assert (model.fault, "vocab.txt missing" in model.seen, "cache push" in model.remedy) == ("model_missing", True, True)


def test_without_a_bucket_the_machine_and_the_hub_are_looked_at(patient: Patient) -> None:
    findings = by_check(patient.examine(S3_BUCKET=""))
    assert (findings["bucket"].fault, findings["hub"].state, "gpu" in findings) == ("no_bucket_set", "ok", True)


def run(patient: Patient, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(patient, **changes), capture_output=True, text=True, check=False, timeout=120
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "f5_worker", "doctor", *arguments]


def environment(patient: Patient, **changes: str) -> dict[str, str]:
    return {**os.environ, **patient.env, "COLUMNS": "200"} | changes


def test_the_command_prints_a_table_for_people_and_one_object_for_machines(patient: Patient) -> None:
    table = run(patient, AWS_SECRET_ACCESS_KEY="another-secret")
    machine = run(patient, "--json", AWS_SECRET_ACCESS_KEY="another-secret")
    report = json.loads(machine.stdout)
    assert (table.returncode, machine.returncode, report["exit_code"]) == (1, 1, 1)
    assert [f["fault"] for f in report["findings"] if f["state"] == "failed"] == ["wrong_secret"]
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY do not" in table.stdout
    for text in (table.stdout, table.stderr, machine.stdout, machine.stderr):
        assert not any(secret in text for secret in ("another-secret", ACCESS_KEY, "Traceback"))


def test_wrong_settings_are_exit_code_2_and_the_line_to_add_can_be_copied(patient: Patient) -> None:
    done = run(patient, AWS_ENDPOINT_URL="", AWS_ACCESS_KEY_ID="0043b500e7326f40000000001", COLUMNS="60")
    assert done.returncode == 2
    assert "add AWS_ENDPOINT_URL=https://s3.us-west-004.backblazeb2.com\n" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_doctor_leaves_nothing_in_the_bucket(patient: Patient, number: signal.Signals) -> None:
    fetching = threading.Event()
    read = {"path": SCRATCH, "methods": ("GET",), "query": "X-Amz-Signature", "skip": 1}  # the first asks for a key that is not there
    patient.proxy.fail(faults.hook(lambda _request: fetching.set()), times=1, **read).fail(faults.slow(10_000), **read)
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *command()],  # the background job of a shell would ignore it
        env=environment(patient),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert fetching.wait(60)
        assert len(patient.world.keys()) == 4  # one a prefix, and the sample
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said == b"stopped; the scratch objects were deleted where the key may\n"
    assert patient.world.keys() == []
    assert patient.world.client.list_multipart_uploads(Bucket=patient.world.bucket).get("Uploads", []) == []
