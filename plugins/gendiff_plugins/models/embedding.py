"""The embedding of the step i."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class StepEmbedding(nn.Module):
    """``i -> W_2 silu(W_1 [cos(i ω_k), sin(i ω_k)])`` with ω_k from 1 down to 1e-4, geometrically.

    Reference: Vaswani et al. 2017, Attention Is All You Need, arXiv 1706.03762, Section 3.5.

    Args:
        channels: width of the sinusoids, even.
        out: width of the result.

    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.pairs = channels // 2
        self.layers = nn.Sequential(nn.Linear(2 * self.pairs, out), nn.SiLU(), nn.Linear(out, out))

    def forward(self, i: Tensor) -> Tensor:
        """``(B,) -> (B, out)``, float32 whatever the autocast: bfloat16 cannot tell step 1000 from 999."""
        decay = torch.arange(self.pairs, device=i.device, dtype=torch.float32) / self.pairs
        angles = i.float()[:, None] * torch.exp(-math.log(1e4) * decay)
        with torch.autocast(i.device.type, enabled=False):
            embedding: Tensor = self.layers(torch.cat([angles.cos(), angles.sin()], dim=1))
        return embedding
