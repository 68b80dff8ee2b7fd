"""Recipe: what the settings of a run say of a step: its learning rate, the decay of the averages, the optimiser."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gendiff.errors import PluginError
from gendiff.run.posthoc import Profile
from gendiff.run.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int) -> float:
    """The rate of step 1, 2, ..., a function of the step alone.

    It rises linearly from 0 to ``lr`` over ``warmup`` steps; from there it is constant, or falls to ``lr_end``, which it has in
    the last step: in a straight line, or along half a period of a cosine.
    """
    if step < settings.warmup:
        return settings.lr * (step / settings.warmup)
    if settings.decay == "constant":
        return settings.lr
    done = min(1.0, (step - settings.warmup) / max(settings.steps - settings.warmup, 1))
    left = 1 - done if settings.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return settings.lr_end + (settings.lr - settings.lr_end) * left


def ema_decay(decay: float, step: int) -> float:
    """``min(decay, (1 + step)/(10 + step))``: early averages must not remember the initial weights."""
    return min(decay, (1 + step) / (10 + step))


def decays(settings: TrainSettings, step: int) -> list[float]:
    """What each average keeps of itself in a step, in the order of the settings, those with a profile behind the others."""
    exponential = [ema_decay(decay, step) for decay in settings.averages.values()]
    return [*exponential, *(Profile(width, step).decay() for width in settings.profiles.values())]


def nothing_to_train(why: str) -> PluginError:
    """For a network that no step would change."""
    return PluginError(
        "the network has nothing to train",
        details=[why],
        fix="see that its layers are attributes of the module, and that forward uses them without torch.no_grad()",
        subject="model.name",
    )


def build_optimizer(
    settings: TrainSettings, network: nn.Module, rate: Tensor, capturable: bool
) -> torch.optim.Optimizer:
    """Adam or AdamW over the weights of a network, fused into one kernel; ``rate`` is a scalar on their device.

    AdamW shrinks each matrix and each kernel of a convolution by ``rate * weight_decay`` in a step. Biases, and the scales and
    shifts of norms, which are vectors, stay as they are: they make nothing smoother by being small.

    Raises `PluginError` where the network has no weights.
    """
    parameters = list(network.parameters())
    if not parameters:
        raise nothing_to_train("it has no parameters")
    betas = settings.betas
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, rate, betas=betas, fused=True, capturable=capturable)
    groups = [
        {"params": [weight for weight in parameters if weight.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in parameters if weight.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, rate, betas=betas, fused=True, capturable=capturable)
