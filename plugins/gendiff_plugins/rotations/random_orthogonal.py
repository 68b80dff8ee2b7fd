"""A basis without any meaning."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from gendiff.rotation import SeparableRotation
from gendiff.streams import stream


class RandomOrthogonal(SeparableRotation):
    """a random orthogonal matrix for each size of axis.

    ``G = QR`` with G normal and iid, drawn from a stream keyed by the seed and n; ``U = Q sign(diag R)`` is then uniform (Haar)
    on the orthogonal group. Every component sees all frequencies alike (ρ² is near 2 per axis), so a blur slows none of
    them down: the control for what a basis with frequencies gains. Axes of one size share one matrix.

    Reference: Mezzadri 2007, How to generate random matrices from the classical compact groups, Notices AMS 54(5).
    """

    name = "random-orthogonal"
    seed: int = Field(0, ge=0, description="another seed is another basis")

    def matrix(self, n: int) -> Tensor:
        G = torch.randn(n, n, generator=stream(self.seed, self.name, n), dtype=torch.float64)
        Q, R = torch.linalg.qr(G)
        return torch.where(R.diagonal() < 0, -Q, Q)
