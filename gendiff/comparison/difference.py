r"""Difference: how sure a number is, and how sure the difference of two arms is.

Every seed s gives each arm a run of its own, with data order, initial weights and noise that depend on s alone. What two arms
share of the luck of a seed cancels in the paired differences

    d_s = θ_s(arm) - θ_s(baseline) ,      mean d ± t_{S-1} · sd(d) / sqrt(S) ,

with t the Student quantile of S - 1 degrees of freedom. The interval holds training and sampling together: each seed has its own
of both. Assumed: the S differences are independent draws of one normal distribution. With three seeds t is 4.3 at 95 %: a
difference must be large against its spread, or it is not seen.

**One seed says nothing about other seeds.** Then only the chance of sampling can be told, from the intervals of the two numbers
(`gendiff.evaluation.distances.interval`), as if their samples were independent: the noise that arms share makes the interval
too wide rather than too narrow. It is marked ``sampling`` and is not one over seeds.

Where all seeds have the very same number, as shares of 0 have, their spread is no measure of chance: then the intervals of
sampling stand in for it. An interval holds nothing that the number cannot be: it ends where the number does (`Estimate.within`).

Several arms against one baseline are several chances to be wrong: with k differences each interval is made at level
1 - (1 - level)/k, so that all k hold together with probability level at least (Bonferroni).

Reference: Student 1908, Biometrika 6(1); Welch 1947, Biometrika 34(1-2); Dunn 1961, J. Am. Stat. Assoc. 56(293).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev, variance
from typing import Literal

MOST_SEEDS = 1000  # that anybody would train
FEWEST = 3  # seeds from whose spread anything is said of more

Method = Literal["seeds", "unpaired", "sampling", "none"]


@dataclass(frozen=True)
class Estimate:
    """A number and the interval that holds its expectation.

    Args:
        value: the number, or the mean over seeds.
        low, high: ends of the interval; None where nothing is known of it.
        seeds: over how many seeds.
        method: ``seeds``, a t-interval; ``unpaired``, Welch's; ``sampling``, of one seed, by subsampling; ``none``.

    """

    value: float
    low: float | None
    high: float | None
    seeds: int
    method: Method

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval, and 0 is not in it."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def within(self, bounds: tuple[float, float]) -> Estimate:
        """The same where the number lies between ``bounds``: the interval ends there."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, bounds[0]), high=min(self.high, bounds[1]))


@dataclass(frozen=True)
class Measured:
    """One number of one run.

    Args:
        value: the number.
        error: its standard error by sampling; None where it is not known.
        freedom: degrees of freedom of ``error``.
        low, high: ends of its interval by sampling at the level that is asked for, not always alike on both sides.

    """

    value: float
    error: float | None = None
    freedom: int = 1
    low: float | None = None
    high: float | None = None

    @classmethod
    def of_interval(cls, value: float, low: float, high: float, level: float, replicates: int) -> Measured:
        """From an interval of `gendiff.evaluation.distances.interval` with so many subsets."""
        freedom = replicates - 1
        return cls(value, (high - low) / 2 / quantile(freedom, level), freedom, low, high)


def deviation(estimate: Estimate, level: float, others: float = 0.0) -> float:
    """The standard deviation over seeds of a paired difference, read off its interval.

    Args:
        estimate: whose interval has an upper end.
        level: that of the interval.
        others: degrees of freedom that its spread has from other comparisons (`gendiff.comparison.moderation`).

    """
    assert estimate.high is not None
    half = estimate.high - estimate.value
    return half * math.sqrt(estimate.seeds) / quantile(others + estimate.seeds - 1, level)


def settling_seeds(estimate: Estimate, level: float, others: float = 0.0) -> int | None:
    """How many seeds it takes until the interval of a paired difference would exclude 0, were it as it is seen.

    The smallest n with ``t_{n-1} · sd(d)/sqrt(n) < |mean d|``, sd and mean those that are seen: sd is read off the interval. Both
    are uncertain, and of new seeds that are like these about half have an interval without 0 at that n: it is the order of what
    settles it, and no promise.

    Args:
        estimate: an interval over at least three seeds; two know next to nothing of the spread.
        level: that of the interval.
        others: as of `deviation`.

    Returns:
        None where nothing is known of the spread, the difference is 0, or it takes more than `MOST_SEEDS`.

    """
    if estimate.method != "seeds" or estimate.seeds < FEWEST or estimate.high is None or estimate.value == 0:
        return None
    sd = deviation(estimate, level, others)
    return next(
        (
            n
            for n in range(2, MOST_SEEDS + 1)
            if quantile(others + n - 1, level) * sd / math.sqrt(n) < abs(estimate.value)
        ),
        None,
    )


def simultaneous(level: float, count: int) -> float:
    """The level of each of ``count`` intervals that hold together with probability ``level``."""
    return 1 - (1 - level) / max(count, 1)


def over_seeds(values: Sequence[Measured], level: float) -> Estimate:
    """The mean over seeds; of one seed, the number and its sampling interval."""
    one = len(values) == 1
    estimate = (
        _by_sampling(values[0].value, values, level) if one else _t_interval([number.value for number in values], level)
    )
    ends = [(number.low, number.high) for number in values if number.low is not None and number.high is not None]
    if (one or estimate.low == estimate.high) and len(ends) == len(values):
        return replace(estimate, low=min(low for low, _ in ends), high=max(high for _, high in ends))
    return estimate


def difference(arm: Mapping[int, Measured], baseline: Mapping[int, Measured], level: float) -> Estimate:
    """Arm minus baseline, each by seed: paired over the seeds that both have; unpaired where there is none."""
    seeds = [seed for seed in arm if seed in baseline]
    if not seeds:
        return _unpaired(list(arm.values()), list(baseline.values()), level)
    differences = [arm[seed].value - baseline[seed].value for seed in seeds]
    if len(seeds) > 1:
        of_seeds = _t_interval(differences, level)
        by_sampling = [_by_sampling(0.0, [arm[seed], baseline[seed]], level) for seed in seeds]
        half = max((one.high for one in by_sampling if one.high is not None), default=0.0)
        if of_seeds.low == of_seeds.high:
            return replace(of_seeds, low=of_seeds.value - half, high=of_seeds.value + half)
        return of_seeds
    return _by_sampling(differences[0], [arm[seeds[0]], baseline[seeds[0]]], level)


def _t_interval(values: Sequence[float], level: float) -> Estimate:
    mean, n = fmean(values), len(values)
    half = quantile(n - 1, level) * stdev(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n, "seeds")


def _unpaired(arm: Sequence[Measured], baseline: Sequence[Measured], level: float) -> Estimate:
    """Welch's interval for the difference of two means; none where an arm has one seed."""
    x, y = ([number.value for number in side] for side in (arm, baseline))
    value, seeds = fmean(x) - fmean(y), min(len(x), len(y))
    if seeds < 2:
        return Estimate(value, None, None, seeds, "none")
    v, w = variance(x) / len(x), variance(y) / len(y)
    if v + w == 0:
        return Estimate(value, value, value, seeds, "unpaired")
    freedom = (v + w) ** 2 / (v**2 / (len(x) - 1) + w**2 / (len(y) - 1))
    half = quantile(freedom, level) * math.sqrt(v + w)
    return Estimate(value, value - half, value + half, seeds, "unpaired")


def _by_sampling(value: float, of: Sequence[Measured], level: float) -> Estimate:
    errors = [number.error for number in of if number.error is not None]
    if len(errors) < len(of):
        return Estimate(value, None, None, 1, "none")
    half = quantile(min(number.freedom for number in of), level) * math.hypot(*errors)
    return Estimate(value, value - half, value + half, 1, "sampling")


def quantile(freedom: float, level: float) -> float:
    """Student's t: how many standard errors an interval of this level reaches to each side."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))
