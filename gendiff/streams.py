"""Randomness as a function.

Every random number of gendiff comes from a stream that is a pure function of ``(seed, purpose, indices)``: nothing depends
on how many batches, workers or processes there are, and there is no generator state to save.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from gendiff.shapes import EventShape


def stream(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A CPU generator keyed by the seed, a purpose such as ``"train"`` and any integers, the same on every machine."""
    key = ":".join([str(seed), purpose, *map(str, indices)])
    digest = hashlib.sha256(key.encode()).digest()  # not hash(): it differs between processes
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class ImageNoise:
    """Event-space noise for the images ``images``: each has its own stream, keyed by (seed, image).

    Every call draws the next ``(len(images), *event)``.
    """

    def __init__(self, seed: int, images: Sequence[int], event_shape: EventShape, device: torch.device) -> None:
        self.streams = [stream(seed, "sample", image) for image in images]
        self.event_shape = event_shape
        self.device = device

    def __call__(self) -> Tensor:
        noise = torch.stack([torch.randn(self.event_shape, generator=generator) for generator in self.streams])
        if self.device.type == "cuda":
            return noise.pin_memory().to(self.device, non_blocking=True)  # the next is drawn while this one is used
        return noise.to(self.device)
