"""Imports and loading: lean, exact, and clear when a file does not fit."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from f5_worker import upstream, weights
from f5_worker.backend import Backend, choose_backend
from f5_worker.engine import Engine
from f5_worker.errors import EngineError
from f5_worker.manifest import ModelSpec, PinnedFile
from f5_worker.reference import Voice
from tests.model.conftest import BFLOAT16, FLOAT32, loaded, speak

UNWANTED = (
    "huggingface_hub", "transformers", "wandb", "accelerate", "librosa", "encodec", "scipy", "einx", "pypinyin", "torch._dynamo", "runpod",
    "boto3",
)  # fmt: skip

Paths = dict[PinnedFile, Path]


def test_build_phase_imports_no_hub_client_and_no_trainer(tiny: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from f5_worker import engine, manifest
engine.Engine.build(manifest.load_models(Path({str(tiny / "models.json")!r}))["demo-tiny"])
found = [name for name in {UNWANTED!r} if name in sys.modules]
fakes = [name for name, module in sys.modules.items() if type(module).__name__ == "StandIn"]
assert not found, found
assert not fakes, fakes
assert "vocos" not in sys.modules and "f5_tts.model" not in sys.modules
import pypinyin, einx, scipy.integrate
assert pypinyin.lazy_pinyin("\u597d") == ["hao"]
assert callable(scipy.integrate.solve_ivp) and callable(einx.rearrange)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_upstream_is_imported_once_from_any_thread() -> None:
    found: list[upstream.Upstream] = []
    threads = [threading.Thread(target=lambda: found.append(upstream.load())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert all(one is found[0] for one in found)


def test_build_allocates_no_weights(spec: ModelSpec) -> None:
    cfm = weights.build_cfm(upstream.load(), spec, BFLOAT16)
    real = {name: t.numel() for name, t in cfm.named_parameters() if not t.is_meta}
    assert sum(real.values()) < 10_000  # only GRN's gamma and beta, which are created by zeros()
    assert not any(buffer.is_meta for buffer in cfm.buffers())


def test_loaded_model_has_nothing_on_meta_and_no_gradients(any_engine: Engine) -> None:
    tensors = [*any_engine._cfm.named_parameters(), *any_engine._cfm.named_buffers(), *any_engine._renderer.vocoder.named_parameters()]
    assert not [name for name, tensor in tensors if tensor.is_meta or tensor.requires_grad]
    assert {t.dtype for t in any_engine._cfm.transformer.transformer_blocks.parameters()} == {any_engine.backend.dtype}
    assert {t.dtype for t in any_engine._renderer.vocoder.parameters()} == {torch.float32}
    assert not any_engine._cfm.training


def test_describe_names_device_precision_and_versions(engine: Engine) -> None:
    described = engine.describe()
    assert (described["device"], described["dtype"], described["attn_backend"]) == ("cpu", "bfloat16", "torch")
    assert (described["model"], described["f5_tts"], described["batches"]) == ("demo-tiny", "1.1.22", "no")


@pytest.mark.parametrize(
    ("capability", "flash", "expected"),
    [((9, 0), True, (torch.float16, "flash_attn")), ((8, 0), False, (torch.float16, "torch")),
     ((7, 5), True, (torch.float16, "torch")), ((6, 1), True, (torch.float32, "torch"))],
)  # fmt: skip
def test_backend_follows_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], flash: bool, expected: tuple[torch.dtype, str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if flash else None)
    backend = choose_backend()
    assert (backend.device.type, backend.dtype, backend.attn_backend) == ("cuda", *expected)
    assert backend.batched == (backend.attn_backend == "flash_attn")


@pytest.mark.parametrize(("avx512_bf16", "amx", "expected"), [(True, False, BFLOAT16), (False, True, BFLOAT16), (False, False, FLOAT32)])
def test_backend_without_cuda_is_bfloat16_where_the_processor_computes_it(
    monkeypatch: pytest.MonkeyPatch, avx512_bf16: bool, amx: bool, expected: Backend
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    assert choose_backend() == expected


def rewrite(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return apply


KEY = "ema_model.transformer.proj_out.bias"
MISFITS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "missing tensor": ("checkpoint", rewrite(lambda t: t.pop(KEY)), "lacks 1 tensors such as transformer.proj_out.bias"),
    "unknown tensor": ("checkpoint", rewrite(lambda t: t.update(alien=torch.zeros(2))), "has unknown 1 tensors such as alien"),
    "other shape": ("checkpoint", rewrite(lambda t: t.update({KEY: torch.zeros(99)})), "of another shape 1 tensors"),
    "integer weights": ("checkpoint", rewrite(lambda t: t.update({KEY: torch.zeros(100, dtype=torch.int8)})), "cannot be read"),
    "not safetensors": ("checkpoint", lambda path: path.write_bytes(b"PK\x03\x04" + bytes(200)), "cannot be read as safetensors"),
    "empty": ("checkpoint", lambda path: path.write_bytes(b""), "cannot be read as safetensors"),
    "truncated": ("checkpoint", lambda path: path.write_bytes(path.read_bytes()[:-1000]), "ends inside a tensor"),
    "short vocabulary": ("vocab", lambda path: path.write_text(" \na\nb\n"), "vocabulary has 3 entries, the registry says 2545"),
    "binary vocabulary": ("vocab", lambda path: path.write_bytes(b"\xff\xfe\x00"), "vocabulary cannot be read"),
    "vocoder is code": ("weights", lambda path: path.write_bytes(b"cos\nsystem\n(S'true'\ntR."), "weights cannot be read"),
    "vocoder of another size": ("weights", lambda path: torch.save({"head.out.bias": torch.zeros(3)}, path), "does not fit"),
    "vocoder config of another kind": (
        "config",
        lambda path: path.write_text("backbone: {class_path: os.system}\nhead: {class_path: x}"),
        "only Voc",
    ),
    "vocoder config broken": ("config", lambda path: path.write_text("{"), "config cannot be used"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_file_that_does_not_fit_is_an_engine_error_that_says_why(case: str, spec: ModelSpec, paths: Paths, tmp_path: Path) -> None:
    which, spoil, message = MISFITS[case]
    file = {"checkpoint": spec.checkpoint, "vocab": spec.vocab, "config": spec.vocoder.config, "weights": spec.vocoder.weights}[which]
    copy = tmp_path / file.path
    copy.write_bytes(paths[file].read_bytes())
    spoil(copy)
    with pytest.raises(EngineError, match=message):
        loaded(spec, {**paths, file: copy}, BFLOAT16)


def test_missing_file_is_named(spec: ModelSpec, paths: Paths) -> None:
    rest = {file: path for file, path in paths.items() if file != spec.vocab}
    with pytest.raises(EngineError, match=r"no file for vocab\.txt"):
        loaded(spec, rest, BFLOAT16)


def test_unknown_architecture_argument_is_an_engine_error(spec: ModelSpec) -> None:
    with pytest.raises(EngineError, match="cannot build this architecture"):
        Engine.build(dataclasses.replace(spec, arch={**spec.arch, "wings": 2}), BFLOAT16)


def test_engine_without_weights_refuses_to_speak(spec: ModelSpec, voice: Voice) -> None:
    with pytest.raises(EngineError, match="not loaded"):
        speak(Engine.build(spec, BFLOAT16), "Hello there.", voice)
