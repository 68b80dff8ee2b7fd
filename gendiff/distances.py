r"""Distances between two sets of rows of features, and how sure they are.

Each depends on how many rows there are: with n rows the Fréchet distance is too large by about a constant over n, so that numbers
of different n must never be compared. Whoever reports one reports n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from gendiff.errors import ConfigError, DataError
from gendiff.statistics import Statistics
from gendiff.streams import stream

CHUNK = 2**24  # distances held at a time, 128 MB


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


def kid(x: Tensor, y: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> float:
    r"""Kernel distance: the squared maximum mean discrepancy for ``k(u, v) = (u·v/d + 1)^3``, without bias.

    The mean, over ``subsets`` pairs of random subsets of m = ``size`` rows (all, where there are fewer), of

        Σ_{i≠j} k(x_i, x_j) / (m(m-1)) + Σ_{i≠j} k(y_i, y_j) / (m(m-1)) - (2/m²) Σ_{i,j} k(x_i, y_j) .

    Its expectation does not depend on m, and is 0 for equal distributions: it may be negative.

    Args:
        x, y: rows ``(n, d)``, n >= 2; n may differ.

    Reference: Bińkowski et al. 2018, arXiv 1801.01401.
    """
    _require_rows(x, y, 2)
    d, m = x.shape[1], min(size, len(x), len(y))
    if len(x) == len(y) == m:
        subsets = 1  # there is only one
    total = 0.0
    for subset in range(subsets):
        generator = stream(seed, "kid", subset)
        u, v = (rows[torch.randperm(len(rows), generator=generator)[:m]].cpu().double() for rows in (x, y))
        k_uu, k_vv, k_uv = (((s @ t.T) / d + 1) ** 3 for s, t in ((u, u), (v, v), (u, v)))
        within = k_uu.sum() - k_uu.trace() + k_vv.sum() - k_vv.trace()
        total += float(within / (m * (m - 1)) - 2 * k_uv.mean())
    return total / subsets


@dataclass(frozen=True)
class PrecisionRecall:
    """How many samples look like data, and how much of the data is there, each in [0, 1].

    Args:
        precision: the share of samples that lie in the manifold of the data.
        recall: the share of the data that lies in the manifold of the samples.

    """

    precision: float
    recall: float


def precision_recall(samples: Tensor, reference: Tensor, *, k: int = 3) -> PrecisionRecall:
    """Precision and recall with k-nearest-neighbour manifolds.

    The manifold of a set is the union of balls around its rows, each as large as the distance to its k-th neighbour in the set
    (itself not counted). Distances are computed a chunk at a time, in float64; one of less than 1e-7 of the rows' own lengths
    is rounding, and counts as 0.

    Args:
        samples, reference: rows ``(n, d)``, n > k; n may differ.
        k: 3 in the paper; numbers of different k or n cannot be compared.

    Reference: Kynkäänniemi et al. 2019, arXiv 1904.06991.
    """
    _require_rows(samples, reference, k + 1)
    centre = reference.cpu().double().mean(0)  # distances do not change, rounding errors shrink
    x, y = (rows.cpu().double() - centre for rows in (samples, reference))
    return PrecisionRecall(precision=_covered(x, y, k), recall=_covered(y, x, k))


def _covered(points: Tensor, rows: Tensor, k: int) -> float:
    """The share of ``points`` in the manifold of ``rows``."""
    radii = torch.cat([near.kthvalue(k + 1, dim=1).values for near in _squared_distances(rows, rows)])
    inside = [(near <= radii).any(1).sum() for near in _squared_distances(points, rows)]
    return float(torch.stack(inside).sum()) / len(points)


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Those of some rows of x, ``(chunk, d)``, to all of y."""
    y_length = y.square().sum(1)
    for part in x.split(max(CHUNK // len(y), 1)):
        lengths = part.square().sum(1)[:, None] + y_length
        found = torch.addmm(lengths, part, y.T, alpha=-2)
        yield found.masked_fill_(found < 1e-14 * lengths, 0)


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

        v = m/(n - m) · (1/(R-1)) Σ_r (θ*_r - mean θ*)² ,    θ_n ± z sqrt(v) ,    z the normal quantile of (1 + level)/2 .

    The factor holds the rescaling from m to n samples, m/n, and the correction for drawing from a finite set, 1/(1 - m/n): v
    is the delete-(n-m) jackknife. m = n/2, the default, needs neither.

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
    m = n // 2 if size is None else size
    if not 2 <= m < n:
        raise ConfigError(f"cannot draw subsets of {m} out of {n}", fix="give more samples, or a size from 2 to n - 1")
    if replicates < 2 or not 0 < level < 1:
        raise ConfigError(
            f"no interval of level {level} from {replicates} subsets", fix="at least 2, and a level between 0 and 1"
        )
    found = torch.tensor(
        [
            function(torch.randperm(n, generator=stream(seed, "interval", replicate))[:m].sort().values)
            for replicate in range(replicates)
        ],
        dtype=torch.float64,
    )
    value = function(torch.arange(n))
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(m / (n - m)) * float(found.std())
    return Interval(value, value - half, value + half, level, m, replicates)
