"""The relatives: each process is the one that its paper defines, and what defines it holds."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from command import TINY, run
from gendiff_cli.options import Given
from gendiff_plugins.velocities.spectrum_matched import GeodesicScales
from PIL import Image
from processes import component, diffusion, fitted, scales_at
from scipy.fft import dctn, idctn
from torch import nn

from gendiff import (
    Diffusion,
    NetworkScore,
    Objective,
    Parametrization,
    Sampler,
    Update,
    VariancePreserving,
    Velocity,
    sample,
)
from gendiff.comparison.arm import Arm
from gendiff.errors import ConfigError
from gendiff.frequency import mirrored
from gendiff.lab.recursion import Gaussian, law
from gendiff.moments import Moments
from gendiff.plugin.registry import default_registry
from gendiff.process import Process
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve
from gendiff.run.stored import difference
from gendiff.scales import DissipatingScales
from gendiff.testing import SmoothNoise

EVENT = (2, 5, 7)


def close(a, b, atol=1e-10, rtol=0.0):
    torch.testing.assert_close(a, b, atol=atol, rtol=rtol)


def heat(x: np.ndarray, sigma: float) -> np.ndarray:
    """The authors' blur of ``(..., H, W)``: the heat equation in SciPy's DCT."""
    H, W = x.shape[-2:]
    n_y, n_x = np.mgrid[:H, :W]
    mu = math.pi**2 * (n_x**2 / W**2 + n_y**2 / H**2)
    coefficients = dctn(x, axes=(-2, -1), norm="ortho")
    return idctn(np.exp(-mu * sigma**2 / 2) * coefficients, axes=(-2, -1), norm="ortho")


def without_noise(process: Diffusion, x_0: torch.Tensor, i: int) -> torch.Tensor:
    return process.q_sample(x_0, torch.full((len(x_0),), i), torch.zeros_like(x_0))


def moved(update: Update, process: Diffusion, x_bar, x_0, z) -> torch.Tensor:
    """x̄_j of an update where x̂_0 = ``x_0`` is believed; all in rotated coordinates, float64."""
    a, s = scales_at(process, update.i, torch.float64)
    terms = ((update.p, x_bar), (update.q, x_0), (update.b, (x_bar - a * x_0) / s), (update.e, z))
    return sum(coefficient * value for coefficient, value in terms if coefficient is not None)


class TestBlurring:
    N = 40

    def test_without_blur_it_is_the_cosine_process(self):
        process = diffusion("dct", "blurring:sigma_max=0", EVENT, self.N)
        low = math.atan(math.exp(-5))
        for i in range(self.N + 1):
            angle = (math.atan(math.exp(5)) - low) * i / self.N + low
            close(process.at(i).log_a.exp(), torch.full((1, 5, 7), math.cos(angle), dtype=torch.float64))
            close(process.at(i).log_s.exp(), torch.full((1, 5, 7), math.sin(angle), dtype=torch.float64))
        assert process.at(0).log_s.exp().max().item() == pytest.approx(0.0067, abs=5e-5)  # not 0
        assert 2 * process.at(0).half_log_snr.max().item() == pytest.approx(10)
        assert 2 * process.at(self.N).half_log_snr.max().item() == pytest.approx(-10)

    def test_the_signal_is_the_paper_s_and_the_noise_the_same_for_all(self):
        process = diffusion("dct", "blurring", EVENT, self.N)
        n_y, n_x = np.mgrid[:5, :7]
        mu = (math.pi * n_y / 5) ** 2 + (math.pi * n_x / 7) ** 2
        for i in (0, 1, 17, self.N):
            t = i / self.N
            tau = (20 * math.sin(math.pi * t / 2) ** 2) ** 2 / 2
            d = (1 - 1e-3) * np.exp(-mu * tau) + 1e-3
            low = math.atan(math.exp(-5))
            logsnr = -2 * math.log(math.tan((math.atan(math.exp(5)) - low) * t + low))
            a = math.sqrt(1 / (1 + math.exp(-logsnr)))
            close(process.at(i).log_a.exp()[0], torch.from_numpy(a * d))
            assert process.at(i).log_s.exp().unique().item() == pytest.approx(math.sqrt(1 / (1 + math.exp(logsnr))))
        assert process.at(self.N).log_a.exp().min() == pytest.approx(1e-3 * a, rel=1e-6)  # what is left of fine detail

    @pytest.mark.parametrize(("i", "j"), [(1, 0), (40, 39), (40, 0), (23, 4)])
    def test_ancestral_draws_from_the_exact_posterior(self, i, j, rng):
        """Of a process that is not variance-preserving and has noise at step 0: the paper's eq. in a and s, per frequency."""
        process = diffusion("dct", "blurring", EVENT, self.N)
        assert not isinstance(process.scales, VariancePreserving)
        (a_i, s_i), (a_j, s_j) = (scales_at(process, k, torch.float64) for k in (i, j))
        a_ij = a_i / a_j
        variance_ij = s_i**2 - a_ij**2 * s_j**2
        variance = 1 / (1 / s_j**2 + a_ij**2 / variance_ij)
        posterior = process.posterior(i, j)
        close(posterior.std**2, variance)
        close(posterior.p, variance * a_ij / variance_ij)
        close(posterior.q, variance * a_j / s_j**2)
        assert (posterior.std > 0).all()
        if i - j == 1:
            update = next(u for u in component(Sampler, "ancestral").plan(process) if (u.i, u.j) == (i, j))
            x_bar, x_0, z = torch.randn(3, 4, *EVENT, generator=rng, dtype=torch.float64)
            drawn = posterior.p * x_bar + posterior.q * x_0 + posterior.std * z
            close(moved(update, process, x_bar, x_0, z), drawn)


class TestHeat:
    N = 12

    def test_the_signal_is_scipy_s_heat_equation(self, rng):
        process = diffusion("dct", "heat", EVENT, self.N)
        sigmas = np.exp(np.linspace(np.log(0.5), np.log(24), self.N))
        x_0 = torch.randn(3, *EVENT, generator=rng, dtype=torch.float64)
        close(without_noise(process, x_0, 0), x_0)
        for i, sigma in enumerate(sigmas, start=1):
            close(without_noise(process, x_0, i), torch.from_numpy(heat(x_0.numpy(), sigma)))

    def test_the_noise_is_constant_and_absent_at_the_start(self):
        process = diffusion("dct", "heat", EVENT, self.N)
        assert process.at(0).log_s.isneginf().all()
        for i in range(1, self.N + 1):
            close(process.at(i).log_s.exp(), torch.full((1, 5, 7), 0.02, dtype=torch.float64))
        close(process.at(self.N).log_a[0, 0, 0].exp(), torch.tensor(1.0, dtype=torch.float64))  # the mean never fades

    def test_sixty_four_pixels_and_more_stay_finite(self):
        process = diffusion("dct", "heat:sigma_max=128", (1, 64, 48), 50)
        assert torch.isfinite(process.at(50).log_a).all()
        assert process.at(50).log_a.min() == -1e4


class Sharpens(nn.Module):
    """A made-up network whose output has every frequency, dead ones too."""

    def forward(self, x, i):
        return 0.3 * torch.tanh(x) + 0.1 * torch.cos(x.roll(1, -1) * i.reshape(-1, 1, 1, 1))


class TestHeatSampler:
    N = 12

    def test_it_adds_the_network_s_own_output_and_noise_of_1_25_s(self, rng):
        """``x_{i-1} = x_i + net + δ z``, whatever became of a; the last picture is the mean."""
        process = diffusion("dct", "heat:sigma_max=24", EVENT, self.N)
        assert process.at(self.N - 1).log_a.min() < -600  # a is 0 in float32: no x̂_0 could be read off the residual
        model = NetworkScore(Sharpens(), process, Parametrization.RESIDUAL)
        start, *noises = torch.randn(self.N, 3, *EVENT, generator=rng).unbind()
        seen, source = [], iter([start, *noises])
        sample(process, model, component(Sampler, "heat-dissipation"), lambda: next(source), watch=seen.append)
        x = process.unrotate(seen[0].x_bar)
        for i, snapshot in zip(range(self.N, 0, -1), seen[1:], strict=True):
            x = x + Sharpens()(x, torch.full((3,), float(i)))
            if i > 1:
                x = x + 0.025 * noises[self.N - i]
            close(process.unrotate(snapshot.x_bar), x, atol=2e-5)

    def test_with_another_objective_it_is_the_same_step_of_what_is_believed(self, rng):
        process = diffusion("dct", "heat:sigma_max=3", EVENT, self.N)
        x_bar, x_0, z = torch.randn(3, 4, *EVENT, generator=rng, dtype=torch.float64)
        for update in component(Sampler, "heat-dissipation:delta=0.5").plan(process):
            mean = process.at(update.j).log_a.exp() * x_0
            close(moved(update, process, x_bar, x_0, z), mean + 0.01 * z if update.j else mean)

    def test_the_residual_of_the_truth_is_the_noiseless_step_before(self, rng):
        """And every step is trained, N too."""
        process = diffusion("dct", "heat:sigma_max=3", EVENT, self.N)
        objective = component(Objective, "residual")
        x_0, eps = torch.randn(2, self.N, *EVENT, generator=rng)
        i = torch.arange(1, self.N + 1)
        x_i = process.q_sample(x_0, i, eps)
        before = torch.from_numpy(
            np.concatenate([heat(x.numpy()[None], s) for x, s in zip(x_0, [0, *self.sigmas(3)], strict=False)])
        )
        truth = before - x_i
        loss = objective.loss(Constant(truth.float()), process, x_0, i, eps).per_event
        assert loss.max() < 1e-8
        wrong = objective.loss(Constant(truth.float() + 0.1), process, x_0, i, eps).per_event
        close(wrong, torch.full((self.N,), 0.01 * 70), atol=1e-4)  # the sum of squares, over C H W = 70 numbers

    def sigmas(self, largest):
        return np.exp(np.linspace(np.log(0.5), np.log(largest), self.N))

    @pytest.mark.slow
    def test_its_noise_sets_the_spread_of_what_it_draws(self):
        """In many steps the standard deviation of Gaussian data becomes δ/(sqrt(2) s) of what it was: 0.88 of it in the paper."""
        process = diffusion(
            "dct", "heat:sigma_min=0.05,sigma_max=1.5,s=0.05", EVENT, 2000
        )  # c/s² = 400 steps forget the start
        data = Gaussian.diagonal(torch.zeros(EVENT), torch.ones(EVENT), EVENT)
        for delta, ratio in ((1.25, 0.884), (2**0.5, 1.0)):
            drawn = law(process, component(Sampler, f"heat-dissipation:delta={delta}"), data).variance.sqrt()
            close(drawn, torch.full(EVENT, ratio, dtype=torch.float64), atol=0.01)

    def test_it_refuses_noise_that_changes(self):
        for velocity in ("blur", "blurring"):
            with pytest.raises(ConfigError, match="noise is the same at every step"):
                list(component(Sampler, "heat-dissipation").plan(diffusion("dct", velocity, EVENT)))


class Constant(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, i):
        return self.output


class TestMomentum:
    def test_it_is_the_paper_s_update(self, rng):
        """``x_j = x_i - ŷ_i + ŷ_j + (s_j² - s_i²)/s_i ε̂ + sqrt(s_i² - s_j²) z``, ŷ = C x̂_0."""
        process = diffusion("dct", "blurring:sigma_max=3", EVENT, 30)
        x_bar, x_0, z = torch.randn(3, 4, *EVENT, generator=rng, dtype=torch.float64)
        for update in component(Sampler, "momentum:steps=10").plan(process):
            (a_i, s_i), (a_j, s_j) = (scales_at(process, k, torch.float64) for k in (update.i, update.j))
            eps = (x_bar - a_i * x_0) / s_i
            mean = x_bar - a_i * x_0 + a_j * x_0 + (s_j**2 - s_i**2) / s_i * eps
            drawn = mean + torch.sqrt(s_i**2 - s_j**2) * z if update.j else mean
            close(moved(update, process, x_bar, x_0, z), drawn)

    def test_without_noise_it_is_cold_diffusion(self):
        process = diffusion("dct", "cold", EVENT, 12)
        updates = zip(*(component(Sampler, name).plan(process) for name in ("momentum", "ddim")), strict=True)
        for one, two in updates:
            assert one.e is None
            close(one.q, two.q)
            close(one.b, two.b)

    def test_it_refuses_noise_that_shrinks(self):
        log_s = torch.linspace(0, -1, 11, dtype=torch.float64)
        scales = DissipatingScales(5 * log_s, log_s, 0 * log_s, torch.ones(1, 1, 1).double(), torch.zeros(()).double())
        with pytest.raises(ConfigError, match="noise never shrinks"):
            list(component(Sampler, "momentum").plan(Diffusion(fitted("dct", EVENT), scales, EVENT)))


class TestCold:
    N = 20

    def test_the_signal_is_a_chain_of_blurs(self, rng):
        """The authors' kernels: of CIFAR-10, MNIST and CelebA."""
        x = torch.randn(3, *EVENT, generator=rng, dtype=torch.float64)
        for spec, sigma in (
            ("cold", lambda i: i / 100 + 0.35),
            ("cold:sigma=7,growth=0", lambda i: 7.0),
            ("cold:sigma=1,growth=0,ratio=1.0100501670841679", lambda i: np.exp(0.01 * i)),
        ):
            process, blurred = diffusion("dct", spec, EVENT, self.N), x.numpy()
            for i in range(1, self.N + 1):
                blurred = heat(blurred, sigma(i - 1))
                close(without_noise(process, x, i), torch.from_numpy(blurred))
        fast = diffusion("dct", "cold:ratio=2", EVENT, 1000)
        assert torch.isfinite(fast.at(1000).log_a).all()

    @pytest.mark.parametrize("floor", [1e-3, 1e-2])
    @pytest.mark.parametrize("steps", [20, 7])
    def test_ddim_is_the_deterministic_update(self, floor, steps, rng):
        """``x_j = x_i - D(x̂_0, i) + D(x̂_0, j)``, down to j = 0, whatever the floor and without any noise."""
        process = diffusion("dct", f"cold:floor={floor}", EVENT, self.N)
        x_i, x_0 = torch.randn(2, 3, *EVENT, generator=rng, dtype=torch.float64)
        for update in component(Sampler, f"ddim:steps={steps}").plan(process):
            assert update.e is None
            x_bar = process.rotate(x_i)
            x_j = process.unrotate(moved(update, process, x_bar, process.rotate(x_0), 0 * x_bar))
            close(x_j, x_i - without_noise(process, x_0, update.i) + without_noise(process, x_0, update.j))


def standard(rotation="dct", noise="linear", event=EVENT, N=30) -> Diffusion:
    return diffusion(rotation, {"name": "isotropic", "noise": noise}, event, N)


def variance_of(rotation: str, event=EVENT) -> torch.Tensor:
    """What a velocity is told of the data it is fitted to."""
    return Moments.fit(SmoothNoise(shape=event), fitted(rotation, event)).variance


class TestSpectrumMatched:
    N = 30

    def test_the_power_law_is_in_cycles_per_picture(self):
        process = diffusion("dct", "spectrum-matched:power_law=[1.5,0.2,2]", (1, 4, 6), self.N)
        rho = np.hypot(*np.meshgrid(np.pi * np.arange(4) / 4, np.pi * np.arange(6) / 6, indexing="ij"))
        S = 1.5 / (0.2 + rho * 6 / (2 * np.pi)) ** 2
        a = process.at(10, torch.float64).a[0].numpy()
        np.testing.assert_allclose(a**2 * S + 1 - a**2, S ** (2 / 3), rtol=1e-9)

    @pytest.mark.parametrize("spec", ["blurring", "heat", "cold"])
    def test_every_table_has_an_entry_for_each_step(self, spec):
        scales = diffusion("dct", spec, EVENT, 20).scales
        assert [len(table) for table in (scales.log_a_common, scales.log_s_common, scales.tau)] == [21] * 3

    def test_a_power_law_asks_no_data(self):
        velocity = component(Velocity, "spectrum-matched:power_law=[1.59,0.0086,2]")
        assert velocity.fit(SmoothNoise(shape=EVENT), fitted("dct", EVENT)) == {}

    @pytest.mark.parametrize("rotation", ["hartley", "dct", "identity"])
    def test_data_of_variance_s_have_variance_s_to_the_tau(self, rotation):
        """A straight line in log-variance, whatever S is: below 1, above 1, and next to 1."""
        process = diffusion(rotation, "spectrum-matched", EVENT, self.N)
        S = variance_of(rotation)
        assert S.min() < 0.5 or rotation == "identity"
        for i in range(self.N + 1):
            a, s = scales_at(process, i, torch.float64)
            close(a**2 + s**2, torch.ones_like(a))
            close(a**2 * S + s**2, S ** (1 - i / self.N), rtol=1e-10)

    @pytest.mark.parametrize("S", [1e-6, 0.3, 1 - 1e-12, 1.0, 1 + 1e-12, 7.0, 2e4, 1e300])
    def test_the_formula_holds_for_every_variance(self, S):
        tau = torch.linspace(1, 0, 11, dtype=torch.float64)
        scales = GeodesicScales(tau, torch.tensor([[math.log(S)]], dtype=torch.float64))
        a_squared = torch.exp(2 * scales.log_a(torch.arange(11))).flatten()
        expected = tau if abs(S - 1) < 1e-9 else (1 - S**tau) / (1 - S)
        close(a_squared, expected, rtol=1e-9, atol=1e-9)
        assert scales.log_a(torch.tensor([10])).item() == -1e4  # nothing is left at N: clamped, not -inf
        assert scales.log_s(torch.tensor([0])).item() == -math.inf

    def test_the_authors_power_law_in_integer_cycles_per_picture(self):
        n = 8
        process = diffusion("hartley", "spectrum-matched:power_law=[1.59,0.0086,2]", (3, n, n), self.N)
        cycles = np.fft.fftfreq(n, 1 / n)
        S = 1.59 / np.abs(0.0086 + np.hypot(cycles[:, None], cycles[None])) ** 2
        for i in (1, 13, 29):
            tau = 1 - i / self.N
            close(torch.exp(2 * process.at(i).log_a)[0], torch.from_numpy((1 - S**tau) / (1 - S)))

    def test_it_is_a_filter_in_the_fourier_basis(self, rng):
        """S is even in the frequency, so the real basis does what the authors' complex one does."""
        n = 8
        process = diffusion("hartley", "spectrum-matched:power_law=[1.59,0.0086,2]", (3, n, n), self.N)
        a = process.at(13).log_a.exp()[0].numpy()
        x = torch.randn(2, 3, n, n, generator=rng, dtype=torch.float64)
        filtered = np.fft.ifft2(a * np.fft.fft2(x.numpy(), norm="ortho"), norm="ortho")
        assert np.abs(filtered.imag).max() < 1e-12
        close(without_noise(process, x, 13), torch.from_numpy(filtered.real))

    def test_a_spectrum_that_is_none_is_refused(self):
        with pytest.raises(ConfigError, match="c_1 = 0 and c_2 = 1 is no spectrum"):
            diffusion("dct", "spectrum-matched:power_law=[0,1,2]", EVENT)


class TestEqualSNR:
    @pytest.mark.parametrize("rotation", ["hartley", "dct", "klt:patch=3"])
    def test_the_snr_times_the_variance_is_the_same_for_all(self, rotation):
        process, C = diffusion(rotation, "equal-snr", EVENT, 30), variance_of(rotation)
        for i in (1, 15, 30):
            data_snr = torch.exp(2 * process.at(i).half_log_snr) * C
            close(data_snr / data_snr.mean(), torch.ones_like(data_snr))
            close(data_snr.mean(), torch.exp(2 * standard(rotation).at(i).half_log_snr).mean(), rtol=1e-9)
        assert process.at(0).log_s.isneginf().all()
        assert C.max() / C.min() > 4

    def test_which_process_is_flipped(self):
        flipped = {name: component(Process, name).parts()[1].flipped for name in ("equal-snr", "flipped-snr")}
        assert flipped == {"equal-snr": False, "flipped-snr": True}

    @pytest.mark.parametrize("event", [(2, 5, 7), (1, 6, 6), (2, 12)], ids=str)
    def test_flipped_has_the_standard_process_s_snr_in_the_opposite_order(self, event):
        rotation = "dct"
        process, plain = diffusion(rotation, "equal-snr:flipped=true", event, 30), standard(rotation, event=event)
        C, order = variance_of(rotation, event).flatten(1), ranks(process, event)
        for i in (1, 15, 30):
            flipped = torch.exp(2 * process.at(i).half_log_snr).expand(event).flatten(1) * C
            expected = torch.exp(2 * plain.at(i).half_log_snr).expand(event).flatten(1) * C
            close(flipped[:, order], expected[:, order].flip(1), rtol=1e-9)

    def test_its_marginal_in_whitened_coordinates_is_the_standard_one(self, rng):
        """``x̄/sqrt(C)`` sees white noise: the paper's own coordinates."""
        process, C = diffusion("hartley", "equal-snr", EVENT, 30), variance_of("hartley")
        plain = standard("hartley")
        x_0, eps = torch.randn(2, 3, *EVENT, generator=rng, dtype=torch.float64)
        i = torch.tensor([1, 15, 30])
        x_i = process.rotate(process.q_sample(process.unrotate(C.sqrt() * x_0), i, process.unrotate(eps)))
        close(x_i / C.sqrt(), plain.rotate(plain.q_sample(plain.unrotate(x_0), i, plain.unrotate(eps))))


class TestSoftConditioning:
    N = 400

    def test_at_softness_1_it_is_standard_diffusion(self):
        process = diffusion("dct", "soft-conditioning", EVENT, self.N)
        for i in (1, 100, self.N):
            gamma = -2 * process.at(i).half_log_snr
            close(gamma, gamma.mean().expand_as(gamma))
        steps = torch.stack([process.at(i).half_log_snr.mean() for i in (100, 200, 300, 400)])
        close(steps.diff().diff(), torch.zeros(2, dtype=torch.float64))  # log-SNR falls linearly
        assert process.at(0).log_s.isneginf().all()

    @pytest.mark.parametrize("soft", [0.3, 1.0, 5.0])
    def test_the_levels_are_the_paper_s(self, soft):
        process = diffusion("dct", f"soft-conditioning:soft={soft}", EVENT, self.N)
        log_variance = variance_of("dct").log()
        order = -log_variance
        pace = 10 + (order.max() - order.min()) / soft
        for i in (1, 170, self.N):
            gamma = -7 + log_variance + (order - order.max()) / soft + i / self.N * pace
            close(-2 * process.at(i).half_log_snr, gamma.clamp_min(-24), atol=1e-8)
        # at t = 1 the strongest component is the last to become noise, at t = 0 the faintest the first to be touched
        last = (2 * process.at(self.N).half_log_snr + log_variance).flatten()
        assert last.max().item() == pytest.approx(-3)
        assert last.argmax() == log_variance.flatten().argmax()

    def test_a_small_softness_is_autoregressive(self):
        """One component becomes noise before the next is touched, the faintest first."""
        process = diffusion("dct", "soft-conditioning:soft=0.001", EVENT, self.N)
        log_variance = variance_of("dct").log()
        values = log_variance.unique()
        values = values[torch.cat([torch.ones(1, dtype=torch.bool), values.diff() > 0.02])]  # what softness can tell
        pace = 10 + (log_variance.max() - log_variance.min()) / 0.001
        begins = (
            (values - log_variance.min()) / 0.001 / pace
        )  # the time at which g = g_denoise, and how long till g_noise
        assert (begins[:-1] + 10 / pace < begins[1:]).all()
        noisy = torch.stack([-2 * process.at(i).half_log_snr - log_variance for i in range(1, self.N + 1)])
        underway = ((noisy > -7 + 1e-6) & (noisy < 3 - 1e-6)).flatten(1)
        assert (noisy[-1] >= 3 - 1e-6).all()
        for row in underway:
            busy = log_variance.flatten()[row]
            assert busy.numel() == 0 or busy.max() - busy.min() < 0.02

    def test_a_large_softness_is_equal_snr(self):
        process = diffusion("dct", "soft-conditioning:soft=1000000.0", EVENT, self.N)
        data_snr = 2 * process.at(200).half_log_snr + variance_of("dct").log()
        close(data_snr, data_snr.mean().expand_as(data_snr), atol=1e-4)

    def test_levels_in_the_wrong_order_are_refused(self):
        with pytest.raises(ConfigError, match="g_noise = -8 is not above g_denoise = -7"):
            component(Velocity, "soft-conditioning:g_noise=-8")


def ranks(process: Diffusion, event) -> list[int]:
    """Flat indices of the components of a channel in the order of frequency."""
    rho = process.rotation.frequencies(event)[0].flatten().tolist()
    return sorted(range(len(rho)), key=lambda k: (round(rho[k], 9), k))


class TestReversed:
    @pytest.mark.parametrize("velocity", ["blur:schedule=log", "isotropic", "blurring", "heat:sigma_max=3"])
    @pytest.mark.parametrize("event", [(2, 5, 7), (1, 6, 6), (3, 12)], ids=str)
    def test_rank_p_takes_the_pair_of_rank_k_1_p(self, velocity, event):
        plain = diffusion("dct", velocity, event, 30)
        twin = diffusion("dct", {"name": "reversed", "velocity": velocity}, event, 30)
        assert isinstance(twin.scales, VariancePreserving) == isinstance(plain.scales, VariancePreserving)
        order = ranks(plain, event)
        for i in (0, 1, 13, 30):
            for own, other in ((twin.at(i).log_a, plain.at(i).log_a), (twin.at(i).log_s, plain.at(i).log_s)):
                own, other = (value.expand(event).flatten(1) for value in (own, other))
                for p, k in enumerate(order):
                    assert (own[:, k] == other[:, order[-1 - p]]).all()

    def test_reversed_twice_is_the_velocity_itself(self):
        twice = diffusion("dct", "reversed:velocity={name='reversed',velocity='blur'}", EVENT)
        plain = diffusion("dct", "blur", EVENT)
        for i in (1, 20, 50):
            close(twice.at(i).log_a, plain.at(i).log_a, atol=0)

    def test_the_mirror_is_its_own_inverse_and_breaks_ties_by_place(self):
        rho = torch.tensor([[0.0, 2.0, 1.0], [1.0 + 1e-12, 3.0, 2.0 - 1e-12]], dtype=torch.float64)
        assert mirrored(rho[None]).tolist() == [[[4, 3, 5], [1, 0, 2]]]  # in order: 0, 2, 3, 1, 5, 4


def test_a_basis_without_frequencies_is_refused():
    for velocity in ("blurring", "heat", "cold"):
        with pytest.raises(ConfigError, match="rotation 'identity' has no frequencies that heat could damp"):
            diffusion("identity", velocity, EVENT)


class TestCommandLine:
    """What an invocation cannot use is refused with the reason, never ignored."""

    @pytest.mark.parametrize("process", default_registry().names("process"))
    @pytest.mark.parametrize(("flag", "spec"), [("schedule", "log"), ("noise", "cosine")])
    def test_a_process_takes_exactly_the_schedules_of_its_velocity(self, process, flag, spec):
        velocity = component(Process, process).parts()[1]
        flags = {"process": process, flag: spec}
        if flag in type(velocity).model_fields:
            config = resolve(Given(flags).layers(default_registry())).config
            assert getattr(config.velocity, flag).name == spec
            return
        with pytest.raises(ConfigError) as refused:
            resolve(Given(flags).layers(default_registry()))
        assert refused.value.where == f"--{flag}"
        said = str(refused.value)
        assert f"velocity '{velocity.name}' has no parameter '{flag}'" in said
        assert f"process '{process}' is " in said
        assert len(said.splitlines()) < 8

    @pytest.mark.parametrize("process", default_registry().names("process"))
    def test_a_process_and_another_velocity_contradict_each_other(self, process):
        own = component(Process, process).parts()[1].name
        other = "isotropic" if own != "isotropic" else "blur"
        for named in ({"process": process, "velocity": other}, {"process": process, "velocity": {"name": other}}):
            with pytest.raises(ConfigError, match=f"velocity of its own, '{own}', and '{other}' is another"):
                resolve([Layer("a file", named)])
        with pytest.raises(ConfigError, match="is another") as refused:
            Given({"process": process, "velocity": other}).layers(default_registry())
        assert refused.value.where == "--velocity"
        with pytest.raises(ConfigError, match="is another"):
            Arm.parse(f"{process} velocity={other}")
        same = resolve(Given({"process": process, "velocity": own}).layers(default_registry())).config
        assert same.velocity.name == own
        later = resolve([Layer("a preset", {"process": process}), Layer("--velocity", {"velocity": other})]).config
        assert later.velocity.name == other  # a layer above may replace it

    def test_the_basis_of_a_process_may_be_another_and_its_parameters_set(self):
        table = {"process": "heat-dissipation", "velocity": {"sigma_max": 3.0}, "rotation": "haar"}
        config = resolve([Layer("a file", table)]).config
        assert (config.rotation.name, config.velocity.spec) == ("haar", "heat:sigma_max=3.0")

    @pytest.mark.parametrize(
        ("options", "said", "origin"),
        [
            (("--process", "blurring-diffusion", "--schedule", "log"), "has no parameter 'schedule'", "--schedule"),
            (("--process", "reversed", "--schedule", "log"), "has no parameter 'schedule'", "--schedule"),
            (("--process", "cold:schedule=log",), "process 'cold' has no parameter 'schedule'", "--process"),
            (("--process", "heat-dissipation", "--rotation", "identity"), "no frequencies that heat could damp", "--rotation"),
            (("--process", "heat-dissipation", "--velocity", "blur"), "'blur' is another", "--velocity"),
            (("--process", "heat-dissipation:sigma_min=30"), "sigma_min = 30 is above sigma_max = 24", "--process"),
        ],
    )  # fmt: skip
    def test_the_command_says_why_and_from_where(self, options, said, origin):
        done = run("train", "--data", "digits", *options, "--dry-run")
        assert done.code == 2
        assert said in done.err
        assert f"(from {origin})" in done.err
        assert len(done.err.splitlines()) < 8

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--sampler", "heat-dissipation"), "sampler: sampler 'heat-dissipation' needs a process whose noise is the same"),
            (("--set", "N=30", "--set", "train.preview.steps=50"), "train.preview: 50 sampling steps of a process of 30"),
            (("--process", "cold", "--sampler", "reverse-diffusion"), "'reverse-diffusion' needs a variance-preserving"),
        ],
    )  # fmt: skip
    def test_a_sampler_that_cannot_sample_the_process_is_refused_before_training(self, options, said, tmp_path):
        done = run("train", "--data", "digits", "--model", "mlp:width=8,depth=1", *options, "--out", tmp_path / "run")
        assert (done.code, said in done.err) == (2, True), done.err
        assert not (tmp_path / "run").exists()


class TestRuns:
    """A run of every process is trained and sampled, and sampled again when what made its process is gone."""

    @pytest.mark.parametrize(
        "process",
        ["blurring-diffusion", "heat-dissipation", "spectrum-matched", "flipped-snr", "soft-conditioning", "reversed"],
    )
    def test_a_run_outlives_the_plugins_of_its_process(self, process, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        done = run("train", "--process", process, "--set", "N=40", *TINY, "--out", "r")
        assert done.code == 0, done.err
        own = Run.open(Path("r")).config.diffusion()
        options = ("-n", 2, "--steps", 5, "--sampler", "ancestral")
        first = run("sample", "r", *options, "--out", "a")
        assert first.code == 0, first.err
        table = tomllib.loads(Path("r/config.toml").read_text())
        table |= {"rotation": {"name": "gone"}, "velocity": {"name": "gone"}}
        Path("r/config.toml").write_text(tomli_w.dumps(table))
        again = Run.open(Path("r"))
        assert type(again.config.velocity).__name__ == "StoredVelocity"
        assert difference(own, again.config.diffusion()) == ""
        assert again.config.diffusion().scales.formulas  # not in tables
        assert Path("r/process.safetensors").stat().st_size < 40_000
        second = run("sample", "r", *options, "--out", "b")
        assert second.code == 0, second.err
        for name in ("events/000000.png", "events/000001.png"):
            one, other = (np.asarray(Image.open(Path(folder, name))).astype(int) for folder in "ab")
            assert np.abs(one - other).max() <= 1


#: Which velocities a sampler refuses, and what it says they lack.
REFUSED = {
    "reverse-diffusion": (
        {"blurring", "heat", "cold", "equal-snr", "reversed"},
        "needs a variance-preserving process",
    ),
    "heat-dissipation": (
        {"blurring", "spectrum-matched", "equal-snr", "soft-conditioning", "reversed"},
        "needs a process whose noise is the same at every step",
    ),
}


class TestEverySampler:
    """Exactly, for Gaussian data: a sampler reaches them from every relative, or says why it cannot."""

    @pytest.mark.parametrize(
        "name", [name for name in default_registry().names("sampler") if name != "dopri5"]
    )  # of which no plan is the whole
    @pytest.mark.parametrize(
        ("rotation", "velocity"),
        [
            ("dct", "blurring"),
            ("dct", "heat:sigma_max=5"),
            ("dct", "cold"),
            ("hartley", "spectrum-matched"),
            ("dct", "equal-snr:flipped=true"),
            ("dct", "soft-conditioning"),
            ("dct", "reversed:velocity=blurring"),
        ],
        ids=str,
    )
    def test_it_samples_or_refuses(self, name, rotation, velocity):
        process = diffusion(rotation, velocity, EVENT, 60)
        moments = Moments.fit(SmoothNoise(shape=EVENT), process.rotation)
        process = Diffusion(process.rotation, process.scales, EVENT, moments)
        sampler = component(Sampler, {"name": name, "prior": "matched"})
        refused, lacking = REFUSED.get(name, (set(), ""))
        if velocity.partition(":")[0] in refused:
            with pytest.raises(ConfigError, match=lacking) as refusal:
                list(sampler.plan(process))
            assert refusal.value.details
            assert refusal.value.fix
            return
        updates = list(sampler.plan(process))
        for update in updates:
            for coefficient in (update.p, update.q, update.b, update.e, update.constant):
                assert coefficient is None or torch.isfinite(coefficient).all()
        drawn = law(process, sampler, Gaussian.of(moments, EVENT))
        spread = (drawn.variance / moments.variance).sqrt()
        assert torch.isfinite(spread).all()
        if sampler.order:
            bias = (drawn.mean.reshape(EVENT) - moments.mean) / moments.variance.sqrt()
            assert bias.abs().max() < 0.1
            assert 0.7 < spread.mean() < 1.2  # of 60 steps; see the orders in test_samplers.py
