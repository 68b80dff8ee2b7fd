"""Summary: a run as a list shows it, read from its small files alone.

This module does not import torch: hundreds of runs are listed in a moment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gendiff.errors import ConfigError, printable
from gendiff.run import record
from gendiff.run.history import flat
from gendiff.run.rows import last_training_row
from gendiff.storage import reading

CONFIG = "config.toml"
SAVED = re.compile(r"step-(\d{12})")  # a checkpoint, by its name
LONGEST = 100  # characters of a name that a file may hold anything for


@dataclass(frozen=True)
class Summary:
    """What the files of a run say of it.

    Args:
        info: its run.json.
        table: its config.toml.
        step: that it has reached, by its rows and its checkpoints.
        loss: of the newest row of training; None where there is none.
        size: bytes of all its files on the disk; what links lead to is not counted.

    """

    path: Path
    info: Mapping[str, Any]
    table: Mapping[str, Any]
    step: int
    loss: float | None
    size: int

    @classmethod
    def of(cls, path: Path) -> Summary:
        """That of the run at ``path``; raises `ConfigError` where it is none, `DataError` for a damaged one."""
        if not os.path.lexists(path / CONFIG):
            raise ConfigError(
                f"'{path}' is not a run directory: there is no {CONFIG}", fix="list runs: gendiff runs list"
            )
        table = reading.toml_file(path / CONFIG)
        info, last = record.read(path), last_training_row(path)
        loss = last.get("loss")
        return cls(path, info, table, reached(path, last), loss if type(loss) in (int, float) else None, _size(path))

    def name_of(self, key: str) -> str:
        """The name of the component at a dotted key; empty where there is none."""
        part: Any = self.table
        for word in key.split("."):
            part = part.get(word) if isinstance(part, Mapping) else None
        name = str(part.get("name", "")) if isinstance(part, Mapping) else str(part or "").partition(":")[0]
        return printable(name if len(name) <= LONGEST else f"{name[:LONGEST]} ...")

    @property
    def process(self) -> str:
        """Rotation, velocity and schedule by name; the schedule of a blur that has nothing to act on says nothing."""
        rotation, velocity, schedule = map(self.name_of, ("rotation", "velocity", "velocity.schedule"))
        if is_ddpm(rotation, velocity):
            return f"{rotation} (DDPM)"
        return " ".join(filter(None, (rotation, velocity, schedule)))

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by dotted key, and each component's name by its own."""
        values = flat(self.table)
        return values | {key.removesuffix(".name"): value for key, value in values.items() if key.endswith(".name")}


def is_ddpm(rotation: str, velocity: str) -> bool:
    """Whether components of these names make standard diffusion: a blur along a rotation that has no frequencies."""
    return (rotation, velocity) == ("identity", "blur")


def reached(path: Path, last: Mapping[str, Any]) -> int:
    """The step that the run at ``path`` has reached: that of its newest checkpoint where it is beyond its last row."""
    folder = path / "checkpoints"
    names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
    logged: int = last.get("step", 0)
    return max([logged, *(int(match[1]) for name in names if (match := SAVED.fullmatch(name)))])


def parent(run: Summary, others: Iterable[Summary]) -> Summary | None:
    """The run that one began from, where it is among the others."""
    origin = run.info.get("from", {}).get("id")
    return next((other for other in others if other.info["id"] == origin and other.path != run.path), None)


def children(run: Summary, others: Iterable[Summary]) -> list[Summary]:
    """The runs among the others that began from one."""
    return [
        other
        for other in others
        if other.info.get("from", {}).get("id") == run.info["id"] and other.info["id"] != run.info["id"]
    ]


def tree(run: Summary, others: Iterable[Summary]) -> list[tuple[int, Summary, bool]]:
    """From the oldest forebear of a run that is here to all that came of it: depth, run, and whether it is this one."""
    everyone = sorted([run, *(other for other in others if other.path != run.path)], key=lambda one: one.path.name)
    root, line = run, {run.path}
    while (older := parent(root, everyone)) and older.path not in line:
        root = older
        line.add(root.path)
    rows, waiting, done = list[tuple[int, Summary, bool]](), [(0, root)], set[Path]()
    while waiting:
        depth, one = waiting.pop()
        if one.path in done:  # a stranger's runs may go round in a circle
            continue
        done.add(one.path)
        rows.append((depth, one, one.path == run.path))
        waiting += [(depth + 1, child) for child in reversed(children(one, everyone))]
    return rows


def _size(path: Path) -> int:
    total, folders = 0, [str(path)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
