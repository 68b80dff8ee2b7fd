"""Small runs, in this process or in a forked one, and what must be equal between two of them."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gendiff.datasets.batches import Batch
from gendiff.machine.world import World
from gendiff.plugin.hookspecs import hookimpl
from gendiff.plugin.observers import Observers
from gendiff.plugin.registry import default_registry
from gendiff.run import checkpoint
from gendiff.run.checkpoint import Checkpoint
from gendiff.run.config import Config
from gendiff.run.directory import Run
from gendiff.run.generation import draw_grid
from gendiff.run.layers import Layer, resolve
from gendiff.training.loop import fit
from gendiff.training.trainer import Trainer

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
MLP = "mlp:width=16,depth=1"
UNET = "unet:channels=8,multipliers=[1],attention=[],heads=1"


class Killed(KeyboardInterrupt):
    """What ends a run at a chosen point, as a crash does: nothing of gendiff catches it."""


@dataclass(frozen=True)
class Progress:
    """What an observer hears of a step."""

    step: int
    loss: float
    images_per_s: float


@dataclass(frozen=True)
class Reporter:
    """An observer of steps that is a function."""

    report: Callable[[Progress], None]

    @hookimpl
    def gendiff_step(self, step: int, loss: float, images_per_s: float) -> None:
        self.report(Progress(step, loss, images_per_s))


def settings(model: str = MLP, data: str = "digits", rotation: str = "identity", **train: Any) -> Config:
    """A run of seconds: N = 20, small batches, and no sample grids unless asked for."""
    train = {"steps": 20, "batch": 4, "log_every": 3, "checkpoint_every": 5, "sample_every": 0, **train}
    train = {"preview": {"name": "ddim", "steps": 3}, **train}
    table = {"N": 20, "sampler": "ancestral", "rotation": rotation, "model": model, "data": data, "train": train}
    return resolve([Layer("the test", table)]).config


def create(path: Path, config: Config) -> Run:
    return Run.create(config, default_registry(), path)


def arguments(config: Config, path: Path) -> list[str]:
    """The command line that trains ``config`` at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_suffix(".toml")
    file.write_text(config.toml(), encoding="utf-8")
    return ["train", "--config", str(file), "--out", str(path), "--device", "cpu"]


def restored(run: Run) -> Trainer:
    """A trainer that stands where the run's newest checkpoint does, or at the start of a run that has none."""
    trainer = Trainer(run.config, CPU, ALONE)
    if any(run.checkpoints.glob("step-*")):
        trainer.restore(checkpoint.newest(run.checkpoints))
    return trainer


def train(
    run: Run,
    steps: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    prepare: Callable[[Trainer], None] = lambda trainer: None,
    until: int | None = None,
    **changed: Any,
) -> Trainer:
    """Train as ``gendiff train`` and ``--resume`` do, to step ``steps`` or up to ``until``; ``changed`` are other settings."""
    if steps is not None or changed:
        layers = [Layer("run", run.config.table()), Layer("now", {"train": {"steps": steps, **changed}})]
        layers[1].table["train"] = {key: value for key, value in layers[1].table["train"].items() if value is not None}
        run = Run(run.path, resolve(layers).config)
    trainer = restored(run)
    prepare(trainer)
    with run.lock():
        run.forget_after(trainer.step)
        observers = Observers([("the test", Reporter(report))])
        fit(run, trainer, observers, partial(_draw, run), until)
    return trainer


def _draw(run: Run, trainer: Trainer) -> None:
    draw_grid(trainer.averaged(), run, trainer.settings.preview, grid(run, trainer.step))


def grid(run: Run, step: int) -> Path:
    return run.samples / f"step-{step:08d}.png"


def asked_to_stop_in(step: int, number: int = signal.SIGTERM) -> Callable[[Trainer], None]:
    """Prepare a trainer that gets a real signal in the middle of a step, which is then the last one finished."""

    def prepare(trainer: Trainer) -> None:
        train_step = trainer.train_step

        def interrupted(batch: Batch) -> None:
            if trainer.step == step - 1:
                signal.raise_signal(number)
            train_step(batch)

        trainer.train_step = interrupted

    return prepare


def die_after(step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return report


def digest(saved: Checkpoint) -> str:
    """SHA-256 over every tensor, sorted by name: weights, averages and optimiser; and over the numbers beside them."""
    total = hashlib.sha256(repr(sorted(saved.state.items())).encode())
    for group, named in sorted(saved.tensors.items()):
        for name, tensor in sorted(named.items()):
            total.update(f"{group}/{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def final(run: Run) -> tuple[int, str]:
    """The step and digest of the newest checkpoint."""
    saved = checkpoint.newest(run.checkpoints)
    return saved.step, digest(saved)


def rows(run: Run) -> list[dict[str, Any]]:
    """What was logged, without the speed; checks that every line is whole."""
    lines = run.metrics.read_text().splitlines()
    assert len(lines) == len(run.rows())
    return [{key: value for key, value in row.items() if key != "images_per_s"} for row in run.rows()]


def forked(function: Callable[[], Any]) -> int:
    """Run ``function`` in a forked process of its own group; returns its id. Exits 0, or 99 with a traceback."""
    torch.set_num_threads(1)  # a forked OpenMP pool hangs
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.setpgid(0, 0)
        function()
        code = 0
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(args: Sequence[str]) -> int:
    """The ``gendiff`` command in a forked process; returns its id."""

    def main() -> None:
        from gendiff_cli import app

        sys.argv = ["gendiff", "-q", *args]
        app.main()

    return forked(main)


def together(size: int, place: Path, function: Callable[[World], Any]) -> None:
    """Run ``function`` in ``size`` forked processes that talk to each other through gloo; ``place`` is a new file."""

    def one(rank: int) -> None:
        torch.distributed.init_process_group("gloo", init_method=place.absolute().as_uri(), rank=rank, world_size=size)
        function(World(rank, size, CPU))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()

    children = [forked(partial(one, rank)) for rank in range(size)]
    assert [exit_code(child) for child in children] == [0] * size


def exit_code(child: int) -> int:
    """Wait for a process; minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
