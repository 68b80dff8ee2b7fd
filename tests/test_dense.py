"""Process, samplers, laws and the bound against whole matrices in NumPy and SciPy, which use nothing of gendiff."""

from __future__ import annotations

import math

import dense
import numpy as np
import pytest
import torch
from processes import component, diffusion, scales_at

from gendiff import Diffusion, Objective, Rotation, Sampler
from gendiff.bound import continuous_decoder, prior_term, step_term
from gendiff.gaussian import GaussianScore
from gendiff.lab.prediction import predict
from gendiff.lab.recursion import Gaussian, law
from gendiff.moments import Moments
from gendiff.plugin.registry import default_registry
from gendiff.sampler import sample
from gendiff.score import Pivot, ScoreModel
from gendiff.testing.probes import SteadyScales

EVENT, N = (1, 2, 3), 40
SPEC = "blur:schedule='quartic:f_max=2.5'"


@pytest.fixture
def data(rng):
    """Mean and a whole covariance, in event space."""
    A = torch.randn(6, 6, generator=rng, dtype=torch.float64).numpy()
    return torch.randn(6, generator=rng, dtype=torch.float64).numpy() / 2, A @ A.T / 6 + 0.05 * np.eye(6)


@pytest.fixture
def oracle():
    return dense.Process.blur(EVENT, N, f_max=2.5)


def ours(m: np.ndarray | None = None, c: np.ndarray | None = None, steps: int = N) -> Diffusion:
    process = diffusion("dct", SPEC, EVENT, steps)
    if m is None:
        return process
    moments = Moments(*(torch.tensor(values).reshape(EVENT) for values in (m, c)), 1)
    return Diffusion(process.rotation, process.scales, EVENT, moments)


def close(found, wanted, tolerance=1e-9):
    np.testing.assert_allclose(np.asarray(found).reshape(np.shape(wanted)), wanted, rtol=tolerance, atol=tolerance)


# --- the process --------------------------------------------------------------------------------------------------------


def test_the_scales_are_products_of_the_paper_s_steps(oracle):
    process = ours()
    for i in range(N + 1):
        a, s = scales_at(process, i, torch.float64)
        close(a.flatten(), oracle.a[i], 1e-11)
        close(s.flatten(), oracle.s[i], 1e-11)
    assert oracle.a[N].min() < 0.01 < 0.5 < oracle.a[N].max()  # components of very different speeds


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 7)])
@pytest.mark.parametrize("sigma", [0.25, 0.4, 1.3])
def test_basis_and_attenuation(shape, sigma):
    U = component(Rotation, "dct")
    d = int(np.prod(shape))
    close(U.rotate(torch.eye(d, dtype=torch.float64).reshape(d, *shape)).reshape(d, d), dense.cosines(shape), 1e-12)
    D = torch.broadcast_to(U.log_blur_spectrum(shape, sigma).exp(), shape)
    close(D.flatten(), dense.attenuation(shape, sigma), 1e-12)


def test_marginal_and_score(oracle, rng):
    process = ours()
    x_0, eps = torch.randn(2, 3, *EVENT, generator=rng, dtype=torch.float64)
    i = torch.tensor([1, 17, N])
    x_i, score = process.q_sample(x_0, i, eps), process.score(i, eps)
    for k, step in enumerate(i.tolist()):
        A, S = oracle.operator(oracle.a[step]), oracle.operator(oracle.s[step])
        close(x_i[k].flatten(), A @ x_0[k].flatten().numpy() + S @ eps[k].flatten().numpy())
        log_q_slope = -np.linalg.solve(S @ S, S @ eps[k].flatten().numpy())
        close(score[k].flatten(), log_q_slope, 1e-7)


@pytest.mark.parametrize(("i", "j"), [(2, 1), (20, 19), (N, 3), (N, N - 1)])
def test_the_posterior_is_the_joint_gaussian_conditioned(oracle, i, j):
    found = ours().posterior(i, j)
    P, Q, S = oracle.posterior(i, j)
    close(oracle.operator(found.p.flatten().numpy()), P)
    close(oracle.operator(found.q.flatten().numpy()), Q)
    close(oracle.operator(found.std.flatten().numpy() ** 2), S)


# --- samplers -----------------------------------------------------------------------------------------------------------

SOLVERS = [
    ("ddim", dense.ddim, {}),
    ("ddim:eta=0.6", dense.ddim, {"eta": 0.6}),
    ("ancestral", dense.ancestral, {}),
    ("reverse-diffusion", dense.reverse_diffusion, {}),
    ("momentum", dense.momentum, {}),
    ("dpmpp-2m", dense.dpmpp_2m, {}),
    ("sde-dpmpp-2m", dense.dpmpp_2m, {"noisy": True}),
    ("unipc-2", dense.unipc_2, {}),
    ("heun", dense.heun, {}),
    ("trig", dense.trig, {"solver": "euler"}),
    ("trig:solver=ab2", dense.trig, {"solver": "ab2"}),
    ("trig:solver=heun", dense.trig, {"solver": "heun"}),
]
STEPS = [N, 31, 30, 22, 9, 2, 1, 0]  # of unlike lengths


def at_steps(spec: str, steps: list[int]) -> Sampler:
    if spec == "reverse-diffusion":
        return component(Sampler, spec)
    table = {**component(Sampler, spec).table(), "grid": {"name": "explicit", "at": steps[:-1]}}
    return component(Sampler, table)


class Tanh(ScoreModel):
    """A belief that is not affine: x̂_0 = tanh(x̄ + i/50)/2, component by component."""

    def __init__(self, process):
        self.process = process

    def predict(self, x_bar, i):
        x_0 = torch.tanh(x_bar + i / 50) / 2
        a, s = scales_at(self.process, i, torch.float64)
        return Pivot(x_0, (x_bar - a * x_0) / s)


@pytest.mark.parametrize(("spec", "solver", "options"), SOLVERS, ids=[spec for spec, _, _ in SOLVERS])
def test_a_sampler_is_its_formula_whatever_the_model_says(spec, solver, options, oracle, data, rng):
    m, c = oracle.U.T @ data[0], (oracle.U.T @ data[1] @ oracle.U).diagonal()
    process, sampler = ours(m, c), at_steps(spec, STEPS)
    noises = torch.randn(60, 1, *EVENT, generator=rng, dtype=torch.float64)
    mine, theirs = iter(noises), iter(noises.reshape(60, 6).numpy() @ oracle.U)
    found = sample(process, Tanh(process), sampler, lambda: next(mine), dtype=torch.float64)
    if solver is dense.trig:
        options = {**options, "m": m, "c": c}
    wanted = solver(
        oracle, lambda x, i: np.tanh(x + i / 50) / 2, STEPS, oracle.s[N] * next(theirs), lambda: next(theirs), **options
    )
    close(found.flatten(), oracle.U @ wanted, 1e-8)
    assert len(list(mine)) == len(list(theirs))


def test_heat_is_dissipated_and_gathered(rng):
    """Scales and sampler of inverse heat dissipation, from the prior N(0, s²)."""
    oracle = dense.Process.heat(EVENT, 12, 0.3, 2.0, 0.05)
    process = diffusion("dct", "heat:sigma_min=0.3,sigma_max=2,s=0.05", EVENT, 12)
    for i in range(13):
        close(process.at(i).log_a.exp().flatten(), oracle.a[i], 1e-12)
        close(process.at(i).log_s.exp().expand(EVENT).flatten(), oracle.s[i], 1e-12)
    noises = torch.randn(20, 1, *EVENT, generator=rng, dtype=torch.float64)
    mine, theirs = iter(noises), iter(noises.reshape(20, 6).numpy() @ oracle.U)
    sampler = component(Sampler, "heat-dissipation:delta=1.7,prior=standard")
    found = sample(process, Tanh(process), sampler, lambda: next(mine), dtype=torch.float64)
    model = lambda x, i: np.tanh(x + i / 50) / 2  # noqa: E731
    wanted = dense.heat_dissipation(oracle, model, [], oracle.s[12] * next(theirs), lambda: next(theirs), delta=1.7)
    close(found.flatten(), oracle.U @ wanted)
    assert len(list(mine)) == len(list(theirs)) == 8


@pytest.mark.parametrize(("spec", "solver", "options"), SOLVERS, ids=[spec for spec, _, _ in SOLVERS])
def test_a_law_is_that_of_whole_matrices(spec, solver, options, oracle, data):
    mean, covariance = data
    U = oracle.U
    m, c = U.T @ mean, (U.T @ covariance @ U).diagonal()
    if solver is dense.trig:
        options = {**options, "m": m, "c": c}
    target = Gaussian.dense(torch.from_numpy(m).reshape(EVENT), torch.from_numpy(U.T @ covariance @ U))
    found = law(ours(m, c), at_steps(spec, STEPS), target)
    wanted_mean, wanted = dense.law_of(oracle, solver, STEPS, mean, covariance, **options)
    close(U @ found.mean[0].numpy(), wanted_mean, 1e-8)
    close(U @ found.covariance[0].numpy() @ U.T, wanted, 1e-8)
    total = predict(ours(m, c), at_steps(spec, STEPS), target).total
    assert total == pytest.approx(dense.wasserstein(wanted_mean, wanted, mean, covariance), rel=1e-5)


@pytest.mark.parametrize("prior", ["standard", "matched", "data"])
def test_one_step_from_each_prior_is_the_best_guess_there(prior, oracle, data):
    mean, covariance = data
    U, A, S = oracle.U, oracle.operator(oracle.a[N]), oracle.operator(oracle.s[N] ** 2)
    m, c = U.T @ mean, (U.T @ covariance @ U).diagonal()
    first, spread = {
        "standard": (0 * mean, S),
        "matched": (A @ mean, A @ (U * c) @ U.T @ A + S),
        "data": (A @ mean, A @ covariance @ A),
    }[prior]
    target = Gaussian.dense(torch.from_numpy(m).reshape(EVENT), torch.from_numpy(U.T @ covariance @ U))
    found = law(ours(m, c), component(Sampler, f"ddim:steps=1,prior={prior}"), target)
    G = covariance @ A @ np.linalg.inv(A @ covariance @ A + S)
    close(U @ found.mean[0].numpy(), mean + G @ (first - A @ mean))
    close(U @ found.covariance[0].numpy() @ U.T, G @ spread @ G.T)


@pytest.mark.parametrize(("spec", "solver", "options"), SOLVERS, ids=[spec for spec, _, _ in SOLVERS])
def test_the_order_is_seen_in_whole_matrices(spec, solver, options, data):
    """Half the step, 2^-order of the error, in NumPy alone; and with as many steps our law is the same."""
    mean, covariance = data
    first, last = np.linspace(9, 11, 6), np.linspace(-10, -13, 6)
    if solver is dense.trig:
        options = {**options, "m": mean, "c": covariance.diagonal()}
    errors = []
    for steps in (48, 96):
        process = dense.Process.steady(steps, first, last)
        drawn = dense.law_of(process, solver, range(steps, -1, -1), mean, covariance, **options)
        errors.append(np.abs(drawn[0] - mean).max() + np.abs(drawn[1] - covariance).max())
    order = component(Sampler, spec).order
    assert order - 0.35 < math.log2(errors[0] / errors[1]) < order + 0.7
    ends = (torch.from_numpy(values).reshape(EVENT) for values in (first, last))
    moments = Moments(torch.from_numpy(mean).reshape(EVENT), torch.tensor(covariance.diagonal()).reshape(EVENT), 1)
    own = Diffusion(component(Rotation, "identity"), SteadyScales(steps, *ends), EVENT, moments)
    found = law(
        own, at_steps(spec, list(range(steps, -1, -1))), Gaussian.dense(moments.mean, torch.from_numpy(covariance))
    )
    close(found.mean[0], drawn[0], 1e-7)
    close(found.covariance[0], drawn[1], 1e-7)


# --- likelihood and losses ----------------------------------------------------------------------------------------------


def test_the_bound_is_the_divergence_of_two_chains_of_whole_matrices(data):
    """Gaussian data that are diagonal in U: all is quadratic, and two points a side of the mean have its exact moments."""
    steps, oracle = 6, dense.Process.blur(EVENT, 6, f_max=2.5)
    m, c = oracle.U.T @ data[0], (oracle.U.T @ data[1] @ oracle.U).diagonal()
    process = ours(m, c, steps)
    model = GaussianScore(process, process.moments.mean, process.moments.variance)
    signs = torch.tensor([(1, 1), (1, -1), (-1, 1), (-1, -1)], dtype=torch.float64).T.reshape(2, 4, 1, 1, 1)
    x_bar_0 = torch.from_numpy(m).reshape(EVENT) + signs[0] * torch.from_numpy(c**0.5).reshape(EVENT)
    eps_bar = signs[1].expand(4, *EVENT).contiguous()
    total = prior_term(process, x_bar_0).mean()
    for i in range(2, steps + 1):
        total = total + step_term(process, model, x_bar_0, eps_bar, torch.full((4,), i)).mean()
    total = total + continuous_decoder(process, model, process.unrotate(x_bar_0), process.unrotate(eps_bar)).mean()
    wanted = dense.bound(oracle, data[0], (oracle.U * c) @ oracle.U.T)
    assert float(total) == pytest.approx(wanted, rel=1e-9)


def of_view(name: str, a, s, a_before, s_before, m, c, x_0, eps):
    """What a network should say, per component, written down once more."""
    v = a**2 * c + s**2
    T = s / np.sqrt(v) * (x_0 - m) / np.sqrt(c) - a * np.sqrt(c / v) * eps
    views = {
        "eps": eps,
        "score": eps,
        "min-snr": eps,
        "x0": x_0,
        "x0-l1": x_0,
        "edm": x_0,
        "std": s * eps,
        "v": a * eps - s * x_0,
        "velocity": N * ((a - a_before) * x_0 + (s - s_before) * eps),
    }
    return {**views, "residual": a_before * x_0 - (a * x_0 + s * eps), "wiener": T, "elbo": T}[name]


@pytest.mark.parametrize("name", default_registry().names("objective"))
def test_a_loss_is_its_formula(name, oracle, data, rng):
    """Of a network that answers with half of what it sees: its input, its target and the weight of its errors."""
    m, c = oracle.U.T @ data[0], (oracle.U.T @ data[1] @ oracle.U).diagonal()
    x_0, eps = torch.randn(2, 4, *EVENT, generator=rng)
    i = torch.tensor([1, 2, 17, N])
    found = component(Objective, name).loss(lambda x, i: 0.5 * x, ours(m, c), x_0, i, eps).per_event
    for k, step in enumerate(i.tolist()):
        a, s, before = oracle.a[step], oracle.s[step], oracle.a[step - 1]
        x_0_bar, eps_bar = (oracle.U.T @ values[k].flatten().double().numpy() for values in (x_0, eps))
        x_bar = a * x_0_bar + s * eps_bar
        v = a**2 * c + s**2
        seen = (x_bar - a * m) / np.sqrt(v) if name in ("wiener", "elbo") else x_bar
        error = 0.5 * seen - of_view(name, a, s, before, oracle.s[step - 1], m, c, x_0_bar, eps_bar)
        snr, snr_before = (a / s) ** 2, (before / np.maximum(oracle.s[step - 1], 1e-30)) ** 2
        weight = {
            "score": 1 / s**2,
            "edm": snr + 0.5**-2,
            "min-snr": np.minimum(snr, 5) / snr,
            "elbo": N / 2 * (snr if step == 1 else snr_before - snr) * c * s**2 / v,
        }.get(name, np.ones(6))
        squares = weight * error**2
        wanted = {"residual": squares.sum(), "x0-l1": np.abs(oracle.U @ error).mean()}.get(name, squares.mean())
        assert float(found[k]) == pytest.approx(wanted, rel=2e-3)
