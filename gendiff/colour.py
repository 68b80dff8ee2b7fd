r"""Colour: the spectrum of the noise.

Noise of a colour S has in rotated coordinates the variances ``s_i² S_k`` in the place of ``s_i²``,

    x_i = U a_i U^T x_0 + U s_i S^{1/2} U^T ε ,   ε ~ N(0, I) in event space ,

so it is a factor on s per component, constant in time, on top of any velocity (the velocity ``coloured``). Total power is that of
white noise: the mean of S over components is 1, its sum over an event d.

No component is without noise: where a colour has no power, S_k is ``floor`` times the mean before it is normalised. A score
exists there, and a chain can be inverted, while next to nothing of that component is lost: its noise has at i = N still a
standard deviation of sqrt(floor) beside that of white noise, and what a network draws of it comes from the prior.

In a Fourier basis (``hartley``) a colour of the frequency alone is stationary noise exactly, with circular borders. In ``dct`` it
is stationary but for the borders, at which it is mirrored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from pydantic import Field
from torch import Tensor

from gendiff.component import Component, abstractmethod
from gendiff.data import Data
from gendiff.errors import PluginError
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape, broadcasts, check_shape


class Colour(Component):
    """The power S_k of noise in each component; an author gives `power`."""

    kind: ClassVar[str] = "colour"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    floor: float = Field(1e-4, gt=0, le=1, description="least power of a component, of the mean power")

    @abstractmethod
    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        """S_k >= 0 of each component up to a common factor, float64, broadcasting to the event; not 0 everywhere."""

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        """What this colour learns from the data of a run, tensors by name, as `Velocity.fit`; here nothing."""
        return {}

    @final
    def spectrum(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        """``log S_k``, float64, broadcasting to the event: the mean of S is 1, and it is 0 throughout where noise is white.

        Raises `PluginError` where `power` gives no power.
        """
        shape = check_shape(event_shape)
        S = self.power(rotation, shape)
        valid = isinstance(S, Tensor) and broadcasts(S.shape, shape)
        if not valid or not bool((S.isfinite() & (S >= 0)).all()) or not bool((S > 0).any()):
            raise PluginError(
                f"the colour '{self.name}' gives no power to the noise of events {shape}",
                details=[
                    "power(rotation, event_shape) is finite numbers >= 0 that broadcast to the event, one of them positive"
                ],
                fix=f"change its parameters ({self.spec}) or its formula",
                subject="colour.name",
            )
        S = S.double()
        if bool((S.flatten()[0] == S).all()):
            return torch.zeros_like(S)
        S = (S / S.mean()).clamp_min(self.floor)
        return (S / S.mean()).log()
