"""The law of noise levels."""

import pytest
import torch

from gendiff.datasets.batches import Batches
from gendiff.diffusion import Diffusion
from gendiff.levels import Levels
from gendiff.testing import checks
from gendiff.testing.probes import SmoothNoise

EVENT = (1, 4, 4)
DATA = SmoothNoise(shape=EVENT)


def flow(velocity="rectified-flow", N=1000):
    return Diffusion.of("identity", velocity, EVENT, N)


@pytest.mark.parametrize("name", ["uniform", "log-normal", "logit-normal", "cosine", "low-discrepancy"])
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
