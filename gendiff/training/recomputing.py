"""Recomputing: activations that are computed a second time, when the gradient needs them, instead of being kept.

Of each stage of a network its input is kept and nothing else; its gradient is that of the same numbers, drawn with the same
randomness (Chen, Xu, Zhang, Guestrin 2016, Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from gendiff.errors import ConfigError
from gendiff.model import Model


class Recomputing:
    """Has the stages of a network compute their activations anew for the gradient.

    Attributes:
        random: whether they draw random numbers, which then are drawn a second time; reading the generator of a GPU for that is
            what no recording allows.

    Raises `ConfigError` where a network has no stages, or some that would count a batch twice.
    """

    def __init__(self, model: Model, network: nn.Module) -> None:
        stages = model.stages_of(network)
        _refuse(model, stages)
        self.random = True
        for stage in stages:
            stage.forward = partial(self._forward, stage.forward)

    @contextmanager
    def watching(self, device: torch.device) -> Iterator[None]:
        """See in the block, in which a step is taken, whether the network draws random numbers at all."""
        before = _generator(device)
        yield
        self.random = not torch.equal(_generator(device), before)

    def _forward(self, forward: Callable[..., Any], *arguments: Any) -> Any:
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=self.random)


def _generator(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _refuse(model: Model, stages: Sequence[nn.Module]) -> None:
    counting = [part for stage in stages for part in stage.modules() if isinstance(part, _BatchNorm)]
    if not stages:
        what = f"model '{model.name}' has no stages that could be computed a second time"
        details = ["stages are what the ModuleLists of a network hold, or what stages_of(network) of the model says"]
    elif any(part.track_running_stats for part in counting):
        what = f"the stages of model '{model.name}' cannot be computed a second time"
        details = [f"{type(counting[0]).__name__} keeps running means, and would count each batch twice"]
    else:
        return
    raise ConfigError(what, details=details, fix="leave out train.recompute", subject="train.recompute")
