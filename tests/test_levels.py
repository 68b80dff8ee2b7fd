"""The law of noise levels."""

import pytest
import torch

from gendiff.datasets.batches import Batches
from gendiff.diffusion import Diffusion
from gendiff.levels import Adaptation, Levels
from gendiff.testing import checks
from gendiff.testing.probes import SmoothNoise

EVENT = (1, 4, 4)
DATA = SmoothNoise(shape=EVENT)


def flow(velocity="rectified-flow", N=1000):
    return Diffusion.of("identity", velocity, EVENT, N)


@pytest.mark.parametrize("name", ["uniform", "log-normal", "logit-normal", "cosine", "low-discrepancy", "importance"])
def test_each_law_keeps_its_promises(name):
    for check in checks(Levels(name)):
        check()


def test_log_normal_has_the_published_density():
    diffusion = flow("edm")
    p = Levels("log-normal").probabilities(diffusion)
    log_sigma = -diffusion.at(torch.arange(1, 1001), torch.float64).half_log_snr.flatten()
    for quantile, u in ((-2.0, 0.02275), (0.0, 0.5), (1.0, 0.84134)):
        assert abs(float(p[log_sigma <= -1.2 + 1.2 * quantile].sum()) - u) < 4e-3


def test_laws_of_t_have_their_cumulative_distribution():
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    logit = Levels("logit-normal:mean=0.5,std=0.8").probabilities(flow()).cumsum(0)
    assert torch.allclose(logit, torch.special.ndtr((torch.logit(t) - 0.5) / 0.8))
    u = Levels("cosine").probabilities(flow()).cumsum(0)[:-1]
    assert torch.allclose(1 - 1 / (torch.tan(torch.pi * u / 2) + 1), t[:-1])


def test_draws_do_not_depend_on_the_split_and_leave_the_noise_alone():
    draws = Levels("logit-normal").draws(flow(), 3, 8)
    whole, plain = Batches(DATA, 1000, 3, 8, levels=draws)[5], Batches(DATA, 1000, 3, 8)[5]
    halves = [Batches(DATA, 1000, 3, 8, rank, 2, levels=draws)[5] for rank in (0, 1)]
    assert torch.equal(whole.i, torch.cat([half.i for half in halves]))
    assert torch.equal(whole.eps, plain.eps)
    assert not torch.equal(whole.i, plain.i)


def test_low_discrepancy_is_spread_evenly():
    draws = Levels("low-discrepancy").draws(flow(), 0, 10)
    i = torch.cat([draws(7, position) for position in range(10)]).sort().values
    assert set(i.diff().tolist()) <= {99, 100, 101}


def test_the_unbiased_loss_is_that_of_the_uniform_law():
    diffusion, loss = flow(), torch.linspace(0, 3, 1001) ** 2
    levels = Levels("logit-normal:unbiased=true")
    p, factor = levels.probabilities(diffusion), levels.correction(diffusion)
    assert float((p * (factor * loss)[1:].double()).sum()) == pytest.approx(float(loss[1:].mean()), rel=1e-5)
    assert Levels("logit-normal").correction(diffusion) is None


def adapted(spec, loss, steps=3000, N=1000, batch=32, continuous=False):
    """A law that has met a loss which is a function of i."""
    law = Adaptation(Levels(spec), N, torch.device("cpu"), continuous)
    generator, yes = torch.Generator().manual_seed(0), torch.tensor(True)
    for _ in range(steps):
        i = law.steps(torch.rand(batch, generator=generator, dtype=torch.float64))
        law.learn(i, loss(i).float(), yes, lambda values: values)
    return law


@pytest.mark.parametrize("continuous", [False, True])
def test_importance_converges_to_the_profile_of_the_loss(continuous):
    def loss(i):
        return 0.1 + torch.sin(3 * i.double() / 1000) ** 2

    p = adapted("importance:bins=50,decay=0.99", loss, continuous=continuous).probabilities
    profile = loss(torch.arange(1, 1001))
    wanted = 0.9 * profile / profile.sum() + 0.1 / 1000
    assert float((p / wanted - 1).abs().max()) < 0.12  # of bins of 20 steps, in which the profile is no constant
    in_bins = (p.reshape(50, 20).mean(1), wanted.reshape(50, 20).mean(1))
    assert torch.allclose(*in_bins, rtol=0.02)


def test_importance_forgets():
    law = adapted("importance:bins=4,decay=0.9", lambda i: torch.where(i > 500, 1.0, 0.0), steps=200)
    assert law.probabilities[:500].sum() == pytest.approx(0.05, abs=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        i = law.steps(torch.rand(32, generator=generator, dtype=torch.float64))
        law.learn(i, torch.where(i > 500, 0.0, 1.0), torch.tensor(True), lambda values: values)
    assert law.probabilities[500:].sum() == pytest.approx(0.05, abs=1e-3)


def test_no_level_is_starved():
    law = adapted("importance:bins=10,floor=0.2,decay=0.9", lambda i: torch.where(i > 900, 1.0, 0.0), steps=300)
    assert float(law.probabilities.min()) == pytest.approx(0.2 / 1000)
    assert float(law.probabilities.sum()) == pytest.approx(1)
    assert float(law.correction(torch.arange(1, 1001)).max()) == pytest.approx(1 / 0.2)


def test_without_any_loss_it_is_the_uniform_law():
    for loss in (lambda i: 0.0 * i, None):
        law = adapted("importance", loss, steps=0 if loss is None else 5)
        assert torch.allclose(law.probabilities, torch.full((1000,), 1e-3, dtype=torch.float64))


@pytest.mark.parametrize(("N", "bins"), [(2, 100), (23, 10), (1000, 7), (1000, 1000)])
def test_an_adaptive_law_is_monotone_and_its_correction_is_that_of_its_draws(N, bins):
    law = adapted(f"importance:bins={bins}", lambda i: 1 / i.double(), steps=50, N=N)
    u = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:-1]
    i = law.steps(u)
    assert bool((i.diff() >= 0).all())
    assert (int(i.min()), int(i.max())) == (1, N)
    share = torch.bincount(i, minlength=N + 1)[1:].double() / len(u)
    assert torch.allclose(share, law.probabilities, atol=3e-5)
    assert float((law.correction(i) * i**2).mean()) == pytest.approx(
        float((torch.arange(1, N + 1).double() ** 2).mean()), rel=0.02
    )


def test_the_variance_of_the_unbiased_loss_falls():
    def loss(i):
        return (i.double() / 1000) ** 4

    law, u = (
        adapted("importance", loss),
        torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(5)),
    )
    i, even = law.steps(u), 1 + (1000 * u).floor().long()
    estimate = law.correction(i) * loss(i)
    assert float(estimate.mean()) == pytest.approx(0.2, rel=0.05)
    assert float(estimate.std()) < 0.4 * float(loss(even).std())


def test_a_law_goes_on_from_its_state_and_not_from_that_of_another():
    law = adapted("importance:bins=10", lambda i: i.double(), steps=20)
    again, other = (Adaptation(Levels(f"importance:bins={bins}"), 1000, torch.device("cpu")) for bins in (10, 20))
    again.restore(law.state())
    assert torch.equal(again.start, law.start)
    other.restore(law.state())
    assert torch.allclose(other.p, torch.full((20,), 0.05, dtype=torch.float64))


def test_importance_keeps_the_expectation_unless_it_is_told_otherwise():
    assert Levels("importance").unbiased
    assert not Levels("importance:unbiased=false").unbiased
