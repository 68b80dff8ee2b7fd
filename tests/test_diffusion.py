"""The process: dense kernels, closed forms and conversions agree."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import PROCESSES, RELATIVES, N, component, dense, diffusion, fitted, scales_at

from gendiff import (
    BlurSchedule,
    Diffusion,
    NoiseSchedule,
    Parametrization,
    Pivot,
    Rotation,
    Sampler,
    VariancePreserving,
    Velocity,
)
from gendiff.blur import LOG_FLOOR
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.plugin.registry import default_registry
from gendiff.score import LOG_A_PRIOR, decode, encode, from_eps
from gendiff.testing import level
from gendiff.testing.steps import begins

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
        if (rotation, velocity) in RELATIVES:  # they may keep a little noise: test_relatives.py says how much
            begins(process.at(0).log_a, process.at(0).log_s, exactly=False)
        else:
            assert (process.at(0).log_a == 0).all()
            assert (process.at(0).log_s == -math.inf).all()
        i = torch.arange(N + 1)
        lam = process.scales.half_log_snr(i)
        assert (lam.diff(dim=0) <= 1e-9).all()
        a, s = process.scales.log_a(i[1:]).exp(), process.scales.log_s(i[1:]).exp()
        torch.testing.assert_close(s * lam[1:].exp(), a.expand_as(s), rtol=1e-12, atol=1e-300)
        assert torch.isfinite(lam[1:]).all()
        r = torch.exp(2 * (lam[1:] - lam[:-1]))
        assert ((r >= 0) & (r <= 1 + 1e-12)).all()

    def test_kernels_compose(self, rotation, velocity):
        """The chain of one-step kernels is the marginal, in law."""
        event = event_of(rotation)
        process = diffusion(rotation, velocity, event)
        scale, variance = process.at(0).log_a.exp().expand(event), torch.exp(2 * process.at(0).log_s).expand(event)
        for i in range(1, N + 1):
            kernel = process.kernel(i, i - 1)
            scale, variance = kernel.scale * scale, kernel.scale**2 * variance + kernel.std**2
            close(scale, process.at(i).log_a.exp().expand(event))
            close(variance, torch.exp(2 * process.at(i).log_s).expand(event))

    @pytest.mark.parametrize(("i", "j"), [(1, 0), (2, 1), (N, N - 1), (N, 0), (N, 7), (31, 12)])
    def test_posterior_is_bayes(self, rotation, velocity, i, j):
        """p, q, std equal the product of the two Gaussians q(x_i|x_j) q(x_j|x_0), normalised."""
        event = event_of(rotation)
        process = diffusion(rotation, velocity, event)
        posterior, kernel = process.posterior(i, j), process.kernel(i, j)
        if j == 0 and process.at(0).log_s.isneginf().all():
            assert (posterior.std == 0).all()
            close(posterior.p, torch.zeros_like(posterior.p))
            close(posterior.q, torch.ones_like(posterior.q))
            return
        a_j, s_j = process.at(j).log_a.exp(), process.at(j).log_s.exp()
        frozen = kernel.std == 0  # λ_i = λ_j: nothing is destroyed, x̄_i is x̄_j scaled
        assert (process.at(i).half_log_snr[frozen] == process.at(j).half_log_snr[frozen]).all()
        close(posterior.p[frozen], 1 / kernel.scale[frozen])
        close(posterior.std[frozen], torch.zeros_like(posterior.std[frozen]))
        precision = 1 / s_j**2 + kernel.scale**2 / kernel.std**2
        expected = (1 / precision, kernel.scale / kernel.std**2 / precision, a_j / s_j**2 / precision)
        for found, bayes in zip((posterior.std**2, posterior.p, posterior.q), expected, strict=True):
            close(found[~frozen], bayes[~frozen])

    def test_marginal_is_consistent_through_any_intermediate_step(self, rotation, velocity):
        process = diffusion(rotation, velocity, event_of(rotation))
        for i, j in ((2, 1), (N, 20), (33, 32)):
            kernel = process.kernel(i, j)
            close(kernel.scale * process.at(j).log_a.exp(), process.at(i).log_a.exp())
            close(
                kernel.scale**2 * torch.exp(2 * process.at(j).log_s) + kernel.std**2, torch.exp(2 * process.at(i).log_s)
            )

    def test_score_is_autograd_of_log_q(self, rotation, velocity, rng):
        event = event_of(rotation)
        process = diffusion(rotation, velocity, event)
        x_0, eps = torch.randn(2, 4, *event, generator=rng, dtype=torch.float64)
        i = torch.tensor([1, 2, N // 2, N])
        a, s = scales_at(process, i, torch.float64)
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
            at = process.at(i, torch.float64)
            a, s = at.a, at.s
            alive = (process.at(i).log_a >= LOG_A_PRIOR).expand(event)
            pivot = Pivot(process.rotate(x_0), process.rotate(eps))
            x_bar = a * pivot.x_0 + s * pivot.eps
            rests = at.half_log_snr == at.before.half_log_snr if i > 0 else torch.tensor(False)
            for parametrization in Parametrization:
                if parametrization is Parametrization.VELOCITY and bool(rests.any()):
                    continue  # it says nothing of a component that rests
                back = decode(parametrization, encode(parametrization, pivot, at), x_bar, at)
                close(back.x_0[:, alive], pivot.x_0[:, alive], atol=1e-8)
                close(back.eps[:, alive], pivot.eps[:, alive], atol=1e-8)
                # A residual is kept as it is where a_{i-1} has vanished: there x̂_0 is off, by what a_{i-1} makes of it.
                lost = 1e-5 if parametrization is Parametrization.RESIDUAL else 1e-10
                close(a * back.x_0 + s * back.eps, x_bar, atol=lost)

    def test_tables_are_small(self, rotation, velocity):
        """At most 1 MiB at 3x64x64 and 2 MiB at 3x256x256 with N = 1000."""
        learns = "spectrum" in str(velocity) or "snr" in str(velocity) or "soft" in str(velocity)
        limits = (
            {64: 2**20} if learns else {64: 2**20, 256: 2 * 2**20}
        )  # data of 256 pixels would be looked at for long
        for side, limit in limits.items():
            scales = diffusion(rotation, velocity, (3, side, side), N=1000).scales
            held = sum(
                value.numel() * value.element_size()
                for value in vars(scales).values()
                if isinstance(value, torch.Tensor)
            )
            assert held <= limit


def convolution(n: int, sigma: float) -> torch.Tensor:
    """One axis's blur as a dense matrix, made from the taps of the kernel: half-sample symmetric borders, no DCT."""
    W = torch.zeros(n, n, dtype=torch.float64)
    taps = torch.exp(-0.5 * (torch.arange(-60, 61, dtype=torch.float64) / sigma) ** 2)
    for row in range(n):
        for offset, g in zip(range(-60, 61), (taps / taps.sum()).tolist(), strict=True):
            position = (row + offset) % (2 * n)
            W[row, min(position, 2 * n - 1 - position)] += g
    return W


class TestProposition1:
    """Dense one-step kernels sqrt(1-β) W^f and I - (1-β) W^{2f}, from β, f and the taps alone, give the closed form."""

    @pytest.mark.parametrize("event", [(1, 9), (2, 3, 4), (1, 5, 2)], ids=str)
    @pytest.mark.parametrize("schedule", ["log:f_max=0.6,f_min=0.1", "quartic:f_max=2", "triangular"])
    @pytest.mark.parametrize("name", ["blur", "fine-to-coarse"])
    def test_dense(self, name, schedule, event):
        process = diffusion("dct", {"name": name, "sigma": 0.7, "schedule": schedule}, event)
        W = torch.eye(event[0], dtype=torch.float64)
        for n in event[1:]:
            W = torch.kron(W, convolution(n, 0.7))
        eye = torch.eye(len(W), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(W if name == "blur" else eye - W)
        log_values = torch.where(values < 1e-12, LOG_FLOOR, values.log())  # 1 - D = 0: its clamp is its definition
        i = torch.arange(1, N + 1, dtype=torch.float64)
        beta = 1e-4 + (0.02 - 1e-4) * (i - 1) / (N - 1)
        f = component(BlurSchedule, schedule).f(i, N)
        mean, covariance = eye, torch.zeros_like(eye)
        U = dense(process.rotation, event)
        for step in range(N):
            power = vectors @ torch.diag(torch.exp(f[step] * log_values)) @ vectors.T  # W^f
            M, Q = torch.sqrt(1 - beta[step]) * power, eye - (1 - beta[step]) * power @ power
            mean, covariance = M @ mean, M @ covariance @ M.T + Q
            a, s = full(process.at(step + 1).log_a.exp(), event), full(process.at(step + 1).log_s.exp(), event)
            close(mean, U @ torch.diag(a) @ U.T)
            close(covariance, U @ torch.diag(s**2) @ U.T)


def test_seven_views_of_one_belief():
    """Literal numbers, so that no sign or power can be wrong in a pair: a = 0.6, s = 0.8, x_0 = 2, ε = -1, x̄ = 0.4."""
    a, s, x_bar = (torch.tensor([value], dtype=torch.float64) for value in (0.6, 0.8, 0.4))
    at = level(a, s, mean=0.5, variance=4.0)  # v = 0.36 * 4 + 0.64 = 2.08
    pivot = Pivot(torch.tensor([2.0]).double(), torch.tensor([-1.0]).double())
    views = {
        Parametrization.EPS: -1.0,
        Parametrization.X_0: 2.0,
        Parametrization.SCORE: 1.25,
        Parametrization.STD: -0.8,
        Parametrization.V: -2.2,
        Parametrization.WIENER: (0.8 * (2 - 0.5) / 2 + 0.6 * 2) / 2.08**0.5,
        Parametrization.RESIDUAL: 0.6 * 2 - 0.4,  # the level before is the same here
    }
    assert views.keys() == set(Parametrization) - {Parametrization.VELOCITY}  # that of two levels: test_flows.py
    for parametrization, value in views.items():
        assert encode(parametrization, pivot, at).item() == pytest.approx(value)
        back = decode(parametrization, torch.tensor([value]).double(), x_bar, at)
        assert back.x_0.item() == pytest.approx(2.0)
        assert back.eps.item() == pytest.approx(-1.0)


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
        a, s = scales_at(process, i)
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
        a = process.at(N).log_a[0]
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
        assert log_alpha_bar[-1] < (-5 if name == "scaled-linear" else -9)  # Stable Diffusion's ends at SNR 0.005

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

    @pytest.mark.parametrize("parameters", ["", ":tau=0.5", ":start=-2,end=4,tau=0.9", ":tau=0.01"])
    def test_sigmoid_follows_its_formula(self, parameters):
        noise = component(NoiseSchedule, f"sigmoid{parameters}")
        sigmoid = lambda t: 1 / (1 + torch.exp(torch.as_tensor(t).double() / noise.tau))  # noqa: E731
        first, last = sigmoid(noise.start), sigmoid(noise.end)
        expected = (sigmoid(noise.start + (noise.end - noise.start) * self.i / self.N) - last) / (first - last)
        found = noise.log_alpha_bar(self.N).exp()[1:]
        kept = expected[:-1] / expected[:-1].roll(1) > 1e-3  # β is capped at 0.999
        last_kept = int((~kept).nonzero()[0]) if (~kept).any() else len(kept)
        close(found[: last_kept - 1], expected[: last_kept - 1], atol=1e-9)

    @pytest.mark.parametrize(
        ("name", "i", "value"),
        [("cubic", 50, 0.2375), ("quartic", 50, 0.21875), ("triangular", 75, 0.2 + 7.2 / 99)],
    )
    def test_f_min_inside(self, name, i, value):
        """At N = 100 with f_min = 0.2, f_max = 0.5."""
        f = component(BlurSchedule, f"{name}:f_max=0.5,f_min=0.2").f(torch.tensor([float(i)]).double(), 100)
        assert f.item() == pytest.approx(value)

    @pytest.mark.parametrize("steps", [7, 8])
    def test_triangular_is_linear_up_to_the_middle_and_its_mirror_beyond(self, steps):
        """lin(i) for i < N/2, lin(N - i) from there on; at odd N no step lies in the middle."""
        lin = lambda i: max(0.1 + 0.6 * (i - 1) / (steps - 1), 0)  # noqa: E731
        wanted = [lin(i) if i < steps / 2 else lin(steps - i) for i in range(1, steps + 1)]
        i = torch.arange(1, steps + 1, dtype=torch.float64)
        found = component(BlurSchedule, "triangular:f_max=0.7,f_min=0.1").f(i, steps)
        assert found.tolist() == pytest.approx(wanted)

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

        with pytest.raises(PluginError, match=r"schedule 'broken' gives f\(3\) = nan at N = 10") as caught:
            Broken().cumulative(10)
        assert caught.value.details == ("f must be a finite number >= 0 at every step 1..N; 1 of 10 are not",)

    @pytest.mark.parametrize(("value", "allowed"), [(1.0, False), (0.9999, True), (0.0, True), (-1e-9, False)])
    def test_beta_lies_in_its_half_open_interval(self, value, allowed):
        class Constant(NoiseSchedule):
            """0.1, and at step 4 something else."""

            name = "constant"

            def beta(self, i, N):
                beta = torch.full_like(i, 0.1)
                beta[3] = value
                return beta

        if allowed:
            assert Constant().log_alpha_bar(6)[4].item() == pytest.approx(3 * math.log(0.9) + math.log1p(-value))
            assert Constant().log_alpha_bar(6)[6].item() == pytest.approx(5 * math.log(0.9) + math.log1p(-value))
            return
        with pytest.raises(PluginError, match=r"noise 'constant' gives beta\(4\)") as caught:
            Constant().log_alpha_bar(6)
        assert caught.value.details == ("beta must be in [0, 1) at every step 1..N; 1 of 6 are not",)

    def test_a_schedule_of_the_wrong_shape_is_named(self):
        class Scalar(BlurSchedule):
            """one number."""

            name = "scalar"

            def f(self, i, N):
                return 0.1

        with pytest.raises(PluginError, match="returned float from f"):
            Scalar().cumulative(10)

        class Short(Scalar):
            """a step too few."""

            name = "short"

            def f(self, i, N):
                return i[1:]

        with pytest.raises(PluginError, match=r"returned \(9,\) from f"):
            Short().cumulative(10)

    @pytest.mark.parametrize(
        ("interface", "spec", "allowed"),
        [
            (NoiseSchedule, "sigmoid:start=1,end=1", False),
            (NoiseSchedule, "sigmoid:start=1,end=1.01", True),
            (BlurSchedule, "log:f_min=0.1,f_max=0.1", True),
            (BlurSchedule, "log:f_min=0.1,f_max=0.09", False),
            (Velocity, "heat:sigma_min=2,sigma_max=2", True),
            (Velocity, "heat:sigma_min=2,sigma_max=1.9", False),
            (Velocity, "blurring:logsnr_max=0,logsnr_min=0", False),
            (Velocity, "blurring:logsnr_max=0.1,logsnr_min=0", True),
            (Velocity, "soft-conditioning:g_denoise=1,g_noise=1", False),
            (Velocity, "soft-conditioning:g_denoise=1,g_noise=1.1", True),
        ],
    )
    def test_parameters_in_the_wrong_order(self, interface, spec, allowed):
        with nullcontext() if allowed else pytest.raises(ConfigError):
            component(interface, spec)

    def test_too_few_steps(self):
        with pytest.raises(ArgumentError, match="N = 1"):
            component(BlurSchedule, "linear").cumulative(1)


class TestNumerics:
    def test_small_noise_keeps_its_digits(self):
        """s at i = 1 in float32 is right to the last bit; 1 - ᾱ in float32 is wrong by 1e-4."""
        s = diffusion("dct", "isotropic", EVENT, N=1000).at(1).s
        assert float(s.flatten()[0]) == float(np.float32(0.01))
        naive = 1 - np.prod(1 - np.float32([1e-4]), dtype=np.float32)
        assert abs(naive / 1e-4 - 1) > 1e-5

    def test_a_vanished_signal_gives_no_nan_anywhere(self, rng):
        velocity = {"name": "blur", "sigma": 8.0, "schedule": "linear:f_max=40"}
        process = diffusion("dct", velocity, EVENT, N=N)
        assert (process.at(N).log_a == -1e4).any()
        for i, j in ((N, N - 1), (N, 1), (N, 0), (2, 1)):
            for values in (process.posterior(i, j), process.kernel(i, j)):
                assert all(torch.isfinite(value).all() for value in vars(values).values())
        x_bar, eps = torch.randn(2, 6, *EVENT, generator=rng)
        _, s = scales_at(process, N)
        pivot = from_eps(eps, x_bar, process.at(N))
        assert torch.isfinite(pivot.x_0).all()
        dead = (process.at(N).log_a < LOG_A_PRIOR).expand(EVENT)
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

    @pytest.mark.parametrize("step", [1, 2, N])
    def test_growth_at_the_ends(self, step):
        class Scales(VariancePreserving):
            """λ grows at one step alone."""

            N = 50
            device = torch.device("cpu")

            def log_alpha_bar(self, i):
                L = -0.1 * i.double() - 0.1
                return torch.where(i == step, L / 2 + 0.04, L).reshape(-1, 1, 1, 1)

        with pytest.raises(PluginError, match=rf"grows or is NaN at step {step}\n"):
            Diffusion(component(Rotation, "identity"), Scales(), EVENT)

    def test_steps_on_another_device_than_the_process(self):
        with pytest.raises(ArgumentError, match="i is on the device 'meta'"):
            diffusion("dct", "blur", EVENT).at(torch.zeros(1, dtype=torch.int64, device="meta"))

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

    @pytest.mark.parametrize(("rest", "refused"), [(1.5e-12, False), (0.7e-12, True)])
    def test_fine_to_coarse_needs_more_of_a_blur_than_rounding(self, rest, refused):
        class Faint(type(component(Rotation, "identity"))):
            """a basis with next to no blur."""

            name = "faint"

            def log_blur_spectrum(self, event_shape, sigma):
                return torch.full((1, 1, 1), math.log1p(-rest), dtype=torch.float64)

        with pytest.raises(ConfigError, match="cannot be used with rotation 'faint'") if refused else nullcontext():
            component(Velocity, "fine-to-coarse").scales(Faint(), EVENT, 20)

    def test_a_rotation_that_changes_lengths(self):
        class Stretched(type(component(Rotation, "identity"))):
            """twice as long there, half as long back."""

            name = "stretched"

            def rotate(self, x):
                return 2 * x

            def unrotate(self, x_bar):
                return x_bar / 2

        scales = component(Velocity, "isotropic").scales(component(Rotation, "identity"), EVENT, N)
        with pytest.raises(PluginError, match="'stretched' is not orthogonal") as caught:
            Diffusion(Stretched(), scales, EVENT)
        assert "1.0e+00" in caught.value.details[0]

    def test_a_rise_within_rounding_is_no_rise(self):
        class Level(VariancePreserving):
            """λ stays, and rises by 1e-12 from step 2 to step 3."""

            N = 4
            device = torch.device("cpu")

            def log_alpha_bar(self, i):
                L = torch.tensor([0.0, -0.1, -0.2, -0.2 + 1e-12, -0.3], dtype=torch.float64)
                return L[i].reshape(-1, 1, 1, 1)

        process = Diffusion(component(Rotation, "identity"), Level(), EVENT)
        kernel, posterior = process.kernel(3, 2), process.posterior(3, 2)
        assert (kernel.std.item(), posterior.std.item(), posterior.q.item()) == (0, 0, 0)
        assert (kernel.scale.item(), posterior.p.item()) == pytest.approx((1, 1))

    @pytest.mark.parametrize(
        ("eps", "steps"), [((2, *IMAGE), 3), ((3, *EVENT), 2), ((2, *EVENT), 3)], ids=["shape", "count", "steps"]
    )
    def test_noise_that_does_not_belong_to_the_events(self, eps, steps):
        process = diffusion("dct", "blur", EVENT)
        at = process.at(torch.arange(1, steps + 1), torch.float64)
        with pytest.raises(ArgumentError, match=r"2 events of torch\.float64, noise for"):
            process.corrupted(at, torch.zeros(2, *EVENT).double(), torch.zeros(eps).double())

    def test_events_of_another_shape_are_named_as_the_argument_is(self):
        process, x, y = diffusion("dct", "blur", EVENT), torch.zeros(2, *EVENT), torch.zeros(2, 3)
        for name, call in (
            ("x", lambda: process.rotate(y)),
            ("x_bar", lambda: process.unrotate(y)),
            ("x_bar", lambda: process.asked(y, 3)),
            ("x_0", lambda: process.q_sample(y, 3, x)),
            ("eps", lambda: process.q_sample(x, 3, y)),
            ("eps", lambda: process.score(3, y)),
            ("z", lambda: process.prior(y)),
        ):
            with pytest.raises(ArgumentError, match=rf"^{name} has the shape"):
                call()

    def test_a_model_is_asked_at_a_step_that_is_trained(self):
        process, x = diffusion("dct", "blur", EVENT), torch.zeros(2, *EVENT)
        assert process.asked(x, 1).i.tolist() == [1]
        for i in (0, torch.tensor([3, 0])):
            with pytest.raises(ArgumentError, match=rf"outside 1\.\.{N}"):
                process.asked(x, i)

    def test_noise_of_another_precision(self):
        process = diffusion("dct", "blur", EVENT)
        with pytest.raises(ArgumentError, match=r"noise for 2 of torch\.float32, 1 steps"):
            process.corrupted(process.at(3, torch.float64), torch.zeros(2, *EVENT).double(), torch.zeros(2, *EVENT))

    def test_scales_of_another_shape(self):
        U = component(Rotation, "dct")
        with pytest.raises(PluginError, match="the scales have shape"):
            Diffusion(U, component(Velocity, "blur").scales(U, (1, 4, 4), N), EVENT)

    def test_steps_out_of_range(self):
        process = diffusion()
        with pytest.raises(ValueError, match=r"outside 0\.\.50"):
            process.at(N + 1)
        with pytest.raises(ValueError, match="need 0 <= j < i"):
            process.posterior(3, 3)


class TestOneWay:
    """Each thing is asked in one way, and a process is checked once."""

    def test_a_step_is_the_row_of_several(self):
        process = diffusion("dct", "blur:schedule=log", EVENT)
        several = process.at(torch.tensor([3, 17, N]), torch.float64)
        for row, i in enumerate((3, 17, N)):
            one = process.at(i, torch.float64)
            for name in ("log_a", "log_s", "half_log_snr", "a", "s", "v", "cos", "sin", "theta"):
                close(getattr(one, name), getattr(several, name)[row], atol=0, rtol=1e-14)
            close(one.before.log_s, several.before.log_s[row], atol=0, rtol=1e-14)
            close(one.before.log_s, process.at(i - 1, torch.float64).log_s, atol=0, rtol=0)
        for none in (0, torch.tensor([3, 0])):
            with pytest.raises(ArgumentError):
                assert process.at(none).before is None

    def test_a_recipe_gives_the_process_of_its_parts(self):
        U, B = fitted("dct", EVENT), component(Velocity, "blur")
        process = Diffusion.of(U, B, list(EVENT), N)
        assert torch.equal(process.at(7).log_a, Diffusion(U, B.scales(U, EVENT, N), EVENT).at(7).log_a)
        assert (process.event_shape, process.N, process.knows_data) == (EVENT, N, False)
        assert Diffusion.of(U, B, EVENT).N == 1000
        for wrong in (0, 1, 10.0):
            with pytest.raises(ArgumentError, match="N = "):
                Diffusion.of(U, B, EVENT, wrong)
        with pytest.raises(ArgumentError, match="no shape of an event"):
            Diffusion.of(U, B, (3,))

    @pytest.mark.parametrize(("rotation", "velocity"), [("dct", "blur"), *RELATIVES[:4]])
    def test_many_levels_are_those_of_each_step(self, rotation, velocity, monkeypatch):
        """In their order, however many are computed at a time."""
        process, steps = diffusion(rotation, velocity, EVENT), [0, 3, N, 3, 1]
        monkeypatch.setattr("gendiff.diffusion.CHUNK", 2 * math.prod(EVENT))
        levels = list(process.levels(steps, torch.float64))
        assert [len(at.i) for at in levels] == [2, 2, 1]
        for name in ("half_log_snr", "a", "s"):
            each = torch.stack([getattr(process.at(i, torch.float64), name) for i in steps])
            close(torch.cat([getattr(at, name) for at in levels]), each, atol=0, rtol=1e-14)
        assert list(process.levels([])) == []
        with pytest.raises(ArgumentError, match="outside"):
            list(process.levels([1, N + 1]))

    def test_both_scales_of_a_variance_preserving_process_come_from_one_table(self, monkeypatch):
        process, asked = diffusion("dct", "blur", EVENT), list[float]()
        compute = VariancePreserving.log_alpha_bar

        def log_alpha_bar(scales, i):
            asked.extend(i.tolist())
            return compute(scales, i)

        monkeypatch.setattr(VariancePreserving, "log_alpha_bar", log_alpha_bar)
        for i in (3, 3.5):
            at = process.at(i)
            assert torch.isfinite(torch.stack([at.a.log(), at.s.log(), at.half_log_snr.float()])).all()
        assert asked == [3, 3.5]

    def test_to_moves_and_checks_nothing_again(self, monkeypatch):
        process = diffusion("dct", "blur", EVENT)
        monkeypatch.setattr(Diffusion, "_check", lambda self: pytest.fail("it was checked again"))
        monkeypatch.setattr(
            "gendiff.diffusion.check_device", lambda device: device
        )  # another device that is always here
        moved = process.to(torch.device("meta"))
        assert moved.at(3).log_a.device.type == moved.moments.mean.device.type == "meta"
        assert process.at(3).log_a.device.type == "cpu"
        assert (moved.event_shape, moved.knows_data) == (EVENT, process.knows_data)

    @pytest.mark.parametrize(("rotation", "velocity"), [("dct", "blur"), ("identity", "isotropic"), *RELATIVES[:4]])
    def test_its_first_part_is_a_process_of_the_same_scales(self, rotation, velocity):
        process = diffusion(rotation, velocity, EVENT)
        part = process.until(N // 2)
        assert (part.N, process.N) == (N // 2, N)
        i = torch.arange(N // 2 + 1)
        for name in ("log_a", "log_s", "theta"):
            assert torch.equal(getattr(part.at(i), name), getattr(process.at(i), name))
        with pytest.raises(ArgumentError, match="outside"):
            part.at(N // 2 + 1)
        for none in (0, N + 1):
            with pytest.raises(ArgumentError, match="outside"):
                process.until(none)
        assert Sampler("ancestral").plan(part)[0].i == N // 2
