"""`make image`: build the image with docker or podman, and print what each of its layers weighs (`sizes`: print only).

Standard library only: it needs no virtual environment. Where the registry of the base image is out of reach, a base with the same
Python is made by debootstrap. The package index that this machine is configured for (pip's configuration, its certificates, its local
folders) is lent to podman's build as read-only mounts; nothing of it stays in the image.

Variables: IMAGE (tag), BASE_IMAGE, BAKE_FLASH_ATTN=1, VERSION, REVISION.
"""

from __future__ import annotations

import ast
import configparser
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
DEFAULT_TAG = "localhost/f5-tts-worker"
LOCAL_BASE = "localhost/f5-python-base:3.11"  # Debian 12, whose Python is 3.11
DEBIAN = ("bookworm", "http://deb.debian.org/debian")
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
BUILD_ARGS = ("BAKE_FLASH_ATTN", "VERSION", "REVISION")
INDEX_OPTIONS = {
    "index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "client-cert", "proxy", "retries", "timeout",
    "default-timeout",
}  # fmt: skip
PULL_TIMEOUT_S = 300
_CAP_SYS_RESOURCE = 24


def tag() -> str:
    return os.environ.get("IMAGE") or DEFAULT_TAG


def engine() -> str:
    """`docker` when its daemon answers, else `podman`."""
    for program in ("docker", "podman"):
        if shutil.which(program) and _quiet([program, "info"], timeout_s=30):
            return program
    sys.exit("neither a docker daemon nor podman answers: start docker, or apt-get install podman runc")


def engine_env() -> dict[str, str]:
    """The environment for the engine. A podman whose limits may not be raised needs a configuration that does not try to."""
    env = dict(os.environ)
    if "CONTAINERS_CONF" not in env and os.geteuid() == 0 and not _may_raise_limits():
        path = ROOT / "out" / "container" / "containers.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        files, processes = resource.getrlimit(resource.RLIMIT_NOFILE)[1], Path("/proc/sys/kernel/pid_max").read_text().strip()
        path.write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
        )
        env["CONTAINERS_CONF"] = str(path)
    return env


def _may_raise_limits() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> _CAP_SYS_RESOURCE & 1)


def build(program: str) -> None:
    arguments = [program, "build", "--network=host", "--build-arg", f"BASE_IMAGE={base_image(program)}", "-t", tag()]
    for name in BUILD_ARGS:
        arguments += ["--build-arg", f"{name}={os.environ[name]}"] if name in os.environ else []
    if program == "docker":
        _run([*arguments, str(ROOT)])
        return
    with package_index() as options:  # HEALTHCHECK is not in the OCI format
        _run([*arguments, "--format", "docker", *options, str(ROOT)])


def base_image(program: str) -> str:
    """BASE_IMAGE, else the Dockerfile's default when it is here or can be pulled, else one made by debootstrap."""
    if asked := os.environ.get("BASE_IMAGE"):
        return asked
    default = next(line.partition("=")[2] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("ARG BASE_IMAGE="))
    full_name = f"docker.io/library/{default}"
    for image in (full_name, LOCAL_BASE):
        if _quiet([program, "image", "inspect", image]):
            return image
    if _quiet([program, "pull", full_name], timeout_s=PULL_TIMEOUT_S):
        return full_name
    print(f"{default} cannot be pulled: making {LOCAL_BASE} with debootstrap", flush=True)
    make_base(program)
    return LOCAL_BASE


def make_base(program: str) -> None:
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("debootstrap is needed (apt-get install debootstrap), and root; or set BASE_IMAGE to an image with Python 3.11 and pip")
    suite, mirror = DEBIAN[0], _debian_mirror()
    with tempfile.TemporaryDirectory(prefix="f5-base-") as folder:
        _run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, folder, mirror])
        left_out = ("./dev/*", "./proc/*", "./sys/*", "./var/cache/apt/*", "./var/lib/apt/lists/*", "./var/log/*", "./usr/share/doc/*")
        tar = ["tar", "-C", folder, "--numeric-owner", *(f"--exclude={pattern}" for pattern in left_out), "-cf", "-", "."]
        with subprocess.Popen(tar, stdout=subprocess.PIPE) as archive:
            subprocess.run([program, "import", "-", LOCAL_BASE], stdin=archive.stdout, env=engine_env(), check=True)
        if archive.returncode:
            sys.exit(f"tar ended with {archive.returncode}")


def _debian_mirror() -> str:
    """The mirror that this machine's apt uses for the suite, else Debian's own."""
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout if shutil.which("apt-get") else ""
    return next((line.split()[1] for line in listed.splitlines() if line.split()[0] == DEBIAN[0]), DEBIAN[1])


@contextmanager
def package_index() -> Iterator[list[str]]:
    """podman build options that lend this machine's pip configuration to the build."""
    lent: dict[Path, str] = {}

    def lend(word: str) -> str:
        """The word, or where the local path that it names is mounted."""
        path = Path(urlsplit(word).path if word.startswith("file://") else word)
        if not path.is_absolute() or not path.exists():
            return word
        # A folder `simple` of a local index has links to its neighbour `files`.
        top = path.parent if path.name == "simple" else path
        place = lent.setdefault(top, f"/mnt/index-{len(lent)}")
        inside = place + str(path)[len(str(top)) :]
        return f"file://{inside}" if word.startswith("file://") else inside

    config = configparser.RawConfigParser()
    for (section, option), value in pip_options().items():
        if not config.has_section(section):
            config.add_section(section)
        config.set(section, option, " ".join(map(lend, value.split())))
    if not lent and not config.sections():
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="f5-pip-") as folder:
        file = Path(folder) / "pip.conf"
        with file.open("w") as handle:
            config.write(handle)
        mounts = {file: "/mnt/pip.conf", **lent}
        volumes = [word for source, place in mounts.items() for word in ("-v", f"{source}:{place}:ro")]
        yield ["--build-arg", "PIP_CONFIG_FILE=/mnt/pip.conf", *volumes]


def pip_options() -> dict[tuple[str, str], str]:
    """What pip is told on this machine about where packages come from, by (section, option); PIP_ variables win, as in pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[tuple[str, str], str] = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if option in INDEX_OPTIONS:
            found["global" if section == ":env:" else section, option] = ast.literal_eval(value)
    authorities = next((os.environ[name] for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE") if os.environ.get(name)), None)
    if authorities:
        found.setdefault(("global", "cert"), authorities)
    return found


def layers(program: str) -> list[tuple[int, str]]:
    """Bytes and command of every layer that is not empty, the base's first."""
    # podman's template knows no plain bytes, docker's has no JSON list.
    form = ["--format", "json"] if program == "podman" else ["--human=false", "--format", "{{json .}}"]
    command = [program, "history", "--no-trunc", *form, tag()]
    listed = subprocess.run(command, capture_output=True, text=True, env=engine_env(), check=True).stdout
    rows = json.loads(listed) if program == "podman" else [json.loads(line) for line in listed.splitlines()]
    sized = [(int(row.get("size", row.get("Size"))), str(row["CreatedBy"])) for row in reversed(rows)]
    return [(size, command) for size, command in sized if size]


def print_layers(program: str) -> None:
    rows = layers(program)
    print(f"\n{'megabytes':>10}  layer of {tag()}")
    for size, command in rows:
        words = command.rpartition("/bin/sh -c ")[2].removeprefix("#(nop)").split()
        print(f"{size / 1e6:>10,.2f}  {' '.join(words)[:120]}")
    print(f"{sum(size for size, _ in rows) / 1e6:>10,.2f}  together, uncompressed")


def _quiet(command: Sequence[str], timeout_s: float | None = None) -> bool:
    """Whether a command succeeds."""
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout_s, env=engine_env(), check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _run(command: Sequence[str]) -> None:
    code = subprocess.run(command, env=engine_env(), check=False).returncode
    if code:
        sys.exit(f"{command[0]} {command[1]} ended with {code}")


def main() -> None:
    program = engine()
    if sys.argv[1:] != ["sizes"]:
        build(program)
    print_layers(program)


if __name__ == "__main__":
    main()
