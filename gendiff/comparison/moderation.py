r"""Moderation: what few seeds say of a spread, completed by what the other comparisons of an experiment say of theirs.

A t-interval of three seeds rests on a spread of two degrees of freedom: once forty comparisons share a level it reaches 28
standard errors. But there are forty spreads, of runs much alike. In the model of Lönnstedt & Speed (2002) and Smyth (2004) the
variances σ²_g of comparisons g = 1..G are draws of one distribution,

    m²_g ν_0 τ² / σ²_g ~ χ²_{ν_0} ,      s²_g ~ σ²_g χ²_ν / ν ,      ν = S - 1 ,

and given what is seen the variance of a comparison is, with so many degrees of freedom,

    s̃²_g = (ν_0 τ² m²_g + ν s²_g) / (ν_0 + ν) ,      mean d ± t_{ν_0 + ν} · s̃ / sqrt(S) .

m_g is the mean of the two numbers that are compared: runs vary in proportion to what they come to. ν_0, by how many degrees of
freedom the others count, and τ² follow from the mean and the variance of log(s²_g/m²_g): spreads that are much alike tell much
of each other, spreads that are not tell nothing, and the interval is nearly Student's.

That variance of logarithms is taken half as large again as it is seen (`CAUTION`). Comparisons with one arm share its spread and
are fewer than they seem, and a ν_0 that is too large makes intervals too narrow: simulated with 40 comparisons that show nothing,
3 seeds and arms whose spreads differ by factors of 1 to 30, up to one in 10 experiments named something without it, about one in
20 at most with it. A difference of four standard deviations is seen in 16 to 84 of 100, in 6 by Student's interval.

References: Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1), 3; Lönnstedt & Speed 2002, Statistica Sinica 12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance

from gendiff.comparison.difference import Estimate, deviation, quantile

CAUTION = 1.5  # by what the variance of log variances is multiplied
FEWEST = 4  # comparisons whose spreads say something of each other
MOST = 1000.0  # degrees of freedom, beyond which a quantile is that of the normal distribution


@dataclass(frozen=True)
class Spread:
    """What the comparisons of an experiment say of the spread of one.

    Args:
        freedom: ν_0, degrees of freedom by which they count, 0 where they say nothing.
        relative: τ, their standard deviation over seeds in units of the number.

    """

    freedom: float
    relative: float

    @classmethod
    def of(cls, estimates: Sequence[Estimate], scales: Sequence[float], level: float) -> Spread:
        """From paired differences over one number of seeds at a level; ``scales`` are the m_g."""
        known = [(one, m) for one, m in zip(estimates, scales, strict=True) if _says_something(one, m)]
        if len(known) < FEWEST:
            return cls(0.0, 0.0)
        nu = known[0][0].seeds - 1
        logs = [2 * math.log(deviation(one, level) / m) - _mean_log(nu) for one, m in known]
        freedom = _freedom(CAUTION * variance(logs) - _variance_log(nu))
        return cls(freedom, math.exp((fmean(logs) + _mean_log(freedom)) / 2))

    def moderate(self, estimate: Estimate, m: float, level: float) -> Estimate:
        """The same difference with its interval by s̃; as it is where it has no spread over seeds."""
        if not self.freedom or not _says_something(estimate, m):
            return estimate
        nu, s = estimate.seeds - 1, deviation(estimate, level)
        s = math.sqrt((self.freedom * (self.relative * m) ** 2 + nu * s**2) / (self.freedom + nu))
        half = quantile(self.freedom + nu, level) * s / math.sqrt(estimate.seeds)
        return replace(estimate, low=estimate.value - half, high=estimate.value + half)


def _says_something(estimate: Estimate, m: float) -> bool:
    return estimate.method == "seeds" and estimate.low != estimate.high and m > 0


def _mean_log(freedom: float) -> float:
    """The mean of log(χ²_ν/ν)."""
    from scipy.special import digamma

    return float(digamma(freedom / 2)) - math.log(freedom / 2)


def _variance_log(freedom: float) -> float:
    """Its variance."""
    from scipy.special import polygamma

    return float(polygamma(1, freedom / 2))


def _freedom(rest: float) -> float:
    """The ν of which log(χ²_ν/ν) has this variance, at most `MOST`."""
    from scipy.optimize import brentq

    if rest <= _variance_log(MOST):
        return MOST
    return float(brentq(lambda nu: _variance_log(nu) - rest, 1e-6, MOST))
