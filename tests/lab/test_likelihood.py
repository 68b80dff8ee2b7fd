"""The bound on the likelihood, against joint Gaussians, telescoping sums and probabilities that add up to 1."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import scipy.stats
import torch
from command import TINY, run
from processes import diffusion, scales_at
from scipy.special import log_ndtr
from torch import Tensor

from gendiff import bound as bound_terms
from gendiff.bound import byte_decoder, continuous_decoder, prior_term, proposal, step_term, to_bytes
from gendiff.diffusion import Diffusion
from gendiff.errors import ArgumentError
from gendiff.gaussian import DenseGaussianScore, GaussianScore
from gendiff.lab.likelihood import bound
from gendiff.moments import Moments
from gendiff.run.layers import Layer, resolve
from gendiff.scales import VariancePreserving
from gendiff.score import Pivot, ScoreModel
from gendiff.streams import stream

EVENT = (2, 3, 5)


def gaussian(N: int, velocity: str = "blur:schedule=log", m: float = 0.3) -> Diffusion:
    """A process and the moments of Gaussian data that are diagonal in it."""
    process = diffusion("dct", velocity, EVENT, N)
    c = torch.linspace(0.05, 2.0, 30, dtype=torch.float64).reshape(EVENT)
    return Diffusion(process.rotation, process.scales, EVENT, Moments(torch.full(EVENT, m, dtype=torch.float64), c))


def best(process: Diffusion) -> GaussianScore:
    return GaussianScore(process, process.moments.mean, process.moments.variance)


def sigma_points(process: Diffusion) -> tuple[Tensor, Tensor]:
    """Four (x̄_0, ε̄) with the exact first and second moments of data and noise: what is quadratic has its exact mean."""
    m, c = process.moments.mean, process.moments.variance
    signs = torch.tensor([(1, 1), (1, -1), (-1, 1), (-1, -1)], dtype=torch.float64)
    one, other = signs.T.reshape(2, 4, 1, 1, 1)
    return m + one * c.sqrt(), other + torch.zeros_like(c)


def expected(process: Diffusion, matched: bool = False) -> tuple[float, float, float]:
    """The exact means of the three parts over Gaussian data, in nats."""
    model, (x_bar_0, eps_bar) = best(process), sigma_points(process)
    steps = sum(
        float(step_term(process, model, x_bar_0, eps_bar, torch.full((4,), i)).mean()) for i in range(2, process.N + 1)
    )
    x_0, eps = process.unrotate(x_bar_0), process.unrotate(eps_bar)
    decoder = float(continuous_decoder(process, model, x_0, eps).mean())
    return float(prior_term(process, x_bar_0, matched).mean()), steps, decoder


# --- joint Gaussians ----------------------------------------------------------------------------------------------------


def kl(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor) -> float:
    inverse, shift = torch.linalg.inv(cov_p), mean_p - mean_q
    spread = torch.logdet(cov_p) - torch.logdet(cov_q) + (inverse @ cov_q).trace()
    return 0.5 * float(spread + shift @ inverse @ shift - len(cov_q))


def joint(mean_first: float, var_first: float, steps: list[tuple[float, float, float]]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a chain ``y_{n+1} = g y_n + h + N(0, w)`` in the order it is drawn; ``steps`` hold (g, h, w)."""
    size = len(steps) + 1
    mean, cov = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    mean[0], cov[0, 0] = mean_first, var_first
    for n, (g, h, w) in enumerate(steps, start=1):
        mean[n] = g * mean[n - 1] + h
        cov[n, :n] = cov[:n, n] = g * cov[n - 1, :n]
        cov[n, n] = g**2 * cov[n - 1, n - 1] + w
    return mean, cov


@pytest.mark.parametrize("matched", [False, True])
def test_the_bound_is_the_divergence_of_the_chains_and_the_entropy_of_the_data(matched):
    process = gaussian(7)
    m, c = process.moments.mean, process.moments.variance
    total = 0.0
    tables = [
        (process.kernel(i, i - 1), process.posterior(i, i - 1), process.at(i, torch.float64)) for i in range(1, 8)
    ]
    for k in range(30):
        at = lambda values, k=k: float(torch.broadcast_to(values, (1, *EVENT))[0].flatten()[k])  # noqa: E731
        m_k, c_k = at(m), at(c)
        forward = [(at(kernel.scale), 0.0, at(kernel.std) ** 2) for kernel, _, _ in tables]
        mean_q, cov_q = joint(m_k, c_k, forward)
        # Backwards, from N to 0: the posterior at x̂_0 = m + (a c/v)(x̄ - a m), and the decoder at the last step.
        backward = []
        for i in range(7, 0, -1):
            _, posterior, level = tables[i - 1]
            a, s, v = at(level.a), at(level.s), at(level.v)
            p, q, std = (at(posterior.p), at(posterior.q), at(posterior.std)) if i > 1 else (0.0, 1.0, s / a)
            slope = a * c_k / v
            backward.append((p + q * slope, q * m_k * (1 - slope * a), std**2))
        end = tables[-1][2]
        first = (at(end.a) * m_k, at(end.v)) if matched else (0.0, at(end.s) ** 2)
        mean_p, cov_p = joint(*first, backward)
        order = torch.arange(7, -1, -1)
        total += kl(mean_q, cov_q, mean_p[order], cov_p[order][:, order]) + 0.5 * math.log(2 * math.pi * math.e * c_k)
    assert sum(expected(process, matched)) == pytest.approx(total, rel=1e-9)


class Even(VariancePreserving):
    """λ falls from 6 to -6 in even steps, the same for every component."""

    device = torch.device("cpu")

    def __init__(self, N: int) -> None:
        self.N = N

    def log_alpha_bar(self, i):
        lam = 6 - 12 * (i.double() - 1) / (self.N - 1)
        L = -torch.nn.functional.softplus(-2 * lam)
        return torch.where(i == 0, 0.0, L).reshape(-1, 1, 1, 1)

    def to(self, device):
        return self


def test_with_more_steps_the_bound_comes_down_to_the_entropy_of_the_data():
    gaps = []
    for N in (100, 400, 1600):
        coarse = gaussian(7)
        process = Diffusion(coarse.rotation, Even(N), EVENT, coarse.moments)
        entropy = float((0.5 * torch.log(2 * math.pi * math.e * process.moments.variance)).sum())
        gaps.append((sum(expected(process, matched=True)) - entropy) / 30)
    assert all(gap > 0 for gap in gaps)
    assert gaps[2] < gaps[1] < gaps[0]
    assert gaps[2] == pytest.approx(gaps[1] / 4, rel=0.1)  # of first order in the length of a step
    assert gaps[2] < 0.05  # nats per dimension


def test_a_step_in_terms_of_epsilon(rng):
    process = gaussian(20)
    x_bar_0, eps_bar = torch.randn(2, 3, *EVENT, generator=rng, dtype=torch.float64)
    i = torch.tensor([2, 9, 20])
    at = process.at(i, torch.float64)
    eps = best(process).predict(at.a * x_bar_0 + at.s * eps_bar, i).eps
    omega = torch.expm1(2 * (at.before.half_log_snr - at.half_log_snr)) / 2
    terms = (omega * (eps - eps_bar) ** 2).flatten(1).sum(1)
    torch.testing.assert_close(step_term(process, best(process), x_bar_0, eps_bar, i), terms)


def test_a_component_that_vanishes_costs_nothing():
    process = diffusion("dct", "fine-to-coarse:schedule='linear:f_max=5'", EVENT, 20)
    found = step_term(process, best(process), torch.ones(1, *EVENT), torch.ones(1, *EVENT), torch.tensor([15]))
    assert torch.isfinite(found).all()


# --- the estimate -------------------------------------------------------------------------------------------------------


class Fixed(ScoreModel):
    """Believes in one x_0 whatever it sees."""

    def __init__(self, x_bar_0: Tensor) -> None:
        self.x_bar_0 = x_bar_0

    def predict(self, x_bar, i):
        x_0 = self.x_bar_0.to(x_bar.dtype).expand_as(x_bar)
        return Pivot(x_0=x_0, eps=torch.zeros_like(x_0))


def test_the_proposal_is_a_distribution_and_no_step_is_forgotten():
    process = gaussian(30)
    p = proposal(process)
    assert p.shape == (29,)
    assert float(p.sum()) == pytest.approx(1)
    assert float(p.min()) >= 0.2 / 29
    model, (x_bar_0, eps_bar) = best(process), sigma_points(process)
    terms = torch.stack([step_term(process, model, x_bar_0, eps_bar, torch.full((4,), i)).mean() for i in range(2, 31)])
    torch.testing.assert_close(p, 0.8 * terms / terms.sum() + 0.2 / 29)


def test_for_a_fixed_belief_the_sum_over_steps_telescopes(rng):
    process = gaussian(60)
    events = torch.randn(6, *EVENT, generator=rng)
    found = bound(process, Fixed(torch.zeros(EVENT)), lambda k: events[k], range(6), eight_bit=False, draws=120)
    error = process.rotate(events).double() ** 2
    snr_1, snr_N = (torch.exp(2 * process.at(i).half_log_snr) for i in (1, 60))
    nats = 0.5 * ((snr_1 - snr_N) * error).flatten(1).sum(1).mean()
    assert found.steps.bits == pytest.approx(float(nats) / (30 * math.log(2)), rel=2e-2)
    prior = 0.5 * (snr_N * error).flatten(1).sum(1) / (30 * math.log(2))
    assert found.prior.bits == pytest.approx(float(prior.mean()), rel=1e-5)
    assert found.prior.error == pytest.approx(float(prior.std()) / math.sqrt(6), rel=1e-5)
    assert found.total.bits == pytest.approx(found.prior.bits + found.steps.bits + found.decoder.bits, rel=1e-9)
    assert (found.events, found.draws) == (6, 120)


def test_the_decoder_is_of_bytes_or_of_numbers_as_asked(rng):
    """For a fixed belief it does not depend on the noise."""
    process = gaussian(20)
    events = torch.rand(4, *EVENT, generator=rng) * 2 - 1
    model = Fixed(process.rotate(events.mean(0, keepdim=True))[0])
    for eight_bit, x_0, decoder in ((True, to_bytes(events), byte_decoder), (False, events, continuous_decoder)):
        found = bound(process, model, lambda k: events[k], range(4), eight_bit=eight_bit, draws=1)
        nats = decoder(process, model, x_0, torch.zeros_like(x_0))
        assert found.decoder.bits == pytest.approx(float(nats.mean()) / (30 * math.log(2)), rel=1e-5)


def test_the_estimate_does_not_depend_on_how_many_events_are_computed_at_once(rng):
    process = gaussian(25)
    events = torch.randn(5, *EVENT, generator=rng)
    done: list[int] = []
    one, other = (
        bound(process, best(process), lambda k: events[k], [4, 0, 2], eight_bit=False, chunk=chunk, watch=done.append)
        for chunk in (1, 2)
    )
    assert one.total.bits == pytest.approx(other.total.bits, rel=1e-5)
    assert done == [1, 2, 3, 2, 3]
    third = bound(process, best(process), lambda k: events[k], [4, 0, 2], eight_bit=False, seed=1)
    assert third.steps.bits != one.steps.bits


def test_for_gaussian_data_the_estimate_is_the_exact_value_within_its_error(rng):
    process = gaussian(40)
    x_bar_0 = process.moments.mean + process.moments.variance.sqrt() * torch.randn(400, *EVENT, generator=rng)
    events = process.unrotate(x_bar_0).float()
    found = bound(process, best(process), lambda k: events[k], range(400), eight_bit=False)
    exact = [nats / (30 * math.log(2)) for nats in expected(process)]
    for part, wanted in zip((found.prior, found.steps, found.decoder), exact, strict=True):
        assert part.error < 0.02 * abs(wanted) + 1e-3
        assert abs(part.bits - wanted) < 4 * part.error
    assert abs(found.total.bits - sum(exact)) < 4 * found.total.error


# --- bytes --------------------------------------------------------------------------------------------------------------


def byte_probabilities(process: Diffusion, belief: Tensor) -> np.ndarray:
    """The probability of each of the 256 values at each pixel, ``(256, *event)``, with SciPy's normal distribution.

    Edges between bins lie in the middle between two values; σ² is the mean of s_1²/a_1² over components.
    """
    a, s = (np.broadcast_to(values.numpy(), belief.shape) for values in scales_at(process, 1, torch.float64))
    sigma = np.sqrt(np.mean((s / a) ** 2))
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    below = scipy.stats.norm.cdf(edges.reshape(-1, 1, 1, 1), loc=belief.numpy(), scale=sigma)
    return np.diff(below, axis=0)


@pytest.mark.parametrize("velocity", ["isotropic", "blur:schedule=log", "spectrum-matched:power_law=[1.59,0.0086,2]"])
def test_every_value_of_a_byte_has_the_mass_of_its_bin(velocity, rng):
    """All values of all pixels, in a process of one scale and in two of unequal ones."""
    process = diffusion("dct", velocity, (1, 2, 3), 10)
    belief = torch.tensor([[[-1.2, -1.0, -0.98], [0.0031, 0.9, 1.3]]], dtype=torch.float64)
    model = Fixed(process.rotate(belief[None])[0])
    probability = byte_probabilities(process, belief)
    np.testing.assert_allclose(probability.sum(0), 1, rtol=1e-12)
    nearest = ((belief.clamp(-1, 1) + 1) * 127.5).round().long()
    values = (nearest + torch.randint(-2, 3, (100, 1, 2, 3), generator=rng)).clamp(0, 255)
    nats = byte_decoder(process, model, values / 127.5 - 1, torch.zeros(100, 1, 2, 3)).numpy()
    mass = np.take_along_axis(probability, values.numpy(), axis=0)
    kept = (mass > 1e-9).all(axis=(1, 2, 3))  # differences of probabilities near 1 lose the rest
    assert kept.sum() > 3
    np.testing.assert_allclose(nats[kept], -np.log(mass[kept]).sum(axis=(1, 2, 3)), rtol=1e-5)


def test_the_probabilities_of_all_values_of_a_byte_add_up_to_one():
    """One pixel, of which nothing is written down here but the values."""
    process = diffusion("identity", "isotropic", (1, 1, 1), 10)
    values = (torch.arange(256).double() / 127.5 - 1).reshape(256, 1, 1, 1)
    for mu in (-1.2, -1.0, -0.98, 0.0031, 0.9, 1.3):
        belief = Fixed(torch.full((1, 1, 1), mu, dtype=torch.float64))
        nats = byte_decoder(process, belief, values, torch.zeros_like(values))
        assert float(torch.exp(-nats).sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("lower", "upper"), [(-1.0, 0.5), (20.0, 20.5), (-40.5, -40.0), (0.0, 1e-6), (300.0, 301.0)])
def test_a_mass_far_out_in_a_tail(lower, upper):
    found = float(bound_terms._log_mass(torch.tensor(lower).double(), torch.tensor(upper).double()))
    near, far = sorted((abs(lower), abs(upper))) if lower * upper > 0 else (None, None)
    if near is None:
        wanted = math.log(0.5 * (math.erf(upper / math.sqrt(2)) - math.erf(lower / math.sqrt(2))))
    else:
        wanted = log_ndtr(-near) + math.log1p(-math.exp(log_ndtr(-far) - log_ndtr(-near)))
    assert found == pytest.approx(wanted, rel=1e-9)


def test_bytes():
    x = torch.tensor([-1.3, -1.0, 0.0, 0.0039, 0.99, 1.0])
    assert ((to_bytes(x) + 1) * 127.5).tolist() == pytest.approx([0, 0, 128, 128, 254, 255])


def test_a_basis_does_not_matter_for_a_decoder_of_one_scale(rng):
    one, other = (diffusion(rotation, "isotropic", (1, 4, 6), 30) for rotation in ("identity", "dct"))
    x_0 = to_bytes(torch.rand(2, 1, 4, 6, generator=rng, dtype=torch.float64) * 2 - 1)
    belief = torch.rand(1, 4, 6, generator=rng, dtype=torch.float64)
    bits = [
        byte_decoder(process, Fixed(process.rotate(belief[None])[0]), x_0, torch.zeros_like(x_0))
        for process in (one, other)
    ]
    torch.testing.assert_close(*bits)


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "digits"
    done = run("train", *TINY, "--rotation", "dct", "--set", "N=30", "--out", path)
    assert done.code == 0, done.err
    return path


def test_a_run_has_a_likelihood(trained):
    done = run("process", "likelihood", trained, "--events", 20, "--draws", 3, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found["bits_per_dimension"] == pytest.approx(
        sum(found[part]["bits"] for part in ("prior", "steps", "decoder"))
    )
    assert 0 < found["standard_error"] < found["bits_per_dimension"]
    assert (found["events"], found["draws"], found["convention"]) == (20, 3, "8-bit")
    assert found["held_out"] is False
    again = run("process", "likelihood", trained, "--events", 20, "--draws", 3)
    assert f"{found['bits_per_dimension']:.3f} ± {found['standard_error']:.3f} bits per dimension" in again.out
    assert "the data it was trained on" in again.out
    assert f"next: gendiff sample {trained}" in again.err


def test_other_data_and_another_prior(trained):
    found = run("process", "likelihood", trained, "--events", 8, "--data", "gaussian-field:size=8", "--json").json
    assert (found["convention"], found["held_out"]) == ("continuous", True)
    matched = run("process", "likelihood", trained, "--events", 8, "--prior", "matched", "--json").json
    standard = run("process", "likelihood", trained, "--events", 8, "--json").json
    assert matched["prior"] != standard["prior"]
    assert matched["decoder"] == standard["decoder"]


@pytest.mark.parametrize("prior", ["standard", "matched", "data"])
def test_the_chain_starts_where_the_run_samples_from(prior, tmp_path):
    short = ("--set", "N=20", "--set", f"sampler.prior={prior}", *TINY)
    made = run("train", "--preset", "heat-dissipation", *short, "--out", tmp_path / "r")
    assert made.code == 0, made.err
    options = (tmp_path / "r", "--events", 2, "--draws", 1)
    start = "standard" if prior == "standard" else "matched"
    assert run("process", "likelihood", *options, "--json").json["start"] == start
    assert f"from the {start} prior" in run("process", "likelihood", *options).out


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--data", "digits:size=3"), 2, "has no parameter 'size'"),
        (("--data", "gaussian-field:size=9"), 2, "the data (1, 9, 9)"),
        (("--events", 1), 2, "greater than or equal to 2"),
        (("--prior", "other"), 2, "other"),
    ],
)
def test_a_mistake_is_explained(trained, options, code, said):
    done = run("process", "likelihood", trained, *options)
    assert (done.code, said in done.err) == (code, True), done.err


def test_what_is_no_run_is_refused(tmp_path):
    done = run("process", "likelihood", tmp_path)
    assert (done.code, "is not a run directory" in done.err) == (2, True)


# --- without a run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["blur-diffusion", "rectified-flow"])
def test_without_a_run_the_density_by_the_ode_is_that_of_the_gaussian_in_closed_form(process):
    """Of digits with their whole covariance, through which the ODE has to find its way."""
    options = ("--process", process, "--data", "digits", "--events", 4, "--method", "ode")
    said = run("process", "likelihood", *options, "--trace", "exact", "--rtol", 1e-5, "--json")
    assert said.code == 0, said.err
    facts = said.json
    assert facts["bits_per_dimension"] == pytest.approx(facts["closed_form"], abs=2e-3)
    assert facts["evaluations"] > 40
    assert (facts["covariance"], facts["start"], facts["convention"]) == ("dense", "matched", "8-bit")
    # In NumPy: bytes with uniform noise, seen at a_1, under N(a_1 m, a_1² C + s_1²).
    config = resolve([Layer("the test", {"process": process, "data": "digits"})]).config
    diffusion, data = config.diffusion(), config.data
    first = diffusion.at(1, torch.float64)
    a, s = (np.broadcast_to(value.numpy(), (1, 8, 8)).flatten() for value in (first.a, first.s))
    everything = diffusion.rotate(torch.stack([data[k] for k in data.spread(2048)]).double()).flatten(1).numpy()
    mean, covariance = everything.mean(0), np.cov(everything.T, bias=True)
    chosen = data.spread(4)
    noise = [torch.rand(1, 8, 8, generator=stream(0, "flow-likelihood", k), dtype=torch.float64) for k in chosen]
    x = [to_bytes(data[k].double()) + (2 * u - 1) / 255 for k, u in zip(chosen, noise, strict=True)]
    x_bar = diffusion.rotate(torch.stack(x)).flatten(1).numpy()
    law = scipy.stats.multivariate_normal(mean, covariance + np.diag((s / a) ** 2))
    bits = -(law.logpdf(x_bar) + 64 * math.log(2 / 255)) / (64 * math.log(2))
    assert facts["closed_form"] == pytest.approx(bits.mean(), abs=1e-6)


def test_independent_components_have_no_error_at_all():
    facts = run(
        "process", "likelihood", "--process", "ddpm", "--data", "digits", "--events", 4, "--method", "ode",
        "--covariance", "diagonal", "--json",
    ).json  # fmt: skip
    assert facts["bits_per_dimension"] == pytest.approx(facts["closed_form"], abs=1e-9)
    assert facts["basis"] == "dct"


def test_without_a_run_the_bound_is_above_the_density_and_both_say_of_what_they_are():
    options = (
        "process",
        "likelihood",
        "--process",
        "blur-diffusion",
        "--data",
        "gaussian-field:size=8",
        "--events",
        16,
    )
    bound, density = (run(*options, *more) for more in ((), ("--method", "ode", "--rtol", 1e-5)))
    assert "the best model of them as a Gaussian, with the covariance that the data have" in density.out
    assert re.search(r"in closed form; the ODE is off by [+-]\S+ ± \S+\n", density.out)
    assert "the best model of them as a Gaussian" in bound.out
    for said in (bound, density):
        assert "next: gendiff train --process blur-diffusion --data gaussian-field:size=8" in said.err
    json = [run(*options, *more, "--json").json for more in ((), ("--method", "ode", "--rtol", 1e-5))]
    assert json[0]["bits_per_dimension"] > json[1]["closed_form"] - 3 * json[0]["standard_error"]
    assert json[1]["off"] == pytest.approx(json[1]["bits_per_dimension"] - json[1]["closed_form"], abs=1e-9)


def test_what_probes_of_the_trace_cost_is_said_apart_from_how_events_differ():
    """Events are probable or not in closed form too; in the difference that is gone, and more probes leave less of it."""
    options = (
        "process",
        "likelihood",
        "--process",
        "rectified-flow",
        "--data",
        "digits",
        "--events",
        16,
        "--method",
        "ode",
    )
    exact, few, many = (run(*options, *more, "--json").json for more in (("--trace", "exact"), (), ("--probes", 16)))
    assert exact["off_error"] < 0.1 * exact["standard_error"]
    assert abs(exact["off"]) < 0.05  # what steps cost
    assert few["off_error"] > 2 * many["off_error"] > 4 * exact["off_error"]
    for one in (few, many):
        assert abs(one["off"] - exact["off"]) < 4 * one["off_error"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ema", "0.99"), "--ema is of a run, and none is named"),
        (("--held-out",), "--held-out is of a run, and none is named"),
        (("--process", "nothing"), "unknown process 'nothing'"),
    ],
)
def test_what_only_a_run_has_is_refused_without_one(options, said):
    done = run("process", "likelihood", *options)
    assert (done.code, said in done.err) == (2, True), done.err


def test_a_run_says_itself_what_its_process_is(trained):
    for options in (("--process", "ddpm"), ("--covariance", "dense"), ("--set", "N=10")):
        done = run("process", "likelihood", trained, *options)
        assert (done.code, f"(from {options[0]})" in done.err) == (2, True), done.err
        assert "says itself what its process is" in done.err


def test_the_best_model_of_correlated_data_is_the_diagonal_one_where_they_are_independent(rng):
    m, c = (torch.rand(1, 3, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    process = diffusion("dct", "blur", (1, 3, 4), 30)
    x_bar, i = torch.randn(5, 1, 3, 4, generator=rng, dtype=torch.float64), torch.tensor([1, 30, 7, 12, 20])
    diagonal, dense = GaussianScore(process, m, c), DenseGaussianScore(process, m, torch.diag(c.flatten()))
    for step in (i, i - 0.0, 12, 12.5):
        for one, other in zip(
            vars(diagonal.predict(x_bar, step)).values(), vars(dense.predict(x_bar, step)).values(), strict=True
        ):
            torch.testing.assert_close(one, other)
    with pytest.raises(ArgumentError, match=r"covariance has the shape \(3, 3\)"):
        DenseGaussianScore(process, m, torch.eye(3))
