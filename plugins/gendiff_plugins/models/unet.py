r"""One U-Net, after Nichol, Dhariwal 2021 (arXiv 2102.09672) and Dhariwal, Nichol 2021 (ADM, arXiv 2105.05233).

    input conv - [block x n, down] per level - middle: block, attention, block - [block x (n+1), up] per level - output conv

Residual blocks are conditioned on the step by a scale and a shift after their second norm. Each decoder block reads the
matching encoder output beside its own input. Whatever ends a branch starts at zero, and so does the output.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from gendiff.clock import Clock
from gendiff.condition import Conditions, Given
from gendiff.errors import ConfigError
from gendiff.shapes import EventShape, spatial
from gendiff_plugins.models.embedding import (
    ConditionEmbedding,
    StepEmbedding,
    Timed,
    beside,
    check_images,
    with_images,
)


class UNet(Timed):
    """ADM-style U-Net for pictures, signals and volumes.

    The defaults are a small network for a CPU. The paper's network (121.06 M parameters at 3x64x64) is
    ``unet:channels=128,multipliers=[1,2,3,4],blocks=3,attention=[4,8],heads=4``, also in the preset ``unet-paper``.

    Reference: Dhariwal, Nichol 2021, Diffusion Models Beat GANs on Image Synthesis, arXiv 2105.05233, Section 3.
    """

    name = "unet"

    channels: int = Field(32, ge=4, multiple_of=4, description="channels of the first level")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 2), min_length=1, description="channels of each level, in units of the first"
    )
    blocks: int = Field(1, ge=1, description="residual blocks per level")
    attention: tuple[PositiveInt, ...] = Field(
        (2,), description="downsampling factors at which attention acts: 4 is 1/4 resolution"
    )
    heads: int = Field(4, ge=1, description="attention heads")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in residual blocks")
    frequency_features: bool = Field(False, description="read U^T x beside x")

    def build(self, event_shape: EventShape) -> nn.Module:
        return self.build_conditional(event_shape, {})

    def build_conditional(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        self._check(event_shape)
        check_images(self, event_shape, conditions)
        dims = len(event_shape) - 1
        return UNetModule(
            self, self.in_channels(event_shape), event_shape[0], dims, conditions, self.clock(event_shape)
        )

    def stages_of(self, network: nn.Module) -> list[nn.Module]:
        return [module for module in network.modules() if isinstance(module, Stage)]

    def _check(self, event_shape: EventShape) -> None:
        if len(event_shape) not in (2, 3, 4):
            raise ConfigError(
                f"model 'unet' does not read events of shape {event_shape}",
                details=["signals (C, L), pictures (C, H, W) and volumes (C, D, H, W)"],
                fix="use --model mlp",
                subject="model.name",
            )
        levels = len(self.multipliers)
        factor = 2 ** (levels - 1)
        for n in spatial(event_shape):
            if n % factor:
                nearest = max(n // factor, 1) * factor
                fitting = math.gcd(n, factor).bit_length()  # n = 2^(fitting - 1) · odd, as far as factor goes
                raise ConfigError(
                    f"model 'unet' with {levels} levels needs sizes divisible by {factor}, not {n}",
                    details=[f"sizes that fit: {nearest} or {nearest + factor}"],
                    fix=f"change the size of the data, or use at most {fitting} of the multipliers",
                    subject="model.multipliers",
                )
        factors = [2**level for level in range(levels)]
        for fraction in self.attention:
            if fraction not in factors:
                raise ConfigError(
                    f"model 'unet': attention at 1/{fraction} resolution, which no level has",
                    details=[f"levels of this network: {', '.join(f'1/{factor}' for factor in factors)}"],
                    fix=f"choose attention from {factors}, or [] for the middle alone",
                    subject="model.attention",
                )
        attending = {self.channels * self.multipliers[factors.index(factor)] for factor in self.attention}
        widths = sorted(attending | {self.channels * self.multipliers[-1]})
        for width in widths:
            if width % self.heads:
                common = math.gcd(*widths)
                raise ConfigError(
                    f"model 'unet': {width} channels cannot be split over {self.heads} attention heads",
                    details=[
                        f"channels where attention acts: {', '.join(map(str, widths))}; the middle always attends"
                    ],
                    fix=f"choose heads from {[heads for heads in range(1, common + 1) if common % heads == 0]}",
                    subject="model.heads",
                )


class UNetModule(nn.Module):
    """The network: ``x (B, in, *spatial), i (B,) -> (B, out, *spatial)``.

    Args:
        dims: number of spatial axes, 1, 2 or 3.
        conditions: what it is told besides.
        clock: what it is told of the step.

    """

    def __init__(
        self,
        config: UNet,
        in_channels: int,
        out_channels: int,
        dims: int,
        conditions: Conditions | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        self.conditions = conditions or {}
        in_channels += beside(self.conditions)
        width = config.channels
        embedding = 4 * width
        self.embedding = StepEmbedding(width, embedding, clock)

        def stage(channels: int, out: int, factor: int) -> Stage:
            attention = Attention(out, config.heads) if factor in config.attention else None
            return Stage(Block(channels, out, embedding, config.dropout, dims), attention)

        self.encoder = nn.ModuleList([conv(dims, in_channels, width, 3)])
        channels, skips = width, [width]
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.blocks):
                self.encoder.append(stage(channels, multiplier * width, 2**level))
                channels = multiplier * width
                skips.append(channels)
            if level < len(config.multipliers) - 1:
                self.encoder.append(conv(dims, channels, channels, 3, stride=2))
                skips.append(channels)
        self.middle = nn.ModuleList(
            [
                Stage(Block(channels, channels, embedding, config.dropout, dims), Attention(channels, config.heads)),
                Stage(Block(channels, channels, embedding, config.dropout, dims), None),
            ]
        )
        self.decoder = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for _ in range(config.blocks + 1):
                self.decoder.append(stage(channels + skips.pop(), multiplier * width, 2**level))
                channels = multiplier * width
            if level > 0:
                self.decoder.append(Upsample(dims, channels))
        self.output = nn.Sequential(Norm(channels), nn.SiLU(), zero(conv(dims, channels, out_channels, 3)))
        # Last, so that the weights of a network without conditions follow from a seed as they always did.
        if self.conditions:
            self.told = ConditionEmbedding(self.conditions, embedding)

    def forward(self, x: Tensor, i: Tensor, condition: Given | None = None) -> Tensor:
        """The prediction, of the shape of an event."""
        embedding = self.embedding(i)
        if condition:
            embedding = embedding + self.told(condition, embedding)
            x = with_images(x, condition, self.conditions)
        skips = []
        for layer in self.encoder:
            x = layer(x, embedding) if isinstance(layer, Stage) else layer(x)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, embedding)
        for layer in self.decoder:
            x = layer(torch.cat([x, skips.pop()], dim=1), embedding) if isinstance(layer, Stage) else layer(x)
        output: Tensor = self.output(x)
        return output


class Stage(nn.Module):
    """A residual block, and attention where the level has it."""

    def __init__(self, block: Block, attention: Attention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``(B, channels, *spatial) -> (B, out, *spatial)``."""
        x = self.block(x, embedding)
        return x if self.attention is None else self.attention(x)


class Block(nn.Module):
    """``skip(x) + conv(silu((1 + scale) norm(h) + shift))``, ``h = conv(silu(norm(x)))``; scale and shift from the step."""

    def __init__(self, channels: int, out: int, embedding: int, dropout: float, dims: int) -> None:
        super().__init__()
        self.input = nn.Sequential(Norm(channels), nn.SiLU(), conv(dims, channels, out, 3))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out))
        self.norm = Norm(out)
        self.output = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), zero(conv(dims, out, out, 3)))
        self.skip = nn.Identity() if channels == out else conv(dims, channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``(B, channels, *spatial), (B, embedding) -> (B, out, *spatial)``."""
        h = self.input(x)
        modulation = self.modulation(embedding).to(h.dtype)
        scale, shift = modulation.reshape(*modulation.shape, *([1] * (h.ndim - 2))).chunk(2, dim=1)
        residual: Tensor = self.output(self.norm(h) * (1 + scale) + shift)
        skip: Tensor = self.skip(x)
        return skip + residual


class Attention(nn.Module):
    """``x + proj(softmax(q k^T / sqrt(d)) v)`` over all positions, in ``heads`` groups of channels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.projection = zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, *spatial)``, the same shape out."""
        flat = self.qkv(rearrange(self.norm(x), "b c ... -> b c (...)"))
        heads = rearrange(flat, "b (three heads c) n -> three b heads n c", three=3, heads=self.heads)
        # Fused kernels want the channels of a head side by side; they refuse the strides that rearrange leaves.
        q, k, v = heads.contiguous()
        values = functional.scaled_dot_product_attention(q, k, v)
        update: Tensor = self.projection(rearrange(values, "b heads n c -> b (heads c) n"))
        return x + update.reshape(x.shape)


class Upsample(nn.Module):
    """Twice the size by repeating, then a convolution."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(dims, channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, *spatial) -> (B, channels, *(2 spatial))``."""
        larger: Tensor = self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))
        return larger


class Norm(nn.GroupNorm):
    """Group norm in float32.

    As many equal groups as the channels allow, but at most 32 and none smaller than 4 channels, as in the paper's network.
    """

    def __init__(self, channels: int) -> None:
        most = min(32, channels // 4)
        super().__init__(max(groups for groups in range(1, most + 1) if channels % groups == 0), channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype."""
        output: Tensor = super().forward(x.float())
        return output.to(x.dtype)


def conv(dims: int, channels: int, out: int, kernel: int, stride: int = 1) -> nn.Module:
    """A convolution over 1, 2 or 3 spatial axes that keeps the size (or halves it, at stride 2)."""
    layer = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return layer(channels, out, kernel, stride=stride, padding=kernel // 2)


def zero(module: nn.Module) -> nn.Module:
    """The module with all parameters zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
