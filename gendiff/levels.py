r"""Levels: the law by which noise levels are drawn in training.

A step i of a batch is drawn with probability p_i, i = 1..N; ``uniform`` is p_i = 1/N. The mean loss then estimates

    Σ_i p_i E loss(i) ,

so another law weighs the steps anew, as a factor N p_i in the weight of the objective would: what the network is best at
changes, and losses of two laws cannot be compared. With ``unbiased`` the loss of each event is divided by N p_i: the estimate
is that of the uniform law again, ``(1/N) Σ_i E loss(i)``, the bound where the objective is the bound, and the law changes its
variance alone.

A law of a real t in (0, 1] gives step i what it gives the interval ((i-1)/N, i/N].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from pydantic import Field
from torch import Tensor

from gendiff.component import Component, abstractmethod
from gendiff.diffusion import Diffusion
from gendiff.errors import PluginError
from gendiff.streams import stream


@final
@dataclass(frozen=True)
class Draws:
    """The steps of a run as a function of (seed, step, position): nothing depends on how a batch is split.

    Args:
        cumulative: ``Σ_{j<=i} p_j`` for i = 1..N, float64.
        seed, batch: of the run; events of a batch over all processes.
        spread: whether the events of a batch share one draw, and are spread evenly from there.

    """

    cumulative: Tensor
    seed: int
    batch: int
    spread: bool = False

    def __call__(self, step: int, position: int) -> Tensor:
        """The step i of the event at that position of the global batch, int64, ``(1,)``."""
        source = stream(self.seed, "levels", step, *(() if self.spread else (position,)))
        u = torch.rand(1, generator=source, dtype=torch.float64)
        if self.spread:
            u = (u + position / self.batch) % 1
        return 1 + torch.searchsorted(self.cumulative, u, right=True).clamp_max(len(self.cumulative) - 1)


class Levels(Component):
    """A law of i; an author gives `mass`."""

    kind: ClassVar[str] = "levels"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    unbiased: bool = Field(
        False,
        description="divide each loss by N p_i: the loss of the uniform law (the bound, of the bound), other variance",
    )
    #: Whether the events of a batch are spread evenly over the law.
    spread: ClassVar[bool] = False

    @abstractmethod
    def mass(self, diffusion: Diffusion) -> Tensor:
        """What is proportional to p_i >= 0 for i = 1..N, ``(N,)``, on the CPU; not 0 everywhere."""

    @final
    def probabilities(self, diffusion: Diffusion) -> Tensor:
        """``p_i`` for i = 1..N, float64, ``(N,)``; raises `PluginError` where the mass is none."""
        mass = self.mass(diffusion)
        valid = isinstance(mass, Tensor) and mass.shape == (diffusion.N,)
        if not valid or not bool((mass.isfinite() & (mass >= 0)).all()) or not bool((mass > 0).any()):
            raise PluginError(
                f"the levels '{self.name}' give no law of the steps 1..{diffusion.N}",
                details=["mass(diffusion) is a tensor of N finite numbers >= 0, one of them positive at least"],
                fix=f"change its parameters ({self.spec}) or its formula",
                subject="levels.name",
            )
        mass = mass.double().cpu()
        return mass / mass.sum()

    @final
    def draws(self, diffusion: Diffusion, seed: int, batch: int) -> Draws:
        """The steps that a run of that seed and batch trains on."""
        return Draws(self.probabilities(diffusion).cumsum(0), seed, batch, self.spread)

    @final
    def correction(self, diffusion: Diffusion) -> Tensor | None:
        """``1/(N p_i)``, 0 for steps never drawn, by which losses at i = 0..N are multiplied; None unless ``unbiased``."""
        if not self.unbiased:
            return None
        p = self.probabilities(diffusion)
        factor = torch.where(p > 0, 1 / (diffusion.N * p.clamp_min(1e-300)), 0.0)
        return torch.cat([torch.zeros(1, dtype=torch.float64), factor]).float()


def log_sigma(diffusion: Diffusion) -> Tensor:
    """``log σ_i = log(s_i/a_i)`` for i = 1..N, float64, ``(N,)``, on the CPU: the mean over components, each within e^±20."""
    N = diffusion.N
    parts = torch.arange(1, N + 1, device=diffusion.scales.device).split(64)
    means = [(-diffusion.at(i, torch.float64).half_log_snr).clamp(-20, 20).flatten(1).mean(1) for i in parts]
    return torch.cat(means).cpu()
