"""Samplers, proved without Monte Carlo: for Gaussian data the law of what comes out follows from the plan."""

from __future__ import annotations

import decimal
import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from gendiff_plugins.samplers.multistep import _corrector, _Step
from processes import PROCESSES, N, component, diffusion, scales_at
from torch import nn

from gendiff import Diffusion, GaussianScore, NetworkScore, Sampler, VariancePreserving, sample
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.lab.recursion import Gaussian, law
from gendiff.model import ask
from gendiff.moments import Moments
from gendiff.plugin.registry import default_registry
from gendiff.sampler import Past, Update, apply, invert
from gendiff.scales import Scales
from gendiff.score import Parametrization, Pivot, ScoreModel, from_eps, from_x_0
from gendiff.streams import ImageNoise
from gendiff.testing.probes import SteadyScales

EVENT = (2, 3, 5)
#: Those whose plan is all that they do; heat-dissipation has a process of its own.
GENERAL = [name for name in default_registry().names("sampler") if name not in ("heat-dissipation", "dopri5")]
SAMPLERS = [
    *GENERAL,
    *(f"{name}:steps=9" for name in GENERAL if name != "reverse-diffusion"),
    "ddim:eta=0.5",
    "ancestral:steps=13,grid=uniform,prior=matched",
    "trig:solver=ab2",
    "trig:solver=heun,steps=8",
]


def with_moments(process: Diffusion, m: torch.Tensor, c: torch.Tensor) -> Diffusion:
    return Diffusion(process.rotation, process.scales, process.event_shape, Moments(m, c, 1))


def test_two_evaluations_a_step_and_one_at_the_last_are_an_odd_number():
    said = {n: component(Sampler, "heun" + (f":steps={n}" if n else "")).left_out for n in (None, 1, 2, 5, 6)}
    assert (said[None], said[1], said[5]) == ("", "", "")
    assert said[2] == "heun makes 1 evaluations, not 2: 2 at each step, and one at the last"
    assert said[6] == "heun makes 5 evaluations, not 6: 2 at each step, and one at the last"
    assert [component(Sampler, f"ddim:steps={n}").left_out for n in (5, 6)] == ["", ""]
    process = diffusion("dct", "blur", EVENT)
    for spec, made in (("heun", 7), ("trig:solver=heun", 7), ("trig:solver=euler", 8), ("trig:solver=ab2", 8)):
        assert len(component(Sampler, spec + (",steps=8" if ":" in spec else ":steps=8")).plan(process)) == made


@pytest.mark.parametrize("n", [3, 16, 20])
def test_events_of_a_seed_are_drawn_in_full_batches_each_from_its_own_noise(n):
    process, sizes = diffusion("dct", "blur", EVENT), []
    model = GaussianScore(process, torch.zeros(EVENT), torch.ones(EVENT))

    class Counted(ScoreModel):
        diffusion = process

        def predict(self, x_bar, i):
            sizes.append(len(x_bar))
            return model.predict(x_bar, i)

    sampler = component(Sampler, "ancestral:steps=3,clip=false")
    events = sample(process, Counted(), sampler, n=n, seed=5)
    assert events.shape == (n, *EVENT)
    assert sizes == [16] * (3 * -(-n // 16))
    for k in {0, 2, n - 1}:
        alone = sample(process, model, sampler, ImageNoise(5, [k], EVENT, torch.device("cpu")))
        torch.testing.assert_close(events[[k]], alone, rtol=1e-5, atol=1e-5)


def test_arguments_that_are_something_else_are_named():
    process = diffusion("dct", "blur", EVENT)
    right = {
        "diffusion": process,
        "model": GaussianScore(process, torch.zeros(EVENT), torch.ones(EVENT)),
        "sampler": Sampler("ddim:steps=2"),
    }
    with pytest.raises(ArgumentError, match=r"^start has the shape"):
        sample(*right.values(), start=torch.zeros(2, 3))
    for name in right:
        with pytest.raises(ArgumentError, match=f"^{name} is a "):
            sample(*(right | {name: 3}).values(), n=2)


def test_a_start_is_taken_in_the_precision_that_is_asked_for():
    process, x = diffusion("dct", "blur", EVENT), torch.ones(2, *EVENT)
    model = GaussianScore(process, torch.zeros(EVENT), torch.ones(EVENT))
    for start, dtype in ((x.double(), torch.float32), (x, torch.float64)):
        assert sample(process, model, Sampler("ddim:steps=2"), start=start, dtype=dtype).dtype == dtype


def test_a_network_is_asked_in_the_precision_of_its_weights_whatever_else_it_holds():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
            self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x, i):
            assert x.dtype == torch.float64
            return x * self.weight

    assert ask(Net(), torch.ones(2, *EVENT), torch.tensor([1, 2]), EVENT).dtype == torch.float64


def test_from_a_start_fresh_noise_is_that_of_the_seed():
    process, x = diffusion("dct", "blur", EVENT), torch.zeros(3, *EVENT)
    model = GaussianScore(process, torch.zeros(EVENT), torch.ones(EVENT))
    one, again, other = (sample(process, model, Sampler("ancestral:steps=4"), start=x, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize(("off", "refused"), [(1.5e-9, True), (0.5e-9, False)])
def test_heat_is_dissipated_where_the_noise_is_the_same_within_rounding(off, refused):
    process = diffusion("dct", "heat", EVENT)
    log_s = process.scales.log_s_common.clone()
    log_s[7:] = (log_s[7:].exp() + off).log()
    process = Diffusion(process.rotation, replace(process.scales, log_s_common=log_s), EVENT)
    with pytest.raises(ConfigError, match=r"at i = 1 and at N = 50 differ by 1\.5e-09") if refused else nullcontext():
        component(Sampler, "heat-dissipation").plan(process)


class Shrinking(Scales):
    """Noise that shrinks in one component and grows in the others, while all data fade."""

    N = 9
    device = torch.device("cpu")

    def log_a(self, i):
        return -i.double().reshape(-1, 1, 1, 1).expand(-1, *EVENT)

    def log_s(self, i):
        rate = torch.full(EVENT, 0.1, dtype=torch.float64)
        rate[0, 0, 0] = -0.1
        return torch.where(i.reshape(-1, 1, 1, 1) > 0, rate * i.reshape(-1, 1, 1, 1), -math.inf)

    def to(self, device):
        return self


def test_momentum_is_refused_where_the_noise_of_one_component_shrinks():
    process = Diffusion(diffusion("identity", "blur", EVENT).rotation, Shrinking(), EVENT)
    with pytest.raises(ConfigError, match="noise never shrinks") as caught:
        component(Sampler, "momentum").plan(process)
    assert caught.value.details == ("s is larger at i = 8 than at i = 9 for 1 components",)


def test_events_of_a_seed_have_a_graph_where_one_is_asked_for():
    process, weight = diffusion("dct", "blur", EVENT), torch.ones((), requires_grad=True)

    class Weighted(GaussianScore):
        def predict(self, x_bar, i):
            pivot = super().predict(x_bar, i)
            return Pivot(pivot.x_0 * weight, pivot.eps)

    model = Weighted(process, torch.ones(EVENT), torch.ones(EVENT))
    for graph in (True, False, None):
        events = sample(process, model, Sampler("ddim:steps=2"), n=2, graph=graph)
        assert events.requires_grad == bool(graph)


def test_what_a_plan_has_let_go_it_cannot_look_at_again():
    class Forgetful(Sampler):
        """looks at nothing earlier, and then two evaluations back."""

        name = "forgetful"
        clip: bool = False

        def updates(self, diffusion):
            one = torch.ones((), dtype=torch.float64)
            for i in range(diffusion.N, 0, -1):
                yield Update(i, i - 1, q=one, past=(Past(q=one), Past(q=one)) if i == diffusion.N - 2 else ())

    process = diffusion("dct", "blur", EVENT)
    model = GaussianScore(process, torch.zeros(EVENT), torch.ones(EVENT))
    with pytest.raises(PluginError, match="looks 2 evaluations back, where there are 1"):
        sample(process, model, Forgetful(), n=2)


def test_heun_is_euler_where_nothing_of_the_data_is_left():
    ends = (torch.full(EVENT, value, dtype=torch.float64) for value in (-9.0, -19.0))
    process = Diffusion(diffusion("identity", "blur", EVENT).rotation, SteadyScales(101, *ends), EVENT)
    seconds = {update.i: update for update in component(Sampler, "heun").plan(process) if update.past}
    for j, second in seconds.items():  # from the step j + 1
        gone = bool((process.at(j + 1, torch.float64).log_a < -14).all())
        assert bool((second.b == 0).all()) == gone, j
    assert {bool((update.b == 0).all()) for update in seconds.values()} == {True, False}


def test_who_watches_events_of_a_seed_sees_those_alone():
    process, seen = diffusion("dct", "blur", EVENT), []
    model = GaussianScore(process, torch.zeros(EVENT), torch.ones(EVENT))
    events = sample(process, model, Sampler("ddim:steps=2"), n=3, watch=seen.append)
    assert [one.number for one in seen] == [0, 1, 2]
    assert {one.x_bar.shape for one in seen} == {(3, *EVENT)}
    torch.testing.assert_close(process.unrotate(seen[-1].x_bar), events)


def test_an_update_reads_as_its_formula():
    one, zero = torch.ones(1), torch.zeros(1)
    full = Update(5, 3, p=one, q=one, b=one, e=one, constant=one, past=(Past(q=one), Past(q=one, b=one)))
    assert repr(full) == "Update(5 -> 3: constant + p x + q x_0 + b eps + q x_0' + q x_0'' + b eps'' + e z)"
    assert repr(Update(5, 3, b=zero)) == "Update(5 -> 3: b eps)"
    assert repr(Update(5, 3)) == "Update(5 -> 3: 0)"


@pytest.mark.parametrize("name", GENERAL)
def test_a_rise_of_lambda_within_rounding_breaks_no_plan(name):
    class Level(VariancePreserving):
        """In one component λ stays from step 1 on, and rises by 1e-12 at every second step, in the others it falls."""

        N = 9
        device = torch.device("cpu")

        def log_alpha_bar(self, i):
            i = i.double().reshape(-1, 1, 1, 1)
            L = (-0.2 * i).repeat(1, *EVENT)
            L[:, :1, :1, :1] = (-0.2 + 1e-12 * (i % 2)) * (i > 0)
            return torch.where(i == 9, -20.0, L)

        def to(self, device):
            return self

    process = Diffusion(diffusion("identity", "blur", EVENT).rotation, Level(), EVENT)
    for update in component(Sampler, name).plan(process):
        held = [update.p, update.q, update.b, update.e, *(value for past in update.past for value in (past.q, past.b))]
        assert all(value.isfinite().all() for value in held if value is not None), (update.i, update.j)


@pytest.mark.parametrize(
    ("rotation", "velocity", "spec"),
    [
        *(
            (U, B, spec)
            for U, B in (("identity", "blur"), ("dct", "blur"), ("dct", "fine-to-coarse"))
            for spec in SAMPLERS
        ),
        ("dct", "heat", "heat-dissipation"),
    ],
)
def test_the_loop_does_what_the_recursion_says(rotation, velocity, spec, rng):
    """Running the sampler on chosen noise is affine in that noise, with exactly the recursion's mean and variance."""
    sampler = component(Sampler, spec)
    c = torch.rand(EVENT, generator=rng, dtype=torch.float64) + 0.1
    m = torch.randn(EVENT, generator=rng, dtype=torch.float64)
    process = with_moments(diffusion(rotation, velocity, EVENT), 0.5 * m, 2 * c)  # the plan need not know the data
    model = GaussianScore(process, m, c)
    out = law(process, sampler, Gaussian.diagonal(m, c, EVENT))
    mean, variance = out.mean.reshape(EVENT), out.variance
    draws = 1 + sum(update.e is not None for update in sampler.plan(process))

    calls = iter(range(1, draws + 1))

    def noise():
        """All zero, but for the row of this draw, which is one in every rotated component."""
        drawn = torch.zeros(draws + 1, *EVENT, dtype=torch.float64)
        drawn[next(calls)] = 1
        return process.unrotate(drawn)

    x_bar = process.rotate(sample(process, model, sampler, noise, dtype=torch.float64))
    torch.testing.assert_close(x_bar[0], mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(((x_bar[1:] - x_bar[0]) ** 2).sum(0), variance, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("spec", SAMPLERS)
def test_every_update_begins_where_the_last_one_ended(spec):
    updates = list(component(Sampler, spec).plan(diffusion("dct", "blur", EVENT)))
    assert updates[0].i == N
    assert updates[-1].j == 0
    assert all(before.j == update.i for before, update in pairwise(updates))
    raised = [update for update in updates if update.j > update.i]  # by churn: noise is put back in
    assert bool(raised) == spec.startswith("churn")
    assert all(update.e is not None for update in raised)


def test_noise_that_differs_at_one_step_is_not_constant():
    """Wherever the step is; those after the first are none at which a `Diffusion` looks."""
    heat = diffusion("dct", "heat", EVENT)
    sampler = component(Sampler, "heat-dissipation")
    assert [(update.i, update.j) for update in sampler.plan(heat)] == [(i, i - 1) for i in range(N, 0, -1)]
    for step in (1, 20, N - 2):
        log_s = heat.scales.log_s_common.clone()
        log_s[step] -= 1e-6
        other = Diffusion(heat.rotation, replace(heat.scales, log_s_common=log_s), EVENT)
        with pytest.raises(ConfigError, match="noise is the same at every step"):
            list(sampler.plan(other))


@pytest.mark.slow
@pytest.mark.parametrize(("rotation", "velocity"), [("dct", "blur"), ("blur-eigen", "isotropic")])
def test_ancestral_and_ddim_reach_the_data(rotation, velocity):
    """With N = 1000 fine steps the law of the samples is the law of the data, up to the documented discretisation."""
    from gendiff import Data

    field = component(Data, "gaussian-field:size=[6, 9],channels=2")
    process = diffusion(rotation, velocity, field.event_shape, N=1000)
    c = field.variance.expand(field.event_shape)
    m = torch.full_like(c, 0.3)
    for spec, tolerance in (("ancestral", 0.02), ("ddim", 0.02), ("reverse-diffusion", 0.05)):
        out = law(process, component(Sampler, spec), Gaussian.diagonal(m, c, field.event_shape))
        mean, variance = out.mean.reshape(c.shape), out.variance
        assert ((mean - m).abs() <= tolerance * c.sqrt().clamp_min(0.3)).all()
        assert ((variance / c - 1).abs() <= 2 * tolerance).all()


@pytest.mark.parametrize(("rotation", "velocity"), PROCESSES, ids=str)
def test_ddim_at_eta_1_is_ancestral(rotation, velocity):
    event = (3, 4, 5)
    process = diffusion(rotation, velocity, event)
    ancestral = list(component(Sampler, "ancestral:steps=17").plan(process))
    ddim = list(component(Sampler, "ddim:steps=17,eta=1").plan(process))
    for one, other in zip(ancestral, ddim, strict=True):
        assert (one.i, one.j) == (other.i, other.j)
        posterior = process.posterior(one.i, one.j)
        s, a = process.at(one.i).log_s.exp(), process.at(one.i).log_a.exp()
        torch.testing.assert_close(one.q, other.q)
        torch.testing.assert_close(one.b, other.b)
        # b ε̂ with ε̂ = (x̄ - a x̂_0)/s is the posterior's p x̄ + (q - a_j + p a) x̂_0
        torch.testing.assert_close(one.b / s, posterior.p, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(one.q - one.b * a / s, posterior.q, rtol=1e-8, atol=1e-8)
        if one.e is None:
            assert one.j == 0
        else:
            torch.testing.assert_close(one.e, posterior.std)


class Fixed(ScoreModel):
    """A deterministic made-up network, shared with the oracle."""

    def __init__(self, process: Diffusion, clip: bool = False) -> None:
        self.process, self.clip = process, clip

    @staticmethod
    def eps(x: torch.Tensor, i: int) -> torch.Tensor:
        return torch.tanh(1.3 * x) + 0.1 * torch.cos(x * i / 100)

    def predict(self, x_bar, i):
        at = self.process.at(i, x_bar.dtype)
        pivot: Pivot = from_eps(self.eps(x_bar, i), x_bar, at)
        return from_x_0(pivot.x_0.clamp(-1, 1), x_bar, at) if self.clip else pivot


class TestAgainstDiffusers:
    """diffusers is an independent implementation of DDPM; its step t is our i = t + 1."""

    N = 100
    settings = {"num_train_timesteps": 100, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}

    def noises(self, rng, count):
        return [torch.randn(3, *EVENT, generator=rng) for _ in range(count)]

    @pytest.mark.parametrize("clip", [False, True])
    @pytest.mark.parametrize(("rotation", "velocity"), [("identity", "blur"), ("identity", "isotropic")])
    def test_ancestral_is_ddpm_step_by_step(self, rotation, velocity, clip, rng, monkeypatch):
        process = diffusion(rotation, velocity, EVENT, N=self.N)
        oracle = DDPMScheduler(**self.settings, variance_type="fixed_small", clip_sample=clip)
        noises = self.noises(rng, self.N)
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: noises[next(draw)], raising=True
        )
        draw = iter(range(1, self.N))
        x = noises[0] * scales_at(process, self.N)[1].flatten()[0]
        expected = []
        for t in range(self.N - 1, -1, -1):
            x = oracle.step(Fixed.eps(x, t + 1), t, x).prev_sample
            expected.append(x)
        seen = []
        source = iter(noises)
        sample(process, Fixed(process, clip), component(Sampler, "ancestral"), lambda: next(source), watch=seen.append)
        assert len(seen) == self.N + 1
        for ours, theirs in zip(seen[1:], expected, strict=True):
            torch.testing.assert_close(ours.x_bar, theirs, rtol=1e-4, atol=2e-4)

    @pytest.mark.parametrize("eta", [0.0, 0.4])
    @pytest.mark.parametrize("steps", [100, 20])
    def test_ddim_step_by_step(self, eta, steps, rng):
        process = diffusion("identity", "blur", EVENT, N=self.N)
        oracle = DDIMScheduler(**self.settings, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
        oracle.set_timesteps(steps)
        noises = self.noises(rng, steps + 1)
        x = noises[0] * scales_at(process, self.N)[1].flatten()[0]
        expected = []
        for number, t in enumerate(oracle.timesteps.tolist()):
            x = oracle.step(
                Fixed.eps(x, t + 1), t, x, eta=eta, variance_noise=noises[number + 1] if eta else None
            ).prev_sample
            expected.append(x)
        seen, source = [], iter(noises)
        sampler = component(Sampler, f"ddim:steps={steps},eta={eta},grid=uniform")
        sample(process, Fixed(process), sampler, lambda: next(source), watch=seen.append)
        for ours, theirs in zip(seen[1:], expected, strict=True):
            torch.testing.assert_close(ours.x_bar, theirs, rtol=1e-4, atol=2e-4)

    @pytest.mark.parametrize("steps", [100, 20, 7, 1])
    @pytest.mark.parametrize(
        ("spec", "oracle", "options"),
        [
            ("dpmpp-2m", DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
            ("sde-dpmpp-2m", DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
            ("unipc-2", UniPCMultistepScheduler, {"solver_type": "bh2"}),
        ],
    )
    def test_multistep_step_by_step(self, spec, oracle, options, steps, rng, monkeypatch):
        """Both in float64: what is left is that diffusers keeps its tables in float32."""
        process = diffusion("identity", "blur", EVENT, N=self.N)
        theirs = oracle(
            **self.settings, **options, solver_order=2, timestep_spacing="trailing", final_sigmas_type="zero"
        )
        theirs.set_timesteps(steps)
        noises = [noise.double() for noise in self.noises(rng, steps + 1)]
        draw = iter(noises[1:])
        module = oracle.__module__
        monkeypatch.setattr(f"{module}.randn_tensor", lambda *a, **k: next(draw), raising=False)
        x = noises[0] * scales_at(process, self.N, torch.float64)[1].flatten()[0]
        expected = []
        for t in theirs.timesteps.tolist():
            x = theirs.step(Fixed.eps(x, t + 1), t, x).prev_sample
            expected.append(x)
        seen, source = [], iter(noises)
        sampler = component(Sampler, f"{spec}:steps={steps},grid=uniform")
        sample(process, Fixed(process), sampler, lambda: next(source), dtype=torch.float64, watch=seen.append)
        assert [look.j + 1 for look in seen[:-1]] == [t + 2 for t in theirs.timesteps.tolist()]
        for ours, other in zip(seen[1:], expected, strict=True):
            torch.testing.assert_close(ours.x_bar, other.double(), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("steps", [100, 20, 7, 1])
    def test_heun_step_by_step(self, steps, rng):
        """It works with x/a there."""
        process = diffusion("identity", "blur", EVENT, N=self.N)
        theirs = HeunDiscreteScheduler(**self.settings, timestep_spacing="trailing")
        theirs.set_timesteps(steps)
        (noise,) = self.noises(rng, 1)
        a, s = scales_at(process, self.N, torch.float64)
        x, expected = noise.double() * (s / a), []
        for t in theirs.timesteps:
            scaled = theirs.scale_model_input(x, t)
            x = theirs.step(Fixed.eps(scaled, int(t) + 1), t, x).prev_sample
            expected.append(x)
        seen = []
        sampler = component(Sampler, f"heun:steps={2 * steps - 1},grid=uniform")
        sample(process, Fixed(process), sampler, lambda: noise, dtype=torch.float64, watch=seen.append)
        for ours, other in zip(seen[1:], expected, strict=True):
            scale = scales_at(process, ours.j, torch.float64)[0]
            torch.testing.assert_close(ours.x_bar / scale, other.double(), rtol=1e-4, atol=1e-4)

    def test_forward_process(self, rng):
        process = diffusion("identity", "blur", EVENT, N=self.N)
        x_0, eps = torch.randn(2, 5, *EVENT, generator=rng)
        i = torch.tensor([1, 2, 50, 99, 100])
        theirs = DDPMScheduler(**self.settings).add_noise(x_0, eps, i - 1)
        torch.testing.assert_close(process.q_sample(x_0, i, eps), theirs, rtol=1e-5, atol=1e-5)
        v = DDPMScheduler(**self.settings).get_velocity(x_0, eps, i - 1)
        from gendiff.score import encode

        torch.testing.assert_close(encode(Parametrization.V, Pivot(x_0, eps), process.at(i)), v, rtol=1e-5, atol=1e-5)


class TestReverseDiffusion:
    def test_it_is_the_paper_s_step(self):
        process = diffusion("dct", "blur", EVENT)
        updates = list(component(Sampler, "reverse-diffusion").plan(process))
        assert [update.i for update in updates] == list(range(N, 0, -1))
        assert updates[-1].e is None
        for update in updates:
            kernel = process.kernel(update.i, update.i - 1)
            torch.testing.assert_close(update.p, 2 - kernel.scale)
            torch.testing.assert_close(-update.b * process.at(update.i).log_s.exp(), kernel.std**2)
            if update.e is not None:
                torch.testing.assert_close(update.e, kernel.std)

    def test_it_refuses_a_process_without_a_velocity(self):
        process = diffusion("dct", "blur", EVENT)

        class NotVP(type(process.scales).__mro__[2]):
            """the same numbers, not declared variance-preserving."""

            N, device = process.N, torch.device("cpu")
            log_a = staticmethod(process.scales.log_a)
            log_s = staticmethod(process.scales.log_s)

            def to(self, device):
                return self

        assert not issubclass(NotVP, VariancePreserving)
        general = Diffusion(process.rotation, NotVP(), EVENT)
        with pytest.raises(ConfigError, match="needs a variance-preserving process"):
            list(component(Sampler, "reverse-diffusion").plan(general))
        assert len(list(component(Sampler, "ddim:steps=5").plan(general))) == 5


def test_first_noise_is_the_same_in_every_rotation(rng):
    """The prior is drawn in event space, so arms of a comparison start from the same picture of noise."""
    z = torch.randn(3, *EVENT, generator=rng)
    starts = [
        process.unrotate(process.prior(z))
        for process in (diffusion(name, "isotropic", EVENT) for name in ("identity", "dct", "blur-eigen"))
    ]
    for start in starts[1:]:
        torch.testing.assert_close(start, starts[0], rtol=0, atol=1e-6)


# --- correlated data: the orders of the solvers ---------------------------------------------------------------------------


class DenseScore(ScoreModel):
    """The optimal model of N(m, C), C a whole matrix over the components."""

    def __init__(self, process, m, C):
        self.process, self.m, self.C = process, m.flatten(), C

    def predict(self, x_bar, i):
        a, s = (values.expand(x_bar.shape[1:]).flatten() for values in scales_at(self.process, i, torch.float64))
        V = a[:, None] * self.C * a + torch.diag(s**2)
        residual = torch.linalg.solve(V, (x_bar.flatten(1) - a * self.m).T).T
        pivot = Pivot(self.m + residual @ (self.C * a).T, s * residual)
        return Pivot(pivot.x_0.reshape(x_bar.shape), pivot.eps.reshape(x_bar.shape))


@pytest.fixture
def correlated(rng):
    """Mean, covariance and a process in which λ of each component falls steadily at its own pace, ``process(N)``."""
    event, d = (1, 2, 3), 6
    A = torch.randn(d, d, generator=rng, dtype=torch.float64)
    C = A @ A.T / d + 0.05 * torch.eye(d, dtype=torch.float64)
    m = torch.randn(event, generator=rng, dtype=torch.float64) / 2
    first, last = (torch.linspace(*ends, d, dtype=torch.float64).reshape(event) for ends in ((9, 11), (-10, -13)))
    identity = diffusion("identity", "blur", event).rotation
    moments = Moments(m, C.diagonal().reshape(event), 1)
    return m, C, lambda N: Diffusion(identity, SteadyScales(N, first, last), event, moments)


@pytest.mark.parametrize("spec", [*GENERAL, "trig:solver=ab2", "trig:solver=heun"])
def test_the_recursion_of_correlated_data_is_the_loop(spec, correlated):
    """Every noise component at its own: mean and whole covariance of what the loop makes of them."""
    m, C, process = correlated
    process, sampler = process(12), component(Sampler, spec)
    out = law(process, sampler, Gaussian.dense(m, C))
    draws = 1 + sum(update.e is not None for update in sampler.plan(process))
    rows, calls = 1 + 6 * draws, iter(range(draws))

    def noise():
        k = next(calls)
        drawn = torch.zeros(rows, 6, dtype=torch.float64)
        drawn[1 + 6 * k : 7 + 6 * k] = torch.eye(6, dtype=torch.float64)
        return drawn.reshape(rows, 1, 2, 3)

    x_0 = sample(process, DenseScore(process, m, C), sampler, noise, dtype=torch.float64).flatten(1)
    torch.testing.assert_close(out.mean[0], x_0[0], rtol=0, atol=1e-10)
    moved = x_0[1:] - x_0[0]
    torch.testing.assert_close(out.covariance[0], moved.T @ moved, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("spec", "order"),
    [
        ("ddim", 1),
        ("ancestral", 1),
        ("reverse-diffusion", 1),
        ("trig", 1),
        ("dpmpp-2m", 2),
        ("sde-dpmpp-2m", 2),
        ("heun", 2),
        ("trig:solver=ab2", 2),
        ("trig:solver=heun", 2),
        ("unipc-2", 3),
    ],
)
def test_the_order_that_is_observed_on_correlated_data(spec, order, correlated):
    m, C, process = correlated
    data, sampler = Gaussian.dense(m, C), component(Sampler, spec)
    assert sampler.order == order
    few, many = (math.sqrt(float(law(process(N), sampler, data).distance(data))) for N in (48, 96))
    assert order - 0.3 < math.log2(few / many) < order + 0.5


def test_the_distance_of_gaussian_laws(rng):
    """Groups of one, and a whole matrix that is diagonal, are the same law; known values."""
    c, d = torch.rand(2, 1, 2, 3, generator=rng, dtype=torch.float64) + 0.1
    one, other = Gaussian.diagonal(0 * c, c, (1, 2, 3)), Gaussian.diagonal(0 * c + 0.5, d, (1, 2, 3))
    whole = [Gaussian.dense(law.mean.reshape(1, 2, 3), torch.diag(law.variance.flatten())) for law in (one, other)]
    expected = ((c.sqrt() - d.sqrt()) ** 2 + 0.25).sum()
    torch.testing.assert_close(one.distance(other).sum(), expected)
    torch.testing.assert_close(whole[0].distance(whole[1]).sum(), expected)
    assert torch.equal(whole[0].variance, c)


# --- what the samplers say of themselves ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rotation", "velocity"), PROCESSES, ids=str)
def test_trig_is_exact_in_one_step_on_gaussian_data(rotation, velocity, rng):
    """Whatever the process, variance-preserving or not; from the matched prior, in any number of steps."""
    event = (3, 4, 4) if "hadamard" in str(rotation) else (3, 4, 5)
    m = torch.randn(event, generator=rng, dtype=torch.float64)
    c = torch.rand(event, generator=rng, dtype=torch.float64) + 0.1
    process = with_moments(diffusion(rotation, velocity, event), m, c)
    s_0 = process.at(0).log_s.exp()
    clean = Gaussian.diagonal(m * process.at(0).log_a.exp(), c * torch.exp(2 * process.at(0).log_a) + s_0**2, event)
    for solver, steps in (("euler", 1), ("euler", 7), ("ab2", 5), ("heun", 9)):
        sampler = component(Sampler, {"name": "trig", "solver": solver, "steps": steps, "prior": "matched"})
        out = law(process, sampler, Gaussian.diagonal(m, c, event))
        torch.testing.assert_close(out.mean, clean.mean, rtol=0, atol=1e-8)
        torch.testing.assert_close(out.variance, clean.variance, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("rotation", "velocity"), PROCESSES, ids=str)
def test_every_plan_is_finite_and_its_law_too(rotation, velocity, rng):
    """In every process, also where components vanish, in few steps and in all."""
    event = (3, 4, 4) if "hadamard" in str(rotation) else (3, 4, 5)
    process = diffusion(rotation, velocity, event)
    data = Gaussian.diagonal(torch.zeros(1), torch.full((1,), 0.3, dtype=torch.float64), event)
    for spec in ("dpmpp-2m", "sde-dpmpp-2m", "unipc-2", "heun", "trig:solver=ab2"):
        for steps in (1, 6, 20):
            table = {**component(Sampler, spec).table(), "grid": "arc-length", "steps": steps}
            sampler = component(Sampler, table)
            for update in sampler.plan(process):
                terms = [update.p, update.q, update.b, update.e, update.constant]
                terms += [value for past in update.past for value in (past.q, past.b)]
                assert all(torch.isfinite(value).all() for value in terms if value is not None), update
            assert torch.isfinite(law(process, sampler, data).variance).all()


@pytest.mark.parametrize(("rotation", "velocity"), [("dct", "blur"), ("identity", "isotropic"), ("dct", "heat")])
def test_multistep_begins_and_ends_with_first_order(rotation, velocity):
    process = diffusion(rotation, velocity, (3, 4, 5))
    for spec, first_order in (("dpmpp-2m", "ddim"), ("sde-dpmpp-2m", "ancestral"), ("unipc-2", "ddim")):
        mine = list(component(Sampler, f"{spec}:steps=6,grid=uniform").plan(process))
        plain = list(component(Sampler, f"{first_order}:steps=6,grid=uniform").plan(process))
        for k in (0,) if spec == "unipc-2" else (0, -1):  # the last update of UniPC corrects the step before, too
            a, s = (values.double() for values in scales_at(process, mine[k].i, torch.float64))
            one, other = mine[k], plain[k]
            # both in terms of x̄_i and x̂_0: ε̂ = (x̄_i - a x̂_0)/s
            torch.testing.assert_close(one.p, other.b / s, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(one.q, other.q - other.b * a / s, rtol=1e-7, atol=1e-9)
            assert one.past == ()
            if other.e is not None:
                torch.testing.assert_close(one.e, other.e, rtol=1e-7, atol=1e-12)


def test_a_component_that_stands_still_is_left_alone():
    """h = 0 for the first component: only its scale may change, whatever the model says of it."""
    event = (1, 1, 2)
    first, last = (torch.tensor(values, dtype=torch.float64).reshape(event) for values in ((2.0, 3.0), (2.0, -3.0)))
    process = Diffusion(diffusion("identity", "blur", event).rotation, SteadyScales(10, first, last), event)
    for spec in ("dpmpp-2m", "sde-dpmpp-2m", "unipc-2"):
        for update in component(Sampler, f"{spec}:grid=uniform,steps=5").plan(process):
            if update.j:
                assert update.p.flatten()[0] == 1
                assert all(value.flatten()[0] == 0 for value in (update.q, *(past.q for past in update.past)))


def test_a_component_that_was_pure_prior_is_not_extrapolated():
    """Where log a < -14 an evaluation says nothing of x_0: the next step is of first order there, and of second elsewhere."""
    event = (1, 1, 2)
    first, last = torch.full(event, 3.0).double(), torch.tensor([-30.0, -5.0]).double().reshape(event)
    process = Diffusion(diffusion("identity", "blur", event).rotation, SteadyScales(12, first, last), event)
    dead = [float(process.at(i).log_a.flatten()[0]) < -14 for i in range(13)]
    assert dead[12]
    assert not dead[3]
    for spec in ("dpmpp-2m", "sde-dpmpp-2m"):
        for before, update in pairwise(component(Sampler, f"{spec}:grid=uniform,steps=12").plan(process)):
            if update.j:
                q = update.past[0].q.flatten()
                assert (float(q[0]) == 0) == dead[before.i]
                assert float(q[1]) != 0


def test_an_angle_that_did_not_turn_is_not_extrapolated():
    """Of pure prior θ is π/2 to the last bit: where it turns at last, ab2 is of first order."""
    event = (1, 1, 2)
    first, last = torch.full(event, 3.0).double(), torch.tensor([-90.0, -3.0]).double().reshape(event)
    process = Diffusion(diffusion("identity", "blur", event).rotation, SteadyScales(13, first, last), event)
    updates = list(component(Sampler, "trig:solver=ab2,grid=uniform,steps=13").plan(process))
    theta = {i: process.at(i, torch.float64).theta.flatten() for i in range(14)}
    still = 0
    for before, update in pairwise(updates[:-1]):
        turned = theta[before.i] - theta[update.i]
        assert float(turned[1]) > 0 != float(update.past[0].b.flatten()[1])
        if float(turned[0]) == 0 < float(theta[update.i][0] - theta[update.j][0]):
            still += 1
            assert float(update.past[0].b.flatten()[0]) == 0
    assert still


@pytest.mark.parametrize("h", [3e-5, 9e-4, 1.1e-3, 0.05, 1.0])
@pytest.mark.parametrize("ratio", [0.0, 0.6, 2.0])
def test_the_corrector_of_unipc_at_any_length_of_a_step(h, ratio):
    """ρ_1 and ρ_2 in decimals of sixty digits, where nothing cancels; ratio is h/h_prev."""
    with decimal.localcontext(decimal.Context(prec=60)):
        hh = -decimal.Decimal(h)
        E = hh.exp() - 1
        phi = E / hh - 1
        b_1, b_2 = phi / E, 2 * (phi / hh - decimal.Decimal("0.5")) / E
        if ratio:
            rho_1 = (b_1 - b_2) / (1 + 1 / decimal.Decimal(ratio))
            wanted = float(rho_1), float(b_1 - rho_1)
        else:
            wanted = None, 0.5
    one = torch.ones(1, dtype=torch.float64)
    step = _Step(2, 1, one, one, one, h * one, ratio * one, True)
    rho_1, rho_2 = (float(rho) for rho in _corrector(step))
    assert rho_2 == pytest.approx(wanted[1], rel=1e-8)
    if ratio:  # of first order R is 0, whatever ρ_1
        assert rho_1 == pytest.approx(wanted[0], rel=1e-7)


class TestInversion:
    def test_a_step_is_that_of_euler(self, rng):
        """y + (θ_i - θ_j) (-T) with T at the start of the step; at step 0, where there is no score, that of step 1."""
        m = torch.randn(EVENT, generator=rng, dtype=torch.float64)
        c = torch.rand(EVENT, generator=rng, dtype=torch.float64) + 0.1
        process = with_moments(diffusion("dct", "blur", EVENT), m, c)
        asked = []

        class Watched(Fixed):
            def predict(self, x_bar, i):
                asked.append((i, x_bar))
                return super().predict(x_bar, i)

        x_0 = torch.randn(2, *EVENT, generator=rng, dtype=torch.float64)
        x_bar = invert(process, Watched(process), x_0, [50, 20, 0])
        assert [i for i, _ in asked] == [1, 20]
        here, y = 0, None
        for there, (seen, point) in zip((20, 50), asked, strict=True):
            (a, s), (a_seen, s_seen), (a_to, s_to) = (scales_at(process, i, torch.float64) for i in (here, seen, there))
            v, v_seen, v_to = (p**2 * c + q**2 for p, q in ((a, s), (a_seen, s_seen), (a_to, s_to)))
            y = (point - a * m) / v.sqrt() if y is None else y
            eps = Fixed.eps(point, seen)
            x_hat = (point - s_seen * eps) / a_seen
            T = s_seen / v_seen.sqrt() * (x_hat - m) / c.sqrt() - a_seen * (c / v_seen).sqrt() * eps
            y = y - (torch.atan2(s_to, a_to * c.sqrt()) - torch.atan2(s, a * c.sqrt())) * T
            here = there
        torch.testing.assert_close(x_bar, a_to * m + v_to.sqrt() * y, rtol=1e-9, atol=1e-10)

    def test_gaussian_data_come_back_exactly(self, rng):
        m = torch.randn(EVENT, generator=rng, dtype=torch.float64)
        c = torch.rand(EVENT, generator=rng, dtype=torch.float64) + 0.1
        process = with_moments(diffusion("dct", "blur", EVENT), m, c)
        model, x_0 = GaussianScore(process, m, c), torch.randn(3, *EVENT, generator=rng, dtype=torch.float64)
        for steps in (1, 7):
            sampler = component(Sampler, f"trig:steps={steps}")
            x_N = invert(process, model, x_0, sampler.descent(process))
            torch.testing.assert_close(
                sample(process, model, sampler, None, start=x_N, dtype=torch.float64), x_0, rtol=0, atol=1e-10
            )

    def test_correlated_data_come_back_at_first_order(self, correlated, rng):
        m, C, process = correlated
        x_0 = torch.randn(3, 1, 2, 3, generator=rng, dtype=torch.float64)
        errors = []
        for steps in (100, 200, 400):
            finer, sampler = process(steps), component(Sampler, "trig")
            model = DenseScore(finer, m, C)
            x_N = invert(finer, model, x_0, sampler.descent(finer))
            again = sample(finer, model, sampler, None, start=x_N, dtype=torch.float64)
            errors.append(float((again - x_0).abs().max()))
        assert errors[-1] < 0.05
        assert math.log2(errors[-2] / errors[-1]) == pytest.approx(1, abs=0.2)


class TestPriors:
    def test_what_is_left_at_n_is_missing_unless_it_is_matched(self, rng):
        """A process that ends early: the matched prior leaves no bias where the standard one does."""
        process = diffusion("dct", "isotropic", EVENT, N=300)
        m = torch.randn(EVENT, generator=rng, dtype=torch.float64)
        c = torch.rand(EVENT, generator=rng, dtype=torch.float64) + 0.1
        process, data = with_moments(process, m, c), Gaussian.diagonal(m, c, EVENT)
        errors = {
            prior: float(law(process, component(Sampler, f"dpmpp-2m:prior={prior}"), data).distance(data).sum())
            for prior in ("standard", "matched")
        }
        assert errors["matched"] < 0.01 * errors["standard"]

    def test_the_prior_of_data_must_be_given(self, rng):
        process = diffusion("dct", "blur", EVENT)
        model = GaussianScore(process, torch.zeros(1), torch.ones(1))
        sampler, noise = component(Sampler, "ddim:prior=data"), lambda: torch.randn(3, *EVENT, generator=rng)
        with pytest.raises(ConfigError, match="prior 'data' starts from events"):
            sample(process, model, sampler, noise)
        start = process.at(process.N).a * process.rotate(noise())
        assert sample(process, model, sampler, noise, start=start).shape == (3, *EVENT)


def test_a_plan_that_looks_back_too_far_is_refused(rng):
    x_bar = torch.randn(2, *EVENT, generator=rng)
    update = Update(5, 4, past=(Past(),))
    with pytest.raises(PluginError, match="5 -> 4 of a plan looks 1 evaluations back, where there are 0"):
        apply(update, x_bar, [Pivot(x_bar, x_bar)], None)


class TestPlan:
    def test_a_plan_can_be_counted_and_is_made_once(self, monkeypatch):
        process, sampler = diffusion("dct", "blur", (1, 3, 4)), component(Sampler, "ddim:steps=7")
        plan = sampler.plan(process)
        assert isinstance(plan, tuple)
        assert len(plan) == 7
        monkeypatch.setattr(type(sampler), "updates", lambda self, diffusion: pytest.fail("it was made again"))
        assert component(Sampler, "ddim:steps=7").plan(process) is plan

    def test_another_process_has_another_plan(self):
        sampler = component(Sampler, "ddim:steps=3")
        one, other = (diffusion("dct", f"blur:schedule={name}", (1, 3, 4)) for name in ("log", "quartic"))
        assert not torch.equal(sampler.plan(one)[0].q, sampler.plan(other)[0].q)


class TestClamping:
    """A sampler that clamps does so in whatever loop it runs: nobody has to say it twice."""

    def chain(self, spec, value_range):
        process = diffusion("dct", "blur", (1, 3, 4))

        class Far(nn.Module):
            def forward(self, x, i):
                return 5 * torch.ones_like(x)

        seen = []
        model = NetworkScore(Far(), process, Parametrization.X_0, value_range)
        noise = ImageNoise(0, range(2), (1, 3, 4), torch.device("cpu"))
        sample(process, model, component(Sampler, spec), noise, watch=seen.append)
        return [process.unrotate(moment.pivot.x_0) for moment in seen if moment.pivot]

    @pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 2.5)])
    def test_every_belief_is_in_the_range_of_the_data(self, value_range):
        beliefs = self.chain("ddim:steps=4,clip=true", value_range)
        assert len(beliefs) == 4
        for x_0 in beliefs:
            torch.testing.assert_close(x_0, torch.full_like(x_0, value_range[1]), atol=1e-5, rtol=0)

    @pytest.mark.parametrize(
        ("spec", "value_range"), [("ddim:steps=4,clip=false", (-1.0, 1.0)), ("ddim:steps=4,clip=true", None)]
    )
    def test_none_is_where_the_sampler_does_not_or_the_data_have_no_bounds(self, spec, value_range):
        for x_0 in self.chain(spec, value_range):
            torch.testing.assert_close(x_0, torch.full_like(x_0, 5.0), atol=1e-4, rtol=0)
