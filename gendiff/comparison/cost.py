"""Cost: what the runs of a comparison that are still to be made take of time, memory and disk.

Each arm is trained for a few steps, which are forgotten, and its network asked a few times; that is taken for every seed. What is
measured of samples takes time too, which depends on the instruments and is not counted.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gendiff.comparison.directory import Comparison
from gendiff.comparison.plan import Cell, Plan
from gendiff.machine.world import World
from gendiff.run.network import build_denoiser, hasten
from gendiff.sampler import CHUNK
from gendiff.training.cost import Disk, Memory, evaluation_seconds, most_memory, rehearse
from gendiff.training.trainer import Trainer

FLOAT = 4  # bytes of a number of a sample that waits to be measured


@dataclass(frozen=True)
class ArmCost:
    """What is to be done of one arm.

    Args:
        label: of the arm.
        train: how many runs are to be trained.
        training: seconds of each of them.
        sample: how many sets of samples are to be drawn, one for each run and sampler.
        sampling: seconds of all of these.
        memory: the most of the training; None where nothing is trained.
        disk: what each run keeps; None where nothing is trained.

    """

    label: str
    train: int
    training: float
    sample: int
    sampling: float
    memory: Memory | None
    disk: Disk | None

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.train * self.training + self.sampling

    def json(self) -> dict[str, Any]:
        """All numbers by name."""
        return {**asdict(self), "seconds": self.seconds, "disk": self.disk and self.disk.json()}


@dataclass(frozen=True)
class Cost:
    """What is to be done of a comparison, ``waiting`` being bytes of samples that lie on the disk until they are measured."""

    arms: tuple[ArmCost, ...]
    waiting: int

    @property
    def seconds(self) -> float:
        """All arms, one after the other."""
        return sum(arm.seconds for arm in self.arms)

    @property
    def memory(self) -> Memory | None:
        """That of the arm that takes most; None where nothing is trained."""
        return max((arm.memory for arm in self.arms if arm.memory), key=lambda memory: memory.peak, default=None)

    @property
    def disk(self) -> int:
        """Bytes that all runs keep."""
        return sum(arm.train * arm.disk.total for arm in self.arms if arm.disk)

    @property
    def peak_disk(self) -> int:
        """The most bytes on the way: one checkpoint more, or the samples that wait."""
        staged = max((arm.disk.checkpoint for arm in self.arms if arm.disk), default=0)
        return self.disk + max(staged, self.waiting)

    def json(self) -> dict[str, Any]:
        """All numbers by name."""
        return {
            "arms": [arm.json() for arm in self.arms],
            "seconds": self.seconds,
            "hours": self.seconds / 3600,
            "memory": self.memory and asdict(self.memory),
            "disk": {"total": self.disk, "peak": self.peak_disk},
        }


def cost(
    plan: Plan,
    device: torch.device,
    comparison: Comparison | None = None,
    cells: Sequence[Cell] | None = None,
    drawing: bool = True,
    heed: Callable[[str], None] = lambda label: None,
) -> Cost:
    """What is still to be done.

    Args:
        comparison: where some of it may be done already.
        cells: the runs that are needed; all of them where nothing is said.
        drawing: whether samples of them are drawn.
        heed: hears the label of each arm before it is looked at.

    """
    needed = plan.cells() if cells is None else cells
    arms, waiting = list[ArmCost](), 0
    for place, contender in enumerate(plan.contenders):
        own = [cell for cell in needed if cell.place == place]
        if not own:
            continue
        heed(contender.label)
        missing = [cell for cell in own if not contender.runs and not (comparison and comparison.is_trained(cell))]
        samplers = plan.samplers(contender) if drawing else []
        sets = [
            sampler for cell in own for sampler in samplers if not (comparison and comparison.measured(cell, sampler))
        ]
        training, memory, disk = 0.0, None, None
        config = contender.with_seed(own[0].seed)
        if missing:
            trainer = Trainer(config, device, World(0, 1, device))
            disk = Disk.of(trainer)
            training, memory = rehearse(trainer).seconds(trainer), most_memory(trainer)
        sampling = 0.0
        if sets:
            chunk = CHUNK[device.type]
            denoiser = build_denoiser(config, device)
            hasten(denoiser, plan.precision)  # compiling would take longer than it shows
            asked = evaluation_seconds(denoiser, config, chunk)
            evaluations = sum(contender.evaluations(sampler) for sampler in sets)
            sampling = math.ceil(plan.n / chunk) * evaluations * asked
            waiting = max(waiting, plan.n * FLOAT * math.prod(config.data.picture_shape))
        arms.append(ArmCost(contender.label, len(missing), training, len(sets), sampling, memory, disk))
    return Cost(tuple(arms), waiting)


def memory_on_card(plan: Plan, device: torch.device) -> int:
    """Bytes of a GPU that a process holds which trains the first arm, and draws with it; all are given back.

    The steps are forgotten; there are enough of them that one is recorded.
    """
    contender = plan.baseline
    config = contender.with_seed(plan.seeds[0])
    torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(config, device, World(0, 1, device))
    rehearse(trainer)
    evaluation_seconds(trainer.averaged(), config, CHUNK[device.type])
    most = torch.cuda.max_memory_reserved(device)
    del trainer
    gc.collect()
    torch.cuda.empty_cache()
    return most
