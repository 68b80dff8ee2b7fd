r"""Features: the coordinates in which sets of events are compared.

Features map each event to a row of d numbers. Distances between two sets of rows (`gendiff.evaluation.distances`) are then
distances between the sets of events; they mean what the features mean, and numbers of different features must never be compared.
So whoever reports one reports `Features.fingerprint`.

Only the Fréchet distance of the published Inception network is the Fréchet Inception distance (FID, Heusel et al. 2017); that of
other features is called ``fd-<name>``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from gendiff.component import Component, abstractmethod
from gendiff.precision import full_precision


class Features(Component):
    """A map from an event to d numbers; an author gives `extract` and `fingerprint`."""

    kind: ClassVar[str] = "features"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    @abstractmethod
    def extract(self, events: Tensor) -> Tensor:
        """One row per event, ``(n, d)`` float32 on the device of the events, finite where they are.

        A row depends on its own event alone: neither on the rest of the batch, beyond rounding, nor on random numbers of
        the process. Raises `ConfigError` for shapes of events that it does not take, `DataError` where it needs a file that
        is not there.

        Args:
            events: ``(n, *event)`` float32 in [-1, 1], on the CPU or a GPU, n >= 1; not changed.

        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A short text that changes when the rows change; raises `DataError` where it needs a file that is not there."""

    def files(self) -> tuple[Path, ...]:
        """The files that it reads and that do not come with it, there or not; here none. Nothing is fetched or read."""
        return ()

    @property
    def distance_name(self) -> str:
        """What a Fréchet distance in these features is called."""
        return f"fd-{self.name}"


@contextmanager
def exact_network(device: torch.device) -> Iterator[None]:
    """Matrix products and convolutions at full float32 precision inside the block, and no gradients.

    TF32 rounds by 1e-3, in a way that depends on the size of the batch.
    """
    with torch.no_grad(), full_precision(device):
        if device.type != "cuda":
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
