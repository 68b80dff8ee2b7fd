"""What is particular to each basis; what all rotations share is in test_rotation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch
from processes import component, dense
from torch import Tensor

from gendiff import Rotation, Velocity
from gendiff.blur import symmetric_blur
from gendiff.component import summary
from gendiff.data import Data
from gendiff.dct import apply_per_axis, dct_matrix
from gendiff.errors import ConfigError
from gendiff.streams import stream

SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 28, 36, 63]
SEPARABLE = ["haar", "haar:levels=1", "haar:levels=2", "hadamard", "hartley", "dst", "dst:type=1", "random-orthogonal"]
EVENTS = [(1, 5, 7), (3, 6, 4), (2, 9), (4, 8, 8), (1, 1, 3)]


class Pictures(Data):
    """a tensor as data."""

    name = "pictures-of-a-test"
    tensor: object = None
    endless: bool = False

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape[1:])

    @property
    def length(self) -> int | None:
        return None if self.endless else len(self.tensor)

    def __getitem__(self, index: int) -> Tensor:
        return self.tensor[index].float()

    @property
    def fingerprint(self) -> str:
        return "pictures-of-a-test"


def smooth_pictures(count: int, event: tuple[int, ...], seed: int = 0) -> Tensor:
    """Anisotropic, correlated, with a mean: nothing in them is symmetric."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, *event, generator=generator, dtype=torch.float64)
    matrices = [torch.randn(n, n, generator=generator, dtype=torch.float64) / n + dct_matrix(n) for n in event[1:]]
    for matrix, n in zip(matrices, event[1:], strict=True):
        matrix *= (1 + torch.arange(n, dtype=torch.float64))[:, None] ** -0.8
    return (0.3 + 0.2 * apply_per_axis(mixed, matrices)).float()


def klt(pictures: Tensor, endless: bool = False, **parameters) -> Rotation:
    U = component(Rotation, {"name": "klt", **parameters})
    return U.with_learned(U.fit(Pictures(tensor=pictures, endless=endless)))


def bases(event: tuple[int, ...]) -> list[Rotation]:
    """Each basis of this file, ready for events of this shape."""
    return [
        *(component(Rotation, spec) for spec in SEPARABLE),
        *(klt(smooth_pictures(40, event), patch=p) for p in (0, 4)),
    ]


def sign_changes(U: Tensor) -> list[int]:
    return (U[1:].sign() != U[:-1].sign()).sum(0).tolist()


def bordered_blur(x: np.ndarray, sigma: float, borders: str) -> np.ndarray:
    """Blur of every spatial axis by direct convolution with a sampled Gaussian, on an explicitly extended signal."""
    radius = math.ceil(12 * sigma) + 1
    taps = np.arange(-radius, radius + 1)
    g = np.exp(-0.5 * (taps / sigma) ** 2)
    g /= g.sum()
    for axis in range(2, x.ndim):
        n, m = x.shape[axis], np.arange(-radius, x.shape[axis] + radius)
        line = np.moveaxis(x, axis, -1)
        if borders == "circular":
            extended = line[..., m % n]
        elif borders == "odd about half a pixel outside":  # -b -a | a b c | -c -b
            period = np.concatenate([line, -line[..., ::-1]], -1)
            extended = period[..., m % (2 * n)]
        else:  # odd about a zero one pixel outside: -a 0 | a b c | 0 -c
            zero = np.zeros_like(line[..., :1])
            period = np.concatenate([line, zero, -line[..., ::-1], zero], -1)
            extended = period[..., m % (2 * n + 2)]
        windows = np.lib.stride_tricks.sliding_window_view(extended, 2 * radius + 1, axis=-1)
        x = np.moveaxis(windows @ g, -1, axis)
    return x


def assert_orthonormal(U: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(U.T @ U, torch.eye(len(U), dtype=torch.float64), rtol=0, atol=atol)


@pytest.mark.parametrize("spec", SEPARABLE)
def test_any_size_has_an_orthonormal_matrix_and_always_the_same(spec):
    for n in SIZES:
        U = component(Rotation, spec).matrix(n)
        assert U.dtype == torch.float64
        assert_orthonormal(U)
        torch.testing.assert_close(component(Rotation, spec).matrix(n), U, rtol=0, atol=0)


@pytest.mark.parametrize("spec", ["haar", "hadamard", "hartley"])
def test_the_constant_comes_first(spec):
    for n in SIZES:
        U = component(Rotation, spec).matrix(n)
        torch.testing.assert_close(U[:, 0], torch.full((n,), n**-0.5, dtype=torch.float64), rtol=0, atol=1e-14)
        frequency = component(Rotation, spec).axis_frequency(n)
        assert frequency[0] < 1e-7
        assert (frequency[1:] > 1e-3).all()


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_blur_diffusion_in_every_basis(event):
    for U in bases(event):
        scales = Velocity.model_validate("blur").scales(U, event, 50)
        lam = scales.half_log_snr(torch.arange(1, 51))
        assert torch.isfinite(lam).all()
        assert (lam.diff(dim=0) <= 0).all()
        assert torch.broadcast_shapes(lam.shape[1:], event) == torch.Size(event)


@pytest.mark.parametrize("sigma", [0.2, 0.4, 1.0, 6.0])
@pytest.mark.parametrize("event", [*EVENTS, (3, 12, 17), (2, 40)], ids=str)
@pytest.mark.parametrize(
    ("spec", "borders"),
    [
        ("hartley", "circular"),
        ("dst", "odd about half a pixel outside"),
        ("dst:type=1", "odd about a zero one pixel outside"),
    ],
)
def test_the_declared_blur_is_a_convolution(spec, borders, event, sigma, rng):
    U = component(Rotation, spec)
    assert U.diagonalises_blur
    x = torch.randn(3, *event, generator=rng, dtype=torch.float64)
    blurred = U.apply_diagonal(x, U.log_blur_spectrum(event, sigma).exp())
    np.testing.assert_allclose(blurred.numpy(), bordered_blur(x.numpy(), sigma, borders), rtol=0, atol=1e-12)


class TestHaar:
    def test_eight_samples(self):
        """Scaled and shifted copies of one wavelet."""
        expected = [[1.0] * 8]
        for width in (8, 4, 2):
            for start in range(0, 8, width):
                wavelet = [0.0] * 8
                wavelet[start : start + width] = [1.0] * (width // 2) + [-1.0] * (width // 2)
                expected.append(wavelet)
        U = torch.tensor(expected, dtype=torch.float64).T
        U = U / U.norm(dim=0)
        torch.testing.assert_close(component(Rotation, "haar").matrix(8), U, rtol=0, atol=1e-15)

    @pytest.mark.parametrize(
        ("n", "merges"),
        [
            (5, [(0, 4, 5), (0, 2, 4), (0, 1, 2), (2, 3, 4)]),
            (6, [(0, 4, 6), (0, 2, 4), (0, 1, 2), (2, 3, 4), (4, 5, 6)]),
            (7, [(0, 4, 7), (0, 2, 4), (4, 6, 7), (0, 1, 2), (2, 3, 4), (4, 5, 6)]),
        ],
    )
    def test_unbalanced_merges(self, n, merges):
        """The detail of [start, middle) and [middle, stop) is +sqrt(q/(p(p+q))) on the one, -sqrt(p/(q(p+q))) on the other."""
        expected = torch.zeros(n, n, dtype=torch.float64)
        expected[:, 0] = n**-0.5
        for k, (start, middle, stop) in enumerate(merges, start=1):
            p, q = middle - start, stop - middle
            expected[start:middle, k] = math.sqrt(q / (p * (p + q)))
            expected[middle:stop, k] = -math.sqrt(p / (q * (p + q)))
        torch.testing.assert_close(component(Rotation, "haar").matrix(n), expected, rtol=0, atol=1e-15)

    def test_levels(self):
        """One level: sums and differences of neighbours; the last of 5 waits. More levels than there are change nothing."""
        U, h = component(Rotation, "haar:levels=1").matrix(5), 0.5**0.5
        x = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
        expected = torch.tensor([3 * h, 12 * h, 16, -h, -4 * h], dtype=torch.float64)
        torch.testing.assert_close(U.T @ x, expected, rtol=0, atol=1e-14)
        deep, full = component(Rotation, "haar:levels=9"), component(Rotation, "haar")
        torch.testing.assert_close(deep.matrix(8), full.matrix(8), rtol=0, atol=0)
        assert component(Rotation, deep.spec) == deep
        with pytest.raises(ConfigError, match="levels"):
            component(Rotation, "haar:levels=0")


class TestHadamard:
    @pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 64])
    def test_sequency(self, n):
        U = component(Rotation, "hadamard").matrix(n)
        assert sign_changes(U) == list(range(n))
        assert (U[0] > 0).all()
        torch.testing.assert_close(U.abs(), torch.full((n, n), n**-0.5, dtype=torch.float64), rtol=0, atol=1e-15)
        expected = 2 * (torch.arange(n, dtype=torch.float64) / n).sqrt()
        torch.testing.assert_close(component(Rotation, "hadamard").axis_frequency(n), expected, rtol=0, atol=1e-7)

    @pytest.mark.parametrize(("n", "m"), [(6, 3), (12, 3), (20, 5), (28, 7), (36, 9)])
    def test_other_sizes_are_walsh_over_blocks_of_cosines(self, n, m):
        """Every column is a Walsh function times a cosine, each pair once, in order of frequency."""
        U = component(Rotation, "hadamard")
        walsh = U.matrix(n // m)
        pairs = torch.einsum("ab,cd->acbd", walsh, dct_matrix(m)).reshape(n, n)
        overlap = (pairs.T @ U.matrix(n)).abs().round(decimals=9)
        assert (overlap.sum(0) == 1).all()
        assert (overlap.sum(1) == 1).all()
        assert (U.axis_frequency(n).diff() >= -1e-7).all()

    def test_odd_sizes_are_the_dct(self):
        for n in (1, 3, 5, 63):
            torch.testing.assert_close(component(Rotation, "hadamard").matrix(n), dct_matrix(n), rtol=0, atol=1e-13)


class TestHartley:
    def test_it_is_its_own_inverse(self, rng):
        U = component(Rotation, "hartley")
        for event in EVENTS:
            x = torch.randn(2, *event, generator=rng, dtype=torch.float64)
            torch.testing.assert_close(U.rotate(U.rotate(x)), x, rtol=0, atol=1e-12)

    def test_it_is_the_real_minus_the_imaginary_part_of_the_fourier_transform(self, rng):
        for n in SIZES:
            x = torch.randn(n, generator=rng, dtype=torch.float64)
            F = torch.fft.fft(x, norm="ortho")
            torch.testing.assert_close(
                component(Rotation, "hartley").matrix(n).T @ x, F.real - F.imag, rtol=0, atol=1e-12
            )

    def test_both_phases_have_one_frequency(self):
        expected = torch.tensor([0, 1, 2, 2, 1], dtype=torch.float64) * 2 * math.pi / 5
        torch.testing.assert_close(component(Rotation, "hartley").axis_frequency(5), expected, rtol=0, atol=1e-14)


class TestDST:
    @pytest.mark.parametrize("kind", [1, 2])
    @pytest.mark.parametrize("n", [2, 3, 5, 8, 28, 63])
    def test_scipy(self, kind, n, rng):
        x = torch.randn(n, generator=rng, dtype=torch.float64)
        expected = scipy.fft.dst(x.numpy(), type=kind, norm="ortho")
        U = component(Rotation, f"dst:type={kind}").matrix(n)
        np.testing.assert_allclose((U.T @ x).numpy(), expected, rtol=0, atol=1e-12)

    def test_frequencies(self):
        k = torch.arange(1, 6, dtype=torch.float64)
        for kind, n in ((1, 6), (2, 5)):
            rho = component(Rotation, f"dst:type={kind}").axis_frequency(5)
            torch.testing.assert_close(rho, math.pi * k / n, rtol=0, atol=1e-14)

    def test_the_default_is_type_2_and_there_is_no_type_3(self):
        assert component(Rotation, "dst").type == 2
        with pytest.raises(ConfigError, match="type = 3"):
            component(Rotation, "dst:type=3")


class TestRandomOrthogonal:
    def test_a_seed_is_a_basis(self):
        first, again, other = (component(Rotation, f"random-orthogonal:seed={seed}").matrix(16) for seed in (1, 1, 2))
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        assert (first - other).abs().max() > 0.1
        larger = component(Rotation, "random-orthogonal:seed=1").matrix(17)
        assert (first - larger[:16, :16]).abs().max() > 0.1

    @pytest.mark.parametrize("n", [2, 5, 12])
    def test_it_is_the_q_of_normal_numbers_whose_r_has_a_positive_diagonal(self, n):
        G = torch.randn(n, n, generator=stream(3, "random-orthogonal", n), dtype=torch.float64).numpy()
        R = component(Rotation, "random-orthogonal:seed=3").matrix(n).numpy().T @ G
        assert (np.diagonal(R) > 0).all()
        np.testing.assert_allclose(np.tril(R, -1), 0, atol=1e-12)

    def test_frequency_is_nearly_flat(self):
        squared = component(Rotation, "random-orthogonal").axis_frequency(256) ** 2
        assert squared.mean().item() == pytest.approx(2 * 255 / 256)  # the trace of Λ, whatever the basis
        assert squared.std() < 0.2  # sqrt(2 · 2/256) = 0.125 expected; the DCT has 1.4

    def test_the_distribution_is_haar(self):
        """Entries have mean 0 (without the signs those of the diagonal are negative), variance 1/n, E u^4 = 3/(n(n+2))."""
        n = 5
        U = torch.stack([component(Rotation, f"random-orthogonal:seed={seed}").matrix(n) for seed in range(2000)])
        assert U.mean(0).abs().max() < 4.5 / math.sqrt(n * 2000)
        torch.testing.assert_close(U.square().mean(0), torch.full((n, n), 1 / n).double(), rtol=0, atol=0.025)
        assert U.pow(4).mean().item() == pytest.approx(3 / (n * (n + 2)), rel=0.05)
        assert 0.45 < (torch.linalg.det(U) > 0).double().mean() < 0.55


class TestKLT:
    SHAPES = [
        ((2, 16, 16), 8),
        ((1, 63, 63), 8),
        ((3, 28, 36), 8),
        ((2, 5, 7), 0),
        ((1, 5, 7), 3),
        ((2, 45), 8),
        ((2, 9), 0),
        ((1, 4, 6), 100),
        ((2, 4, 6), 1),
    ]

    @pytest.mark.parametrize(("event", "p"), SHAPES, ids=str)
    def test_it_decorrelates_the_tiles_of_its_data(self, event, p):
        """In every shape of tile the coefficients have a diagonal covariance, and their variances descend."""
        pictures = smooth_pictures(60, event)
        U = klt(pictures, patch=p)
        x_bar = U.rotate(pictures.double())
        found = 0
        for tile, tiles in tiles_of(x_bar, p).items():
            C = torch.cov(tiles.T, correction=0).reshape(len(tiles.T), -1)
            variances = C.diagonal()
            scale = variances.max()
            assert (C - torch.diag(variances)).abs().max() <= 5e-8 * scale
            assert (variances.diff() <= 1e-7 * scale).all()
            assert_orthonormal(U.learned["basis_" + "x".join(map(str, tile))])
            found += 1
        assert found == len(U.learned) - 1

    @pytest.mark.parametrize(("event", "p"), [s for s in SHAPES if s[0] != (1, 63, 63)], ids=str)
    def test_it_is_orthogonal(self, event, p, rng):
        U = klt(smooth_pictures(20, event), patch=p)
        x, y = torch.randn(2, 3, *event, generator=rng, dtype=torch.float64)
        torch.testing.assert_close(U.unrotate(U.rotate(x)), x, rtol=0, atol=1e-12)
        inner = lambda a, b: (a * b).flatten(1).sum(1)  # noqa: E731
        torch.testing.assert_close(inner(U.rotate(x), U.rotate(y)), inner(x, y), rtol=0, atol=1e-10)
        if math.prod(event) < 100:
            matrix = dense(U, event)
            torch.testing.assert_close(U.rotate(x).flatten(1), x.flatten(1) @ matrix, rtol=0, atol=1e-12)

    def test_numpy_agrees(self):
        """Written anew with NumPy: the 2x3 tiles of 4x4 pixels, pooled over channels, positions and events."""
        pictures = smooth_pictures(300, (2, 8, 12))
        blocks = pictures.double().numpy().reshape(300, 2, 2, 4, 3, 4).transpose(0, 1, 2, 4, 3, 5).reshape(-1, 16)
        values, vectors = np.linalg.eigh(np.cov(blocks.T))
        U = klt(pictures, patch=4).learned["basis_4x4"].numpy()
        assert np.diff(values).min() > 1e-4 * values.max()  # so that each vector is defined
        np.testing.assert_allclose(np.abs(np.sum(U * vectors[:, ::-1], axis=0)), 1, rtol=0, atol=1e-7)
        first = U[np.argmax(np.abs(U) > 1e-8, axis=0), np.arange(16)]
        assert (first > 0).all()

    def test_a_coefficient_stays_in_the_place_of_its_tile(self):
        """Of 28x36 pixels in tiles of 8 the last are 4 high and 4 wide; a pixel moves only the coefficients of its tile."""
        U = klt(smooth_pictures(30, (1, 28, 36)), patch=8)
        assert set(U.learned) == {"sizes", "basis_8x8", "basis_8x4", "basis_4x8", "basis_4x4"}
        x = torch.zeros(1, 2, 28, 36, dtype=torch.float64)
        x[0, 1, 26, 13] = 1
        x_bar = U.rotate(x)
        assert (x_bar[0, 1, 24:, 8:16].flatten() == U.learned["basis_4x8"][2 * 8 + 5]).all()
        x_bar[0, 1, 24:, 8:16] = 0
        assert (x_bar == 0).all()

    def test_pixels_that_never_vary(self):
        """The corners of the digits are always empty: still a whole basis, smooth and in order where nothing varies."""
        data = component(Data, "digits")
        pictures = torch.stack([data[i] for i in range(data.length)]).double().flatten(1)
        assert (pictures.var(0) == 0).sum() >= 3
        U = component(Rotation, "klt")
        basis = U.fit(data)["basis_8x8"]
        assert_orthonormal(basis)
        variances = torch.cov((pictures @ basis).T, correction=0).diagonal()
        assert (variances.diff() <= 1e-8 * variances.sum()).all()
        assert (variances[-3:] < 1e-10).all()

    def test_data_that_never_vary_give_the_dct(self):
        """Nothing to learn: the DCT in order of frequency, up to sign."""
        U = klt(torch.full((10, 1, 4, 6), 0.3), patch=0).learned["basis_4x6"]
        pairs = torch.kron(dct_matrix(4), dct_matrix(6))
        overlap = (pairs.T @ U).abs().round(decimals=9)
        assert (overlap.sum(0) == 1).all()
        rho = component(Rotation, "dct").frequencies((1, 4, 6)).flatten()
        assert (rho[overlap.argmax(0)].diff() >= -1e-9).all()

    def test_fewer_events_than_samples(self):
        """5 events of 36 pixels: at most 4 directions vary; the rest is fixed by the smooth covariance alone."""
        pictures = smooth_pictures(5, (1, 6, 6))
        U = klt(pictures, patch=0)
        assert_orthonormal(U.learned["basis_6x6"])
        shuffled = klt(pictures.flip(0), patch=0)  # other rounding errors
        torch.testing.assert_close(U.learned["basis_6x6"], shuffled.learned["basis_6x6"], rtol=0, atol=1e-5)

    def test_it_is_a_function_of_data_and_parameters(self):
        pictures = smooth_pictures(50, (2, 9, 11))
        first, again = klt(pictures, patch=4).learned, klt(pictures, patch=4).learned
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert first["sizes"].tolist() == [9, 11]
        assert all(basis.dtype == torch.float64 for name, basis in first.items() if name != "sizes")

    def test_which_events_it_looks_at(self):
        """The first of endless data, evenly spread ones of the rest."""
        pictures = smooth_pictures(50, (1, 6, 6))
        basis = lambda U: U.learned["basis_6x6"]  # noqa: E731
        assert torch.equal(basis(klt(pictures, endless=True, patch=0, tiles=20)), basis(klt(pictures[:20], patch=0)))
        assert torch.equal(
            basis(klt(pictures, patch=0, tiles=20)), basis(klt(pictures[[5 * i // 2 for i in range(20)]], patch=0))
        )
        assert torch.equal(basis(klt(pictures, patch=0, tiles=50)), basis(klt(pictures, patch=0)))
        pairs, basis = smooth_pictures(50, (1, 6, 12)), lambda U: U.learned["basis_6x6"]  # two tiles in each
        first = lambda tiles: basis(klt(pairs, endless=True, patch=6, tiles=tiles))  # noqa: E731
        assert torch.equal(first(5), first(6))  # three events hold five tiles
        assert not torch.equal(first(5), first(4))
        assert not torch.equal(first(7), first(6))
        colour = smooth_pictures(50, (2, 6, 12))  # four tiles in each
        first = lambda tiles: basis(klt(colour, endless=True, patch=6, tiles=tiles))  # noqa: E731
        assert torch.equal(first(4), first(1))
        assert not torch.equal(first(5), first(4))
        assert component(Rotation, "klt").tiles == 20_000

    def test_chunks_do_not_matter(self, monkeypatch):
        from gendiff_plugins.rotations import klt as module

        pictures = smooth_pictures(33, (2, 9, 11))
        whole = klt(pictures, patch=4).learned
        for chunk in (1000, 1):
            monkeypatch.setattr(module, "CHUNK", chunk)
            chunked = klt(pictures, patch=4).learned
            for name in whole:
                torch.testing.assert_close(chunked[name], whole[name], rtol=0, atol=1e-5)
        never = Pictures(tensor=torch.full((33, 2, 9, 11), 0.1))
        x = torch.stack([never[i] for i in range(33)]).double().flatten(1)
        added = module.Covariance.of(x[:7]) + module.Covariance.of(x[7:])
        assert (added.matrix == 0).all()

    def test_blur_and_frequency_are_the_dense_quadratic_forms(self):
        event = (2, 5, 7)
        rotation = klt(smooth_pictures(30, event), patch=3)
        assert not rotation.diagonalises_blur
        U = dense(rotation, event)
        W = symmetric_blur(torch.eye(len(U), dtype=torch.float64).reshape(-1, *event), 0.8).flatten(1)
        declared = rotation.log_blur_spectrum(event, 0.8).exp().expand(event).flatten()
        torch.testing.assert_close(declared, (U * (W @ U)).sum(0), rtol=0, atol=1e-12)
        torch.testing.assert_close(
            rotation.frequencies(event), Rotation.frequencies(rotation, event)[:1], rtol=0, atol=1e-12
        )

    def test_refusals(self, rng):
        with pytest.raises(ConfigError, match="'klt' is fitted to data, and has seen none"):
            component(Rotation, "klt").rotate(torch.randn(1, 1, 8, 8, generator=rng))
        with pytest.raises(ConfigError, match="tiles of 65x65") as refused:
            klt(torch.zeros(1, 1, 70, 66), patch=65)
        assert refused.value.subject == "rotation.patch"
        assert "between 1 and 64" in refused.value.fix
        with pytest.raises(ConfigError, match="tiles of 5000"):
            klt(torch.zeros(1, 1, 5000), patch=0)
        with pytest.raises(ConfigError, match="fitted to events of 8x8, these are 8x9"):
            klt(smooth_pictures(5, (1, 8, 8))).rotate(torch.randn(1, 1, 8, 9, generator=rng))
        with pytest.raises(ConfigError, match="patch"):
            component(Rotation, "klt:patch=-1")

    def test_precision_gradient_and_cache(self, rng, monkeypatch):
        """Float32 outside autocast; differentiable, also where it first ran in inference mode; a basis is cast once."""
        from gendiff_plugins.rotations import klt as module

        U = klt(smooth_pictures(30, (2, 9, 11)), patch=4)
        x = torch.randn(3, 2, 9, 11, generator=rng, dtype=torch.float64)
        seen = []
        cut = module.cut

        def recorded(x, tile):
            seen.append(torch.get_float32_matmul_precision())
            return cut(x, tile)

        monkeypatch.setattr(module, "cut", recorded)
        torch.set_float32_matmul_precision("medium")
        try:
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                low, single = U.rotate(x.bfloat16()), U.rotate(x.float())
        finally:
            torch.set_float32_matmul_precision("highest")
        assert set(seen) == {"highest"}
        assert low.dtype == single.dtype == torch.float32
        torch.testing.assert_close(single.double(), U.rotate(x), rtol=0, atol=1e-5)
        misses = module._cast_basis.cache_info().misses
        leaf = x.float().requires_grad_()
        U.rotate(leaf).square().sum().backward()
        torch.testing.assert_close(leaf.grad, 2 * leaf.detach(), rtol=0, atol=1e-5)
        assert module._cast_basis.cache_info().misses == misses
        torch.autograd.gradcheck(U.rotate, x[:1, :, :, :].clone().requires_grad_())

    def test_another_fit_is_another_basis(self):
        """The cache tells two fits of the same parameters apart, also where one was made from the other."""
        first = klt(smooth_pictures(30, (1, 6, 6)), patch=0)
        x = smooth_pictures(2, (1, 6, 6), seed=5).double()
        before = first.rotate(x)
        second = first.with_learned(first.fit(Pictures(tensor=smooth_pictures(30, (1, 6, 6), seed=9))))
        assert (second.rotate(x) - before).abs().max() > 1e-3
        torch.testing.assert_close(first.rotate(x), before, rtol=0, atol=0)
        torch.testing.assert_close(
            second.rotate(x).flatten(1), x.flatten(1) @ second.learned["basis_6x6"], rtol=0, atol=1e-12
        )


def tiles_of(x: Tensor, p: int) -> dict[tuple[int, ...], Tensor]:
    """``(count, d)`` rows of each shape of tile, cut out one by one."""
    found: dict[tuple[int, ...], list[Tensor]] = {}
    edges = [[(start, min(start + (p or n), n)) for start in range(0, n, p or n)] for n in x.shape[2:]]
    for region in np.ndindex(*map(len, edges)):
        part = x
        for axis, index in enumerate(region):
            start, stop = edges[axis][index]
            part = part.narrow(2 + axis, start, stop - start)
        found.setdefault(tuple(part.shape[2:]), []).append(part.flatten(2).flatten(0, 1))
    return {tile: torch.cat(parts) for tile, parts in found.items()}


def test_announcements_are_the_docstrings():
    from gendiff_plugins.rotations import gendiff_components

    from gendiff.plugin.registry import default_registry

    for lazy in gendiff_components():
        cls = default_registry().component_class(lazy.kind, lazy.name)
        assert (lazy.name, lazy.target, lazy.summary) == (cls.name, f"{cls.__module__}:{cls.__name__}", summary(cls))


def test_pixels_have_the_frequencies_of_the_general_rule():
    U = Rotation.model_validate("identity")
    torch.testing.assert_close(
        torch.broadcast_to(U.frequencies((2, 5, 7)), (2, 5, 7)), Rotation.frequencies(U, (2, 5, 7)), rtol=0, atol=1e-12
    )


def test_which_bases_diagonalise_a_blur():
    exact = {"dct", "dst", "hartley"}
    for name in (*SEPARABLE, "dct", "identity", "klt", "blur-eigen"):
        assert component(Rotation, name).diagonalises_blur == (name.partition(":")[0] in exact), name


@pytest.mark.parametrize("n", [12, 20, 24, 48])
def test_square_waves_of_one_frequency_stay_in_the_order_of_the_product(n):
    """With NumPy: Walsh ⊗ DCT, in order of u^T Λ u rounded to 1e-9, equal ones as they come."""
    U, m = np.ones((1, 1)), n
    while m % 2 == 0:
        U, m = np.kron(U, [[1, 1], [1, -1]]), m // 2
    U = np.kron(U / np.sqrt(len(U)), scipy.fft.dct(np.eye(m), norm="ortho", axis=0).T)
    squared = (np.diff(U, axis=0) ** 2).sum(0)
    order = np.argsort(squared.round(9), kind="stable")
    np.testing.assert_allclose(component(Rotation, "hadamard").matrix(n).numpy(), U[:, order], atol=1e-12)


@pytest.mark.parametrize("name", [*SEPARABLE, "dct", "blur-eigen", "klt"])
def test_what_a_wide_blur_destroys_has_a_finite_logarithm(name):
    pictures = smooth_pictures(40, (1, 9, 12))
    U = klt(pictures, patch=0) if name == "klt" else component(Rotation, name)
    log_D = U.log_blur_spectrum((1, 9, 12), 30.0)
    assert (log_D <= 0).all()
    assert (log_D >= -1e4).all()
    frequencies = U.frequencies((1, 9, 12))
    assert (frequencies >= 0).all()
    assert float(frequencies.max()) <= math.pi * math.sqrt(2) + 1e-9
