r"""Clock: what a network is told of the step, where that is another thing than i.

    i        the step itself
    t        1000 i/N, whatever N is
    lambda   100 λ_i, the mean over all components
    reference
             100 λ_{i,0}, that of one component: of the lowest frequency, in the first channel
    bands    100 λ_{i,b}, of each channel and of each band b its mean: the vector γ of a process with several speeds

λ = log(a/s) is the half log-SNR of a component, held in ±20 so that one of which nothing is left weighs no more than that. The
bands of a channel hold equally many components, to one: these in the order of their frequency ρ in the basis of the process, the
lowest first. Factors make 1 a small change, as that of i is.
"""

from __future__ import annotations

from typing import Any, Literal, final, get_args

import torch
from torch import Tensor, nn

from gendiff.errors import ArgumentError
from gendiff.frequency import equal_bands, ordered

Time = Literal["i", "t", "lambda", "reference", "bands"]
MOST = 20.0  # |λ|: what is beyond is all signal, or all noise
FACTOR, STEPS = 100.0, 1000.0
CHUNK = 2**22  # numbers at a time


@final
class Clock(nn.Module):
    """Maps steps ``i``, ``(B,)``, to what is said of them: ``(B,)``, or ``(B, C bands)`` for ``bands``, float.

    A network that has one, of gendiff or your own, is told of its process by `gendiff.model.Model.attach`; before, λ falls
    evenly from 5 to -5 over 1000 steps. What it knows of the process is no weight. At whole steps it says exactly what the scales
    say, and between them it goes straight from one to the next.

    Args:
        time: what is told.
        channels: of an event, and
        bands: of each, for ``bands``.

    Raises:
        ArgumentError: where ``time`` is none of these, or a count is not positive.

    """

    table: Tensor

    def __init__(self, time: Time = "i", channels: int = 1, bands: int = 8) -> None:
        super().__init__()
        if time not in get_args(Time):
            raise ArgumentError(f"time = {time!r}", details=[f"allowed: {', '.join(map(repr, get_args(Time)))}"])
        if min(channels, bands) < 1:
            raise ArgumentError(f"{channels} channels and {bands} bands", details=["of both there is one at least"])
        self.time = time
        self.channels, self.bands = channels, bands
        if time == "t":
            self.register_buffer("table", torch.ones(()), persistent=False)
        elif time != "i":
            even = FACTOR * torch.linspace(5, -5, int(STEPS) + 1)[:, None].repeat(1, self.count)
            self.register_buffer("table", even, persistent=False)

    def extra_repr(self) -> str:
        """What is told, for the repr of the module."""
        return self.time if self.time != "bands" else f"bands, {self.channels} x {self.bands}"

    @property
    def count(self) -> int:
        """How many numbers are told of a step."""
        return self.channels * self.bands if self.time == "bands" else 1

    def attach(self, diffusion: Any) -> None:
        """Read the scales of a process, a `Diffusion`; raises `ArgumentError` where its events are of other channels."""
        if self.time == "i":
            return
        if self.time == "t":
            self.table = torch.full_like(self.table, STEPS / diffusion.N)
            return
        if self.time == "bands" and self.channels != diffusion.event_shape[0]:
            raise ArgumentError(
                f"a clock of {self.channels} channels, and events {diffusion.event_shape}",
                fix=f"make it of them: Clock('bands', channels={diffusion.event_shape[0]})",
            )
        self.table = (FACTOR * self._levels(diffusion)).float().to(self.table.device)

    def forward(self, i: Tensor) -> Tensor:
        """What is told of steps ``i``, float in 1..N."""
        if self.time == "i":
            return i
        if self.time == "t":
            return i * self.table
        last = self.table.shape[0] - 1
        before = i.floor().clamp(0, last)
        here, there = self.table[before.long()], self.table[(before + 1).clamp_max(last).long()]
        values = torch.lerp(here, there, (i - before).clamp(0, 1).to(here.dtype)[:, None])
        return values if self.time == "bands" else values[:, 0]

    def _levels(self, diffusion: Any) -> Tensor:
        """λ for i = 0..N, ``(N + 1, count)`` float64, clamped component by component and then averaged."""
        shape = diffusion.event_shape
        spatial = shape[1:]
        steps = torch.arange(diffusion.N + 1, device=diffusion.scales.device)
        weights = None if self.time == "lambda" or diffusion.alike else self._weights(diffusion)
        rows = []
        for i in steps.split(max(CHUNK // torch.Size(shape).numel(), 1)):
            level = diffusion.at(i, torch.float64).half_log_snr.clamp(-MOST, MOST)
            if weights is None:
                mean = level.flatten(1).mean(1, keepdim=True)  # a diagonal repeats its numbers evenly over an event
                rows.append(mean.expand(-1, self.count))
            else:
                each = level.expand(-1, shape[0], *spatial).flatten(2)
                told = torch.einsum("nck,ckb->ncb", each[:, : len(weights)], weights.to(each.device))
                rows.append(told.flatten(1))
        return torch.cat(rows)

    def _weights(self, diffusion: Any) -> Tensor:
        """Of each component its share in what is told: ``(C, K, bands)``, or ``(1, K, 1)`` of the first channel alone."""
        shape = diffusion.event_shape
        rho = diffusion.rotation.frequencies(shape).expand(shape).flatten(1).cpu()
        if self.time == "reference":
            return nn.functional.one_hot(ordered(rho[0])[:1], rho.shape[1]).double()[..., None]
        band = torch.stack([equal_bands(channel, self.bands) for channel in rho])
        inside = nn.functional.one_hot(band, self.bands).double()
        return inside / inside.sum(1, keepdim=True)
