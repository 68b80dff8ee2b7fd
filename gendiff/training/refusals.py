"""Refusals: what a run is refused for before its first step, and not when it has come to where it would fail."""

from __future__ import annotations

import torch

from gendiff.diffusion import Diffusion
from gendiff.errors import ArgumentError, ConfigError
from gendiff.machine.world import World
from gendiff.objective import Nothing
from gendiff.run.config import Config
from gendiff.run.settings import TrainSettings


def refuse_samplers(config: Config, diffusion: Diffusion) -> None:
    """Raise `ConfigError` now, not when a grid is drawn, where a sampler of the run cannot sample its process."""
    samplers = {"sampler": config.sampler}
    if config.train.sample_every:
        samplers["train.preview"] = config.train.preview
    for key, sampler in samplers.items():
        try:
            next(iter(sampler.updates(diffusion)), None)
        except ConfigError as error:
            error.what = f"{key}: {error.what}"
            error.subject = f"{key}.{error.subject.partition('.')[2] or 'name'}"
            raise


def refuse_whole_steps(config: Config, diffusion: Diffusion) -> None:
    """Raise `ConfigError` now where the network, the process or the loss knows whole steps alone, and real ones are asked for."""
    if not config.train.continuous:
        return
    fix = "train at whole steps: leave train.continuous out"
    if config.model.reads_whole_steps:
        raise ConfigError(
            f"the network of model '{config.model.name}' knows whole steps alone",
            details=["it has one entry in a table for each, and says nothing of what is between them"],
            fix=f"choose another model, or {fix}",
            subject="train.continuous",
        )
    N = config.N
    i = torch.tensor([1.0, 1.25, 1.75, min(2.5, N), (N + 1) / 2 + 0.25, N - 0.25, N], dtype=torch.float64)
    x = torch.zeros(len(i), *config.data.event_shape)
    try:
        loss = config.objective.loss(Nothing(), diffusion.to("cpu"), x, i, x + 1)
        why = "" if loss.per_event.isfinite().all() else f"the loss '{config.objective.name}' is not finite there"
    except ArgumentError as error:
        why = error.what
    if why:
        raise ConfigError(
            "this process cannot be trained at real steps", details=[why], fix=fix, subject="train.continuous"
        )


def refuse_unequal_parts(settings: TrainSettings, world: World) -> None:
    """Raise `ConfigError` where a batch cannot be taken in the parts that are asked for: their means would not add up."""
    batch, parts = settings.batch, world.size * settings.accumulate
    if batch % parts:
        of_each = f" on each of {world.size} processes" if world.size > 1 else ""
        raise ConfigError(
            f"a batch of {batch} cannot be taken in {settings.accumulate} equal parts{of_each}",
            fix=f"choose a multiple of {parts} for train.batch, or another train.accumulate",
            subject="train.accumulate",
        )
