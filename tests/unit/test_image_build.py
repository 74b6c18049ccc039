"""What the image's builder decides before it calls docker or podman."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.container import image


@pytest.fixture
def pip_says(monkeypatch):
    """What `pip config list` prints."""
    real = subprocess.run

    def use(printed: str) -> None:
        def run(command, **options):
            if command[1:] == ["-m", "pip", "config", "list"]:
                return subprocess.CompletedProcess(command, 0, printed, "")
            return real(command, **options)

        monkeypatch.setattr(subprocess, "run", run)

    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    return use


def test_a_machine_without_a_configured_index_lends_nothing(pip_says):
    pip_says("")
    with image.package_index() as options:
        assert options == []


def test_variables_win_over_files_and_only_the_index_is_lent(pip_says):
    pip_says(":env:.index-url='https://a.example/simple'\nglobal.index-url='https://b.example/simple'\nglobal.require-virtualenv='1'\n")
    assert image.pip_options() == {("global", "index-url"): "https://a.example/simple"}


def test_the_certificates_of_the_machine_are_lent_when_pip_names_none(pip_says, monkeypatch):
    pip_says("")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/hosts")
    assert image.pip_options() == {("global", "cert"): "/etc/hosts"}


def test_local_folders_are_mounted_read_only_and_named_by_their_place_in_the_build(pip_says, tmp_path):
    wheels, index = tmp_path / "wheels", tmp_path / "index"
    wheels.mkdir()
    (index / "simple").mkdir(parents=True)
    pip_says(f"global.find-links='{wheels}'\nglobal.extra-index-url='https://a.example/simple file://{index}/simple'\n")
    with image.package_index() as options:
        file, *folders = [word for word in options if word.endswith(":ro")]
        written = Path(file.partition(":")[0]).read_text()
    assert folders == [f"{wheels}:/mnt/index-0:ro", f"{index}:/mnt/index-1:ro"]
    assert "find-links = /mnt/index-0\n" in written
    assert "extra-index-url = https://a.example/simple file:///mnt/index-1/simple\n" in written
    assert "PIP_CONFIG_FILE=/mnt/pip.conf" in options
    assert not Path(file.partition(":")[0]).exists()


def test_neither_docker_nor_podman_is_said_in_words(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SystemExit, match="neither a docker daemon nor podman"):
        image.engine()
