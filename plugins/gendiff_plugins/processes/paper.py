"""The two processes that Lee, Chung, Kim, Ye 2022 (arXiv 2207.11192) compare."""

from __future__ import annotations

from pydantic import Field

from gendiff.component import by_name
from gendiff.process import Process
from gendiff.rotation import Rotation
from gendiff.schedule import BlurSchedule, NoiseSchedule
from gendiff.velocity import Velocity


class DDPM(Process):
    """standard diffusion: no rotation, one speed.

    ``U = I, B_i = β_i I``.

    Reference: Ho, Jain, Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv 2006.11239.
    """

    name = "ddpm"

    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")

    def parts(self) -> tuple[Rotation, Velocity]:
        velocity = {"name": "isotropic", "noise": self.noise}
        return Rotation.model_validate("identity"), Velocity.model_validate(velocity)


class BlurDiffusion(Process):
    """blur and noise in the DCT basis, fine detail first.

    ``B_i = I - (1 - β_i) D^{2 f(i)}`` with U the DCT, whose borders are symmetric; the paper's own basis is
    ``--rotation blur-eigen``.

    Reference: Lee, Chung, Kim, Ye 2022, arXiv 2207.11192.
    """

    name = "blur-diffusion"

    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")
    schedule: BlurSchedule = by_name("quartic", "blur schedule f(i)")
    sigma: float = Field(0.4, ge=0.01, le=100, description="std σ of the elementary blur, pixels")

    def parts(self) -> tuple[Rotation, Velocity]:
        velocity = {"name": "blur", "noise": self.noise, "schedule": self.schedule, "sigma": self.sigma}
        return Rotation.model_validate("dct"), Velocity.model_validate(velocity)
