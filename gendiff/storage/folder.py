"""Folder: a new directory of ours, numbered or given, never one that holds something else."""

from __future__ import annotations

import re
from pathlib import Path

from gendiff.errors import ConfigError
from gendiff.storage.files import Files

_NUMBERED = re.compile(r"(\d{5})-.*")


def numbered(root: Path, name: str) -> Path:
    """Make the next free ``root/NNNNN-name``; safe when two processes start at once."""
    root.mkdir(exist_ok=True)
    while True:
        taken = [int(match[1]) for path in root.iterdir() if (match := _NUMBERED.fullmatch(path.name))]
        path = root / f"{max(taken, default=0) + 1:05d}-{name}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        Files().sync_directory(root)
        return path


def check_empty(out: Path, go_on: str = "") -> None:
    """Raise as `empty` does where ``out`` exists and is not empty, and make nothing."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"'{out}' exists and is not empty",
            where="--out",
            details=["gendiff never writes into a directory that holds something else"],
            fix=f"go on with it: {go_on}" if go_on else "choose a new directory",
        )


def empty(out: Path, go_on: str = "") -> Path:
    """Make ``out`` where it does not exist.

    Raises:
        ConfigError: where it exists and is not empty; ``go_on`` is the command that goes on with it, where it is ours.

    """
    check_empty(out, go_on)
    try:
        Files().make_directory(out)
    except OSError as error:
        raise ConfigError(f"cannot make the directory '{out}': {error.strerror}", where="--out") from error
    return out
