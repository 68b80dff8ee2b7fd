"""Restoration along the gradient of how likely what was measured is: ΠGDM and DPS."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from gendiff.guide import Scene
from gendiff.sampler import Clamped, Sampler
from gendiff.score import LOG_A_PRIOR, Pivot, ScoreModel, believe
from gendiff_plugins.guides.restoration import Restoring, believed, measurement_of, moved, pull, residual

#: Share of the variance of x̄_i that is signal, a² c/v. Below it the Jacobian of a network is its errors over a; that of the data
#: is a c/v, for what is known of x_0 is its prior.
QUIET = 0.01


class PiGDM(Restoring):
    r"""pseudoinverse guidance, exact for Gaussian data.

    x_0 given x̄_i is taken as N(x̂_0, U diag(r²) U^T), ``r² = c s²/(a² c + s²)`` per component, which it is for Gaussian data of
    variance c; so, with J = ∂x̂_0/∂x̄_i,

        x̂_0' = x̂_0 + (s²/a) J^T w ,     w = A^T (A R A^T + σ_y²)^{-1} (y - A x̂_0) .

    ``jacobian=wiener`` takes that of the best linear guess, a c/v, in place of J: no gradient through the network is needed, and
    it is exact for the same data. With c = 1 the r² are those of the paper, which weighs the gradient of a VP process by about a
    besides.

    Reference: Song, Vahdat, Mardani, Kautz 2023, Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR, eq. 7-8.
    """

    name = "pigdm"

    jacobian: Literal["network", "wiener"] = Field("network", description="network: by autograd; wiener: a c/v")

    def pivot(self, model: ScoreModel, x_bar: Tensor, i: float | Tensor, scene: Scene) -> Pivot:
        measurement_of(self, scene)
        at = scene.diffusion.asked(x_bar, i)
        r2 = at.c * at.s**2 / at.v
        if self.jacobian == "wiener":
            pivot = believe(model, x_bar, i)
            return moved(pivot, r2 * pull(scene, pivot.x_0, r2), at.a, at.s)
        pivot, gradient = believed(model, x_bar, i)
        w = pull(scene, pivot.x_0, r2)
        quiet = at.a**2 * at.c < QUIET * at.v
        shift = at.s**2 / torch.where(quiet, 1.0, at.a) * gradient(lambda x_0: x_0, w)
        return moved(pivot, torch.where(quiet, r2 * w, shift), at.a, at.s)


class DPS(Restoring):
    r"""diffusion posterior sampling: a step of gradient descent on ``|y - A x̂_0|`` at every step.

    At a step from i to j of the sampler ``ancestral`` x̄_j comes out smaller by ``scale ∇ |y - A x̂_0(x̄_i)|``, the gradient by x̄_i,
    which is the published algorithm in every basis; deterministic samplers take between half of it and all. σ_y has no part in
    it.

    Reference: Chung, Kim, McCann, Klasky, Ye 2023, Diffusion Posterior Sampling for General Noisy Inverse Problems, arXiv
    2209.14687, Algorithm 1; the scale is that of the authors' code, ζ_i = scale / 2|y - A x̂_0|.
    """

    name = "dps"

    scale: float = Field(1.0, gt=0, description="length of a step; the paper takes 0.3 to 1 with 1000 steps")
    clip: bool = Field(True, description="clamp x̂_0 to the range of the data before it is compared")

    def sampler(self, sampler: Sampler, scene: Scene) -> Sampler:
        """Without clamping: what comes to x̂_0 in small steps is many times what comes to x̄_j."""
        return sampler.model_copy(update={"clip": False})

    def pivot(self, model: ScoreModel, x_bar: Tensor, i: float | Tensor, scene: Scene) -> Pivot:
        measurement, diffusion = measurement_of(self, scene), scene.diffusion
        at, there = diffusion.asked(x_bar, i), diffusion.at(scene.next(i), x_bar.dtype)
        pivot, gradient = believed(Clamped(model, diffusion) if self.clip else model, x_bar, i)

        def distance(x_bar_0: Tensor) -> Tensor:
            left = residual(measurement, diffusion.unrotate(x_bar_0)).flatten(1)
            return (left.square().sum(1) + 1e-20).sqrt().sum()

        # Of x̂_0 comes a_j (1 - r) into x̄_j, and (1 - r) s_i² = s_i² - (a_i/a_j)² s_j².
        dead = there.log_a < LOG_A_PRIOR
        ratio = torch.exp(at.log_a - torch.where(dead, at.log_a, there.log_a)).to(x_bar.dtype)
        added = (at.s**2 - ratio**2 * there.s**2).clamp_min(1e-12)
        shift = at.s**2 / (torch.where(dead, 1.0, there.a) * added) * gradient(distance)
        return moved(pivot, torch.where(dead, 0.0, -self.scale * shift), at.a, at.s)
