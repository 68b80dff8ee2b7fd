"""Precision: float32 that is float32, also where a GPU would rather multiply in fewer bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products at full float32 precision inside the block, whatever autocast and TF32 settings are in force.

    A backward pass runs later, outside: its products follow the settings of whoever calls it.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
