"""Rotations are orthogonal, and the blur they declare is the blur they apply."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import scipy.fft
import torch
from gendiff_plugins.rotations.blur_eigen import zero_padded_blur
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import component, dense, fitted, rotations

from gendiff import Diffusion, Rotation, SeparableRotation, Velocity
from gendiff.blur import LOG_FLOOR, laplacian_matrix, log_attenuation, negative_laplacian, symmetric_blur_matrix
from gendiff.dct import apply_per_axis, dct, dct_matrix
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.frequency import dct_frequency, frequency_bands, mirrored
from gendiff.rotation import Composition
from gendiff.run.config import Config

EVENTS = [(1, 5, 7), (3, 6, 4), (2, 9), (4, 3, 8)]
every_rotation = pytest.mark.parametrize("spec", [*rotations(), "blur-eigen:sigma=1.5"])
every_event = pytest.mark.parametrize("event", EVENTS, ids=str)


def symmetric_kernel_blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Blur of the last two axes by direct convolution with a sampled Gaussian under half-sample symmetric borders."""
    radius = 40
    taps = np.arange(-radius, radius + 1)
    g = np.exp(-0.5 * (taps / sigma) ** 2)
    g /= g.sum()
    for axis in (-2, -1):
        widths = [(0, 0)] * x.ndim
        widths[axis] = (radius, radius)
        padded = np.pad(x, widths, mode="symmetric")
        x = np.apply_along_axis(lambda line: np.convolve(line, g, mode="valid"), axis, padded)
    return x


@every_rotation
@every_event
class TestOrthogonality:
    def test_round_trip_and_inner_products(self, spec, event, rng):
        U = fitted(spec, event)
        x, y = torch.randn(2, 11, *event, generator=rng, dtype=torch.float64)
        torch.testing.assert_close(U.unrotate(U.rotate(x)), x, rtol=0, atol=1e-10)
        torch.testing.assert_close(U.rotate(U.unrotate(x)), x, rtol=0, atol=1e-10)
        inner = lambda a, b: (a * b).flatten(1).sum(1)  # noqa: E731
        torch.testing.assert_close(inner(U.rotate(x), U.rotate(y)), inner(x, y), rtol=0, atol=1e-10)

    def test_noise_stays_iid(self, spec, event, rng):
        """Cov(U^T ε) = U^T U = I: exact, without drawing any noise."""
        U = dense(fitted(spec, event), event)
        torch.testing.assert_close(U.T @ U, torch.eye(len(U), dtype=torch.float64), rtol=0, atol=1e-10)

    def test_apply_diagonal_is_the_dense_matrix(self, spec, event, rng):
        rotation = fitted(spec, event)
        U = dense(rotation, event)
        diagonal = torch.rand(event, generator=rng, dtype=torch.float64)
        x = torch.randn(5, *event, generator=rng, dtype=torch.float64)
        expected = x.flatten(1) @ (U @ torch.diag(diagonal.flatten()) @ U.T).T
        torch.testing.assert_close(rotation.apply_diagonal(x, diagonal).flatten(1), expected, rtol=0, atol=1e-10)

    def test_float32_outside_autocast(self, spec, event, rng):
        U = fitted(spec, event)
        x = torch.randn(5, *event, generator=rng, dtype=torch.float64)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = U.rotate(x.bfloat16())
            single = U.rotate(x.float())
        assert low.dtype == single.dtype == torch.float32
        torch.testing.assert_close(single.double(), U.rotate(x), rtol=0, atol=1e-5)

    def test_matmul_precision_is_highest_inside_and_left_as_it_was(self, spec, event, rng, monkeypatch):
        from gendiff import rotation as module

        seen = []

        def recorded(x, matrices):
            seen.append(torch.get_float32_matmul_precision())
            return apply_per_axis(x, matrices)

        monkeypatch.setattr(module, "apply_per_axis", recorded)
        torch.set_float32_matmul_precision("medium")
        try:
            fitted(spec, event).rotate(torch.randn(2, *event, generator=rng))
            assert set(seen) <= {"highest"}
            rotation = fitted(spec, event)
            space = rotation.space if isinstance(rotation, Composition) else rotation
            assert bool(seen) == isinstance(space, SeparableRotation)
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision("highest")

    def test_spectra_have_their_range_and_shape(self, spec, event):
        U = fitted(spec, event)
        for sigma in (0.1, 0.2, 0.4, 3.0, 30.0):
            log_D = U.log_blur_spectrum(event, sigma)
            assert torch.broadcast_shapes(log_D.shape, event) == torch.Size(event)
            assert log_D.dtype == torch.float64
            assert (log_D <= 0).all()
            assert (log_D >= LOG_FLOOR).all()
        rho = U.frequencies(event)
        assert torch.broadcast_shapes(rho.shape, event) == torch.Size(event)
        assert (rho >= 0).all()
        assert (rho <= math.pi * math.sqrt(len(event) - 1) + 1e-9).all()


class TestBlur:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize("sigma", [0.3, 0.4, 1.0, 4.0])
    def test_dct_blur_is_a_separable_convolution(self, channels, sigma, rng):
        U = component(Rotation, "dct")
        x = torch.randn(3, channels, 12, 17, generator=rng, dtype=torch.float64)
        blurred = U.apply_diagonal(x, U.log_blur_spectrum((channels, 12, 17), sigma).exp())
        np.testing.assert_allclose(blurred.numpy(), symmetric_kernel_blur(x.numpy(), sigma), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_blur_eigen_is_a_zero_padded_convolution(self, channels, rng):
        U = component(Rotation, "blur-eigen")
        x = torch.randn(3, channels, 9, 13, generator=rng, dtype=torch.float64)
        blurred = U.apply_diagonal(x, U.log_blur_spectrum((channels, 9, 13), 0.4).exp())
        expected = x.numpy()
        for axis, n in ((-2, 9), (-1, 13)):
            taps = np.arange(-(n - 1), n)
            g = np.exp(-0.5 * (taps / 0.4) ** 2)
            expected = np.apply_along_axis(
                lambda line, g=g: np.convolve(line, g / g.sum(), mode="same"), axis, _pad(expected, axis, n)
            )
            expected = np.take(expected, np.arange(n - 1, 2 * n - 1), axis)
        np.testing.assert_allclose(blurred.numpy(), expected, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("channels", [2, 3])
    def test_released_tiling_deals_the_attenuations_of_interleaved_coefficients(self, channels):
        """Of rank p by descending D, channel c gets ``D[(C p + c) mod n]``."""
        plain = component(Rotation, "blur-eigen").log_blur_spectrum((channels, 3, 5), 0.4)[0].numpy()
        tiled = component(Rotation, "blur-eigen:released_tiling=true").log_blur_spectrum((channels, 3, 5), 0.4).numpy()
        order = np.argsort(-plain.ravel(), kind="stable")
        for c in range(channels):
            for p, place in enumerate(order):
                assert tiled[c].ravel()[place] == plain.ravel()[order[(channels * p + c) % 15]]

    def test_released_tiling_is_not_a_blur(self, rng):
        """The five-line check: the released colour path blurs each channel with another channel's attenuations."""
        tiled, plain = component(Rotation, "blur-eigen:released_tiling=true"), component(Rotation, "blur-eigen")
        x = torch.randn(1, 3, 16, 16, generator=rng, dtype=torch.float64)
        blurred = plain.apply_diagonal(x, plain.log_blur_spectrum((3, 16, 16), 0.4).exp())
        released = tiled.apply_diagonal(x, tiled.log_blur_spectrum((3, 16, 16), 0.4).exp())
        effect, error = (blurred - x).norm(), (released - blurred).norm()
        assert error > 0.3 * effect
        grey = (1, 16, 16)
        torch.testing.assert_close(
            tiled.log_blur_spectrum(grey, 0.4), plain.log_blur_spectrum(grey, 0.4), rtol=0, atol=0
        )

    @given(sigma=st.floats(0.05, 60), n=st.integers(1, 40))
    @settings(max_examples=60, deadline=None)
    def test_attenuation_is_positive_and_falls(self, sigma, n):
        log_D = log_attenuation(math.pi * torch.arange(n, dtype=torch.float64) / n, sigma)
        assert log_D[0] == 0
        assert (log_D.diff() <= 1e-12).all()

    def test_attenuation_is_the_kernel_s_cosine_sum(self):
        """Poisson: the sum over aliases equals the Fourier sum over taps."""
        omega = torch.linspace(0, math.pi, 23, dtype=torch.float64)
        for sigma in (0.3, 0.4, 1.3):
            j = torch.arange(-60, 61, dtype=torch.float64)
            g = torch.exp(-0.5 * (j / sigma) ** 2)
            expected = (g * torch.cos(omega[:, None] * j)).sum(1) / g.sum()
            torch.testing.assert_close(log_attenuation(omega, sigma).exp(), expected, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("sigma", [0.05, 0.2, 0.45, 1.0, 1.5, 3.0])
    def test_attenuation_has_the_period_of_the_samples(self, sigma):
        omega = torch.tensor([0.0, 0.1, 1.0, 3.0], dtype=torch.float64)
        one, other = (log_attenuation(2 * math.pi * shift - omega, sigma) for shift in (0, 1))
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-14)

    def test_no_blur_is_one(self):
        assert (log_attenuation(torch.linspace(0, 3, 7, dtype=torch.float64), 0.0) == 0).all()

    def test_identity_has_no_blur(self):
        assert (component(Rotation, "identity").log_blur_spectrum((3, 4, 6), 5.0) == 0).all()


class TestGenericBasis:
    @pytest.mark.parametrize("sigma", [0.1, 0.4, 2.0])
    @pytest.mark.parametrize("event", EVENTS, ids=str)
    def test_the_generic_definitions_give_the_dct_its_own_numbers(self, sigma, event):
        class Generic(SeparableRotation):
            """a DCT that does not know its spectrum."""

            name = "generic"

            def matrix(self, n):
                return dct_matrix(n)

        known, generic = component(Rotation, "dct"), Generic()
        generic_D = generic.log_blur_spectrum(event, sigma)
        assert (generic_D <= 0).all()
        torch.testing.assert_close(generic_D.exp(), known.log_blur_spectrum(event, sigma).exp(), rtol=0, atol=1e-12)
        if sigma >= 0.15:
            scales = component(Velocity, {"name": "fine-to-coarse", "sigma": sigma}).scales(generic, event, 20)
            assert torch.isfinite(scales.half_log_snr(torch.arange(1, 21))).all()


class TestFrequency:
    @pytest.mark.parametrize("event", EVENTS, ids=str)
    def test_any_basis_measures_its_own_energy(self, event):
        """The general definitions agree with dense quadratic forms."""

        class Shuffled(Rotation):
            """a permutation of pixels: orthogonal, and no basis of blur."""

            name = "shuffled"

            def rotate(self, x):
                return x.flatten(1).roll(3, 1).reshape(x.shape)

            def unrotate(self, x_bar):
                return x_bar.flatten(1).roll(-3, 1).reshape(x_bar.shape)

        U = dense(Shuffled(), event)
        per_axis = [symmetric_blur_matrix(n, 0.8) for n in event[1:]]
        W = torch.eye(event[0], dtype=torch.float64)
        for matrix in per_axis:
            W = torch.kron(W, matrix)
        expected = torch.diagonal(U.T @ W @ U).reshape(event)
        torch.testing.assert_close(Shuffled().log_blur_spectrum(event, 0.8).exp(), expected, rtol=0, atol=1e-10)
        eye = torch.eye(len(U), dtype=torch.float64).reshape(-1, *event)
        Lambda = negative_laplacian(eye).reshape(len(U), -1)
        expected = torch.diagonal(U.T @ Lambda @ U).sqrt().reshape(event)
        torch.testing.assert_close(Shuffled().frequencies(event), expected, rtol=0, atol=1e-10)

    def test_a_constant_that_is_off_by_rounding_has_no_frequency(self):
        class Rounded(Rotation):
            """its only component is constant but for one last bit: u^T Λ u = -1e-16."""

            name = "rounded"

            def rotate(self, x):
                return x

            def unrotate(self, x_bar):
                return torch.tensor([1 - 2**-53, 1, 1], dtype=torch.float64).expand(len(x_bar), 1, 3)

        assert Rounded().frequencies((1, 3)).tolist() == [[0, 0, 0]]

    def test_no_blur_amplifies_a_component_that_is_too_long_by_rounding(self):
        class Long(Rotation):
            """its only component is constant, and longer than 1 by a few last bits."""

            name = "long"

            def rotate(self, x):
                return x

            def unrotate(self, x_bar):
                return torch.full((len(x_bar), 1, 3), (1 + 1e-15) / math.sqrt(3), dtype=torch.float64)

        assert Long().log_blur_spectrum((1, 3), 0.4).tolist() == [[0, 0, 0]]

    def test_laplacian_rows_vanish_on_constants(self):
        torch.testing.assert_close(laplacian_matrix(6).sum(1), torch.zeros(6, dtype=torch.float64), rtol=0, atol=0)
        assert laplacian_matrix(6).diagonal().tolist() == [1, 2, 2, 2, 2, 1]

    def test_the_order_of_frequencies_is_that_of_their_ninth_decimal_then_of_their_places(self):
        rho = torch.tensor([2.0, 2.0 - 1e-12, 1.0, 2.0 - 1e-8], dtype=torch.float64)
        assert mirrored(rho[None]).tolist() == [[3, 2, 1, 0]]  # in order: 2, 3, 0, 1

    def test_heat_damps_by_the_square_of_the_frequency(self):
        mu = component(Rotation, "dct").heat_spectrum((3, 4, 6))
        assert mu[0, 2, 5].item() == pytest.approx(math.pi**2 * ((2 / 4) ** 2 + (5 / 6) ** 2))
        with pytest.raises(ConfigError, match="no frequencies that heat could damp"):
            component(Rotation, "identity").heat_spectrum((3, 4, 6))

    def test_the_yardstick_is_the_orthonormal_dct_of_each_channel(self, rng):
        x = torch.randn(3, 2, 4, 7, generator=rng)
        wanted = scipy.fft.dctn(x.double().numpy(), norm="ortho", axes=(2, 3))
        found = dct(x.double())
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)

    def test_dct_frequency_is_radial(self):
        rho = component(Rotation, "dct").frequencies((3, 4, 6))
        assert rho.shape == (1, 4, 6)
        assert rho[0, 0, 0] == 0
        assert rho[0, 3, 5].item() == pytest.approx(math.pi * math.hypot(3 / 4, 5 / 6))


class TestEigenbasis:
    @pytest.mark.parametrize("sigma", [0.05, 3.0, 100.0])
    def test_a_sigma_that_leaves_the_basis_open_is_refused(self, sigma, rng):
        with pytest.raises(ConfigError, match="no well-defined basis at sigma"):
            component(Rotation, f"blur-eigen:sigma={sigma}").rotate(torch.randn(1, 1, 32, 32, generator=rng))

    def test_what_a_wide_blur_leaves_is_never_below_a_millionth_of_a_millionth(self):
        log_D = component(Rotation, "blur-eigen:sigma=2").log_blur_spectrum((1, 12, 12), 2.0)
        assert log_D.min().item() == pytest.approx(-12 * math.log(10), rel=1e-15)
        assert log_D.max() > -2

    def test_order_and_signs_are_fixed(self):
        U = component(Rotation, "blur-eigen").matrix(9)
        log_D = component(Rotation, "blur-eigen").axis_log_blur(9, 0.4)
        assert (log_D.diff() < 0).all()
        for column in U.T:
            assert column[column.abs() > 1e-8][0] > 0


def test_a_matrix_that_is_not_orthogonal_is_refused(rng):
    class Skewed(SeparableRotation):
        """not a rotation."""

        name = "skewed"

        def matrix(self, n):
            return torch.eye(n, dtype=torch.float64) + 0.1 * torch.ones(n, n, dtype=torch.float64)

    with pytest.raises(PluginError, match="'skewed' is not orthogonal for an axis of 5"):
        Skewed().rotate(torch.randn(2, 1, 5, 7, generator=rng))


def test_what_was_first_used_while_sampling_has_a_gradient_later():
    U, x = component(Rotation, "random-orthogonal:seed=77"), torch.ones(1, 1, 3, 4)
    with torch.inference_mode():
        U.rotate(x)
    x.requires_grad_()
    U.rotate(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())


@pytest.mark.parametrize(("off", "refused"), [(1e-7, True), (2e-9, False)])
def test_one_number_that_is_off_is_enough(off, refused):
    class Off(SeparableRotation):
        """the identity but for its first number."""

        name = "off"

        def matrix(self, n):
            return torch.diag(torch.tensor([1 + off] + [1] * (n - 1), dtype=torch.float64))

    with pytest.raises(PluginError, match=r"axis of 4: .* = 2\.0e-07") if refused else nullcontext():
        Off().rotate(torch.zeros(1, 1, 4))


def test_a_matrix_of_the_wrong_shape_is_refused(rng):
    class Short(SeparableRotation):
        """too short."""

        name = "short"

        def matrix(self, n):
            return torch.eye(n - 1, dtype=torch.float64)

    with pytest.raises(PluginError, match=r"shape \(4, 4\) for an axis of 5"):
        Short().rotate(torch.randn(2, 1, 5, 7, generator=rng))


def _pad(x: np.ndarray, axis: int, n: int) -> np.ndarray:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (n - 1, n - 1)
    return np.pad(x, widths)


def test_a_diagonal_is_a_tensor():
    with pytest.raises(ArgumentError, match="diagonal"):
        component(Rotation, "dct").apply_diagonal(torch.ones(2, 1, 3, 4), 0.5)


def test_a_frequency_is_0_where_rounding_makes_its_square_negative():
    class Basis(SeparableRotation):
        """the constant vector, and a random complement."""

        name = "basis"

        def matrix(self, n):
            columns = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            columns[:, 0] = 1
            return torch.linalg.qr(columns)[0]

    U = Basis().matrix(6)
    assert float((U * (laplacian_matrix(6) @ U)).sum(0).min()) < 0
    assert Basis().axis_frequency(6)[0] == 0


def test_the_bands_of_an_event():
    bands = frequency_bands((2, 3, 5), 4)
    rho = (dct_frequency(3)[:, None] ** 2 + dct_frequency(5) ** 2).sqrt()
    assert bands.shape == (3, 5)
    assert torch.equal(bands, (4 * rho / rho.max()).floor().clamp_max(3).long())
    assert frequency_bands((1, 1, 1), 4).tolist() == [[0]]


class Unchanged(Rotation):
    """x̄ = x, as it comes."""

    name = "unchanged"

    def rotate(self, x):
        return x

    unrotate = rotate


class Flat(Unchanged):
    """It says its own blur, of whatever it is asked for."""

    name = "flat"

    def log_blur_spectrum(self, event_shape, sigma):
        return torch.zeros(1, dtype=torch.float64)


def test_a_diagonal_is_applied_in_full_precision_whatever_the_rotation():
    x, diagonal = torch.ones(2, 1, 3, 4, dtype=torch.bfloat16), torch.full((1, 3, 4), 1 / 3, dtype=torch.float64)
    assert torch.equal(Unchanged().apply_diagonal(x, diagonal), torch.full((2, 1, 3, 4), 1 / 3))


@pytest.mark.parametrize(("event", "sigma"), [((3,), 1.0), ((1, 3, 4), -1.0), ((1, 3, 4), math.nan), ((1, 0, 4), 1.0)])
def test_the_blur_of_no_event_and_of_no_width(event, sigma):
    for U in (Unchanged(), Flat(), component(Rotation, "dct")):
        with pytest.raises(ArgumentError):
            U.log_blur_spectrum(event, sigma)


def test_no_blur_is_no_blur():
    assert torch.equal(zero_padded_blur(5, 0.0), torch.eye(5, dtype=torch.float64))


class TestRefusal:
    """A rotation that exists in some sizes only says so once, and is asked for nothing else at the others."""

    class Halves(SeparableRotation):
        """a basis for even sides; the matrix of an odd one is an error of the author's."""

        name = "halves"

        def refusal(self, event_shape):
            return "a side is odd" if any(n % 2 for n in event_shape[1:]) else ""

        def matrix(self, n):
            butterfly = torch.tensor([[1, 1], [1, -1]], dtype=torch.float64) / 2**0.5
            return torch.block_diag(*[butterfly] * (n // 2))

        def fit(self, data):
            self.matrix(data.event_shape[-1]) @ torch.ones(data.event_shape[-1], dtype=torch.float64)
            return {}

    def test_every_size_is_taken_unless_it_is_refused(self):
        assert component(Rotation, "dct").refusal((1, 7, 7)) == ""
        self.Halves().check((1, 6, 8))

    @pytest.mark.parametrize("velocity", ["isotropic", "blur"])
    @pytest.mark.parametrize(
        "ask",
        [
            lambda U, velocity: U.require((1, 6, 7)),
            lambda U, velocity: U.check((1, 6, 7)),
            lambda U, velocity: Velocity(velocity).scales(U, (1, 6, 7), 10),
            lambda U, velocity: Diffusion.of(U, velocity, (1, 6, 7), 10),
            lambda U, velocity: Config(rotation=U, velocity=velocity, data="gaussian-field:size=6x7", N=10).fitted(),
        ],
        ids=["require", "check", "scales", "of", "fitted"],
    )
    def test_whoever_uses_it_hears_the_reason(self, ask, velocity):
        with pytest.raises(
            ConfigError, match="rotation 'halves' does not take events of 1x6x7: a side is odd"
        ) as caught:
            ask(self.Halves(), velocity)
        assert caught.value.subject == "rotation.name"
        assert 'rotation="dct"' in caught.value.fix
