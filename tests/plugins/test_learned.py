"""Speeds that are learned: a clock for each band that never goes back, gradients that are right, optima that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gendiff import Diffusion, Moments, Rotation, Sampler, Velocity
from gendiff.bound import continuous_decoder, prior_term, proposal, step_term
from gendiff.errors import ConfigError
from gendiff.gaussian import GaussianScore
from gendiff.lab.descent import descend
from gendiff.lab.recursion import Gaussian, NetworkError, law
from gendiff.run.layers import Layer, resolve
from gendiff.sampler import sample
from gendiff.scales import Scales
from gendiff.score import Parametrization
from gendiff.speeds import bound_loss, stratified, trajectory_loss

EVENT = (2, 5, 6)


def learned(spec: str = "learned", event=EVENT, N: int = 40, log_speeds: Tensor | None = None) -> Scales:
    velocity = Velocity(spec)
    if log_speeds is not None:
        velocity = velocity.with_learned({"log_speeds": log_speeds})
    return velocity.scales(Rotation("dct"), event, N)


def drawn(rng, spec: str = "learned:parts=7", event=EVENT, spread: float = 3.0) -> Tensor:
    """Log-speeds of every clock, at random."""
    shape = learned(spec, event).log_speeds.shape
    return spread * torch.randn(shape, generator=rng, dtype=torch.float64)


def process(log_speeds: Tensor, moments: Moments, spec: str, N: int = 40) -> Diffusion:
    event = tuple(moments.mean.shape)
    return Diffusion(Rotation("dct"), learned(spec, event, N, log_speeds), event, moments)


def optimal(diffusion: Diffusion) -> GaussianScore:
    return GaussianScore(diffusion, diffusion.moments.mean, diffusion.moments.variance)


def led(diffusion: Diffusion, sampler: str, start: Tensor) -> Tensor:
    """Where a sampler leads with the optimal model."""
    return sample(diffusion, optimal(diffusion), Sampler(sampler), start=start, dtype=torch.float64)


def moments_of(rng, event=(1, 1, 4)) -> Moments:
    mean = 0.3 * torch.randn(event, generator=rng, dtype=torch.float64)
    return Moments(mean, torch.rand(event, generator=rng, dtype=torch.float64) + 0.05, 1000, "")


class TestClocks:
    def test_even_ones_are_standard_diffusion(self):
        i = torch.arange(41)
        even = learned(N=40).log_alpha_bar(i)
        standard = Velocity("isotropic").scales(Rotation("dct"), EVENT, 40).log_alpha_bar(i)
        torch.testing.assert_close(even, standard.expand_as(even), rtol=1e-12, atol=0)

    @pytest.mark.parametrize(
        "spec", ["learned:parts=7", "learned:parts=1,bands=3", "learned:parts=50,by=component,channels=true"]
    )
    def test_time_never_goes_back_whatever_they_are(self, rng, spec):
        """Each clock goes from one end of the schedule to the other; λ falls at whole steps and between them."""
        scales = learned(spec, log_speeds=drawn(rng, spec, spread=8.0))
        i = torch.linspace(1, 40, 400, dtype=torch.float64)
        assert (scales.half_log_snr(i).diff(dim=0) <= 1e-12).all()
        assert (scales.half_log_snr(torch.arange(1, 41)).diff(dim=0) < 0).all()
        standard = Velocity("isotropic").scales(Rotation("dct"), EVENT, 40)
        ends = torch.tensor([0, 40])
        torch.testing.assert_close(
            scales.log_alpha_bar(ends),
            standard.log_alpha_bar(ends).expand_as(scales.log_alpha_bar(ends)),
            rtol=1e-12,
            atol=0,
        )

    def test_components_of_a_band_share_one(self, rng):
        scales = learned("learned:bands=3,parts=7", log_speeds=drawn(rng, "learned:bands=3,parts=7"))
        lam = scales.half_log_snr(torch.tensor([20]))
        assert len(lam.unique()) == 3
        assert lam.shape == (1, 1, 5, 6)

    def test_channels_have_their_own_where_that_is_asked_for(self, rng):
        spec = "learned:bands=3,parts=7,channels=true"
        lam = learned(spec, log_speeds=drawn(rng, spec)).half_log_snr(torch.tensor([20]))
        assert lam.shape == (1, *EVENT)
        assert len(lam.unique()) == 6

    def test_a_clock_goes_as_fast_as_it_is_told(self):
        """Three quarters of the schedule in the first half of the time."""
        velocity = Velocity.model_validate({"name": "learned", "bands": 1, "parts": 2, "speeds": [[1.5, 0.5]]})
        scales = velocity.scales(Rotation("dct"), EVENT, 40)
        standard = Velocity("isotropic").scales(Rotation("dct"), EVENT, 40)
        got = scales.log_alpha_bar(torch.tensor([20, 30]))[:, 0, 0, 0]
        torch.testing.assert_close(got, standard.log_alpha_bar(torch.tensor([30, 35]))[:, 0, 0, 0], rtol=1e-12, atol=0)

    def test_what_was_learned_can_be_written_and_begun_from(self, rng):
        values = drawn(rng, "learned:parts=7", spread=1.0)
        velocity = Velocity("learned:parts=7")
        again = velocity.model_validate({**velocity.table(), **velocity.written({"log_speeds": values})})
        i = torch.arange(1, 41)
        one, other = again.scales(Rotation("dct"), EVENT, 40), learned("learned:parts=7", log_speeds=values)
        torch.testing.assert_close(one.half_log_snr(i), other.half_log_snr(i), rtol=0, atol=1e-4)

    @pytest.mark.parametrize(
        "speeds", [[[1.0] * 3] * 16, [[-1.0] + [1.0] * 15], [[0.0] * 16]], ids=["few", "back", "none"]
    )
    def test_speeds_that_are_none_are_refused(self, speeds):
        with pytest.raises(ConfigError, match="speeds"):
            Velocity.model_validate({"name": "learned", "speeds": speeds})

    def test_speeds_of_other_events_are_refused(self):
        velocity = Velocity.model_validate({"name": "learned", "bands": 2, "parts": 2, "speeds": [[1.5, 0.5]]})
        with pytest.raises(ConfigError, match="1 clocks, and these events have 2") as caught:
            velocity.scales(Rotation("dct"), EVENT, 40)
        assert caught.value.subject == "velocity.speeds"


class TestGradients:
    def test_of_the_scales(self, rng):
        i = torch.tensor([1, 7, 23, 39])

        def lam(values: Tensor) -> Tensor:
            return learned("learned:bands=2,parts=5", log_speeds=values).half_log_snr(i)

        values = drawn(rng, "learned:bands=2,parts=5", spread=1.0).requires_grad_()
        assert torch.autograd.gradcheck(lam, (values,))

    def test_of_the_bound(self, rng):
        """Through the scales, what a model sees, and what it answers."""
        spec, moments = "learned:bands=2,parts=3", moments_of(rng)
        x_0, eps = torch.randn(2, 3, 1, 1, 4, generator=rng, dtype=torch.float64)
        i, weight = torch.tensor([2, 17, 40]), torch.tensor([3.0, 20.0, 9.0], dtype=torch.float64)

        def loss(values: Tensor) -> Tensor:
            diffusion = process(values, moments, spec)
            return bound_loss(diffusion, optimal(diffusion), x_0, eps, i, weight, eight_bit=False)

        assert torch.autograd.gradcheck(loss, (drawn(rng, spec, spread=1.0).requires_grad_(),))

    def test_of_the_trajectory(self, rng):
        """Where many steps lead counts as true: in the differences too it is held, while the few steps move."""
        spec, moments = "learned:bands=2,parts=3", moments_of(rng)
        few, many = "ddim:steps=3,grid=uniform", "ddim:steps=40"
        values = drawn(rng, spec, spread=1.0).requires_grad_()
        diffusion = process(values, moments, spec)
        start = diffusion.prior(torch.randn(3, 1, 1, 4, generator=rng, dtype=torch.float64))
        loss = trajectory_loss(diffusion, optimal(diffusion), Sampler(few), Sampler(many), start)
        gradient = torch.autograd.grad(loss.sum(), values)[0]
        truth = led(process(values.detach(), moments, spec), many, start)

        def away(values: Tensor) -> Tensor:
            return (led(process(values, moments, spec), few, start) - truth).square().mean((1, 2, 3)).sum()

        start, truth = start.detach(), truth.detach()
        torch.testing.assert_close(loss.detach().sum(), away(values.detach()))
        for place in ((0, 0), (1, 2)):
            moved = torch.zeros_like(values.detach())
            moved[place] = 1e-6
            change = away(values.detach() + moved) - away(values.detach() - moved)
            assert float(change / 2e-6) == pytest.approx(float(gradient[place]), rel=1e-4)


class TestBound:
    def test_its_estimate_has_no_bias(self, rng):
        """The mean over all steps, each as often as it is drawn, is the sum over them."""
        moments = moments_of(rng)
        diffusion = process(drawn(rng, "learned:bands=2,parts=3", spread=1.0), moments, "learned:bands=2,parts=3")
        model, p = optimal(diffusion), proposal(diffusion)
        x_0, eps = torch.randn(2, 1, 1, 1, 4, generator=rng, dtype=torch.float64).expand(2, 39, 1, 1, 4)
        i = torch.arange(2, 41)
        mean = (p * bound_loss(diffusion, model, x_0, eps, i, 1 / p, eight_bit=False)).sum()
        x_bar, eps_bar = diffusion.rotate(x_0), diffusion.rotate(eps)
        whole = step_term(diffusion, model, x_bar, eps_bar, i).sum() + prior_term(diffusion, x_bar[:1])
        whole = whole + continuous_decoder(diffusion, model, x_0[:1], eps[:1])
        assert float(mean) == pytest.approx(float(whole) / 4, rel=1e-10)

    def test_a_chain_may_start_from_the_moments_of_the_data(self, rng):
        """With the matched prior it is that bound: lower by what the two priors' divergences differ by."""
        moments = moments_of(rng)
        diffusion = process(drawn(rng, "learned:bands=2,parts=3", spread=1.0), moments, "learned:bands=2,parts=3", N=4)
        x_0, eps = torch.randn(2, 3, 1, 1, 4, generator=rng, dtype=torch.float64)
        i, weight = torch.tensor([2, 3, 4]), torch.ones(3, dtype=torch.float64)
        standard, matched = (
            bound_loss(diffusion, optimal(diffusion), x_0, eps, i, weight, eight_bit=False, matched=which)
            for which in (False, True)
        )
        x_bar = diffusion.rotate(x_0)
        gained = prior_term(diffusion, x_bar) - prior_term(diffusion, x_bar, matched=True)
        assert (gained.abs() > 1e-3).all()
        torch.testing.assert_close(standard - matched, gained / 4)

    def test_steps_are_drawn_as_often_as_they_should_be(self, rng):
        p = torch.rand(39, generator=rng, dtype=torch.float64)
        p = p / p.sum()
        draws = [stratified(p, 16, torch.rand((), generator=rng, dtype=torch.float64)) for _ in range(2000)]
        i, weight = torch.cat([step for step, _ in draws]), torch.cat([w for _, w in draws])
        assert (int(i.min()), int(i.max())) == (2, 40)
        share = torch.bincount(i - 2, minlength=39) / len(i)
        torch.testing.assert_close(share.double(), p, rtol=0, atol=0.004)
        torch.testing.assert_close(weight, 1 / p[i - 2])


class TestOptimum:
    """Independent Gaussian components: DDIM is best where every step turns θ by the same angle, and what is left is known."""

    @staticmethod
    def best(diffusion: Diffusion, n: int) -> float:
        end = diffusion.at(diffusion.N, torch.float64)
        kept = torch.cos(end.theta / n) ** n  # of the standard deviation
        return float((end.c * (1 - kept) ** 2).expand(diffusion.event_shape).sum())

    def test_the_descent_reaches_it(self):
        table = {"rotation": "dct", "velocity": "learned:by=component,parts=4", "data": "digits", "N": 40}
        table |= {"sampler": "ddim:steps=4,grid=uniform,prior=matched"}
        config = resolve([Layer("the test", table)]).config.fitted()
        fit = descend(config, config.sampler, None, 60)
        best = self.best(config.diffusion(), 4)
        assert fit.before > 1.1 * best
        assert best * (1 - 1e-9) <= fit.after < 1.01 * best
        # What it writes is what it found.
        again = resolve([Layer("the test", {**table, "velocity": fit.config.velocity.table()})]).config.fitted()
        target = Gaussian.of(again.diffusion().moments, again.data.event_shape)
        assert float(law(again.diffusion(), again.sampler, target).distance(target).sum()) == pytest.approx(
            fit.after, rel=1e-3
        )

    @pytest.mark.parametrize("limit", [math.inf, 0.05])
    def test_the_gradient_is_right_where_the_network_is_off_and_clipped(self, rng, limit):
        spec, moments = "learned:by=component,parts=4", moments_of(rng)
        target, sampler = Gaussian.of(moments, (1, 1, 4)), Sampler("ddim:steps=4,grid=uniform,prior=matched")
        wrong = NetworkError(Parametrization.EPS, 0.1, limit)

        def error(free):
            return law(process(free, moments, spec), sampler, target, wrong).distance(target).sum()

        free = (torch.randn(4, 4, generator=rng, dtype=torch.float64) / 4).requires_grad_()
        (gradient,) = torch.autograd.grad(error(free), free)
        for place in ((0, 1), (2, 0), (3, 3)):
            step = torch.zeros(4, 4, dtype=torch.float64)
            step[place] = 1e-6
            change = error(free.detach() + step) - error(free.detach() - step)
            assert float(change / 2e-6) == pytest.approx(float(gradient[place]), rel=1e-4)

    @pytest.mark.slow
    def test_a_trajectory_that_is_learned_reaches_it(self, rng):
        """With the optimal model in the place of a network, which `trig` follows exactly, by the loss with which runs learn."""
        spec, moments = "learned:by=component,parts=4", moments_of(rng)
        free = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([free], 0.1)
        coarse, fine = Sampler("ddim:steps=4,grid=uniform"), Sampler("trig:steps=1")
        z = torch.cat([torch.eye(4, dtype=torch.float64), -torch.eye(4, dtype=torch.float64)]).reshape(8, 1, 1, 4)
        for _ in range(40):
            diffusion = process(free, moments, spec)
            start = diffusion.unrotate(z)
            loss = trajectory_loss(diffusion, optimal(diffusion), coarse, fine, diffusion.prior(start, matched=True))
            adam.zero_grad()
            loss.mean().backward()
            adam.step()
        diffusion, coarse = process(free.detach(), moments, spec), Sampler("ddim:steps=4,grid=uniform,prior=matched")
        target = Gaussian.of(moments, (1, 1, 4))
        assert float(law(diffusion, coarse, target).distance(target).sum()) < 1.05 * self.best(diffusion, 4)
