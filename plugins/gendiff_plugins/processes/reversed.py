"""Any process from fine to coarse."""

from __future__ import annotations

from gendiff.component import by_name
from gendiff.process import Process
from gendiff.rotation import Rotation
from gendiff.velocity import Velocity


class Reversed(Process):
    """another process from fine to coarse: all its speeds, dealt out the other way round.

    ``(a, s) of rank p := (a, s) of rank K-1-p``, ranks being those of frequency in a channel.
    """

    name = "reversed"

    process: Process = by_name("blur-diffusion", "the process that is reversed")

    def parts(self) -> tuple[Rotation, Velocity]:
        rotation, velocity = self.process.parts()
        return rotation, Velocity.model_validate({"name": "reversed", "velocity": velocity})
