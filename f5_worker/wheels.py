"""flash-attn 2.8.0.post2: whether it is wanted, which release wheel fits, and its installation beside the weights.

The wheel is installed into `<cache dir>/.f5-worker/flash-attn-<sha256>/`, not into site-packages: that works on a read-only
image, survives on a volume, and is removed as a whole when it proves broken. Without it torch's own attention serves.
`python -m f5_worker.wheels` is the image build with BAKE_FLASH_ATTN=1.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import logging
import mmap
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from f5_worker.cache import HubCache
from f5_worker.errors import CacheError, StoreError, StoreNotFound, WorkerError
from f5_worker.fetch import Item, Limits, fetch
from f5_worker.settings import Settings
from f5_worker.store import Store

log = logging.getLogger(__name__)

VERSION = "2.8.0.post2"
RELEASE_URL = f"https://github.com/Dao-AILab/flash-attention/releases/download/v{VERSION}/"
MIN_CAPABILITY = (8, 0)  # its kernels are built for Ampere and newer
_SHA256 = {  # of the CPython 3.11 linux x86_64 wheels by (torch, C++11 ABI), from the project's GitHub release
    ("2.7", True): "8ed71ac092f80b079d2e6043b769135904d6e834916cb6da7d372b394581447b",
    ("2.7", False): "1452f2b727379ba753ba0d96c617e4cf5c4a1ea1a5147de5e1032ffa3a97a1e3",
    ("2.6", True): "a2566ec0cc6cf2330252030f8bf41f87fea11503a211e1f76b552c038d38af77",
    ("2.6", False): "e7e8fd0d50112e3302a96fcd5b5ae4606bd38c20a1149fc666fed5c87ba5a9c7",
}
DOWNLOAD_TIMEOUT_S = 10  # per read
INSTALL_TIMEOUT_S = 120
PROBE_TIMEOUT_S = 60
STATE = "flash-attn.json"
_MAX_WHEEL_BYTES = 1_000_000_000
_COPY_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Host:
    """What decides which wheel fits. capability is the GPU's, None without one; torch is `major.minor`."""

    capability: tuple[int, int] | None
    python: tuple[int, int]
    torch: str | None
    cxx11_abi: bool | None


@dataclass(frozen=True)
class Wheel:
    name: str
    sha256: str

    def key(self, models_prefix: str) -> str:
        return f"{models_prefix}wheels/{self.name}"


@dataclass(frozen=True)
class Choice:
    """The wheel to install, or None and why not. is_warning: the user asked for it and does not get it."""

    wheel: Wheel | None
    reason: str
    is_warning: bool = False


def choose(mode: str, host: Host, *, importable: bool) -> Choice:
    """Decide without touching anything. mode is FLASH_ATTN: auto, on, off."""
    asked = mode == "on"
    if mode == "off":
        return Choice(None, "FLASH_ATTN=off")
    if host.capability is None:
        return Choice(None, "no CUDA device", asked)
    if host.capability < MIN_CAPABILITY:
        return Choice(None, f"compute capability {host.capability[0]}.{host.capability[1]} is below 8.0", asked)
    if importable:
        return Choice(None, "already installed")
    sha256 = _SHA256.get((host.torch or "", bool(host.cxx11_abi))) if host.python == (3, 11) and host.cxx11_abi is not None else None
    if sha256 is None:
        python = ".".join(map(str, host.python))
        return Choice(None, f"no wheel for Python {python}, torch {host.torch}, C++11 ABI {host.cxx11_abi}", is_warning=True)
    return Choice(Wheel(_name(str(host.torch), bool(host.cxx11_abi)), sha256), "wanted")


def _name(torch: str, cxx11_abi: bool) -> str:
    return f"flash_attn-{VERSION}+cu12torch{torch}cxx11abi{str(cxx11_abi).upper()}-cp311-cp311-linux_x86_64.whl"


def pinned_names() -> list[str]:
    """File names of every wheel that some worker may want."""
    return [_name(torch, abi) for torch, abi in _SHA256]


def this_host() -> Host:
    """The facts about this machine, without importing torch (which takes 2 s and belongs to another process)."""
    try:
        torch = ".".join(importlib.metadata.version("torch").split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        torch = None
    return Host(gpu_capability(), sys.version_info[:2], torch, _torch_cxx11_abi())


def gpu_capability() -> tuple[int, int] | None:
    """Compute capability of the first GPU by NVML; None without a driver or a GPU."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        device, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
        if nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) != 0:
            return None
        if nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor)) != 0:
            return None
        return major.value, minor.value
    finally:
        nvml.nvmlShutdown()


def _torch_cxx11_abi() -> bool | None:
    """Whether libc10, torch's smallest C++ library, exports names of the C++11 ABI."""
    spec = importlib.util.find_spec("torch")
    library = Path(spec.origin).parent / "lib" / "libc10.so" if spec and spec.origin else None
    if library is None or not library.is_file():
        return None
    with library.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_string") >= 0


def ensure(settings: Settings, cache: HubCache, store: Store | None) -> Path | None:
    """Install the wheel when it is wanted; the directory for sys.path, None when torch's attention serves. Never raises a WorkerError."""
    choice = choose(settings.flash_attn, this_host(), importable=importlib.util.find_spec("flash_attn") is not None)
    if choice.wheel is None:
        log.log(logging.WARNING if choice.is_warning else logging.INFO, "flash_attn outcome=not_used reason=%r", choice.reason)
        return None
    try:
        return install(choice.wheel, cache, store, settings)
    except WorkerError as exc:
        log.warning("flash_attn outcome=failed error=%r effect='torch attention serves'", str(exc))
        return None


def install(wheel: Wheel, cache: HubCache, store: Store | None, settings: Settings, *, release_url: str = RELEASE_URL) -> Path:
    """Fetch, install and probe one wheel; what was installed before is only looked at.

    Raises:
        StoreError: neither the bucket nor the release had the pinned bytes.
        CacheError: it does not install or does not import here; remembered, so that the next boot does not try again.
    """
    site = cache.state / f"flash-attn-{wheel.sha256[:16]}"
    state = cache.read_state(STATE) or {}
    if state.get("sha256") == wheel.sha256 and state.get("broken"):
        raise CacheError(f"{wheel.name} did not work here before: {state['broken']}")
    if state.get("sha256") == wheel.sha256 and site.is_dir():
        return site
    file = cache.state / "wheels" / wheel.name
    source = _obtain(wheel, file, store, settings, release_url)
    shutil.rmtree(site, ignore_errors=True)
    if fault := _pip_install(file, site) or _probe(site):
        shutil.rmtree(site, ignore_errors=True)
        cache.write_state(STATE, {"sha256": wheel.sha256, "broken": fault})
        raise CacheError(f"{wheel.name} does not work here: {fault}")
    cache.write_state(STATE, {"sha256": wheel.sha256, "site": str(site), "source": source})
    if store is None or source == "bucket":
        file.unlink(missing_ok=True)  # else the publisher sends it first
    log.info("flash_attn outcome=installed wheel=%s source=%s", wheel.name, source)
    return site


def publishable(cache: HubCache, models_prefix: str) -> dict[str, Path]:
    """Wheels that came from the release and are to go into the bucket, by key."""
    files = (cache.state / "wheels" / name for name in pinned_names())
    return {f"{models_prefix}wheels/{file.name}": file for file in files if file.is_file()}


def _obtain(wheel: Wheel, file: Path, store: Store | None, settings: Settings, release_url: str) -> str:
    """Bring the wheel's pinned bytes to `file`; the source it came from."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise CacheError(f"{file.parent}: {exc.strerror}") from exc
    if file.is_file() and _digest(file) == wheel.sha256:
        return "cache"
    if store is not None and _from_bucket(wheel, file, store, settings):
        return "bucket"
    _from_release(wheel, file, release_url)
    return "release"


def _from_bucket(wheel: Wheel, file: Path, store: Store, settings: Settings) -> bool:
    key, part = wheel.key(settings.models_prefix), file.with_suffix(".part")
    try:
        info = store.head(key)
        if info is None or info.size_bytes > _MAX_WHEEL_BYTES:
            return False
        item = Item(store.sign_get(key, expires_s=3600), part, info.size_bytes, wheel.sha256)
        [outcome] = fetch([item], Limits(), on_done=lambda _outcome: None)
        if outcome.error:
            raise outcome.error
        part.replace(file)
    except (WorkerError, OSError) as exc:
        log.warning("flash_attn.bucket error=%r", str(exc))
        return False
    return True


def _from_release(wheel: Wheel, file: Path, release_url: str) -> None:
    part, digest = file.with_suffix(".download"), hashlib.sha256()
    try:
        url = release_url + wheel.name.replace("+", "%2B")
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as answer, part.open("wb") as handle:  # noqa: S310 - https or a test's loopback
            while chunk := answer.read(_COPY_BYTES):
                digest.update(chunk)
                handle.write(chunk)
    except (OSError, urllib.error.URLError) as exc:
        part.unlink(missing_ok=True)
        raise StoreNotFound(f"{wheel.name} could not be downloaded ({type(exc).__name__})") from exc
    if digest.hexdigest() != wheel.sha256:
        part.unlink()
        raise StoreNotFound(f"the release's {wheel.name} has not the pinned sha256")
    part.replace(file)


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _pip_install(file: Path, site: Path) -> str | None:
    """Why the installation failed, None when it did not."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--quiet",
        "--target",
        str(site),
        str(file),
    ]
    return _run(command, INSTALL_TIMEOUT_S, dict(os.environ))


def _probe(site: Path) -> str | None:
    """Why flash_attn does not import beside torch, None when it does. A wheel of another ABI fails here with `undefined symbol`."""
    return _run([sys.executable, "-c", "import torch, flash_attn"], PROBE_TIMEOUT_S, {**os.environ, "PYTHONPATH": str(site)})


def _run(command: list[str], timeout_s: float, env: dict[str, str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, env=env, check=False, text=True)  # noqa: S603 - fixed commands
    except (OSError, subprocess.TimeoutExpired) as exc:
        return type(exc).__name__
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]


def bake() -> int:
    """Install the wheel for this image into site-packages, without asking for a GPU."""
    host = this_host()
    choice = choose("on", Host(MIN_CAPABILITY, host.python, host.torch, host.cxx11_abi), importable=False)
    if choice.wheel is None:
        log.error("flash_attn.bake outcome=failed reason=%r", choice.reason)
        return 1
    file = Path("/tmp") / choice.wheel.name  # noqa: S108 - an image build
    try:
        _from_release(choice.wheel, file, RELEASE_URL)
    except StoreError as exc:
        log.error("flash_attn.bake outcome=failed error=%r", str(exc))  # noqa: TRY400
        return 1
    fault = _run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", str(file)], INSTALL_TIMEOUT_S, dict(os.environ))
    file.unlink()
    log.info("flash_attn.bake outcome=%s", fault or "installed")
    return 1 if fault else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.exit(bake())
