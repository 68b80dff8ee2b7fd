"""Quantities: times, sizes and numbers of things as people say them."""

from __future__ import annotations

import math
from itertools import pairwise


def duration(seconds: float) -> str:
    """A time as people say it: ``0.13 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s" if seconds >= 1e-3 else "less than 0.001 s"
    units = pairwise((("d", 86400), ("h", 3600), ("min", 60), ("s", 1)))
    ways = ((*divmod(round(seconds / part), size // part), name, lower) for (name, size), (lower, part) in units)
    whole, rest, name, lower = next(way for way in ways if way[0])
    return f"{whole} {name} {rest} {lower}" if rest else f"{whole} {name}"


def amount(count: float) -> str:
    """Bytes as people say them, in powers of 1024: ``512 B``, ``1.7 MiB``, ``12 GiB``."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 999.5 and len(units) > 1:
        count /= 1024
        units.pop(0)
    unit = units[0]
    return f"{count:.0f} {unit}" if count >= 99.5 or unit == "B" else f"{count:.3g} {unit}"


def counted(count: int, what: str) -> str:
    """``1 step``, ``2,000 steps``."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def rate(images_per_s: float) -> str:
    """``640 images/s``, ``0.5 images/s``."""
    return f"{images_per_s:,.0f} images/s" if images_per_s >= 9.95 else f"{images_per_s:.2g} images/s"
