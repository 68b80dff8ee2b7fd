"""Baselines: training steps that owe nothing to gendiff's trainer, beside which the benchmark measures it.

========= ==================================================================================================================
Plain     what a straightforward program does: float32, kernel by kernel, dense N x d tables, averages of all parameters stacked
Bare      the least that a loop can do: tables of what is asked for alone, fused Adam, averages in their place
Before    gendiff's step before it was recorded: kernel by kernel in float32, and read by the host each time
========= ==================================================================================================================

Each is called with a batch on its device, keeps the loss of its last step, and predicts ε but for `Before`, which has the
objective of the run. None has a learning rate that warms up, and none looks whether a step is finite but `Before`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gendiff.datasets.batches import Batch
from gendiff.run.config import Config
from gendiff.run.network import build_denoiser, build_network


class Plain:
    """Noising from dense tables, network, backward, clipping, Adam as torch has it by default, stacked averages."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.network = build_network(config).to(device).train()
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.train.lr)
        self.decay, self.clip = config.train.ema, config.train.grad_clip
        self.diffusion = config.diffusion().to(device)
        self.make_tables(config.N, config.data.event_shape, device)
        self.begin_average()
        self.loss: Tensor | None = None

    def make_tables(self, N: int, event: tuple[int, ...], device: torch.device) -> None:
        """a and s of every step and component, ``(N + 1, *event)`` float32."""
        at = self.diffusion.at(torch.arange(N + 1, device=device))
        self.a, self.s = (table.expand(N + 1, *event).contiguous() for table in (at.a, at.s))

    def scales(self, i: Tensor) -> tuple[Tensor, Tensor]:
        """a and s at these steps."""
        return self.a[i], self.s[i]

    def begin_average(self) -> None:
        self.average = self.stacked()

    def stacked(self) -> Tensor:
        """All parameters in one vector."""
        return torch.cat([parameter.detach().flatten() for parameter in self.parameters])

    def averaging(self) -> None:
        """One step of the averages."""
        self.average = self.decay * self.average + (1 - self.decay) * self.stacked()

    def __call__(self, batch: Batch) -> None:
        a, s = self.scales(batch.i)
        rotation = self.diffusion.rotation
        x_i = rotation.unrotate(a * rotation.rotate(batch.x_0) + s * rotation.rotate(batch.eps))
        loss = (self.network(x_i, batch.i.to(x_i.dtype)) - batch.eps).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.averaging()
        self.loss = loss.detach()


class Bare(Plain):
    """The same without what is wasted: what a processor can do."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.train.lr, fused=True)

    def make_tables(self, N: int, event: tuple[int, ...], device: torch.device) -> None:
        """a and s of every step, of as many components as differ."""
        at = self.diffusion.at(torch.arange(N + 1, device=device))
        self.a, self.s = at.a, at.s

    def begin_average(self) -> None:
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def averaging(self) -> None:
        torch._foreach_lerp_(self.averages, self.parameters, 1 - self.decay)


class Before:
    """The step that gendiff had: `torch.optim.Adam` by default, and one wait for the device in each step."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.objective = config.objective
        self.denoiser = build_denoiser(config, device).train()
        self.network = self.denoiser.network
        self.diffusion = self.denoiser.diffusion
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.train.lr)
        self.decay, self.clip = config.train.ema, config.train.grad_clip
        self.averages = [parameter.detach().clone() for parameter in self.parameters]
        self.loss = math.nan

    def __call__(self, batch: Batch) -> None:
        loss = self.objective.loss(self.denoiser, self.diffusion, batch.x_0, batch.i, batch.eps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.per_event.mean().backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        size, self.loss = torch.stack([norm, loss.per_event.detach().mean()]).tolist()
        if math.isfinite(size) and math.isfinite(self.loss):
            self.optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.parameters, 1 - self.decay)
