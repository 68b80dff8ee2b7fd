"""Gaussian: the optimal model of Gaussian data, in closed form: diagonal in the rotation of the process, or not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.errors import ArgumentError
from gendiff.score import Pivot, ScoreModel
from gendiff.shapes import EventShape, check_kind, check_values


class GaussianScore(ScoreModel):
    r"""The optimal model of Gaussian data ``x̄_0 ~ N(m, diag c)``, diagonal in the rotation of the process.

    ``x̂_0 = m + (a c / v)(x̄ - a m)`` and ``ε̂ = (s / v)(x̄ - a m)`` with ``v = a² c + s²``.

    Args:
        mean, variance: m and c >= 0, finite, broadcasting to the event.

    Raises:
        ArgumentError: where one of these is not that.

    """

    def __init__(self, diffusion: Diffusion, mean: Tensor, variance: Tensor) -> None:
        check_kind(diffusion, Diffusion, "diffusion")
        for name, value in (("mean", mean), ("variance", variance)):
            check_kind(value, Tensor, name)
            check_values(value, name)
            if not _spreads(value.shape, diffusion.event_shape):
                raise ArgumentError(
                    f"{name} has the shape {tuple(value.shape)}", details=[f"events have {diffusion.event_shape}"]
                )
            if not value.isfinite().all():
                raise ArgumentError(f"{name} is not finite")
        if (variance < 0).any():
            raise ArgumentError("variance is below 0")
        self.diffusion = diffusion
        self.mean = mean
        self.variance = variance

    def __repr__(self) -> str:
        return f"GaussianScore({self.diffusion})"

    def predict(self, x_bar: Tensor, i: float | Tensor) -> Pivot:
        at = self.diffusion.asked(x_bar, i)
        m, c = self.mean.to(x_bar), self.variance.to(x_bar)
        residual = (x_bar - at.a * m) / (at.a**2 * c + at.s**2)
        return Pivot(x_0=m + at.a * c * residual, eps=at.s * residual)


class DenseGaussianScore(ScoreModel):
    r"""The optimal model of Gaussian data ``x̄_0 ~ N(m, C)`` with any covariance, for events of few components.

    ``x̂_0 = m + C a V^{-1} (x̄ - a m)`` and ``ε̂ = s V^{-1} (x̄ - a m)`` with ``V = a C a + s²``, a and s being diagonal.

    Args:
        mean: m, in the shape of the event.
        covariance: C, ``(d, d)`` in the order of ``x̄.flatten()``; d is the number of components.

    Raises:
        ArgumentError: where one of these is not that.

    """

    def __init__(self, diffusion: Diffusion, mean: Tensor, covariance: Tensor) -> None:
        check_kind(diffusion, Diffusion, "diffusion")
        d = math.prod(diffusion.event_shape)
        for name, value, shape in (("mean", mean, diffusion.event_shape), ("covariance", covariance, (d, d))):
            check_kind(value, Tensor, name)
            check_values(value, name)
            if tuple(value.shape) != tuple(shape):
                raise ArgumentError(f"{name} has the shape {tuple(value.shape)}", details=[f"expected: {tuple(shape)}"])
        self.diffusion = diffusion
        self.mean = mean.double()
        self.covariance = covariance.double()

    def __repr__(self) -> str:
        return f"DenseGaussianScore({self.diffusion})"

    def predict(self, x_bar: Tensor, i: float | Tensor) -> Pivot:
        at, shape = self.diffusion.asked(x_bar, i), self.diffusion.event_shape
        count = len(at.i)
        a, s = (
            torch.broadcast_to(log.exp().reshape(count, *log.shape[-len(shape) :]), (count, *shape)).flatten(1)
            for log in (at.log_a, at.log_s)
        )
        m, C = self.mean.to(x_bar.device).flatten(), self.covariance.to(x_bar.device)
        V = a[:, :, None] * C * a[:, None] + torch.diag_embed(s**2)
        inverse = torch.linalg.inv(V)
        residual = (inverse @ (x_bar.double().flatten(1) - a * m)[..., None])[..., 0]
        x_0, eps = m + (a * residual) @ C, s * residual
        return Pivot(*(value.to(x_bar.dtype).reshape(x_bar.shape) for value in (x_0, eps)))


def _spreads(shape: Sequence[int], event_shape: EventShape) -> bool:
    """Whether a tensor of that shape broadcasts to the event, and not beyond."""
    return len(shape) <= len(event_shape) and all(
        own in (1, size) for own, size in zip(reversed(shape), reversed(event_shape), strict=False)
    )
