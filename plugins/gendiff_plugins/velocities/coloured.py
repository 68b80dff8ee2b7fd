"""Any velocity, with noise of another spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import Field
from torch import Tensor

from gendiff.colour import Colour
from gendiff.component import by_name
from gendiff.data import Data
from gendiff.rotation import Rotation
from gendiff.scales import Scales, coloured
from gendiff.shapes import EventShape
from gendiff.velocity import BlurWidth, Velocity

Part = TypeVar("Part", Velocity, Colour)


class Coloured(Velocity):
    """another velocity with noise of a colour: s_k sqrt(S_k) in the place of s_k.

    a stays as it is, and the mean of S over components is 1: the power of the noise is what it was, dealt out anew. White noise
    (``colour=white``, or α = 0) gives the other velocity itself, to the bit. λ_k is lower by ``log(S_k)/2`` at every step, so
    components of much noise drown early.

    ``terminal`` colours what is pure noise alone: ``s_k² (a_k² + s_k² S_k)/(a_k² + s_k²)`` in the place of s_k². Noise on top of
    nearly clean data is white, and what a chain starts from, x_N, is N(0, s_N² S).

    Reference: Scimeca et al. 2025, arXiv 2510.09660, for colours that are constant in time.
    """

    name = "coloured"

    velocity: Velocity = by_name("isotropic", "the velocity whose noise is coloured")
    colour: Colour = by_name("power-law", "the spectrum of the noise")
    terminal: bool = Field(False, description="colour the prior alone: white while the signal prevails")

    @property
    def trained(self) -> tuple[str, ...]:  # type: ignore[override]  # a constant of other velocities
        return tuple(f"velocity.{name}" for name in self.velocity.trained)

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        own = {f"velocity.{name}": value for name, value in self.velocity.fit(data, rotation).items()}
        return own | {f"colour.{name}": value for name, value in self.colour.fit(data, rotation).items()}

    def written(self, learned: Mapping[str, Tensor]) -> Mapping[str, object]:
        return {"velocity": self.velocity.table_at(_of(self.velocity, learned))} if self.trained else {}

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> Scales:
        velocity, colour = self._ready(self.velocity), self._ready(self.colour)
        return coloured(
            velocity.scales(rotation, event_shape, N), colour.spectrum(rotation, event_shape), self.terminal
        )

    def blur_width(self, N: int) -> BlurWidth | None:
        return self.velocity.blur_width(N)

    def _ready(self, part: Part) -> Part:
        """A part with what it has learned."""
        own = _of(part, self.learned) if self.has_learned else {}
        return part.with_learned(own) if own else part


def _of(part: Velocity | Colour, learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is a part's of all that was learned."""
    prefix = f"{part.kind}."
    return {name.removeprefix(prefix): value for name, value in learned.items() if name.startswith(prefix)}
