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

    @property
    def trained(self) -> tuple[str, ...]:  # type: ignore[override]  # a constant of other velocities
        return self.velocity.trained

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        return self.velocity.fit(data, rotation)

    def written(self, learned: Mapping[str, Tensor]) -> Mapping[str, object]:
        return {"velocity": self.velocity.table_at(learned)} if self.trained else {}

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> Scales:
        velocity = self.velocity.with_learned(self.learned) if self.has_learned else self.velocity
        inner = velocity.scales(rotation, event_shape, N)
        if not self.trained and inner.alike:  # whatever is learned will part
            return inner
        rho = rotation.spread_frequencies(event_shape, "that could be reversed")
        return picked(inner, mirrored(rho), spatial(event_shape))
