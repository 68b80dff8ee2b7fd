r"""Velocity: how fast each rotated component is corrupted.

The velocity B_i is the diagonal variance added at step i, in [0, 1] per component, with ``A_i = I - B_i`` and
``Ā_i = Π_{j<=i} A_j``. A velocity component is the recipe: given a rotation, the shape of an event and N it returns the
`Scales`, the numbers of the process. It owns the schedules it uses as fields, so that a velocity which has no use for a
blur schedule cannot be given one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from pydantic import model_validator
from torch import Tensor

from gendiff.component import Component, abstractmethod, guard
from gendiff.data import Data
from gendiff.rotation import Rotation
from gendiff.scales import Scales
from gendiff.shapes import EventShape, check_count, check_kind, check_shape


@dataclass(frozen=True)
class BlurWidth:
    """How wide the blur of the signal is at i = 0..N, in pixels: float64, each ``(N+1,)``.

    Args:
        true: standard deviation of the blur that a step has really had, ``κ sqrt(F_i)`` for a sampled kernel of std κ.
        nominal: what its parameters say, ``σ sqrt(F_i)``.

    """

    true: Tensor
    nominal: Tensor


def times(N: int) -> Tensor:
    """``t = i/N`` for i = 0..N, float64, shape ``(N+1,)``; raises `ArgumentError` where N is no whole number >= 2."""
    return torch.arange(check_count(N) + 1, dtype=torch.float64) / N


class Velocity(Component):
    """The recipe of the scales."""

    kind: ClassVar[str] = "velocity"
    #: Which of the tensors in `learned` follow a gradient while a run trains (`gendiff.speeds`), through `scales`, which then is
    #: differentiable in them and never lets λ rise, whatever they are. Here none: the speeds are fixed. One that owns a velocity
    #: passes on what that one learns, in `fit`, `trained`, `scales` and `written`; where it does not, the two are refused.
    trained: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        guard(cls, "scales", _checked)

    @model_validator(mode="after")
    def _passes_on(self) -> Self:
        for field in type(self).model_fields:
            inner = getattr(self, field)
            if isinstance(inner, Velocity) and inner.trained and not self.trained:
                raise ValueError(f"what velocity '{inner.name}' learns with a network would never move in it")
        return self

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        """What this velocity learns from the data of a run in the coordinates of ``rotation``, tensors by name; here nothing.

        It is asked once, when a run is made, and the tensors are stored with the run (`learned`): a pure function of data,
        rotation and parameters. The data's spectrum is ``Moments.fit(data, rotation).variance``, measured once for all.
        """
        return {}

    def written(self, learned: Mapping[str, Tensor]) -> Mapping[str, object]:
        """The parameters, as TOML has them, with which a component of this class begins at such ``learned``; see `trained`."""
        return {}

    @final
    def table_at(self, learned: Mapping[str, Tensor]) -> dict[str, Any]:
        """The `table` of this velocity as it is at such ``learned``: where another run begins."""
        return {**self.table(), **self.written(learned)}

    @abstractmethod
    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> Scales:
        """The per-component scales of this process for events of that shape, on the CPU.

        Before an author's code is asked, raises `ArgumentError` where one of these is no rotation, shape or number of steps, and
        `ConfigError` where the rotation does not take events of that shape.
        """

    def blur_width(self, N: int) -> BlurWidth | None:
        """The width of its blur; None, as here, where what it does to the signal is not a Gaussian blur."""
        return None


def _checked(rotation: Rotation, event_shape: EventShape, N: int) -> tuple[Rotation, EventShape, int]:
    check_kind(rotation, Rotation, "rotation")
    event_shape, N = check_shape(event_shape), check_count(N)
    rotation.require(event_shape)
    return rotation, event_shape, N
