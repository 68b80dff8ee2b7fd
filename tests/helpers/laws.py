"""The exact law of what is drawn where all of it is affine: run with every draw zero, and with one number of each at one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gendiff import Diffusion, sample
from gendiff.guide import Guide, Scene, course
from gendiff.operator import Measurement
from gendiff.rotation import Rotation
from gendiff.sampler import Sampler
from gendiff.score import ScoreModel


def law(
    diffusion: Diffusion,
    model: ScoreModel,
    sampler: Sampler,
    guides: Sequence[Guide] = (),
    measurement: Measurement | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean ``(d,)`` and covariance ``(d, d)`` in event space, float64."""
    scene = Scene(diffusion, measurement=measurement)
    way = course(model, sampler, guides, scene)
    d = torch.Size(diffusion.event_shape).numel()
    draws = 1 + sum(update.e is not None for update in way.sampler.plan(way.diffusion))
    number = iter(range(draws))

    def noise() -> Tensor:
        k = next(number)
        z = torch.zeros(1 + draws * d, d, dtype=torch.float64)
        z[1 + k * d : 1 + (k + 1) * d] = torch.eye(d, dtype=torch.float64)
        return z.reshape(-1, *diffusion.event_shape)

    if measurement is not None:
        count = 1 + draws * d
        way = course(model, sampler, guides, Scene(diffusion, measurement=measurement.rows([0] * count)))
    x = sample(way.diffusion, way.model, way.sampler, noise, dtype=torch.float64).flatten(1)
    slope = x[1:] - x[0]
    return x[0], slope.T @ slope


def posterior(diffusion: Diffusion, mean: Tensor, variance: Tensor, measurement: Measurement) -> tuple[Tensor, Tensor]:
    """Mean and covariance in event space of data ``N(m, diag c)`` in the coordinates of the process, given what was measured."""
    shape = diffusion.event_shape
    U = dense(diffusion.rotation, shape)
    c = variance.expand(shape).flatten().double()
    C, m = (U * c) @ U.T, U @ mean.expand(shape).flatten().double()
    A = matrix(measurement, shape)
    of_y = A @ C @ A.T + measurement.sigma**2 * torch.eye(len(A), dtype=torch.float64)
    gain = C @ A.T @ torch.linalg.pinv(of_y, hermitian=True)
    return m + gain @ (measurement.y[0].flatten().double() - A @ m), C - gain @ A @ C


def dense(rotation: Rotation, shape: tuple[int, ...]) -> Tensor:
    """U, whose columns are the basis events."""
    d = torch.Size(shape).numel()
    return rotation.unrotate(torch.eye(d, dtype=torch.float64).reshape(d, *shape)).reshape(d, d).T


def matrix(measurement: Measurement, shape: tuple[int, ...]) -> Tensor:
    """A, ``(measured, d)``."""
    d = torch.Size(shape).numel()
    return measurement.operator.apply(torch.eye(d, dtype=torch.float64).reshape(d, *shape)).reshape(d, -1).T
