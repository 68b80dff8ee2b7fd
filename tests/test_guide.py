"""Guides in general, and those by a gradient: against closed forms and finite differences."""

from __future__ import annotations

import gc

import pytest
import torch
from mixtures import CLASSES, Mixture, View, labels, network
from processes import diffusion
from torch import nn

from gendiff import (
    ClassifierGuide,
    GaussianScore,
    Guide,
    Parametrization,
    Pivot,
    Sampler,
    Scene,
    as_guide,
    encode,
    guided,
    sample,
)
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.score import LOG_A_PRIOR, from_x_0

SHAPE = (2, 4, 8)
PROCESSES = [
    ("dct", "blur"),
    ("haar", "blur"),
    ("blur-eigen", "fine-to-coarse"),
    ("identity", "isotropic"),
]


def events(seed=1, count=3, dtype=torch.float64):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Near(ClassifierGuide):
    """events near 1 in every pixel: a Gaussian classifier, log p = -|x - 1|²/2τ²."""

    name = "near"
    tau: float = 0.5

    def log_prob(self, x, i, condition):
        return -((x - 1) ** 2).flatten(1).sum(1) / (2 * self.tau**2)


class NearClean(Near):
    """the same of clean events."""

    name = "near-clean"
    clean = True


def gaussian(rotation="dct", velocity="blur") -> GaussianScore:
    process, generator = diffusion(rotation, velocity, SHAPE), torch.Generator().manual_seed(3)
    m, c = (torch.rand(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    return GaussianScore(process, m, c + 0.2)


def under(model, *guides):
    return guided(model, guides, Scene(model.diffusion))


class TestTheScore:
    @pytest.mark.parametrize("parametrization", Parametrization)
    @pytest.mark.parametrize(("rotation", "velocity"), PROCESSES)
    def test_with_the_classifier_of_the_data_it_is_the_conditional_one(self, rotation, velocity, parametrization):
        """Bayes: ∇ log q(x_i) + ∇ log p(y | x_i) = ∇ log q(x_i | y)."""
        mixture = Mixture(diffusion(rotation, velocity, SHAPE))
        told = labels(0, 2, 1)

        def log_prob(x, i):
            x_bar = mixture.diffusion.rotate(x)
            return mixture.given(told).log_density(x_bar, i) - mixture.log_density(x_bar, i)

        model, x_bar = under(network(mixture, parametrization), as_guide(log_prob)), events()
        for i in (1, 20, 50, torch.tensor([1, 20, 50])):
            seen = encode(Parametrization.SCORE, model.predict(x_bar, i), mixture.diffusion.at(i, torch.float64))
            expected = mixture.given(told).score(x_bar, i)
            torch.testing.assert_close(seen, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))

    @pytest.mark.parametrize(("rotation", "velocity"), PROCESSES)
    @pytest.mark.parametrize("cls", [Near, NearClean])
    def test_a_gaussian_classifier_has_a_closed_form(self, cls, rotation, velocity):
        """Of clean events the gradient goes through the Wiener filter, k = a c / v."""
        model, x_bar, i, weight = gaussian(rotation, velocity), events(), 20, 1.7
        at, own = model.diffusion.at(i, torch.float64), model.predict(x_bar, i)
        one = model.diffusion.rotate(torch.ones(1, *SHAPE, dtype=torch.float64))
        k = at.a * model.variance / (at.a**2 * model.variance + at.s**2)
        g = -k * (own.x_0 - one) / 0.25 if cls.clean else -(x_bar - one) / 0.25
        seen = under(model, cls(weight=weight)).predict(x_bar, i)
        torch.testing.assert_close(seen.eps, own.eps - weight * at.s * g)
        torch.testing.assert_close(seen.x_0, own.x_0 + weight * at.s**2 / at.a * g)
        torch.testing.assert_close(at.a * seen.x_0 + at.s * seen.eps, x_bar)

    @pytest.mark.parametrize("clean", [False, True])
    def test_the_gradient_is_that_of_finite_differences(self, clean):
        """Of a network, asked through another one."""
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, CLASSES)).double()
        mixture, i = Mixture(diffusion(event_shape=SHAPE)), 20
        model, x_bar = network(mixture, Parametrization.V), events(count=2)
        at = mixture.diffusion.at(i, torch.float64)

        def log_prob(x):
            return net(x).log_softmax(1)[:, 1]

        def objective(x_bar):
            pivot = model.predict(x_bar, i)
            return log_prob(mixture.diffusion.unrotate(pivot.x_0 if clean else x_bar))

        seen = under(model, as_guide(log_prob, clean=clean)).predict(x_bar, i)
        g = (model.predict(x_bar, i).eps - seen.eps) / at.s
        with torch.no_grad():
            for k in range(0, 64, 7):
                step = torch.zeros(64, dtype=torch.float64)
                step[k] = 1e-6
                step = step.reshape(1, *SHAPE)
                slope = (objective(x_bar + step) - objective(x_bar - step)) / 2e-6
                torch.testing.assert_close(g.flatten(1)[:, k], slope, rtol=1e-5, atol=1e-7)
        assert all(parameter.grad is None for parameter in net.parameters())

    def test_what_is_pure_prior_stays_as_it_is(self):
        model = gaussian("dct", "blur:schedule=log:f_max=10000")
        at = model.diffusion.at(30, torch.float64)
        dead = (at.log_a < LOG_A_PRIOR).expand(SHAPE)
        assert 0 < int(dead.sum()) < dead.numel()
        x_bar = events()
        seen, own = under(model, Near()).predict(x_bar, 30), model.predict(x_bar, 30)
        assert torch.equal(seen.x_0[:, dead], own.x_0[:, dead])
        assert torch.equal(seen.eps[:, dead], own.eps[:, dead])
        assert (seen.eps != own.eps)[:, ~dead].all()

    @pytest.mark.parametrize("cls", [Near, NearClean])
    def test_weight_zero_is_the_model_to_the_bit(self, cls):
        model, x_bar = gaussian(), events(dtype=torch.float32)
        seen, own = under(model, cls(weight=0)).predict(x_bar, 20), model.predict(x_bar, 20)
        assert torch.equal(seen.x_0, own.x_0)
        assert torch.equal(seen.eps, own.eps)

    @pytest.mark.parametrize("cls", [Near, NearClean])
    def test_an_event_does_not_depend_on_its_batch(self, cls):
        model, x_bar, i = under(gaussian(), cls()), events(), torch.tensor([3, 20, 44])
        together = model.predict(x_bar, i)
        for k in range(3):
            alone = model.predict(x_bar[[k]], int(i[k]))
            torch.testing.assert_close(alone.eps[0], together.eps[k], rtol=1e-12, atol=1e-12)


class TestGraphs:
    @pytest.mark.parametrize("cls", [Near, NearClean])
    def test_sampling_keeps_none(self, cls):
        """As many tensors are alive after the last step as after the fourth; none of what a step leaves has a graph."""
        mixture, counts, steps = Mixture(diffusion(event_shape=SHAPE)), [], []

        def count(snapshot):
            assert not snapshot.x_bar.requires_grad
            assert snapshot.pivot is None or not (snapshot.pivot.x_0.requires_grad or snapshot.pivot.eps.requires_grad)
            steps.append(snapshot.j)
            if len(steps) == 4 or snapshot.j == 0:
                gc.collect()
                counts.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))

        model = under(with_weights(mixture), cls(weight=0.1))
        sample(mixture.diffusion, model, Sampler("ddim:steps=12"), n=2, watch=count)
        assert len(steps) > 8
        assert counts[1] <= counts[0]

    @pytest.mark.parametrize("cls", [Near, NearClean])
    def test_it_works_where_gradients_are_off(self, cls):
        model, x_bar = under(gaussian(), cls()), events()
        with torch.no_grad():
            seen = model.predict(x_bar, 20)
        assert not x_bar.requires_grad
        torch.testing.assert_close(seen.eps, model.predict(x_bar, 20).eps)

    @pytest.mark.parametrize("cls", [Near, NearClean])
    def test_it_works_in_inference_mode(self, cls):
        mixture = Mixture(diffusion(event_shape=SHAPE))
        model, plan = under(with_weights(mixture).given(labels(1)), cls(weight=0.1)), Sampler("ddim:steps=4")
        with torch.inference_mode():
            seen = sample(mixture.diffusion, model, plan, n=2)
        torch.testing.assert_close(seen, sample(mixture.diffusion, model, plan, n=2))

    @pytest.mark.parametrize("cls", [Near, NearClean])
    def test_a_chain_can_be_followed(self, cls):
        """Through the gradient: against finite differences, of second order then."""
        mixture = Mixture(diffusion(event_shape=SHAPE))
        model, plan = under(mixture, cls(weight=0.2)), Sampler("ddim:steps=4,clip=false")

        def total(start):
            return sample(mixture.diffusion, model, plan, start=start, dtype=torch.float64).square().sum()

        start = events(count=1).requires_grad_()
        (slope,) = torch.autograd.grad(total(start), start)
        step = torch.zeros_like(start)
        step[0, 1, 2, 3] = 1e-5
        with torch.no_grad():
            expected = (total(start + step) - total(start - step)) / 2e-5
        torch.testing.assert_close(slope[0, 1, 2, 3], expected, rtol=1e-4, atol=1e-5)


class Weighted(View):
    """A network with weights, whose gradients would be kept if anybody asked for them."""

    def __init__(self, model: Mixture) -> None:
        super().__init__(model, Parametrization.EPS)
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float32))

    def forward(self, x, i, condition):
        return self.scale * super().forward(x, i, condition)


def with_weights(mixture):
    model = network(mixture, Parametrization.EPS)
    model.denoiser = Weighted(mixture)
    return model


class TestWhatItIsTold:
    @pytest.mark.parametrize("i", [20, torch.tensor([3, 20, 44])])
    def test_events_steps_and_conditions_of_each(self, i):
        seen = []

        def log_prob(x, i, condition):
            seen.append((x, i, condition))
            return x.flatten(1).sum(1)

        mixture, x_bar = Mixture(diffusion(event_shape=SHAPE)), events()
        under(mixture.given(labels(2)), as_guide(log_prob)).predict(x_bar, i)
        ((x, steps, condition),) = seen
        torch.testing.assert_close(x.detach(), mixture.diffusion.unrotate(x_bar))
        assert steps.tolist() == ([20] * 3 if isinstance(i, int) else i.tolist())
        assert condition["label"].tolist() == [2, 2, 2]

    def test_clean_events_are_what_the_model_believes(self):
        seen = []

        def log_prob(x):
            seen.append(x.detach())
            return x.flatten(1).sum(1)

        model, x_bar = gaussian(), events()
        under(model, as_guide(log_prob, clean=True)).predict(x_bar, 20)
        torch.testing.assert_close(seen[0], model.diffusion.unrotate(model.predict(x_bar, 20).x_0))

    def test_a_module_in_hand(self):
        class Sum(nn.Module):
            def forward(self, x, i):
                return x.flatten(1).sum(1) * i

        model, x_bar = gaussian(), events()
        seen = under(model, as_guide(Sum(), 0.5)).predict(x_bar, 20)
        at, one = model.diffusion.at(20, torch.float64), torch.ones_like(x_bar)
        expected = model.predict(x_bar, 20).eps - 0.5 * at.s * 20 * model.diffusion.rotate(one)
        torch.testing.assert_close(seen.eps, expected)

    def test_an_argument_that_has_a_default_stays_what_it_is(self):
        def log_prob(x, sign=-1.0):
            return sign * x.flatten(1).sum(1)

        model, x_bar = gaussian(), events()
        eps = [under(model, as_guide(one)).predict(x_bar, 20).eps for one in (log_prob, lambda x: -x.flatten(1).sum(1))]
        assert torch.equal(*eps)


@pytest.mark.parametrize(
    ("log_prob", "says"),
    [
        (lambda x: x.sum(), r"log_prob returned \(\)"),
        (lambda x: x, r"log_prob returned \(3, 2, 4, 8\)"),
        (lambda x: 3.0, "log_prob returned float"),
        (lambda x: x.detach().flatten(1).sum(1), "log_prob has no gradient"),
        (lambda x: torch.zeros(len(x), requires_grad=True), "log_prob does not depend on x"),
    ],
)
def test_a_classifier_that_cannot_steer(log_prob, says):
    model = gaussian()
    with pytest.raises(PluginError, match=says) as caught, torch.no_grad():
        under(model, as_guide(log_prob)).predict(events(), 20)
    assert "log_softmax" in caught.value.fix


@pytest.mark.parametrize("thing", [3, "net", nn.Linear, lambda: 0, lambda a, b, c, d: 0, None])
def test_what_is_no_classifier(thing):
    with pytest.raises(ArgumentError, match="log_prob is"):
        as_guide(thing)


def test_a_classifier_that_was_given_in_python_is_not_in_its_spec():
    own = as_guide(lambda x: x.flatten(1).sum(1), weight=3, clean=True)
    again = Guide(own.spec)
    assert again == own
    assert again.clean
    with pytest.raises(ConfigError, match=r"was given in Python, .*test_guide:.*, and is not here") as caught:
        under(gaussian(), again)
    assert "as_guide(log_prob)" in caught.value.fix


# --- any guide -----------------------------------------------------------------------------------------------------------


class Brighter(Guide):
    """x̂_0 is lighter by an amount."""

    name = "brighter"
    by: float = 1.0

    def pivot(self, model, x_bar, i, scene):
        own, one = model.predict(x_bar, i), scene.diffusion.rotate(torch.ones_like(x_bar))
        return from_x_0(own.x_0 * self.by + one, x_bar, scene.diffusion.at(i, x_bar.dtype))


class Refuses(Brighter):
    """what cannot guide."""

    name = "refuses"

    def check(self, model, scene):
        raise ConfigError("not this one")


def test_guides_are_put_on_in_order():
    model, x_bar = gaussian(), events()
    own, one = model.predict(x_bar, 20).x_0, model.diffusion.rotate(torch.ones_like(x_bar))
    seen = under(model, Brighter(by=3.0), Brighter(by=5.0)).predict(x_bar, 20).x_0
    torch.testing.assert_close(seen, 5 * (3 * own + one) + one)
    seen = under(model, Brighter(by=5.0), Brighter(by=3.0)).predict(x_bar, 20).x_0
    torch.testing.assert_close(seen, 3 * (5 * own + one) + one)


def test_no_guide_is_the_model_itself():
    model = gaussian()
    assert under(model) is model


def test_every_guide_is_asked_whether_it_can():
    with pytest.raises(ConfigError, match="not this one"):
        under(gaussian(), Brighter(), Refuses())


def test_a_guided_model_takes_another_condition():
    """The guide stays on, and what is guided is told of it."""
    mixture, x_bar = Mixture(diffusion(event_shape=SHAPE)), events()
    model = under(mixture.given(labels(0, 1, 2)), Brighter())
    again = model.given(labels(1, 1, 1))
    assert again.condition["label"].tolist() == [1, 1, 1]
    expected = under(mixture.given(labels(1, 1, 1)), Brighter()).predict(x_bar, 20)
    assert torch.equal(again.predict(x_bar, 20).x_0, expected.x_0)
    assert "Guided(" in repr(model)
    assert isinstance(model.predict(x_bar, 20), Pivot)
