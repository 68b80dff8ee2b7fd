"""Spreads of three seeds, completed by those of other comparisons: the model, its limits, and how often it is wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2, t

from gendiff.comparison import moderation
from gendiff.comparison.difference import Estimate, Measured, difference, quantile, settling_seeds, simultaneous
from gendiff.comparison.moderation import MOST, Spread

LEVEL = 0.95
SEEDS, ARMS, COUNTS = 3, 8, 5


def estimates(values: np.ndarray, level: float = LEVEL) -> list[Estimate]:
    """Paired differences, one for each column of ``(seeds, comparisons)``."""
    nothing = dict.fromkeys(range(len(values)), Measured(0.0))
    return [difference({s: Measured(v) for s, v in enumerate(column)}, nothing, level) for column in values.T]


def test_spreads_of_the_model_give_its_numbers_back(monkeypatch):
    monkeypatch.setattr(moderation, "CAUTION", 1.0)
    rng, count, freedom, relative = np.random.default_rng(0), 20_000, 6.0, 0.3
    scales = np.exp(rng.standard_normal(count))
    deviations = scales * relative * np.sqrt(freedom / chi2.rvs(freedom, size=count, random_state=rng))
    found = Spread.of(estimates(deviations * rng.standard_normal((SEEDS, count))), list(scales), LEVEL)
    assert found.freedom == pytest.approx(freedom, rel=0.15)
    assert found.relative == pytest.approx(relative, rel=0.02)


def test_the_interval_is_that_of_both_spreads():
    one = estimates(np.array([[1.0], [2.0], [6.0]]))[0]
    m, own = 5.0, 7.0  # the variance of 1, 2, 6
    moderated = Spread(4.0, 0.2).moderate(one, m, LEVEL)
    s = math.sqrt((4 * (0.2 * m) ** 2 + 2 * own) / 6)
    half = t.ppf((1 + LEVEL) / 2, 6) * s / math.sqrt(3)
    assert (moderated.low, moderated.high) == pytest.approx((3 - half, 3 + half))
    assert replace(moderated, low=one.low, high=one.high) == one
    assert settling_seeds(replace(moderated, value=1.0, low=1 - half, high=1 + half), LEVEL, 4.0) == next(
        n for n in range(2, 1000) if t.ppf((1 + LEVEL) / 2, 3 + n) * s / math.sqrt(n) < 1
    )


def test_spreads_that_are_alike_count_as_known_and_wild_ones_for_nothing():
    signs = np.array([[-1.0], [0.0], [1.0]])
    alike = Spread.of(estimates(signs * np.ones(40)), [2.0] * 40, LEVEL)
    assert alike.freedom == MOST
    assert alike.relative == pytest.approx(0.5 * math.exp(-moderation._mean_log(2) / 2), rel=1e-3)
    wild = Spread.of(estimates(signs * 10.0 ** np.arange(-8, 8)), [1.0] * 16, LEVEL)
    assert wild.freedom < 0.2


def test_units_do_not_matter():
    values = np.random.default_rng(1).standard_normal((SEEDS, 12))
    scales = list(np.linspace(1, 2, 12))
    plain, large = estimates(values), estimates(1e6 * values)
    of_plain, of_large = Spread.of(plain, scales, LEVEL), Spread.of(large, [1e6 * m for m in scales], LEVEL)
    assert of_large.freedom == pytest.approx(of_plain.freedom)
    for one, other, m in zip(plain, large, scales, strict=True):
        assert of_large.moderate(other, 1e6 * m, LEVEL).high == pytest.approx(
            1e6 * of_plain.moderate(one, m, LEVEL).high
        )


def test_what_has_no_spread_over_seeds_stays_as_it_is():
    of_one_seed = [Estimate(1.0, 0.5, 1.5, 1, "sampling")] * 10
    equal = estimates(np.zeros((SEEDS, 10)))
    few = estimates(np.random.default_rng(2).standard_normal((SEEDS, moderation.FEWEST - 1)))
    for these in (of_one_seed, equal, few):
        spread = Spread.of(these, [1.0] * len(these), LEVEL)
        assert spread == Spread(0.0, 0.0)
        assert [spread.moderate(one, 1.0, LEVEL) for one in these] == these
    spread = Spread(5.0, 0.1)
    for one in (*of_one_seed, *equal):
        assert spread.moderate(one, 1.0, LEVEL) == one
    assert spread.moderate(few[0], -0.1, LEVEL) == few[0]  # an unbiased number may be below 0


def named(rng: np.random.Generator, deviations: np.ndarray, shared: float, effect: float = 0.0) -> np.ndarray:
    """Which comparisons of an experiment exclude 0, ``(2, arms, counts)``: moderated, and by Student's intervals.

    ``shared`` is the part of the variance that comparisons with one arm have in common; the first arm differs by ``effect``
    standard deviations.
    """
    luck = math.sqrt(shared) * rng.standard_normal((SEEDS, ARMS, 1))
    values = luck + math.sqrt(1 - shared) * rng.standard_normal((SEEDS, ARMS, COUNTS))
    values[:, 0] += effect
    level = simultaneous(LEVEL, ARMS * COUNTS)
    plain = estimates((values * deviations).reshape(SEEDS, -1), level)
    spread = Spread.of(plain, [20.0] * len(plain), level)
    both = plain, [spread.moderate(one, 20.0, level) for one in plain]
    return np.array([[one.excludes_zero for one in which] for which in reversed(both)]).reshape(2, ARMS, COUNTS)


SPREADS = {
    "all alike": lambda rng: np.ones((ARMS, 1)),
    "by some": lambda rng: np.exp(0.5 * rng.standard_normal((ARMS, 1))),
    "by much": lambda rng: np.exp(rng.standard_normal((ARMS, 1))),
    "one of them wild": lambda rng: np.where(np.arange(ARMS) == 1, 30.0, 1.0)[:, None],
}


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.9])
@pytest.mark.parametrize("spreads", SPREADS.values(), ids=SPREADS)
def test_where_nothing_differs_it_is_wrong_no_more_often_than_its_level_says(spreads, shared):
    rng, times = np.random.default_rng(3), 400
    wrong = sum(named(rng, spreads(rng), shared)[0].any() for _ in range(times))
    most = 1 - LEVEL
    assert wrong <= times * most + 2 * math.sqrt(times * most * (1 - most))


@pytest.mark.parametrize(("spreads", "least"), zip(SPREADS.values(), (0.7, 0.4, 0.2, 0.1), strict=True), ids=SPREADS)
def test_three_seeds_see_four_standard_deviations(spreads, least):
    rng = np.random.default_rng(4)
    seen = np.array([named(rng, spreads(rng), 0.5, effect=4.0)[:, 0] for _ in range(60)])
    moderated, student = seen.mean((0, 2))
    assert moderated > least
    assert moderated > student


def test_quantiles_end_where_those_of_the_normal_distribution_begin():
    assert quantile(MOST, 0.99875) == pytest.approx(3.227, rel=5e-3)
