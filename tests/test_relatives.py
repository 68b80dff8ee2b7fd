"""The relatives: each process is the one that its paper defines, and what defines it holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from processes import component, diffusion
from scipy.fft import dctn, idctn

from gendiff import Diffusion, Sampler, Update, VariancePreserving
from gendiff.blur import mirrored
from gendiff.errors import ConfigError

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
    a, s = process.scales_at(update.i, torch.float64)
    terms = ((update.p, x_bar), (update.q, x_0), (update.b, (x_bar - a * x_0) / s), (update.e, z))
    return sum(coefficient * value for coefficient, value in terms if coefficient is not None)


class TestBlurring:
    N = 40

    def test_without_blur_it_is_the_cosine_process(self):
        process = diffusion("dct", "blurring:sigma_max=0", EVENT, self.N)
        low = math.atan(math.exp(-5))
        for i in range(self.N + 1):
            angle = (math.atan(math.exp(5)) - low) * i / self.N + low
            close(process.log_a(i).exp(), torch.full((1, 5, 7), math.cos(angle), dtype=torch.float64))
            close(process.log_s(i).exp(), torch.full((1, 5, 7), math.sin(angle), dtype=torch.float64))
        assert process.log_s(0).exp().max().item() == pytest.approx(0.0067, abs=5e-5)  # not 0
        assert 2 * process.half_log_snr(0).max().item() == pytest.approx(10)
        assert 2 * process.half_log_snr(self.N).max().item() == pytest.approx(-10)

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
            close(process.log_a(i).exp()[0], torch.from_numpy(a * d))
            assert process.log_s(i).exp().unique().item() == pytest.approx(math.sqrt(1 / (1 + math.exp(logsnr))))
        assert process.log_a(self.N).exp().min() == pytest.approx(1e-3 * a, rel=1e-6)  # what is left of fine detail

    @pytest.mark.parametrize(("i", "j"), [(1, 0), (40, 39), (40, 0), (23, 4)])
    def test_ancestral_draws_from_the_exact_posterior(self, i, j, rng):
        """Of a process that is not variance-preserving and has noise at step 0: the paper's eq. in a and s, per frequency."""
        process = diffusion("dct", "blurring", EVENT, self.N)
        assert not isinstance(process.scales, VariancePreserving)
        (a_i, s_i), (a_j, s_j) = (process.scales_at(k, torch.float64) for k in (i, j))
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
        assert process.log_s(0).isneginf().all()
        for i in range(1, self.N + 1):
            close(process.log_s(i).exp(), torch.full((1, 5, 7), 0.02, dtype=torch.float64))
        close(process.log_a(self.N)[0, 0, 0].exp(), torch.tensor(1.0, dtype=torch.float64))  # the mean never fades

    def test_sixty_four_pixels_and_more_stay_finite(self):
        process = diffusion("dct", "heat:sigma_max=128", (1, 64, 48), 50)
        assert torch.isfinite(process.log_a(50)).all()
        assert process.log_a(50).min() == -1e4


class TestCold:
    N = 20

    def test_the_signal_is_a_chain_of_blurs(self, rng):
        process = diffusion("dct", "cold:sigma=0.35,growth=0.01", EVENT, self.N)
        x = torch.randn(3, *EVENT, generator=rng, dtype=torch.float64)
        blurred = x.numpy()
        for i in range(1, self.N + 1):
            blurred = heat(blurred, 0.35 + 0.01 * (i - 1))
            close(without_noise(process, x, i), torch.from_numpy(blurred))

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


class TestReversed:
    @pytest.mark.parametrize("velocity", ["blur:schedule=log", "isotropic", "blurring", "heat:sigma_max=3"])
    @pytest.mark.parametrize("event", [(2, 5, 7), (1, 6, 6), (3, 12)], ids=str)
    def test_rank_p_takes_the_pair_of_rank_k_1_p(self, velocity, event):
        plain = diffusion("dct", velocity, event, 30)
        twin = diffusion("dct", {"name": "reversed", "velocity": velocity}, event, 30)
        assert isinstance(twin.scales, VariancePreserving) == isinstance(plain.scales, VariancePreserving)
        rho = plain.rotation.frequencies(event)[0].flatten().tolist()
        order = sorted(range(len(rho)), key=lambda k: (round(rho[k], 9), k))
        for i in (0, 1, 13, 30):
            for own, other in ((twin.log_a(i), plain.log_a(i)), (twin.log_s(i), plain.log_s(i))):
                own, other = (value.expand(event).flatten(1) for value in (own, other))
                for p, k in enumerate(order):
                    assert (own[:, k] == other[:, order[-1 - p]]).all()

    def test_reversed_twice_is_the_velocity_itself(self):
        twice = diffusion("dct", "reversed:velocity={name='reversed',velocity='blur'}", EVENT)
        plain = diffusion("dct", "blur", EVENT)
        for i in (1, 20, 50):
            close(twice.log_a(i), plain.log_a(i), atol=0)

    def test_the_mirror_is_its_own_inverse_and_breaks_ties_by_place(self):
        rho = torch.tensor([[0.0, 2.0, 1.0], [1.0 + 1e-12, 3.0, 2.0 - 1e-12]], dtype=torch.float64)
        assert mirrored(rho).tolist() == [[4, 3, 5], [1, 0, 2]]  # in order: 0, 2, 3, 1, 5, 4


def test_a_basis_without_frequencies_is_refused():
    for velocity in ("blurring", "heat", "cold"):
        with pytest.raises(ConfigError, match="rotation 'identity' has no frequencies that heat could damp"):
            diffusion("identity", velocity, EVENT)
