"""This machine as the worker will find it: room for the weights, GPU, torch, flash-attn, the way to the hub. Torch is not imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from f5_worker import fitness
from f5_worker.cache import HubCache
from f5_worker.disk import room
from f5_worker.doctor_endpoint import Unreachable, ask
from f5_worker.errors import GpuUnavailable
from f5_worker.finding import Finding, failed, warning
from f5_worker.manifest import ModelSpec, PinnedFile
from f5_worker.placement import why_not
from f5_worker.settings import Settings
from f5_worker.wheel_choice import choose, this_host

HUB = "https://huggingface.co"
_ELSEWHERE = "run this in the worker's image on a GPU machine to see what it will find"


def disks(settings: Settings, files: Sequence[PinnedFile]) -> list[Finding]:
    """One finding for each directory that a boot would try. Failed when none can hold the model."""
    asked = [settings.cache_dir] if settings.cache_dir else []
    reasons = {
        root: why_not(HubCache(root), files, settings.platform_cache)
        for root in [*asked, *(c for c in settings.cache_dir_candidates if c not in asked)]
    }
    taken = next((root for root, reason in reasons.items() if reason is None), None)
    if taken is None:
        seen = "; ".join(f"{root}: {reason}" for root, reason in reasons.items())
        return [failed("disk", "disk_full", seen, "enlarge the container disk, or set MODEL_CACHE_DIR to a directory with room")]
    findings, is_before = [], True
    for root, reason in reasons.items():
        is_before = is_before and root != taken
        findings.append(_disk(root, reason, instead=taken if is_before else None))
    return findings


def _disk(root: Path, reason: str | None, *, instead: Path | None) -> Finding:
    check = f"disk {root}"
    if reason is None:
        free_bytes, _ = room(_existing(root))
        return Finding(check, f"{free_bytes / 1e9:.1f} GB free", values={"free_bytes": free_bytes})
    if instead is None:
        return Finding(check, f"{reason}; not needed")
    first = "make room there" if reason.endswith("free") else "make it a directory that can be written"
    return warning(check, "disk_unusable", f"{reason}; the worker takes {instead}", f"{first}, or set MODEL_CACHE_DIR to the one you want")


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def gpu_and_packages(settings: Settings) -> list[Finding]:
    """The findings `gpu`, `torch` and `flash-attn`; warnings where this machine is not the worker's."""
    host, torch = this_host(), _version("torch")
    choice = choose(settings.flash_attn, host, importable=importlib.util.find_spec("flash_attn") is not None)
    fit = Finding("flash-attn", choice.wheel.name if choice.wheel else choice.reason)
    if choice.is_warning:
        remedy = "use an Ampere or newer GPU and the image's own torch, or set FLASH_ATTN=off: torch's attention serves"
        fit = warning("flash-attn", "flash_attn_unfit", choice.reason, remedy)
    has_torch = Finding("torch", torch) if torch else warning("torch", "no_torch", "not installed here", _ELSEWHERE)
    return [_gpu(settings, host.capability), has_torch, fit]


def _gpu(settings: Settings, capability: tuple[int, int] | None) -> Finding:
    if settings.gpu_expected or (settings.gpu_expected is None and fitness.DEVICE.exists()):
        try:
            fitness.check_gpu()
        except GpuUnavailable as exc:
            remedy = "use another machine, and allow only the image's CUDA versions in the endpoint's settings"
            return failed("gpu", "gpu_broken", exc.message, remedy)
    if capability is None:
        return warning("gpu", "no_gpu", "none: speech is made by the CPU, many times slower", _ELSEWHERE)
    return Finding("gpu", f"compute capability {capability[0]}.{capability[1]}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def hub(env: Mapping[str, str], spec: ModelSpec, *, is_needed: bool) -> Finding:
    """Whether the hub has the model; failed when the bucket does not."""
    endpoint = env.get("HF_ENDPOINT", "").rstrip("/") or HUB
    url = f"{endpoint}/{spec.vocab.repo}/resolve/{spec.vocab.commit}/{spec.vocab.path}"
    token = env.get("HF_TOKEN", "").strip()  # as the hub's own client reads it
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    worse = failed if is_needed else warning
    effect = "" if is_needed else "; the bucket has the model, so boots do without"
    try:
        answer = ask(url, None, method="HEAD", headers=headers)
    except Unreachable as exc:
        remedy = "open the way to the hub, correct HF_ENDPOINT, or seed the bucket with `python -m f5_worker cache push` elsewhere"
        return worse("hub", "hub_unreachable", exc.seen + effect, remedy)
    if answer.status < 400:
        return Finding("hub", f"answers in {answer.seconds * 1000:.0f} ms")
    remedy = "set HF_TOKEN for a gated or private repository; at 404 correct HF_ENDPOINT or the models file"
    return worse("hub", "hub_refuses", f"the hub answers {answer.status} for {spec.vocab.repo}{effect}", remedy)
