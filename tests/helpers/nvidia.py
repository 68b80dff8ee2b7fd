"""Network pickles in the form in which NVIDIA writes them, of small networks."""

from __future__ import annotations

import io
import pickle
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from gendiff_plugins.models import song_unet
from gendiff_plugins.models.edm import Preconditioned, _network
from torch import nn

SOURCE = "raise SystemExit('the text of a class in the file was run')\n"
TINY: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 3,
    "model_type": "SongUNet",
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
NCSN = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
PERSISTENT = (
    song_unet.SongUNet,
    song_unet.DhariwalUNet,
    song_unet.UNetBlock,
    song_unet.Linear,
    song_unet.Conv2d,
    song_unet.GroupNorm,
    song_unet.PositionalEmbedding,
    song_unet.FourierEmbedding,
    Preconditioned,
)


class Other:
    """Any other object of NVIDIA's: the loss, the augmentation."""

    def __init__(self, name: str, made_with: dict[str, Any] | None = None, **state: Any) -> None:
        self.name, self.state, self.made_with = name, state, made_with or {}


def network(seed: int = 0, **arguments: Any) -> Preconditioned:
    """A network with weights that say something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _network({"preconditioning": "EDMPrecond", **TINY, **arguments})
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.03 * torch.randn_like(parameter))
    return made.eval().requires_grad_(False)


def write(path: Path, made: Preconditioned, protocol: int = 4, **arguments: Any) -> Path:
    """The file of a network that was made with these arguments."""
    stream = io.BytesIO()
    content = {
        "ema": made,
        "loss_fn": Other("EDMLoss", P_mean=-1.2, P_std=1.2, sigma_data=0.5),
        "augment_pipe": Other("AugmentPipe", p=0.12, xflip=1e8),
        "dataset_kwargs": {"class_name": "training.dataset.ImageFolderDataset", "use_labels": True, "xflip": False},
    }
    with _persistence() as reconstruct:
        _Pickler(stream, protocol, reconstruct, {**TINY, **arguments}).dump(content)
    path.write_bytes(stream.getvalue())
    return path


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, protocol: int, reconstruct: Any, arguments: dict[str, Any]) -> None:
        super().__init__(stream, protocol)
        self.reconstruct, self.arguments = reconstruct, arguments

    def reducer_override(self, thing: Any) -> Any:
        if not isinstance(thing, (*PERSISTENT, Other)):
            return NotImplemented
        name = thing.name if isinstance(thing, Other) else type(thing).__name__
        state = thing.state if isinstance(thing, Other) else _state(thing)
        named: dict[str, Any] = thing.made_with if isinstance(thing, Other) else {}
        if isinstance(thing, Preconditioned):
            name = thing.outside.preconditioning
            named = {**self.arguments, "use_fp16": False}
        elif isinstance(thing, song_unet.UNetBlock):
            named = {"skip_scale": np.sqrt(0.5), "init": {"init_mode": "xavier_uniform"}}
            state |= {"skip_scale": np.sqrt(0.5)}
        state |= {"_init_args": (), "_init_kwargs": named}
        return self.reconstruct, (
            {"type": "class", "version": 6, "module_src": SOURCE, "class_name": name, "state": state},
        )


def _state(module: nn.Module) -> dict[str, Any]:
    """The state of a module, without what only gendiff keeps in it."""
    state = {key: value for key, value in module.__dict__.items() if key not in ("outside", "kappa", "heads")}
    own = module._non_persistent_buffers_set
    state["_buffers"] = {name: value for name, value in module._buffers.items() if name not in own}
    state["_non_persistent_buffers_set"] = set()
    state["_modules"] = {name: child for name, child in module._modules.items() if not isinstance(child, nn.Dropout)}
    return state


@contextmanager
def _persistence():
    """NVIDIA's module under its name, as pickle looks for what it writes."""
    package, module = ModuleType("torch_utils"), ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("somebody runs what a file says")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = _reconstruct_persistent_obj.__name__
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    package.persistence = module  # type: ignore[attr-defined]
    sys.modules |= {"torch_utils": package, "torch_utils.persistence": module}
    try:
        yield _reconstruct_persistent_obj
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]
