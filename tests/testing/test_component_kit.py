"""What the kit asks of any component, and how a kind that gendiff does not know brings its own checks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from flaws import FROZEN, NAMED, SENT, WRITTEN, Fails, Mutant, assert_found, titles
from parts import DoubledWhenRead, Ramp
from pydantic import ConfigDict, PrivateAttr, field_serializer

from gendiff import Component
from gendiff.testing import Line, check, checks, require, score
from gendiff.testing.card import _CHECKS

fails = Fails()


@fails(NAMED, "expected a name of lower-case words joined by hyphens; seen: 'two words'")
class TwoWords(Ramp):
    """has a space in its name."""

    name = "two words"


@fails(NAMED, "joined by hyphens; seen: 'Sine'")
class Capital(Ramp):
    """has a capital letter in its name."""

    name = "Sine"


@fails(NAMED, "joined by hyphens; seen: 'a_b'")
class Underscore(Ramp):
    """has an underscore in its name."""

    name = "a_b"


@fails(NAMED, "expected a docstring whose first line says what it is; seen: none")
class Silent(Ramp):
    pass


@fails(WRITTEN, "seen: TypeError: .*NoneType")
class NoneInside(Ramp):
    parts: tuple[int | None, ...] = (1, None)


@fails(WRITTEN, r"expected the parameters \{'rate': 0.123456\}; seen: \{'rate': 0.12\}")
class Rounded(Ramp):
    rate: float = 0.123456

    @field_serializer("rate")
    def _short(self, rate: float) -> float:
        return round(rate, 2)


fails(WRITTEN, r"seen: \{'name': 'mutant', 'rate': 4.0\}")(DoubledWhenRead)


@fails(FROZEN, "expected parameters that cannot be changed in place; seen: knots is a list; look at .* use a tuple")
class ListOfKnots(Ramp):
    knots: list[float] = [1.0, 2.0]


@fails(FROZEN, "expected parameters that cannot be set; seen: rate can")
class NotFrozen(Ramp):
    model_config = ConfigDict(frozen=False)
    rate: float = 1.0


@fails(SENT, "seen: TypeError: cannot pickle '_thread.lock' object")
class HoldsALock(Ramp):
    _lock: Any = PrivateAttr(default_factory=threading.Lock)


class Forgets(Ramp):
    """comes back with its defaults."""

    rate: float = 1.0

    def __reduce__(self) -> Any:
        return Forgets, ()


fails.append(Mutant(SENT, "expected itself again; seen: another", lambda: Forgets(rate=2), "schedule", "Forgets"))


def local_class() -> Component:
    class Local(Ramp):
        """a class that pickle cannot find."""

    return Local()


fails.append(Mutant(SENT, r"seen: \w+: .*Local", local_class, "schedule", "local_class"))


# --- a kind that gendiff does not know ----------------------------------------------------------------------------------


class Taste(Component):
    """somebody else's interface."""

    kind: ClassVar[str] = "taste"
    salt: float = 1.0


class Salty(Taste):
    """more of it."""

    name = "salty"


@pytest.fixture
def taste() -> Iterator[None]:
    @check("taste", "it is not too salty", "`salt`")
    def mild(taste: Taste) -> str:
        require(taste.salt < 2, "salt < 2", f"{taste.salt:g}")
        return f"{taste.salt:g}"

    yield
    del _CHECKS["taste"]


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("component") <= fails.titles


def test_a_new_kind_brings_its_own_checks(taste):
    assert [one.title for one in checks(Salty())] == [NAMED, WRITTEN, FROZEN, SENT, "it is not too salty"]
    lines = list(score(Salty(salt=3)))
    assert [line.passed for line in lines] == [True, True, True, True, False]
    assert lines[-1] == Line("it is not too salty", False, "3", "salt < 2", "`salt`")
    assert all(line.passed for line in score(Salty()))


def test_a_new_kind_without_checks_has_those_of_any_component():
    assert [one.title for one in checks(Salty())] == [NAMED, WRITTEN, FROZEN, SENT]
