from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from f5_worker.errors import SettingsError, StoreCorrupt
from f5_worker.manifest import (
    MANIFEST_MAX_BYTES,
    PinnedFile,
    dump_manifest,
    is_safe_path,
    load_model,
    load_models,
    load_pins,
    load_transcriber,
    parse_manifest,
)

FILES = load_model("F5TTS_v1_Base").files


def manifest_with(**changes: object) -> bytes:
    body = json.loads(dump_manifest(FILES[:1]))
    body["files"][0].update(changes)
    return json.dumps(body).encode()


def test_the_real_model_is_pinned_whole() -> None:
    assert [(f.path, f.size_bytes) for f in FILES] == [
        ("F5TTS_v1_Base/model_1250000.safetensors", 1_348_435_761),
        ("pytorch_model.bin", 54_365_991),
        ("F5TTS_v1_Base/vocab.txt", 13_800),
        ("config.yaml", 461),
    ]
    assert all(len(f.sha256) == 64 and len(f.commit) == 40 for f in FILES)


def test_keys_show_the_files_by_their_names() -> None:
    assert FILES[0].key("models/") == f"models/SWivid--F5-TTS/{FILES[0].commit}/F5TTS_v1_Base/model_1250000.safetensors"


def test_a_manifest_comes_back_as_it_was_written() -> None:
    assert parse_manifest(dump_manifest(FILES[:1])) == [FILES[0]]


def test_the_same_files_in_any_order_give_the_same_manifest_bytes() -> None:
    group = [FILES[0], replace(FILES[0], path="a.txt")]
    assert dump_manifest(group) == dump_manifest(group[::-1])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b'{"schema": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
        manifest_with(path="../../etc/passwd"),
        manifest_with(path="/etc/passwd"),
        manifest_with(path="a//b"),
        manifest_with(path="a\\..\\b"),
        manifest_with(path=""),
        manifest_with(size_bytes=-1),
        manifest_with(size_bytes=True),
        manifest_with(sha256="x"),
        manifest_with(etag="../x"),
        manifest_with(unknown=1),
        dump_manifest(FILES[:1])[:-40],
        dump_manifest(FILES[:1]).replace(b'"schema": 1', b'"schema": 2'),
        dump_manifest([FILES[0], FILES[0]]),
        b"x" * (MANIFEST_MAX_BYTES + 1),
    ],
)
def test_a_poisoned_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(StoreCorrupt):
        parse_manifest(data)


@pytest.mark.parametrize("path", ["a", "a/b.txt", "ü/ +%", "..a/b.."])
def test_ordinary_paths_are_safe(path: str) -> None:
    assert is_safe_path(path)


@pytest.mark.parametrize("path", ["..", "a/../b", "./a", "a/", ".", "a\0b"])
def test_paths_that_leave_or_are_not_normalised_are_unsafe(path: str) -> None:
    assert not is_safe_path(path)


def test_a_models_file_adds_an_entry_and_may_use_a_packaged_vocoder(tmp_path: Path) -> None:
    registry = json.loads((Path(__file__).parents[2] / "f5_worker" / "models.json").read_text())
    own = tmp_path / "mine.json"
    own.write_text(json.dumps({"schema": 1, "models": {"mine": registry["models"]["F5TTS_v1_Base"]}}))
    assert set(load_models(own)) == {"F5TTS_v1_Base", "mine"}


@pytest.mark.parametrize("text", [None, "{", "[]", '{"models": {"m": {}}}', '{"models": []}'])
def test_a_bad_models_file_is_a_settings_error_that_names_it(tmp_path: Path, text: str | None) -> None:
    own = tmp_path / "mine.json"
    if text is not None:
        own.write_text(text)
    with pytest.raises(SettingsError, match=r"mine\.json"):
        load_models(own)


def test_an_unknown_model_is_a_settings_error_that_lists_the_known() -> None:
    with pytest.raises(SettingsError, match="F5TTS_v1_Base"):
        load_model("nope")


def test_a_pinned_file_refuses_a_bad_commit() -> None:
    with pytest.raises(ValueError, match="commit"):
        PinnedFile("a/b", "main", "x", 1, "0" * 64, "0" * 64)


def test_the_real_transcriber_is_pinned() -> None:
    spec = load_transcriber()
    [file] = spec.files
    assert (spec.name, spec.license) == ("whisper-large-v3-turbo", "MIT")
    assert (file.repo, file.path, file.size_bytes) == ("openai/whisper-large-v3-turbo", "model.safetensors", 1_617_824_864)
    assert len(spec.languages) == len(set(spec.languages)) == 100


def test_a_models_file_may_bring_a_transcriber_of_its_own(tmp_path: Path) -> None:
    registry = json.loads((Path(__file__).parents[2] / "f5_worker" / "models.json").read_text())
    own = tmp_path / "mine.json"
    own.write_text(json.dumps({"schema": 1, "models": {}, "transcribers": {"mine": registry["transcribers"]["whisper-large-v3-turbo"]}}))
    assert load_transcriber(own).name == "mine"
    own.write_text(json.dumps({"schema": 1, "models": {}}))
    assert load_transcriber(own) == load_transcriber()


@pytest.mark.parametrize("change", [{"alignment_heads": [[1]]}, {"languages": 7}, {"weights": "other.bin"}, {"arch": None}])
def test_a_transcriber_that_is_not_of_the_schema_is_a_settings_error(tmp_path: Path, change: dict[str, object]) -> None:
    registry = json.loads((Path(__file__).parents[2] / "f5_worker" / "models.json").read_text())
    own = tmp_path / "mine.json"
    entry = registry["transcribers"]["whisper-large-v3-turbo"] | change
    own.write_text(json.dumps({"schema": 1, "models": {}, "transcribers": {"mine": entry}}))
    with pytest.raises(SettingsError, match=r"mine\.json"):
        load_transcriber(own)


def test_the_pins_are_the_files_of_all_models_and_transcribers() -> None:
    assert set(load_pins()) == {*FILES, *load_transcriber().files}
