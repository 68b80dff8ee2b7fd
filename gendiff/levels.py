r"""Levels: the law by which noise levels are drawn in training.

A step i of a batch is drawn with probability p_i, i = 1..N; ``uniform`` is p_i = 1/N. The mean loss then estimates

    Σ_i p_i E loss(i) ,

so another law weighs the steps anew, as a factor N p_i in the weight of the objective would: what the network is best at
changes, and losses of two laws cannot be compared. With ``unbiased`` the loss of each event is divided by N p_i: the estimate
is that of the uniform law again, ``(1/N) Σ_i E loss(i)``, the bound where the objective is the bound, and the law changes its
variance alone.

A law of a real t in (0, 1] gives step i what it gives the interval ((i-1)/N, i/N].

Where steps are drawn as real numbers, the interval [1, N] is cut into N equal parts, one for each step, which lies in its own
(`part_of`); a part is met with the probability of its step, and evenly within. ``uniform`` is uniform in [1, N].

A law may follow the losses of its run (`AdaptiveLevels`). Then the events of a batch have places u in [0, 1), a function of
(seed, step, position) as ever, and the step of an event is where the cumulative law of that moment passes u (`Adaptation`): the
law itself follows from the steps before, and is kept with a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from pydantic import Field
from torch import Tensor

from gendiff.component import Component, abstractmethod
from gendiff.diffusion import Diffusion
from gendiff.errors import PluginError
from gendiff.streams import stream

PRIOR = 10.0  # events of the mean loss with which each bin begins

#: What is known of the losses of one step, put together over processes (`gendiff.machine.world.World.sum`).
Together = Callable[[Tensor], Tensor]


def part_of(i: Tensor, N: int) -> Tensor:
    """The step, int64, to whose part of [1, N] steps ``i`` belong, whole or real: itself for a whole one of integer type."""
    if not i.dtype.is_floating_point:
        return i
    return ((i - 1) * N / (N - 1)).floor().long().clamp(0, N - 1) + 1


def _real(place: Tensor, N: int) -> Tensor:
    """The real step at a place in [0, N] of N parts, laid over [1, N]."""
    return (1 + (N - 1) * place / N).clamp(1, N)


@final
@dataclass(frozen=True)
class Draws:
    """The steps of a run as a function of (seed, step, position): nothing depends on how a batch is split.

    Args:
        cumulative: ``Σ_{j<=i} p_j`` for i = 1..N, float64.
        seed, batch: of the run; events of a batch over all processes.
        spread: whether the events of a batch share one draw, and are spread evenly from there.
        continuous: whether steps are real.
        adaptive: whether the law is another one by then: the places say where in it the steps are.

    """

    cumulative: Tensor
    seed: int
    batch: int
    spread: bool = False
    continuous: bool = False
    adaptive: bool = False

    def place(self, step: int, position: int) -> Tensor:
        """The place u in [0, 1) in the law of the event at that position of the global batch, float64, ``(1,)``."""
        source = stream(self.seed, "levels", step, *(() if self.spread else (position,)))
        u = torch.rand(1, generator=source, dtype=torch.float64)
        return (u + position / self.batch) % 1 if self.spread else u

    def __call__(self, step: int, position: int) -> Tensor:
        """Its step i, int64 in 1..N, or float64 in [1, N] where they are real, ``(1,)``."""
        u, N = self.place(step, position), len(self.cumulative)
        k = torch.searchsorted(self.cumulative, u, right=True).clamp_max(N - 1)
        if not self.continuous:
            return 1 + k
        edges = torch.cat([torch.zeros(1, dtype=torch.float64), self.cumulative])
        share = ((u - edges[k]) / (edges[k + 1] - edges[k])).clamp(0, 1)
        return _real(k + share, N)


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
    def draws(self, diffusion: Diffusion, seed: int, batch: int, continuous: bool = False) -> Draws:
        """The steps that a run of that seed and batch trains on; ``continuous``: real ones."""
        adaptive = isinstance(self, AdaptiveLevels)
        return Draws(self.probabilities(diffusion).cumsum(0), seed, batch, self.spread, continuous, adaptive)

    @final
    def correction(self, diffusion: Diffusion) -> Tensor | None:
        """``1/(N p_i)``, 0 for steps never drawn, by which losses at i = 0..N are multiplied; None unless ``unbiased``.

        Of a real step it is that of its part (`part_of`).
        """
        if not self.unbiased:
            return None
        p = self.probabilities(diffusion)
        factor = torch.where(p > 0, 1 / (diffusion.N * p.clamp_min(1e-300)), 0.0)
        return torch.cat([torch.zeros(1, dtype=torch.float64), factor]).float()


class AdaptiveLevels(Levels):
    """A law that follows the losses of its run; an author gives `follow`.

    It begins as the uniform law. The steps are cut into ``bins`` of equal length, of each of which the mean loss is tracked, as
    the objective weighs it: the mean over the events of the last steps, each step counting ``decay`` times as much as the one
    after it. Within a bin all steps are alike.
    """

    spread: ClassVar[bool] = True
    bins: int = Field(100, ge=2, le=1000, description="of steps, of each of which the loss is tracked; at most N")
    decay: float = Field(0.999, ge=0, lt=1, description="of what is known of losses, per step of training")
    floor: float = Field(
        0.1, gt=0, le=1, description="share of the events that are drawn uniformly: no p_i is below floor/N"
    )

    @abstractmethod
    def follow(self, loss: Tensor) -> Tensor:
        """What is proportional to p_i of the steps of each bin, by the mean loss of each: ``(bins,)`` float64, >= 0.

        It runs on the device of the network, and must not wait for it.
        """

    @final
    def mass(self, diffusion: Diffusion) -> Tensor:
        return torch.ones(diffusion.N, dtype=torch.float64)


@final
class Adaptation:
    """An adaptive law on the device of a network, at a step of its run; nothing in it waits for the host.

    Args:
        levels: whose it is.
        N: steps of the process.
        continuous: whether steps are real.

    Attributes:
        p: the probability of each bin, float64.

    """

    def __init__(self, levels: AdaptiveLevels, N: int, device: torch.device, continuous: bool = False) -> None:
        self.levels, self.N, self.continuous = levels, N, continuous
        count = min(levels.bins, N)
        edges = torch.arange(count + 1, dtype=torch.float64, device=device).mul(N / count).round()
        self.edges, self.width = edges, edges.diff()
        self.below = torch.ones(count, count, dtype=torch.float64, device=device).triu(
            1
        )  # a GPU has no sure running sum
        self.losses = torch.zeros(count, dtype=torch.float64, device=device)
        self.events = torch.zeros_like(self.losses)
        self.prior = torch.full((), PRIOR, dtype=torch.float64, device=device)
        self.p, self.start = torch.zeros_like(self.losses), torch.zeros_like(self.losses)
        self._follow()

    @property
    def probabilities(self) -> Tensor:
        """``p_i`` for i = 1..N, float64, ``(N,)``, on the CPU."""
        return (self.p / self.width).cpu().repeat_interleave(self.width.long().cpu())

    def steps(self, u: Tensor) -> Tensor:
        """The steps at places ``u`` of the law, ``(B,)``: they never fall where u rises."""
        k = torch.searchsorted(self.start, u, right=True) - 1
        share = ((u - self.start[k]) / self.p[k]).clamp(0, 1)
        place = self.edges[k] + self.width[k] * share
        if self.continuous:
            return _real(place, self.N)
        return place.floor().long().clamp_max(self.N - 1) + 1

    def correction(self, i: Tensor) -> Tensor:
        """``1/(N p_i)`` at steps ``i``, ``(B,)``, float64."""
        k = self._bins(i)
        return self.width[k] / (self.N * self.p[k])

    def learn(self, i: Tensor, losses: Tensor, applies: Tensor, together: Together) -> None:
        """Take up the losses of a step: as the objective weighs them, ``(B,)``; nothing where it is not applied.

        Args:
            together: adds what each of several processes has.

        """
        inside = (self._bins(i)[:, None] == torch.arange(len(self.p), device=i.device)).double()
        kept = torch.where(applies, losses.double(), 0.0)
        lost, met = together(torch.stack([(kept[:, None] * inside).sum(0), inside.sum(0)]))
        decay = self.levels.decay
        for own, new in ((self.losses, lost), (self.events, met), (self.prior, 0.0)):
            own.copy_(torch.where(applies, decay * own + new, own))
        self._follow()

    def state(self) -> dict[str, Tensor]:
        """All that the law follows from."""
        return {"losses": self.losses, "events": self.events, "prior": self.prior}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`; from the beginning where it is none of this law: of other bins, or of a run that had none."""
        own = self.state()
        if all(name in state and state[name].shape == value.shape for name, value in own.items()):
            for name, value in own.items():
                value.copy_(state[name])
        self._follow()

    def _bins(self, i: Tensor) -> Tensor:
        return torch.searchsorted(self.edges[1:], part_of(i, self.N).double())

    def _follow(self) -> None:
        mean = self.losses.sum() / self.events.sum()
        known = self.events + self.prior
        loss = torch.where(known > 0, (self.losses + self.prior * mean) / known, mean)
        mass = self.width * self.levels.follow(loss)
        even = self.width / self.N
        follows = mass / mass.sum()
        floor = self.levels.floor
        p = torch.where((follows.isfinite() & (follows >= 0)).all(), (1 - floor) * follows + floor * even, even)
        self.p.copy_(p / p.sum())
        self.start.copy_(self.p @ self.below)


def log_sigma(diffusion: Diffusion) -> Tensor:
    """``log σ_i = log(s_i/a_i)`` for i = 1..N, float64, ``(N,)``, on the CPU: the mean over components, each within e^±20."""
    N = diffusion.N
    parts = torch.arange(1, N + 1, device=diffusion.scales.device).split(64)
    means = [(-diffusion.at(i, torch.float64).half_log_snr).clamp(-20, 20).flatten(1).mean(1) for i in parts]
    return torch.cat(means).cpu()
