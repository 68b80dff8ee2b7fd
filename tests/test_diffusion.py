"""The process: dense kernels, closed forms and conversions agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import PROCESSES, N, component, dense, diffusion

from gendiff import (
    BlurSchedule,
    Diffusion,
    NoiseSchedule,
    Parametrization,
    Pivot,
    Rotation,
    VariancePreserving,
    Velocity,
)
from gendiff.blur import LOG_FLOOR
from gendiff.errors import ConfigError, PluginError
from gendiff.registry import default_registry
from gendiff.score import LOG_A_PRIOR, decode, encode, from_eps

EVENT = (2, 3, 5)
IMAGE = (3, 4, 5)
every_process = pytest.mark.parametrize(("rotation", "velocity"), PROCESSES, ids=str)


def close(a, b, atol=1e-10, rtol=0.0):
    torch.testing.assert_close(a, b, atol=atol, rtol=rtol)


def full(diagonal: torch.Tensor, event=EVENT) -> torch.Tensor:
    """A diagonal, spread over the event and flattened."""
    return diagonal.expand(event).flatten()


def event_of(rotation) -> tuple[int, ...]:
    return IMAGE if "released" in str(rotation) else EVENT


@every_process
class TestProcess:
    def test_boundaries_and_monotone_snr(self, rotation, velocity):
        process = diffusion(rotation, velocity, event_of(rotation))
        assert (process.log_a(0) == 0).all()
        assert (process.log_s(0) == -math.inf).all()
        i = torch.arange(N + 1)
        lam = process.scales.half_log_snr(i)
        assert (lam.diff(dim=0) <= 1e-9).all()
        assert torch.isfinite(lam[1:]).all()
        r = torch.exp(2 * (lam[1:] - lam[:-1]))
        assert ((r >= 0) & (r <= 1 + 1e-12)).all()

    def test_low_rank_form_is_the_dense_product(self, rotation, velocity):
        """exp(L_i) equals the cumulative product of A_j = (1 - β_j) D^{2 f(j)}, formed step by step."""
        event = event_of(rotation)
        process = diffusion(rotation, velocity, event)
        A = torch.stack([full(process.kernel(i, i - 1).scale ** 2, event) for i in range(1, N + 1)])
        closed = torch.stack([full(process.log_a(i), event) for i in range(1, N + 1)])
        close(A.cumprod(0), torch.exp(2 * closed))

    def test_proposition_1_dense(self, rotation, velocity):
        """Composing dense one-step kernels gives the closed-form marginal."""
        event = event_of(rotation)
        process = diffusion(rotation, velocity, event)
        U = dense(process.rotation, event)
        mean, covariance = torch.eye(len(U), dtype=torch.float64), torch.zeros(len(U), len(U), dtype=torch.float64)
        for i in range(1, N + 1):
            kernel = process.kernel(i, i - 1)
            scale, noise = full(kernel.scale, event), full(kernel.std, event) ** 2
            # W^{f(i)} sqrt(1 - β_i) and I - (1 - β_i) W^{2 f(i)} as matrices in event space
            M, Q = U @ torch.diag(scale) @ U.T, U @ torch.diag(noise) @ U.T
            mean, covariance = M @ mean, M @ covariance @ M.T + Q
            if i in (1, 2, N // 2, N):
                a, s = full(process.log_a(i).exp(), event), full(process.log_s(i).exp(), event)
                close(mean, U @ torch.diag(a) @ U.T)
                close(covariance, U @ torch.diag(s**2) @ U.T)

    @pytest.mark.parametrize(("i", "j"), [(1, 0), (2, 1), (N, N - 1), (N, 0), (N, 7), (31, 12)])
    def test_posterior_is_bayes(self, rotation, velocity, i, j):
        """p, q, std equal the product of the two Gaussians q(x_i|x_j) q(x_j|x_0), normalised."""
        event = event_of(rotation)
        process = diffusion(rotation, velocity, event)
        posterior, kernel = process.posterior(i, j), process.kernel(i, j)
        if j == 0:
            assert (posterior.std == 0).all()
            close(posterior.p, torch.zeros_like(posterior.p))
            close(posterior.q, torch.ones_like(posterior.q))
            return
        a_j, s_j = process.log_a(j).exp(), process.log_s(j).exp()
        frozen = kernel.std == 0  # log a is clamped at both steps: nothing is left to destroy, x̄_i = x̄_j
        assert (process.log_a(i)[frozen] == LOG_FLOOR).all()
        close(posterior.p[frozen], torch.ones_like(posterior.p[frozen]))
        close(posterior.std[frozen], torch.zeros_like(posterior.std[frozen]))
        precision = 1 / s_j**2 + kernel.scale**2 / kernel.std**2
        expected = (1 / precision, kernel.scale / kernel.std**2 / precision, a_j / s_j**2 / precision)
        for found, bayes in zip((posterior.std**2, posterior.p, posterior.q), expected, strict=True):
            close(found[~frozen], bayes[~frozen])

    def test_marginal_is_consistent_through_any_intermediate_step(self, rotation, velocity):
        process = diffusion(rotation, velocity, event_of(rotation))
        for i, j in ((2, 1), (N, 20), (33, 32)):
            kernel = process.kernel(i, j)
            close(kernel.scale * process.log_a(j).exp(), process.log_a(i).exp())
            close(kernel.scale**2 * torch.exp(2 * process.log_s(j)) + kernel.std**2, torch.exp(2 * process.log_s(i)))

    def test_score_is_autograd_of_log_q(self, rotation, velocity, rng):
        event = event_of(rotation)
        process = diffusion(rotation, velocity, event)
        x_0, eps = torch.randn(2, 4, *event, generator=rng, dtype=torch.float64)
        i = torch.tensor([1, 2, N // 2, N])
        a, s = process.marginal(i, torch.float64)
        x_i = process.q_sample(x_0, i, eps).requires_grad_()
        residual = (process.rotate(x_i) - a * process.rotate(x_0)) / s
        log_q = -0.5 * residual.square().sum()
        (expected,) = torch.autograd.grad(log_q, x_i)
        torch.testing.assert_close(process.score(i, eps), expected, rtol=1e-7, atol=1e-7)

    def test_all_predictions_round_trip_at_the_ends(self, rotation, velocity, rng):
        event = event_of(rotation)
        process = diffusion(rotation, velocity, event)
        x_0, eps = torch.randn(2, 4, *event, generator=rng, dtype=torch.float64)
        for i in (1, N):
            a, s = process.scales_at(i, torch.float64)
            alive = (process.log_a(i) >= LOG_A_PRIOR).expand(event)
            pivot = Pivot(process.rotate(x_0), process.rotate(eps))
            x_bar = a * pivot.x_0 + s * pivot.eps
            for parametrization in Parametrization:
                back = decode(parametrization, encode(parametrization, pivot, a, s), x_bar, a, s)
                close(back.x_0[:, alive], pivot.x_0[:, alive], atol=1e-8)
                close(back.eps[:, alive], pivot.eps[:, alive], atol=1e-8)
                close(a * back.x_0 + s * back.eps, x_bar)

    def test_tables_are_small(self, rotation, velocity):
        """At most 1 MiB at 3x64x64 and 2 MiB at 3x256x256 with N = 1000."""
        for side, limit in ((64, 2**20), (256, 2 * 2**20)):
            scales = diffusion(rotation, velocity, (3, side, side), N=1000).scales
            held = sum(
                value.numel() * value.element_size()
                for value in vars(scales).values()
                if isinstance(value, torch.Tensor)
            )
            assert held <= limit


class TestDDPM:
    @pytest.mark.parametrize(
        ("rotation", "velocity"),
        [
            ("identity", "blur"),
            ("identity", {"name": "blur", "schedule": "log:f_max=0.6"}),
            ("dct", "isotropic"),
            ("blur-eigen", {"name": "blur", "schedule": "none"}),
        ],
    )
    def test_no_blur_is_ddpm_in_any_basis(self, rotation, velocity):
        """Tables cast to float32 are bit-identical to a float64 DDPM table; the posterior is Ho et al.'s."""
        process = diffusion(rotation, velocity, EVENT, N=1000)
        beta = np.linspace(1e-4, 0.02, 1000)
        alpha_bar = np.cumprod(1 - beta)
        i = torch.arange(1, 1001)
        a, s = process.marginal(i)
        np.testing.assert_array_equal(a.flatten(1)[:, 0].numpy(), np.sqrt(alpha_bar).astype(np.float32))
        np.testing.assert_array_equal(s.flatten(1)[:, 0].numpy(), np.sqrt(1 - alpha_bar).astype(np.float32))
        for k in (2, 500, 1000):
            previous = alpha_bar[k - 2]
            posterior = process.posterior(k, k - 1)
            p = np.sqrt(1 - beta[k - 1]) * (1 - previous) / (1 - alpha_bar[k - 1])
            q = np.sqrt(previous) * beta[k - 1] / (1 - alpha_bar[k - 1])
            variance = beta[k - 1] * (1 - previous) / (1 - alpha_bar[k - 1])
            np.testing.assert_allclose(posterior.p.flatten()[0], p, rtol=1e-10)
            np.testing.assert_allclose(posterior.q.flatten()[0], q, rtol=1e-9)
            np.testing.assert_allclose(posterior.std.flatten()[0] ** 2, variance, rtol=1e-9)


class TestBlurInPixels:
    def test_quartic_blurs_as_far_as_the_paper_s_setting(self):
        """κ sqrt(F_N) = 1.51 px with κ = 0.284, the true std of the sampled kernel; σ sqrt(F_N) = 2.12 is only nominal."""
        F = component(BlurSchedule, "quartic:f_max=0.14").cumulative(1000)
        j = torch.arange(-20, 21, dtype=torch.float64)
        g = torch.exp(-0.5 * (j / 0.4) ** 2)
        kappa = float(torch.sqrt((g * j**2).sum() / g.sum()))
        assert kappa == pytest.approx(0.284, abs=5e-4)
        assert kappa * float(F[-1].sqrt()) == pytest.approx(1.51, abs=0.01)
        assert 0.4 * float(F[-1].sqrt()) == pytest.approx(2.12, abs=0.01)

    def test_fine_to_coarse_destroys_the_constant_first(self):
        process = diffusion("dct", "fine-to-coarse", EVENT)
        a = process.log_a(N)[0]
        assert a[0, 0] == a.min()
        assert a[0, 0] < -1000
        assert a[-1, -1] == a.max()


class TestSchedules:
    N = 1000
    i = torch.arange(1, N + 1, dtype=torch.float64)

    @pytest.mark.parametrize("name", default_registry().names("schedule"))
    def test_ends_and_sums(self, name):
        schedule = component(BlurSchedule, name)
        f = schedule.f(self.i, self.N)
        close(schedule.cumulative(self.N)[1:], f.cumsum(0))
        assert schedule.cumulative(self.N)[0] == 0
        if name == "none":
            assert (f == 0).all()
        elif name == "triangular":
            assert f.max().item() == pytest.approx(0.07, abs=1e-3)
            assert f[-1] == 0
        else:
            assert f[0].item() == pytest.approx(0, abs=1e-9)
            assert f[-1].item() == pytest.approx(0.14)

    @pytest.mark.parametrize("name", ["linear", "log", "quadratic"])
    def test_f_min_is_the_value_at_1(self, name):
        f = component(BlurSchedule, f"{name}:f_max=0.5,f_min=0.2").f(self.i, self.N)
        assert f[0].item() == pytest.approx(0.2)
        assert f[-1].item() == pytest.approx(0.5)

    @pytest.mark.parametrize("name", default_registry().names("noise"))
    def test_beta_is_a_probability_and_the_end_is_noise(self, name):
        noise = component(NoiseSchedule, name)
        beta = noise.beta(self.i, self.N)
        assert ((beta > 0) & (beta <= 0.999)).all()
        log_alpha_bar = noise.log_alpha_bar(self.N)
        assert log_alpha_bar[0] == 0
        close(log_alpha_bar.exp()[1:], (1 - beta).cumprod(0))
        assert log_alpha_bar[-1] < -9

    def test_curves_follow_their_formula_away_from_the_end(self):
        fraction = self.i / self.N
        cosine = torch.cos((fraction + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
        close(component(NoiseSchedule, "cosine").log_alpha_bar(self.N).exp()[1:-1], cosine[:-1])
        h = lambda i: torch.exp(5 * i / self.N - 5) + 1e-4  # noqa: E731
        end, start = h(torch.tensor(float(self.N)).double()), h(torch.zeros((), dtype=torch.float64))
        close(
            component(NoiseSchedule, "exp").log_alpha_bar(self.N).exp()[1:-1],
            ((1 - h(self.i) / end) / (1 - start / end))[:-1],
        )

    @given(f_max=st.floats(0, 50), f_min=st.floats(0, 50), N=st.integers(2, 400))
    @settings(max_examples=40, deadline=None)
    def test_any_allowed_parameters_give_a_process(self, f_max, f_min, N):
        for name in ("linear", "log", "quadratic", "cubic", "quartic", "triangular"):
            spec = {"name": name, "f_max": max(f_max, f_min), "f_min": min(f_max, f_min)}
            F = component(BlurSchedule, spec).cumulative(N)
            assert (F.diff() >= 0).all()

    def test_a_schedule_that_is_nan_is_named(self):
        class Broken(BlurSchedule):
            """nan at step 3."""

            name = "broken"

            def f(self, i, N):
                return torch.where(i == 3, torch.nan, 0.1)

        with pytest.raises(PluginError, match=r"schedule 'broken' gives f\(3\) = nan"):
            Broken().cumulative(10)

    def test_a_schedule_of_the_wrong_shape_is_named(self):
        class Scalar(BlurSchedule):
            """one number."""

            name = "scalar"

            def f(self, i, N):
                return 0.1

        with pytest.raises(PluginError, match="returned float from f"):
            Scalar().cumulative(10)

    def test_too_few_steps(self):
        with pytest.raises(ConfigError, match="N = 1"):
            component(BlurSchedule, "linear").cumulative(1)


class TestNumerics:
    def test_small_noise_keeps_its_digits(self):
        """s at i = 1 in float32 is right to the last bit; 1 - ᾱ in float32 is wrong by 1e-4."""
        _, s = diffusion("dct", "isotropic", EVENT, N=1000).scales_at(1)
        assert float(s.flatten()[0]) == float(np.float32(0.01))
        naive = 1 - np.prod(1 - np.float32([1e-4]), dtype=np.float32)
        assert abs(naive / 1e-4 - 1) > 1e-5

    def test_a_vanished_signal_gives_no_nan_anywhere(self, rng):
        velocity = {"name": "blur", "sigma": 8.0, "schedule": "linear:f_max=40"}
        process = diffusion("dct", velocity, EVENT, N=N)
        assert (process.log_a(N) == -1e4).any()
        for i, j in ((N, N - 1), (N, 1), (N, 0), (2, 1)):
            for values in (process.posterior(i, j), process.kernel(i, j)):
                assert all(torch.isfinite(value).all() for value in vars(values).values())
        x_bar, eps = torch.randn(2, 6, *EVENT, generator=rng)
        a, s = process.scales_at(N)
        pivot = from_eps(eps, x_bar, a, s)
        assert torch.isfinite(pivot.x_0).all()
        dead = (process.log_a(N) < LOG_A_PRIOR).expand(EVENT)
        assert (pivot.x_0[:, dead] == 0).all()
        close(pivot.eps[:, dead], (x_bar / s)[:, dead])


class TestRefusals:
    class Reviving(Velocity):
        """a process whose signal comes back."""

        name = "reviving"

        def scales(self, rotation, event_shape, N):
            class Scales(VariancePreserving):
                device = torch.device("cpu")

                def __init__(self):
                    self.N = N

                def log_alpha_bar(self, i):
                    L = -0.1 * i.double()
                    return torch.where(i == N, L / 2, L).reshape(-1, 1, 1, 1)

                def to(self, device):
                    return self

            return Scales()

    def test_growing_snr(self):
        U = component(Rotation, "identity")
        with pytest.raises(PluginError, match="grows or is NaN at step 50"):
            Diffusion(U, self.Reviving().scales(U, EVENT, N), EVENT)

    def test_no_noise_at_the_first_step(self):
        class Late(NoiseSchedule):
            """β_1 = 0."""

            name = "late"

            def beta(self, i, N):
                return torch.where(i == 1, 0.0, 0.1)

        U = component(Rotation, "identity")
        velocity = type(component(Velocity, "isotropic"))(noise=Late())
        with pytest.raises(PluginError, match="no noise at step 1"):
            Diffusion(U, velocity.scales(U, EVENT, N), EVENT)

    def test_fine_to_coarse_needs_a_blur(self):
        with pytest.raises(ConfigError, match="'fine-to-coarse' cannot be used with rotation 'identity'"):
            diffusion("identity", "fine-to-coarse")

    def test_scales_of_another_shape(self):
        U = component(Rotation, "dct")
        with pytest.raises(PluginError, match="the scales have shape"):
            Diffusion(U, component(Velocity, "blur").scales(U, (1, 4, 4), N), EVENT)

    def test_steps_out_of_range(self):
        process = diffusion()
        with pytest.raises(ValueError, match=r"outside 0\.\.50"):
            process.log_a(N + 1)
        with pytest.raises(ValueError, match="need 0 <= j < i"):
            process.posterior(3, 3)
