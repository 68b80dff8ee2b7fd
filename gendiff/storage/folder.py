"""Folder: a new directory of ours, numbered or given, never one that holds something else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gendiff.command import option
from gendiff.errors import ConfigError, DataError
from gendiff.storage.disk import unwritable
from gendiff.storage.files import Files

FOLLOW = "GENDIFF_FOLLOW_LINKS"
ELSEWHERE = "choose another directory: --out DIR"  # of what commands alone write
_NUMBERED = re.compile(r"(\d{5})-.*")


@contextmanager
def leaving_no_folder(path: Path) -> Iterator[None]:
    """``path`` and the folders on the way to it that are made inside the block do not stay where it fails, if they are empty."""
    absent = [part for part in (path, *path.parents) if not part.exists()]
    try:
        yield
    except BaseException:
        for part in absent:
            with suppress(OSError):
                part.rmdir()
        raise


def _elsewhere() -> str:
    return f"choose another directory: {option('--out', 'DIR')}"


def numbered(root: Path, name: str) -> Path:
    """Make the next free ``root/NNNNN-name``; safe when two processes start at once."""
    try:
        root.mkdir(exist_ok=True)
        while True:
            numbers = [int(match[1]) for path in root.iterdir() if (match := _NUMBERED.fullmatch(path.name))]
            path = root / f"{max(numbers, default=0) + 1:05d}-{name}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            Files().sync_directory(root)
            return path
    except OSError as error:
        raise unwritable(
            error,
            root,
            f"cannot make a directory in '{root}'",
            where="",
            fix=_elsewhere(),
        ) from error


def check_empty(out: Path, go_on: str = "", where: str = "") -> None:
    """Raise as `empty` does where ``out`` exists and is not empty, and make nothing; ``where`` it was named, if not by --out."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"'{out}' exists and is not empty",
            where=where or option("--out"),
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
        raise unwritable(error, out, f"cannot make the directory '{out}'", fix=_elsewhere()) from error
    return out


def inside(root: Path, path: Path) -> Path:
    """``path``, which lies in the folder ``root`` of ours: nothing is written through a link between the two.

    What links lead to is no part of a run, and a stranger may have made them. `FOLLOW` says that one's own are to be followed.

    Raises:
        DataError: for a link, saying where it leads.

    """
    for part in (path, *path.parents):
        if part == root or os.environ.get(FOLLOW) == "1":
            break
        if part.is_symlink():
            raise DataError(
                f"'{part}' is a link, and gendiff writes only into the folder itself",
                details=[f"it leads to {os.path.realpath(part)}"],
                fix=f"put a folder in its place, or, where the link is your own, set {FOLLOW}=1",
            )
    return path


def make_inside(root: Path, path: Path) -> None:
    """Make the folder ``path`` and its parents inside ``root``; raises as `inside` does."""
    Files().make_directory(inside(root, path))
