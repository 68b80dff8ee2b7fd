"""Law: by which the steps i of a run are drawn, and by what the losses of its events are multiplied for that."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.levels import Adaptation, AdaptiveLevels, Draws, part_of
from gendiff.run.config import Config


class Law:
    """That of ``train.levels`` and ``train.continuous``.

    Attributes:
        adaptation: the law as it is, on the device, where it follows the losses.

    """

    def __init__(self, config: Config, diffusion: Diffusion, device: torch.device) -> None:
        self.settings, self.N = config.train, config.N
        self.diffusion = diffusion
        self.device = device
        levels, self.adaptation = self.settings.levels, None
        if isinstance(levels, AdaptiveLevels):
            self.adaptation = Adaptation(levels, self.N, device, self.settings.continuous)

    def draws(self) -> Draws | None:
        """Which steps are drawn; None for every whole one alike."""
        settings = self.settings
        if settings.levels is not None:
            return settings.levels.draws(self.diffusion, settings.seed, settings.batch, settings.continuous)
        if not settings.continuous:
            return None
        even = torch.arange(1, self.N + 1, dtype=torch.float64) / self.N
        return Draws(even, settings.seed, settings.batch, continuous=True)

    def correction(self) -> Callable[[Tensor], Tensor] | None:
        """By what losses of events at steps i, ``(B,)``, are multiplied (`Levels.correction`); None: by nothing."""
        levels, N = self.settings.levels, self.N
        if levels is None or not levels.unbiased:
            return None
        if self.adaptation:
            return self.adaptation.correction
        table = levels.correction(self.diffusion)
        assert table is not None
        table = table.to(self.device)
        return lambda i: table[part_of(i, N)]
