"""Models built without their weights, and weights put into them from verified files.

Upstream constructs 337 million random numbers to overwrite them (2.8 s). Here parameters are created on the meta device, without storage,
and become the tensors of the checkpoint. Those are read and cast one by one, several at a time: with a mapped file the pages of all the
float32 weights count as memory of the process next to the cast ones, every page costs a fault, and on the CPU float32 products differ in
the last bit from upstream's, because the tensors do not start where the processor's vectors do (the real file's data starts at byte 48408).
"""

from __future__ import annotations

import json
import math
import os
import pickle
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import nn

from f5_worker.backend import Backend
from f5_worker.errors import EngineError
from f5_worker.manifest import ModelSpec
from f5_worker.upstream import Upstream

_EMA = "ema_model."
# Not parameters: training counters, and mel filters that old checkpoints carry (upstream drops them too).
_NOT_WEIGHTS = {"initted", "step", "mel_spec.mel_stft.mel_scale.fb", "mel_spec.mel_stft.spectrogram.window"}
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # of safetensors, those that weights come in
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
# float32 beside a bfloat16 network: CFM takes the precision of noise, time grid and solver from its first parameter, which lies in
# time_embed; positions above 256 have no exact bfloat16.
_WIDE = ("transformer.time_embed.", "transformer.rotary_embed.")
_READERS = 4  # tensors in flight: enough to keep the disk and two cores busy, 4 x 12 MB of buffers


M = TypeVar("M", bound=nn.Module)


class Vocoder(nn.Module):
    """Mel to wave: backbone and head of vocos. Its feature extractor (wave to mel) is not needed."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """(batch, mels, frames) -> (batch, samples); the same as `vocos.Vocos.decode`."""
        wave: torch.Tensor = self.head(self.backbone(mel))
        return wave


class Weightless(torch.overrides.TorchFunctionMode):
    """Uninitialised tensors are created on the meta device and filling them is skipped; computed buffers stay real.

    `with torch.device("meta")` would leave non-persistent buffers without values, and random fills on meta import torch._dynamo (1.4 s).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            return func(*args, **{**kwargs, "device": "meta"})
        target = args[0] if args else kwargs.get("tensor")
        in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")
        if in_place and isinstance(target, torch.Tensor) and target.is_meta:
            return target
        return func(*args, **kwargs)


def build_cfm(upstream: Upstream, spec: ModelSpec, backend: Backend) -> nn.Module:
    """F5-TTS's flow-matching model of the given architecture, without weights and vocabulary.

    Raises:
        EngineError: upstream does not know an architecture argument.
    """
    try:
        with Weightless():
            transformer = upstream.DiT(
                **{**spec.arch, "attn_backend": backend.attn_backend, "attn_mask_enabled": backend.batched},
                text_num_embeds=spec.vocab_size,
                mel_dim=spec.mel["n_mel_channels"],
            )
            cfm: nn.Module = upstream.CFM(transformer=transformer, mel_spec_kwargs=dict(spec.mel), odeint_kwargs={"method": "euler"})
    except (TypeError, AssertionError, KeyError, ValueError) as exc:
        raise EngineError(f"model {spec.name}: f5_tts cannot build this architecture: {exc}; check `arch` and `mel` of its entry") from exc
    return cfm


def load_cfm(cfm: Any, spec: ModelSpec, vocab: dict[str, int], checkpoint: Path, *, device: torch.device, dtype: torch.dtype) -> None:
    """Put the checkpoint into the model and give it its vocabulary.

    float16 and float32 are what upstream computes with. In bfloat16 only the network is computed, the solver runs in float32: with 8 bits
    the time grid of 32 steps has equal neighbours, which torchdiffeq refuses.

    Raises:
        EngineError: the file is not a safetensors file, or its tensors are not those of the model.
    """
    if len(vocab) != spec.vocab_size:
        raise EngineError(f"model {spec.name}: its vocabulary has {len(vocab)} entries, the registry says {spec.vocab_size}")
    try:
        state = _read_checkpoint(checkpoint, device, dtype)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as exc:
        raise EngineError(f"model {spec.name}: the checkpoint cannot be read as safetensors: {type(exc).__name__}: {exc}") from exc
    _assign(cfm, state, f"model {spec.name}: the checkpoint")
    cfm.vocab_char_map = vocab
    if dtype == torch.bfloat16:
        cfm.transformer.text_embed.to(device=device, dtype=dtype)  # holds the one buffer that no file does
        _solve_in_float32(cfm.to(device=device).transformer, dtype)
    else:
        cfm.to(device=device, dtype=dtype)


def blank_cfm(upstream: Upstream, spec: ModelSpec, backend: Backend) -> nn.Module:
    """The model with zeros for weights, on the device: it computes what a pass computes, but no speech."""
    cfm = _zeroed(build_cfm(upstream, spec, backend), backend.device, backend.dtype)
    cfm.vocab_char_map = {}  # type: ignore[assignment]
    return cfm


def blank_vocoder(upstream: Upstream, spec: ModelSpec, backend: Backend) -> Vocoder:
    """The same of a vocoder, of the size of vocos-mel-24khz: what size the model's has, its files say."""
    with Weightless():
        backbone = upstream.VocosBackbone(input_channels=spec.mel["n_mel_channels"], dim=512, intermediate_dim=1536, num_layers=8)
        head = upstream.ISTFTHead(dim=512, n_fft=spec.mel["n_fft"], hop_length=spec.mel["hop_length"], padding="center")
    return _zeroed(Vocoder(backbone, head), backend.device, torch.float32)


def _zeroed(module: M, device: torch.device, dtype: torch.dtype) -> M:
    uninitialised = {name: tensor.shape for name, tensor in module.state_dict().items() if tensor.is_meta}
    zeros = {name: torch.zeros(shape, device=device, dtype=dtype) for name, shape in uninitialised.items()}
    module.load_state_dict(zeros, strict=False, assign=True)
    return module.to(device, dtype).requires_grad_(False).eval()


def _solve_in_float32(transformer: nn.Module, dtype: torch.dtype) -> None:
    """The network takes and gives float32 and computes in dtype."""

    def narrow(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "x": kwargs["x"].to(dtype), "cond": kwargs["cond"].to(dtype)}

    transformer.register_forward_pre_hook(narrow, with_kwargs=True)
    transformer.register_forward_hook(lambda _module, _args, flow: flow.to(torch.float32))
    transformer.get_submodule("time_embed").register_forward_hook(lambda _module, _args, embedded: embedded.to(dtype))


def _read_checkpoint(path: Path, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights of a safetensors file (8 bytes of length, JSON header, data), cast and on the device, under the model's names."""
    with path.open("rb", buffering=0) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER_BYTES, path.stat().st_size):
            raise ValueError("its header is longer than the file")
        header: dict[str, Any] = json.loads(file.read(length))
        entries = {name.removeprefix(_EMA): entry for name, entry in header.items() if name != "__metadata__"}
        wanted = {name: entry for name, entry in entries.items() if name not in _NOT_WEIGHTS}
        reader = _TensorReader(file.fileno(), 8 + length, wanted.values())

        def read(name: str, entry: Mapping[str, Any]) -> torch.Tensor:
            wide = dtype == torch.bfloat16 and name.startswith(_WIDE)
            return reader.read(entry).to(device=device, dtype=torch.float32 if wide else dtype, copy=True)

        with ThreadPoolExecutor(_READERS) as pool:
            return dict(zip(wanted, pool.map(read, wanted, wanted.values()), strict=True))


class _TensorReader:
    """Reads tensors of an open file into one buffer per thread: fresh memory for each would cost as much as reading."""

    def __init__(self, descriptor: int, data_start: int, entries: Iterable[Mapping[str, Any]]) -> None:
        self._descriptor = descriptor
        self._data_start = data_start
        self._largest = max((end - start for start, end in (entry["data_offsets"] for entry in entries)), default=0)
        self._mine = threading.local()

    def read(self, entry: Mapping[str, Any]) -> torch.Tensor:
        """The tensor, valid until the thread's next read."""
        start, end = entry["data_offsets"]
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        if math.prod(shape) * dtype.itemsize != end - start:
            raise ValueError("a tensor's size is not that of its shape")
        buffer = self._buffer()[: end - start]
        view = memoryview(buffer.numpy())  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], self._data_start + start + done)
            if not count:
                raise ValueError("the file ends inside a tensor")
            done += count
        return buffer.view(dtype).view(shape)

    def _buffer(self) -> torch.Tensor:
        if not hasattr(self._mine, "buffer"):
            self._mine.buffer = torch.empty(self._largest, dtype=torch.uint8)
        buffer: torch.Tensor = self._mine.buffer
        return buffer


def load_vocoder(upstream: Upstream, spec: ModelSpec, config: Path, weights: Path, device: torch.device) -> Vocoder:
    """The vocoder in float32, as upstream runs it.

    Raises:
        EngineError: another configuration than vocos with ISTFT head, or weights that do not fit it.
    """
    vocoder = _build_vocoder(upstream, spec, config)
    try:
        # A pickle: weights_only admits tensors and containers, no code.
        raw = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)
        state = {name: tensor for name, tensor in raw.items() if not name.startswith("feature_extractor.")}
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, AttributeError) as exc:
        raise EngineError(f"vocoder {spec.vocoder.name}: its weights cannot be read: {type(exc).__name__}") from exc
    _assign(vocoder, state, f"vocoder {spec.vocoder.name}: the weights file")
    return vocoder.to(device=device, dtype=torch.float32)


def _build_vocoder(upstream: Upstream, spec: ModelSpec, config: Path) -> Vocoder:
    try:
        parts = yaml.safe_load(config.read_text(encoding="utf-8"))
        backbone, head = parts["backbone"], parts["head"]
        if (backbone["class_path"], head["class_path"]) != ("vocos.models.VocosBackbone", "vocos.heads.ISTFTHead"):
            raise EngineError(f"vocoder {spec.vocoder.name}: only VocosBackbone with ISTFTHead is supported")
        with Weightless():
            return Vocoder(upstream.VocosBackbone(**backbone["init_args"]), upstream.ISTFTHead(**head["init_args"]))
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as exc:
        raise EngineError(f"vocoder {spec.vocoder.name}: its config cannot be used: {type(exc).__name__}: {exc}") from exc


def _assign(module: nn.Module, state: Mapping[str, Any], what: str) -> None:
    """Every persistent tensor of the module becomes the file's tensor, without a copy."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    problems = [
        *_named("lacks", expected.keys() - found.keys()),
        *_named("has unknown", state.keys() - expected.keys()),
        *_named("has of another shape", (name for name in expected.keys() & found.keys() if expected[name] != found[name])),
    ]
    if problems:
        raise EngineError(f"{what} does not fit the architecture: {'; '.join(problems)}")
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False).eval()


def _named(what: str, names: Iterable[str]) -> list[str]:
    listed = sorted(names)
    return [f"{what} {len(listed)} tensors such as {listed[0]}"] if listed else []
