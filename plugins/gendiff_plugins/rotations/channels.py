"""Rotations that mix the channels of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from pydantic import Field
from torch import Tensor

from gendiff.data import Data
from gendiff.rotation import ChannelRotation
from gendiff.shapes import EventShape

CB = (-0.299 / 1.772, -0.587 / 1.772, 0.5)  # of R, G, B: JPEG's (JFIF, ITU-R BT.601)
CR = (0.5, -0.587 / 1.402, -0.114 / 1.402)
CHUNK = 2**22  # samples of data held at a time
TIE_BREAK = 1e-8  # of the norm of the covariance


class YCbCr(ChannelRotation):
    """luma and chroma: JPEG's YCbCr, made orthonormal.

    JPEG's matrix is not orthogonal: its luma 0.299 R + 0.587 G + 0.114 B leans towards the plane of its chroma, and Cb and Cr do
    to each other. Here Cb keeps its direction, Cr is what is left of it beside Cb, and Y is what is left beside both,

        Y = (R + G + B)/√3 ,

    each of unit length: the plane of Cb and Cr is JPEG's, and grey pictures have no chroma, as there. Compose it with a basis of
    space, ``ycbcr+dct``. Frequencies and blur are those of that basis, the same for luma and chroma; velocities that are fitted
    to data (``equal-snr``, ``soft-conditioning``, ``spectrum-matched``), and the moments, know how small chroma is.

    Reference: ITU-T T.871 (JFIF), for Cb and Cr.
    """

    name = "ycbcr"

    def mixing(self, channels: int) -> Tensor:
        cb, cr = (torch.tensor(row, dtype=torch.float64) for row in (CB, CR))
        cb = cb / cb.norm()
        cr = cr - (cr @ cb) * cb
        return torch.stack([torch.full((3,), 3**-0.5, dtype=torch.float64), cb, cr / cr.norm()], dim=1)

    def refusal(self, event_shape: EventShape) -> str:
        return "" if event_shape[0] == 3 else f"it mixes 3 channels, red, green and blue, not {event_shape[0]}"


class ChannelPCA(ChannelRotation):
    """principal components of the channels of the data: colour PCA.

    Eigenvectors of the covariance of the C channels, pooled over events and positions, in order of descending variance; the
    first entry larger than 1e-8 in size is positive. Where variances coincide, the channels as they are decide. Of natural
    pictures it comes near to luma, blue against yellow, and red against green. It belongs to the number of channels that it
    was fitted to; sizes are free. Compose it with a basis of space, ``channel-pca+dct``.

    Reference: Ohta, Kanade, Sakai 1980, Color information for region segmentation, Computer Graphics and Image Processing 13(3).
    """

    name = "channel-pca"
    events: int = Field(2048, ge=1, description="how many events of the data it looks at, equally spread")

    def fit(self, data: Data) -> Mapping[str, Tensor]:
        """V, ``(C, C)`` float64."""
        C = data.event_shape[0]
        indices, at_a_time = data.spread(self.events), max(CHUNK // prod(data.event_shape), 1)
        count, total, products = 0, torch.zeros(C).double(), torch.zeros(C, C).double()
        origin = data[indices[0]].double().flatten(1).mean(1)  # so that little is lost by subtraction
        for start in range(0, len(indices), at_a_time):
            x = torch.stack([data[index] for index in indices[start : start + at_a_time]]).double()
            pixels = x.movedim(1, -1).reshape(-1, C) - origin
            count, total, products = count + len(pixels), total + pixels.sum(0), products + pixels.T @ pixels
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        scale = float(torch.linalg.matrix_norm(covariance))
        order = torch.linspace(1, 0, C, dtype=torch.float64)
        _, vectors = torch.linalg.eigh(covariance + torch.diag((TIE_BREAK * scale if scale > 0 else 1.0) * order))
        V: Tensor = vectors.flip(1)  # eigh is ascending
        first = (V.abs() > 1e-8).int().argmax(0)
        return {"V": (V * V.gather(0, first[None]).sign()).contiguous()}

    def mixing(self, channels: int) -> Tensor:
        V: Tensor = self.learned["V"]
        return V

    def refusal(self, event_shape: EventShape) -> str:
        own = len(self.learned["V"]) if self.has_learned else event_shape[0]
        return "" if event_shape[0] == own else f"it was fitted to {own} channels, these events have {event_shape[0]}"
