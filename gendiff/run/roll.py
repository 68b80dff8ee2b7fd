"""Roll: which files a run began with, so that one that is gone or bad later is told from other data.

8 bytes for each file, the beginning of the SHA-256 of its name and trace (`Data.parts`), sorted: a million pictures take 8 MB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

LENGTH = 8


@dataclass(frozen=True)
class Absence:
    """How data differ from those of a roll.

    Args:
        count: how many files of the roll are not there as they were.
        strange: the names of files that are not on the roll: they are new, or have changed.

    """

    count: int
    strange: tuple[str, ...]


def roll(parts: Mapping[str, int]) -> bytes:
    """The roll of these files."""
    return b"".join(sorted(_entry(name, trace) for name, trace in parts.items()))


def absence(before: bytes, parts: Mapping[str, int]) -> Absence:
    """How ``parts`` differ from the files of the roll ``before``."""
    entries = {before[start : start + LENGTH] for start in range(0, len(before), LENGTH)}
    strange = tuple(name for name, trace in parts.items() if _entry(name, trace) not in entries)
    return Absence(len(entries) - (len(parts) - len(strange)), strange)


def _entry(name: str, trace: int) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape") + f"\0{trace}".encode()).digest()[:LENGTH]
