"""Colours of noise that is added up from coarser noise."""

from __future__ import annotations

import itertools

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from gendiff.colour import Colour
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape, spatial


class Pyramid(Colour):
    """multi-resolution noise: white noise of every size, made larger and added.

    Level l is white noise on ``max(1, floor(n/ratio^l))`` samples of each axis, made n again by P_l, linear interpolation between
    the centres of its samples (``align_corners=False``), and weighed by ``discount^l``; the last level is the first with one
    sample on an axis. Its covariance is ``Σ_l discount^(2l) P_l P_l^T``, and S_k is what component k has of it, the diagonal

        S_k = Σ_l discount^(2l) |P_l^T u_k|² .

    What components have in common beside the diagonal is left out: enlarged noise is not stationary but repeats with the
    period of its samples. In ``hartley`` S is so that of its stationary approximation, the mean over all shifts; in ``dct`` it is
    the best that is diagonal there. The published code draws the ratio of each level from 2..4, divides
    the size of the level before by ratio^l, so that levels shrink ever faster, and takes level 0 twice.

    Reference: Whitaker 2023, Multi-Resolution Noise for Diffusion Model Training (Weights & Biases report).
    """

    name = "pyramid"

    discount: float = Field(0.9, gt=0, le=10, description="weight of each level over the one before")
    ratio: float = Field(2.0, ge=1.25, le=16, description="how much coarser each level is")

    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        sizes, total = spatial(event_shape), torch.zeros((), dtype=torch.float64)
        for level in itertools.count():
            coarser = self.ratio**level

            def covariance(n: int, coarser: float = coarser) -> Tensor:
                return enlarged(n, max(1, int(n / coarser)))

            total = total + self.discount ** (2 * level) * rotation.axis_energies(event_shape, covariance)
            if min(sizes) < 2 * coarser:
                break
        return total


class Offset(Colour):
    """white noise, and one number added to a whole channel.

    ``ε + strength z`` with z ~ N(0, 1) for each channel: covariance ``I + strength² 1 1^T``, which is diagonal in ``dct`` and
    ``hartley``, ``S = 1 + strength² n`` for the constant component of n samples and 1 for the others. So the brightness of a
    picture drowns with the rest.

    Reference: Guttenberg 2023, Diffusion with Offset Noise (CrossLabs blog).
    """

    name = "offset"

    strength: float = Field(0.1, ge=0, le=100, description="std of the number that a channel shares")

    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        shared = rotation.axis_energies(event_shape, lambda n: torch.ones(n, n, dtype=torch.float64))
        return 1 + self.strength**2 * shared.clamp_min(0)


def enlarged(n: int, m: int) -> Tensor:
    """``P P^T``, ``(n, n)``: the covariance of white noise on m samples, interpolated to n."""
    P = interpolate(torch.eye(m, dtype=torch.float64)[None], size=n, mode="linear", align_corners=False)[0]
    return P.T @ P
