"""Staging: a folder that is whole or not there.

What is to be in it is written aside, under a name that begins with a dot, which no reader of samples looks at, and gets its place
at the end. What a process leaves aside that is killed in between, the next one that fills the same folder takes away, or goes on
with, where both say that they make the same.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gendiff.errors import GendiffError, Stopped
from gendiff.storage import reading
from gendiff.storage.disk import refusal, unwritable
from gendiff.storage.files import put
from gendiff.storage.folder import ELSEWHERE, leaving_no_folder

_INSIDE = ".gendiff.staged"
_OF = ".of"  # in what is aside: the SHA-256 of what its content is made by
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def aside(folder: Path, inside: bool = False) -> Path:
    """Where `whole` lets the content of ``folder`` be written; arguments as there."""
    return folder / _INSIDE if inside else folder.with_name(f".{folder.name}.staged")


def is_empty(folder: Path) -> bool:
    """Whether a directory holds nothing but what an interrupted `whole` left in it."""
    return all(path.name == _INSIDE for path in folder.iterdir())


@contextmanager
def whole(folder: Path, inside: bool = False, size: int | None = None, of: str = "") -> Iterator[Path]:
    """A directory whose content takes the place of ``folder`` when the block ends; where it fails, all is as it was before.

    Args:
        inside: ``folder`` is new or empty, and is filled, not replaced: it may be the working folder, or a disk of its own.
        size: bytes of all that will be in it, for the error where they do not fit.
        of: what the content is made by, where it may be gone on with: what an interrupted block of the same left is in the
            directory then, and what this one makes stays where it is interrupted.

    Raises:
        ConfigError: where the directory cannot be made.
        GendiffError: where another process fills the same folder, and where the disk takes no more.

    """
    with leaving_no_folder(folder.parent), _filled(folder, inside, size, of) as stage:
        yield stage


@contextmanager
def _filled(folder: Path, inside: bool, size: int | None, of: str) -> Iterator[Path]:
    stage, absent = aside(folder, inside), not folder.exists()
    try:
        stage.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise unwritable(error, folder, f"cannot make the directory '{folder}'", size, fix=ELSEWHERE) from error
    try:
        _hold(descriptor, folder)
        try:
            _keep_what_is_of(stage, of)
            yield stage
            (stage / _OF).unlink(missing_ok=True)
            _move(stage, folder, inside)
        except BaseException as error:
            if of and isinstance(error, KeyboardInterrupt | Stopped):
                raise
            shutil.rmtree(stage, ignore_errors=True)
            if absent and inside:
                folder.rmdir()
            cause = error.__cause__ if isinstance(error, GendiffError) else error
            if isinstance(cause, OSError) and cause.errno in _FULL:
                full = OSError(cause.errno, cause.strerror, str(folder))
                raise refusal(full, size=size, safe=["what was written is removed"], instead=ELSEWHERE) from error
            raise
    finally:
        os.close(descriptor)


def _keep_what_is_of(stage: Path, of: str) -> None:
    """Leave in the directory what was made by the same, and nothing else."""
    mark, digest = stage / _OF, hashlib.sha256(of.encode()).hexdigest()
    try:
        same = bool(of) and reading.content(mark, most=100) == digest.encode()
    except (OSError, GendiffError):
        same = False
    if same:
        return
    for leftover in stage.iterdir():
        _remove(leftover)
    if of:
        put(mark, digest.encode())


def _hold(directory: int, folder: Path) -> None:
    """Hold the lock of an open directory, which ends with it; a file system without such locks has none."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise GendiffError(
            f"'{folder}' is being filled by another process", fix="wait for it, or choose another directory: --out DIR"
        ) from error
    except OSError:
        pass


def _move(stage: Path, folder: Path, inside: bool) -> None:
    if inside:
        for path in sorted(stage.iterdir(), key=Path.is_dir):  # directories last: without them it is not whole
            path.rename(folder / path.name)
        stage.rmdir()
        return
    before = folder.with_name(f".{folder.name}.removed")
    if before.exists():
        _remove(before)
    if folder.exists():
        folder.rename(before)
    stage.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
