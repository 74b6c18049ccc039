"""The built image does the worker's main job, under the conditions that containers meet."""

from __future__ import annotations

import hashlib
import re
import signal
import socket
import time
from dataclasses import dataclass

import pytest

from tests.container import image
from tests.container.conftest import Container, Surroundings
from tests.fakes.runpod_server import RunpodServer

JOB_S = 60
REQUEST = {"input": "Hello from the container.", "seed": 42, "nfe_step": 4}
CODE_LAYERS_BYTES = 5_000_000
READ_ONLY = ("--read-only", "--tmpfs", "/tmp:rw,size=512m")
MEMORY_BYTES = 3 << 30
LINKED = """
import pathlib, subprocess, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
folders = ("torch/lib", "cusparselt/lib", "nvidia/*/lib")
missing = set()
for library in (path for folder in folders for path in site.glob(f"{folder}/*.so*")):
    listed = subprocess.run(["ldd", str(library)], capture_output=True, text=True).stdout
    missing |= {line.split()[0] for line in listed.splitlines() if "not found" in line}
print("\\n".join(missing))
"""
# The driver comes with the machine; storage over RDMA, which cufile links these for, is not used.
NOT_IN_THE_IMAGE = {"libcuda.so.1", "libmlx5.so.1", "librdmacm.so.1", "libibverbs.so.1"}
LOADED = """
import ctypes, importlib.util, pathlib, sysconfig
import torch
site = pathlib.Path(sysconfig.get_path("purelib"))
for library in [site / "torch/lib/libtorch_cuda_linalg.so", *sorted(site.glob("nvidia/cudnn/lib/*.so.9"))]:
    ctypes.CDLL(str(library))
print(torch.version.cuda, importlib.util.find_spec("triton"))
"""
STALE_BYTECODE = """
import importlib.util, pathlib
for source in pathlib.Path("/app").rglob("*.py"):
    cached = pathlib.Path(importlib.util.cache_from_source(str(source)))
    good = cached.is_file() and int.from_bytes(cached.read_bytes()[8:12], "little") == int(source.stat().st_mtime)
    print(*([] if good else [source]))
"""


@dataclass
class Seeded:
    """A bucket after one container has filled it."""

    surroundings: Surroundings
    bucket: str
    container: Container
    sha256: str


def output_sha256(surroundings: Surroundings, bucket: str) -> str:
    (key,) = surroundings.keys(bucket, "output/")
    return hashlib.sha256(surroundings.store.client().get_object(Bucket=bucket, Key=key)["Body"].read()).hexdigest()


@pytest.fixture(scope="module")
def seeded(surroundings) -> Seeded:
    bucket = surroundings.new_bucket()
    container = surroundings.start(bucket=bucket)
    assert container.ended() == 0, container.log()
    return Seeded(surroundings, bucket, container, output_sha256(surroundings, bucket))


@pytest.fixture(scope="module")
def serving(seeded):
    """A container that polls a job server, and has not been given a job."""
    with RunpodServer() as server:
        container = seeded.surroundings.start(server.worker_env(), bucket=seeded.bucket)
        container.until(lambda: [call for call in server.calls if call.kind == "take"])
        yield server, container


def test_test_input_json_is_spoken_and_the_bucket_is_filled(seeded):
    published = seeded.surroundings.keys(seeded.bucket, "models/")
    assert sum(key.endswith("/manifest.json") for key in published) == 2
    assert "source=hub" in seeded.container.log()


def test_the_second_container_boots_from_the_bucket_and_gives_the_same_bytes(seeded):
    surroundings = seeded.surroundings
    asked = len(surroundings.hub.requests)
    container = surroundings.start(bucket=seeded.bucket)
    assert container.ended() == 0, container.log()
    assert "source=bucket" in container.log()
    assert len(surroundings.hub.requests) == asked
    assert output_sha256(surroundings, seeded.bucket) == seeded.sha256


def test_without_a_bucket_the_result_is_inline(surroundings):
    container = surroundings.start()
    assert container.ended() == 0, container.log()
    assert "'base64': " in container.log()


@pytest.mark.parametrize("options", [READ_ONLY, ("--user", "10001:10001"), (*READ_ONLY, "--user", "10001:10001", "--cap-drop", "ALL")])
def test_a_locked_down_container_serves_from_the_bucket(seeded, options):
    container = seeded.surroundings.start(bucket=seeded.bucket, options=options)
    assert container.ended() == 0, container.log()
    assert "source=bucket" in container.log()
    assert output_sha256(seeded.surroundings, seeded.bucket) == seeded.sha256


def test_a_memory_limit_is_kept(seeded, engine):
    limit = ("--memory", str(MEMORY_BYTES))
    files = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true"
    assert str(MEMORY_BYTES) in engine.once("sh", "-c", files, options=limit).split()
    container = seeded.surroundings.start(bucket=seeded.bucket, options=limit)
    assert container.ended() == 0, container.log()


def test_a_read_only_container_without_any_room_says_so_and_ends(seeded):
    container = seeded.surroundings.start(bucket=seeded.bucket, options=("--read-only", "--tmpfs", "/tmp:rw,size=1m", "--shm-size=1m"))
    assert container.ended() == 3, container.log()
    assert "DISK_FULL" in container.log()


def test_a_container_without_the_gpu_that_the_platform_promised_ends_with_the_reason(seeded):
    env = {"RUNPOD_GPU_COUNT": "1", "RUNPOD_SKIP_GPU_CHECK": "false"}
    container = seeded.surroundings.start(env, bucket=seeded.bucket)
    assert container.ended() == 3, container.log()
    assert "GPU_UNAVAILABLE" in container.log()


def test_a_queued_job_is_done_in_the_container(serving):
    server, container = serving
    status = server.run(REQUEST, JOB_S)
    assert status["status"] == "COMPLETED", container.log()
    assert status["output"]["seed"] == 42


def test_the_healthcheck_is_passed_by_a_served_container(serving, engine):
    _, container = serving
    command = engine.inspect("Healthcheck")["Test"]
    assert command[0] == "CMD"
    assert container.execute(*command[1:]).returncode == 0


def test_sigterm_ends_a_serving_container_in_order(serving):
    server, container = serving
    begun = time.monotonic()
    container.terminate()
    server.release_polls()
    assert container.ended(30) == 0, container.log()
    assert time.monotonic() - begun < 10


def catches_sigterm(container: Container) -> bool:
    """Whether PID 1 has a handler for it; the kernel drops a signal for which PID 1 has none."""
    caught = re.search(r"^SigCgt:\s+(\w+)$", container.execute("cat", "/proc/1/status").stdout, re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_sigterm_ends_a_booting_container_within_seconds_and_it_was_not_healthy(surroundings):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        container = surroundings.start({"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        container.until(lambda: catches_sigterm(container))
        assert container.execute("python", "-m", "f5_worker.healthcheck").returncode == 1
        begun = time.monotonic()
        container.terminate()
        assert container.ended(30) == 143, container.log()
        assert time.monotonic() - begun < 10


def test_a_change_of_the_code_uploads_kilobytes(engine):
    sizes = [size for size, command in image.layers(engine.program) if "COPY" in command or "compileall" in command]
    assert sum(sizes) < CODE_LAYERS_BYTES


def test_the_heavy_layer_comes_before_everything_that_changes(engine):
    commands = [command for _, command in image.layers(engine.program)]
    heaviest = max(image.layers(engine.program))[1]
    assert "torch.txt" in heaviest
    assert not any("requirements.txt" in command or "f5_worker" in command for command in commands[: commands.index(heaviest)])


def test_the_image_holds_the_worker_and_nothing_else_of_the_project(engine):
    listed = engine.once("sh", "-c", "ls -A /app").split()
    assert sorted(listed) == [
        "LICENSE", "__pycache__", "f5_worker", "handler.py", "model_cache_init.py", "models", "requirements-nodeps.txt",
        "requirements.txt", "s3_utils.py", "test_input.json",
    ]  # fmt: skip


def test_the_bytecode_of_the_worker_is_current(engine):
    assert engine.once("python", "-c", STALE_BYTECODE).strip() == ""


def test_nothing_of_the_builders_package_index_or_caches_stays_in_the_image(engine):
    found = engine.once(
        "find",
        "/",
        "-xdev",
        "-type",
        "f",
        "-size",
        "+0",
        "(",
        "-path",
        "/mnt/*",
        "-o",
        "-name",
        "pip.conf",
        "-o",
        "-path",
        "/root/.cache/*",
        ")",
    )
    assert found == ""
    assert not [variable for variable in engine.inspect("Env") if variable.startswith("PIP_CONFIG_FILE")]


def test_every_library_that_torch_may_load_finds_what_it_links(engine):
    assert set(engine.once("python", "-c", LINKED).split()) <= NOT_IN_THE_IMAGE


def test_cuda_libraries_load_without_a_gpu_and_triton_is_not_there(engine):
    assert engine.once("python", "-c", LOADED).split() == ["12.6", "None"]


def test_the_image_is_labelled(engine):
    names = {f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses", "version", "revision")}
    assert names <= set(engine.inspect("Labels"))
