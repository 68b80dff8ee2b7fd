"""Compilation: whether and when the network of a run is compiled.

It is where that is asked for, in the first step, and never where it is not to be. What is left to us is left to the clock: a run
on a GPU that goes on for long is compiled on its way, and goes on as it was where its steps are not seen to be faster so.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from gendiff.denoiser import Denoiser
from gendiff.errors import reason
from gendiff.machine import determinism
from gendiff.machine.world import World
from gendiff.run.settings import TrainSettings
from gendiff.training.pace import Pace
from gendiff.training.weights import Weights

WORTH_COMPILING = 600  # seconds that a run goes on for: compiling a large network takes one or two minutes


class Compilation:
    """What becomes of ``train.compile``.

    Whoever is told that the network is another, compiled or as it was, goes on with a step that is made of it.

    Args:
        denoiser: whose network is compiled, at once where that is asked for.
        weights: of that network, which lie in memory as it wants them.
        late: whether steps are computed behind the back of the host, as on a GPU: elsewhere nothing is compiled unasked.

    Attributes:
        pending: whether the next step compiles the network.
        pace: of the steps since the network is what it is.

    """

    def __init__(self, settings: TrainSettings, denoiser: Denoiser, weights: Weights, world: World, late: bool) -> None:
        self.settings = settings
        self.denoiser = denoiser
        self.weights = weights
        self.device = world.device
        self.pending = False
        self.pace = Pace()
        # A run that repeats leaves nothing to a clock.
        self._left_to_us = settings.compile == "auto" and not settings.deterministic and late and world.size == 1
        self._uncompiled: float | None = None  # seconds of a step before the network was compiled, until that is judged
        if settings.compile is True:
            self._compile()

    @property
    def active(self) -> bool:
        """Whether the network is compiled, or is in the next step."""
        return self.denoiser.network is not self.weights.network

    def begin(self, seconds: float) -> bool:
        """Compile the network in the next step where that is left to us, and worth it for so long, once; returns whether."""
        if not self._left_to_us or seconds <= WORTH_COMPILING:
            return False
        self._left_to_us = False
        self._uncompiled, self.pace = self.pace.seconds, Pace()
        self._compile()
        return True

    def judge(self) -> bool:
        """Leave the network as it was where compiling it, which was left to us, is seen not to pay; returns whether."""
        before, now = self._uncompiled, self.pace.seconds
        if before is None or now is None:
            return False
        self._uncompiled = None
        if now < before:
            return False
        warnings.warn(
            f"compiled, a step takes {1e3 * now:.3g} ms, and {1e3 * before:.3g} as it was: it goes on as it was",
            stacklevel=4,
        )
        self._undo()
        return True

    def fall_back(self, error: Exception) -> bool:
        """Leave the network as it was where it was compiled unasked in a step that failed; returns whether."""
        if not (self.pending and self.settings.compile == "auto"):
            return False
        warnings.warn(f"the network could not be compiled, and runs as it is: {reason(error)}", stacklevel=5)
        self._undo()
        return True

    def _compile(self) -> None:
        self.pending = True
        how: dict[str, Any] = determinism.compiling(self.settings.deterministic, self.device)
        self.denoiser.network = torch.compile(self.weights.network, **how)  # type: ignore[assignment]  # still a module
        # A compiled network is faster so on a GPU, and slower on a CPU.
        if self.device.type == "cuda" and not self.weights.sharded:
            self.denoiser.channels_last = True
            self.weights.lay_out(torch.channels_last)

    def _undo(self) -> None:
        self.pending, self.denoiser.network = False, self.weights.network
        if self.denoiser.channels_last:
            self.denoiser.channels_last = False
            self.weights.lay_out(torch.contiguous_format)
