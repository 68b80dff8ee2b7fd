"""Gaussian: the optimal model of Gaussian data, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

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


def _spreads(shape: Sequence[int], event_shape: EventShape) -> bool:
    """Whether a tensor of that shape broadcasts to the event, and not beyond."""
    return len(shape) <= len(event_shape) and all(
        own in (1, size) for own, size in zip(reversed(shape), reversed(event_shape), strict=False)
    )
