"""Cold diffusion: blur alone."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from gendiff.rotation import Rotation
from gendiff.scales import DissipatingScales
from gendiff.shapes import EventShape, check_count
from gendiff.velocity import BlurWidth, Velocity


class Cold(Velocity):
    """blur alone, the limit s = 0: a = exp(-μ_k Σσ_j²/2), s = floor.

    Step j blurs by a Gaussian of std ``σ_j = (sigma + growth (j-1)) ratio^(j-1)`` pixels, so ``a_i = exp(-μ_k Σ_{j<=i} σ_j²/2)``.
    A process without any noise has no score; s is a small constant instead, at i = 0 too. Then the deterministic sampler
    ``--sampler ddim`` is the paper's update: ``b = s_j = s_i`` gives ``x_j = x_i - D(x̂_0, i) + D(x̂_0, j)``, whatever the floor.

    The authors' σ_j: CIFAR-10, the default, with N = 50; MNIST ``sigma=7,growth=0`` with N = 20; CelebA 128x128
    ``sigma=1,growth=0,ratio=1.01005`` (e^0.01) with N = 200, and 300 to generate. Theirs are the σ of kernels that are sampled
    and cut to 11 to 27 pixels, with reflecting or circular borders; here σ_j is the true width, with symmetric borders under
    ``dct``. So their narrow kernels blur less (σ = 0.35 has a true std of 0.18 pixels), and so do their wide ones: MNIST's, on 11
    pixels, is ``sigma=3.04``. The mean of a picture never fades: start from the data's own (``prior=matched``, their way to
    generate, or ``prior=data``).

    Reference: Bansal et al. 2022, Cold Diffusion, arXiv 2208.09392, Alg. 2, and its code.
    """

    name = "cold"

    sigma: float = Field(0.35, gt=0, le=1e3, description="std of the blur of step 1, pixels")
    growth: float = Field(0.01, ge=0, le=1e2, description="by how much the std grows from step to step, pixels")
    ratio: float = Field(1.0, ge=1, le=2, description="by what factor it grows besides")
    floor: float = Field(1e-3, gt=0, le=0.1, description="s, in place of no noise at all")

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> DissipatingScales:
        check_count(N)
        return DissipatingScales(
            log_a_common=torch.zeros(N + 1, dtype=torch.float64),
            log_s_common=torch.full((N + 1,), math.log(self.floor), dtype=torch.float64),
            tau=self._tau(N),
            mu=rotation.heat_spectrum(event_shape),
            d=torch.zeros((), dtype=torch.float64),
        )

    def blur_width(self, N: int) -> BlurWidth:
        width = (2 * self._tau(N)).sqrt()
        return BlurWidth(true=width, nominal=width)

    def _tau(self, N: int) -> Tensor:
        j = torch.arange(N, dtype=torch.float64)  # of the step j + 1
        log_sigma = (self.sigma + self.growth * j).log() + math.log(self.ratio) * j
        sigma = log_sigma.clamp_max(300.0).exp()  # its square stays finite
        return torch.cat([torch.zeros(1, dtype=torch.float64), (sigma**2 / 2).cumsum(0)])
