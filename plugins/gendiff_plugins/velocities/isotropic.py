"""Standard diffusion in any basis."""

from __future__ import annotations

import torch

from gendiff.component import by_name
from gendiff.rotation import Rotation
from gendiff.scales import BlurScales
from gendiff.schedule import NoiseSchedule
from gendiff.shapes import EventShape
from gendiff.velocity import Velocity


class Isotropic(Velocity):
    """noise alone: B_i = β_i I, DDPM in any basis.

    Reference: Ho, Jain, Abbeel 2020, arXiv 2006.11239.
    """

    name = "isotropic"

    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> BlurScales:
        return BlurScales(
            log_alpha_bar_noise=self.noise.log_alpha_bar(N),
            F=torch.zeros(N + 1, dtype=torch.float64),
            log_D=torch.zeros([1] * len(event_shape), dtype=torch.float64),
        )
