"""The discrete cosine transform."""

from __future__ import annotations

from torch import Tensor

from gendiff.blur import log_attenuation
from gendiff.dct import dct_matrix
from gendiff.frequency import dct_frequency
from gendiff.rotation import SeparableRotation


class DCT(SeparableRotation):
    """orthonormal DCT-II of every spatial axis.

    ``u_k(m) = c_k cos(πk(m + 1/2)/n)``: diagonalises every symmetric blur under half-sample symmetric borders, with
    ω_k = πk/n and D(ω) the attenuation of the sampled kernel (`gendiff.blur`).

    Reference: Strang 1999, The Discrete Cosine Transform, SIAM Review 41(1).
    """

    name = "dct"
    diagonalises_blur = True

    def matrix(self, n: int) -> Tensor:
        return dct_matrix(n)

    def axis_log_blur(self, n: int, sigma: float) -> Tensor:
        return log_attenuation(dct_frequency(n), sigma)

    def axis_frequency(self, n: int) -> Tensor:
        return dct_frequency(n)
