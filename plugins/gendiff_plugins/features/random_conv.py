"""A network without any training."""

from __future__ import annotations

from functools import lru_cache

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, conv3d, interpolate

from gendiff.errors import ConfigError
from gendiff.features import Features, exact_network
from gendiff.streams import stream

GRID = 2  # positions per axis at which the responses are read
CONVOLUTIONS = {1: conv1d, 2: conv2d, 3: conv3d}


class RandomConv(Features):
    """what a random convolutional network sees.

    Each of ``depth`` layers is a convolution of side 3 (zeros beyond the border), ``max(., 0)``, and an average that halves every
    axis; before that its responses are read as averages over the 2 parts of every axis: depth x width x 2^axes numbers, 384 for
    pictures. Weights are N(0, 2/inputs), biases N(0, 1/16), drawn from streams keyed by the seed and the layer. Nothing is
    normalised. It needs no file, and takes pictures, signals and volumes of any size and channels.

    Reference: Naeem et al. 2020, arXiv 2002.09797 (random embeddings, for pictures unlike ImageNet).
    """

    name = "random-conv"

    width: int = Field(32, ge=1, le=4096, description="filters of each layer")
    depth: int = Field(3, ge=1, le=12, description="layers")
    seed: int = Field(0, ge=0, description="another seed is another network")

    def extract(self, events: Tensor) -> Tensor:
        axes = events.ndim - 2
        if axes not in CONVOLUTIONS:
            raise ConfigError(f"features 'random-conv' cannot take events of {axes} axes", fix="use pixels")
        x, pools = events.float(), []
        with exact_network(x.device):
            for weight, bias in _layers(self, x.shape[1], axes, x.device):
                x = CONVOLUTIONS[axes](x, weight, bias, padding=1).relu()
                pools.append(interpolate(x, size=[GRID] * axes, mode="area").flatten(1))
                x = interpolate(x, size=[-(-n // 2) for n in x.shape[2:]], mode="area")
        return torch.cat(pools, 1)

    @property
    def fingerprint(self) -> str:
        return f"random-conv/1 width={self.width} depth={self.depth} seed={self.seed}"


@lru_cache(maxsize=8)
def _layers(features: RandomConv, channels: int, axes: int, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    """Weight and bias of each layer."""
    layers = []
    with torch.inference_mode(False):
        for layer in range(features.depth):
            generator = stream(features.seed, features.name, layer)
            inputs = channels if layer == 0 else features.width
            weight = torch.randn(features.width, inputs, *[3] * axes, generator=generator)
            bias = torch.randn(features.width, generator=generator) / 4
            layers.append(((weight * (2 / weight[0].numel()) ** 0.5).to(device), bias.to(device)))
    return tuple(layers)
