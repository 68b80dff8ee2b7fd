r"""Operator: what a measurement sees of an event.

    y = A x_0 + σ_y n ,     n ~ N(0, I)

A is linear: a mask, a blur, fewer pixels. It acts on events in event space, and each event is measured by itself. Restoration
(`gendiff.guide`) needs A and its adjoint; where ``A^T A = U diag(d²) U^T`` in the coordinates of the process, everything is
closed: ``ȳ = (U^T A^T y)/d²`` are the components of the event as they were measured, each with noise of its own, σ_y/d. The d are
the singular values of A. What U diagonalises A can be seen without its author: `Operator.diagonal` asks with two vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from pydantic import PrivateAttr
from torch import Tensor

from gendiff.component import Component, abstractmethod
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape, ShownByShape, check_batch, check_events, check_shape, shown_shape, takes
from gendiff.streams import stream

#: Of the largest singular value: what is below counts as 0. `Operator.diagonal` knows d² to the rounding of float64.
SMALLEST = 1e-6


class Operator(Component):
    """A linear map of events; an author gives `apply` and `adjoint`, and may know a `basis`."""

    kind: ClassVar[str] = "operator"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    def require(self, event_shape: EventShape) -> None:
        """Raise `ConfigError` where it does not fit events ``(C, *spatial)``: what is allowed; here it fits all."""
        return

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x: ``(B, *event) -> (B, *measured)``, of the same type of number."""

    @abstractmethod
    def adjoint(self, y: Tensor, event_shape: EventShape) -> Tensor:
        """A^T y: ``(B, *measured) -> (B, *event)``, with ``<A x, y> = <x, A^T y>``."""

    def basis(self, rotation: Rotation, event_shape: EventShape) -> Rotation | None:
        """A U in which A is diagonal, where a cheap one is known; here none.

        An A that mixes channels and leaves the rest alone may take that of a process, ``rotation``, with channels mixed besides.
        """
        return None

    @final
    def measured(self, event_shape: EventShape) -> EventShape:
        """The shape of what is measured of events ``(C, *spatial)``."""
        return _measured(self, check_shape(event_shape))

    @final
    def diagonal(self, rotation: Rotation, event_shape: EventShape) -> Tensor | None:
        """The singular values d >= 0 where ``A^T A = U diag(d²) U^T``, float64, ``event_shape``; None where U is no such basis.

        Found by what A makes of two vectors: the first gives the only d that there can be, the second refutes them. Those below
        a millionth of the largest are 0.
        """
        return _diagonal(self, rotation, check_shape(event_shape))

    @final
    def gram(self, x: Tensor) -> Tensor:
        """A^T A x, ``(B, *event)``."""
        return self.adjoint(self.apply(x), tuple(x.shape[1:]))

    @classmethod
    def of(
        cls, apply: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor] | None = None, name: str = ""
    ) -> Functions:
        """A user's own operator.

        Args:
            apply: A, ``(B, *event) -> (B, *measured)``: linear, each event by itself, in float32 and float64.
            adjoint: A^T, ``(B, *measured) -> (B, *event)``; left out, autograd finds it, for an ``apply`` made of torch alone.
            name: by which records know it.

        Raises:
            ArgumentError: where one of these is no function of one argument.

        """
        for what, function in (("apply", apply), ("adjoint", adjoint)):
            if not (function is None and what == "adjoint") and not (callable(function) and takes(function, None)):
                raise ArgumentError(f"{what} is {function!r:.80}", details=["a function of one argument, a batch"])
        operator = Functions(label=name or getattr(apply, "__name__", ""))
        operator._pair = (apply, adjoint)
        return operator


@lru_cache(maxsize=64)
def _measured(operator: Operator, event_shape: EventShape) -> EventShape:
    operator.require(event_shape)
    y = operator.apply(torch.zeros(1, *event_shape))
    if not isinstance(y, Tensor) or y.ndim < 2 or len(y) != 1:
        raise PluginError(
            f"operator '{operator.name}' makes {tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__} of one event",
            fix="apply(x) must return a batch (B, *measured)",
            subject="operator.name",
        )
    return tuple(y.shape[1:])


@lru_cache(maxsize=64)
def _diagonal(operator: Operator, rotation: Rotation, event_shape: EventShape) -> Tensor | None:
    operator.require(event_shape)
    source = stream(0, "diagonal")
    signs = torch.randint(2, (1, *event_shape), generator=source).double() * 2 - 1
    probe = torch.randn(1, *event_shape, generator=source, dtype=torch.float64)

    def seen(x_bar: Tensor) -> Tensor:
        return rotation.rotate(operator.gram(rotation.unrotate(x_bar)))

    square = seen(signs) * signs  # where U is such a basis; 1/z = z for signs
    error = float((seen(probe) - square * probe).abs().max())
    most = float(square.abs().max())
    if not error <= 1e-9 * most:
        return None
    d = square[0].clamp_min(0).sqrt()
    return torch.where(d < SMALLEST * float(d.max()), 0.0, d)


class Functions(Operator):
    """a user's own pair of functions, A and its adjoint, given in Python; see `Operator.of`."""

    name = "python-functions"

    label: str = ""

    _pair: Any = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        return self is other  # two functions of one name need not do the same

    def __hash__(self) -> int:
        return id(self)

    def _functions(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor] | None]:
        if self._pair is None:
            raise ConfigError(
                "this operator was given in Python, as functions, and is not here",
                fix="give it again in Python: Operator.of(apply, adjoint)",
                subject="operator.name",
            )
        pair: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor] | None] = self._pair
        return pair

    def apply(self, x: Tensor) -> Tensor:
        return self._functions()[0](x)

    def adjoint(self, y: Tensor, event_shape: EventShape) -> Tensor:
        apply, adjoint = self._functions()
        if adjoint is not None:
            return adjoint(y)
        with torch.enable_grad():
            x = torch.zeros(len(y), *event_shape, dtype=y.dtype, device=y.device, requires_grad=True)
            (gradient,) = torch.autograd.grad(apply(x), x, y, create_graph=y.requires_grad)
        return gradient


def check_operator(operator: Operator, event_shape: EventShape) -> None:
    """Raise `PluginError` where it is not linear, or its adjoint is not: looked at with one pair of vectors."""
    source = stream(0, "probe")
    measured = operator.measured(event_shape)
    x, other = torch.randn(2, 1, *event_shape, generator=source, dtype=torch.float64)
    y = torch.randn(1, *measured, generator=source, dtype=torch.float64)
    fault = ""
    of_x, of_other = operator.apply(x), operator.apply(other)
    if float((operator.apply(2 * x - other) - (2 * of_x - of_other)).abs().max()) > 1e-6 * float(of_x.abs().max() + 1):
        fault = "it is not linear: A (2x - z) differs from 2 A x - A z"
    back = operator.adjoint(y, event_shape)
    if back.shape != x.shape:
        fault = fault or f"its adjoint makes an event of shape {tuple(back.shape[1:])}"
    elif abs(float((of_x * y).sum() - (x * back).sum())) > 1e-6 * float(x.norm() * back.norm() + 1e-30):
        fault = fault or "its adjoint is not: <A x, y> differs from <x, A^T y>"
    if fault:
        raise PluginError(
            f"operator '{operator.spec}' cannot be used for events of {shown_shape(event_shape)}",
            details=[fault],
            fix="give a linear function and its adjoint: Operator.of(apply, adjoint)",
            subject="operator.name",
        )


@dataclass(frozen=True, repr=False)
class Measurement(ShownByShape):
    """What was measured, of one event or of each of a batch.

    Args:
        operator: A.
        y: ``(B, *measured)``.
        sigma: σ_y >= 0, the standard deviation of its noise, in the units of the events.

    """

    operator: Operator
    y: Tensor
    sigma: float = 0.0

    @classmethod
    def checked(cls, operator: Operator, y: Tensor, sigma: float, event_shape: EventShape) -> Self:
        """What was measured of events of that shape, looked at.

        Raises:
            ArgumentError: where ``y`` is not what the operator gives, or not finite, or ``sigma`` is no number >= 0.
            ConfigError: where the operator does not fit the events.
            PluginError: where it is not linear, or its adjoint is none.

        """
        number = isinstance(sigma, int | float) and not isinstance(sigma, bool)
        if not number or not 0 <= sigma < float("inf"):
            raise ArgumentError(
                f"sigma = {sigma!r}", details=["the std of the noise, in the units of the events, >= 0"]
            )
        measured = operator.measured(event_shape)
        check_operator(operator, event_shape)
        if len(measured) >= 2:
            check_events(y, measured, "y")
        elif not isinstance(y, Tensor) or tuple(y.shape[1:]) != measured or not y.is_floating_point():
            raise ArgumentError(f"y is {tuple(getattr(y, 'shape', ()))}", details=[f"a batch (B, {measured[0]})"])
        if not y.isfinite().all() or not len(y):
            raise ArgumentError("y holds values that are not finite" if len(y) else "y is empty")
        return cls(operator, y, float(sigma))

    def rows(self, part: Sequence[int]) -> Measurement:
        """What was measured of these events of a batch, counted around."""
        return replace(self, y=self.y[[k % len(self.y) for k in part]])

    def to(self, x: Tensor) -> Tensor:
        """What was measured, on the device of ``x`` and in its precision."""
        return self.y.to(x)

    def back(self, x: Tensor) -> Tensor:
        """A^T y for events like ``x``, ``(B, *event)``."""
        return self.operator.adjoint(self.to(x), tuple(x.shape[1:]))


def simulated(operator: Operator, x_0: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """``A x_0 + σ n`` for clean events ``(B, *event)``; the noise of each follows from the seed and the event alone."""
    check_batch(x_0, "x_0")
    y = operator.apply(x_0)
    if sigma:
        keys = [_mark(event) for event in x_0]
        noise = [
            torch.randn(y.shape[1:], generator=stream(seed, "measurement", key), dtype=torch.float64) for key in keys
        ]
        y = y + sigma * torch.stack(noise).to(y)
    return y


def _mark(event: Tensor) -> int:
    """A number that follows from the values of an event."""
    values = event.detach().cpu().float().contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(values).digest()[:7], "little")


#: A pair of functions, A and its adjoint.
Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
