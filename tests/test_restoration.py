"""Restoration against what is known: posteriors of Gaussian data in closed form, and the algorithms as they are printed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from laws import law, posterior
from torch import Tensor

from gendiff import Diffusion, Rotation, Sampler, sample
from gendiff.errors import ConfigError
from gendiff.gaussian import GaussianScore
from gendiff.guide import Guide, Scene, course
from gendiff.moments import Moments
from gendiff.operator import Measurement, Operator, simulated
from gendiff.scales import Scales
from gendiff.score import Pivot, ScoreModel
from gendiff.testing.probes import SteadyScales, noise

EVENT, N, SIGMA = (3, 2, 4), 240, 0.2
#: What is measured of EVENT: diagonal in the DCT, in pixels, in blocks, in channels, and nowhere.
OPERATORS = ["blur:sigma=0.7", "mask:rectangle=[0,1,1,2]", "downsample", "grey", "crop-frequencies:keep=0.5"]


def nowhere() -> Operator:
    A = noise((7, math.prod(EVENT)), 9) / 3
    return Operator.of(lambda x: x.flatten(1) @ A.to(x).T, lambda y: (y @ A.to(y)).reshape(-1, *EVENT))


@dataclass(frozen=True)
class Field:
    """Gaussian data, a process in which they are diagonal, and the best model."""

    diffusion: Diffusion
    mean: Tensor
    variance: Tensor

    @property
    def model(self) -> GaussianScore:
        return GaussianScore(self.diffusion, self.mean, self.variance)

    def measured(self, operator: Operator | str, sigma: float = SIGMA) -> Measurement:
        x_0 = self.diffusion.unrotate(self.mean + self.variance.sqrt() * noise((1, *EVENT), 4))
        A = Operator(operator)
        return Measurement(A, simulated(A, x_0, sigma), sigma)


def field(rotation: str, paces: bool) -> Field:
    """λ falls in equal steps; where ``paces``, each component at its own, as in blur diffusion."""
    U = Rotation(rotation)
    rho = U.frequencies(EVENT).expand(1, *EVENT[1:])
    spread = rho if paces else torch.zeros(1, 1, 1, dtype=torch.float64)
    scales = SteadyScales(N, 6 - 0.5 * spread, -8 - 0.7 * spread)
    c = (0.4 / (0.6 + rho) ** 2).expand(EVENT) if rotation == "dct" else torch.full(EVENT, 0.3, dtype=torch.float64)
    c = (c * torch.tensor([0.8, 1.0, 1.3], dtype=torch.float64)[:, None, None]).contiguous()
    m = 0.3 * noise(EVENT, 2)
    return Field(Diffusion(U, scales, EVENT, Moments(m, c)), m, c)


FIELDS = {"standard": ("identity", False), "in the DCT": ("dct", False), "blur": ("dct", True)}


def error(data: Field, measurement: Measurement, guide: str, sampler: str) -> tuple[float, float]:
    mean, covariance = law(data.diffusion, data.model, Sampler(sampler), [Guide(guide)], measurement)
    m, C = posterior(data.diffusion, data.mean, data.variance, measurement)
    return float((mean - m).abs().max()), float((covariance - C).abs().max())


# --- ΠGDM: exact for Gaussian data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("jacobian", ["network", "wiener"])
@pytest.mark.parametrize("operator", [*OPERATORS, "identity", "a matrix"])
@pytest.mark.parametrize("name", FIELDS)
def test_pigdm_is_the_belief_of_gaussian_data_given_both(name, operator, jacobian):
    """The pivot is E(x_0 | x_i, y), in every basis, whether A is diagonal there or not."""
    data = field(*FIELDS[name])
    measurement = data.measured(nowhere() if operator == "a matrix" else operator)
    guide, i = Guide("pigdm", jacobian=jacobian), 100
    x_bar = noise((1, *EVENT), 5)
    pivot = guide.pivot(data.model, x_bar, i, Scene(data.diffusion, measurement=measurement))
    at = data.diffusion.at(i, torch.float64)
    r2 = data.variance * at.s**2 / at.v
    believed = data.model.predict(x_bar, i)
    expected, _ = posterior(data.diffusion, believed.x_0[0], r2, measurement)
    torch.testing.assert_close(data.diffusion.unrotate(pivot.x_0).flatten(), expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(at.a * pivot.x_0 + at.s * pivot.eps, x_bar)


@pytest.mark.parametrize(
    ("name", "operator", "sampler", "counts"),
    [
        ("standard", "blur:sigma=0.7", "ddim", (20, 40, 80)),
        ("blur", "blur:sigma=0.7", "ddim", (20, 40, 80)),
        ("blur", "downsample", "ddim", (20, 40, 80)),
        ("standard", "mask:rectangle=[0,1,1,2]", "ancestral", (60, 120)),
        ("blur", "blur:sigma=0.7", "ancestral", (60, 120)),
    ],
)
def test_pigdm_draws_from_the_posterior_to_the_order_of_the_sampler(name, operator, sampler, counts):
    data = field(*FIELDS[name])
    measurement = data.measured(operator)
    guide = "pigdm" if sampler == "ddim" else "pigdm:jacobian=wiener"
    errors = [error(data, measurement, guide, f"{sampler}:steps={n},grid=uniform,clip=false") for n in counts]
    assert errors[-1][0] < 1e-2
    variances = [variance for _, variance in errors]
    for one, other in pairwise(variances):
        assert 1.5 < one / other < 2.6, variances


def test_pigdm_of_second_order_converges_faster():
    data = field(*FIELDS["blur"])
    measurement = data.measured("downsample")
    errors = [error(data, measurement, "pigdm", f"dpmpp-2m:steps={n},grid=uniform,clip=false")[1] for n in (20, 40, 80)]
    assert all(one / other > 3 for one, other in pairwise(errors)), errors


# --- DDRM ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exploding(Scales):
    """a = 1 and s = σ_i, the form in which DDRM is printed."""

    sigma: Tensor

    @property
    def N(self) -> int:
        return len(self.sigma) - 1

    def log_a(self, i: Tensor) -> Tensor:
        return torch.zeros(len(i), 1, 1, 1, dtype=torch.float64)

    def log_s(self, i: Tensor) -> Tensor:
        return self.sigma[i].log().reshape(-1, 1, 1, 1)


DENSE = (1, 2, 3)
A_DENSE = np.linalg.svd(np.random.default_rng(0).normal(size=(4, 6)), full_matrices=True)
SINGULAR = np.array([1.7, 0.9, 0.4, 0.0, 0.0, 0.0])


class Vectors(Rotation):
    """V of A_DENSE."""

    name = "vectors"

    def rotate(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ torch.from_numpy(A_DENSE[2].T.copy()).to(x)).reshape(x.shape)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return (x_bar.flatten(1) @ torch.from_numpy(A_DENSE[2].copy()).to(x_bar)).reshape(x_bar.shape)


class DenseOperator(Operator):
    """U diag(SINGULAR) V^T, four numbers of six."""

    name = "dense"

    @property
    def A(self) -> Tensor:
        return torch.from_numpy(A_DENSE[0] @ np.diag(SINGULAR)[:4] @ A_DENSE[2])

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.A.to(x).T

    def adjoint(self, y: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        return (y @ self.A.to(y)).reshape(-1, *event_shape)

    def basis(self, rotation: Rotation, event_shape: tuple[int, ...]) -> Rotation:
        return Vectors()


class DenseScore(ScoreModel):
    """The best model of N(0, C), C diagonal nowhere in particular."""

    C = noise((6, 6), 11) @ noise((6, 6), 11).T / 6 + 0.1 * torch.eye(6, dtype=torch.float64)

    def __init__(self, diffusion: Diffusion) -> None:
        self.diffusion = diffusion

    def predict(self, x_bar: Tensor, i: int | Tensor) -> Pivot:
        at = self.diffusion.asked(x_bar, i)
        gain = self.C @ torch.linalg.inv(self.C + float(at.s.flatten()[0]) ** 2 * torch.eye(6, dtype=torch.float64))
        x_0 = (x_bar.flatten(1) @ gain.T).reshape(x_bar.shape)
        return Pivot(x_0, (x_bar - x_0) / at.s)


def published_ddrm(sigmas, sigma_y: float, eta: float, eta_b: float, y, draws: Iterator) -> np.ndarray:
    """Kawar et al. 2022, eq. 7 and 8, component by component as printed, with the draws of V^T z."""
    U, _, Vt = A_DENSE
    C = DenseScore.C.numpy()
    s = SINGULAR
    y_bar = np.zeros(6)
    y_bar[:3] = (U.T @ y)[:3] / s[:3]
    x = np.zeros(6)
    for k, z in enumerate(Vt @ next(draws)):
        x[k] = y_bar[k] + math.sqrt(sigmas[0] ** 2 - sigma_y**2 / s[k] ** 2) * z if s[k] > 0 else sigmas[0] * z
    for before, sigma in pairwise(sigmas):
        x_theta = Vt @ (C @ np.linalg.inv(C + before**2 * np.eye(6)) @ (Vt.T @ x))
        z = Vt @ next(draws) if sigma > 0 else np.zeros(6)
        new = np.zeros(6)
        for k in range(6):
            if s[k] == 0:
                mean = x_theta[k] + math.sqrt(1 - eta**2) * sigma * (x[k] - x_theta[k]) / before
                std = eta * sigma
            elif sigma < sigma_y / s[k]:
                mean = x_theta[k] + math.sqrt(1 - eta**2) * sigma * (y_bar[k] - x_theta[k]) / (sigma_y / s[k])
                std = eta * sigma
            else:
                mean = (1 - eta_b) * x_theta[k] + eta_b * y_bar[k]
                std = math.sqrt(sigma**2 - sigma_y**2 * eta_b**2 / s[k] ** 2)
            new[k] = mean + std * z[k]
        x = new
    return Vt.T @ x


@pytest.mark.parametrize(
    ("sigma_y", "eta", "eta_b"), [(0.3, 0.85, 1.0), (0.3, 0.4, 0.6), (0.05, 1.0, 0.9), (0.7, 0, 1)]
)
def test_ddrm_is_the_published_algorithm(sigma_y, eta, eta_b):
    """On a dense problem, in the variance-exploding form in which it is printed."""
    sigmas = np.concatenate([np.geomspace(5, 0.02, 12), [0.0]])
    scales = Exploding(torch.from_numpy(sigmas[::-1].copy()))
    diffusion = Diffusion(Rotation("identity"), scales, DENSE)
    y = noise((1, 4), 3)
    z = [noise((1, *DENSE), 20 + k) for k in range(13)]
    scene = Scene(diffusion, measurement=Measurement(DenseOperator(), y, sigma_y))
    guide = Guide("ddrm", eta=eta, eta_b=eta_b)
    way = course(DenseScore(diffusion), Sampler("ddim:clip=false"), [guide], scene)
    draws = iter(z)
    x = sample(way.diffusion, way.model, way.sampler, lambda: next(draws), dtype=torch.float64)
    expected = published_ddrm(sigmas, sigma_y, eta, eta_b, y[0].numpy(), iter([one.flatten().numpy() for one in z]))
    np.testing.assert_allclose(x.flatten().numpy(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "operator"),
    [("standard", "mask:rectangle=[0,1,1,2]"), ("in the DCT", "crop-frequencies:keep=0.5"), ("blur", "blur:sigma=0.1")],
)
def test_ddrm_of_an_exact_measurement_at_eta_0_draws_from_the_posterior(name, operator):
    """What was measured is there, and the rest has its own law, to first order."""
    data = field(*FIELDS[name])
    measurement = data.measured(operator, 0.0)
    errors = [error(data, measurement, "ddrm:eta=0", f"ddim:steps={n},grid=uniform")[1] for n in (20, 40, 80)]
    if operator.startswith("blur"):  # all of it was measured
        assert max(errors) < 1e-5
        return
    assert all(1.6 < one / other < 2.4 for one, other in pairwise(errors)), errors


def test_ddrm_with_its_own_noise_does_not():
    """What its page says: (1 + sqrt(1-η²))/2 of the variance of what was not measured, however many steps there are."""
    data, eta = field(*FIELDS["standard"]), 0.85
    measurement = data.measured("mask:rectangle=[0,1,1,2]", 0.0)
    _, C = law(data.diffusion, data.model, Sampler("ddim:grid=uniform"), [Guide("ddrm", eta=eta)], measurement)
    missing = C.diagonal().reshape(EVENT)[:, 0, 1:3] / data.variance[:, 0, 1:3]
    expected = torch.full_like(missing, (1 + math.sqrt(1 - eta**2)) / 2)
    torch.testing.assert_close(missing, expected, rtol=0.04, atol=0)


@pytest.mark.parametrize("operator", ["mask:rectangle=[0,1,1,2]", "downsample", "grey", "blur:sigma=0.7"])
def test_an_isotropic_process_is_at_home_in_every_basis(operator):
    """DDRM is the same whichever basis a standard process is written in."""
    drawn = []
    for rotation in ("identity", "dct"):
        data = field("dct", paces=False)
        diffusion = Diffusion(
            Rotation(rotation), SteadyScales(N, *torch.tensor([6.0, -8.0]).double().reshape(2, 1, 1, 1)), EVENT
        )
        U = data.diffusion.rotation

        class Turned(ScoreModel):
            def predict(self, x_bar, i, U=U, diffusion=diffusion, data=data):
                pivot = data.model.predict(U.rotate(diffusion.unrotate(x_bar)), i)
                return Pivot(*(diffusion.rotate(U.unrotate(part)) for part in (pivot.x_0, pivot.eps)))

        scene = Scene(diffusion, measurement=data.measured(operator))
        way = course(Turned(), Sampler("ddim:steps=8,clip=false,grid=uniform"), [Guide("ddrm")], scene)
        draws = iter([noise((1, *EVENT), 40 + k) for k in range(9)])
        drawn.append(sample(way.diffusion, way.model, way.sampler, lambda: next(draws), dtype=torch.float64))  # noqa: B023
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-8, atol=1e-9)


def test_a_grey_picture_is_coloured_by_blur_diffusion():
    """Channels mixed besides, its process is as it was."""
    data = field("dct", paces=True)
    scene = Scene(data.diffusion, measurement=data.measured("grey", 0.0))
    way = course(data.model, Sampler("ddim:steps=5,grid=uniform"), [Guide("ddrm")], scene)
    x = sample(way.diffusion, way.model, way.sampler, n=2, dtype=torch.float64)
    torch.testing.assert_close(Operator("grey").apply(x), scene.measurement.y.expand(2, -1, -1, -1), atol=1e-3, rtol=0)


# --- DPS ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_dps_is_the_published_algorithm(name):
    """Chung et al. 2023, Algorithm 1: an ancestral step, and ζ = scale/2|.| times the gradient of the squared distance."""
    data, scale = field(*FIELDS[name]), 0.5
    measurement = data.measured(nowhere())
    diffusion, A = data.diffusion, measurement.operator
    sampler = Sampler("ancestral:steps=6,grid=uniform,clip=true")
    draws = [noise((1, *EVENT), 60 + k) for k in range(7)]
    way = course(data.model, sampler, [Guide("dps", scale=scale)], Scene(diffusion, measurement=measurement))
    each = iter(draws)
    x = sample(way.diffusion, way.model, way.sampler, lambda: next(each), dtype=torch.float64)

    each = iter(draws)
    x_bar = diffusion.prior(next(each))
    for update in sampler.plan(diffusion):
        x_bar.requires_grad_()
        at, there = diffusion.at(update.i, torch.float64), diffusion.at(update.j, torch.float64)
        x_0 = data.model.predict(x_bar, update.i).x_0
        square = (measurement.y - A.apply(diffusion.unrotate(x_0))).square().sum()
        (gradient,) = torch.autograd.grad(square, x_bar)
        law_of_j = diffusion.posterior(update.i, update.j)
        z = diffusion.rotate(next(each)) if float(there.s.max()) > 0 else 0.0
        ancestral = law_of_j.p * x_bar + law_of_j.q * x_0 + law_of_j.std * z
        x_bar = (ancestral - scale / (2 * square.sqrt()) * gradient).detach()
        assert at.N == N
    torch.testing.assert_close(x, diffusion.unrotate(x_bar), rtol=1e-7, atol=1e-8)


# --- replacement --------------------------------------------------------------------------------------------------------


def published_schedule(t_T: int, jump_len: int, jump_n_sample: int) -> list[int]:
    """RePaint, the listing of its appendix: times T-1, ..., -1."""
    jumps = {}
    for j in range(0, t_T - jump_len, jump_len):
        jumps[j] = jump_n_sample - 1
    t, ts = t_T, []
    while t >= 1:
        t = t - 1
        ts.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] = jumps[t] - 1
            for _ in range(jump_len):
                t = t + 1
                ts.append(t)
    ts.append(-1)
    return ts


@pytest.mark.parametrize(("last", "jump", "resample"), [(20, 5, 3), (12, 1, 2), (7, 10, 4), (30, 10, 1)])
def test_the_walk_of_replacement_is_the_published_one(last, jump, resample):
    data = field(*FIELDS["standard"])
    scene = Scene(data.diffusion, measurement=data.measured("mask:rectangle=[0,1,1,2]"))
    guide = Guide("replacement", jump=jump, resample=resample)
    plan = guide.sampler(Sampler(f"ddim:steps={last},grid=uniform"), scene).plan(data.diffusion)
    times = published_schedule(last, jump, resample)
    steps = [*Sampler(f"ddim:steps={last},grid=uniform").descent(data.diffusion)]
    turns = [steps[last - 1 - t] for t in times]
    asked = [i for k, i in enumerate(turns[:-1]) if turns[k + 1] < i]
    assert [update.i for update in plan] == asked
    assert plan[-1].j == 0
    for one, other in pairwise(plan):
        assert one.j == other.i


def test_replacement_draws_what_was_measured_and_what_goes_with_it():
    """Pixels that are independent: the one half is there, the other has its own law, and going back changes nothing of it."""
    data = field(*FIELDS["standard"])
    measurement = data.measured("mask:rectangle=[0,1,1,2]", 0.0)
    for spec in ("replacement:resample=1", "replacement:resample=2,jump=3"):
        errors = [error(data, measurement, spec, f"ancestral:steps={n},grid=uniform,clip=false") for n in (20, 40)]
        assert errors[1][1] < 0.65 * errors[0][1], errors
        assert errors[1][0] < 1e-6


# --- each event by itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["pigdm", "dps", "replacement"])
def test_an_event_does_not_depend_on_the_others(guide):
    data = field(*FIELDS["blur"])
    A = nowhere() if guide != "replacement" else Operator("downsample")
    y = A.apply(torch.cat([noise((3, *EVENT), 1), 100 * noise((1, *EVENT), 2)]).float())
    x_bar = noise((4, *EVENT), 3, torch.float32)
    together = Guide(guide).pivot(data.model, x_bar, 90, Scene(data.diffusion, measurement=Measurement(A, y, SIGMA)))
    for k in range(4):
        scene = Scene(data.diffusion, measurement=Measurement(A, y[k : k + 1], SIGMA))
        alone = Guide(guide).pivot(data.model, x_bar[k : k + 1], 90, scene)
        torch.testing.assert_close(alone.x_0, together.x_0[k : k + 1], rtol=1e-5, atol=1e-5)


# --- gradients ----------------------------------------------------------------------------------------------------------


class Bent(ScoreModel):
    """The best model of Gaussian data, bent."""

    def __init__(self, data: Field) -> None:
        self.data = data

    def predict(self, x_bar: Tensor, i: int | Tensor) -> Pivot:
        at = self.data.diffusion.asked(x_bar, i)
        x_0 = torch.sin(self.data.model.predict(x_bar, i).x_0)
        return Pivot(x_0, (x_bar - at.a * x_0) / at.s)


@pytest.mark.parametrize(
    ("guide", "operator"),
    [
        ("pigdm", "a matrix"),
        ("pigdm", "blur:sigma=0.7"),
        ("dps", "a matrix"),
        ("ddrm", "blur:sigma=0.7"),
        ("replacement", "grey"),
    ],
)
def test_gradients_go_through_a_restored_chain(guide, operator):
    """Against a difference, of the noise that it begins with."""
    data = field(*FIELDS["blur"])
    scene = Scene(data.diffusion, measurement=data.measured(nowhere() if operator == "a matrix" else operator))
    way = course(Bent(data), Sampler("ddim:steps=3,grid=uniform,clip=false"), [Guide(guide)], scene)
    later = [noise((1, *EVENT), 80 + k) for k in range(40)]

    def value(z: Tensor) -> Tensor:
        draws = iter([z, *later])
        x = sample(way.diffusion, way.model, way.sampler, lambda: next(draws), dtype=torch.float64)
        return (x * noise((1, *EVENT), 70)).sum()

    z, direction = noise((1, *EVENT), 71).requires_grad_(), noise((1, *EVENT), 72)
    (gradient,) = torch.autograd.grad(value(z), z)
    with torch.no_grad():
        difference = float(value(z + 1e-5 * direction) - value(z - 1e-5 * direction)) / 2e-5
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-4, abs=1e-8)


# --- what cannot be restored --------------------------------------------------------------------------------------------


def refusal(guide: str, operator: Operator | str, name: str = "blur") -> ConfigError:
    data = field(*FIELDS[name])
    scene = Scene(data.diffusion, measurement=data.measured(operator))
    with pytest.raises(ConfigError) as refused:
        course(data.model, Sampler("ddim:steps=3"), [Guide(guide)], scene)
    return refused.value


def test_ddrm_says_which_methods_can():
    assert "methods that can: pigdm, dps, replacement" in str(refusal("ddrm", "mask:rectangle=[0,1,1,2]"))
    said = str(refusal("ddrm", nowhere(), "standard"))
    assert "methods that can: pigdm, dps" in said
    assert "replacement" not in said


def test_replacement_says_what_it_needs():
    assert "mask, downsample, grey" in str(refusal("replacement", "blur:sigma=0.7"))


@pytest.mark.parametrize("guide", ["pigdm", "dps", "ddrm", "replacement"])
def test_nothing_is_restored_of_which_nothing_was_measured(guide):
    data = field(*FIELDS["standard"])
    with pytest.raises(ConfigError, match="nothing was"):
        course(data.model, Sampler("ddim:steps=3"), [Guide(guide)], Scene(data.diffusion))
