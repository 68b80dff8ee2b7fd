r"""Generalisation: the loss of events that are trained on beside that of events that are held out.

Both are taken at the same steps i, spread over 1..N, with the same noise ε, keyed by the seed of the split alone and so the same
at every optimiser step, with the averaged weights. From one look to the next nothing changes but the network: where the loss of
held-out events rises while that of training events falls, the network learns these events, no longer their distribution.

What differs between events is the same in two looks, and in a network and an output of 0: the losses of the events themselves
are kept, so that differences can be taken event by event (`gendiff.run.curve`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gendiff.condition import Given, stacked
from gendiff.data import Data, told_of
from gendiff.datasets.split import HoldOut
from gendiff.denoiser import Denoiser
from gendiff.objective import Nothing
from gendiff.run.config import Config
from gendiff.sampler import CHUNK
from gendiff.streams import stream
from gendiff.training.bands import BANDS
from gendiff.training.trainer import Trainer

LEVELS = 8  # steps i of the diffusion at which losses are taken
MOST_KEPT = 256  # losses in a row of metrics.jsonl, of events or, where there are more, of groups of them
DIGITS = 7


def looks_at(config: Config, step: int) -> bool:
    """Whether the losses of both sides are taken at an optimiser step."""
    every = config.hold_out.every if config.hold_out else 0
    return bool(every) and (step % every == 0 or step == config.train.steps)


def generalisation(trainer: Trainer) -> dict[str, Any]:
    """What a row of metrics.jsonl says of both sides, each in the losses of its events.

    ``loss`` is their mean and ``error`` its standard error, ``loss_bands`` the errors by band of frequencies, ``events`` their
    number, ``by_event`` the losses themselves (means of 256 groups where there are more); ``nothing`` has loss and error of
    an output of 0, ``gain`` by how much the network is below that, event by event, and the error of the difference.
    """
    config = trainer.config
    assert config.hold_out is not None
    sides = {"held_out": config.held_out, "training": config.training}
    network = trainer.averaged()
    return {side: _losses(trainer, network, config.hold_out, data) for side, data in sides.items() if data is not None}


@torch.no_grad()
def _losses(trainer: Trainer, network: Denoiser, hold_out: HoldOut, data: Data) -> dict[str, Any]:
    events = data.spread(hold_out.most)
    draws = max(hold_out.most // len(events), 1)  # few events meet more noise, or their loss would be that of the noise
    of_event, of_nothing = torch.zeros(2, len(events), dtype=torch.float64)
    bands = torch.zeros(BANDS, dtype=torch.float64)
    objective = trainer.config.objective
    for places, x_0, i, eps, told in _batches(trainer, hold_out, data, events, draws):
        loss = objective.loss(network, trainer.diffusion, x_0, i, eps, told)
        of_event.index_add_(0, places, loss.per_event.double().cpu())
        nothing = objective.loss(Nothing(), trainer.diffusion, x_0, i, eps)
        of_nothing.index_add_(0, places, nothing.per_event.double().cpu())
        bands += torch.tensor(trainer.bands.means(loss.error_bar), dtype=torch.float64) * len(places)
    of_event /= draws * LEVELS
    of_nothing /= draws * LEVELS
    return {
        **_mean(of_event),
        "loss_bands": [_finite(value) for value in (bands / (len(events) * draws * LEVELS)).tolist()],
        "events": len(events),
        "by_event": [
            _finite(float(f"{part.mean():.{DIGITS}g}")) for part in of_event.tensor_split(min(len(events), MOST_KEPT))
        ],
        "nothing": _mean(of_nothing),
        "gain": _mean(of_nothing - of_event, "mean"),
    }


def _mean(of_event: Tensor, name: str = "loss") -> dict[str, float | None]:
    """A mean over events, and its standard error."""
    error = float(of_event.std() / math.sqrt(len(of_event))) if len(of_event) > 1 else None
    return {name: _finite(float(of_event.mean())), "error": _finite(error)}


def _batches(
    trainer: Trainer, hold_out: HoldOut, data: Data, events: Any, draws: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Given]]:
    """Which of the events, x_0, i, ε and what is told of all triples of event, noise and step, as many as are sampled."""
    N, device, conditions = trainer.config.N, trainer.device, trainer.config.conditions
    triples = [(k, level) for k in range(len(events) * draws) for level in range(LEVELS)]
    clean: dict[int, Tensor] = {}
    size = CHUNK[device.type]
    for start in range(0, len(triples), size):
        part = triples[start : start + size]
        places = [k % len(events) for k, _ in part]
        clean = {place: clean[place] if place in clean else data[events[place]] for place in places}
        eps = [
            torch.randn(data.event_shape, generator=stream(hold_out.seed, "held out", k, level)) for k, level in part
        ]
        i = torch.tensor([_step((level + 0.5) / LEVELS, N, trainer.settings.continuous) for _, level in part])
        x_0 = torch.stack([clean[place] for place in places])
        told = stacked(conditions, [told_of(data, conditions, events[place]) for place in places])
        there = {name: value.to(device) for name, value in told.items()}
        yield torch.tensor(places), x_0.to(device), i.to(device), torch.stack(eps).to(device), there


def _step(t: float, N: int, continuous: bool) -> float:
    """The step at a share of the way, whole or real as those that are trained on."""
    return 1 + (N - 1) * t if continuous else math.ceil(t * N)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
