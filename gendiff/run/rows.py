"""Rows: metrics.jsonl, one object a line, of training and of metrics.

This module does not import torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gendiff.plain import json_object
from gendiff.storage import reading

METRICS = "metrics.jsonl"


def row_of(line: bytes) -> dict[str, Any]:
    """The row that a line holds; empty for one that a crash has torn."""
    try:
        row = json_object(line, lenient=True)
    except ValueError:
        return {}
    return row if type(row.get("step")) is int and row["step"] >= 0 else {}


def last_training_row(run: Path) -> dict[str, Any]:
    """The newest row of training, whose loss is None where all its steps were skipped; empty before there is one.

    Raises `DataError` where metrics.jsonl is no file of rows.
    """
    if not os.path.lexists(run / METRICS):
        return {}
    return next((row for line in reading.last_rows(run / METRICS) if "loss" in (row := row_of(line))), {})


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The measurements of a row of metrics.jsonl under flat names: ``loss``, ``loss_bands.0``, ``spectrum.error``.

    What could not be measured, such as the loss of steps that were all skipped, is left out, and so are the losses of single
    events.
    """
    values: dict[str, float] = {}
    for key, value in row.items():
        if key == "by_event":
            continue
        parts = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else None
        if parts is not None:
            values.update(
                {f"{key}.{name}": number for name, number in numbers({str(k): v for k, v in parts.items()}).items()}
            )
        elif key != "step" and isinstance(value, int | float) and math.isfinite(value):
            values[key] = float(value)
    return values
