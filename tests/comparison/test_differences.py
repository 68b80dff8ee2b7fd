"""Comparison: what may be said of differences, and gates on them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from gendiff.comparison.difference import Estimate, Measured, difference, over_seeds, settling_seeds, simultaneous
from gendiff.comparison.gate import Gate
from gendiff.comparison.verdict import outcome, verdict
from gendiff.errors import ConfigError
from gendiff.evaluation.distances import Interval
from gendiff.evaluation.number import bounds

ARM, BASELINE = [3.1, 2.7, 3.9, 2.2], [2.9, 2.4, 3.0, 2.5]


def measured(values, seeds=None, error=None):
    return {seed: Measured(value, error, 19) for seed, value in zip(seeds or range(len(values)), values, strict=True)}


class TestIntervals:
    @pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
    def test_of_a_mean_over_seeds_is_students(self, level):
        found = over_seeds(list(measured(ARM).values()), level)
        wanted = stats.t.interval(level, 3, np.mean(ARM), stats.sem(ARM))
        assert (found.low, found.high) == pytest.approx(wanted, abs=1e-12)
        assert (found.value, found.seeds, found.method) == (pytest.approx(np.mean(ARM)), 4, "seeds")

    @pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
    def test_of_a_difference_is_that_of_the_paired_t_test(self, level):
        found = difference(measured(ARM), measured(BASELINE), level)
        wanted = stats.ttest_rel(ARM, BASELINE).confidence_interval(level)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
        assert found.excludes_zero == (stats.ttest_rel(ARM, BASELINE).pvalue < 1 - level)

    def test_pairs_are_made_by_seed_and_over_the_seeds_that_both_have(self):
        arm, baseline = measured(ARM, [0, 1, 2, 3]), measured([2.5, 9.9, 3.0, 2.4], [3, 7, 2, 1])
        found = difference(arm, baseline, 0.95)
        wanted = stats.ttest_rel([2.7, 3.9, 2.2], [2.4, 3.0, 2.5]).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
        assert found.seeds == 3

    def test_without_a_common_seed_it_is_welchs(self):
        found = difference(measured(ARM), measured(BASELINE[:3], [7, 8, 9]), 0.95)
        wanted = stats.ttest_ind(ARM, BASELINE[:3], equal_var=False).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
        assert found.method == "unpaired"
        lonely = difference(measured([1.0], [1], 0.1), measured([2.0], [2], 0.1), 0.95)
        assert (lonely.low, lonely.high, lonely.method) == (None, None, "none")

    def test_one_seed_has_the_interval_of_sampling_and_says_so(self):
        half = stats.t.ppf(0.975, 19) * math.hypot(0.3, 0.4)
        found = difference(measured([5.0], error=0.3), measured([4.0], error=0.4), 0.95)
        assert (found.low, found.high) == pytest.approx((1 - half, 1 + half))
        assert (found.seeds, found.method) == (1, "sampling")
        assert over_seeds([Measured(5.0)], 0.95) == Estimate(5.0, None, None, 1, "none")

    def test_the_error_by_sampling_is_read_off_an_interval(self):
        one = Interval.of(2.0, [1.9, 2.3, 2.2, 1.8], n=100, size=50, level=0.9)
        again = over_seeds([Measured.of_interval(2.0, one.low, one.high, 0.9, 4)], 0.9)
        assert (again.low, again.high) == pytest.approx((one.low, one.high))

    def test_together_they_hold_as_often_as_they_say(self):
        """Four arms that are all equal to the baseline, three seeds: a false finding in one of twenty comparisons, at most."""
        rng = np.random.default_rng(7)
        level, wrong, trials = simultaneous(0.95, 4), 0, 1500
        for _ in range(trials):
            luck = rng.normal(size=(5, 3)) + 10 * rng.normal(size=3)  # the luck of a seed is shared, and large
            found = [difference(measured(arm), measured(luck[0]), level) for arm in luck[1:]]
            wrong += any(one.excludes_zero for one in found)
        assert 0.01 < wrong / trials < 0.065

    def test_equal_arms_do_not_differ(self):
        found = difference(measured(ARM), measured(ARM), 0.95)
        assert (found.value, found.low, found.high) == (0, 0, 0)
        assert not found.excludes_zero

    def test_where_no_seed_differs_the_chance_of_sampling_is_left(self):
        """Two runs without any recall: what 0 of 64 is known to be, and no certainty."""
        none = {seed: Measured.of_interval(0.0, 0.0, 0.056, 0.95, 20) for seed in (0, 1)}
        found = over_seeds(list(none.values()), 0.95)
        assert (found.value, found.low, found.high, found.method) == (0.0, 0.0, 0.056, "seeds")
        apart = difference(none, none, 0.95)
        assert apart.value == 0
        assert -apart.low == apart.high == pytest.approx(0.028 * 2**0.5)
        lonely = over_seeds([none[0]], 0.95)
        assert (lonely.low, lonely.high) == (0.0, 0.056)

    def test_an_interval_holds_nothing_that_the_number_cannot_be(self):
        wide = over_seeds(list(measured([0.6, 0.8]).values()), 0.95)
        assert wide.low < 0 < 1 < wide.high
        assert replace(wide, low=0.0, high=1.0) == wide.within(bounds("recall-pixels"))
        assert wide.within(bounds("fd-pixels")).low == 0
        assert wide.within(bounds("kd-pixels")) == wide.within(bounds("moments.error")) == wide
        nothing = Estimate(0.5, None, None, 1, "none")
        assert nothing.within((0.0, 1.0)) == nothing


class TestSettling:
    """How many seeds would settle a difference, were it as it is seen."""

    @pytest.mark.parametrize(("level", "spread"), [(0.95, 0.5), (0.95, 2.0), (0.975, 1.0)])
    def test_it_is_the_least_number_at_which_the_same_mean_and_spread_exclude_zero(self, level, spread):
        values = [1 + spread * z for z in (-1.2, 0.1, 1.1)]  # mean 1
        found = difference(measured(values), measured([0, 0, 0]), level)
        n = settling_seeds(found, level)
        mean, sd = np.mean(values), np.std(values, ddof=1)
        excludes = [k for k in range(2, 500) if stats.t.interval(level, k - 1, mean, sd / k**0.5)[0] > 0]
        assert n == excludes[0]
        assert (n > 3) == (not found.excludes_zero)

    def test_a_difference_of_the_other_sign_needs_as_many(self):
        up, down = ([sign * value for value in (0.3, 1.4, 2.2)] for sign in (1, -1))
        counts = [settling_seeds(difference(measured(d), measured([0, 0, 0]), 0.95), 0.95) for d in (up, down)]
        assert counts[0] == counts[1] > 3

    def test_at_that_many_seeds_it_is_seen_about_as_often_as_not(self):
        rng = np.random.default_rng(3)
        first = difference(measured([0.2, 0.5, 1.1, -0.1]), measured([0] * 4), 0.95)
        n = settling_seeds(first, 0.95)
        sd = (first.high - first.value) * 2 / stats.t.ppf(0.975, 3)
        draws = rng.normal(first.value, sd, (2000, n))
        seen = sum(difference(measured(d), measured([0] * n), 0.95).excludes_zero for d in draws) / len(draws)
        assert 0.4 < seen < 0.6

    def test_where_nothing_is_known_nothing_is_said(self):
        none = [
            Estimate(1, 0.5, 1.5, 1, "sampling"),
            Estimate(1, None, None, 1, "none"),
            Estimate(0, -1, 1, 3, "seeds"),
        ]
        assert [settling_seeds(one, 0.95) for one in none] == [None] * 3
        assert settling_seeds(Estimate(1e-9, -1, 1, 3, "seeds"), 0.95) is None  # more than anybody trains


def estimate(value, low=None, high=None, seeds=3, method="seeds"):
    return Estimate(value, low, high, seeds, method if low is not None else "none")


class TestVerdict:
    @pytest.mark.parametrize(
        ("interval", "larger", "said"),
        [
            ((-2, -1), False, "better"),
            ((-2, -1), True, "worse"),
            ((1, 2), False, "worse"),
            ((1, 2), True, "better"),
            ((-1, 2), False, "undecided"),
            ((-1, 0), False, "undecided"),
            ((None, None), False, "undecided"),
        ],
    )
    def test_an_outcome_needs_an_interval_without_zero(self, interval, larger, said):
        low, high = interval
        middle = 5 if low is None else (low + high) / 2
        assert outcome(estimate(middle, low, high), larger) == said

    def test_the_headline_says_what_is_seen_and_what_is_not(self):
        values = {
            "base": estimate(3),
            "good": estimate(2),
            "best": estimate(1),
            "bad": estimate(9),
            "same": estimate(3.1),
        }
        found = verdict(
            "fid",
            "base",
            values,
            {
                "good": estimate(-1, -1.5, -0.5),
                "best": estimate(-2, -3, -1),
                "bad": estimate(6, 5, 7),
                "same": estimate(0.1, -1, 1.2),
            },
            False,
            0.95,
        )
        assert found.headline == (
            "best and good are better than base; bad is worse than base; no difference can be seen between base and same."
        )
        assert found.outcomes == {"good": "better", "best": "better", "bad": "worse", "same": "undecided"}
        assert any("same and base cannot be told apart: fid 3.1 against 3" in text for text in found.sentences)
        assert any("4 intervals hold together at 95%" in text for text in found.sentences)

    def test_nothing_to_be_seen(self):
        found = verdict("fid", "a", {"a": estimate(1), "b": estimate(2)}, {"b": estimate(1, -1, 3)}, False, 0.95)
        assert found.headline == "No difference can be seen between a and b."

    def test_where_nothing_is_shown_it_says_what_is_seen_and_how_many_seeds_would_settle_it(self):
        values = {"a": estimate(4), "b": estimate(3), "c": estimate(5)}
        found = verdict("fid", "a", values, {"b": estimate(-1, -3, 1), "c": estimate(1, 0.5, 1.5)}, False, 0.95)
        wanted = settling_seeds(estimate(-1, -3, 1), simultaneous(0.95, 2))
        assert found.seeds == {"b": wanted}
        (text,) = (text for text in found.sentences if "would settle it" in text)
        assert text == (
            "What is seen: b ahead of a by 25% of its number; were mean and spread over seeds what they are in these 3, "
            f"{wanted} seeds would settle it, as often as not."
        )
        far = verdict("fid", "a", values, {"b": estimate(-1e-6, -3, 3)}, True, 0.95)
        assert any("b behind a" in text and "more than 1000 seeds" in text for text in far.sentences)
        one = verdict("fid", "a", values, {"b": estimate(-1, -3, 1, 1, "sampling")}, False, 0.95)
        assert any("with one seed nothing can be said of how many" in text for text in one.sentences)

    def test_two_seeds_name_no_number_of_seeds_and_a_small_difference_is_called_small(self):
        values = {"a": estimate(4), "b": estimate(4)}
        two = verdict("fid", "a", values, {"b": estimate(-0.0105, -0.05, 0.03, 2)}, False, 0.95)
        assert two.seeds == {"b": None}
        (text,) = (text for text in two.sentences if text.startswith("What is seen"))
        assert "b ahead of a by 0.26% of its number; two seeds do not tell" in text
        assert "would settle it, as" not in text
        small = verdict("fid", "a", values, {"b": estimate(-0.01, -0.05, 0.03)}, False, 0.95)
        assert any(text.endswith("as often as not, if so small a difference matters.") for text in small.sentences)

    def test_one_seed_is_never_more_than_one_seed(self):
        values = {"a": estimate(1), "b": estimate(2)}
        found = verdict("fid", "a", values, {"b": estimate(1, 0.5, 1.5, 1, "sampling")}, False, 0.95)
        assert found.headline == "At this one seed, b is worse than a."
        assert any("b is worse than a at this seed" in text for text in found.sentences)
        assert any("nothing is known about other seeds" in text for text in found.sentences)

    def test_two_seeds_are_said_to_see_little(self):
        values = {"a": estimate(1), "b": estimate(2)}
        found = verdict("fid", "a", values, {"b": estimate(1, -9, 11, 2)}, False, 0.95)
        assert any("an interval reaches 13 standard errors" in text for text in found.sentences)

    def test_what_is_unfair_is_said(self):
        values = {"a": estimate(1), "b": estimate(2)}
        found = verdict("fid", "a", values, {"b": estimate(1, 0.5, 1.5)}, False, 0.95, ["the data differ"])
        assert "Not equal: the data differ" in found.sentences


NAMES = ["fid", "kid", "fd-random-conv", "spectrum.error"]
NUMBERS = {
    "fid": estimate(8, 7, 9),
    "kid": estimate(0.5, 0.4, 0.6),
    "fd-random-conv": estimate(3, 2.5, 3.5),
    "spectrum.error": estimate(1),
    "baseline": estimate(7.9, 7.5, 8.3),
    "difference": estimate(0.1, -0.2, 0.4),
}


class TestGate:
    @pytest.mark.parametrize(
        ("text", "passes"),
        [
            ("fid<=baseline*1.02", True),
            ("fid < baseline", False),
            (" fid.low <= baseline.high ", True),
            ("fid.high<=baseline*1.02", False),
            ("difference<=0.1", True),
            ("difference.high < .5", True),
            ("fd-random-conv-1<=2", True),
            ("spectrum.error>=1e0", True),
            ("kid*(2+3)-0.5 > 1.9", True),
            ("-kid < -(.4)", True),
            ("fid/2/2 >= 2", True),
            ("1+1*2 < kid*8", True),
            ("fid-kid*2 >= 7", None),
        ],
    )
    def test_passes(self, text, passes):
        if passes is None:
            with pytest.raises(ConfigError, match="about several numbers: fid, kid"):
                Gate.parse(text, NAMES)
        else:
            assert Gate.parse(text, NAMES).passes(NUMBERS.__getitem__) is passes

    def test_it_knows_what_it_is_about(self):
        assert Gate.parse("kid<=baseline", NAMES).name == "kid"
        assert Gate.parse("baseline<=1", NAMES).name == "fid"
        assert Gate.parse("fd-random-conv<=baseline*1.02", NAMES).sides(NUMBERS.__getitem__) == (
            3,
            pytest.approx(8.058),
        )

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "expected a number, a name or ( at character 1, found 'the end'"),
            ("fid", "expected <=, <, >= or >"),
            ("fid=1", "expected <=, <, >= or > at character 4, found '=1'"),
            ("fid<=1 2", "expected the end at character 8"),
            ("fid<=(1", "expected )"),
            ("fid<=*2", "expected a number"),
            ("1<=2", "about no number"),
            ("fdi<=1", "names 'fdi', which this comparison does not have"),
            ("__import__('os')<=1", "names '__import__'"),
            ("fid.median<=1", "expected <="),
            ("(" * 500 + "fid<=1", "a gate of 506 characters"),
        ],
    )
    def test_mistakes_are_explained(self, text, said):
        with pytest.raises(ConfigError) as raised:
            Gate.parse(text, NAMES)
        assert said in str(raised.value)
        assert "--gate" in str(raised.value)

    def test_deep_is_read(self):
        assert Gate.parse("(" * 90 + "fid" + ")" * 90 + "<=9", NAMES).passes(NUMBERS.__getitem__)

    def test_what_cannot_be_computed_is_no_verdict(self):
        with pytest.raises(ConfigError, match="divides by zero"):
            Gate.parse("fid/0<=1", NAMES).passes(NUMBERS.__getitem__)
        with pytest.raises(ConfigError, match="there is no interval"):
            Gate.parse("spectrum.error.high<=1", NAMES).passes(NUMBERS.__getitem__)
