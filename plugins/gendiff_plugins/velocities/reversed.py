"""Any velocity, with fine and coarse exchanged."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gendiff.component import by_name
from gendiff.data import Data
from gendiff.frequency import mirrored
from gendiff.rotation import Rotation
from gendiff.scales import Scales, picked
from gendiff.shapes import EventShape, spatial
from gendiff.velocity import Velocity


class Reversed(Velocity):
    """another velocity from fine to coarse: rank p of frequency takes the scales of rank K-1-p.

    Components are ordered by ρ (ties by flat index), K to a channel; the one of rank p takes (log a, log s) of the one of rank
    K-1-p, in each channel alike. All speeds are there, dealt out the other way round: unlike ``fine-to-coarse``, whose total
    speed is another, a fair twin.
    """

    name = "reversed"

    velocity: Velocity = by_name("blur", "the velocity that is reversed")

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        return self.velocity.fit(data, rotation)

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> Scales:
        velocity = self.velocity.with_learned(self.learned) if self.has_learned else self.velocity
        inner = velocity.scales(rotation, event_shape, N)
        return picked(inner, mirrored(rotation.frequencies(event_shape)[0]), spatial(event_shape))
