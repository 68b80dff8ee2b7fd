"""Fréchet distance, KID, precision and recall, intervals, and the statistics file: against closed forms and SciPy."""

from __future__ import annotations

import io
import math
import zipfile

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gendiff.errors import ConfigError, DataError
from gendiff.evaluation.distances import (
    Interval,
    PrecisionRecall,
    effective_events,
    frechet,
    frechet_of_parts,
    interval,
    kid,
    kid_of_parts,
    precision_recall,
    precision_recall_of_parts,
    share,
    subsets,
)
from gendiff.evaluation.statistics import Accumulator, Statistics


def normal(n: int, d: int, rng: torch.Generator, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    """Correlated rows of very different sizes."""
    spread = torch.logspace(0, -3, d, dtype=torch.float64)
    mixing = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(7), dtype=torch.float64)).Q
    return scale * (torch.randn(n, d, generator=rng, dtype=torch.float64) * spread) @ mixing + shift


def gaussian(mean: list[float], covariance: torch.Tensor, n: int | None = None) -> Statistics:
    return Statistics(n, torch.tensor(mean, dtype=torch.float64), covariance.double())


def by_scipy(a: Statistics, b: Statistics) -> float:
    """The formula as it stands."""
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    shift = (a.mean - b.mean).square().sum()
    return float(shift + a.covariance.trace() + b.covariance.trace()) - 2 * float(np.trace(root).real)


class TestFrechet:
    def test_of_diagonal_covariances(self):
        a, b = torch.tensor([4.0, 1.0, 9.0]), torch.tensor([1.0, 0.25, 16.0])
        found = frechet(gaussian([1, 2, 3], a.diag()), gaussian([1, 0, 4], b.diag()))
        assert found == pytest.approx(4 + 1 + (1 + 0.25 + 1), rel=1e-13)

    def test_of_one_dimension(self):
        assert frechet(gaussian([3], torch.tensor([[4.0]])), gaussian([0], torch.tensor([[25.0]]))) == 9 + 9

    def test_of_covariances_that_do_not_commute(self):
        # tr M^{1/2} = sqrt(tr M + 2 sqrt(det M)) for 2 x 2.
        S, T = torch.tensor([[2.0, 1.0], [1.0, 3.0]]).double(), torch.tensor([[5.0, -2.0], [-2.0, 1.0]]).double()
        root = math.sqrt((S @ T).trace() + 2 * math.sqrt(torch.linalg.det(S) * torch.linalg.det(T)))
        assert frechet(gaussian([0, 0], S), gaussian([0, 0], T)) == pytest.approx(5 + 6 - 2 * root, rel=1e-12)

    def test_of_covariances_without_full_rank(self):
        u, v = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([0.0, 2.0, 1.0])  # tr (uu^T vv^T)^{1/2} = |u·v|
        found = frechet(gaussian([0, 0, 0], torch.outer(u, u)), gaussian([0, 0, 0], torch.outer(v, v)))
        assert found == pytest.approx(25 + 5 - 2 * 8, rel=1e-12)
        assert frechet(gaussian([0, 1], torch.zeros(2, 2)), gaussian([0, 0], torch.zeros(2, 2))) == 1
        assert frechet(gaussian([0, 0], torch.zeros(2, 2)), gaussian([0, 0], torch.eye(2))) == 2

    @pytest.mark.parametrize("n", [9, 40, 41, 300])
    def test_equal_sets_are_at_0_and_order_does_not_matter(self, n, rng):
        x, y = normal(n, 40, rng), normal(n + 3, 40, rng, 2, 0.1)
        a, b = Statistics.of(x), Statistics.of(y)
        assert 0 <= frechet(a, a) < 1e-12
        assert 0 <= frechet(a, Statistics.of(x.flip(0))) < 1e-12
        assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-12)

    @pytest.mark.parametrize(("n", "m"), [(300, 200), (12, 200), (300, 30), (12, 9)])
    def test_rotation_and_shift_of_both_do_not_matter(self, n, m, rng):
        x, y = normal(n, 40, rng), normal(m, 40, rng, 1.5)
        Q = torch.linalg.qr(torch.randn(40, 40, generator=rng, dtype=torch.float64)).Q
        turned = frechet(Statistics.of(x @ Q + 5), Statistics.of(y @ Q + 5))
        assert turned == pytest.approx(frechet(Statistics.of(x), Statistics.of(y)), rel=1e-9)

    @pytest.mark.parametrize("d", [1, 5, 60])
    def test_it_is_that_of_scipy(self, d, rng):
        a, b = Statistics.of(normal(500, d, rng)), Statistics.of(normal(400, d, rng, 1.3, 0.01))
        assert frechet(a, b) == pytest.approx(by_scipy(a, b), rel=1e-8)

    @pytest.mark.parametrize(("n", "m"), [(20, 30), (20, 500), (500, 20), (40, 41)])
    def test_with_fewer_rows_than_dimensions_it_is_the_dense_formula(self, n, m, rng):
        x, y = normal(n, 40, rng), normal(m, 40, rng, 1.2, 0.05)
        # Wide spaces about the same rows, in which the dense covariances are regular: the limit is the distance.
        dense = [Statistics(None, rows.mean(0), torch.cov(rows.T) + 1e-14 * torch.eye(40)) for rows in (x, y)]
        assert frechet(Statistics.of(x), Statistics.of(y)) == pytest.approx(by_scipy(*dense), rel=1e-5)
        read = [Statistics(len(rows), rows.mean(0), torch.cov(rows.T)) for rows in (x, y)]
        assert frechet(Statistics.of(x), Statistics.of(y)) == pytest.approx(frechet(*read), rel=1e-5)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 20), st.integers(0, 2**30))
    def test_it_is_finite_and_never_negative(self, n, m, d, seed):
        rng = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(k, d, generator=rng) * 10.0 ** torch.randint(-3, 3, (d,), generator=rng) for k in (n, m))
        y[:, : d // 2] = x[0, : d // 2]  # nothing varies there
        assert 0 <= frechet(Statistics.of(x), Statistics.of(y)) < math.inf

    def test_it_grows_with_fewer_rows(self, rng):
        x, y = normal(4000, 30, rng), normal(4000, 30, rng)
        found = [frechet(Statistics.of(x[:n]), Statistics.of(y[:n])) for n in (10, 20, 100, 4000)]
        assert found == sorted(found, reverse=True)

    @pytest.mark.parametrize(("n", "m"), [(60, 50), (60, 8), (300, 20), (300, 200)])
    def test_parts_are_those_of_their_own(self, n, m, rng):
        x, b = normal(n, 40, rng), Statistics.of(normal(200, 40, rng, 1.4, 0.1))
        parts = subsets(n, size=m, replicates=3)
        found = frechet_of_parts(x.float(), b, parts)
        assert found == pytest.approx([frechet(Statistics.of(x[part].float()), b) for part in parts], rel=1e-6)

    def test_statistics_of_different_features_are_refused(self, rng):
        x = normal(10, 4, rng)
        with pytest.raises(DataError, match="different features"):
            frechet(Statistics.of(x, fingerprint="pixels/1"), Statistics.of(x, fingerprint="dct/1"))
        with pytest.raises(DataError, match="of 4 and of 3 dimensions"):
            frechet(Statistics.of(x), Statistics.of(x[:, :3]))
        assert frechet(Statistics.of(x, fingerprint="pixels/1"), Statistics.of(x)) < 1e-12


class TestStatistics:
    @pytest.mark.parametrize(("d", "block"), [(3, 256), (300, 300)])
    def test_no_more_than_a_block_of_rows_is_kept(self, d, block):
        accumulator = Accumulator()
        for count in (block - 1, 1, 1, 3 * block, 5):
            accumulator.add(torch.zeros(count, d))
            assert sum(map(len, accumulator._waiting)) <= block
        assert accumulator.statistics().n == 4 * block + 6

    def test_what_never_varies_has_a_factor_without_rows(self):
        assert Statistics(None, torch.zeros(4), torch.zeros(4, 4, dtype=torch.float64)).factor.shape == (0, 4)

    def test_n_events_have_a_factor_of_n_minus_1_rows(self):
        """What a covariance of single precision holds beyond them is rounding, larger than that of the eigenvalues."""
        F = np.random.default_rng(0).standard_normal((3, 8))
        noisy = torch.from_numpy(F.T @ F + 1e-7 * np.eye(8))
        for n, rank in ((4, 3), (8, 7), (None, 8), (500, 8)):
            assert Statistics(n, torch.zeros(8), noisy).factor.shape == (rank, 8)
        factor = Statistics(4, torch.zeros(8), noisy).factor.numpy()
        np.testing.assert_allclose(factor.T @ factor, F.T @ F, atol=1e-6)

    @pytest.mark.parametrize("n", [2, 9, 17, 18, 300, 700])
    def test_they_are_those_of_numpy(self, n, rng):
        x = normal(n, 17, rng, shift=100).float()
        found = Statistics.of(x)
        np.testing.assert_allclose(found.mean.numpy(), np.mean(x.numpy(), axis=0, dtype=np.float64), rtol=1e-13)
        np.testing.assert_allclose(
            found.covariance.numpy(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-10, atol=1e-13
        )
        assert found.factor.shape == (n if n <= 17 else 17, 17)
        torch.testing.assert_close(found.factor.T @ found.factor, found.covariance, rtol=1e-10, atol=1e-13)

    @pytest.mark.parametrize(("n", "d"), [(1000, 7), (30, 40), (700, 300)])
    def test_chunks_change_nothing(self, n, d, rng):
        x, whole = (rows := normal(n, d, rng, shift=10).float()), Statistics.of(rows)
        for size in (1, 13, 256, n - 1):
            accumulator = Accumulator()
            for part in x.split(size):
                accumulator.add(part)
            found = accumulator.statistics()
            assert found.n == n
            torch.testing.assert_close(found.mean, whole.mean, rtol=0, atol=0)
            torch.testing.assert_close(found.covariance, whole.covariance, rtol=0, atol=0)

    def test_a_large_mean_costs_no_digits(self, rng):
        x = torch.randn(1000, 5, generator=rng, dtype=torch.float64)
        torch.testing.assert_close(
            Statistics.of(x + 2.0**20).covariance, Statistics.of(x).covariance, rtol=1e-8, atol=1e-9
        )

    def test_what_was_added_may_be_reused(self, rng):
        buffer, accumulator = torch.randn(4, 3, generator=rng), Accumulator()
        expected = Statistics.of(buffer.clone())
        accumulator.add(buffer)
        buffer.zero_()
        torch.testing.assert_close(accumulator.statistics().covariance, expected.covariance)

    def test_too_few_rows_and_nan_are_explained(self):
        with pytest.raises(DataError, match="1 events have no covariance"):
            Statistics.of(torch.zeros(1, 3))
        accumulator = Accumulator()
        accumulator.add(torch.zeros(5, 3))
        with pytest.raises(DataError, match="of event 7 are not finite"):
            accumulator.add(torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, math.nan, 0]]))

    @pytest.mark.parametrize("n", [6, 50])
    def test_the_file_is_that_of_pytorch_fid(self, n, tmp_path, rng):
        path = tmp_path / "reference.npz"
        saved = Statistics.of(normal(n, 8, rng), features="inception", fingerprint="inception/1 0123")
        saved.save(path)
        with np.load(path) as f:  # as compute_statistics_of_path reads it
            mu, sigma = f["mu"][:], f["sigma"][:]
        assert (mu.dtype, sigma.dtype, mu.shape, sigma.shape) == (np.float64, np.float64, (8,), (8, 8))
        read = Statistics.load(path)
        assert (read.n, read.features, read.fingerprint) == (n, "inception", "inception/1 0123")
        assert torch.equal(read.mean, saved.mean)
        assert torch.equal(read.covariance, saved.covariance)
        assert len(read.factor) == min(n - 1, 8)
        other = Statistics.of(normal(40, 8, rng))
        assert frechet(read, other) == pytest.approx(frechet(saved, other), rel=1e-7)

    def test_a_file_of_pytorch_fid_is_read(self, tmp_path, rng):
        path, x = tmp_path / "theirs.npz", normal(30, 5, rng).numpy()
        np.savez_compressed(path, mu=np.mean(x, axis=0), sigma=np.cov(x, rowvar=False))  # as save_fid_stats writes it
        read = Statistics.load(path)
        assert (read.n, read.features, read.fingerprint) == (None, "", "")
        assert frechet(read, Statistics.of(torch.from_numpy(x))) < 1e-12

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({"mu": np.zeros(3)}, "there is no 'sigma'"),
            ({"mu": np.zeros(3), "sigma": np.eye(4)}, "of shape"),
            ({"mu": np.zeros((1, 3)), "sigma": np.eye(3)}, "of shape"),
            ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "of shape"),
            ({"mu": np.array([0, np.nan]), "sigma": np.eye(2)}, "not finite"),
            ({"mu": np.zeros(2), "sigma": 1e308 * np.eye(2)}, "holds values beyond"),
            ({"mu": np.zeros(2), "sigma": np.array([[1, 5], [0, 1.0]])}, "no covariance"),
            ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "no covariance"),
            ({"mu": np.zeros(2), "sigma": np.eye(2) * 1j}, "not real"),
            ({"mu": np.zeros(2), "sigma": np.eye(2), "n": np.array([3, 4])}, "no count"),
            ({"mu": np.zeros(2), "sigma": np.eye(2), "n": np.float64(0.5)}, "no count"),
            ({"mu": np.array([{}, {}], dtype=object), "sigma": np.eye(2)}, "Python objects"),
        ],
    )
    def test_other_arrays_are_refused(self, arrays, said, tmp_path):
        path = tmp_path / "s.npz"
        np.savez(path, **arrays)
        with pytest.raises(DataError) as raised:
            Statistics.load(path)
        assert said in str(raised.value)
        assert str(path) in str(raised.value)

    def test_a_damaged_or_missing_file_is_a_data_error(self, tmp_path, rng):
        path = tmp_path / "s.npz"
        Statistics.of(normal(30, 5, rng)).save(path)
        whole = path.read_bytes()
        npy = io.BytesIO()
        np.save(npy, np.zeros(3))
        middle = zipfile.ZipFile(path).getinfo("sigma.npy").header_offset + 200
        flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
        for content in (b"", b"PK", whole[:-30], whole[: len(whole) // 2], flipped, npy.getvalue(), b"mu = 3"):
            path.write_bytes(content)
            with pytest.raises(DataError):
                Statistics.load(path)
        for missing in (tmp_path / "none.npz", tmp_path):
            with pytest.raises(DataError):
                Statistics.load(missing)


class TestKID:
    def test_it_is_the_formula(self, rng):
        x, y = (torch.randn(n, 3, generator=rng, dtype=torch.float64) for n in (4, 4))
        k = lambda u, v: (float(u @ v) / 3 + 1) ** 3  # noqa: E731
        within = sum(k(z[i], z[j]) for z in (x, y) for i in range(4) for j in range(4) if i != j) / 12
        across = sum(k(u, v) for u in x for v in y) / 8
        assert kid(x, y) == pytest.approx(within - across, rel=1e-12)

    def test_it_is_0_on_average_for_equal_distributions(self, rng):
        found = torch.tensor([kid(*torch.randn(2, 20, 5, generator=rng)) for _ in range(400)])
        assert found.mean().abs() < 4 * found.std() / 20
        assert found.min() < 0 < found.max()

    def test_how_many_there_are_does_not_shift_it(self, rng):
        x, y = torch.randn(3000, 4, generator=rng), torch.randn(2000, 4, generator=rng) + 0.5
        parts = subsets(3000, size=50, replicates=400)
        assert sum(kid_of_parts(x, y, parts)) / 400 == pytest.approx(kid(x, y), rel=0.03)
        assert kid(x, y) > 0.1

    def test_two_rows_are_enough(self):
        x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]])
        kernel = lambda u, v: (u * v + 1) ** 3  # noqa: E731
        wanted = kernel(1, 2) + kernel(3, 5) - (kernel(1, 3) + kernel(1, 5) + kernel(2, 3) + kernel(2, 5)) / 2
        assert kid_of_parts(x, y, [torch.arange(2)]) == pytest.approx([wanted])
        with pytest.raises(DataError):
            kid_of_parts(x[:1], y, [torch.arange(1)])

    def test_parts_are_those_of_their_own_whatever_the_chunks(self, rng, monkeypatch):
        x, y = torch.randn(40, 3, generator=rng), torch.randn(30, 3, generator=rng) + 1
        parts = [*subsets(40, size=11, replicates=3), torch.arange(40)]
        for chunk in (170, 1):
            monkeypatch.setattr("gendiff.evaluation.distances.CHUNK", chunk)
            assert kid_of_parts(x, y, parts) == pytest.approx([kid(x[part], y) for part in parts], rel=1e-12)


class TestPrecisionRecall:
    def test_of_constructed_sets(self, rng):
        x = torch.randn(400, 3, generator=rng)
        left = x[x[:, 0] < 0]
        assert precision_recall(x, x) == PrecisionRecall(1, 1)
        assert precision_recall(x + 100, x) == PrecisionRecall(0, 0)
        half = precision_recall(left, x)  # good samples that leave half of the data out
        assert half.precision == 1
        assert 0.45 < half.recall < 0.7
        other = precision_recall(x, left)
        assert (other.precision, other.recall) == (half.recall, half.precision)

    def test_it_is_the_definition_whatever_the_chunks(self, rng, monkeypatch):
        x, y = torch.randn(30, 4, generator=rng), torch.randn(50, 4, generator=rng) * 1.3
        within, across = torch.cdist(y, y), torch.cdist(x, y)
        radii = within.sort(1).values[:, 3]
        expected = float((across <= radii).any(1).float().mean())
        assert precision_recall(x, y).precision == pytest.approx(expected)
        monkeypatch.setattr("gendiff.evaluation.distances.CHUNK", 170)
        assert precision_recall(x, y).precision == pytest.approx(expected)

    def test_copies_and_far_away_rows_are_no_trouble(self, rng):
        x = torch.randn(20, 3, generator=rng).repeat(6, 1) + 1e4
        assert precision_recall(x, x) == PrecisionRecall(1, 1)
        assert precision_recall(x, x[:20].repeat(5, 1)) == PrecisionRecall(1, 1)

    def test_parts_are_those_of_their_own_whatever_the_chunks(self, rng, monkeypatch):
        x, y = torch.randn(60, 4, generator=rng), torch.randn(50, 4, generator=rng) * 1.3
        parts = [*subsets(60, size=20, replicates=4), torch.arange(60)]
        whole = precision_recall(x, y)
        alone = [PrecisionRecall(0, precision_recall(x[part], y).recall) for part in parts]
        for chunk in (1, 170, 2**24):
            monkeypatch.setattr("gendiff.evaluation.distances.CHUNK", chunk)
            found = precision_recall_of_parts(x, y, parts)
            assert [one.recall for one in found] == [one.recall for one in alone]
            assert found[-1] == whole
            assert [one.precision for one in found] == [precision_recall(x[part], y).precision for part in parts]

    def test_sets_that_are_too_small_or_unlike_are_refused(self):
        with pytest.raises(DataError, match="a part of 3"):
            precision_recall_of_parts(torch.zeros(9, 2), torch.zeros(9, 2), [torch.arange(3)])
        with pytest.raises(DataError):
            precision_recall_of_parts(torch.zeros(9, 2), torch.zeros(3, 2), [torch.arange(4)])
        assert precision_recall_of_parts(torch.zeros(4, 2), torch.zeros(4, 2), [torch.arange(4)]) == [
            PrecisionRecall(1, 1)
        ]
        for x, y in ((torch.zeros(3, 2), torch.zeros(9, 2)), (torch.zeros(9, 3), torch.zeros(9, 2))):
            with pytest.raises(DataError):
                precision_recall(x, y)


class TestShare:
    @pytest.mark.parametrize("n", [16, 64, 300])
    @pytest.mark.parametrize("level", [0.8, 0.95])
    def test_it_holds_any_probability_as_often_as_it_says(self, n, level):
        """In closed form: the binomial probabilities of all counts whose interval holds p."""
        counts = np.arange(n + 1)
        ends = np.array([share(k / n, n, level) for k in counts])
        for p in (0.0, 1e-4, 0.5 / n, 2 / n, 0.1, 0.31, 0.5, 0.9, 1 - 1 / n, 1.0):
            held = (ends[:, 0] <= p) & (p <= ends[:, 1])
            covered = scipy.stats.binom.pmf(counts, n, p)[held].sum()
            assert covered >= level - 1e-12, p

    def test_it_is_that_of_scipy_and_never_empty(self):
        for k in range(65):
            found = scipy.stats.binomtest(k, 64).proportion_ci(0.95, "exact")
            assert share(k / 64, 64) == pytest.approx((found.low, found.high), rel=1e-9)
        assert share(0.0, 64) == (0.0, pytest.approx(1 - 0.025 ** (1 / 64)))
        assert share(1.0, 64) == (pytest.approx(0.025 ** (1 / 64)), 1.0)

    def test_what_scatters_more_is_worth_fewer_events(self):
        n, size, p = 400, 200, 0.3
        spread = np.tile([-1.0, 1.0], 5000)  # of so many subsets that t is z
        for events in (12, 150):
            found = p + spread * (p * (1 - p) / events) ** 0.5
            assert effective_events(p, list(found), n, size, 400) == pytest.approx(events, rel=1e-3)
        assert effective_events(p, [p, p + 1e-9], n, size, 400) == 400
        assert effective_events(p, [0.0, 1.0], n, size, 400) == 1
        assert effective_events(0.0, [0.0, 0.0], n, size, 350) == 350
        few = p + spread[:6] * 0.05
        narrower = scipy.stats.norm.ppf(0.95) / scipy.stats.t.ppf(0.95, 5)
        wanted = p * (1 - p) / np.var(few, ddof=1) * narrower**2
        assert effective_events(p, list(few), n, size, 400, level=0.9) == pytest.approx(wanted)
        more = p * (1 - p) / (3 * np.var(few, ddof=1)) * narrower**2
        assert effective_events(p, list(few), n, 300, 400, level=0.9) == pytest.approx(more)


class TestInterval:
    REFERENCE = Statistics(None, torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64))

    def distance(self, x: torch.Tensor) -> float:
        return frechet(Statistics.of(x), self.REFERENCE)

    @pytest.mark.parametrize(("shift", "scale", "least"), [(0.3, 1.2, 0.87), (0.0, 1.0, 0.93)])
    def test_it_covers_what_other_samples_would_give(self, shift, scale, least, rng):
        n, trials = 200, 60
        draw = lambda: torch.randn(n, 6, generator=rng, dtype=torch.float64) * scale + shift  # noqa: E731
        expected = sum(self.distance(draw()) for _ in range(400)) / 400
        covered = 0
        for trial in range(trials):
            x = draw()
            found = interval(lambda chosen, x=x: self.distance(x[chosen]), n, replicates=30, seed=trial)
            assert found.value == self.distance(x)
            covered += found.low <= expected <= found.high
        assert covered / trials >= least

    def test_for_a_mean_it_is_the_textbook_interval(self, rng):
        x = torch.randn(500, generator=rng, dtype=torch.float64)
        expected = 1.961 * float(x.std()) / 500**0.5  # the quantile of Student's distribution for 1499
        for size in (50, 250, 450):
            found = interval(lambda chosen: float(x[chosen].mean()), 500, size=size, replicates=1500)
            assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.08)
            assert (found.high + found.low) / 2 == pytest.approx(found.value)

    def test_few_subsets_know_the_scatter_badly(self):
        """Student's quantile of one degree of freedom less than there are subsets, with SciPy; ends do not leave the bounds."""
        found = [0.2, 0.5, 0.45, 0.1, 0.3]
        half = scipy.stats.t.ppf(0.95, 4) * math.sqrt(30 / 70) * np.std(found, ddof=1)
        one = Interval.of(0.3, found, 100, 30, level=0.9)
        assert (one.high - 0.3, 0.3 - one.low) == pytest.approx((half, half))
        assert (one.value, one.level, one.size, one.replicates) == (0.3, 0.9, 30, 5)
        kept = Interval.of(0.3, found, 100, 30, level=0.9, bounds=(0.25, 0.31))
        assert (kept.low, kept.high) == (0.25, 0.31)

    def test_subsets_hold_nothing_twice_and_follow_the_seed(self):
        seen: list[torch.Tensor] = []
        assert len(subsets(9)) == 50
        run = lambda seed: interval(lambda chosen: seen.append(chosen) or 0.0, 11, replicates=5, seed=seed)  # noqa: E731
        run(0)
        run(0)
        run(1)
        assert all(chosen.tolist() == sorted(set(chosen.tolist())) for chosen in seen)
        assert [len(chosen) for chosen in seen[:6]] == [5] * 5 + [11]
        assert torch.equal(torch.cat(seen[:6]), torch.cat(seen[6:12]))
        assert not torch.equal(torch.cat(seen[:6]), torch.cat(seen[12:]))

    @pytest.mark.parametrize("wrong", [{"size": 10}, {"size": 1}, {"replicates": 1}, {"level": 1.0}])
    def test_what_cannot_be_is_refused(self, wrong):
        with pytest.raises(ConfigError):
            interval(lambda _: 0.0, 10, **wrong)
