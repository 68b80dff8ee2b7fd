"""The paper's control experiment."""

from __future__ import annotations

import torch
from pydantic import Field

from gendiff.blur import LOG_FLOOR
from gendiff.component import by_name
from gendiff.errors import ConfigError
from gendiff.rotation import Rotation
from gendiff.scales import BlurScales
from gendiff.schedule import BlurSchedule, NoiseSchedule
from gendiff.shapes import EventShape
from gendiff.velocity import Velocity

ROUNDING = 1e-12  # 1 - D below this is the rounding error of D


class FineToCoarse(Velocity):
    """the paper's control: B_i = I - (1 - β_i) (I - D)^{2 f(i)}.

    Low frequencies vanish first. D is the product over axes before it is mirrored. The constant component of a DCT has
    1 - D = 0; its log is clamped at -1e4, and that clamp is part of the definition. Sample it with ``ancestral`` or
    ``ddim``: where B = 1 for many steps the ``reverse-diffusion`` step is x̄ + z, and such components walk far away.
    Below σ = 0.15 pixels 1 - D is rounding error.

    Reference: Lee, Chung, Kim, Ye 2022, arXiv 2207.11192, Fig. 3.
    """

    name = "fine-to-coarse"

    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")
    schedule: BlurSchedule = by_name("quartic", "schedule f(i)")
    sigma: float = Field(0.4, ge=0.15, le=100, description="std σ of the elementary blur, pixels")

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> BlurScales:
        log_D = rotation.log_blur_spectrum(event_shape, self.sigma)
        complement = -torch.expm1(log_D)  # 1 - D
        if complement.max() < ROUNDING:
            raise ConfigError(
                f"velocity 'fine-to-coarse' cannot be used with rotation '{rotation.name}'",
                details=[
                    f"D = 1 there at σ = {self.sigma:g}, so I - D = 0 would destroy every component at the first step"
                ],
                fix="choose a basis with a blur: --rotation dct, and σ of 0.15 pixels or more",
                subject="velocity.name",
            )
        return BlurScales(
            log_alpha_bar_noise=self.noise.log_alpha_bar(N),
            F=self.schedule.cumulative(N),
            log_D=torch.where(complement < ROUNDING, LOG_FLOOR, complement.clamp_min(ROUNDING).log()),
        )
