r"""Operator: what a measurement sees of an event.

    y = A x_0 + σ_y n ,     n ~ N(0, I)

A is linear: a mask, a blur, fewer pixels. It acts on events in event space, and each event is measured by itself. Restoration
(`gendiff.guide`) needs A and its adjoint; where A is diagonal in the coordinates of the process, everything is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from gendiff.component import Component, abstractmethod
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape, ShownByShape


class Operator(Component):
    """A linear map of events; an author gives `apply` and `adjoint`, and `diagonal` where there is one."""

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

    def diagonal(self, rotation: Rotation, event_shape: EventShape) -> Tensor | None:
        """D where A = U diag(d) U^T, float64, broadcasting to ``event_shape``; None where it is not diagonal in this U."""
        return None


class Functions(Operator):
    """a user's own pair of functions, A and its adjoint, given in Python; see `Operator.of`."""

    name = "python-functions"


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

    def rows(self, part: Sequence[int]) -> Measurement:
        """What was measured of these events of a batch, counted around."""
        return replace(self, y=self.y[[k % len(self.y) for k in part]])


#: A pair of functions as `Functions` takes it.
Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
