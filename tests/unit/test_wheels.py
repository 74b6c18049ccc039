from __future__ import annotations

import itertools

import pytest

from f5_worker import wheels
from f5_worker.wheels import Host, choose

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


def test_what_can_be_imported_already_is_left_alone() -> None:
    choice = choose("auto", Host((9, 0), (3, 11), "2.7", True), importable=True)
    assert (choice.wheel, choice.is_warning) == (None, False)


def test_every_pinned_wheel_has_its_digest_under_its_name() -> None:
    assert TRUE_WHEEL in wheels.pinned_names()
    assert len(set(wheels.pinned_names())) == 4


def test_this_hosts_torch_is_the_one_the_wheel_was_built_for() -> None:
    host = wheels.this_host()
    assert (host.python, host.torch, host.cxx11_abi) == ((3, 11), "2.7", True)


def test_the_abi_is_read_as_torch_says_it() -> None:
    import torch

    assert wheels.this_host().cxx11_abi == torch.compiled_with_cxx11_abi()
