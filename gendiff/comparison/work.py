"""Work: one run of several, trained and measured as far as is missing, and who hears how far that is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from gendiff.comparison.measure import Measure, Ruler, measure
from gendiff.machine.world import World
from gendiff.plugin.registry import Registry
from gendiff.run import checkpoint
from gendiff.run.config import Config
from gendiff.run.directory import Run
from gendiff.run.generation import NotFinite
from gendiff.run.trained import TrainedModel
from gendiff.sampler import Sampler, Snapshot
from gendiff.storage.cache import Cache
from gendiff.storage.files import Files
from gendiff.storage.folder import inside
from gendiff.training.branch import begin
from gendiff.training.continuation import check_disk, refuse_other_data
from gendiff.training.loop import fit
from gendiff.training.trainer import Trainer


class Listener(Protocol):
    """Who hears how far a comparison is."""

    def working(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A piece of work of so many parts begins; what it returns is told how many are done now."""

    def train(self, what: str, run: Run, trainer: Trainer, until: int | None = None) -> None:
        """Train a run, up to a step where one is given, before whoever wants to watch; ``what`` says which of how many."""

    def together(self) -> AbstractContextManager[Callable[[int, Any], None]]:
        """Several pieces of work at a time begin; what it returns hears what was said of each, which is known by a number."""

    def apart(self, say: Callable[[Any], None]) -> Listener:
        """A listener for the process of one of them: what it hears, it says to the one that is `together`."""


class Silent:
    """A listener that says nothing."""

    @contextmanager
    def working(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Say nothing."""
        yield lambda count: None

    def train(self, what: str, run: Run, trainer: Trainer, until: int | None = None) -> None:
        """Train it, and say nothing."""
        fit(run, trainer, until=until)

    @contextmanager
    def together(self) -> Iterator[Callable[[int, Any], None]]:
        """Say nothing."""
        yield lambda number, said: None

    def apart(self, say: Callable[[Any], None]) -> Listener:
        """Say nothing."""
        return self


def trained(
    root: Path,
    path: Path,
    config: Config,
    argv: Sequence[str],
    what: str,
    registry: Registry,
    device: torch.device,
    listener: Listener,
    until: int | None = None,
) -> Run:
    """The run at ``path`` inside ``root``, made where it is missing, trained to its last step, or to the step ``until``."""
    if not (path / "run.json").is_file():
        if os.path.lexists(path):
            Files().remove_tree(path)  # killed while it was made: run.json comes last
        Run.create(config, registry, path, argv)
    run = Run.open(inside(root, path), training=True)
    steps = checkpoint.steps(run.checkpoints)
    if run.info["status"] == "done" or (until and steps and steps[0] >= until):
        return run
    refuse_other_data(run, run.config)
    trainer = Trainer(run.config, device, World(0, 1, device))
    if steps:
        trainer.restore(checkpoint.newest(run.checkpoints))
    elif lineage := begin(trainer, None, run.config.model)[0]:
        run.update(**{"from": lineage})
    with run.lock():
        check_disk(run.path, trainer)
        run.forget_after(trainer.step)
        listener.train(what, run, trainer, until)
    return run


def measured(
    root: Path,
    path: Path,
    run: Run,
    sampler: Sampler,
    seed: int,
    ruler: Ruler,
    what: str,
    device: torch.device,
    listener: Listener,
    heed: Callable[[], None],
) -> Measure:
    """What is measured of a run as it is, kept at ``path`` inside ``root``; ``what`` says which run it is."""
    key = ruler.key(run, sampler, seed)
    if (old := Measure.load(path, key)) is not None:
        return old
    blocks = inside(root, path.with_name(f"{path.stem}.{key}"))
    model = TrainedModel.load(run, device, **ruler.asking)
    evaluations = sampler.evaluations(model.denoiser.diffusion) or 1
    with listener.working(f"{what}: {sampler.spec}", ruler.n * evaluations) as advance:

        def watch(snapshot: Snapshot) -> None:
            heed()
            if snapshot.pivot is not None:
                advance(len(snapshot.x_bar))

        try:
            result = measure(
                model,
                sampler,
                ruler.n,
                seed,
                ruler.instruments,
                ruler.reference,
                blocks,
                Cache(root / "cache"),
                watch,
                lambda count: advance(count * evaluations),
                run.trained_on(),
            )
        except NotFinite as error:
            error.where = what
            raise
    result.save(path, key)
    for leftover in path.parent.glob(f"{path.stem}.*/"):  # of weights or settings that are no more
        Files().remove_tree(leftover)
    return result
