"""Squared-error objectives."""

from __future__ import annotations

from torch import Tensor

from gendiff.level import Level
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

    def weight(self, at: Level) -> Tensor:
        return at.s**-2

    @property
    def loss_of_one(self) -> str:
        return "a mean squared error of 1 of the score"


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


class Residual(Objective):
    """predict what the step before has more, a_{i-1} x_0 - x_i.

    Summed over the components of an event, unweighted: the authors' loss. It is d times the mean, d being their number, which
    matters where gradients are clipped. A network that is right turns x̄_i into the noiseless ``a_{i-1} x̄_0``; see
    ``--sampler heat-dissipation``. As a belief about x_0 it is divided by a_{i-1}: other samplers amplify its errors where
    that is small.

    Reference: Rissanen, Heinonen, Solin 2022, Generative Modelling with Inverse Heat Dissipation, arXiv 2206.13397.
    """

    name = "residual"
    parametrization = Parametrization.RESIDUAL
    summed = True


class V(Objective):
    """predict v = a ε - s x_0.

    Reference: Salimans, Ho 2022, Progressive Distillation for Fast Sampling of Diffusion Models, arXiv 2202.00512.
    """

    name = "v"
    parametrization = Parametrization.V


class FlowVelocity(Objective):
    """predict the velocity of the path, dx_t/dt.

    ``N ((a_i - a_{i-1}) x_0 + (s_i - s_{i-1}) ε)``, the slope over one step for t = i/N: ε - x_0 for rectified flow, exactly.

    Reference: Lipman et al. 2023, Flow Matching for Generative Modeling, arXiv 2210.02747; Liu, Gong, Liu 2023, Flow Straight
    and Fast, arXiv 2209.03003.
    """

    name = "velocity"
    parametrization = Parametrization.VELOCITY


class Wiener(Objective):
    """predict T, what the best linear guess leaves open.

    ``T = sin θ (x_0 - m)/sqrt(c) - cos θ ε`` with ``θ = atan2(s, a sqrt(c))``, m and c being mean and variance of the data per
    component. The network sees ``y = (x̄ - a m)/sqrt(a² c + s²)``; both have unit variance at every step and component, and
    neither x̂_0 nor ε̂ is found by a division by a or s, however fast a component is destroyed.

    Reference: Karras, Aittala, Aila, Laine 2022, Elucidating the Design Space of Diffusion-Based Generative Models, arXiv
    2206.00364, eq. 7, per component: the isotropic case with a = 1 and m = 0.
    """

    name = "wiener"
    parametrization = Parametrization.WIENER
