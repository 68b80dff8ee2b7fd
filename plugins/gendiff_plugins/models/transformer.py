r"""Transformers on patches: DiT (Peebles, Xie 2023, arXiv 2212.09748) and U-ViT (Bao et al. 2023, arXiv 2209.12152).

An event is cut into patches, each a token; or its DCT is, and a token is a square of neighbouring frequencies. A token knows
its place along each axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from gendiff.component import abstractmethod
from gendiff.condition import Conditions, Given
from gendiff.dct import apply_per_axis, dct, dct_matrix
from gendiff.errors import ConfigError
from gendiff.precision import full_precision
from gendiff.shapes import EventShape
from gendiff_plugins.models.embedding import (
    ConditionEmbedding,
    StepEmbedding,
    Timed,
    beside,
    check_images,
    pairs,
    sinusoids,
    with_images,
)
from gendiff_plugins.models.unet import zero

SINUSOIDS = 256  # of the embedding of the step


class Transformer(Timed):
    """What both have in common; they differ in their blocks."""

    #: Width, depth and heads of each size.
    sizes: ClassVar[Mapping[str, tuple[int, int, int]]]

    patch: int = Field(2, ge=1, description="side of a patch")
    tokens: Literal["pixels", "coefficients"] = Field(
        "pixels",
        description="what a token is: a patch of the event, or a square of neighbouring coefficients of its DCT",
    )
    width: int | None = Field(None, ge=4, multiple_of=4, description="of a token; left out, that of the size")
    depth: int | None = Field(None, ge=1, description="blocks; left out, as many as the size has")
    heads: int | None = Field(None, ge=1, description="attention heads; left out, as many as the size has")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout after attention and in the MLP of a block")
    frequency_features: bool = Field(False, description="read U^T x beside x")

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Width, depth and heads."""
        size = self.sizes[getattr(self, "size")]  # noqa: B009 - a field of each of the two, with names of its own
        own = (self.width, self.depth, self.heads)
        width, depth, heads = (one or of_size for one, of_size in zip(own, size, strict=True))
        return width, depth, heads

    def build(self, event_shape: EventShape) -> nn.Module:
        return self.build_conditional(event_shape, {})

    def build_conditional(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        check_images(self, event_shape, conditions)
        width, _, heads = self.dimensions
        if width % heads:
            raise ConfigError(
                f"model '{self.name}': a width of {width} cannot be split over {heads} heads",
                fix=f"choose heads from {[k for k in range(1, 33) if width % k == 0]}",
                subject="model.heads",
            )
        for n in event_shape[1:]:
            if n % self.patch:
                fitting = [p for p in range(1, n + 1) if all(m % p == 0 for m in event_shape[1:])]
                raise ConfigError(
                    f"model '{self.name}' cuts events into patches of {self.patch}, and {n} is no multiple of it",
                    details=[f"patches that fit: {', '.join(map(str, fitting))}"],
                    fix="change the size of the data, or --set model.patch",
                    subject="model.patch",
                )
        if len(event_shape) < 2:
            raise ConfigError(
                f"model '{self.name}' reads events with axes to cut along, not of shape {event_shape}",
                fix="use --model mlp",
                subject="model.name",
            )
        return self._network(event_shape, conditions)

    @abstractmethod
    def _network(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        """The network, for events that fit."""


class DiT(Transformer):
    """diffusion transformer with adaptive layer norm.

    Step and conditions set scale, shift and gate of each block (adaLN-zero): at first each is the identity, and the output 0.
    ``dit:size=S``, ``B``, ``L`` and ``XL`` are the published sizes: 33, 130, 458 and 675 million parameters at patch 2.

    Reference: Peebles, Xie 2023, Scalable Diffusion Models with Transformers, arXiv 2212.09748.
    """

    name = "dit"

    sizes: ClassVar[Mapping[str, tuple[int, int, int]]] = {
        "tiny": (128, 4, 4),
        "S": (384, 12, 6),
        "B": (768, 12, 12),
        "L": (1024, 24, 16),
        "XL": (1152, 28, 16),
    }
    size: Literal["tiny", "S", "B", "L", "XL"] = Field("tiny", description="a published size, or one for a CPU")

    def _network(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        return DiTModule(self, self.in_channels(event_shape), event_shape, conditions)


class UViT(Transformer):
    """transformer with long skips, in which the step is a token.

    The first half of the blocks hands what it has to the second half, the first to the last. ``uvit:size=S``, ``M``, ``L`` and
    ``H`` are the published sizes: 44, 131, 287 and 501 million parameters.

    Reference: Bao, Nie, Xue, Cao, Li, Su, Zhu 2023, All are Worth Words: A ViT Backbone for Diffusion Models, arXiv 2209.12152.
    """

    name = "uvit"

    sizes: ClassVar[Mapping[str, tuple[int, int, int]]] = {
        "tiny": (128, 5, 4),
        "S": (512, 13, 8),
        "M": (768, 17, 12),
        "L": (1024, 21, 16),
        "H": (1152, 29, 16),
    }
    size: Literal["tiny", "S", "M", "L", "H"] = Field("tiny", description="a published size, or one for a CPU")

    def _network(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        depth = self.dimensions[1]
        if depth % 2 == 0:
            raise ConfigError(
                f"model 'uvit' has {depth} blocks, and one of them stands in the middle",
                fix=f"choose an odd number, such as {depth + 1}",
                subject="model.depth",
            )
        return UViTModule(self, self.in_channels(event_shape), event_shape, conditions)


class Patches(nn.Module):
    """Events as tokens and back: ``(B, C, *spatial) <-> (B, patches, C patch^dims)``."""

    def __init__(self, patch: int, spatial: Sequence[int], coefficients: bool) -> None:
        super().__init__()
        self.patch, self.coefficients = patch, coefficients
        self.counts = [n // patch for n in spatial]
        axes = range(len(spatial))
        grid, inside = " ".join(f"n{k}" for k in axes), " ".join(f"p{k}" for k in axes)
        event = " ".join(f"(n{k} p{k})" for k in axes)
        self.pattern = (f"b c {event}", f"b ({grid}) (c {inside})")
        self.lengths = {f"n{k}": n for k, n in enumerate(self.counts)} | {f"p{k}": patch for k in axes}
        for k, n in enumerate(spatial if coefficients else ()):
            self.register_buffer(f"inverse_{k}", dct_matrix(n).T.float().contiguous(), persistent=False)

    def cut(self, x: Tensor) -> Tensor:
        """The tokens of events."""
        if self.coefficients:
            x = dct(x).to(x.dtype)
        return rearrange(x, f"{self.pattern[0]} -> {self.pattern[1]}", **self.lengths)

    def joined(self, tokens: Tensor) -> Tensor:
        """The events of tokens."""
        x = rearrange(tokens, f"{self.pattern[1]} -> {self.pattern[0]}", **self.lengths)
        if not self.coefficients:
            return x
        matrices = [getattr(self, f"inverse_{k}") for k in range(len(self.counts))]
        with full_precision(x.device), torch.autocast(x.device.type, enabled=False):
            return apply_per_axis(x.float(), matrices)


def places(counts: Sequence[int], width: int) -> Tensor:
    """``(patches, width)``: of each axis an equal share, sines and cosines of the position at falling frequencies."""
    share = width // len(counts) // 2
    omega = torch.exp(-math.log(1e4) * torch.arange(share, dtype=torch.float64) / share)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in counts), indexing="ij")
    angles = [axis.flatten()[:, None] * omega for axis in axes]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return functional.pad(table, (0, width - table.shape[1])).float()


class Attention(nn.Module):
    """``proj(softmax(q k^T / sqrt(d)) v)`` over all tokens."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, tokens, width)``, the same shape out."""
        q, k, v = rearrange(self.qkv(x), "b n (three heads c) -> three b heads n c", three=3, heads=self.heads)
        values = functional.scaled_dot_product_attention(q, k, v)
        output: Tensor = self.projection(rearrange(values, "b heads n c -> b n (heads c)"))
        return output


def mlp(width: int, dropout: float, approximate: str) -> nn.Sequential:
    """Two layers, four times as wide between them."""
    return nn.Sequential(
        nn.Linear(width, 4 * width),
        nn.GELU(approximate=approximate),
        nn.Dropout(dropout),
        nn.Linear(4 * width, width),
        nn.Dropout(dropout),
    )


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``(1 + scale) x + shift``, of each event its own."""
    return x * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    """Attention and an MLP, each behind a norm, a scale, a shift and a gate that step and conditions set."""

    def __init__(self, config: DiT) -> None:
        super().__init__()
        width, _, heads = config.dimensions
        self.modulation = nn.Sequential(nn.SiLU(), zero(nn.Linear(width, 6 * width)))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads, bias=True)
        self.dropout = nn.Dropout(config.dropout)
        self.mlp = mlp(width, config.dropout, "tanh")

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``(B, tokens, width), (B, width) -> (B, tokens, width)``."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(embedding).chunk(6, dim=1)
        x = x + gate[:, None] * self.dropout(self.attention(modulated(self.norm(x), shift, scale)))
        output: Tensor = x + mlp_gate[:, None] * self.mlp(modulated(self.norm(x), mlp_shift, mlp_scale))
        return output


class DiTModule(nn.Module):
    """The network: ``x (B, in, *spatial), i (B,) -> (B, *event)``; it is told of conditions besides."""

    def __init__(
        self,
        config: DiT,
        in_channels: int,
        event_shape: EventShape,
        conditions: Conditions,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        (width, depth, _), spatial = config.dimensions, event_shape[1:]
        volume = config.patch ** len(spatial)
        self.conditions = conditions
        self.patches = Patches(config.patch, spatial, config.tokens == "coefficients")
        self.input = nn.Linear((in_channels + beside(conditions)) * volume, width)
        self.register_buffer("places", places(self.patches.counts, width), persistent=False)
        self.embedding = StepEmbedding(SINUSOIDS, width, config.clock(event_shape))
        self.blocks = nn.ModuleList([DiTBlock(config) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), zero(nn.Linear(width, 2 * width)))
        self.output = zero(nn.Linear(width, (out_channels or event_shape[0]) * volume))
        if conditions:
            self.told = ConditionEmbedding(conditions, width)

    def forward(self, x: Tensor, i: Tensor, condition: Given | None = None) -> Tensor:
        """The prediction, of the shape of an event."""
        embedding = self.embedding(i)
        if condition:
            embedding = embedding + self.told(condition, embedding)
            x = with_images(x, condition, self.conditions)
        tokens = self.input(self.patches.cut(x)) + self.places
        for block in self.blocks:
            tokens = block(tokens, embedding)
        shift, scale = self.modulation(embedding).chunk(2, dim=1)
        return self.patches.joined(self.output(modulated(self.norm(tokens), shift, scale)))


class UViTBlock(nn.Module):
    """Attention and an MLP, each behind a norm; one of the second half reads what its counterpart of the first had beside x."""

    def __init__(self, config: UViT, skips: bool) -> None:
        super().__init__()
        width, _, heads = config.dimensions
        self.skip = nn.Linear(2 * width, width) if skips else None
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.mlp = mlp(width, config.dropout, "none")

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """``(B, tokens, width)``, the same shape out."""
        if self.skip is not None and skip is not None:
            x = self.skip(torch.cat([x, skip], dim=-1))
        x = x + self.dropout(self.attention(self.norm(x)))
        output: Tensor = x + self.mlp(self.mlp_norm(x))
        return output


class UViTModule(nn.Module):
    """The network: ``x (B, in, *spatial), i (B,) -> (B, *event)``; it is told of conditions besides."""

    def __init__(self, config: UViT, in_channels: int, event_shape: EventShape, conditions: Conditions) -> None:
        super().__init__()
        (width, depth, _), spatial = config.dimensions, event_shape[1:]
        volume = config.patch ** len(spatial)
        self.conditions = conditions
        self.patches = Patches(config.patch, spatial, config.tokens == "coefficients")
        self.input = nn.Linear((in_channels + beside(conditions)) * volume, width)
        self.clock = config.clock(event_shape)
        self.pairs = pairs(width, self.clock)
        self.extras = 1 + bool(conditions)
        count = self.extras + math.prod(self.patches.counts)
        self.places = nn.Parameter(0.02 * torch.randn(count, width))
        half = depth // 2
        self.encoder = nn.ModuleList([UViTBlock(config, skips=False) for _ in range(half)])
        self.middle = nn.ModuleList([UViTBlock(config, skips=False)])
        self.decoder = nn.ModuleList([UViTBlock(config, skips=True) for _ in range(half)])
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, event_shape[0] * volume)
        smoothing = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(spatial)]
        self.smoothing = smoothing(event_shape[0], event_shape[0], 3, padding=1)
        if conditions:
            self.told = ConditionEmbedding(conditions, width)
        # The sinusoids of one number are a token as they are; of those of bands a layer makes one.
        self.reading = nn.Linear(2 * self.pairs * self.clock.count, width) if config.time == "bands" else None

    def forward(self, x: Tensor, i: Tensor, condition: Given | None = None) -> Tensor:
        """The prediction, of the shape of an event."""
        embedding = sinusoids(self.clock(i), self.pairs)
        if self.reading is not None:
            with torch.autocast(i.device.type, enabled=False):
                embedding = self.reading(embedding)
        extras = [embedding]
        if condition:
            extras.append(self.told(condition, embedding))
            x = with_images(x, condition, self.conditions)
        tokens = torch.cat([torch.stack(extras, dim=1), self.input(self.patches.cut(x))], dim=1) + self.places
        skips = []
        for block in self.encoder:
            tokens = block(tokens)
            skips.append(tokens)
        for block in self.middle:
            tokens = block(tokens)
        for block in self.decoder:
            tokens = block(tokens, skips.pop())
        output: Tensor = self.smoothing(self.patches.joined(self.output(self.norm(tokens))[:, self.extras :]))
        return output
