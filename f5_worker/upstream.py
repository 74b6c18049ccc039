"""The parts of f5_tts and vocos that synthesis needs, imported without the rest of those packages.

`f5_tts.model.__init__` imports the trainer (wandb, datasets, accelerate), `modules.py` imports librosa for BigVGAN only,
`vocos.__init__` imports encodec and huggingface_hub; none of these is installed or wanted here, and einx, scipy and
pypinyin cost seconds that most jobs never use (docs/decisions/0003-lean-imports.md). For the moment of the import, package
`__init__` files are passed over and unused names are bound to stand-ins that import the real thing when they are called.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from f5_worker.stand_ins import StandIn, standing_in

# Bound by upstream at import and never called by synthesis, except pypinyin for Chinese text. einops._torch_specific registers
# einops with torch.compile, which is not used here, and pulls torch._dynamo for it: 1.3 s.
_DEFERRED = ("einops._torch_specific", "einx", "encodec", "librosa", "librosa.filters", "pypinyin", "scipy", "scipy.integrate")
# Packages whose __init__ is not run.
_BARE = ("f5_tts.model", "vocos")

_lock = threading.Lock()
_loaded: Upstream | None = None


@dataclass(frozen=True)
class Upstream:
    """Upstream's own classes and functions, unchanged."""

    CFM: Any
    DiT: Any
    VocosBackbone: Any
    ISTFTHead: Any
    convert_char_to_pinyin: Any
    get_tokenizer: Any


def load() -> Upstream:
    """Import once; later calls return the same object. Safe from any thread.

    Another thread that imports one of the deferred packages for the first time while this runs gets a stand-in, which works but costs
    a lookup per call.
    """
    global _loaded  # noqa: PLW0603 - imported modules are global state anyway
    with _lock:
        if _loaded is None:
            bare = {name: _bare_package(name) for name in _BARE if name not in sys.modules}
            with standing_in({name: StandIn(name) for name in _DEFERRED} | bare):
                _loaded = _import()
        return _loaded


def _import() -> Upstream:
    # einops sets up its torch backend at the first tensor it sees; seen here, that is without torch._dynamo.
    importlib.import_module("einops").rearrange(importlib.import_module("torch").zeros(1), "n -> n")
    utils = importlib.import_module("f5_tts.model.utils")
    return Upstream(
        CFM=importlib.import_module("f5_tts.model.cfm").CFM,
        DiT=importlib.import_module("f5_tts.model.backbones.dit").DiT,
        VocosBackbone=importlib.import_module("vocos.models").VocosBackbone,
        ISTFTHead=importlib.import_module("vocos.heads").ISTFTHead,
        convert_char_to_pinyin=utils.convert_char_to_pinyin,
        get_tokenizer=utils.get_tokenizer,
    )


def _bare_package(name: str) -> ModuleType:
    """A package that finds its submodules but has not run its `__init__`."""
    parent, _, child = name.rpartition(".")
    # find_spec of a dotted name would import the parent; f5_tts itself is a namespace package without code.
    spec = importlib.util.find_spec(parent or name)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{name} is not installed", name=name)
    package = ModuleType(name)
    package.__path__ = [f"{where}/{child}" if parent else where for where in spec.submodule_search_locations]
    return package
