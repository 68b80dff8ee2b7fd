"""Squared-error objectives."""

from __future__ import annotations

from torch import Tensor

from gendiff.objective import Objective
from gendiff.score import Parametrization


class Eps(Objective):
    """predict ε, weight 1 (the paper's eq. 18).

    Reference: Ho, Jain, Abbeel 2020, arXiv 2006.11239, eq. 14; Lee et al. 2022, arXiv 2207.11192, eq. 18.
    """

    name = "eps"
    parametrization = Parametrization.EPS


class Score(Objective):
    """predict ε, weight 1/s²: score matching (the paper's eq. 17).

    ``|ŝ - ∇ log q|² = |ε̂ - ε|²/s²`` with the score read as -ε̂/s: the network predicts ε, whose size does not explode at small i.

    Reference: Lee et al. 2022, arXiv 2207.11192, eq. 17 (corrected: the power of I - Ā is -1/2).
    """

    name = "score"
    parametrization = Parametrization.EPS

    def weight(self, a: Tensor, s: Tensor) -> Tensor:
        return s**-2


class Std(Objective):
    """predict the noise as it stands in the picture, s ε.

    Equal to weighing the error of ε by s²; x̂_0 = (x̄ - output)/a then never divides by s.
    """

    name = "std"
    parametrization = Parametrization.STD


class X0(Objective):
    """predict the clean event x_0."""

    name = "x0"
    parametrization = Parametrization.X_0


class V(Objective):
    """predict v = a ε - s x_0.

    Reference: Salimans, Ho 2022, Progressive Distillation for Fast Sampling of Diffusion Models, arXiv 2202.00512.
    """

    name = "v"
    parametrization = Parametrization.V
