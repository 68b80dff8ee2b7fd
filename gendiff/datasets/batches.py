"""Batches: what step t of a run trains on, as a function of (seed, t).

Data order, steps i and noise ε are keyed by the seed, the step and the position in the global batch. They do not depend on
the number of data workers or processes, and a run can go on from any step without any loader state.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from operator import itemgetter
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gendiff.command import option, setting
from gendiff.condition import Conditions, Given, stacked, without
from gendiff.data import Data, told_of
from gendiff.errors import ConfigError, DataError
from gendiff.machine.memory import check_memory
from gendiff.machine.workers import InOrder, begin_data_process, loaded
from gendiff.shapes import ShownByShape
from gendiff.streams import stream

FLOAT = 4  # bytes of a number of an event, or of its noise
AHEAD = 2  # steps that the host may be before a GPU
GENERATOR = 5000  # bytes of the stream that each event has of its own


@dataclass(frozen=True, repr=False)
class Batch(ShownByShape):
    """One process's share of a global batch.

    Args:
        index: data index of each event, ``(B,)`` int64.
        x_0: clean events, ``(B, *event)``.
        i: steps 1..N, ``(B,)`` int64, or float64 where they are real.
        eps: event-space noise, ``(B, *event)``.
        condition: what the network is told of the events besides, by name (`gendiff.condition`).
        u: where their law adapts, the places of the events in it, ``(B,)`` float64 in [0, 1): i is what they are under the
            uniform law with which it begins.

    """

    index: Tensor
    x_0: Tensor
    i: Tensor
    eps: Tensor
    condition: Given = field(default_factory=dict)
    u: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """All of it, in one order."""
        return [self.index, self.x_0, self.i, self.eps, *self.condition.values(), *([] if self.u is None else [self.u])]

    def each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch of what a function makes of each of its tensors."""
        index, x_0, i, eps, *rest = map(function, self.tensors)
        u = None if self.u is None else rest.pop()
        return Batch(index, x_0, i, eps, dict(zip(self.condition, rest, strict=True)), u)

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def copy(self) -> Batch:
        """The same batch in memory of its own."""
        return self.each(torch.clone)

    def take(self, other: Batch) -> None:
        """Become ``other``, of the same shapes, in the memory that this one has."""
        for own, tensor in zip(self.tensors, other.tensors, strict=True):
            own.copy_(tensor, non_blocking=True)

    def first(self, count: int) -> Batch:
        """Its first events, views of its memory."""
        return self.each(itemgetter(slice(count)))

    def parts(self, count: int) -> list[Batch]:
        """The same batch in ``count`` equal parts, views of its memory."""
        size = -(-len(self.index) // count)
        return [self.each(itemgetter(slice(k, k + size))) for k in range(0, len(self.index), size)]

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the loader calls this on machines with a GPU."""
        return self.each(Tensor.pin_memory)


class Drawn(Protocol):
    """Which steps the events of a run are trained at (`gendiff.levels.Draws`)."""

    @property
    def adaptive(self) -> bool:
        """Whether the law is another one by then, so that places in it are drawn too."""

    def place(self, step: int, position: int) -> Tensor:
        """The place in the law of the event at a position of the global batch, ``(1,)``."""

    def __call__(self, step: int, position: int) -> Tensor:
        """Its step i, ``(1,)``."""


class Batches(Dataset[Batch]):
    """The batches of a run, indexed by optimiser step 1, 2, ...

    Args:
        batch: events of the global batch.
        rank, world: this process takes the ``rank``-th of ``world`` equal parts.
        flip: mirror half of the pictures, left to right; which of them is drawn for each place of each batch.
        conditions: what the network is to be told of events, which the data have.
        dropout: with which chance an event comes without them.
        levels: which steps are drawn; left out, every whole one alike.

    Attributes:
        origin: a step, and how many events were taken up to it: of batches of another size, where that has changed.

    Raises:
        ConfigError: where the batch cannot be split evenly, or is larger than the data or the memory of this machine, and where
            events that are no pictures are to be mirrored.

    """

    def __init__(
        self,
        data: Data,
        N: int,
        seed: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        flip: bool = False,
        conditions: Conditions | None = None,
        dropout: float = 0.0,
        levels: Drawn | None = None,
    ) -> None:
        if flip and len(data.event_shape) != 3:
            raise ConfigError(
                f"events of shape {data.event_shape} have no left and right",
                details=["pictures (C, H, W) can be mirrored"],
                fix="leave out flip",
                subject="data.flip",
            )
        if batch % world:
            raise ConfigError(
                f"a batch of {batch} cannot be split over {world} processes",
                details=["equal parts make two processes train exactly as one does"],
                fix=f"choose a multiple of {world}",
                subject="train.batch",
            )
        if data.length is not None and data.length < 1:
            raise DataError(f"data '{data.name}' is empty", subject="data.name")
        if data.length is not None and batch > data.length:
            raise ConfigError(
                f"a batch of {batch} is larger than the data set of {data.length} events",
                fix=f"choose {option('--batch', data.length)} or less",
                subject="train.batch",
            )
        share = batch // world
        check_memory(
            share * (2 * math.prod(data.event_shape) * FLOAT + GENERATOR),
            f"a batch of {batch} events of {'x'.join(map(str, data.event_shape))} is too large",
            f"choose a smaller {option('--batch')}",
            "train.batch",
        )
        self.data = data
        self.N = N
        self.seed = seed
        self.batch = batch
        self.origin = (0, 0)
        self.flip = flip
        self.conditions = conditions or {}
        self.dropout = dropout
        self.levels = levels
        self.positions = range(rank * batch // world, (rank + 1) * batch // world)

    def __getitem__(self, step: int) -> Batch:
        streams = [stream(self.seed, "train", step, position) for position in self.positions]
        index = [self.data_index(step, position) for position in self.positions]
        return Batch(
            index=torch.tensor(index),
            x_0=torch.stack(
                [self._event(step, position, k) for position, k in zip(self.positions, index, strict=True)]
            ),
            i=self._levels(step, streams),
            eps=torch.stack([torch.randn(self.data.event_shape, generator=generator) for generator in streams]),
            condition=self._condition(step, index) if self.conditions else {},
            u=self._places(step),
        )

    def _levels(self, step: int, streams: Sequence[torch.Generator]) -> Tensor:
        # Drawn under any law: the noise that follows from the same stream is the same.
        uniform = torch.cat([torch.randint(1, self.N + 1, (1,), generator=generator) for generator in streams])
        if self.levels is None:
            return uniform
        return torch.cat([self.levels(step, position) for position in self.positions])

    def _places(self, step: int) -> Tensor | None:
        if self.levels is None or not self.levels.adaptive:
            return None
        return torch.cat([self.levels.place(step, position) for position in self.positions])

    def _condition(self, step: int, index: Sequence[int]) -> Given:
        given = stacked(self.conditions, [told_of(self.data, self.conditions, k) for k in index])
        mirrored = [self.flip and self.is_mirrored(step, position) for position in self.positions]
        for name, value in given.items():  # another view of the same event
            if self.conditions[name].type == "image" and any(mirrored):
                given[name] = torch.stack(
                    [one.flip(-1) if flip else one for one, flip in zip(value, mirrored, strict=True)]
                )
        if not self.dropout:
            return given
        return without(self.conditions, given, torch.tensor([self.is_untold(step, p) for p in self.positions]))

    def is_untold(self, step: int, position: int) -> bool:
        """Whether nothing is said of the event at a position of the global batch."""
        return bool(torch.rand((), generator=stream(self.seed, "condition", step, position)) < self.dropout)

    def taken(self, step: int) -> int:
        """How many events the steps up to and with this one take."""
        first, count = self.origin
        return count + (step - first) * self.batch

    def _event(self, step: int, position: int, index: int) -> Tensor:
        mirrored = self.flip and self.is_mirrored(step, position)
        return self.data.mirrored(index) if mirrored else self.data[index]

    def is_mirrored(self, step: int, position: int) -> bool:
        """Whether the picture at a position of the global batch is its mirror image, where there are any."""
        return bool(torch.randint(2, (), generator=stream(self.seed, "flip", step, position)))

    def data_index(self, step: int, position: int) -> int:
        """Which event stands at a position of the global batch: epochs of fresh permutations, one after another."""
        count = self.taken(step - 1) + position
        if self.data.length is None:
            return count
        epoch, place = divmod(count, self.data.length)
        return int(_permutation(self.seed, epoch, self.data.length)[place])

    def loader(self, first: int, last: int, workers: int, device: torch.device) -> Generator[Batch, None, None]:
        """The batches of steps ``first..last``, prepared by ``workers`` processes (0: in this one), which closing it ends."""
        loader = DataLoader(
            InOrder(self.__getitem__),
            batch_size=None,  # an item already is a batch
            sampler=range(first, last + 1),
            num_workers=workers,
            worker_init_fn=partial(begin_data_process, os.getpid()),
            pin_memory=device.type == "cuda",
        )
        yield from loaded(loader, setting("train.workers", 0))


def moved(batches: Iterable[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """The batches on ``device``.

    To a GPU each is copied on a stream of its own while the step before it is still computed, and whoever launches work on them
    is held `AHEAD` steps before the device: memory stays bounded, and a request to stop is not long in coming.
    """
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copying, computing = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    done = deque[torch.cuda.Event]()
    for batch in batches:
        with torch.cuda.stream(copying):
            there = batch.to(device)
        computing.wait_stream(copying)
        for tensor in there.tensors:
            tensor.record_stream(computing)
        yield there
        done.append(computing.record_event())
        if len(done) > AHEAD:
            done.popleft().synchronize()


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int) -> Tensor:
    return torch.randperm(length, generator=stream(seed, "order", epoch))
