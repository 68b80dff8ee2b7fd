"""Any velocity, with fine and coarse exchanged."""

from __future__ import annotations

from gendiff.blur import mirrored
from gendiff.component import by_name
from gendiff.rotation import Rotation
from gendiff.scales import Scales, permuted
from gendiff.shapes import EventShape
from gendiff.velocity import Velocity


class Reversed(Velocity):
    """another velocity from fine to coarse: rank p of frequency takes the scales of rank K-1-p.

    Components are ordered by ρ (ties by flat index), K to a channel; the one of rank p takes (log a, log s) of the one of rank
    K-1-p, in each channel alike. All speeds are there, dealt out the other way round: unlike ``fine-to-coarse``, whose total
    speed is another, a fair twin.
    """

    name = "reversed"

    velocity: Velocity = by_name("blur", "the velocity that is reversed")

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> Scales:
        inner = self.velocity.scales(rotation, event_shape, N)
        return permuted(inner, mirrored(rotation.frequencies(event_shape)[0]))
