"""Between: the way from one event to another where both are noise."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gendiff.shapes import per_event

#: How one goes from one event to another where they are noise.
Along = Literal["spherical", "variance", "linear"]


def between(ends: Tensor, n: int, along: Along = "spherical") -> Tensor:
    """``n`` points from the first to the second of ``ends``, ``(2, *any) -> (n, *any)``, both among them where n > 1."""
    one, other = ends[:1], ends[1:]
    t = per_event(torch.linspace(0, 1, n, dtype=ends.dtype, device=ends.device), ends.ndim - 1)
    if along == "linear":
        return (1 - t) * one + t * other
    angle = torch.tensor(torch.pi / 2, dtype=ends.dtype)
    if along == "spherical":
        angle = torch.acos(((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-30)).clamp(-1, 1))
    sine = torch.sin(angle)
    if float(sine) < 1e-4:  # they lie in one line
        return (1 - t) * one + t * other
    return (torch.sin((1 - t) * angle) * one + torch.sin(t * angle) * other) / sine
