"""Network: from a configuration to a denoiser with weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gendiff.config import Config
from gendiff.errors import DataError
from gendiff.score import Denoiser
from gendiff.streams import stream


def build_denoiser(config: Config, device: torch.device) -> Denoiser:
    """A freshly initialised network for this run's events; weights follow from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(config.train.seed, "weights").initial_seed())
        network = config.model.build(config.data.event_shape)
    return Denoiser(network, config.diffusion(), config.model.frequency_features).to(device)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load tensors by name; raises `DataError` where names or shapes differ."""
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise DataError(
            "the checkpoint belongs to another network",
            details=str(error).splitlines()[1:4],
            fix="was config.toml edited?",
        ) from error
