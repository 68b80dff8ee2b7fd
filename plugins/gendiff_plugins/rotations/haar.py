"""The Haar wavelets."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from gendiff.rotation import SeparableRotation


class Haar(SeparableRotation):
    """orthonormal Haar wavelets of every spatial axis.

    Neighbours a and b that stand for p and q samples merge into an approximation, which goes to the next level, and a
    detail, which stays:

        (√p a + √q b) / √(p+q) ,    (√q a - √p b) / √(p+q) .

    A sample without a neighbour, the last of an odd number, is carried to the next level as it is. So the basis is
    orthonormal for any n, the approximation of p samples is their sum over √p, and n = 2^k gives the Haar wavelets proper.
    Order: coarse to fine, that is what is left of the approximation, then the details of the last level to the first, each
    by position. Of pictures it is the tensor product: levels are taken per axis, rows and columns apart.

    Reference: Haar 1910, Math. Annalen 69; unbalanced: Girardi, Sweldens 1997, J. Fourier Analysis and Applications 3(4).
    """

    name = "haar"
    levels: int | None = Field(None, ge=1, description="how often neighbours merge; left out: until one is left")

    def matrix(self, n: int) -> Tensor:
        U = torch.eye(n, dtype=torch.float64)
        approximations = list(zip(U, [1] * n, strict=True))  # the vector of each, and how many samples it stands for
        details: list[Tensor] = []  # coarse to fine
        level = 0
        while len(approximations) > 1 and level != self.levels:
            sums, differences = [], []
            for (a, p), (b, q) in zip(approximations[::2], approximations[1::2], strict=False):
                sums.append(((p**0.5 * a + q**0.5 * b) / (p + q) ** 0.5, p + q))
                differences.append((q**0.5 * a - p**0.5 * b) / (p + q) ** 0.5)
            rest = approximations[-1:] if len(approximations) % 2 else []
            approximations, details = sums + rest, differences + details
            level += 1
        return torch.stack([vector for vector, _ in approximations] + details, dim=1)
