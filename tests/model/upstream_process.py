"""Runs upstream's unmodified load_model, load_vocoder and infer_process in a process of its own and saves what they give.

Packages that upstream imports for training and plots and that are not installed here are replaced by empty modules, in this process only;
so is transformers, which transcribes what is never transcribed here and trips over the empty modules.

Argument: a JSON object with checkpoint, vocab, vocoder, arch, dtype, out
and runs (wav, ref_text, gen_text, seed, nfe_step, speed).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType

TOP_LEVEL = ("accelerate", "datasets", "ema_pytorch", "encodec", "librosa", "matplotlib", "pydub", "transformers", "wandb")
SUBMODULES = ("accelerate.utils", "librosa.filters", "matplotlib.pylab")


class _Empty(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


def import_upstream() -> ModuleType:
    absent = {name for name in TOP_LEVEL if name == "transformers" or importlib.util.find_spec(name) is None}
    absent |= {name for name in SUBMODULES if name.split(".", maxsplit=1)[0] in absent}
    sys.modules.update({name: _Empty(name) for name in absent})
    if "matplotlib" in absent:
        sys.modules["matplotlib"].use = lambda backend: None
    from f5_tts.infer import utils_infer

    return utils_infer


def main(job: dict) -> None:
    utils_infer = import_upstream()
    import numpy as np
    import torch
    from f5_tts.model import DiT

    model = utils_infer.load_model(DiT, job["arch"], job["checkpoint"], vocab_file=job["vocab"], device="cpu")
    model = model.to(getattr(torch, job["dtype"]))
    vocoder = utils_infer.load_vocoder(is_local=True, local_path=job["vocoder"], device="cpu")
    state = {f"model.{key}": value for key, value in [*model.state_dict().items(), *model.named_buffers()]}
    state |= {f"vocoder.{key}": value for key, value in vocoder.state_dict().items()}
    found = {key: value.float().numpy() for key, value in state.items()}
    for index, run in enumerate(job["runs"]):
        torch.manual_seed(run["seed"])
        wave, _, mel = utils_infer.infer_process(
            run["wav"], run["ref_text"], run["gen_text"], model, vocoder, nfe_step=run["nfe_step"], speed=run["speed"], progress=None,
            show_info=lambda *_: None, device="cpu",
        )  # fmt: skip
        found |= {f"wave{index}": wave, f"mel{index}": mel}
    np.savez(job["out"], **found)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
