"""Randomness as a function.

Every random number of gendiff comes from a stream that is a pure function of ``(seed, purpose, indices)``: nothing depends
on how many batches, workers or processes there are, and there is no generator state to save.
"""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A CPU generator keyed by the seed, a purpose such as ``"train"`` and any integers, the same on every machine."""
    key = ":".join([str(seed), purpose, *map(str, indices)])
    digest = hashlib.sha256(key.encode()).digest()  # not hash(): it differs between processes
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
