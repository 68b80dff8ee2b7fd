"""Guides of the built-in plugins, against the scores that they define: data are mixtures of which everything is known."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.guiders import AutoGuidance, ClassifierFreeGuidance
from mixtures import CLASSES, Mixture, labels, network
from processes import diffusion

from gendiff import Diffusion, Guide, Parametrization, Pivot, Rotation, Sampler, Scene, believe, guided, sample
from gendiff.dct import dct
from gendiff.errors import ConfigError
from gendiff.frequency import bands_of
from gendiff.guide import no_other

SHAPE = (2, 4, 8)
PROCESSES = [
    ("dct", "blur"),
    ("haar", "blur"),
    ("blur-eigen", "fine-to-coarse"),
    ("hartley", "equal-snr"),
    ("identity", "isotropic"),
]
STEPS = (1, 20, 50)
LABELS = labels(0, 2, 1)


def process(rotation="dct", velocity="blur", shape=SHAPE) -> Diffusion:
    return diffusion(rotation, velocity, shape)


def events(diffusion, seed=1, count=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *diffusion.event_shape, generator=generator, dtype=torch.float64).to(dtype)


def scene(diffusion, **more) -> Scene:
    return Scene(diffusion, 0.1, **more)


def under(model, *specs, **more):
    """A model under guides."""
    return guided(model, [Guide(spec) for spec in specs], scene(model.diffusion, **more))


def score_of(pivot, diffusion, i):
    return -pivot.eps / diffusion.at(i, torch.float64).s


def same(one: Pivot, other: Pivot) -> bool:
    return torch.equal(one.x_0, other.x_0) and torch.equal(one.eps, other.eps)


def assert_close(one: Pivot, other: Pivot, **tolerance) -> None:
    torch.testing.assert_close(one.x_0, other.x_0, **tolerance)
    torch.testing.assert_close(one.eps, other.eps, **tolerance)


class TestClassifierFree:
    @pytest.mark.parametrize("parametrization", Parametrization)
    @pytest.mark.parametrize(("rotation", "velocity"), PROCESSES)
    def test_the_score_is_the_one_that_it_defines(self, rotation, velocity, parametrization):
        """By autograd of the densities: no belief is in the oracle."""
        mixture = Mixture(process(rotation, velocity))
        x_bar = events(mixture.diffusion)
        model = under(network(mixture, parametrization).given(LABELS), "cfg:weight=3")
        for i in STEPS:
            free, conditional = mixture.score(x_bar, i), mixture.given(LABELS).score(x_bar, i)
            seen = score_of(model.predict(x_bar, i), mixture.diffusion, i)
            torch.testing.assert_close(
                seen, free + 3 * (conditional - free), rtol=1e-8, atol=1e-8 * float(free.abs().max())
            )

    def test_the_density_is_sharpened(self):
        """``q(x) (q(x | y) / q(x))^w`` has the score of the formula, at steps of each event's own too."""
        mixture = Mixture(process())
        x_bar, i = events(mixture.diffusion), torch.tensor([3, 20, 44])
        followed = x_bar.clone().requires_grad_()
        free, conditional = mixture.log_density(followed, i), mixture.given(LABELS).log_density(followed, i)
        (expected,) = torch.autograd.grad((free + 2.5 * (conditional - free)).sum(), followed)
        pivot = under(mixture.given(LABELS), "cfg:weight=2.5").predict(x_bar, i)
        torch.testing.assert_close(score_of(pivot, mixture.diffusion, i), expected, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("parametrization", Parametrization)
    @pytest.mark.parametrize(("rotation", "velocity"), PROCESSES)
    @pytest.mark.parametrize("guide", ["cfg", "frequency"])
    def test_one_is_the_conditional_model_and_zero_the_other_to_the_bit(
        self, guide, rotation, velocity, parametrization
    ):
        mixture = Mixture(process(rotation, velocity))
        model, x_bar = network(mixture, parametrization).given(LABELS), events(mixture.diffusion, dtype=torch.float32)
        one, zero = {"cfg": ("weight=1", "weight=0"), "frequency": ("weights=[1,1,1]", "weights=[0,0,0]")}[guide]
        for i in (*STEPS, torch.tensor([1, 20, 50])):
            assert same(under(model, f"{guide}:{one}").predict(x_bar, i), model.predict(x_bar, i))
            assert same(under(model, f"{guide}:{zero}").predict(x_bar, i), model.given({}).predict(x_bar, i))

    def test_weights_that_say_nothing_of_a_model_cost_no_evaluation_of_it(self):
        mixture = Mixture(process())
        model, x_bar = mixture.given(LABELS), events(mixture.diffusion)
        for spec, count in (("cfg:weight=1", 1), ("cfg:weight=0", 0), ("cfg:weight=2", 1), ("cfg:sigma_max=1e-9", 1)):
            before = model.asked
            under(model, spec).predict(x_bar, 9)
            assert model.asked - before == count, spec

    @pytest.mark.parametrize("weight", [0.5, 1.0, 4.0])
    @pytest.mark.parametrize("eta", [0.0, 0.7])
    def test_a_guided_step_is_that_of_diffusers(self, weight, eta, rng):
        """Its step t is our i = t + 1; its guider combines the two predictions."""
        steps, N = 25, 100
        own = diffusion("identity", "isotropic", SHAPE, N=N)
        oracle = DDIMScheduler(
            num_train_timesteps=N,
            beta_start=1e-4,
            beta_end=0.02,
            beta_schedule="linear",
            clip_sample=False,
            set_alpha_to_one=True,
            timestep_spacing="trailing",
        )
        oracle.set_timesteps(steps)
        guider, mixture = ClassifierFreeGuidance(guidance_scale=weight), Mixture(own)
        conditional = mixture.given(LABELS)
        noises, seen = [torch.randn(3, *SHAPE, generator=rng) for _ in range(steps + 1)], []
        plan, source = Sampler(f"ddim:steps={steps},eta={eta},grid=uniform"), iter(noises)
        sample(own, under(conditional, f"cfg:weight={weight}"), plan, lambda: next(source), watch=seen.append)
        assert len(seen) == steps + 1
        for number, t in enumerate(oracle.timesteps.tolist()):
            x = seen[number].x_bar  # of each step by itself: a mixture drives what differs by rounding apart
            eps = guider.forward(conditional.predict(x, t + 1).eps, mixture.predict(x, t + 1).eps).pred
            expected = oracle.step(eps, t, x, eta=eta, variance_noise=noises[number + 1] if eta else None).prev_sample
            torch.testing.assert_close(seen[number + 1].x_bar, expected, rtol=1e-4, atol=1e-4)

    def test_an_event_does_not_depend_on_its_batch(self):
        mixture = Mixture(process())
        model, x_bar, i = under(mixture.given(LABELS), "cfg:weight=3,sigma_min=0.1"), events(mixture.diffusion), 20
        together = model.predict(x_bar, i)
        for k in range(3):
            alone = model.given({"label": LABELS["label"][[k]]}).predict(x_bar[[k]], i)
            assert_close(alone, Pivot(together.x_0[[k]], together.eps[[k]]), rtol=1e-12, atol=1e-12)

    def test_what_is_drawn_goes_where_the_weight_pulls(self):
        """With a large weight the events of a class are where its component is likely against the others."""
        mixture = Mixture(process())
        noise = events(mixture.diffusion, 5, 8)
        conditions, share = labels(*[k % CLASSES for k in range(8)]), {}
        for weight in (0.0, 1.0, 4.0):
            x_0 = sample(
                mixture.diffusion,
                under(mixture.given(conditions), f"cfg:weight={weight}"),
                Sampler("ddim:steps=30"),
                lambda: noise,
                dtype=torch.float64,
            )
            log_each = mixture.log_each(mixture.diffusion.rotate(x_0), 1).log_softmax(1)
            share[weight] = float(log_each.gather(1, conditions["label"][:, None]).mean())
        assert share[0.0] < share[1.0] <= share[4.0]
        assert share[4.0] > -1e-3


class TestInterval:
    def test_the_limits_are_those_of_each_component(self):
        """(sigma_min, sigma_max] of s/a: outside, the conditional model to the bit, inside the guided one."""
        mixture = Mixture(process("dct", "blur"))
        model, x_bar, i = mixture.given(LABELS), events(mixture.diffusion), 25
        at = mixture.diffusion.at(i, torch.float64)
        sigma = at.s / at.a
        low, high = (float(sigma.flatten().quantile(q)) for q in (0.3, 0.7))
        seen = under(model, f"cfg:weight=3,sigma_min={low!r},sigma_max={high!r}").predict(x_bar, i)
        own, full = model.predict(x_bar, i), under(model, "cfg:weight=3").predict(x_bar, i)
        inside = (sigma > low) & (sigma <= high)
        assert 0 < int(inside.sum()) < inside.numel()
        assert same(seen, Pivot(torch.where(inside, full.x_0, own.x_0), torch.where(inside, full.eps, own.eps)))

    def test_where_all_move_alike_it_is_an_interval_of_steps(self):
        mixture = Mixture(process("identity", "isotropic"))
        model, x_bar = mixture.given(LABELS), events(mixture.diffusion)
        sigma = [
            float((at.s / at.a).flatten()[0]) for at in (mixture.diffusion.at(i, torch.float64) for i in range(51))
        ]
        bounds = f"sigma_min={(sigma[9] + sigma[10]) / 2!r},sigma_max={(sigma[30] + sigma[31]) / 2!r}"
        limited, full = under(model, f"cfg:weight=3,{bounds}"), under(model, "cfg:weight=3")
        for i in range(1, 51):
            assert same(limited.predict(x_bar, i), (full if 10 <= i <= 30 else model).predict(x_bar, i)), i

    @pytest.mark.parametrize("spec", ["cfg:weight=3", "cfg:weight=0", "frequency:weights=[1,3]"])
    def test_steps_of_their_own(self, spec):
        mixture = Mixture(process())
        model, x_bar = mixture.given(LABELS), events(mixture.diffusion)
        i = torch.tensor([2, 24, 49])
        limited = under(model, f"{spec}{',' if ':' in spec else ':'}sigma_min=0.2,sigma_max=1.0")
        together = limited.predict(x_bar, i)
        for k in range(3):
            alone = limited.given({"label": LABELS["label"][[k]]}).predict(x_bar[[k]], int(i[k]))
            assert_close(alone, Pivot(together.x_0[[k]], together.eps[[k]]), rtol=1e-12, atol=1e-12)

    def test_open_limits_are_no_limits(self):
        mixture = Mixture(process())
        model, x_bar = mixture.given(LABELS), events(mixture.diffusion)
        for i in STEPS:
            wide = under(model, "cfg:weight=3,sigma_min=1e-9,sigma_max=1e9").predict(x_bar, i)
            assert same(wide, under(model, "cfg:weight=3").predict(x_bar, i))

    def test_whether_it_acts_at_all_is_decided_where_python_is(self):
        """A device would be waited for at each step: nothing of it is read, neither for a step nor for several."""
        mixture = Mixture(process())
        x_bar, given, there = events(mixture.diffusion), mixture.given(LABELS), scene(mixture.diffusion)
        assert there.on_host is mixture.diffusion
        there.__dict__["on_host"] = process("dct", "heat:sigma_min=1e-7,sigma_max=1e-6,s=1e-6")  # never as noisy
        for i in (20, torch.tensor([20, 30, 50])):
            assert same(
                guided(given, [Guide("cfg:weight=3,sigma_min=0.01")], there).predict(x_bar, i), given.predict(x_bar, i)
            )


class TestOrder:
    def test_guides_are_put_on_in_the_order_given(self):
        """The second asks what the first made, with and without the condition."""
        mixture, weak = Mixture(process()), Mixture(process(), seed=7)
        specs = ["cfg:weight=3", "autoguidance:weaker=@5,weight=2"]
        x_bar, i = events(mixture.diffusion), 20
        free, own, bad, bad_free = (
            model.predict(x_bar, i).eps for model in (mixture, mixture.given(LABELS), weak.given(LABELS), weak)
        )
        first = under(mixture.given(LABELS), *specs, other=lambda name: weak).predict(x_bar, i).eps
        torch.testing.assert_close(first, bad + 2 * ((free + 3 * (own - free)) - bad))
        second = under(mixture.given(LABELS), *reversed(specs), other=lambda name: weak).predict(x_bar, i).eps
        outer, inner = bad_free + 2 * (free - bad_free), bad + 2 * (own - bad)
        torch.testing.assert_close(second, outer + 3 * (inner - outer))
        assert float((first - second).abs().max()) > 1e-3

    def test_a_guide_twice_is_the_product_of_its_weights(self):
        mixture = Mixture(process())
        model, x_bar = mixture.given(LABELS), events(mixture.diffusion)
        twice, once = under(model, "cfg:weight=3", "cfg:weight=2"), under(model, "cfg:weight=6")
        assert_close(twice.predict(x_bar, 20), once.predict(x_bar, 20), rtol=1e-9, atol=1e-9)


class TestAutoguidance:
    @pytest.mark.parametrize("told", [LABELS, {}])
    def test_the_formula(self, told):
        """With conditions and without; diffusers' guider is the oracle."""
        good, bad = Mixture(process()), Mixture(process(), seed=7)
        names, x_bar = [], events(good.diffusion)

        def other(name):
            names.append(name)
            return bad

        model = under(good.given(told), "autoguidance:weaker=runs/small@100,weight=2.5", other=other)
        oracle = AutoGuidance(guidance_scale=2.5, auto_guidance_layers=[0], dropout=0.0)
        for i in STEPS:
            seen, own, weak = (
                model.predict(x_bar, i),
                good.given(told).predict(x_bar, i),
                bad.given(told).predict(x_bar, i),
            )
            torch.testing.assert_close(seen.eps, oracle.forward(own.eps, weak.eps).pred)
            torch.testing.assert_close(seen.x_0, oracle.forward(own.x_0, weak.x_0).pred)
        assert set(names) == {"runs/small@100"}

    def test_one_is_the_model_and_zero_the_weaker_one(self):
        good, bad = Mixture(process()).given(LABELS), Mixture(process(), seed=7)
        x_bar = events(good.diffusion, dtype=torch.float32)
        for weight, model in ((1, good), (0, bad.given(LABELS))):
            spec = f"autoguidance:weaker=@5,weight={weight}"
            assert same(under(good, spec, other=lambda name: bad).predict(x_bar, 20), model.predict(x_bar, 20))

    def test_where_there_are_no_checkpoints(self):
        with pytest.raises(ConfigError, match="no other model '@5'"):
            under(Mixture(process()), "autoguidance:weaker=@5", other=no_other)

    def test_which_it_is_must_be_said(self):
        with pytest.raises(ConfigError, match="guide 'autoguidance' needs 'weaker'"):
            Guide("autoguidance")


class TestFrequency:
    @pytest.mark.parametrize(("rotation", "velocity"), PROCESSES[:4])
    def test_each_band_has_its_weight(self, rotation, velocity):
        """Score by score, with the bands of the basis; ρ is alike for each channel."""
        mixture = Mixture(process(rotation, velocity))
        x_bar, i = events(mixture.diffusion), 20
        rho = mixture.diffusion.rotation.frequencies(SHAPE).expand(SHAPE)
        weight = torch.tensor([0.5, 2.0, 5.0], dtype=torch.float64)[bands_of(rho, 3)]
        assert torch.equal(weight[0], weight[1])
        free, conditional = mixture.score(x_bar, i), mixture.given(LABELS).score(x_bar, i)
        pivot = under(mixture.given(LABELS), "frequency:weights=[0.5,2,5]").predict(x_bar, i)
        expected = free + weight * (conditional - free)
        torch.testing.assert_close(score_of(pivot, mixture.diffusion, i), expected, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize(("rotation", "velocity"), PROCESSES)
    def test_equal_weights_are_cfg_to_the_bit(self, rotation, velocity):
        mixture = Mixture(process(rotation, velocity))
        model, x_bar = mixture.given(LABELS), events(mixture.diffusion, dtype=torch.float32)
        for i in STEPS:
            for limits in ("", ",sigma_min=0.2,sigma_max=2"):
                bands = under(model, f"frequency:weights=[3,3,3]{limits}").predict(x_bar, i)
                assert same(bands, under(model, f"cfg:weight=3{limits}").predict(x_bar, i))

    def test_edges_part_the_bands(self):
        mixture = Mixture(process())
        x_bar = events(mixture.diffusion)
        rho = mixture.diffusion.rotation.frequencies(SHAPE)
        edge = float(rho.flatten()[5])  # an edge belongs to the band above it
        seen = under(mixture.given(LABELS), f"frequency:weights=[1,4],edges=[{edge!r}]").predict(x_bar, 20)
        own, full = (under(mixture.given(LABELS), f"cfg:weight={w}").predict(x_bar, 20) for w in (1, 4))
        expected = Pivot(torch.where(rho < edge, own.x_0, full.x_0), torch.where(rho < edge, own.eps, full.eps))
        assert_close(seen, expected, rtol=1e-12, atol=1e-12)

    def test_pixels_that_move_alike_have_the_frequencies_of_the_dct(self):
        """The same pictures, whether the process is written in pixels or in cosines."""
        pixels, cosines = process("identity", "isotropic"), process("dct", "isotropic")
        mixture = Mixture(pixels)
        x, i = events(pixels), 20
        seen = under(mixture.given(LABELS), "frequency:weights=[1,4]").predict(x, i)
        own, free = mixture.given(LABELS).predict(x, i), mixture.predict(x, i)
        weight = torch.tensor([1.0, 4.0], dtype=torch.float64)[bands_of(cosines.rotation.frequencies(SHAPE), 2)]
        U = Rotation("dct")
        for name in ("x_0", "eps"):
            a, b = getattr(free, name), getattr(own, name)
            torch.testing.assert_close(getattr(seen, name), a + U.unrotate(weight * U.rotate(b - a)))
        at = pixels.at(i, torch.float64)
        torch.testing.assert_close(at.a * seen.x_0 + at.s * seen.eps, x)
        low = dct((seen.x_0 - own.x_0).float())[..., 0, 0]
        torch.testing.assert_close(low, torch.zeros_like(low), atol=1e-6, rtol=0)

    def test_pixels_that_do_not_have_none(self):
        mixture = Mixture(process("identity", "equal-snr"))
        with pytest.raises(ConfigError, match="rotation 'identity' has no frequencies") as caught:
            under(mixture.given(LABELS), "frequency")
        assert "cfg" in caught.value.fix


@pytest.mark.parametrize("spec", ["cfg", "frequency", "cfg:weight=0"])
class TestRefusals:
    def test_a_network_that_was_never_trained_without(self, spec):
        mixture = Mixture(process())
        with pytest.raises(ConfigError, match="trained without conditions too, and this one was not") as caught:
            guided(mixture.given(LABELS), [Guide(spec)], Scene(mixture.diffusion, 0.0))
        assert "train.condition_dropout=0.1" in caught.value.fix

    def test_a_network_that_is_told_of_nothing(self, spec):
        with pytest.raises(ConfigError, match="and this network is told of none") as caught:
            under(Mixture(process()), spec)
        assert "gendiff train --condition" in caught.value.fix


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cfg:sigma_min=2,sigma_max=1", "sigma_max = 1: it must be above sigma_min = 2"),
        ("cfg:sigma_min=-1", "greater than or equal to 0"),
        ("cfg:weight=nan", "finite"),
        ("cfg:scale=2", "has no parameter 'scale'"),
        ("frequency:weights=[1,2,3],edges=[0.5]", "they part 2 bands, and there are 3 weights"),
        ("frequency:weights=[]", "at least 1 item"),
        ("frequency:weights=2", "list"),
        ("frequency:weights=[1,2,3],edges=[0.5,0.2]", "each above the one before"),
        ("frequency:weights=[1,2],edges=[0]", "the first must be above 0"),
    ],
)
def test_parameters_that_are_none(spec, says):
    with pytest.raises(ConfigError, match=says):
        Guide(spec)


@pytest.mark.parametrize("spec", [f"frequency:weights={[*range(60)]}", "frequency:weights=[1,2],edges=[9]"])
def test_bands_that_hold_nothing(spec):
    mixture = Mixture(process())
    with pytest.raises(ConfigError, match="some hold no component") as caught:
        under(mixture.given(LABELS), spec)
    assert "events are 2x4x8, and ρ goes from 0 to" in caught.value.details[0]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("spec", ["cfg", "frequency", "autoguidance:weaker=@5"])
def test_without_a_gradient_nothing_is_kept_and_with_one_it_is_there(spec):
    mixture = Mixture(process())
    model = under(mixture.given(LABELS), spec, other=lambda name: Mixture(process(), seed=7))
    x_bar = events(mixture.diffusion).requires_grad_()
    with torch.no_grad():
        assert not believe(model, x_bar, 20).eps.requires_grad
    (slope,) = torch.autograd.grad(model.predict(x_bar, 20).eps.sum(), x_bar)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0
