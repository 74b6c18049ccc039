"""What is pinned: models, their files and digests, and the names those files have in a bucket.

`models.json` in this package pins the models that the worker knows; `F5_MODELS_FILE` names a second file of the same
schema whose entries are added (a fine-tune, a test model). `manifest.json` in the bucket describes one commit of one
repository; it is written last and never trusted over the pins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from f5_worker.errors import SettingsError, StoreCorrupt

MANIFEST_SCHEMA = 1
MANIFEST_MAX_BYTES = 1_000_000  # a manifest of 3 files has about 1 KB; more than this is an attack or an accident
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class PinnedFile:
    """One file of one commit of one hub repository.

    `etag` is what the hub answers and what names the blob in a Hugging Face cache: the sha256 of an LFS file, the git
    blob sha1 of a small one.
    """

    repo: str
    commit: str
    path: str
    size_bytes: int
    sha256: str
    etag: str

    def __post_init__(self) -> None:
        checks = (
            (_REPO.fullmatch(self.repo), "repo"),
            (_COMMIT.fullmatch(self.commit), "commit"),
            (_SHA256.fullmatch(self.sha256), "sha256"),
            (_ETAG.fullmatch(self.etag), "etag"),
            (is_safe_path(self.path), "path"),
            (type(self.size_bytes) is int and self.size_bytes >= 0, "size"),
        )
        bad = [name for ok, name in checks if not ok]
        if bad:
            raise ValueError(f"bad {', '.join(bad)} in the entry of {self.path[:80]!r}")

    def key(self, prefix: str) -> str:
        """Object key under the models prefix: `<org>--<name>/<commit40>/<path in the repo>`."""
        return f"{commit_prefix(prefix, self.repo, self.commit)}{self.path}"


@dataclass(frozen=True)
class VocoderSpec:
    name: str
    config: PinnedFile
    weights: PinnedFile


@dataclass(frozen=True)
class ModelSpec:
    """Everything that is known of a model before a byte of it is fetched."""

    name: str
    checkpoint: PinnedFile
    vocab: PinnedFile
    vocab_size: int
    arch: Mapping[str, Any]  # keyword arguments of f5_tts.model.backbones.dit.DiT
    mel: Mapping[str, Any]  # keyword arguments of f5_tts.model.modules.MelSpec
    vocoder: VocoderSpec
    license: str

    @property
    def files(self) -> tuple[PinnedFile, ...]:
        """The files that serving this model needs, largest first."""
        wanted = (self.checkpoint, self.vocab, self.vocoder.config, self.vocoder.weights)
        return tuple(sorted(wanted, key=lambda f: -f.size_bytes))


@dataclass(frozen=True)
class TranscriberSpec:
    """A Whisper checkpoint in transformers' format. Its tokenizer and configuration are not fetched: they follow from this."""

    name: str
    weights: PinnedFile
    arch: Mapping[str, Any]  # keyword arguments of transformers.WhisperConfig
    languages: tuple[str, ...]  # codes, in the order of their tokens
    alignment_heads: tuple[tuple[int, int], ...]  # (decoder layer, head) whose cross-attention follows the speech
    license: str

    @property
    def files(self) -> tuple[PinnedFile, ...]:
        return (self.weights,)


class _Registry(NamedTuple):
    """The entries of one models file."""

    models: dict[str, ModelSpec]
    vocoders: dict[str, VocoderSpec]
    transcribers: dict[str, TranscriberSpec]


def commit_prefix(prefix: str, repo: str, commit: str) -> str:
    """Key prefix of everything that belongs to one commit."""
    return f"{prefix}{repo.replace('/', '--')}/{commit}/"


def manifest_key(prefix: str, repo: str, commit: str) -> str:
    return commit_prefix(prefix, repo, commit) + "manifest.json"


def is_safe_path(path: str) -> bool:
    """Whether a path from outside is relative, normalised and stays inside the directory it is joined to."""
    if not path or "\\" in path or "\0" in path or path.startswith("/"):
        return False
    pure = PurePosixPath(path)
    return str(pure) == path and ".." not in pure.parts and path != "."


def load_models(extra: Path | None = None) -> dict[str, ModelSpec]:
    """The pinned models by name, those of the extra file added or replacing.

    Raises:
        SettingsError: the extra file is missing or not of the schema; the message says where.
    """
    return _load(extra).models


def load_model(name: str, extra: Path | None = None) -> ModelSpec:
    """One pinned model. Raises SettingsError when no models file has it."""
    models = load_models(extra)
    if name not in models:
        raise SettingsError(f"F5_MODEL={name!r} is not known; known: {', '.join(sorted(models))}; F5_MODELS_FILE can add it")
    return models[name]


def load_transcriber(extra: Path | None = None) -> TranscriberSpec:
    """The pinned speech recogniser; one of the extra file takes its place. Raises SettingsError as load_models does."""
    return list(_load(extra).transcribers.values())[-1]


def load_pins(extra: Path | None = None) -> list[PinnedFile]:
    """Every file that a worker may need. Raises SettingsError as load_models does."""
    known = _load(extra)
    of_models = [file for spec in known.models.values() for file in spec.files]
    return of_models + [file for spec in known.transcribers.values() for file in spec.files]


def _load(extra: Path | None) -> _Registry:
    known = _read_registry(Path(__file__).with_name("models.json"), {})
    if extra is None:
        return known
    own = _read_registry(extra, known.vocoders)
    return _Registry(known.models | own.models, own.vocoders, known.transcribers | own.transcribers)


def _read_registry(path: Path, known_vocoders: Mapping[str, VocoderSpec]) -> _Registry:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        vocoders = dict(known_vocoders) | {name: _vocoder(name, entry) for name, entry in raw.get("vocoders", {}).items()}
        transcribers = {name: _transcriber(name, entry) for name, entry in raw.get("transcribers", {}).items()}
        models = {name: _model(name, entry, vocoders) for name, entry in raw["models"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise SettingsError(f"models file {path.name}: {type(exc).__name__}: {exc}; see f5_worker/models.json for the schema") from exc
    return _Registry(models, vocoders, transcribers)


def _files(entry: Mapping[str, Any]) -> dict[str, PinnedFile]:
    files = [
        PinnedFile(entry["repo"], entry["commit"], f["path"], f["size"], f["sha256"], f.get("etag", f["sha256"])) for f in entry["files"]
    ]
    return {file.path: file for file in files}


def _vocoder(name: str, entry: Mapping[str, Any]) -> VocoderSpec:
    files = _files(entry)
    return VocoderSpec(name, files[entry["config"]], files[entry["weights"]])


def _model(name: str, entry: Mapping[str, Any], vocoders: Mapping[str, VocoderSpec]) -> ModelSpec:
    files = _files(entry)
    return ModelSpec(
        name=name,
        checkpoint=files[entry["checkpoint"]],
        vocab=files[entry["vocab"]],
        vocab_size=int(entry["vocab_size"]),
        arch=dict(entry["arch"]),
        mel=dict(entry["mel"]),
        vocoder=vocoders[entry["vocoder"]],
        license=str(entry["license"]),
    )


def _transcriber(name: str, entry: Mapping[str, Any]) -> TranscriberSpec:
    return TranscriberSpec(
        name=name,
        weights=_files(entry)[entry["weights"]],
        arch=dict(entry["arch"]),
        languages=tuple(entry["languages"].split()),
        alignment_heads=tuple((int(layer), int(head)) for layer, head in entry["alignment_heads"]),
        license=str(entry["license"]),
    )


def by_commit(files: Iterable[PinnedFile]) -> dict[tuple[str, str], list[PinnedFile]]:
    """The files grouped by (repo, commit), as manifests are."""
    groups: dict[tuple[str, str], list[PinnedFile]] = {}
    for file in files:
        groups.setdefault((file.repo, file.commit), []).append(file)
    return groups


def dump_manifest(files: Sequence[PinnedFile]) -> bytes:
    """The manifest of one commit; the same files give the same bytes."""
    entries = [
        {name: value for name, value in asdict(f).items() if name not in {"repo", "commit"}} for f in sorted(files, key=lambda f: f.path)
    ]
    body = {"schema": MANIFEST_SCHEMA, "repo": files[0].repo, "commit": files[0].commit, "files": entries}
    return json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"


def parse_manifest(data: bytes) -> list[PinnedFile]:
    """The files that a manifest from the bucket names.

    Raises:
        StoreCorrupt: not JSON, another schema, an unsafe or doubled path, a bad digest or size.
    """
    if len(data) > MANIFEST_MAX_BYTES:
        raise StoreCorrupt(f"manifest of {len(data)} bytes, at most {MANIFEST_MAX_BYTES} are read")
    try:
        raw = json.loads(data)
        if raw["schema"] != MANIFEST_SCHEMA:
            raise StoreCorrupt(f"manifest has schema {raw['schema']!r}, this worker reads {MANIFEST_SCHEMA}")
        files = [PinnedFile(raw["repo"], raw["commit"], **entry) for entry in raw["files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise StoreCorrupt(f"manifest is not valid: {type(exc).__name__}") from exc
    if len({f.path for f in files}) != len(files):
        raise StoreCorrupt("manifest names a path twice")
    return files
