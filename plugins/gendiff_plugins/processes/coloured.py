"""Processes whose noise is not white."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from gendiff.component import by_name
from gendiff.process import Process
from gendiff.rotation import Rotation
from gendiff.schedule import BlurSchedule, NoiseSchedule
from gendiff.velocity import Velocity


def coloured(noise: NoiseSchedule, terminal: bool, **colour: Any) -> tuple[Rotation, Velocity]:
    """Noise of a colour in the real Fourier basis, where it is stationary."""
    isotropic = {"name": "isotropic", "noise": noise}
    velocity = {"name": "coloured", "velocity": isotropic, "colour": colour, "terminal": terminal}
    return Rotation.model_validate("hartley"), Velocity.model_validate(velocity)


TERMINAL = Field(False, description="colour the prior alone: white while the signal prevails")


class PowerLaw(Process):
    """noise whose power falls with frequency, in the real Fourier basis: coarse detail drowns first.

    ``a² = ᾱ, s² = (1 - ᾱ) S_k, S_k ∝ ρ_k^-α`` with the mean of S 1; α below 0 drowns fine detail first.

    Reference: Scimeca et al. 2025, Learning What Matters: Steering Diffusion via Spectrally Anisotropic Forward Noise, arXiv
    2510.09660.
    """

    name = "power-law"

    alpha: float = Field(2.0, ge=-8, le=8, description="α: how steeply power falls; below 0 it rises")
    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")
    terminal: bool = TERMINAL

    def parts(self) -> tuple[Rotation, Velocity]:
        return coloured(self.noise, self.terminal, name="power-law", alpha=self.alpha)


class TwoBands(Process):
    """noise of two powers, one for coarse and one for fine detail, in the real Fourier basis.

    ``a² = ᾱ, s² = (1 - ᾱ) S_k, S_k ∝ low for ρ < split max(ρ), else high``; a power of 0 is 1e-4 of the mean.

    Reference: Jiralerspong et al. 2025, Shaping Inductive Bias in Diffusion Models through Frequency-Based Noise Control, arXiv
    2502.10236.
    """

    name = "two-bands"

    split: float = Field(0.5, gt=0, lt=1, description="where the bands meet, of the highest frequency")
    low: Annotated[float, Field(ge=0, le=1e6)] = Field(0.75, description="power of the coarse band")
    high: Annotated[float, Field(ge=0, le=1e6)] = Field(0.25, description="power of the fine band")
    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")
    terminal: bool = TERMINAL

    def parts(self) -> tuple[Rotation, Velocity]:
        return coloured(self.noise, self.terminal, name="bands", edges=(self.split,), powers=(self.low, self.high))


class Pink(Process):
    """pink noise, in the real Fourier basis.

    ``a² = ᾱ, s² = (1 - ᾱ) S_k, S_k ∝ 1/ρ_k``: ``power-law`` with α = 1.

    Reference: Scimeca et al. 2025, arXiv 2510.09660, for noise of a power law.
    """

    name = "pink"

    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")
    terminal: bool = TERMINAL

    def parts(self) -> tuple[Rotation, Velocity]:
        return coloured(self.noise, self.terminal, name="pink")


class Blue(Process):
    """stationary blue noise, in the real Fourier basis: fine detail drowns first.

    ``a² = ᾱ, s² = (1 - ᾱ) S_k, S_k ∝ ρ_k``: ``power-law`` with α = -1.

    In the paper blue and white noise are blended, more or less of each over i; here it is blue throughout.

    Reference: Huang et al. 2024, Blue Noise for Diffusion Models, arXiv 2402.04930.
    """

    name = "blue"

    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")
    terminal: bool = TERMINAL

    def parts(self) -> tuple[Rotation, Velocity]:
        return coloured(self.noise, self.terminal, name="blue")


class Pyramid(Process):
    """multi-resolution noise, in the real Fourier basis: its stationary approximation.

    ``a² = ᾱ, s² = (1 - ᾱ) S_k, S_k ∝ Σ_l discount^(2l) |P_l^T u_k|²``, P_l enlarging the noise of level l.

    Reference: Whitaker 2023, Multi-Resolution Noise for Diffusion Model Training (Weights & Biases report).
    """

    name = "pyramid"

    discount: float = Field(0.9, gt=0, le=10, description="weight of each level over the one before")
    ratio: float = Field(2.0, ge=1.25, le=16, description="how much coarser each level is")
    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")
    terminal: bool = TERMINAL

    def parts(self) -> tuple[Rotation, Velocity]:
        return coloured(self.noise, self.terminal, name="pyramid", discount=self.discount, ratio=self.ratio)


class SpaceTime(Process):
    """blur and noise of a video, space and time at their own speeds, in the DCT basis.

    ``B_i = I - (1 - β_i) D^{2 f(i)}`` with U the DCT of all axes of events (C, T, H, W), D a blur of σ pixels in space and
    ``time`` σ frames in time: below 1 frames keep apart longer than pixels do, above 1 they merge first, at 0 they never do. Time
    is the first axis after the channels: of a volume its slices, of a picture its rows.

    Reference: Lee, Chung, Kim, Ye 2022, arXiv 2207.11192, for pictures.
    """

    name = "space-time"

    time: float = Field(0.5, ge=0, le=1e3, description="width of the blur in time, of that in space")
    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")
    schedule: BlurSchedule = by_name("quartic", "blur schedule f(i)")
    sigma: float = Field(0.4, ge=0.01, le=100, description="std σ of the elementary blur in space, pixels")

    def parts(self) -> tuple[Rotation, Velocity]:
        rotation = {"name": "dct", "axes": (self.time,)}
        velocity = {"name": "blur", "noise": self.noise, "schedule": self.schedule, "sigma": self.sigma}
        return Rotation.model_validate(rotation), Velocity.model_validate(velocity)
