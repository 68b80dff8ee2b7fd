"""Work: the runs of one directory, trained and measured as far as is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gendiff.comparison.listener import Listener
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
from gendiff.training.trainer import Trainer


@dataclass(frozen=True)
class Work:
    """What is done with the runs of a directory, and by what means.

    Args:
        root: the directory.
        argv: the command by which it was made, and with it every run.
        registry: the plugins.
        device: where all is computed.
        listener: hears how far it is.
        heed: is called at every step of a sampler, and raises to stop.

    """

    root: Path
    argv: Sequence[str]
    registry: Registry
    device: torch.device
    listener: Listener
    heed: Callable[[], None]

    def trained(self, path: Path, config: Config, what: str, until: int | None = None) -> Run:
        """The run at ``path``, made where it is missing, trained to its last step, or to the step ``until``.

        Args:
            what: says which run it is.

        """
        if not (path / "run.json").is_file():
            if os.path.lexists(path):
                Files().remove_tree(path)  # killed while it was made: run.json comes last
            Run.create(config, self.registry, path, self.argv)
        run = Run.open(inside(self.root, path), training=True)
        steps = checkpoint.steps(run.checkpoints)
        if run.info["status"] == "done" or (until and steps and steps[0] >= until):
            return run
        refuse_other_data(run, run.config)
        trainer = Trainer(run.config, self.device, World(0, 1, self.device))
        if steps:
            trainer.restore(checkpoint.newest(run.checkpoints))
        elif lineage := begin(trainer, None, run.config.model)[0]:
            run.update(**{"from": lineage})
        with run.lock():
            check_disk(run.path, trainer)
            run.forget_after(trainer.step)
            self.listener.train(what, run, trainer, until)
        return run

    def measured(self, path: Path, run: Run, sampler: Sampler, seed: int, ruler: Ruler, what: str) -> Measure:
        """What is measured of a run as it is, kept at ``path``; ``what`` says which run it is."""
        key = ruler.key(run, sampler, seed)
        if (old := Measure.load(path, key)) is not None:
            return old
        blocks = inside(self.root, path.with_name(f"{path.stem}.{key}"))
        model = TrainedModel.load(run, self.device, **ruler.asking)
        evaluations = sampler.evaluations(model.denoiser.diffusion) or 1
        with self.listener.working(f"{what}: {sampler.spec}", ruler.n * evaluations) as advance:

            def watch(snapshot: Snapshot) -> None:
                self.heed()
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
                    Cache(self.root / "cache"),
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
