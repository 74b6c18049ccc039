"""Rules of the Dockerfile and the workflows that no build on this machine would break by itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def workflow(path: Path) -> dict[str, Any]:
    return {str(key): value for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items()}  # YAML 1.1 reads `on` as True


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in workflow(path)["jobs"].values() for step in job.get("steps", [])]


def test_the_base_is_an_exact_tag_that_a_builder_can_replace():
    assert re.search(r"^ARG BASE_IMAGE=python:3\.11\.\d+-slim-bookworm$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE_IMAGE}"}


@pytest.mark.parametrize("refused", ["# syntax=", "<<", "--link", "--parents", "--exclude", "--network", "--start-interval", "--chmod"])
def test_the_dockerfile_has_nothing_that_podman_4_refuses(refused):
    assert refused not in DOCKERFILE


def test_the_dockerfile_names_no_host():
    assert "://" not in re.sub(r"^#.*$", "", DOCKERFILE, flags=re.MULTILINE)


def test_what_changes_often_is_copied_last():
    order = [
        "COPY --from=pins",
        "COPY requirements.txt requirements-nodeps.txt",
        "COPY f5_worker/__init__.py",
        "COPY f5_worker ./",
        "ARG VERSION",
    ]
    places = [DOCKERFILE.index(line) for line in order]
    assert places == sorted(places)


def test_the_heavy_layer_takes_every_pin_of_torch_and_cuda():
    (pattern,) = re.findall(r"grep -E '([^']+)'", DOCKERFILE)
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    taken = {pin.partition("==")[0] for pin in pins if re.search(pattern, pin)}
    assert taken == {pin.partition("==")[0] for pin in pins if pin.startswith(("nvidia-", "torch==", "torchaudio==", "triton=="))}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_an_exact_version(path):
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", name) for name in used), used


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_are_bounded_in_time_and_rights(path):
    described = workflow(path)
    assert described["permissions"] == {"contents": "read"}
    assert all("uses" in job or job["timeout-minutes"] <= 90 for job in described["jobs"].values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_targets_that_the_makefile_has(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    called = {target for step in steps(path) for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
    assert called
    assert called <= targets


def test_an_image_is_pushed_only_after_the_tests_and_after_it_was_tested_itself():
    job = workflow(ROOT / ".github" / "workflows" / "release.yml")["jobs"]["image"]
    runs = [step.get("run", "") for step in job["steps"]]
    assert job["needs"] == "test"
    assert runs.index("make image") < runs.index("make image-test") < next(i for i, run in enumerate(runs) if run.startswith("docker push"))
