"""Runs upstream's unmodified load_model, load_vocoder and infer_process in a process of its own and saves what they give.

Packages that upstream imports for training, plots and transcription, none of which happens here, are replaced by empty modules, in this
process only, whether they are installed or not: they look for each other.

Argument: a JSON object with checkpoint, vocab, vocoder, arch, dtype, device, out
and runs (wav, ref_text, gen_text, seed, nfe_step, speed).
"""

from __future__ import annotations

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
    sys.modules.update({name: _Empty(name) for name in TOP_LEVEL + SUBMODULES})
    sys.modules["matplotlib"].use = lambda backend: None
    from f5_tts.infer import utils_infer

    return utils_infer


def main(job: dict) -> None:
    utils_infer = import_upstream()
    import numpy as np
    import torch
    from f5_tts.model import DiT

    device = job["device"]
    model = utils_infer.load_model(DiT, job["arch"], job["checkpoint"], vocab_file=job["vocab"], device=device)
    model = model.to(getattr(torch, job["dtype"]))
    vocoder = utils_infer.load_vocoder(is_local=True, local_path=job["vocoder"], device=device)
    state = {f"model.{key}": value for key, value in [*model.state_dict().items(), *model.named_buffers()]}
    state |= {f"vocoder.{key}": value for key, value in vocoder.state_dict().items()}
    found = {key: value.float().cpu().numpy() for key, value in state.items()}
    for index, run in enumerate(job["runs"]):
        torch.manual_seed(run["seed"])
        wave, _, mel = utils_infer.infer_process(
            run["wav"], run["ref_text"], run["gen_text"], model, vocoder, nfe_step=run["nfe_step"], speed=run["speed"], progress=None,
            show_info=lambda *_: None, device=device,
        )  # fmt: skip
        found |= {f"wave{index}": wave, f"mel{index}": mel}
    np.savez(job["out"], **found)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
