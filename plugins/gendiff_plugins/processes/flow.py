"""Flows under one name."""

from __future__ import annotations

from pydantic import Field

from gendiff.process import Process
from gendiff.rotation import Rotation
from gendiff.velocity import Velocity


class RectifiedFlow(Process):
    """a straight path from data to noise, for all components alike.

    ``x_t = (1 - t) x_0 + t ε`` with t = i/N. Train it with ``--objective velocity``; ``--sampler ddim`` is Euler's method.

    Reference: Liu, Gong, Liu 2023, Flow Straight and Fast, arXiv 2209.03003.
    """

    name = "rectified-flow"

    def parts(self) -> tuple[Rotation, Velocity]:
        return Rotation.model_validate("identity"), Velocity.model_validate("rectified-flow")


class KFlow(Process):
    """straight paths in the DCT basis, band by band: what is coarse is made first.

    ``a = 1 - τ_k(t), s = τ_k(t)``, each band in its own window of time.

    Reference: Du et al. 2025, Flow Along the K-Amplitude for Generative Modeling, arXiv 2504.19353.
    """

    name = "k-flow"

    bands: int = Field(4, ge=1, le=32, description="of frequency, each with a window of its own")
    overlap: float = Field(0.5, ge=0, le=1, description="of a window with the next, in windows; 1: all at once")
    share: float = Field(0.05, ge=1e-3, le=1, description="of the time that is common to all bands")

    def parts(self) -> tuple[Rotation, Velocity]:
        velocity = {"name": "k-flow", "bands": self.bands, "overlap": self.overlap, "share": self.share}
        return Rotation.model_validate("dct"), Velocity.model_validate(velocity)


class LowPassFlow(Process):
    """a straight path through a low pass in the DCT basis.

    ``a = (1 - t) exp(-μ_k (σ t)²/2), s = t``.

    Reference: Lipman et al. 2023, arXiv 2210.02747; Hoogeboom, Salimans 2022, arXiv 2209.05557.
    """

    name = "low-pass-flow"

    sigma: float = Field(2.0, ge=0, le=1e4, description="std of the blur at t = 1, pixels")

    def parts(self) -> tuple[Rotation, Velocity]:
        return Rotation.model_validate("dct"), Velocity.model_validate({"name": "low-pass-flow", "sigma": self.sigma})
