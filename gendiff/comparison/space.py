r"""Space: over which settings a study searches.

    schedule.f_max=0.05..2:log      a real number between two ends, here with as many tries in each decade,
    N=100..1000:step=100            a whole number, where both ends are written as one, in steps;
    model.dropout=0.0..0.5          a real one has a point or an exponent in an end,
    rotation=dct,identity           one of several values; one that has a comma stands in quotes.

Keys are those of an arm (`gendiff.comparison.arm`), and what a trial sets is one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gendiff.comparison.sweep import values
from gendiff.errors import ConfigError, did_you_mean

FIX = "write --over KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=VALUE,VALUE, such as --over schedule.f_max=0.05..2:log"
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*(?::(.*))?")
_WHOLE = re.compile(r"[+-]?\d+")
_QUOTED = re.compile(r"[\s,'\"\[]")
_KEY = re.compile(r"[\w-]+(?:\.[\w-]+)*")


@dataclass(frozen=True)
class Dimension:
    """One setting, and the values that are tried.

    Args:
        key: of an arm.
        low, high: ends of a range, both of it; whole numbers where it is one of these.
        log: whether its logarithm is searched evenly.
        step: between neighbouring values; None where all are tried.
        choices: the values, where it is no range.

    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Dimension:
        """Read ``KEY=LOW..HIGH``, with ``:log`` or ``:step=S`` after it, or ``KEY=VALUE,VALUE``; raises `ConfigError`."""
        key, equals, said = (part.strip() for part in text.partition("="))
        if not equals or not _KEY.fullmatch(key):
            raise ConfigError(f"'{text}' is no key with values", where="--over", fix=FIX)
        where = f"--over '{text}'"
        match = _RANGE.fullmatch(said)
        if match is None:
            if ".." in said and "," not in said:
                raise ConfigError(f"cannot read the range '{said}' of '{key}'", where=where, fix=FIX)
            choices = tuple(values(text, "--over", FIX))
            if len(choices) < 2:
                raise ConfigError(
                    f"'{key}' has the one value '{choices[0]}', and nothing to choose from", where=where, fix=FIX
                )
            return cls(key, choices=choices)
        whole = all(_WHOLE.fullmatch(end) for end in match.groups()[:2])
        low, high = (int(end) if whole else float(end) for end in match.groups()[:2])
        if low >= high:
            raise ConfigError(
                f"the range {match[1]}..{match[2]} of '{key}' is empty",
                where=where,
                details=["allowed: a low end below the high one"],
                fix=FIX,
            )
        log, step = _way(key, match[3], where, whole)
        if log and low <= 0:
            raise ConfigError(
                f"the range {match[1]}..{match[2]} of '{key}' has no logarithm",
                where=where,
                details=["allowed: a low end above 0, where a range is searched by its logarithm"],
                fix="raise the low end, or leave :log out",
            )
        if step is not None and step > high - low:
            raise ConfigError(
                f"a step of {step:g} leads out of the range of '{key}'", where=where, fix="make it smaller"
            )
        return cls(key, low, high, log, step)

    @property
    def text(self) -> str:
        """What `parse` reads as the same."""
        if self.choices:
            choices = (_quoted(one) if _QUOTED.search(one) else one for one in self.choices)
            return f"{self.key}={','.join(choices)}"
        way = ":log" if self.log else f":step={self.step!r}" if self.step is not None else ""
        return f"{self.key}={self.low!r}..{self.high!r}{way}"

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and not self.choices

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values at which it is looked whether they can be at all."""
        return self.choices or (self.low, self.high)


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"


def _way(key: str, text: str | None, where: str, whole: bool) -> tuple[bool, float | None]:
    """Whether a range is searched by its logarithm, and in which steps."""
    if text is None:
        return False, None
    name, _, number = text.strip().partition("=")
    if name == "log" and not number:
        return True, None
    if name == "step" and (_WHOLE if whole else re.compile(_NUMBER)).fullmatch(number) and float(number) > 0:
        return False, int(number) if whole else float(number)
    raise ConfigError(
        f"cannot read ':{text}' after the range of '{key}'",
        where=where,
        details=[
            f"allowed: :log, :step=S{', S a whole number as the ends are' * whole}",
            did_you_mean(name, ["log", "step"]),
        ],
        fix=FIX,
    )


def space(texts: Sequence[str]) -> tuple[Dimension, ...]:
    """The dimensions that texts describe, a component before its parameters.

    Raises:
        ConfigError: for one that cannot be read, a key that is there twice, and where there are none.

    """
    if not texts:
        raise ConfigError("a study has nothing to search over", where="--over", details=[], fix=FIX)
    dimensions = [Dimension.parse(text) for text in texts]
    keys = [one.key for one in dimensions]
    if again := next((key for key in keys if keys.count(key) > 1), None):
        raise ConfigError(f"'{again}' is there twice", where="--over", fix="give it one range")
    return tuple(sorted(dimensions, key=lambda one: one.key.count(".")))


def words(values: Mapping[str, Any]) -> str:
    """What a trial sets, as the text of an arm; numbers to the last bit."""
    return shlex.join(f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in values.items())
