r"""Formula: numbers of a process in vectors over time and tables over components, as an expression that can be kept.

    L = over_time(log_alpha_bar) + 2 * over_time(F) * over_components(log_D)

is computed where it is asked for, at steps i, and stored as the few vectors and the expression itself, of operations that are
listed here: whoever opens it later needs no code of its author. It is never an N x d table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid as _logsigmoid

from gendiff.interpolation import between
from gendiff.shapes import per_event

MOST, DEEPEST = 256, 48  # operations in one formula, and inside each other

#: The operations, and of how many parts.
OPERATIONS: Mapping[str, tuple[int, Callable[..., Tensor]]] = {
    "+": (2, torch.add),
    "-": (2, torch.sub),
    "*": (2, torch.mul),
    "/": (2, torch.div),
    "neg": (1, torch.neg),
    "exp": (1, torch.exp),
    "expm1": (1, torch.expm1),
    "log": (1, torch.log),
    "log1p": (1, torch.log1p),
    "logsigmoid": (1, _logsigmoid),
    "logaddexp": (2, torch.logaddexp),
    "maximum": (2, torch.maximum),
}
LEAVES = ("time", "components")


@dataclass(frozen=True, repr=False)
class Formula:
    """An expression: an operation and its parts, or a leaf, ``time`` or ``components``, and its table.

    It is made of `over_time`, `over_components`, numbers, ``+ - * /`` and the functions of this module.
    """

    operation: str
    parts: tuple[Formula | Tensor | float, ...]

    def __call__(self, i: Tensor, ndim: int) -> Tensor:
        """Its values at steps ``i``, ``(B,)``: float64, ``(B, *diagonal)`` or what broadcasts to it, ``ndim`` axes besides B.

        At real steps its tables over time are read between their entries (`gendiff.interpolation`); a table that is linear in i
        is linear there too, so that what is written in ``over_time(t)`` is a formula in t.
        """
        if self.operation == "time":
            return per_event(between(self.table.__getitem__, i, len(self.table) - 1), ndim)
        if self.operation == "components":
            return self.table
        values = [
            part(i, ndim)
            if isinstance(part, Formula)
            else torch.full((), float(part), dtype=torch.float64, device=i.device)
            for part in self.parts
        ]
        value: Tensor = OPERATIONS[self.operation][1](*values)
        return value

    @property
    def table(self) -> Tensor:
        """That of a leaf."""
        (table,) = self.parts
        assert isinstance(table, Tensor)
        return table

    @property
    def device(self) -> torch.device:
        """Where its tables live."""
        return next(leaf.device for kind in LEAVES for leaf in self.leaves(kind))

    def to(self, device: torch.device) -> Formula:
        """The same with its tables on ``device``."""
        return self.map(lambda kind, table: table.to(device))

    def leaves(self, kind: str) -> Iterator[Tensor]:
        """The tables of its leaves of that kind."""
        if self.operation in LEAVES:
            yield from [self.table] if self.operation == kind else []
            return
        for part in self.parts:
            if isinstance(part, Formula):
                yield from part.leaves(kind)

    def map(self, change: Callable[[str, Tensor], Tensor]) -> Formula:
        """The same with other tables: ``change`` is given the kind of a leaf and its table."""
        if self.operation in LEAVES:
            return Formula(self.operation, (change(self.operation, self.table),))
        return Formula(
            self.operation, tuple(part.map(change) if isinstance(part, Formula) else part for part in self.parts)
        )

    @property
    def storable(self) -> bool:
        """Whether it is short enough to be kept: `read` takes no longer ones."""
        count, depth = self._size()
        return count <= MOST and depth <= DEEPEST

    def _size(self) -> tuple[int, int]:
        """How many operations it has, and how many inside each other."""
        sizes = [part._size() for part in self.parts if isinstance(part, Formula)]
        return 1 + sum(count for count, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)

    def __repr__(self) -> str:
        if self.operation in LEAVES:
            return f"{self.operation}{tuple(self.table.shape)}"
        if self.operation in "+-*/":
            return f"({self.parts[0]!r} {self.operation} {self.parts[1]!r})"
        return f"{self.operation}({', '.join(map(repr, self.parts))})"

    def __add__(self, other: Formula | float) -> Formula:
        return Formula("+", (self, other))

    def __radd__(self, other: float) -> Formula:
        return Formula("+", (other, self))

    def __sub__(self, other: Formula | float) -> Formula:
        return Formula("-", (self, other))

    def __rsub__(self, other: float) -> Formula:
        return Formula("-", (other, self))

    def __mul__(self, other: Formula | float) -> Formula:
        return Formula("*", (self, other))

    def __rmul__(self, other: float) -> Formula:
        return Formula("*", (other, self))

    def __truediv__(self, other: Formula | float) -> Formula:
        return Formula("/", (self, other))

    def __neg__(self) -> Formula:
        return Formula("neg", (self,))


def over_time(table: Tensor) -> Formula:
    """A number for each step, ``(N+1,)`` float64."""
    return Formula("time", (table,))


def over_components(table: Tensor) -> Formula:
    """A number for each component, float64 in the shape ``diagonal``, or one for all, ``()``."""
    return Formula("components", (table,))


def exp(x: Formula) -> Formula:
    """``e^x``."""
    return Formula("exp", (x,))


def expm1(x: Formula) -> Formula:
    """``e^x - 1``, exact for small x."""
    return Formula("expm1", (x,))


def log(x: Formula) -> Formula:
    """``ln x``."""
    return Formula("log", (x,))


def log1p(x: Formula) -> Formula:
    """``ln(1 + x)``, exact for small x."""
    return Formula("log1p", (x,))


def logsigmoid(x: Formula) -> Formula:
    """``-ln(1 + e^-x)``."""
    return Formula("logsigmoid", (x,))


def logaddexp(x: Formula, y: Formula) -> Formula:
    """``ln(e^x + e^y)``."""
    return Formula("logaddexp", (x, y))


def maximum(x: Formula, y: Formula | float) -> Formula:
    """The larger of both."""
    return Formula("maximum", (x, y))


def written(formula: Formula, tables: dict[str, Tensor]) -> list[Any]:
    """The expression in lists, for JSON; its tables go into ``tables``, under the names that the lists have."""
    if formula.operation in LEAVES:
        name = f"{formula.operation}.{len(tables)}"
        tables[name] = formula.table
        return [formula.operation, name]
    return [
        formula.operation,
        *(written(part, tables) if isinstance(part, Formula) else part for part in formula.parts),
    ]


def read(value: Any, tables: Mapping[str, Tensor]) -> Formula:
    """What `written` made, from whoever may have written it; raises `ValueError` for what is no formula."""
    formula, count = _read(value, tables, DEEPEST)
    if count > MOST:
        raise ValueError(f"a formula of {count} operations")
    return formula


def _read(value: Any, tables: Mapping[str, Tensor], depth: int) -> tuple[Formula, int]:
    if not isinstance(value, list) or not value or not isinstance(value[0], str) or depth == 0:
        raise ValueError(f"no formula: {str(value)[:40]}")
    operation, *rest = value
    if operation in LEAVES:
        table = tables.get(rest[0]) if len(rest) == 1 and isinstance(rest[0], str) else None
        if table is None or table.dtype != torch.float64 or (operation == "time" and table.ndim != 1):
            raise ValueError(f"a formula lacks the table {str(rest)[:40]}")
        return Formula(operation, (table,)), 1
    if operation not in OPERATIONS or len(rest) != OPERATIONS[operation][0]:
        raise ValueError(f"a formula knows no operation {operation[:20]!r} of {len(rest)}")
    parts, count = list[Formula | Tensor | float](), 1
    for part in rest:
        if isinstance(part, list):
            inner, more = _read(part, tables, depth - 1)
            parts.append(inner)
            count += more
        elif type(part) in (int, float) and math.isfinite(part):
            parts.append(float(part))
        else:
            raise ValueError(f"no part of a formula: {str(part)[:40]}")
    return Formula(operation, tuple(parts)), count
