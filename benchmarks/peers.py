"""What a user would run instead: where each tool is, its version, its command line with its own defaults."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CLIENTS = str(Path(__file__).with_name("clients.py"))


@dataclass(frozen=True)
class Job:
    """The same work for everybody. `files`: name, key, size, sha256, url (signed)."""

    bucket: str
    prefix: str
    endpoint_url: str
    files: Sequence[Mapping[str, object]]
    env: Mapping[str, str]
    ca_file: Path | None = None


@dataclass(frozen=True)
class Peer:
    name: str
    program: str  # "" when missing
    version: str

    def command(self, job: Job, folder: Path) -> list[str]:
        """The command line that brings every file of the job into the folder."""
        source = f"s3://{job.bucket}/{job.prefix}"
        if self.name == "s5cmd":
            return [self.program, "--endpoint-url", job.endpoint_url, "--log", "error", "cp", f"{source}*", f"{folder}/"]
        if self.name == "rclone":
            remote = f":s3,provider=Other,env_auth=true,endpoint='{job.endpoint_url}':{job.bucket}/{job.prefix}"
            trust = ["--ca-cert", str(job.ca_file)] if job.ca_file else []
            return [self.program, "copy", "--config", "/dev/null", *trust, remote, str(folder)]
        if self.name == "aws s3 sync":
            return [self.program, "s3", "sync", "--only-show-errors", "--endpoint-url", job.endpoint_url, source, str(folder)]
        return client("boto3", folder, files=job.files)


def client(name: str, folder: Path, **job: object) -> list[str]:
    """The command line of one of our own client programs."""
    return [sys.executable, CLIENTS, name, json.dumps({"folder": str(folder), **job})]


def find(folder: Path | None) -> list[Peer]:
    """The peers, looked for in a folder (a venv's bin) first, then on PATH."""
    path = [str(folder)] if folder else []
    peers = [Peer(name, *_located(program, flags, path)) for name, program, flags in (
        ("s5cmd", "s5cmd", ["version"]), ("rclone", "rclone", ["version"]), ("aws s3 sync", "aws", ["--version"]))]  # fmt: skip
    import boto3

    return [*peers, Peer("boto3 default", sys.executable, boto3.__version__)]


def _located(program: str, flags: list[str], folders: list[str]) -> tuple[str, str]:
    found = next((str(Path(f) / program) for f in folders if (Path(f) / program).exists()), None) or shutil.which(program)
    if found is None:
        return "", "missing"
    said = subprocess.run([found, *flags], capture_output=True, text=True, check=False)
    return (found, said.stdout.splitlines()[0].strip()) if said.returncode == 0 and said.stdout else ("", "does not run")
