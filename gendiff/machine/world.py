"""World: the processes that work together under torchrun, or this one alone.

gendiff launches nothing itself: ``torchrun --nproc-per-node K -m gendiff_cli ...`` starts K processes and sets the environment
that this module reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist

# Its functions keep the group that is there when they are imported, as a default argument, and DistributedDataParallel imports
# them: a destroyed group would live on with its threads, one of which may ask for the lock of an interpreter that has ended,
# and so abort the process.
import torch.distributed.nn.functional
from torch import Tensor

from gendiff.command import option
from gendiff.errors import ConfigError


@dataclass(frozen=True)
class World:
    """``rank`` of ``size`` processes, and the device of this one."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()

    def mean(self, values: list[float]) -> list[float]:
        """The mean of each value over processes."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total / self.size]

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return self.mean([float(flag)])[0] > 0

    def all(self, flag: Tensor) -> Tensor:
        """Whether a flag, a scalar on the device of each process, is true in all of them; the host waits for nothing."""
        if self.size == 1:
            return flag
        everywhere = flag.float()
        dist.all_reduce(everywhere, dist.ReduceOp.MIN)
        return everywhere > 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of tensors over processes, on the device of each; the host waits for nothing."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def broadcast(self, text: str) -> str:
        """The main process's text, in every process."""
        if self.size == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The CPU tensors of all processes, whose sizes may differ, in the main one by rank; in others nothing."""
        if self.size == 1:
            return [tensor]
        tensors: list[Any] = [None] * self.size
        if self.device.type == "cuda":  # NCCL gathers nothing in one process alone
            dist.all_gather_object(tensors, tensor)
        else:
            dist.gather_object(tensor, tensors if self.main else None)
        return tensors if self.main else []


@contextmanager
def join(device: str | None) -> Iterator[World]:
    """Join the world that torchrun started, if any; what holds it, such as a `Trainer`, must be gone when the block ends.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or None for a GPU where there is one.

    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else None)
    if size == 1:
        yield World(0, 1, place)
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    import_module("torch.distributed.fsdp")  # as above; not by who works alone, for it takes half a second
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(rank, size, place)
    finally:
        dist.destroy_process_group()


def choose_device(name: str | None, local_rank: int | None = None) -> torch.device:
    """The device of that name, or a GPU where there is one; raises `ConfigError` for one that is not there."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"unknown device '{name}'", where=option("--device"), details=["known: cpu, cuda, cuda:K"]
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"device '{name}' is not supported",
            where=option("--device"),
            details=["known: cpu, cuda, cuda:K", "process tables are float64, which other devices lack"],
        )
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if device.index is None:
            device = torch.device("cuda", local_rank or 0)
        if (device.index or 0) >= count:
            raise ConfigError(
                f"device '{name}' is not there",
                where=option("--device"),
                details=[f"CUDA devices: {count}"],
                fix=f"use {option('--device', 'cpu')}",
            )
    return device
