"""Disk: what a file system refuses, in words that somebody can act on."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gendiff.command import option
from gendiff.errors import ConfigError, GendiffError

FULL = (errno.ENOSPC, errno.EDQUOT)


class Refused(OSError):
    """A disk that took less than all of a file of ``size`` bytes."""

    def __init__(self, error: OSError, path: Path, size: int) -> None:
        super().__init__(error.errno, error.strerror or str(error), str(path))
        self.size = size


def free(path: Path) -> int:
    """Bytes that are left where ``path`` is or would be; endless where the file system counts none, as that of processes."""
    path = path.absolute()
    usage = shutil.disk_usage(next(part for part in (path, *path.parents) if part.exists()))
    return usage.free if usage.total else sys.maxsize


def refusal(
    error: OSError,
    path: Path | None = None,
    size: int | None = None,
    safe: Iterable[str] = (),
    go_on: str = "",
    instead: str = "",
) -> GendiffError:
    """What to raise in place of ``error``: the path, the bytes that are needed and free, what is safe, how to go on.

    Args:
        path: what was written, where the error does not name it.
        size: its size, where that is known and the error does not have it.
        safe: what is on the disk already, a line each.
        go_on: what to do once there is room.
        instead: what to do where there will be none.

    """
    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
    size = error.size if isinstance(error, Refused) else size
    why = error.strerror or str(error)
    room = [f"{size:,} bytes needed"] if size is not None else []
    room += [f"{free(place):,} bytes free"] if place is not None else []
    mend = "make room" if error.errno in FULL else "see that the folder is there and can be written to"
    return GendiffError(
        f"cannot write '{place}': {why}" if place is not None else f"the disk refuses: {why}",
        details=[", ".join(room), *safe],
        fix=", ".join(filter(None, [mend, go_on and f"then {go_on}", instead and f"or {instead}"])),
    )


def unwritable(
    error: OSError,
    path: Path,
    what: str = "",
    size: int | None = None,
    where: str | None = None,
    fix: str = "",
) -> GendiffError:
    """What to raise in place of ``error`` where a place that the user chose takes nothing: `refusal` where it is full.

    Args:
        what: could not be done; left out, ``path`` could not be written.
        size: bytes, where they are known.
        where: who named the place; left out, the option ``--out``.
        fix: the way on; left out, another place.

    """
    where = option("--out") if where is None else where
    fix = fix or f"choose another place: {option('--out', 'PATH')}"
    if error.errno in FULL:
        return refusal(OSError(error.errno, error.strerror, str(path)), size=size, instead=fix)
    what = what or f"cannot write '{path}'"
    return ConfigError(f"{what}: {error.strerror or error}", where=where, fix=fix)


def check_room(path: Path, size: int, what: str, fix: str) -> None:
    """Raise `GendiffError` where fewer than ``size`` bytes are free where ``path`` is or would be: before anything is made."""
    room = free(path)
    if room < size:
        raise GendiffError(
            f"not enough room in '{path}' for {what}",
            details=[f"at least {size:,} bytes needed, {room:,} free"],
            fix=fix,
        )


@contextmanager
def writing(path: Path, size: int | None = None, safe: Iterable[str] = (), go_on: str = "") -> Iterator[None]:
    """Whatever the disk refuses inside the block is raised as `refusal` says it."""
    try:
        yield
    except OSError as error:
        raise refusal(error, path, size, safe, go_on) from error
