"""Blur diffusion."""

from __future__ import annotations

from pydantic import Field

from gendiff.blur import kernel_std
from gendiff.component import by_name
from gendiff.rotation import Rotation
from gendiff.scales import BlurScales
from gendiff.schedule import BlurSchedule, NoiseSchedule
from gendiff.shapes import EventShape
from gendiff.velocity import BlurWidth, Velocity


class Blur(Velocity):
    """blur and noise: B_i = I - (1 - β_i) D^{2 f(i)}.

    D is the attenuation of each component by one Gaussian blur of std σ; f(i) of them are applied at step i, so high
    frequencies vanish first and the reverse process goes from coarse to fine. D = 1 (rotation identity) or f = 0 is DDPM.

    Reference: Lee, Chung, Kim, Ye 2022, arXiv 2207.11192, eq. 12-14.
    """

    name = "blur"

    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")
    schedule: BlurSchedule = by_name("quartic", "blur schedule f(i)")
    sigma: float = Field(0.4, ge=0.01, le=100, description="std σ of the elementary blur, pixels")

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> BlurScales:
        return BlurScales(
            log_alpha_bar_noise=self.noise.log_alpha_bar(N),
            F=self.schedule.cumulative(N),
            log_D=rotation.log_blur_spectrum(event_shape, self.sigma),
        )

    def blur_width(self, N: int) -> BlurWidth:
        root_F = self.schedule.cumulative(N).sqrt()
        return BlurWidth(true=kernel_std(self.sigma) * root_F, nominal=self.sigma * root_F)
