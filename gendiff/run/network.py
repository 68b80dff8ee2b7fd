"""Network: from a configuration to a denoiser with weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gendiff.denoiser import Denoiser, NetworkScore
from gendiff.diffusion import Diffusion
from gendiff.errors import DataError
from gendiff.machine import arithmetic
from gendiff.run.config import Config
from gendiff.streams import stream

SHOWN = 5  # tensors named in one message


def build_network(config: Config) -> nn.Module:
    """A freshly initialised network for this run's events; weights follow from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(config.train.seed, "weights").initial_seed())
        network: nn.Module = config.model.build_conditional(config.data.event_shape, config.conditions)
    return network


def build_denoiser(config: Config, device: torch.device) -> Denoiser:
    """That network, with the process of the run."""
    network, diffusion = build_network(config), config.diffusion()
    config.model.attach(network, diffusion)
    return Denoiser(network, diffusion, config.model.frequency_features).to(device)


def score_of(network: nn.Module, diffusion: Diffusion, config: Config) -> NetworkScore:
    """The network of a run as a score model; it is told of nothing yet."""
    return NetworkScore(
        network, diffusion, config.objective.parametrization, config.data.value_range, config.conditions
    )


def hasten(denoiser: Denoiser, precision: str = "fp32", compiled: bool = False) -> None:
    """Let a network that is sampled from compute in a lower precision (``auto``, ``fp32``, ``bf16``), or compiled: the first call
    then takes minutes.
    """
    device = next(denoiser.parameters()).device
    denoiser.autocast = arithmetic.autocast(precision, device)
    if arithmetic.is_slow(precision, device):
        warnings.warn(arithmetic.SLOW, stacklevel=2)
    if compiled:
        denoiser.channels_last = device.type == "cuda"
        if denoiser.channels_last:
            denoiser.network.to(memory_format=torch.channels_last)
        denoiser.network = torch.compile(denoiser.network)  # type: ignore[assignment]  # still a module


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], where: str = "") -> None:
    """Load tensors by name; raises `DataError` where names, shapes or kinds of number differ; ``where`` they are from."""
    check_weights(network.state_dict(), weights, where)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:  # of a network that loads its own state
        raise _of_another(str(error).splitlines()[1:4], where) from error


def check_weights(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: str = "") -> None:
    """Raise `DataError` where ``weights`` cannot take the place of those that a network has.

    A floating point number may be of any width, and stands for nothing else; what else a network keeps, such as a count of
    batches, is of its own type.
    """
    flaws = [f"missing: '{name}'" for name in own.keys() - weights.keys()]
    flaws += [f"not of this network: '{name}'" for name in weights.keys() - own.keys()]
    for name in sorted(own.keys() & weights.keys()):
        mine, theirs = own[name], weights[name]
        if mine.shape != theirs.shape:
            flaws.append(f"'{name}' is of shape {tuple(theirs.shape)}, not {tuple(mine.shape)}")
        if mine.dtype != theirs.dtype and not (mine.is_floating_point() and theirs.is_floating_point()):
            flaws.append(f"'{name}' holds {theirs.numel():,} values of {_type(theirs)}, not of {_type(mine)}")
    if flaws:
        raise _of_another(sorted(flaws), where)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _of_another(flaws: Sequence[str], where: str) -> DataError:
    more = [f"and {len(flaws) - SHOWN} more"] if len(flaws) > SHOWN else []
    return DataError(
        "the checkpoint belongs to another network",
        where=where,
        details=[*flaws[:SHOWN], *more],
        fix="was config.toml edited, or the checkpoint replaced? bring back what belongs together",
    )
