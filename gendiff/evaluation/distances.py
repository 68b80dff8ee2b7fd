r"""Distances between two sets of rows of features, and how sure they are.

Each depends on how many rows there are: with n rows the Fréchet distance is too large by about a constant over n, so that numbers
of different n must never be compared. Whoever reports one reports n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy.special import betaincinv, ndtri, stdtrit
from torch import Tensor

from gendiff.errors import ConfigError, DataError
from gendiff.evaluation.statistics import Statistics
from gendiff.streams import stream

CHUNK = 2**24  # distances held at a time, 128 MB
NEIGHBOURS = 3  # k of precision and recall, as in the paper


def frechet(a: Statistics, b: Statistics) -> float:
    r"""Squared Fréchet distance of two normal distributions, ``|μ_a - μ_b|² + tr S_a + tr S_b - 2 tr (S_a S_b)^{1/2}``.

    With ``S = F^T F`` the eigenvalues of S_a S_b are the squared singular values of ``F_a F_b^T``, so the last trace is their
    sum: no root of a product is taken, whose small eigenvalues would be lost in rounding, and for n rows in d > n dimensions
    only n by n numbers are decomposed. The whole is ``|μ_a - μ_b|² + min_Q |F_a - Q F_b|²`` over orthogonal Q (Bhatia, Jain,
    Lim 2019), and so never negative.

    Raises `DataError` where the two are not of the same features.

    Reference: Dowson, Landau 1982, J. Multivariate Anal. 12(3); Heusel et al. 2017, arXiv 1706.08500.
    """
    if a.fingerprint and b.fingerprint and a.fingerprint != b.fingerprint:
        raise DataError(
            "statistics of different features cannot be compared",
            details=[f"one is of {a.fingerprint}", f"the other of {b.fingerprint}"],
            fix="compute both with the same features",
        )
    if a.mean.shape != b.mean.shape:
        raise DataError(
            f"statistics of {len(a.mean)} and of {len(b.mean)} dimensions cannot be compared",
            fix="compute both with the same features, from events of one shape",
        )
    shift = (a.mean - b.mean).square().sum()
    F_a, F_b = a.factor, b.factor
    cross = torch.linalg.svdvals(F_a @ F_b.T).sum()
    return max(float(shift + F_a.square().sum() + F_b.square().sum() - 2 * cross), 0.0)


def frechet_of_parts(rows: Tensor, b: Statistics, parts: Sequence[Tensor]) -> list[float]:
    r"""`frechet` of the statistics of each part of ``rows`` and b, to about 1e-4 of the traces, in a fraction of the time.

    ``H = F_a F_b^T`` is what ``rows F_b^T``, which is computed once, becomes when it is centred over the part. Its
    singular values are the roots of the eigenvalues of the smaller one of ``H H^T`` and ``H^T H``; those below 1e-8 of the
    largest are lost in rounding, alike in every part.

    Args:
        rows: ``(n, d)``; computed with in float64 on their device.
        parts: indices, int64 ``(m,)``, m >= 2.

    """
    x, F_b, mean_b = (t.to(rows.device, torch.float64) for t in (rows, b.factor, b.mean))
    products, constant = x @ F_b.T, F_b.square().sum()
    distances = []
    for part in parts:
        of, H = x[part], products[part]
        mean, H = of.mean(0), H - H.mean(0)
        gram = H @ H.T if H.shape[0] < H.shape[1] else H.T @ H
        cross = torch.linalg.eigvalsh(gram / (len(part) - 1)).clamp_min(0).sqrt().sum()
        trace = (of - mean).square().sum() / (len(part) - 1)
        distances.append(max(float((mean - mean_b).square().sum() + trace + constant - 2 * cross), 0.0))
    return distances


def kid(x: Tensor, y: Tensor) -> float:
    r"""Kernel distance: the squared maximum mean discrepancy for ``k(u, v) = (u·v/d + 1)^3``, without bias.

        Σ_{i≠j} k(x_i, x_j) / (n(n-1)) + Σ_{i≠j} k(y_i, y_j) / (m(m-1)) - (2/nm) Σ_{i,j} k(x_i, y_j)

    Its expectation does not depend on n and m, and is 0 for equal distributions: it may be negative. That of Bińkowski et al. is
    the mean of the same over random subsets of 1000, which has the same expectation and scatters more.

    Args:
        x, y: rows ``(n, d)`` and ``(m, d)``, n, m >= 2.

    Reference: Gretton et al. 2012, JMLR 13, eq. 3; Bińkowski et al. 2018, arXiv 1801.01401.
    """
    return kid_of_parts(x, y, [torch.arange(len(x))])[0]


def kid_of_parts(x: Tensor, y: Tensor, parts: Sequence[Tensor]) -> list[float]:
    """`kid` of each part of the rows x and all of y; each value of the kernel is computed once.

    Args:
        x, y: as for `kid`; computed with in float64 on the device of x.
        parts: indices, int64 ``(n,)``, n >= 2.

    """
    _require_rows(x, y, 2)
    x, y = x.double(), y.to(x.device, torch.float64)
    inside = torch.zeros(len(x), len(parts), dtype=torch.float64, device=x.device)
    for column, part in enumerate(parts):
        inside[part.to(x.device), column] = 1
    count, m = inside.sum(0), len(y)
    sums = torch.cat([kernel @ inside for kernel in _kernel(x, x)])  # of row i over the part
    within = ((sums - _kernel_with_itself(x)[:, None]) * inside).sum(0) / (count * (count - 1))
    constant = (_kernel_sums(y, y).sum() - _kernel_with_itself(y).sum()) / (m * (m - 1))
    across = _kernel_sums(x, y) @ inside / (count * m)
    distances: list[float] = (within + constant - 2 * across).tolist()
    return distances


def _kernel(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Values of the kernel for some rows of x, ``(chunk, d)``, and all of y."""
    for part in x.split(max(CHUNK // len(y), 1)):
        yield (part @ y.T / x.shape[1] + 1) ** 3


def _kernel_sums(x: Tensor, y: Tensor) -> Tensor:
    """For each row of x the sum of the kernel over y."""
    return torch.cat([kernel.sum(1) for kernel in _kernel(x, y)])


def _kernel_with_itself(x: Tensor) -> Tensor:
    return (x.square().sum(1) / x.shape[1] + 1) ** 3


@dataclass(frozen=True)
class PrecisionRecall:
    """How many samples look like data, and how much of the data is there, each in [0, 1].

    Args:
        precision: the share of samples that lie in the manifold of the data.
        recall: the share of the data that lies in the manifold of the samples.

    """

    precision: float
    recall: float


def precision_recall(samples: Tensor, reference: Tensor, *, k: int = NEIGHBOURS) -> PrecisionRecall:
    """Precision and recall with k-nearest-neighbour manifolds.

    The manifold of a set is the union of balls around its rows, each as large as the distance to its k-th neighbour in the set
    (itself not counted). Distances are computed a chunk at a time, in float64; one of less than 1e-7 of the rows' own lengths
    is rounding, and counts as 0.

    Args:
        samples, reference: rows ``(n, d)``, n > k; n may differ.
        k: 3 in the paper; numbers of different k or n cannot be compared.

    Reference: Kynkäänniemi et al. 2019, arXiv 1904.06991.
    """
    return precision_recall_of_parts(samples, reference, [torch.arange(len(samples))], k=k)[0]


def precision_recall_of_parts(
    samples: Tensor, reference: Tensor, parts: Sequence[Tensor], *, k: int = NEIGHBOURS
) -> list[PrecisionRecall]:
    """`precision_recall` of each part of the samples and all of the reference; each distance is computed once.

    Args:
        samples, reference, k: as for `precision_recall`; computed with on the device of the samples.
        parts: indices, int64 ``(n,)``, n > k.

    """
    _require_rows(samples, reference, k + 1)
    if (least := min(map(len, parts))) <= k:
        raise DataError(f"a part of {least} samples is too small", fix=f"give at least {k + 1}")
    centre = reference.to(samples.device).double().mean(0)  # distances do not change, rounding errors shrink
    x, y = (rows.to(samples.device).double() - centre for rows in (samples, reference))
    parts = [part.to(samples.device) for part in parts]
    everything = [torch.arange(len(y), device=y.device)]
    precision = _covered(x, y, everything, _radii(y, everything, k))[0]
    recall = _covered(y, x, parts, _radii(x, parts, k))
    return [
        PrecisionRecall(float(precision[part].double().mean()), float(of.double().mean()))
        for part, of in zip(parts, recall, strict=True)
    ]


def _radii(rows: Tensor, parts: Sequence[Tensor], k: int) -> list[Tensor]:
    """The squared distance of each row of a part to its k-th neighbour in the part."""
    radii_of_parts: list[list[Tensor]] = [[] for _ in parts]
    start = 0
    for near in _squared_distances(rows, rows):
        for part, radii in zip(parts, radii_of_parts, strict=True):
            mine = part[(start <= part) & (part < start + len(near))] - start
            radii.append(near[mine][:, part].kthvalue(k + 1, dim=1).values)
        start += len(near)
    return [torch.cat(radii) for radii in radii_of_parts]


def _covered(points: Tensor, rows: Tensor, parts: Sequence[Tensor], radii: Sequence[Tensor]) -> list[Tensor]:
    """Whether each point lies in the manifold of each part of ``rows``."""
    masks: list[list[Tensor]] = [[] for _ in parts]
    for near in _squared_distances(points, rows):
        for part, radius, inside in zip(parts, radii, masks, strict=True):
            inside.append((near[:, part] <= radius).any(1))
    return [torch.cat(inside) for inside in masks]


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Those of some rows of x, ``(chunk, d)``, to all of y."""
    y_length = y.square().sum(1)
    for part in x.split(max(CHUNK // len(y), 1)):
        lengths = part.square().sum(1)[:, None] + y_length
        distances = torch.addmm(lengths, part, y.T, alpha=-2)
        yield distances.masked_fill_(distances < 1e-14 * lengths, 0)


def _require_rows(x: Tensor, y: Tensor, least: int) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise DataError(
            f"rows of shapes {tuple(x.shape)} and {tuple(y.shape)} cannot be compared",
            fix="compute both with the same features, from events of one shape",
        )
    if min(len(x), len(y)) < least:
        raise DataError(f"sets of {len(x)} and {len(y)} events are too small", fix=f"give at least {least} of each")


@dataclass(frozen=True)
class Interval:
    """A number and where its expectation lies.

    Args:
        value: the number for all n.
        low, high: the ends of the interval.
        level: how often such intervals hold the expectation.
        size: how many were left in a subsample.
        replicates: how many subsamples there were.

    """

    value: float
    low: float
    high: float
    level: float
    size: int
    replicates: int

    @classmethod
    def of(
        cls,
        value: float,
        values: Sequence[float],
        n: int,
        size: int,
        level: float = 0.95,
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> Interval:
        """That of `interval`, from the number for all n samples and its ``values`` for subsets of ``size``.

        ``bounds`` are the least and the greatest value that there can be; the ends do not lie beyond.
        """
        if len(values) < 2 or not 0 < level < 1:
            raise ConfigError(
                f"no interval of level {level} from {len(values)} subsets",
                fix="at least 2, and a level between 0 and 1",
            )
        scatter = float(torch.tensor(values, dtype=torch.float64).std())
        half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * math.sqrt(size / (n - size)) * scatter
        low, high = max(value - half, bounds[0]), min(value + half, bounds[1])
        return cls(value, low, high, level, size, len(values))


def share(value: float, events: float, level: float = 0.95) -> tuple[float, float]:
    r"""The ends of the Clopper-Pearson interval of a share of so many independent events.

    With k = value · events of them, the ends are the (1 ∓ level)/2 quantiles of Beta(k, events - k + 1) and
    Beta(k + 1, events - k): where k is 0 or all, one end is that of the share and the other ((1 - level)/2)^{1/events} from it.
    It holds the probability of an event at least ``level`` of the time, whatever that probability is.

    Reference: Clopper, Pearson 1934, Biometrika 26(4).
    """
    k = value * events
    low = float(betaincinv(k, events - k + 1, (1 - level) / 2)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, events - k, (1 + level) / 2)) if k < events else 1.0
    return low, high


def effective_events(value: float, values: Sequence[float], n: int, size: int, most: int, level: float = 0.95) -> float:
    r"""Of how many independent events a share is worth that scatters so over subsets of ``size`` out of n.

        p(1 - p)/v · (z/t)² ,     v = size/(n - size) · var(values) ,

    between 1 and ``most``, with z and t the quantiles of the normal and of Student's distribution: few subsets know v badly.
    Where nothing scatters, or the share is 0 or 1, nothing is known of their dependence, and it is ``most``.

    Reference: Korn, Graubard 1998, Survey Methodology 24(2), without their count of clusters.
    """
    v = size / (n - size) * float(torch.tensor(values, dtype=torch.float64).var())
    if not v > 0 or not 0 < value < 1:
        return float(most)
    narrower = float(ndtri((1 + level) / 2) / stdtrit(len(values) - 1, (1 + level) / 2)) ** 2
    return min(max(value * (1 - value) / v * narrower, 1.0), float(most))


def subsets(n: int, *, size: int | None = None, replicates: int = 50, seed: int = 0) -> list[Tensor]:
    """Random subsets of ``size`` (n/2 where it is None) out of n, each ascending int64 indices without repetition."""
    m = n // 2 if size is None else size
    if not 2 <= m < n:
        raise ConfigError(f"cannot draw subsets of {m} out of {n}", fix="give more samples, or a size from 2 to n - 1")
    generators = [stream(seed, "interval", replicate) for replicate in range(replicates)]
    return [torch.randperm(n, generator=generator)[:m].sort().values for generator in generators]


def interval(
    function: Callable[[Tensor], float],
    n: int,
    *,
    size: int | None = None,
    replicates: int = 50,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    r"""Confidence interval of a number θ_n computed from n samples, by subsampling without replacement.

    The number is computed for R random subsets of m out of n, giving θ*_1..θ*_R, and

        v = m/(n - m) · (1/(R-1)) Σ_r (θ*_r - mean θ*)² ,    θ_n ± t sqrt(v) ,

    with t the quantile of (1 + level)/2 of Student's distribution with R - 1 degrees of freedom. The factor holds the rescaling
    from m to n samples, m/n, and the correction for drawing from a finite set, 1/(1 - m/n): v is the delete-(n-m) jackknife.
    m = n/2, the default, needs neither.

    The interval is for the **expectation of θ_n at this n**, what other sets of n samples of the same model would give on
    average. It is not for n → ∞: a Fréchet distance is biased by about c/n. It says nothing of the bias, nor of the
    reference, which is held fixed; only numbers of the same n and reference may be compared by it.

    Assumed: independent samples, and a number that is asymptotically normal with an error of order n^{-1/2}, as is the
    Fréchet distance of two different distributions. Where model and data agree, the linear term vanishes and the error
    is of order 1/n; the interval is then too wide rather than too narrow.

    The bootstrap with replacement is not offered: a resample holds only 63 % of the samples, some of them several times, and
    its Fréchet distance is biased upward once more, by about as much as that of the samples.

    Reference: Shao, Wu 1989, Ann. Statist. 17(3) (delete-d jackknife); Politis, Romano, Wolf 1999, Subsampling, Springer.

    Args:
        function: the number for some of the samples, given by their indices, int64 ``(m,)``, ascending.
        n: how many samples there are.
        size: m, 2..n-1.
        replicates: R; the relative error of the width is about 1/sqrt(2R).

    """
    parts = subsets(n, size=size, replicates=replicates, seed=seed)
    values = [function(subset) for subset in parts]
    return Interval.of(function(torch.arange(n)), values, n, len(parts[0]) if parts else 0, level)
