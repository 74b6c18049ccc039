"""Whether flash-attn 2.8.0.post2 is wanted on this machine, and which release wheel fits."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import mmap
import sys
from dataclasses import dataclass
from pathlib import Path

VERSION = "2.8.0.post2"
RELEASE_URL = f"https://github.com/Dao-AILab/flash-attention/releases/download/v{VERSION}/"
MIN_CAPABILITY = (8, 0)  # its kernels are built for Ampere and newer
_SHA256 = {  # of the CPython 3.11 linux x86_64 wheels by (torch, C++11 ABI), from the project's GitHub release
    ("2.7", True): "8ed71ac092f80b079d2e6043b769135904d6e834916cb6da7d372b394581447b",
    ("2.7", False): "1452f2b727379ba753ba0d96c617e4cf5c4a1ea1a5147de5e1032ffa3a97a1e3",
    ("2.6", True): "a2566ec0cc6cf2330252030f8bf41f87fea11503a211e1f76b552c038d38af77",
    ("2.6", False): "e7e8fd0d50112e3302a96fcd5b5ae4606bd38c20a1149fc666fed5c87ba5a9c7",
}


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
    is_installed: bool = False  # and may be used once it proves to work


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
        return Choice(None, "already installed", is_installed=True)
    sha256 = _SHA256.get((host.torch or "", bool(host.cxx11_abi))) if host.python == (3, 11) and host.cxx11_abi is not None else None
    if sha256 is None:
        python = ".".join(map(str, host.python))
        return Choice(None, f"no wheel for Python {python}, torch {host.torch}, C++11 ABI {host.cxx11_abi}", is_warning=True)
    return Choice(Wheel(_name(str(host.torch), bool(host.cxx11_abi)), sha256), "wanted")


def _name(torch: str, cxx11_abi: bool) -> str:
    return f"flash_attn-{VERSION}+cu12torch{torch}cxx11abi{str(cxx11_abi).upper()}-cp311-cp311-linux_x86_64.whl"


def release_for_installed_torch() -> str:
    """What pip is to install for an image that is built without a GPU: the release's address with the digest that pip checks.

    Raises:
        LookupError: no wheel fits the installed Python and torch.
    """
    host = this_host()
    choice = choose("on", Host(MIN_CAPABILITY, host.python, host.torch, host.cxx11_abi), importable=False)
    if choice.wheel is None:
        raise LookupError(choice.reason)
    return f"{RELEASE_URL}{choice.wheel.name}#sha256={choice.wheel.sha256}"


def pinned() -> list[Wheel]:
    """Every wheel that some worker may want."""
    return [Wheel(_name(torch, abi), sha256) for (torch, abi), sha256 in _SHA256.items()]


def pinned_names() -> list[str]:
    """File names of every wheel that some worker may want."""
    return [wheel.name for wheel in pinned()]


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
