"""The Walsh-Hadamard transform."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.blur import laplacian_matrix
from gendiff.dct import dct_matrix
from gendiff.rotation import SeparableRotation


class Hadamard(SeparableRotation):
    """Walsh-Hadamard in sequency order: square waves.

    For n = 2^k the entries are ±1/√n, and column s changes its sign s times. For n = 2^k m with odd m > 1 it is
    ``U = Walsh(2^k) ⊗ DCT-II(m)``: square waves over 2^k blocks of m samples, cosines inside them; an odd n gives the DCT.
    Columns are in order of frequency (``ρ² = u^T Λ u`` rounded to 1e-9, ties as in the Kronecker product), which for
    n = 2^k is sequency: s sign changes have ρ² = 4 s/n.

    Reference: Walsh 1923, American J. of Mathematics 45(1); Ahmed, Rao 1975, Orthogonal Transforms for Digital Signal
    Processing.
    """

    name = "hadamard"

    def matrix(self, n: int) -> Tensor:
        U = torch.ones(1, 1, dtype=torch.float64)
        m = n
        while m % 2 == 0:
            U = torch.kron(U, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
            m //= 2
        U = torch.kron(U / len(U) ** 0.5, dct_matrix(m))
        squared_frequency = (U * (laplacian_matrix(n) @ U)).sum(0)
        return U[:, squared_frequency.round(decimals=9).argsort(stable=True)]
