"""Real time: scales between the steps, the probability-flow ODE against closed forms, samplers that live on it."""

from __future__ import annotations

import json
import math
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from command import TINY, run
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.errors import ArgumentError, ConfigError
from gendiff.flow import Tolerance, field, log_prior, solve
from gendiff.formula import log, over_time
from gendiff.gaussian import GaussianScore
from gendiff.interpolation import between
from gendiff.lab.likelihood import flow_likelihood
from gendiff.lab.recursion import Gaussian, law
from gendiff.level import Level
from gendiff.moments import Moments
from gendiff.plugin.registry import default_registry
from gendiff.run.layers import Layer, resolve
from gendiff.sampler import Sampler, sample
from gendiff.scales import FormulaScales, Scales, VariancePreserving
from gendiff.score import Pivot, ScoreModel, decode, encode
from gendiff.velocity import times

EVENT = (2, 3, 5)
VELOCITIES = ("blur:schedule=log", "isotropic:noise=cosine", "edm", "heat", "blurring", "cold")
C = torch.linspace(0.05, 2.0, 30, dtype=torch.float64).reshape(EVENT)
M = torch.full(EVENT, 0.3, dtype=torch.float64)


def process(velocity: str, N: int = 100, moments: Moments | None = None) -> Diffusion:
    return Diffusion.of("dct", velocity, EVENT, N, moments)


# --- scales between the steps ------------------------------------------------------------------------------------------


class OwnScales(VariancePreserving):
    """Scales of an author who looks a table up, at whole steps alone."""

    N = 50
    table = -(torch.linspace(0, 3, 51, dtype=torch.float64) ** 2)
    device = torch.device("cpu")

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        return self.table[i].reshape(-1, 1, 1, 1)


class OwnPair(Scales):
    """The same, told by log a and log s."""

    N = 50
    device = torch.device("cpu")

    def log_a(self, i: Tensor) -> Tensor:
        return OwnScales().log_a(i)

    def log_s(self, i: Tensor) -> Tensor:
        return OwnScales().log_s(i)


@pytest.mark.parametrize(
    "scales",
    [*(process(velocity).scales for velocity in VELOCITIES), OwnScales(), OwnPair()],
    ids=lambda s: repr(s)[:20],
)
def test_at_whole_steps_real_time_is_the_process_itself_and_λ_never_rises_between_them(scales):
    whole = torch.arange(scales.N + 1)
    for real, own in zip(scales.at(whole.double()), (scales.log_a(whole), scales.log_s(whole)), strict=True):
        assert torch.equal(real, own)
    i = torch.linspace(1, scales.N, 1571, dtype=torch.float64)
    assert (scales.half_log_snr(i).diff(dim=0) <= 1e-12).all()


def test_between_whole_steps_stands_the_formula_of_a_schedule():
    i = torch.linspace(3, 930, 500, dtype=torch.float64)
    t = i / 1000

    def L(velocity: str) -> Tensor:
        return process(velocity, 1000).scales.log_alpha_bar(i).flatten()

    # DDPM: Π (1 - β_j) with β linear in j is a quotient of gamma functions, at real i too.
    step = (0.02 - 1e-4) / 999
    top = (1 - 1e-4) / step
    ddpm = i * math.log(step) + torch.lgamma(torch.tensor(top + 1, dtype=torch.float64)) - torch.lgamma(top + 1 - i)
    assert torch.allclose(L("isotropic"), ddpm, atol=1e-7, rtol=0)
    angle = (torch.cat([t, t[:1] * 0]) + 0.008) / 1.008 * math.pi / 2
    cosine = 2 * (angle.cos()[:-1].log() - angle.cos()[-1].log())
    assert torch.allclose(L("isotropic:noise=cosine"), cosine, atol=1e-7, rtol=0)
    edm = process("edm", 1000).scales.at(i)[1].flatten()
    root = 0.002 ** (1 / 7) + (i - 1) / 999 * (80 ** (1 / 7) - 0.002 ** (1 / 7))
    assert torch.allclose(edm, 7 * root.log(), atol=1e-7, rtol=0)


def test_what_is_written_in_t_is_a_formula_in_t_and_has_its_limit_at_0_too():
    t = times(10)
    rectified = FormulaScales(10, log(1 - over_time(t * 0.999)), log(over_time(t)))
    i = torch.tensor([0.01, 0.5, 1.25, 9.9], dtype=torch.float64)
    log_a, log_s = rectified.at(i)
    assert torch.allclose(log_a.flatten(), torch.log1p(-0.0999 * i), rtol=1e-13)
    assert torch.allclose(log_s.flatten(), (i / 10).log(), rtol=1e-13)


@pytest.mark.parametrize(
    "velocity",
    ["rectified-flow", "low-pass-flow", "k-flow", "k-flow:bands=3,overlap=0.3", "interpolant:a='(1-t)**(1+r)',s=t"],
)
def test_between_steps_flows_are_their_formulas_too_to_the_very_end(velocity):
    """As a process of eight times as many steps has them: where windows open, and where nothing is left of the data."""
    own, fine = (Diffusion.of("dct", velocity, EVENT, N) for N in (20, 160))
    i = torch.arange(1, 160)
    one, other = own.at(i.double() / 8, torch.float64), fine.at(i, torch.float64)
    torch.testing.assert_close(one.a, other.a, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(one.s, other.s, rtol=1e-9, atol=1e-11)


def test_where_a_process_jumps_it_has_no_limit_and_says_so():
    with pytest.raises(ArgumentError, match=r"no continuous limit at step 0\.5") as raised:
        process("edm").at(0.5).s  # noqa: B018  # computed when it is asked for
    assert "real ones from 1 on" in str(raised.value.fix)
    assert process("edm").at(0.0).s == 0
    assert process("isotropic").at(0.5).s > 0
    with pytest.raises(ArgumentError, match=r"outside 1\.\.100"):
        process("isotropic").asked(torch.zeros(1, *EVENT), 0.0)


def test_which_velocities_have_no_limit_below_step_1():
    """All others have one in all of [0, N]; these too from step 1 on."""
    jump = set()
    for name in default_registry().names("velocity"):
        config = resolve([Layer("the test", {"rotation": "dct", "velocity": name, "data": "digits", "N": 50})]).config
        own = config.diffusion()
        real = own.at(torch.tensor([1.0, 1.5, 49.75, 50.0], dtype=torch.float64))
        assert real.log_s.isfinite().all()
        if name != "soft-conditioning":
            assert own.at(0.5).log_a.isfinite().all()  # the signal fades from 1 without a jump
        try:
            own.at(0.5).log_s  # noqa: B018
        except ArgumentError:
            jump.add(name)
    assert jump == {"edm", "anisotropic", "heat", "soft-conditioning"}


@pytest.mark.parametrize("scales", [OwnScales(), OwnPair(), process("blur:schedule=log").scales])
def test_the_slope_at_a_whole_step_is_that_beside_it(scales):
    own = Level(scales, torch.zeros(1), torch.ones(1), torch.tensor([1.0, 20.0, 49.0], dtype=torch.float64))
    beside = own.beside(own.i + 1e-9)
    assert torch.allclose(own.half_log_snr_speed, beside.half_log_snr_speed, rtol=1e-5)
    assert (own.half_log_snr_speed < 0).all()


@pytest.mark.parametrize("velocity", VELOCITIES)
@pytest.mark.parametrize("parametrization", ["velocity", "residual"])
def test_what_is_said_by_a_step_and_its_predecessor_goes_over_between_steps(velocity, parametrization):
    own = process(velocity, 20, Moments(M, C))
    generator = torch.manual_seed(0)
    pivot = Pivot(*(torch.randn(1, *EVENT, generator=generator, dtype=torch.float64) for _ in range(2)))
    seen = []
    for i in (7, 7.0, 7 + 1e-9, 7.5, 8 - 1e-9, 8, 1.25):
        at = own.at(i, torch.float64)
        output = encode(parametrization, pivot, at)
        if velocity in ("edm", "isotropic:noise=cosine"):  # components of others are gone by then
            back = decode(parametrization, output, at.a * pivot.x_0 + at.s * pivot.eps, at)
            torch.testing.assert_close(back.x_0, pivot.x_0, rtol=1e-6, atol=1e-6)
        seen.append(output)
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(seen[0], seen[2], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(seen[4], seen[5], rtol=1e-6, atol=1e-8)
    assert seen[6].isfinite().all()


def test_a_table_that_rises_by_jumps_never_falls_between_them():
    table = torch.tensor([0.0, 0, 0, 1, 1, 5, 5.01, 90, 90], dtype=torch.float64)
    i = torch.linspace(0, 8, 801, dtype=torch.float64)
    values = between(table.__getitem__, i, 8)
    assert (values.diff() >= -1e-12).all()
    assert torch.equal(values[::100], table)


def test_θ_turns_as_fast_as_its_differences_say():
    own = process("blur:schedule=log", moments=Moments(M, C))
    i = torch.tensor([1.0, 7.3, 50, 99.5], dtype=torch.float64)
    ahead, behind = (own.at(i + sign * 1e-5, torch.float64).theta for sign in (0, -1))
    assert torch.allclose(own.at(i).theta_speed, (ahead - behind) / 1e-5, rtol=1e-4, atol=1e-8)


def test_θ_rests_where_the_signal_has_vanished_however_fast_its_logarithm_falls():
    own = Diffusion.of("dct", "rectified-flow", (1, 2, 2), N=10)
    assert own.at(10.0).a.eq(0).all()
    assert own.at(torch.tensor([10.0], dtype=torch.float64)).theta_speed.eq(0).all()


# --- the ODE -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("velocity", "known"),
    [
        *((velocity, True) for velocity in VELOCITIES[:2]),
        *(pytest.param(velocity, True, marks=pytest.mark.slow) for velocity in VELOCITIES[2:]),
        ("blur:schedule=log", False),
        ("edm", False),
    ],
)
def test_the_ode_of_gaussian_data_is_their_closed_form_in_map_and_density(velocity, known):
    # Without their moments the field is no longer 0: the same ODE in other coordinates.
    own = process(velocity, 40, Moments(M, C) if known else None)
    model = GaussianScore(own, M, C)
    here, there = own.at(1, torch.float64), own.at(own.N, torch.float64)
    v, v_N = (at.a**2 * C + at.s**2 for at in (here, there))
    x_bar = here.a * M + v.sqrt() * torch.randn(2, *EVENT, generator=torch.manual_seed(1), dtype=torch.float64)
    solution = solve(own, model, x_bar, 1, own.N, Tolerance(1e-6, 1e-6), trace="exact")
    expected = there.a * M + (v_N / v).sqrt() * (x_bar - here.a * M)
    assert ((solution.x_bar - expected).abs() / v_N.sqrt()).max() < 1e-3
    nats = 0.5 * (v_N / v).log().expand(EVENT).sum()
    assert (solution.log_density - nats).abs().max() / (30 * math.log(2)) < 1e-4
    if known:
        assert solution.evaluations < 40
    back = solve(own, model, solution.x_bar, own.N, 1, Tolerance(1e-6, 1e-6)).x_bar
    assert ((back - x_bar).abs() / v.sqrt()).max() < 1e-3


class Bent(ScoreModel):
    """A model whose T is no linear function of y and mixes components."""

    def __init__(self, diffusion: Diffusion, size: int) -> None:
        self.diffusion = diffusion
        self.W = torch.randn(size, size, generator=torch.manual_seed(3), dtype=torch.float64) / 3

    def predict(self, x_bar: Tensor, i: int | Tensor) -> Pivot:
        at = self.diffusion.asked(x_bar, i)
        y = ((x_bar - at.a * at.m) / at.v.sqrt()).flatten(1)
        T = torch.tanh(y @ self.W.to(y)).reshape(x_bar.shape)
        y = y.reshape(x_bar.shape)
        return Pivot(x_0=at.m + at.c.sqrt() * (at.cos * y + at.sin * T), eps=at.sin * y - at.cos * T)


@pytest.mark.slow
def test_the_mean_over_all_probes_is_the_exact_trace():
    own = Diffusion.of("dct", "blur", (1, 3), N := 8)
    model = Bent(own, 3)
    x_bar = torch.randn(1, 1, 3, generator=torch.manual_seed(4), dtype=torch.float64)
    signs = torch.tensor(list(product([1.0], (-1.0, 1.0), (-1.0, 1.0))), dtype=torch.float64).reshape(4, 1, 1, 3)
    tolerance = Tolerance(1e-5, 1e-5)
    exact = solve(own, model, x_bar, 1, N, tolerance, trace="exact").log_density
    mean = solve(own, model, x_bar, 1, N, tolerance, trace="hutchinson", probes=signs).log_density
    assert abs(float(exact - mean)) < 1e-9
    # And it is the change of volume of the map itself, here by small steps of Runge and Kutta within each whole one: what a
    # solver that chooses its steps comes to is not smooth enough in x̄ for differences.
    steps = torch.eye(3, dtype=torch.float64).reshape(3, 1, 3) * 1e-4
    ends = [small_steps(own, model, x_bar + sign * steps, 8) for sign in (1, -1)]
    volume = torch.linalg.slogdet(((ends[0] - ends[1]) / 2e-4).flatten(1)).logabsdet
    assert abs(float(exact - volume)) < 3e-4  # and the wrong sign would be 0.17 off


def small_steps(own: Diffusion, model: ScoreModel, y: Tensor, parts: int) -> Tensor:
    """y at N, from 1."""
    h = 1 / parts
    for k in range((own.N - 1) * parts):
        i = [torch.full((len(y),), 1 + (k + part) * h, dtype=torch.float64) for part in (0, 0.5, 1)]
        a = field(own, model, y, i[0])
        b = field(own, model, y + h / 2 * a, i[1])
        c = field(own, model, y + h / 2 * b, i[1])
        y = y + h / 6 * (a + 2 * b + 2 * c + field(own, model, y + h * c, i[2]))
    return y


def test_an_event_takes_the_same_steps_whichever_are_beside_it():
    own = Diffusion.of("dct", "blur", (1, 2, 2), 20)
    model = Bent(own, 4)
    x_bar = torch.randn(4, 1, 2, 2, generator=torch.manual_seed(5), dtype=torch.float64)
    x_bar[2] *= 5  # a harder one
    together = solve(own, model, x_bar, 20, 1).x_bar
    alone = solve(own, model, x_bar[:1].expand(4, -1, -1, -1), 20, 1).x_bar
    assert torch.equal(together[0], alone[0])


def test_the_log_density_of_the_prior():
    own = process("blur", 20, Moments(M, C))
    end = own.at(20, torch.float64)
    x_bar = torch.randn(2, *EVENT, generator=torch.manual_seed(6), dtype=torch.float64)
    for matched, normal in (
        (False, torch.distributions.Normal(0.0, end.s)),
        (True, torch.distributions.Normal(end.a * M, end.v.sqrt())),
    ):
        expected = normal.log_prob(x_bar).flatten(1).sum(1)
        assert torch.allclose(log_prior(own, x_bar, matched), expected, rtol=1e-9)


# --- samplers ----------------------------------------------------------------------------------------------------------


def drawn(own: Diffusion, model: ScoreModel, sampler: str) -> Tensor:
    return sample(own, model, Sampler(sampler), n=3, dtype=torch.float64)


@pytest.mark.slow
def test_dopri5_ends_where_many_small_steps_end():
    own = Diffusion.of("dct", "blur", (1, 2, 2), 1000)
    model = Bent(own, 4)
    fine = drawn(own, model, "heun:grid=uniform,clip=false")
    assert (drawn(own, model, "dopri5:rtol=1e-6,atol=1e-6") - fine).abs().max() < 1e-3
    assert (
        drawn(own, model, "dopri5:rtol=0.1,atol=0.1") - fine
    ).abs().max() > 1e-5  # the error is what it is told to be


def test_dopri5_has_no_plan_and_no_graph():
    own = process("blur", 20, Moments(M, C))
    with pytest.raises(ConfigError, match="chooses its steps as it goes"):
        law(own, Sampler("dopri5"), Gaussian.diagonal(M, C, EVENT))
    with pytest.raises(ArgumentError, match="keeps no graph"):
        sample(own, GaussianScore(own, M, C), Sampler("dopri5"), n=1, graph=True)


@pytest.mark.slow
def test_no_number_of_evaluations_is_said_of_dopri5(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train", *TINY, "--sampler", "dopri5", "--out", "r").code == 0
    done = run("sample", "r", "-n", 2, "--out", "s")
    assert done.code == 0, done.err
    assert json.loads(Path("s/sample.json").read_text())["sampler"]["evaluations"] is None
    assert "evaluations as it chose" in run("runs", "show", "s/grid.png").out
    done = run("evaluate", "r", "-n", 16, "--features", "pixels")
    assert (done.code, "dopri5, evaluations as it chose" in done.out) == (0, True), done.err
    again = run("runs", "show", "r")
    assert (again.code, "evaluations as it chose" in again.out + again.err) == (0, True)
    arms = ("--arm", "identity", "--arm", "dct sampler=dopri5", "--steps", 2, "--n", 16)
    done = run("compare", *arms)
    assert (done.code, "has no number of evaluations" in done.err) == (2, True), done.err


def test_churn_without_noise_is_heun_to_the_bit():
    own = process("edm", 18)
    model = GaussianScore(own, M, C)
    assert torch.equal(drawn(own, model, "churn:S_churn=0"), drawn(own, model, "heun"))


def test_churn_is_karras_algorithm_2_where_all_components_have_one_level():
    own = Diffusion.of("identity", "edm", (1, 1, 3), 18)
    c, n = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64), 18
    model = GaussianScore(own, torch.zeros(1, 1, 3, dtype=torch.float64), c.reshape(1, 1, 3))
    z = iter(torch.randn(100, 1, 1, 1, 3, generator=torch.manual_seed(7), dtype=torch.float64))
    draws = [next(z) for _ in range(40)]
    used = iter(draws)
    sampler = Sampler("churn:grid=uniform,clip=false,S_churn=10,S_min=0.05,S_max=50,S_noise=1.007")
    x_0 = sample(own, model, sampler, lambda: next(used), dtype=torch.float64)

    used = iter(draws)
    sigmas = [float(own.at(i, torch.float64).s) for i in range(n, -1, -1)]
    x = sigmas[0] * next(used).flatten()

    def slope(x: Tensor, sigma: float) -> Tensor:
        return (x - c / (c + sigma**2) * x) / sigma

    for k, (sigma, following) in enumerate(pairwise(sigmas)):
        raised = sigma
        if 0.05 <= sigma <= 50 and k > 0:
            raised = sigma * (1 + min(10 / n, math.sqrt(2) - 1))
            x = x + math.sqrt(raised**2 - sigma**2) * 1.007 * next(used).flatten()
        d = slope(x, raised)
        guess = x + (following - raised) * d
        # A straight line is not drawn over more than e² in σ (see `heun`).
        far = following == 0 or math.log(raised / following) > 2
        x = guess if far else x + (following - raised) * (d + slope(guess, following)) / 2
    assert torch.allclose(x_0.flatten(), x, atol=1e-9)


def test_churn_stays_a_state_of_a_process_of_many_speeds():
    own = process("blur:schedule=log", 40, Moments(M, C))
    updates = list(Sampler("churn:S_churn=20,S_min=0,S_max=1e6").updates(own))
    lifted = [update for update in updates if update.e is not None]
    assert len(lifted) > 12
    assert all(update.j > update.i for update in lifted)
    out = law(
        own, Sampler("churn:S_churn=20,S_min=0,S_max=1e6,S_noise=1,prior=matched"), Gaussian.diagonal(M, C, EVENT)
    )
    spread = torch.diagonal(out.covariance, dim1=-2, dim2=-1).flatten()
    assert ((spread / C.flatten()).log().abs() < 0.2).all()


def test_the_likelihood_of_gaussian_data_is_their_own_density_whatever_the_batch():
    own = process("blur", 40, Moments(M, C))
    model = GaussianScore(own, M, C)
    data = [
        own.unrotate(M + C.sqrt() * torch.randn(1, *EVENT, generator=torch.manual_seed(k), dtype=torch.float64))[0]
        for k in range(3)
    ]
    first = own.at(1, torch.float64)
    spread = (C + (first.s / first.a) ** 2).sqrt()
    density = torch.distributions.Normal(M, spread).log_prob(own.rotate(torch.stack(data)))
    bits = -float(density.flatten(1).sum(1).mean()) / (30 * math.log(2))
    one, other = (
        flow_likelihood(own, model, data.__getitem__, range(3), eight_bit=False, matched=True, chunk=chunk)
        for chunk in (1, 3)
    )
    # The ODE knows a_1 m where the data are seen without the noise of step 1: both are of the same law.
    assert abs(one.total.bits - bits) < 1e-4
    assert abs(one.total.bits - other.total.bits) < 1e-12
