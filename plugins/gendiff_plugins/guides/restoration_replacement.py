"""Restoration by putting what was measured in its place: RePaint."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from pydantic import Field
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.grid import GridSampler
from gendiff.guide import Scene
from gendiff.operator import Operator
from gendiff.sampler import Sampler, Update
from gendiff.score import Pivot, ScoreModel, believe, from_x_0
from gendiff.shapes import EventShape
from gendiff.streams import stream
from gendiff_plugins.guides.restoration import Restoring, measurement_of, residual


class Replacement(Restoring):
    """what was measured is put in its place at every step, and the rest is drawn to it, again and again.

    ``x̂_0' = x̂_0 + A^+ (y - A x̂_0)``, so that with the ancestral steps that it brings, x̄_j of what was measured is drawn from
    q(x̄_j | y). ``jump`` steps down are taken back by the kernel of the process, and gone anew, until each was gone ``resample``
    times: so the rest comes to fit to what was measured. For an A of which all singular values but 0 are equal: a mask, fewer
    pixels, grey. The noise of y is put in its place with it.

    Reference: Lugmayr, Danelljan, Romero, Yu, Timofte, Van Gool 2022, RePaint, arXiv 2201.09865, Algorithm 1 and App. B.
    """

    name = "replacement"

    resample: int = Field(5, ge=1, le=100, description="how often each step is gone; 1: without resampling")
    jump: int = Field(5, ge=1, le=1000, description="steps of the sampler that are taken back together")

    def check(self, model: ScoreModel, scene: Scene) -> None:
        super().check(model, scene)
        operator = measurement_of(self, scene).operator
        if gain_of(operator, scene.diffusion.event_shape) is None:
            raise ConfigError(
                f"method 'replacement' puts what was measured in its place, and operator '{operator.spec}' leaves nothing whole",
                details=[
                    "it needs an operator of which all singular values but 0 are equal: mask, downsample, grey, "
                    "crop-frequencies, identity",
                    "methods that can: pigdm, dps, and ddrm where the process is at home in the operator's basis",
                ],
                fix="choose one of them: --method pigdm",
                subject="guide.name",
            )

    def pivot(self, model: ScoreModel, x_bar: Tensor, i: float | Tensor, scene: Scene) -> Pivot:
        measurement, diffusion = measurement_of(self, scene), scene.diffusion
        gain = gain_of(measurement.operator, diffusion.event_shape)
        assert gain is not None  # so says check
        x_0 = diffusion.unrotate(believe(model, x_bar, i).x_0)
        missing = measurement.operator.adjoint(residual(measurement, x_0), diffusion.event_shape)
        return from_x_0(diffusion.rotate(x_0 + missing / gain), x_bar, diffusion.asked(x_bar, i))

    def sampler(self, sampler: Sampler, scene: Scene) -> Sampler:
        N = scene.diffusion.N
        steps = tuple(sampler.descent(scene.diffusion) if isinstance(sampler, GridSampler) else range(N, -1, -1))
        return Resampled(resample=self.resample, jump=self.jump, steps=steps, clip=sampler.clip, prior=sampler.prior)


class Resampled(Sampler):
    """ancestral steps, of which some are taken back."""

    name = "resampled"

    resample: int
    jump: int
    steps: tuple[int | float, ...]

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        walk = list(walked(len(self.steps) - 1, self.resample, self.jump))
        k = 0
        while k < len(walk) - 1:
            i, j = self.steps[walk[k]], self.steps[walk[k + 1]]
            law, k = diffusion.posterior(i, j), k + 1
            p, q, variance, to = law.p, law.q, law.std**2, j
            while k < len(walk) - 1 and walk[k + 1] < walk[k]:
                up = self.steps[walk[k + 1]]
                kernel, k = diffusion.kernel(up, to), k + 1
                p, q, variance, to = kernel.scale * p, kernel.scale * q, kernel.scale**2 * variance + kernel.std**2, up
            yield Update(i=i, j=to, p=p, q=q, e=variance.sqrt() if bool((variance > 0).any()) else None)


def walked(last: int, resample: int, jump: int) -> Iterator[int]:
    """Places 0..last of a grid in the order in which they are gone: every ``jump`` places, from the end, back and again."""
    again = {last - 1 - ahead: resample - 1 for ahead in range(0, last - jump, jump)}
    k = 0
    yield k
    while k < last:
        k += 1
        yield k
        if again.get(k, 0) > 0:
            again[k] -= 1
            for _ in range(jump):
                k -= 1
                yield k


@lru_cache(maxsize=8)
def gain_of(operator: Operator, event_shape: EventShape) -> float | None:
    """The g where ``A A^T A = g A``: then ``A^+ = A^T/g``; None where singular values differ."""
    x = torch.randn(1, *event_shape, generator=stream(0, "gain"), dtype=torch.float64)
    y = operator.apply(x)
    again = operator.apply(operator.adjoint(y, event_shape))
    gain = float((again * y).sum() / (y * y).sum())
    return gain if float((again - gain * y).norm()) < 1e-9 * float(again.norm()) and gain > 0 else None
