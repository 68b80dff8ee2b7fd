"""A plain network for small events."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from gendiff.clock import Clock
from gendiff.condition import Conditions, Given
from gendiff.shapes import EventShape
from gendiff_plugins.models.embedding import (
    ConditionEmbedding,
    StepEmbedding,
    Timed,
    beside,
    check_images,
    with_images,
)


class MLP(Timed):
    """residual perceptron over the flattened event, for toy data.

    ``h <- h + W_2 silu((1 + scale) norm(W_1 h) + shift)``, scale and shift from the step; input and output are linear maps.
    """

    name = "mlp"

    width: int = Field(128, ge=2, multiple_of=2, description="hidden units")
    depth: int = Field(3, ge=1, description="residual layers")
    frequency_features: bool = Field(False, description="read U^T x beside x")

    def build(self, event_shape: EventShape) -> nn.Module:
        return self.build_conditional(event_shape, {})

    def build_conditional(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        check_images(self, event_shape, conditions)
        entries = torch.Size(event_shape).numel()
        channels = self.in_channels(event_shape) + beside(conditions)
        return MLPModule(
            entries // event_shape[0] * channels,
            event_shape,
            self.width,
            self.depth,
            conditions,
            self.clock(event_shape),
        )


class MLPModule(nn.Module):
    """The network: ``x (B, in, *spatial), i (B,) -> (B, *event)``; it is told of conditions besides."""

    def __init__(
        self,
        entries: int,
        event_shape: EventShape,
        width: int,
        depth: int,
        conditions: Conditions | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        self.conditions = conditions or {}
        self.event_shape = event_shape
        self.embedding = StepEmbedding(width, 2 * width, clock)
        self.input = nn.Linear(entries, width)
        self.layers = nn.ModuleList([Layer(width) for _ in range(depth)])
        self.output = nn.Linear(width, torch.Size(event_shape).numel())
        if self.conditions:
            self.told = ConditionEmbedding(self.conditions, 2 * width)

    def forward(self, x: Tensor, i: Tensor, condition: Given | None = None) -> Tensor:
        """The prediction, of the shape of an event."""
        embedding = self.embedding(i)
        if condition:
            embedding = embedding + self.told(condition, embedding)
            x = with_images(x, condition, self.conditions)
        h = self.input(x.flatten(1))
        for layer in self.layers:
            h = layer(h, embedding)
        output: Tensor = self.output(h)
        return output.reshape(-1, *self.event_shape)


class Layer(nn.Module):
    """One residual layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(2 * width, 2 * width)
        self.output = nn.Sequential(nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """``(B, width), (B, 2 width) -> (B, width)``."""
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        residual: Tensor = self.output(self.norm(self.input(h)) * (1 + scale) + shift)
        return h + residual
