from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from f5_worker import wheel_choice, wheels
from f5_worker.report import Phase
from f5_worker.wheels import Host, WheelReport, activate, choose

CAPABILITIES = {"no CUDA": None, "cc 7.5": (7, 5), "cc 8.0": (8, 0), "cc 9.0": (9, 0)}
FITS = {
    "wheel fits": {"python": (3, 11), "torch": "2.7", "cxx11_abi": True},
    "ABI differs": {"python": (3, 11), "torch": "2.7", "cxx11_abi": False},
    "Python differs": {"python": (3, 12), "torch": "2.7", "cxx11_abi": True},
}
TRUE_WHEEL = "flash_attn-2.8.0.post2+cu12torch2.7cxx11abiTRUE-cp311-cp311-linux_x86_64.whl"
FALSE_WHEEL = "flash_attn-2.8.0.post2+cu12torch2.7cxx11abiFALSE-cp311-cp311-linux_x86_64.whl"


def expected(capability: str, fit: str, mode: str) -> tuple[str | None, bool]:
    """(wheel, is it a warning that there is none) for one row of the table, written out as rules."""
    if mode == "off":
        return None, False
    if capability in {"no CUDA", "cc 7.5"}:
        return None, mode == "on"
    return {"wheel fits": (TRUE_WHEEL, False), "ABI differs": (FALSE_WHEEL, False), "Python differs": (None, True)}[fit]


@pytest.mark.parametrize(("capability", "fit", "mode"), list(itertools.product(CAPABILITIES, FITS, ["auto", "on", "off"])))
def test_the_choice_for_each_row(capability: str, fit: str, mode: str) -> None:
    choice = choose(mode, Host(capability=CAPABILITIES[capability], **FITS[fit]), importable=False)
    assert (choice.wheel.name if choice.wheel else None, choice.is_warning) == expected(capability, fit, mode)
    assert choice.reason


@pytest.mark.parametrize("host", [Host((9, 0), (3, 11), "2.8", True), Host((9, 0), (3, 11), None, None)])
def test_a_torch_without_a_pinned_wheel_gets_none(host: Host) -> None:
    choice = choose("auto", host, importable=False)
    assert choice.wheel is None
    assert choice.is_warning


def test_the_image_is_baked_with_the_wheel_of_its_own_torch_and_digest() -> None:
    address, _, digest = wheel_choice.release_for_installed_torch().partition("#sha256=")
    assert address == f"https://github.com/Dao-AILab/flash-attention/releases/download/v2.8.0.post2/{TRUE_WHEEL}"
    assert digest == "8ed71ac092f80b079d2e6043b769135904d6e834916cb6da7d372b394581447b"


def test_what_can_be_imported_already_is_left_alone() -> None:
    choice = choose("auto", Host((9, 0), (3, 11), "2.7", True), importable=True)
    assert (choice.wheel, choice.is_warning, choice.is_installed) == (None, False, True)


def test_every_pinned_wheel_has_its_digest_under_its_name() -> None:
    assert TRUE_WHEEL in wheels.pinned_names()
    assert len(set(wheels.pinned_names())) == 4


def test_this_hosts_torch_is_the_one_the_wheel_was_built_for() -> None:
    host = wheels.this_host()
    assert (host.python, host.torch, host.cxx11_abi) == ((3, 11), "2.7", True)


def test_the_abi_is_read_as_torch_says_it() -> None:
    import torch

    assert wheels.this_host().cxx11_abi == torch.compiled_with_cxx11_abi()


def test_a_report_survives_the_way_to_the_handler() -> None:
    report = WheelReport(Path("/c/flash"), None, [Phase("fetch flash-attn", "wheel", 1.0, 2.0, 5, "bucket")])
    assert WheelReport.from_json(report.to_json()) == report
    assert WheelReport.from_json(WheelReport(None, "broken").to_json()) == WheelReport(None, "broken")


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b'{"site": "", "blocked": null, "phases": [1]}'])
def test_half_a_report_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        WheelReport.from_json(data)


def flash_attn_on_path(folder: Path, source: str) -> Path:
    (folder / "flash_attn").mkdir()
    (folder / "flash_attn" / "__init__.py").write_text(source)
    return folder


HANDLER = """
import sys
from pathlib import Path
from f5_worker.wheels import WheelReport, activate
activate(WheelReport(blocked=sys.argv[1] or None), sys.argv[2], sys.modules, sys.path)
from f5_worker import upstream
upstream.load()
"""


@pytest.mark.parametrize(("blocked", "mode", "lives"), [("undefined symbol", "auto", True), ("", "off", True), ("", "auto", False)])
def test_f5_tts_is_imported_past_a_broken_flash_attn_that_is_blocked(tmp_path: Path, blocked: str, mode: str, lives: bool) -> None:
    folder = flash_attn_on_path(tmp_path, "raise ImportError('undefined symbol')")
    env = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{Path.cwd()}"}
    done = subprocess.run([sys.executable, "-c", HANDLER, blocked, mode], env=env, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode == 0) == lives, done.stderr


def test_an_installed_wheel_becomes_importable_and_a_block_hides_one() -> None:
    modules: dict[str, ModuleType | None] = {}
    path: list[str] = []
    activate(WheelReport(site=Path("/c/flash")), "auto", modules, path)
    assert (modules, path) == ({}, ["/c/flash"])
    activate(WheelReport(site=Path("/c/flash")), "off", modules, path)
    assert (modules, path) == ({"flash_attn": None}, ["/c/flash"])


@pytest.mark.parametrize(("mode", "expected"), [("auto", "flash_attn"), ("on", "flash_attn"), ("off", "torch")])
def test_the_engine_leaves_flash_attn_alone_when_it_is_off(
    mode: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from f5_worker.backend import choose_backend

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    monkeypatch.syspath_prepend(flash_attn_on_path(tmp_path, ""))
    assert choose_backend(mode).attn_backend == expected
