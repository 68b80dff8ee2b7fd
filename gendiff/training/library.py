"""Library: what the commands do with a run, from Python.

run = gendiff.train(x, model=net, rotation="dct", velocity="blur", out="runs/mine")
run.sample(16)

gendiff.load("runs/mine", model=net).sample(64, sampler="ddim:steps=20")
gendiff.resume("runs/mine", model=net, data=x, steps=4000)
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gendiff.component import Component
from gendiff.data import Data
from gendiff.datasets.tensors import TensorData, as_data
from gendiff.errors import ArgumentError, Stopped
from gendiff.machine.load import Load
from gendiff.machine.threads import Threads, chosen, so_many
from gendiff.machine.world import World, choose_device
from gendiff.model import Model
from gendiff.objective import Objective
from gendiff.plugin.hookspecs import hookimpl
from gendiff.plugin.observers import Observers
from gendiff.plugin.registry import default_registry
from gendiff.pretrained import pretrained
from gendiff.rotation import Rotation
from gendiff.run import checkpoint
from gendiff.run.config import Config
from gendiff.run.curve import curve, verdict
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve
from gendiff.run.module import as_model
from gendiff.run.trained import TrainedModel
from gendiff.sampler import Sampler
from gendiff.training.branch import begin, parent_of
from gendiff.training.continuation import changed_data, check_disk, refuse_another_run
from gendiff.training.importing import opened
from gendiff.training.inspection import inspected
from gendiff.training.loop import fit
from gendiff.training.plan import plan, remembered, rows
from gendiff.training.preview import Preview
from gendiff.training.trainer import Trainer
from gendiff.velocity import Velocity

LINES = 10  # of progress
STEPS = 50  # where there are as many


class Progress:
    """Says on stderr, in ten lines, how far a training is, and each time what the loss of held-out events is."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.every = max(1, last // LINES)

    @hookimpl
    def gendiff_step(self, step: int, loss: float, images_per_s: float) -> None:
        """Say it now and then."""
        if step % self.every == 0 or step == self.last:
            _say(f"step {step}/{self.last}  loss {loss:.4f}  {images_per_s:.0f} images/s")

    @hookimpl
    def gendiff_metrics_ready(self, step: int, values: Mapping[str, float]) -> None:
        """Say what the loss of either side is."""
        if (loss := values.get("held_out.loss")) is not None:
            training = values.get("training.loss", math.nan)
            _say(f"step {step}/{self.last}  held-out loss {loss:.4f}  training {training:.4f} at the same noise")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _announce(trainer: Trainer, load: Load, threads: Threads) -> None:
    """Say what is trained, as ``gendiff train`` does before the first step; raises `GendiffError` where memory is too little."""
    facts = plan(trainer, load, threads, memory=True)
    held_out = {"held out": facts["hold_out"]} if facts["hold_out"] else {}
    lines = {**held_out, **rows(facts), "memory": remembered(facts["memory"])}
    indent = max(map(len, lines)) + 2
    for key, value in lines.items():
        _say(f"{key:{indent}}{value}")


def train(
    data: Any,
    *,
    model: nn.Module | Model | str | None = None,
    rotation: Rotation | str | None = None,
    velocity: Velocity | str | None = None,
    objective: Objective | str | None = None,
    sampler: Sampler | str | None = None,
    N: int | None = None,
    condition: str | Sequence[str] = (),
    hold_out: float | Data | str | Mapping[str, Any] | None = None,
    from_: str | PathLike[str] | None = None,
    averaged: bool = False,
    out: str | PathLike[str] | None = None,
    device: str | None = None,
    threads: int | None = None,
    progress: bool = True,
    **training: Any,
) -> TrainedModel:
    """Train a network on events, as ``gendiff train`` does: with checkpoints, previews and a run directory.

    Args:
        data: a tensor, an array, ``(x, labels)``, a data set of torch, data or their spec: what `as_data` takes.
        model: a module that maps ``(x, i)`` to the shape of x, which is copied, or a model or its spec; left out, ``unet``.
        rotation, velocity, objective: components or their specs; left out, ``identity``, ``blur`` and ``wiener``.
        sampler: how samples are drawn, a component or its spec; left out, ``trig:solver=ab2`` with 50 steps, at most N.
        N: the steps of the process; left out, 1000.
        condition: what the network is told of events besides, by the names of the data: ``"label"``, or several.
        hold_out: what nothing is trained on: a part of the events (0.1), how many (200), other data, their spec or path, or a
            table of the settings of the section ``hold_out``.
        from_: a run whose weights it begins with, as far as they fit, ``"runs/mine"`` or ``"runs/mine@1000"`` for one of its
            checkpoints; or a pretrained model, ``"diffusers:DIR"``. All settings that are left out are those that it has.
        averaged: whether it begins with the averaged weights of that run, and not with the raw ones.
        out: the run directory; left out, the next number under ``runs/``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; left out, a GPU where there is one.
        threads: how many work on a tensor meanwhile, on a CPU; left out, as many as torch has, or fewer where other processes
            keep the cores busy and nobody told torch a number.
        progress: whether stderr hears what is trained, what a loss of 1 means, and how far it is.
        training: settings of the section ``train`` (``gendiff config show`` lists them), such as ``steps``, ``batch``, ``lr``,
            ``seed``, ``sample_every``.

    Returns:
        The trained model, its weights averaged.

    Raises:
        ConfigError: for settings that do not fit.
        Stopped: on Ctrl-C or SIGTERM, after a checkpoint was saved; `resume` goes on.

    """
    load = Load()
    source = as_data(data)
    given = {"rotation": rotation, "velocity": velocity, "objective": objective, "sampler": sampler, "N": N}
    table: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    table |= {"condition": condition} if condition else {}
    table |= {} if hold_out is None else {"hold_out": _reopenable(hold_out)}
    table |= {"data": source, "train": training} | ({} if model is None else {"model": as_model(model)})
    parent = None if from_ is None else parent_of(from_, averaged)  # type: ignore[arg-type]  # a path
    layers = [] if parent is None else [parent.layer]
    if parent is None:
        steps = min(STEPS, N) if isinstance(N, int) and N > 0 else STEPS
        default = f"trig:solver=ab2,steps={steps}"
        training.setdefault("preview", default)
        table.setdefault("sampler", default)
    settings = resolve([*layers, Layer("gendiff.train", table)])
    with settings.locating():
        config = settings.config.filled(say="batch" in training).fitted()
        trainer = _trainer(config, device)
    lineage, lines = begin(trainer, parent, config.model)
    lines += inspected(trainer)
    folder = None if out is None else Path(out)
    check_disk(folder or Path("runs"), trainer)
    said = _threads(threads, load, trainer)
    if progress:
        for line in lines:
            _say(line)
        _announce(trainer, load, said)
    run = Run.create(config, default_registry(), folder, lineage=lineage)
    try:
        with so_many(said.count):
            return _finished(run, trainer, progress)
    except Stopped:
        raise
    except Exception:
        if not any(checkpoint.steps(run.checkpoints)):
            run.take_away()
        raise


def resume(
    path: str | PathLike[str],
    *,
    model: nn.Module | Model | str | None = None,
    data: Any = None,
    steps: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    progress: bool = True,
    **training: Any,
) -> TrainedModel:
    """Go on with a run from its newest checkpoint, to the same bits as if it had not been stopped; on a GPU up to rounding.

    Where ``train.deterministic`` is set, on a GPU to the same bits too.

    Args:
        path: the run directory.
        model, data: again, where they were given in Python.
        steps: train up to this step; left out, as far as it was to go.
        device, threads, progress: as of `train`; left out, there are as many threads as the run had before.
        training: settings of the section ``train`` that are to be others from here on, such as ``lr`` or ``batch``: what a
            run that goes on may change, which its record says.

    Raises:
        ConfigError: where ``path`` is no run, model or data are needed, or a setting would make another run of it.
        DataError: where there is no checkpoint, or the data are not those that it began with.

    """
    load = Load()
    changes = [Layer.at(key, f"train.{key}", value) for key, value in training.items()]
    if changes:
        refuse_another_run(Path(path), changes)
    run = Run.open(path, training=True, steps=steps, changes=changes, given=_given(model, data))
    change = changed_data(run, run.config)
    trainer = _trainer(run.config, device)
    trainer.restore(checkpoint.newest(run.checkpoints))
    said = _threads(threads, load, trainer, run.info.get("threads"))
    if progress:
        _announce(trainer, load, said)
    with so_many(said.count):
        return _finished(run, trainer, progress, change)


def load(
    path: str | PathLike[str],
    *,
    model: nn.Module | Model | str | None = None,
    data: Any = None,
    ema: bool | str = True,
    device: str | None = None,
) -> TrainedModel:
    """Open a trained run, to sample and to predict.

    What is not as it was when the run was made is said in a warning.

    Args:
        path: the run directory, or ``"runs/mine@40"``, one of its checkpoints; or a pretrained model, ``"diffusers:DIR"``, which
            is opened as it is: nothing of it is kept on the disk.
        model, data: again, where they were given in Python; data are needed for `TrainedModel.data` alone.
        ema: whether to take the averaged weights, where the run has them; or which: the decay of one of several, or
            ``"posthoc:WIDTH"``, as ``gendiff sample --ema`` has it.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; left out, a GPU where there is one.

    Raises:
        ArgumentError: for a pretrained model where ``model`` or ``data`` are given.
        ConfigError: where ``path`` is no run, or its network was given in Python and is not here.
        DataError: where there is no checkpoint, or it is damaged.

    """
    if not Path(path).exists() and (network := pretrained(str(path))):
        if model is not None or data is not None:
            raise ArgumentError(
                f"'{path}' has a network of its own, and no data",
                fix=f"leave model and data out; gendiff.train(DATA, from_={str(path)!r}) trains it on",
            )
        return opened(network, default_registry(), choose_device(device), ema)
    folder, step = checkpoint.named(Path(path))
    run, problems = Run.open(folder, given=_given(model, data)), list[str]()
    result = TrainedModel.load(run, choose_device(device), ema, problems, step=step)
    for text in (*run.notes, *(f"a damaged checkpoint was passed over: {problem}" for problem in problems)):
        warnings.warn(text, stacklevel=2)
    return result


def _reopenable(hold_out: Any) -> Any:
    """What is held out, if a run can open it again; raises `ArgumentError` for events that are in memory alone."""
    if isinstance(hold_out, TensorData) or not isinstance(hold_out, int | float | Data | str | Mapping):
        raise ArgumentError(
            f"hold_out is a {type(hold_out).__name__}: a run could not open these events again",
            fix="hold out a part of the data, hold_out=0.1; or save them with numpy.save, and give the path",
        )
    return hold_out


def _given(model: Any, data: Any) -> Mapping[str, Component]:
    given: dict[str, Component] = {}
    if model is not None:
        given["model"] = as_model(model)
    if data is not None:
        given["data"] = as_data(data)
    return given


def _trainer(config: Config, device: str | None) -> Trainer:
    place = choose_device(device)
    return Trainer(config, place, World(0, 1, place))


def _threads(asked: int | None, load: Load, trainer: Trainer, before: int | None = None) -> Threads:
    """As many threads as are asked for, or as is best; fewer for the sake of others are said in a warning."""
    on_cpu, most = trainer.device.type == "cpu", torch.get_num_threads()
    fixed = trainer.settings.deterministic or not on_cpu
    if asked is not None and not (isinstance(asked, int) and asked >= 1):
        raise ArgumentError(f"threads = {asked!r}", details=["a number of threads is a whole number, 1 or more"])
    threads = chosen(asked, load, before, fixed)
    if asked is None and threads.count < most:
        warnings.warn(f"{threads.count} of {most} threads: {threads.because}", stacklevel=4)
    return threads


def _finished(run: Run, trainer: Trainer, progress: bool, change: Mapping[str, Any] | None = None) -> TrainedModel:
    """Train to the last step, where that is not reached yet; ``change`` is of the data of a run that goes on."""
    with run.lock():
        for text in run.go_on(trainer.step, change) if change is not None else ():
            warnings.warn(text, stacklevel=3)
        run.forget_after(trainer.step)
        observers = Observers(complain=partial(_failed, run))
        if progress:
            observers.add("progress", Progress(trainer.settings.steps))
        for name, plugin in default_registry().observers():
            observers.add(name, plugin)
        for logger in trainer.settings.loggers:
            observers.make(f"logger {logger.name}", partial(logger.observer, run.path))
        fit(run, trainer, observers, Preview(run, observers))
        if progress and (sentence := verdict(curve(run.rows()))):
            _say(sentence)
    return TrainedModel.load(run, trainer.device)


def _failed(run: Run, name: str, why: str) -> None:
    run.switch_off(name, why)
    warnings.warn(f"{name} failed and is switched off for this run: {why}", stacklevel=2)
