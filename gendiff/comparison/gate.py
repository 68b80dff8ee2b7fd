r"""Gate: a condition that every arm must meet, for continuous integration.

    gate    := sum ("<=" | "<" | ">=" | ">") sum
    sum     := product (("+" | "-") product)*
    product := factor (("*" | "/") factor)*
    factor  := number | "-" factor | "(" sum ")" | name [".low" | ".high"]
    name    := a number of the comparison, such as fid | "baseline" | "difference"

A gate is about one number: ``baseline`` is that number of the first arm, and ``difference`` arm minus baseline; alone they are
about the first number. Values are means over seeds, ``.low`` and ``.high`` the ends of the interval that the table shows. It is
read by this module, and nothing in it is executed.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gendiff.comparison.difference import Estimate
from gendiff.errors import ConfigError, did_you_mean

LONGEST = 200  # characters: what is nested deeper than that is no gate
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}
_RELATIVE = ("baseline", "difference")
_NUMBER = re.compile(r"\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[A-Za-z_][\w.-]*")
_FIX = 'write it like "fid <= baseline * 1.02"; docs/compare.md has the grammar'

#: The number that a name stands for, in the arm at hand.
Lookup = Callable[[str], Estimate]
Term = Callable[[Lookup], float]


@dataclass(frozen=True)
class Gate:
    """A condition.

    Args:
        text: as it was given.
        name: the number that it is about.

    """

    text: str
    name: str
    _left: Term
    _right: Term
    _relation: str

    @classmethod
    def parse(cls, text: str, names: Sequence[str]) -> Gate:
        """Read a gate about one of ``names``, the first where it names none; raises `ConfigError` saying where it fails."""
        return _Parser(text, names).gate()

    def sides(self, lookup: Lookup) -> tuple[float, float]:
        """What stands left and right for an arm, whose numbers ``lookup`` knows by name."""
        try:
            return self._left(lookup), self._right(lookup)
        except ZeroDivisionError as error:
            raise ConfigError(f"the gate '{self.text}' divides by zero", where="--gate") from error

    def passes(self, lookup: Lookup) -> bool:
        """Whether an arm meets it; a side that is not a number meets nothing."""
        return _COMPARE[self._relation](*self.sides(lookup))


class _Parser:
    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.text = text
        self.names = names
        self.used_names: set[str] = set()
        if len(text) > LONGEST:
            raise ConfigError(f"a gate of {len(text)} characters", where="--gate", fix=f"at most {LONGEST}")
        self.place = 0
        self._skip()

    def gate(self) -> Gate:
        left = self._sum()
        relation = next((sign for sign in _COMPARE if self._take(sign)), None)
        if relation is None:
            raise self._error("expected <=, <, >= or >")
        right = self._sum()
        if self.place < len(self.text):
            raise self._error("expected the end")
        about = [name for name in self.names if name in self.used_names]
        if len(about) > 1:
            raise ConfigError(
                f"the gate '{self.text}' is about several numbers: {', '.join(about)}",
                where="--gate",
                fix="write one gate for each: --gate may be given again",
            )
        if not self.used_names:
            raise ConfigError(f"the gate '{self.text}' is about no number of the comparison", where="--gate", fix=_FIX)
        return Gate(self.text, about[0] if about else self.names[0], left, right, relation)

    def _sum(self) -> Term:
        term = self._product()
        while True:
            if self._take("+"):
                term = _both(operator.add, term, self._product())
            elif self._take("-"):
                term = _both(operator.sub, term, self._product())
            else:
                return term

    def _product(self) -> Term:
        term = self._factor()
        while True:
            if self._take("*"):
                term = _both(operator.mul, term, self._factor())
            elif self._take("/"):
                term = _both(operator.truediv, term, self._factor())
            else:
                return term

    def _factor(self) -> Term:
        if self._take("-"):
            inner = self._factor()
            return lambda lookup: -inner(lookup)
        if self._take("("):
            inner = self._sum()
            if not self._take(")"):
                raise self._error("expected )")
            return inner
        if number := _NUMBER.match(self.text, self.place):
            self._move(number.end())
            value = float(number[0])
            return lambda lookup: value
        return self._name()

    def _name(self) -> Term:
        # The longest name that fits: "fd-pixels" is one name, not fd minus pixels.
        rest = self.text[self.place :]
        for name in sorted((*self.names, *_RELATIVE), key=len, reverse=True):
            if rest.startswith(name) and not re.match(r"\w", rest[len(name) :]):
                self.used_names.add(name)
                end = next((end for end in (".low", ".high") if rest.startswith(end, len(name))), "")
                self._move(self.place + len(name) + len(end))
                return _value(name, end, self.text)
        word = _WORD.match(rest)
        if word is None:
            raise self._error("expected a number, a name or (")
        raise ConfigError(
            f"the gate '{self.text}' names '{word[0]}', which this comparison does not have",
            where="--gate",
            details=[f"known: {', '.join((*self.names, *_RELATIVE))}", did_you_mean(word[0], self.names)],
        )

    def _take(self, sign: str) -> bool:
        if not self.text.startswith(sign, self.place):
            return False
        self._move(self.place + len(sign))
        return True

    def _move(self, place: int) -> None:
        self.place = place
        self._skip()

    def _skip(self) -> None:
        while self.place < len(self.text) and self.text[self.place].isspace():
            self.place += 1

    def _error(self, complaint: str) -> ConfigError:
        rest = self.text[self.place : self.place + 12] or "the end"
        return ConfigError(
            f"cannot read the gate '{self.text}': {complaint} at character {self.place + 1}, found '{rest}'",
            where="--gate",
            fix=_FIX,
        )


def _both(operation: Callable[[float, float], float], left: Term, right: Term) -> Term:
    return lambda lookup: operation(left(lookup), right(lookup))


def _value(name: str, end: str, text: str) -> Term:
    def value(lookup: Lookup) -> float:
        estimate = lookup(name)
        number = {"": estimate.value, ".low": estimate.low, ".high": estimate.high}[end]
        if number is None:
            raise ConfigError(
                f"the gate '{text}' asks for {name}{end}, and there is no interval",
                where="--gate",
                fix="use more seeds: --seeds 3",
            )
        return number

    return value
