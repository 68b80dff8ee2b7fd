"""Noise with the data's own spectrum."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from gendiff.component import by_name
from gendiff.data import Data
from gendiff.frequency import mirrored
from gendiff.moments import Moments
from gendiff.rotation import Rotation
from gendiff.scales import ColouredScales
from gendiff.schedule import NoiseSchedule
from gendiff.shapes import EventShape
from gendiff.velocity import Velocity


class EqualSNR(Velocity):
    """noise with the data's spectrum: a = sqrt(ᾱ), s = sqrt((1-ᾱ) C_k).

    C_k is the data's variance, averaged over components of like frequency: every frequency of the data drowns at the same time,
    ``a² C_k/s²`` being the same for all. ``flipped`` gives ``s = sqrt((1-ᾱ) C_k/C_{K-1-k})``, indices being ranks of frequency
    in a channel: the data's signal-to-noise ratio of rank k is that which standard diffusion has at rank K-1-k: coarse goes
    first.

    Reference: Falck et al. 2025, A Fourier Space Perspective on Diffusion Models, arXiv 2505.11278.
    """

    name = "equal-snr"

    noise: NoiseSchedule = by_name("linear", "noise schedule β_i")
    flipped: bool = Field(False, description="divide C_k by the variance at the other end of the frequency order")

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        return {"log_C": Moments.fit(data, rotation).variance.log()}

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> ColouredScales:
        log_C: Tensor = self.learned["log_C"]
        if self.flipped:
            partner = mirrored(rotation.spread_frequencies(event_shape, "whose order could be flipped"))
            every = log_C.expand(event_shape).flatten(1)
            log_C = log_C - every.gather(1, partner.flatten(1).expand(len(every), -1)).reshape(event_shape)
        return ColouredScales(self.noise.log_alpha_bar(N), log_C)
