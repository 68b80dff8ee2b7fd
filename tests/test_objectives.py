"""Objectives: what they minimise, and that the optimum is one."""

from __future__ import annotations

import pytest
import torch
from processes import component, dense, diffusion, scales_at
from torch import nn

from gendiff import Data, Diffusion, GaussianScore, Objective, Parametrization, Pivot
from gendiff.denoiser import Denoiser, NetworkScore
from gendiff.errors import ArgumentError
from gendiff.moments import Moments
from gendiff.plugin.registry import default_registry
from gendiff.sampler import Clamped
from gendiff.score import decode, encode
from gendiff.testing import level

EVENT = (2, 3, 5)
every_objective = pytest.mark.parametrize("name", default_registry().names("objective"))


class Oracle(nn.Module):
    """Answers with the right view of the truth, plus an error in event space."""

    def __init__(self, process, parametrization, x_0, eps, error=0.0):
        super().__init__()
        self.process, self.parametrization, self.error = process, parametrization, error
        self.pivot = Pivot(process.rotate(x_0), process.rotate(eps))

    def forward(self, x, i):
        view = encode(self.parametrization, self.pivot, self.process.at(i))
        return self.process.unrotate(view) + self.error


@pytest.fixture
def batch(rng):
    x_0, eps, error = torch.randn(3, 7, *EVENT, generator=rng)
    return x_0, torch.randint(1, 51, (7,), generator=rng), eps, error


@every_objective
class TestEveryObjective:
    def test_the_truth_has_no_loss(self, name, batch):
        process, objective = diffusion("dct", "blur", EVENT), component(Objective, name)
        x_0, i, eps, _ = batch
        loss = objective.loss(Oracle(process, objective.parametrization, x_0, eps), process, x_0, i, eps)
        assert loss.per_event.shape == (7,)
        assert loss.per_event.max() < 1e-6
        assert loss.error_bar.abs().max() < 1e-4

    def test_an_error_costs_its_weighted_power(self, name, batch):
        process, objective = diffusion("dct", "blur", EVENT), component(Objective, name)
        x_0, i, eps, error = batch
        loss = objective.loss(Oracle(process, objective.parametrization, x_0, eps, error), process, x_0, i, eps)
        expected = (objective.weight(process.at(i)) * process.rotate(error) ** 2).flatten(1).mean(1)
        if objective.power == 1:
            expected = error.abs().flatten(1).mean(1)
        if objective.summed:
            expected = expected * 30
        torch.testing.assert_close(loss.per_event, expected, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(loss.error_bar, process.rotate(error), rtol=1e-3, atol=1e-4)

    def test_unweighted_losses_do_not_depend_on_the_basis(self, name, batch):
        """U keeps inner products, so with one process in two bases the loss is the same number."""
        objective = component(Objective, name)
        x_0, i, eps, error = batch
        losses = []
        for basis in ("identity", "dct"):
            process = diffusion(basis, "isotropic", EVENT)
            oracle = Oracle(process, objective.parametrization, x_0, eps, error)
            losses.append(objective.loss(oracle, process, x_0, i, eps).per_event)
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-6)

    def test_the_optimal_model_is_a_stationary_point(self, name, rng):
        """For Gaussian data the conditional mean has zero expected gradient: E[ω (T̂ - T)] = 0, checked in closed form.

        The error of every view is linear in ε̂ - ε, whose mean given x_i is zero at the optimum; so scaling the optimal
        prediction by (1 + δ) raises the exact expected loss on both sides of δ = 0.
        """
        process, objective = diffusion("dct", "blur", EVENT), component(Objective, name)
        c = torch.rand(EVENT, generator=rng, dtype=torch.float64) + 0.2
        for step in (1, 10, 50):
            at = process.at(step, torch.float64)
            a, s = at.a, at.s
            v = a**2 * c + s**2
            # optimal view T̂ = k x̄; the target T = t_0 x̄_0 + t_ε ε̄ with the same conversions, x̄ = a x̄_0 + s ε̄
            unit = torch.ones(1, *EVENT, dtype=torch.float64)
            t_0 = encode(objective.parametrization, Pivot(unit, 0 * unit), at)
            t_eps = encode(objective.parametrization, Pivot(0 * unit, unit), at)
            k = encode(objective.parametrization, GaussianScore(process, 0 * c, c).predict(unit, step), at)
            gradient = k * v - (t_0 * a * c + t_eps * s)  # d/dk E (k x̄ - T)² / 2
            assert (gradient.abs() < 1e-9 * (1 + t_0.abs() + t_eps.abs())).all()


def test_weights_are_the_paper_s():
    at = level(torch.tensor(0.6), torch.tensor(0.8))
    assert component(Objective, "eps").weight(at) == 1
    assert component(Objective, "score").weight(at).item() == pytest.approx(1 / 0.64)
    kinds = {name: component(Objective, name).parametrization for name in default_registry().names("objective")}
    assert kinds == {
        "edm": Parametrization.X_0,
        "eps": Parametrization.EPS,
        "residual": Parametrization.RESIDUAL,
        "score": Parametrization.EPS,
        "std": Parametrization.STD,
        "v": Parametrization.V,
        "wiener": Parametrization.WIENER,
        "elbo": Parametrization.WIENER,
        "min-snr": Parametrization.EPS,
        "x0": Parametrization.X_0,
        "x0-l1": Parametrization.X_0,
        "velocity": Parametrization.VELOCITY,
    }
    assert [name for name in kinds if component(Objective, name).summed] == ["residual"]
    assert [name for name in kinds if component(Objective, name).power == 1] == ["x0-l1"]


def test_an_absolute_error_is_weighed_before_it_goes_back_to_event_space(batch):
    """|U sqrt(ω) (T̂ - T)|: of an absolute error ω weighs the square, per component."""

    class Weighed(type(component(Objective, "x0-l1"))):
        """absolute errors of x_0, the coarse ones more."""

        name = "weighed"

        def weight(self, at):
            return 1 / (1 + at.s**2) ** 2

    process, objective = diffusion("dct", "blur", EVENT), Weighed()
    x_0, i, eps, error = batch
    loss = objective.loss(Oracle(process, Parametrization.X_0, x_0, eps, error), process, x_0, i, eps)
    U = dense(process.rotation, EVENT).float()
    roots = torch.broadcast_to(1 / (1 + scales_at(process, i)[1] ** 2), error.shape).flatten(1)
    expected = ((roots * (error.flatten(1) @ U)) @ U.T).abs().mean(1)
    torch.testing.assert_close(loss.per_event, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("velocity", ["blur", "blurring", "cold"])
def test_the_first_step_of_the_elbo_has_no_step_before(velocity):
    """ω = (N/2) SNR_1 c sin²θ, also where there is some noise at step 0; at i = 2 it is the loss of SNR."""
    c = torch.linspace(0.3, 2, 30, dtype=torch.float64).reshape(EVENT)
    process = diffusion("dct", velocity, EVENT, N=20)
    process = type(process)(process.rotation, process.scales, EVENT, Moments(0 * c, c))
    weight = component(Objective, "elbo").weight(process.at(torch.tensor([1, 2]), torch.float64))
    (a_1, s_1), (a_2, s_2) = (scales_at(process, i, torch.float64) for i in (1, 2))
    sin_1, sin_2 = (s**2 / (a**2 * c + s**2) for a, s in ((a_1, s_1), (a_2, s_2)))
    torch.testing.assert_close(weight[0], 10 * (a_1 / s_1) ** 2 * c * sin_1, rtol=1e-9, atol=0)
    torch.testing.assert_close(weight[1], 10 * ((a_1 / s_1) ** 2 - (a_2 / s_2) ** 2) * c * sin_2, rtol=1e-7, atol=1e-12)


def test_epsilon_says_nothing_of_x_0_where_the_signal_has_vanished(rng):
    """x̂_0 = m and ε̂ = (x̄ - a m)/s below log a = -14, and what is said above."""
    at = level(torch.tensor([1e-9, 9e-7]), torch.tensor([0.5, 0.8]), mean=2.0)
    x_bar, eps = torch.randn(2, 3, 2, generator=rng, dtype=torch.float64)
    pivot = decode(Parametrization.EPS, eps, x_bar, at)
    torch.testing.assert_close(pivot.x_0[:, 0], torch.full((3,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(pivot.eps[:, 0], (x_bar[:, 0] - 2e-9) / 0.5, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pivot.eps[:, 1], eps[:, 1])
    torch.testing.assert_close(pivot.x_0[:, 1], (x_bar[:, 1] - 0.8 * eps[:, 1]) / 9e-7, rtol=1e-6, atol=0)


def test_min_snr_weighs_errors_of_x_0_by_the_smaller_of_snr_and_gamma():
    a, s = torch.tensor([1.0, 0.9, 0.5, 1e-9]), torch.tensor([1e-4, 0.1, 0.8, 1.0])
    weight = component(Objective, "min-snr:gamma=5").weight(level(a, s))
    snr = (a / s).double() ** 2
    torch.testing.assert_close(weight * snr, snr.clamp_max(5.0), rtol=1e-6, atol=0)


def test_the_elbo_objective_is_the_bound(rng):
    """Its loss, averaged over all steps, is Σ_i of the terms of the bound: decoder and steps, in nats per dimension."""
    from gendiff.bound import step_term

    moments = Moments(torch.rand(EVENT, generator=rng).double(), torch.rand(EVENT, generator=rng).double() + 0.2)
    process = diffusion("dct", "blur", EVENT, N=20)
    process = type(process)(process.rotation, process.scales, EVENT, moments)
    x_0, eps = torch.randn(2, 3, *EVENT, generator=rng)
    objective, total = component(Objective, "elbo"), torch.zeros(3, dtype=torch.float64)

    class Half(nn.Module):
        def forward(self, y, i):
            return 0.5 * y

    model, expected = NetworkScore(Denoiser(Half(), process), process, Parametrization.WIENER), torch.zeros(3).double()
    for step in range(1, 21):
        i = torch.full((3,), step)
        total += objective.loss(Denoiser(Half(), process), process, x_0, i, eps).per_event.double() / 20
        bars = process.rotate(x_0).double(), process.rotate(eps).double()
        if step > 1:
            expected += step_term(process, model, *bars, i)
        else:
            a, s = scales_at(process, 1, torch.float64)
            guess = model.predict(a * bars[0] + s * bars[1], 1).x_0
            expected += ((a / s) ** 2 * (guess - bars[0]) ** 2).flatten(1).sum(1) / 2
    torch.testing.assert_close(total, expected / 30, rtol=1e-4, atol=0)


def test_std_is_eps_weighed_by_the_variance(batch):
    process = diffusion("dct", "blur", EVENT)
    x_0, i, eps, error = batch
    _, s = scales_at(process, i)
    std = component(Objective, "std").loss(
        Oracle(process, Parametrization.STD, x_0, eps, process.unrotate(s * process.rotate(error))),
        process,
        x_0,
        i,
        eps,
    )
    expected = (s * process.rotate(error)).square().flatten(1).mean(1)  # = s² (ε̂ - ε)²
    torch.testing.assert_close(std.per_event, expected, rtol=1e-3, atol=1e-6)


class TestNetworkScore:
    def network(self):
        class Shrink(nn.Module):
            def forward(self, x, i):
                return 0.7 * x[:, : EVENT[0]] + 0.001 * i.reshape(-1, 1, 1, 1)

        return Shrink()

    @every_objective
    def test_predictions_agree_with_the_marginal(self, name, rng):
        """Whatever is predicted, a x̂_0 + s ε̂ is x̄_i."""
        process, objective = diffusion("dct", "blur", EVENT), component(Objective, name)
        model = NetworkScore(Denoiser(self.network(), process), process, objective.parametrization)
        x_bar = torch.randn(4, *EVENT, generator=rng)
        for step in (1, 25, 50):
            a, s = scales_at(process, step)
            pivot = model.predict(x_bar, step)
            torch.testing.assert_close(a * pivot.x_0 + s * pivot.eps, x_bar, rtol=1e-4, atol=1e-4)

    def test_a_perfect_network_in_event_space_is_the_gaussian_score(self, rng):
        """The optimum as a dense matrix on pixels: `predict` must go to event space and come back."""
        process = diffusion("dct", "blur", EVENT)
        c = torch.rand(EVENT, generator=rng, dtype=torch.float64) + 0.1
        U = dense(process.rotation, EVENT)
        x_bar = torch.randn(4, *EVENT, generator=rng, dtype=torch.float64)
        for step in (1, 20, 50):
            a, s = scales_at(process, step, torch.float64)
            best = (s / (a**2 * c + s**2)).expand(EVENT).flatten()  # ε̂ = s/v x̄ in rotated coordinates

            class Optimal(nn.Module):
                matrix = U @ torch.diag(best) @ U.T

                def forward(self, x, i):
                    return (x.flatten(1).double() @ self.matrix.T).reshape(x.shape).float()

            found = NetworkScore(Optimal(), process, Parametrization.EPS).predict(x_bar, step)
            wanted = GaussianScore(process, torch.zeros_like(c), c).predict(x_bar, step)
            torch.testing.assert_close(found.eps, wanted.eps, rtol=0, atol=1e-5)

    def test_clipping_is_in_event_space_and_recomputes_eps(self, rng):
        process = diffusion("dct", "blur", EVENT)
        model = Clamped(NetworkScore(Denoiser(self.network(), process), process, "eps", (-0.5, 0.5)), process)
        x_bar = 3 * torch.randn(4, *EVENT, generator=rng)
        a, s = scales_at(process, 30)
        pivot = model.predict(x_bar, 30)
        x_0 = process.unrotate(pivot.x_0)
        assert x_0.min().item() == pytest.approx(-0.5, abs=1e-5)
        assert x_0.max().item() == pytest.approx(0.5, abs=1e-5)
        torch.testing.assert_close(a * pivot.x_0 + s * pivot.eps, x_bar, rtol=1e-4, atol=1e-4)

    def test_frequency_features_are_the_rotated_input(self, rng):
        process = diffusion("dct", "blur", EVENT)

        class Second(nn.Module):
            def forward(self, x, i):
                return x[:, EVENT[0] :]

        x = torch.randn(4, *EVENT, generator=rng)
        output = Denoiser(Second(), process, frequency_features=True)(x, torch.ones(4))
        assert not Denoiser(Second(), process).frequency_features
        torch.testing.assert_close(output, process.rotate(x))


def test_a_denoiser_computes_in_single_precision_unless_another_is_asked_for(rng):
    class Net(nn.Linear):
        def forward(self, x, i):
            return super().forward(x)

    network, x = Net(EVENT[-1], EVENT[-1]), torch.randn(4, *EVENT, generator=rng)
    denoiser = Denoiser(network, diffusion("dct", "blur", EVENT))
    assert torch.equal(denoiser(x, torch.ones(4)), network(x, None))
    denoiser.autocast = torch.bfloat16
    rounded = denoiser(x, torch.ones(4))
    assert not torch.equal(rounded, network(x, None))
    assert torch.equal(rounded, rounded.bfloat16().float())


def test_t_is_not_predicted_of_data_that_nobody_looked_at(batch):
    plain, (x_0, i, eps, _) = Diffusion.of("dct", "blur", EVENT, 50), batch
    with pytest.raises(ArgumentError):
        component(Objective, "elbo").loss(Denoiser(Oracle(plain, "eps", x_0, eps), plain), plain, x_0, i, eps)


def test_the_gaussian_field_s_optimal_model_reaches_the_known_loss(rng):
    """E (ε̂ - ε)² = a² c / v per component: the floor of the ε-loss, in closed form and by sampling."""
    field = component(Data, "gaussian-field:size=[6, 9],channels=2")
    process = diffusion("dct", "blur", field.event_shape, N=100)
    c = field.variance.expand(field.event_shape)
    model = GaussianScore(process, torch.zeros_like(c), c)
    x_0 = process.rotate(torch.stack([field[k] for k in range(4000)]).double())
    eps = torch.randn(x_0.shape, generator=rng, dtype=torch.float64)
    for step in (1, 40, 100):
        a, s = scales_at(process, step, torch.float64)
        error = (model.predict(a * x_0 + s * eps, step).eps - eps).square().mean(0)
        floor = a**2 * c / (a**2 * c + s**2)
        torch.testing.assert_close(error.mean(), floor.mean(), rtol=0.03, atol=1e-6)


def test_what_a_loss_of_one_means_is_what_its_author_says_or_follows_where_all_errors_count_alike():
    class Weighed(Objective):
        name = "weighed"
        parametrization = Parametrization.EPS

        def weight(self, at):
            return 2 * torch.ones_like(at.s)

    class Said(Weighed):
        name = "said"

        @property
        def loss_of_one(self):
            return "what its author says"

    assert Weighed().loss_of_one == ""
    assert Said().loss_of_one == "what its author says"
    assert Objective("wiener").loss_of_one == "that of the best linear guess, an output of 0"


@pytest.mark.parametrize("name", ["eps", "wiener", "v"])
def test_a_network_that_has_learned_nothing_has_a_loss_of_one_where_that_is_said(name):
    """On Gaussian events of variance 1 that the process knows: of eps and wiener on any, of v on these."""
    diffusion = Diffusion.of("dct", "blur:schedule=log", (1, 8, 8), 50, moments=Moments.standard((1, 8, 8)))
    draw = torch.Generator().manual_seed(1)
    x_0, eps = (torch.randn(400, 1, 8, 8, generator=draw) for _ in range(2))
    i = torch.randint(1, 51, (400,), generator=draw)
    assert Objective(name).loss_of_nothing(diffusion, x_0, i, eps) == pytest.approx(1, abs=0.03)
    assert "an output of 0" in Objective(name).loss_of_one
