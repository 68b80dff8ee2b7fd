"""The colour of the data."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gendiff.colour import Colour
from gendiff.data import Data
from gendiff.moments import Moments
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape


class AsData(Colour):
    """the spectrum of the data: S_k ∝ C_k.

    C_k is the data's variance, averaged over components of like frequency: what ``equal-snr`` has, with the power of white noise.

    Reference: Falck et al. 2025, A Fourier Space Perspective on Diffusion Models, arXiv 2505.11278.
    """

    name = "as-data"

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        return {"C": Moments.fit(data, rotation).variance}

    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        C: Tensor = self.learned["C"]
        return C
