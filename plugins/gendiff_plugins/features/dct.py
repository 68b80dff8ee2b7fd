"""DCT coefficients."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from gendiff.dct import dct
from gendiff.features import Features

FLOOR = 1e-6  # added to each c²: values of 8 bits are no finer than 4e-3, and a coefficient of nothing has a finite logarithm


class DCT(Features):
    """DCT coefficients, or the logarithm of their size.

    c = U^T x, the orthonormal DCT-II of each channel; with ``log_magnitude`` (the default) ``log(c² + 1e-6)/2``. The logarithm
    weighs all frequencies alike, so that lost fine detail counts as much as lost contrast; it is blind to signs, and so to
    where things are. Without it a Fréchet distance is that of pixels, for U is orthonormal.
    """

    name = "dct"

    log_magnitude: bool = Field(True, description="the logarithm of the size instead of the coefficient")

    def extract(self, events: Tensor) -> Tensor:
        c = dct(events).flatten(1)
        return (c.square() + FLOOR).log() / 2 if self.log_magnitude else c

    @property
    def fingerprint(self) -> str:
        return f"dct/1 log_magnitude={str(self.log_magnitude).lower()}"
