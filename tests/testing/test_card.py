"""What a check says, and how the card of a component goes on."""

from __future__ import annotations

import hashlib
import math
from importlib import import_module

import pytest
from flaws import F_PROCESS, F_RANGE, F_SUM, NAMED, SNR, SPEED, titled
from parts import NegativeSchedule, Ramp

from gendiff import Rotation
from gendiff.plugin.registry import default_registry
from gendiff.testing import Check, CheckFailed, checks, require, score
from gendiff.testing.card import _CHECKS, largest


def test_score_goes_on_after_a_failure():
    lines = list(score(NegativeSchedule()))
    assert [line.title for line in lines] == [one.title for one in checks(NegativeSchedule())]
    failed = [line for line in lines if not line.passed]
    assert {line.title for line in failed} == {NAMED, F_RANGE, F_SUM, F_PROCESS, SNR}
    for line in lines:
        assert line.seen
        assert bool(line.expected) == bool(line.look) == (not line.passed)


def test_a_check_is_a_titled_callable():
    one = titled(Ramp(), F_RANGE)
    assert str(one) == F_RANGE
    assert one.subject == Ramp()
    assert one() == "f from 0.0001 to 0.1 at N = 1000"


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (ValueError("bad\nvalue"), "ValueError: bad value"),
        (AssertionError(""), "AssertionError:"),
        (SystemExit(2), "SystemExit: 2"),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_component_raises_is_a_failure_with_words(raised, seen):
    def function(subject: object) -> str:
        raise raised

    one = Check("a title", "a place", function, Ramp())
    with pytest.raises(CheckFailed) as caught:
        one()
    assert (caught.value.expected, caught.value.look) == ("no error", "a place")
    assert caught.value.seen.startswith(seen)
    assert caught.value.__cause__ is raised


def test_somebody_who_wants_to_stop_can():
    def function(subject: object) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Check("a title", "a place", function, Ramp())()


def test_a_check_may_say_where_to_look_itself():
    def function(subject: object) -> str:
        raise CheckFailed("this", "that", "here")

    with pytest.raises(CheckFailed, match=r"^expected this; seen: that; look at here$"):
        Check("a title", "there", function, Ramp())()
    assert str(CheckFailed("this", "that")) == "expected this; seen: that"


def test_require():
    require(True, "anything", "anything")
    with pytest.raises(CheckFailed, match="expected one; seen: two"):
        require(False, "one", "two")


def test_the_largest_error_is_not_lost():
    assert largest(1, 3, 2) == 3
    assert math.isnan(largest(1, math.nan))
    assert math.isnan(largest(math.nan, 1))


def test_checks_are_registered_once():
    for entry in default_registry().entries():
        import_module(f"gendiff.testing.{entry.kind}")
    for kind, found in _CHECKS.items():
        titles = [title for title, _, _ in found]
        assert len(set(titles)) == len(titles), kind
        for _, look, function in found:
            assert look, function
            assert function.__doc__, function


def test_nothing_of_a_check_depends_on_the_one_before():
    """The sum of what is seen is the same in any order, speeds aside."""
    subject = Rotation.model_validate("dct")
    found = [one for one in checks(subject) if one.title != SPEED]
    seen = [
        hashlib.sha256(repr(sorted((one.title, one()) for one in some)).encode()).hexdigest()
        for some in (found, found[::-1])
    ]
    assert seen[0] == seen[1]
