"""One set of pins for the image, the tests and CI: exact, complete, and what is installed here."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILES = ("requirements.txt", "requirements-nodeps.txt", "requirements-dev.txt")


def pins(*names: str) -> dict[str, str]:
    lines = [line for name in names for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+", line) for line in lines), lines
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


def test_every_pin_is_what_is_installed() -> None:
    assert {name: importlib.metadata.version(name) for name in pins(*FILES)} == pins(*FILES)


@pytest.mark.parametrize("files", [FILES[:1], (FILES[0], FILES[2])], ids=["image", "tests"])
def test_the_pins_are_closed_so_a_resolver_has_nothing_to_choose(files: tuple[str, ...]) -> None:
    known = pins(*files)
    wanted = {
        (name, canonicalize_name(requirement.name))
        for name in known
        for requirement in map(Requirement, importlib.metadata.requires(name) or [])
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }
    assert {(by, name) for by, name in wanted if name not in known and name != "setuptools"} == set()


def test_image_and_makefile_install_in_the_same_two_steps() -> None:
    for name in ("Dockerfile", "Makefile"):
        text = (ROOT / name).read_text()
        assert re.search(r"pip install .*-r requirements\.txt", text), name
        assert re.search(r"pip install .*--no-deps -r requirements-nodeps\.txt", text), name


def test_the_image_starts_the_boot_in_exec_form() -> None:
    assert 'CMD ["python", "-u", "model_cache_init.py"]' in (ROOT / "Dockerfile").read_text()
