"""Random models in the real file formats: safetensors with the EMA prefix, vocab.txt, vocos config.yaml and a pickle of tensors.

The audio is noise that depends on the text, the reference and the seed. The layers that F5-TTS initialises to zero (AdaLN, proj_out) are
random too: with zeros the output would be silence whatever the text says.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

# A few MB of weights that cost nothing to compute with: they lie in the text embedding, which runs once per chunk.
TINY_ARCH = {
    "dim": 64, "depth": 2, "heads": 2, "ff_mult": 2, "text_dim": 512, "text_mask_padding": True, "qk_norm": None,
    "conv_layers": 1, "pe_attn_head": None, "attn_mask_enabled": False,
}  # fmt: skip
TINY_VOCOS = {"dim": 32, "intermediate_dim": 64, "num_layers": 2}
REAL_VOCOS = {"dim": 512, "intermediate_dim": 1536, "num_layers": 8}
WEIGHTS_NAME = "pytorch_model.bin"

_VOCOS_CONFIG = """\
feature_extractor:
  class_path: vocos.feature_extractors.MelSpectrogramFeatures
  init_args:
    sample_rate: 24000
    n_fft: 1024
    hop_length: 256
    n_mels: 100
    padding: center

backbone:
  class_path: vocos.models.VocosBackbone
  init_args:
    input_channels: 100
    dim: {dim}
    intermediate_dim: {intermediate_dim}
    num_layers: {num_layers}

head:
  class_path: vocos.heads.ISTFTHead
  init_args:
    dim: {dim}
    n_fft: 1024
    hop_length: 256
    padding: center
"""


def write_tiny_model(folder: Path, *, seed: int = 0, name: str = "demo-tiny") -> Path:
    """Write folder/demo/<name>/… and folder/demo/<name>-vocos/… (about 11 MB) and return folder/models.json."""
    return _write(folder, seed, name, TINY_ARCH, TINY_VOCOS)


def write_full_size_model(folder: Path, *, seed: int = 0, name: str = "full-size-random") -> Path:
    """The same with the architecture and file sizes of F5TTS_v1_Base and vocos-mel-24khz (1.40 GB)."""
    return _write(folder, seed, name, _registry()["models"]["F5TTS_v1_Base"]["arch"], REAL_VOCOS)


def real_vocab() -> bytes:
    """The vocabulary of F5TTS_v1_Base, byte for byte: the file packaged with f5_tts with the hub's CRLF line ends."""
    (package,) = importlib.util.find_spec("f5_tts").submodule_search_locations
    return (Path(package) / "infer/examples/vocab.txt").read_bytes().replace(b"\n", b"\r\n")


def _registry() -> dict[str, Any]:
    (package,) = importlib.util.find_spec("f5_worker").submodule_search_locations
    return json.loads((Path(package) / "models.json").read_text())


def _write(folder: Path, seed: int, name: str, arch: dict[str, Any], vocos: dict[str, int]) -> Path:
    model, vocoder = folder / "demo" / name, folder / "demo" / f"{name}-vocos"
    model.mkdir(parents=True, exist_ok=True)
    vocoder.mkdir(parents=True, exist_ok=True)
    (model / "vocab.txt").write_bytes(real_vocab())
    (vocoder / "config.yaml").write_text(_VOCOS_CONFIG.format(**vocos))
    _write_checkpoint(model / "model.safetensors", arch, seed)
    _write_vocoder(vocoder / WEIGHTS_NAME, vocos, seed + 1)
    mel = _registry()["models"]["F5TTS_v1_Base"]["mel"]
    body = {
        "schema": 1,
        "vocoders": {f"{name}-vocos": {**_entry(folder, vocoder), "config": "config.yaml", "weights": WEIGHTS_NAME, "license": "CC0-1.0"}},
        "models": {
            name: {**_entry(folder, model), "checkpoint": "model.safetensors", "vocab": "vocab.txt", "vocab_size": 2545,
                   "license": "CC0-1.0", "vocoder": f"{name}-vocos", "arch": arch, "mel": mel},
        },
    }  # fmt: skip
    registry = folder / "models.json"
    registry.write_text(json.dumps(body, indent=1) + "\n")
    return registry


def _entry(folder: Path, repo: Path) -> dict[str, Any]:
    """Repository, a commit that follows from the content, and the pins of every file."""
    files = [_pin(path) for path in sorted(repo.iterdir())]
    commit = hashlib.sha1(json.dumps(files).encode()).hexdigest()
    return {"repo": str(repo.relative_to(folder)), "commit": commit, "files": files}


def _pin(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        pin = {"path": path.name, "size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    if path.suffix in {".txt", ".yaml"}:  # small files are no LFS files: the hub names them by their git blob id
        data = path.read_bytes()
        pin["etag"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return pin


def _write_checkpoint(path: Path, arch: dict[str, Any], seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    from f5_worker import upstream, weights

    up = upstream.load()
    with weights.Weightless():
        cfm = up.CFM(transformer=up.DiT(**arch, text_num_embeds=2545, mel_dim=100), num_channels=100)
    generator = torch.Generator().manual_seed(seed)
    state = {f"ema_model.{key}": _random(key, tensor, generator) for key, tensor in cfm.state_dict().items()}
    save_file({**state, "initted": torch.tensor(True), "step": torch.tensor(1_250_000)}, path)


def _random(key: str, like: Any, generator: Any) -> Any:
    """Values of the size that training gives: activations keep their scale from layer to layer."""
    import torch

    if key.endswith("inv_freq"):
        return like.clone()
    shape = tuple(like.shape)
    if len(shape) == 1 or "grn" in key:
        return torch.randn(shape, generator=generator) * 0.1 + (1.0 if key.endswith("norm.weight") else 0.0)
    scale = 1.0 if "text_embed.text_embed" in key else like[0].numel() ** -0.5
    # The text lies under the first frames only and reaches the others through attention: sharpened, or one would hardly hear it.
    gain = 2.0 if any(part in key for part in ("to_q", "to_k", "to_out")) else 1.0
    return torch.randn(shape, generator=generator) * scale * gain


def _write_vocoder(path: Path, vocos: dict[str, int], seed: int) -> None:
    import torch
    import torchaudio

    from f5_worker import upstream, weights

    up = upstream.load()
    with weights.Weightless():
        vocoder = weights.Vocoder(up.VocosBackbone(input_channels=100, **vocos), up.ISTFTHead(vocos["dim"], n_fft=1024, hop_length=256))
    generator = torch.Generator().manual_seed(seed)
    state = {k: v.clone() if k == "head.istft.window" else _random(k, v, generator) for k, v in vocoder.state_dict().items()}
    state["head.out.bias"][:513] -= 1.0  # log magnitudes: keeps the wave inside [-1, 1]
    mel = torchaudio.transforms.MelSpectrogram(sample_rate=24_000, n_fft=1024, hop_length=256, n_mels=100, power=1)
    extractor = {f"feature_extractor.mel_spec.{key}": value for key, value in mel.state_dict().items()}
    torch.save({**extractor, **state}, path)
