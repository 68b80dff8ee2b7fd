"""Processes of heat: what was blurred is made sharp."""

from __future__ import annotations

from pydantic import Field

from gendiff.process import Process
from gendiff.rotation import Rotation
from gendiff.velocity import Velocity


class BlurringDiffusion(Process):
    """heat and noise in the DCT basis, the same noise for all frequencies.

    ``a = a(t) ((1 - d_min) exp(-μ_k σ_B²/2) + d_min), s = σ(t)`` with t = i/N and σ_B = σ_max sin²(πt/2). Of noise alone it
    keeps no variance: ``ancestral`` draws from its exact posterior, ``reverse-diffusion`` is not for it.

    Reference: Hoogeboom, Salimans 2022, Blurring Diffusion Models, arXiv 2209.05557.
    """

    name = "blurring-diffusion"

    sigma_max: float = Field(20.0, ge=0, le=1e4, description="std of the blur at t = 1, pixels (the paper's for 32x32)")
    d_min: float = Field(1e-3, ge=0, lt=1, description="least attenuation: what is left of the finest detail")

    def parts(self) -> tuple[Rotation, Velocity]:
        velocity = {"name": "blurring", "sigma_max": self.sigma_max, "d_min": self.d_min}
        return Rotation.model_validate("dct"), Velocity.model_validate(velocity)


class HeatDissipation(Process):
    """heat and a trace of noise in the DCT basis; sharpened step by step.

    ``a = exp(-μ_k σ_B²/2), s = 0.02`` with σ_B rising in equal ratios. The paper predicts a residual (``--objective residual``),
    samples with ``--sampler heat-dissipation`` and starts from blurred data (``prior=data``): all in the preset of this name.

    Reference: Rissanen, Heinonen, Solin 2022, Generative Modelling with Inverse Heat Dissipation, arXiv 2206.13397.
    """

    name = "heat-dissipation"

    sigma_min: float = Field(0.5, gt=0, le=1e4, description="std of the blur at i = 1, pixels")
    sigma_max: float = Field(24.0, gt=0, le=1e4, description="std of the blur at i = N, pixels (the paper's for 32x32)")
    s: float = Field(0.02, gt=0, le=1, description="std of the noise at every step i >= 1, pictures being in [-1, 1]")

    def parts(self) -> tuple[Rotation, Velocity]:
        velocity = {"name": "heat", "sigma_min": self.sigma_min, "sigma_max": self.sigma_max, "s": self.s}
        return Rotation.model_validate("dct"), Velocity.model_validate(velocity)


class Cold(Process):
    """blur without noise in the DCT basis; sharpened by a deterministic update.

    ``a = exp(-μ_k Σσ_j²/2), s = 0.001``: the limit of no noise, with a floor. ``ddim`` is the paper's update, whatever the floor.

    Reference: Bansal et al. 2022, Cold Diffusion, arXiv 2208.09392.
    """

    name = "cold"

    sigma: float = Field(0.35, gt=0, le=1e3, description="std of the blur of step 1, pixels")
    growth: float = Field(0.01, ge=0, le=1e2, description="by how much the std grows from step to step, pixels")
    ratio: float = Field(1.0, ge=1, le=2, description="by what factor it grows besides")
    floor: float = Field(1e-3, gt=0, le=0.1, description="s, in place of no noise at all")

    def parts(self) -> tuple[Rotation, Velocity]:
        steps = {"sigma": self.sigma, "growth": self.growth, "ratio": self.ratio}
        velocity = {"name": "cold", **steps, "floor": self.floor}
        return Rotation.model_validate("dct"), Velocity.model_validate(velocity)
