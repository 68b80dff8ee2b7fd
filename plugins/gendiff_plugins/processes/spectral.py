"""Processes that know the spectrum of the data."""

from __future__ import annotations

from pydantic import Field

from gendiff.component import by_name
from gendiff.process import Process
from gendiff.rotation import Rotation
from gendiff.schedule import NoiseSchedule
from gendiff.velocity import Velocity


class SpectrumMatched(Process):
    """the shortest path from the data's spectrum to white noise, in the real Fourier basis.

    ``a² = (1 - S_k^τ)/(1 - S_k), a² + s² = 1`` with τ = 1 - i/N: the variance of component k is S_k^τ.

    Reference: Das et al. 2023, Image Generation with Shortest Path Diffusion, arXiv 2306.00501.
    """

    name = "spectrum-matched"

    power_law: tuple[float, float, float] | None = Field(
        None, description="c_1, c_2, m of S = c_1/(c_2 + f)^m; left out, S is measured on the data"
    )

    def parts(self) -> tuple[Rotation, Velocity]:
        velocity = {"name": "spectrum-matched", "power_law": self.power_law}
        return Rotation.model_validate("hartley"), Velocity.model_validate(velocity)


class EqualSNR(Process):
    """noise with the spectrum of the data, in the real Fourier basis: all frequencies drown together.

    ``a² = ᾱ, s² = (1 - ᾱ) C_k`` with C_k the variance of the data.

    Reference: Falck et al. 2025, A Fourier Space Perspective on Diffusion Models, arXiv 2505.11278.
    """

    name = "equal-snr"

    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")

    def parts(self) -> tuple[Rotation, Velocity]:
        velocity = {"name": "equal-snr", "noise": self.noise}
        return Rotation.model_validate("hartley"), Velocity.model_validate(velocity)


class FlippedSNR(Process):
    """noise that drowns coarse frequencies first, in the real Fourier basis: the twin of standard diffusion.

    ``a² = ᾱ, s² = (1 - ᾱ) C_k/C_{K-1-k}``, indices being ranks of frequency: data-SNRs in the opposite order.

    Reference: Falck et al. 2025, A Fourier Space Perspective on Diffusion Models, arXiv 2505.11278.
    """

    name = "flipped-snr"

    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")

    def parts(self) -> tuple[Rotation, Velocity]:
        velocity = {"name": "equal-snr", "noise": self.noise, "flipped": True}
        return Rotation.model_validate("hartley"), Velocity.model_validate(velocity)


class SoftConditioning(Process):
    """between joint and autoregressive: frequencies drown one after the other, with a softness.

    ``log s²/a² = γ_k + t Δ, a² + s² = 1`` with t = i/N; ``soft = 1`` is standard diffusion, 0 autoregressive.

    Reference: Gerdes, Welling, Cheng 2024, GUD: Generation with Unified Diffusion, arXiv 2410.02667.
    """

    name = "soft-conditioning"

    soft: float = Field(0.5, gt=0, le=1e6, description="overlap of the components in time")
    g_denoise: float = Field(
        -7.0, ge=-60, le=60, description="log noise-to-signal at which a component counts as clean"
    )
    g_noise: float = Field(3.0, ge=-60, le=60, description="log noise-to-signal at which a component counts as noise")

    def parts(self) -> tuple[Rotation, Velocity]:
        levels = {"g_denoise": self.g_denoise, "g_noise": self.g_noise}
        velocity = {"name": "soft-conditioning", "soft": self.soft, **levels}
        return Rotation.model_validate("dct"), Velocity.model_validate(velocity)


class LearnedSpeeds(Process):
    """frequencies at speeds that are learned with the network, in the DCT basis: they begin as standard diffusion.

    ``a² = ᾱ(N τ_b(t)), s² = 1 - a²``: a clock τ_b for each band of frequencies.

    Reference: Sahoo et al. 2024, Diffusion Models With Learned Adaptive Noise, arXiv 2312.13236; the clocks are our own.
    """

    name = "learned-speeds"

    bands: int = Field(16, ge=1, le=4096, description="of frequencies, each with a clock")
    noise: NoiseSchedule = by_name("linear", "noise schedule β_i that every clock passes through")

    def parts(self) -> tuple[Rotation, Velocity]:
        velocity = {"name": "learned", "bands": self.bands, "noise": self.noise}
        return Rotation.model_validate("dct"), Velocity.model_validate(velocity)
