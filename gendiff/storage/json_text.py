"""JSON text: what every reader of JSON takes. A number that is not finite has no form there, and stands as null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """``value`` in JSON, numbers that are not finite as null; raises `TypeError` for what JSON does not have."""
    return json.dumps(finite_or_null(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def finite_or_null(value: Any) -> Any:
    """The same mappings, lists and values, with None in the place of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite_or_null(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(part) for part in value]
    return value
