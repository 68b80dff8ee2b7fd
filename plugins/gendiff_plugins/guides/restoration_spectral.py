"""Restoration in the singular vectors of the operator: DDRM."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.grid import GridSampler
from gendiff.guide import Scene, rebased
from gendiff.level import Level
from gendiff.moments import Moments
from gendiff.operator import Operator
from gendiff.rotation import Rotation
from gendiff.sampler import Clamped, Sampler, Update
from gendiff.score import Pivot, ScoreModel, believe
from gendiff_plugins.guides.restoration import Restoring, measurement_of
from gendiff_plugins.guides.restoration_replacement import gain_of


class DDRM(Restoring):
    r"""denoising diffusion restoration, in the singular vectors of A.

    With singular values d and ``ȳ = (U^T A^T y)/d²``, component by component, from i to j:

        d = 0               x̄_j = a_j x̂_0 + sqrt(1-η²) s_j ε̂ + η s_j z                     as if nothing was measured
        s_j/a_j < σ_y/d     x̄_j = a_j x̂_0 + sqrt(1-η²) s_j (ȳ - x̂_0) d/σ_y + η s_j z       ȳ is noisier than x̄_j
        s_j/a_j >= σ_y/d    x̄_j = a_j ((1-η_b) x̂_0 + η_b ȳ) + sqrt(s_j² - (a_j η_b σ_y/d)²) z

    and x̄_N is ȳ with noise where it is the noisier of the two. It asks the network once a step, and needs no gradient. It does so
    where U of the process diagonalises A, such as a blur with a process in the DCT; a process whose components are all scaled
    alike is at home in any U. Its noise is that of its paper, meant for some 20 steps: it does not vanish as steps become many,
    and what is drawn is then not the posterior, not even of Gaussian data. Components that y says nothing of have the variance
    (1 + sqrt(1-η²))/2 of theirs; at η = 0 they and an exact y are right. For the posterior take ``pigdm:jacobian=wiener``.

    Reference: Kawar, Elad, Ermon, Song 2022, Denoising Diffusion Restoration Models, arXiv 2201.11793, eq. 7-8;
    σ_t there is s/a here.
    """

    name = "ddrm"

    eta: float = Field(0.85, ge=0, le=1, description="η: share of fresh noise where y tells less than x̄_j, or nothing")
    eta_b: float = Field(1.0, ge=0, le=1, description="η_b: how far y is trusted where it tells more than x̄_j")
    clip: bool = Field(True, description="clamp x̂_0 to the range of the data at every step")

    def check(self, model: ScoreModel, scene: Scene) -> None:
        super().check(model, scene)
        self.home(scene.diffusion, scene)

    def home(self, diffusion: Diffusion, scene: Scene) -> Diffusion:
        operator = measurement_of(self, scene).operator
        home = _home(operator, diffusion)
        if home is None:
            blurs = isinstance(operator.basis(diffusion.rotation, diffusion.event_shape), Rotation)
            raise ConfigError(
                f"method 'ddrm' needs coordinates in which operator '{operator.spec}' and the process are both diagonal",
                details=[
                    f"the components of this process are scaled each in its own way, in {diffusion.rotation}, where A is not "
                    "diagonal"
                    if blurs
                    else f"A is not diagonal in {diffusion.rotation}, and nobody says in which basis it is",
                    "methods that can: pigdm, dps"
                    + (", replacement" if gain_of(operator, diffusion.event_shape) else ""),
                ],
                fix="choose one of them: --method pigdm; or a run whose components are all scaled alike",
                subject="guide.name",
            )
        return home

    def sampler(self, sampler: Sampler, scene: Scene) -> Sampler:
        operator, home = measurement_of(self, scene).operator, self.home(scene.diffusion, scene)
        d = operator.diagonal(home.rotation, home.event_shape)
        steps = sampler.descent(scene.diffusion) if isinstance(sampler, GridSampler) else range(home.N, -1, -1)
        walk = Walk(
            eta=self.eta,
            eta_b=self.eta_b,
            sigma=measurement_of(self, scene).sigma,
            steps=tuple(steps),
            prior=sampler.prior,
        )
        return walk.with_learned({"d": d})

    def pivot(self, model: ScoreModel, x_bar: Tensor, i: float | Tensor, scene: Scene) -> Pivot:
        diffusion, measurement = scene.diffusion, measurement_of(self, scene)
        sigma = measurement.sigma
        home = self.home(diffusion, scene)
        singular = measurement.operator.diagonal(home.rotation, home.event_shape)
        assert singular is not None  # so says home
        d = singular.to(x_bar)
        safe = torch.where(d > 0, d, 1.0)
        y_bar = (home.rotate(measurement.back(x_bar.double())) / safe.double() ** 2).to(x_bar)
        if bool(torch.as_tensor(i == home.N).all()):
            at = home.at(home.N, x_bar.dtype)
            _, trusted = _cases(at, d, sigma)
            z = rebased(x_bar, diffusion, home) / at.s
            rest = (at.s**2 - (at.a * sigma / safe) ** 2).clamp_min(0).sqrt()
            x_bar = rebased(torch.where(trusted, at.a * y_bar + rest * z, at.s * z), home, diffusion)
        pivot = believe(Clamped(model, diffusion) if self.clip else model, x_bar, i)
        x_0, eps = (rebased(part, diffusion, home) for part in (pivot.x_0, pivot.eps))
        noisier, trusted = _cases(home.at(scene.next(i), x_bar.dtype), d, sigma)
        eps = torch.where(noisier, (y_bar - x_0) * d / (sigma or 1.0), eps)  # at σ_y = 0 none is
        x_0 = torch.where(trusted, (1 - self.eta_b) * x_0 + self.eta_b * y_bar, x_0)
        return Pivot(*(rebased(part, home, diffusion) for part in (x_0, eps)))


class Walk(Sampler):
    """the steps of DDRM: η of fresh noise, and where y is trusted what is left of s_j."""

    name = "ddrm-steps"

    eta: float
    eta_b: float
    sigma: float
    steps: tuple[int | float, ...]

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        d = self.learned["d"].to(diffusion.scales.device)
        for i, j in pairwise(self.steps):
            at = diffusion.at(j, torch.float64)
            _, trusted = _cases(at, d, self.sigma)
            known = at.a * self.eta_b * self.sigma / torch.where(d > 0, d, 1.0)
            b = torch.where(trusted, 0.0, (1 - self.eta**2) ** 0.5 * at.s)
            e = torch.where(trusted, (at.s**2 - known**2).clamp_min(0).sqrt(), self.eta * at.s)
            yield Update(i=i, j=j, q=at.a, b=b, e=e if bool((e > 0).any()) else None)


def _cases(at: Level, d: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Where y is there and noisier than x̄, and where it is trusted more than x̄."""
    trusted = (d > 0) & (at.s * d >= at.a * sigma)
    return (d > 0) & ~trusted, trusted


@lru_cache(maxsize=8)
def _home(operator: Operator, diffusion: Diffusion) -> Diffusion | None:
    """The process in coordinates that diagonalise A; None where there are none that are known."""
    shape, U = diffusion.event_shape, diffusion.rotation
    if operator.diagonal(U, shape) is not None:
        return diffusion
    V = operator.basis(U, shape)
    if V is None or V.refusal(shape) or operator.diagonal(V, shape) is None or not _scaled_alike(V, diffusion):
        return None
    mean = V.rotate(U.unrotate(diffusion.moments.mean.cpu().expand(1, *shape).contiguous()))[0]
    variance = diffusion.moments.variance.cpu().mean().reshape([1] * len(shape))
    return Diffusion(V, diffusion.scales, shape, Moments(mean, variance).to(diffusion.scales.device))


def _scaled_alike(V: Rotation, diffusion: Diffusion) -> bool:
    """Whether the scales of a process are what they are in the coordinates of V too."""
    probe = torch.randn(1, *diffusion.event_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for i in {1, diffusion.N // 2, diffusion.N}:
        at = diffusion.at(i, torch.float64)
        for scale in (at.a.cpu(), at.s.cpu()):
            there = V.rotate(diffusion.rotation.apply_diagonal(V.unrotate(probe), scale))
            if float((there - scale * probe).abs().max()) > 1e-9 * float(scale.max()):
                return False
    return True
