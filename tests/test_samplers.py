"""Samplers, proved without Monte Carlo: for Gaussian data the law of what comes out follows from the plan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from processes import PROCESSES, N, component, diffusion

from gendiff import Diffusion, GaussianScore, Sampler, VariancePreserving, sample
from gendiff.errors import ConfigError
from gendiff.registry import default_registry
from gendiff.sampler import uniform_grid
from gendiff.score import Parametrization, Pivot, ScoreModel, from_eps, from_x_0

EVENT = (2, 3, 5)
SAMPLERS = [
    *default_registry().names("sampler"),
    "ddim:steps=7",
    "ddim:eta=0.5",
    "ancestral:steps=13",
    "ddim:eta=1,steps=9",
]


def law(process: Diffusion, sampler: Sampler, m: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact mean and variance of x̄_0 when ``sampler`` runs with the optimal model of N(m, diag c): an affine recursion."""
    mean, variance = torch.zeros_like(m), process.log_s(process.N).exp() ** 2 * torch.ones_like(c)
    for update in sampler.plan(process):
        a, s = process.log_a(update.i).exp(), process.log_s(update.i).exp()
        v = a**2 * c + s**2
        zero = torch.zeros_like(v)
        p, q, b, e = (zero if k is None else k for k in (update.p, update.q, update.b, update.e))
        slope = p + q * a * c / v + b * s / v
        offset = q * (m - a**2 * c / v * m) - b * s / v * a * m
        mean, variance = slope * mean + offset, slope**2 * variance + e**2
    return mean, variance


@pytest.mark.parametrize("spec", SAMPLERS)
@pytest.mark.parametrize(("rotation", "velocity"), [("identity", "blur"), ("dct", "blur"), ("dct", "fine-to-coarse")])
def test_the_loop_does_what_the_recursion_says(spec, rotation, velocity, rng):
    """Running the sampler on chosen noise is affine in that noise, with exactly the recursion's mean and variance."""
    process = diffusion(rotation, velocity, EVENT)
    sampler = component(Sampler, spec)
    c = torch.rand(EVENT, generator=rng, dtype=torch.float64) + 0.1
    m = torch.randn(EVENT, generator=rng, dtype=torch.float64)
    model = GaussianScore(process, m, c)
    mean, variance = law(process, sampler, m, c)
    draws = 1 + sum(update.e is not None for update in sampler.plan(process))

    def run(active: int | None) -> torch.Tensor:
        """All noise zero but the draw ``active``, which is one in every rotated component."""
        count = iter(range(draws))
        one = process.unrotate(torch.ones(1, *EVENT, dtype=torch.float64))
        noise = lambda: one if next(count) == active else torch.zeros_like(one)  # noqa: E731
        return process.rotate(sample(process, model, sampler, noise, dtype=torch.float64))[0]

    at_rest = run(None)
    torch.testing.assert_close(at_rest, mean, rtol=0, atol=1e-10)
    total = sum((run(k) - at_rest) ** 2 for k in range(draws))
    torch.testing.assert_close(total, variance, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("rotation", "velocity"), [("identity", "blur"), ("dct", "blur"), ("blur-eigen", "isotropic")])
def test_ancestral_and_ddim_reach_the_data(rotation, velocity):
    """With N = 1000 fine steps the law of the samples is the law of the data, up to the documented discretisation."""
    from gendiff import Data

    field = component(Data, "gaussian-field:size=[6, 9],channels=2")
    process = diffusion(rotation, velocity, field.event_shape, N=1000)
    c = field.variance.expand(field.event_shape)
    m = torch.full_like(c, 0.3)
    for spec, tolerance in (("ancestral", 0.02), ("ddim", 0.02), ("reverse-diffusion", 0.05)):
        mean, variance = law(process, component(Sampler, spec), m, c)
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
        s, a = process.log_s(one.i).exp(), process.log_a(one.i).exp()
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
        x = noises[0] * process.scales_at(self.N)[1].flatten()[0]
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
        assert [t + 1 for t in oracle.timesteps.tolist()] == uniform_grid(self.N, steps)[:-1]
        noises = self.noises(rng, steps + 1)
        x = noises[0] * process.scales_at(self.N)[1].flatten()[0]
        expected = []
        for number, t in enumerate(oracle.timesteps.tolist()):
            x = oracle.step(
                Fixed.eps(x, t + 1), t, x, eta=eta, variance_noise=noises[number + 1] if eta else None
            ).prev_sample
            expected.append(x)
        seen, source = [], iter(noises)
        sampler = component(Sampler, f"ddim:steps={steps},eta={eta}")
        sample(process, Fixed(process), sampler, lambda: next(source), watch=seen.append)
        for ours, theirs in zip(seen[1:], expected, strict=True):
            torch.testing.assert_close(ours.x_bar, theirs, rtol=1e-4, atol=2e-4)

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
            torch.testing.assert_close(-update.b * process.log_s(update.i).exp(), kernel.std**2)
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


class TestGrid:
    @pytest.mark.parametrize("steps", [1, 3, 10, 49, 50])
    def test_uniform_grid(self, steps):
        grid = uniform_grid(50, steps)
        assert grid[0] == 50
        assert grid[-1] == 0
        assert len(grid) == steps + 1
        assert (np.diff(grid) < 0).all()

    def test_every_step_by_default(self):
        assert uniform_grid(5, None) == [5, 4, 3, 2, 1, 0]

    @pytest.mark.parametrize("steps", [0, 51, -1])
    def test_impossible_numbers_of_steps(self, steps):
        with pytest.raises(ConfigError, match="choose between 1 and N = 50"):
            uniform_grid(50, steps)


def test_first_noise_is_the_same_in_every_rotation(rng):
    """The prior is drawn in event space, so arms of a comparison start from the same picture of noise."""
    z = torch.randn(3, *EVENT, generator=rng)
    starts = [
        process.unrotate(process.prior(z))
        for process in (diffusion(name, "isotropic", EVENT) for name in ("identity", "dct", "blur-eigen"))
    ]
    for start in starts[1:]:
        torch.testing.assert_close(start, starts[0], rtol=0, atol=1e-6)
