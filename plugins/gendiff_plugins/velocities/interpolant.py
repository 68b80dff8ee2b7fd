"""A process that is written down as two formulas."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping

import torch
from pydantic import Field

from gendiff.blur import LOG_FLOOR
from gendiff.errors import ConfigError
from gendiff.formula import Formula, exp, log, logsigmoid, maximum, over_components, over_time
from gendiff.rotation import Rotation
from gendiff.scales import Scales, of_formulas
from gendiff.shapes import EventShape
from gendiff.velocity import Velocity, times

Value = Formula | float

FUNCTIONS: Mapping[str, tuple[Callable[[Formula], Formula], Callable[[float], float]]] = {
    "exp": (exp, math.exp),
    "log": (log, math.log),
    "sqrt": (lambda x: exp(0.5 * log(x)), math.sqrt),
    "sigmoid": (lambda x: exp(logsigmoid(x)), lambda x: 1 / (1 + math.exp(-x))),
}
OF_FREQUENCY = re.compile(r"\b(rho|r)\b")
ALLOWED = f"allowed: numbers, t = i/N, rho in radians, r = rho/max(rho), + - * / **, max(x, y), {', '.join(FUNCTIONS)}"


class Interpolant(Velocity):
    """a path of your own, per component: a and s as formulas of time and frequency.

    ``x̄_i = a x̄_0 + s ε̄`` with ``a`` and ``s`` as they are written: in t = i/N, the frequency rho of a component in radians and
    r = rho/max(rho), with ``+ - * / **``, ``max``, ``exp``, ``log``, ``sqrt`` and ``sigmoid``. Powers are of what is positive.
    A stochastic interpolant of Albergo, Boffi and Vanden-Eijnden with a path for each component:

        a="(1-t)**(1+r)",s=t                    fine detail leaves the straight path early
        a="sqrt(1-t**2)",s=t                    variance-preserving

    A formula with rho or r in it is one of a basis that has frequencies, such as ``dct``; one of t alone is for any.
    s must be positive for t > 0, a >= 0, and a/s must not rise; that is looked at when the process is made. A run keeps the
    formulas as they are, and nothing of them is executed as code.

    Reference: Albergo, Boffi, Vanden-Eijnden 2023, Stochastic Interpolants, arXiv 2303.08797.
    """

    name = "interpolant"

    a: str = Field("1 - t", description="what is left of the data, a formula of t, rho and r")
    s: str = Field("t", description="the std of the noise, a formula of t, rho and r")

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> Scales:
        rho = torch.zeros([1] * len(event_shape), dtype=torch.float64)
        if any(map(OF_FREQUENCY.search, (self.a, self.s))):
            rho = rotation.spread_frequencies(event_shape, "for rho and r of a formula")
        known = {
            "t": over_time(times(N)) * over_components(torch.ones_like(rho)),
            "rho": over_components(rho),
            "r": over_components(rho / rho.max().clamp_min(1e-12)),
        }
        log_a, log_s = (_logarithm(self._read(field, known), known) for field in ("a", "s"))
        return of_formulas(N, {"log_a": maximum(log_a, LOG_FLOOR), "log_s": log_s})

    def _read(self, field: str, known: Mapping[str, Formula]) -> Value:
        text = str(getattr(self, field))
        try:
            return _value(ast.parse(text.strip(), mode="eval").body, known)
        except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError) as error:
            why = "it is no expression" if isinstance(error, SyntaxError) else str(error)
            raise ConfigError(
                f"velocity 'interpolant' cannot read {field} = '{text:.60}': {why}",
                details=[ALLOWED],
                fix="write such as a='(1-t)**(1+r)', s=t",
                subject=f"velocity.{field}",
            ) from error


def _logarithm(value: Value, known: Mapping[str, Formula]) -> Formula:
    """``log value``, over time and components: a number is the same everywhere."""
    return log(value if isinstance(value, Formula) else 0 * known["t"] + value)


def _value(node: ast.expr, known: Mapping[str, Formula]) -> Value:
    """What an expression says; raises `ValueError` for what it may not hold."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, known)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, known)
        case ast.BinOp(left=left, op=op, right=right):
            return _combined(op, _value(left, known), _value(right, known))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            value = _value(argument, known)
            return FUNCTIONS[name][0](value) if isinstance(value, Formula) else FUNCTIONS[name][1](value)
        case ast.Call(func=ast.Name(id="max"), args=[first, second], keywords=[]):
            one, other = _value(first, known), _value(second, known)
            if isinstance(one, Formula):
                return maximum(one, other)
            return maximum(other, one) if isinstance(other, Formula) else max(one, other)
    raise ValueError(f"'{ast.unparse(node):.40}' is not allowed")


def _combined(op: ast.operator, left: Value, right: Value) -> Value:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            if isinstance(right, Formula):
                return left / right if isinstance(left, Formula) else left * exp(-log(right))
            return left / right
        case ast.Pow():
            if not isinstance(left, Formula):
                return exp(math.log(left) * right) if isinstance(right, Formula) else float(left**right)
            return exp(right * log(left))
    raise ValueError(f"the operation {type(op).__name__} is not allowed")
