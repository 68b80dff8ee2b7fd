"""Importing: a run of no step, made of the weights of a pretrained model.

It is a run as any other: its checkpoint of step 0 has the given weights, as they are and as their averages. It is sampled,
measured, trained on and begun from, where the files that the weights came from are gone.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from gendiff.command import option
from gendiff.errors import ConfigError
from gendiff.moments import Moments
from gendiff.plugin.registry import Registry
from gendiff.pretrained import Pretrained
from gendiff.run import checkpoint
from gendiff.run.checkpoint import Checkpoint
from gendiff.run.config import Config
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve
from gendiff.run.network import build_denoiser
from gendiff.run.trained import TrainedModel
from gendiff.training.branch import Foreign
from gendiff.training.inheritance import inherit
from gendiff.training.recipe import build_optimizer
from gendiff.training.window import Window

CPU = torch.device("cpu")


def imported(
    model: Pretrained,
    layers: Iterable[Layer],
    registry: Registry,
    out: Path | None = None,
    argv: Sequence[str] = (),
) -> tuple[Run, list[str]]:
    """A run of no step with the weights of ``model``, and what a user should know of it.

    Args:
        layers: what is set besides, over the settings that belong to the weights: data, a sampler, how it is to be trained on.
        out: the run directory; left out, the next number under ``runs/``.

    Raises:
        ConfigError: where ``out`` is not empty, and where the weights do not fit the events, or all of them the network.
        DataError: where weights or data cannot be read.

    """
    foreign, given = Foreign(model, whole=True), list(layers)
    settings = resolve([foreign.layer, *_events(model, given), *given])
    with settings.locating():
        config = settings.config
        if config.data.length == 0:  # nobody has them: what is assumed of data that nobody looked at
            rotation, velocity, shape = config.rotation, config.velocity, config.data.event_shape
            basis = config.basis_of(rotation, velocity, shape)
            config = config.holding(rotation, velocity, Moments.standard(shape), basis)
        config = config.fitted()
        source, lines, lineage = _begun(config, foreign)
    run = Run.create(config, registry, out, argv, lineage)
    try:
        with run.lock():
            about = {"run": run.info["id"], "versions": run.info["versions"], "data": config.data.fingerprint}
            whole = Checkpoint(source.step, source.tensors, source.state, about)
            checkpoint.save(run.checkpoints, whole, config.train.keep)
            run.update(status="imported")
            run.write_card()
    except BaseException:
        run.take_away()
        raise
    return run, lines


def opened(model: Pretrained, registry: Registry, device: torch.device, ema: bool | str = True) -> TrainedModel:
    """A pretrained model, ready to sample: `imported` into a folder that is gone when nobody holds it any more.

    Raises what `imported` does.
    """
    place = Path(mkdtemp(prefix="gendiff-"))
    try:
        run, _ = imported(model, [], registry, place / "run")
        result = TrainedModel.load(run, device, ema)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    weakref.finalize(run, shutil.rmtree, place, ignore_errors=True)
    shutil.rmtree(run.checkpoints)  # the weights are in memory
    return result


def _begun(config: Config, foreign: Foreign) -> tuple[Checkpoint, list[str], dict[str, Any]]:
    """The checkpoint of a run that has done no step, with the given weights, as they are and as their averages."""
    network = build_denoiser(config, CPU).network
    groups = (*config.train.averages, *config.train.profiles)
    averages = {
        group: {name: weight.detach().clone() for name, weight in network.state_dict().items()} for group in groups
    }
    optimizer = build_optimizer(config.train, network, torch.zeros(()), capturable=False)
    source = foreign.checkpoint(network)
    inheritance = inherit(source, False, network, averages, optimizer)
    foreign.check(inheritance)
    weights = {name: weight.detach().clone() for name, weight in network.state_dict().items()}
    lineage = foreign.lineage(source.tensors["model"], inheritance.taken, len(weights), inheritance.left)
    state = {"images": 0, "failures": 0, "window": asdict(Window())}
    return (
        Checkpoint(0, {"model": weights, "optimizer": {}, **averages}, state, {}),
        foreign.told(lineage),
        lineage,
    )


def _events(model: Pretrained, given: Iterable[Layer]) -> list[Layer]:
    """What stands for the events that the network was trained on, and what it was told of them, where nobody says which."""
    origin, said = model.spec, {key for layer in given for key in layer.table}
    layers = []
    if "data" not in said:
        if model.event_shape is None:
            raise ConfigError(
                f"'{origin}' does not say of which shape its events are",
                fix=f"give events of that shape: {option('--data', 'SPEC')}",
                subject="data.name",
            )
        known = {name: condition.table() for name, condition in model.conditions.items()}
        data = {"name": "elsewhere", "shape": list(model.event_shape), "known": known, "source": origin}
        bounds = {} if model.value_range is None else {"bounds": list(model.value_range)}
        layers.append(Layer(origin, {"data": data | bounds}))
    if "condition" not in said and model.conditions:
        layers.append(Layer(origin, {"condition": list(model.conditions)}))
    return layers
