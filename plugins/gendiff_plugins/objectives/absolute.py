"""Absolute-error objectives."""

from __future__ import annotations

from gendiff.objective import Objective
from gendiff.score import Parametrization


class X0Absolute(Objective):
    """predict the clean event x_0, absolute error of its pixels.

    Reference: Bansal et al. 2022, Cold Diffusion, arXiv 2208.09392.
    """

    name = "x0-l1"
    parametrization = Parametrization.X_0
    power = 1
