"""Lock: one process at a time writes into a directory."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from gendiff.errors import DataError, GendiffError, printable
from gendiff.storage import disk
from gendiff.storage.files import Elsewhere, Files, in_place, to_become

NAME = ".lock"
OWNER = 200  # characters that are read of who holds it


class Held(GendiffError):
    """Another process holds a directory (exit code 1)."""


@contextmanager
def locked(folder: Path, doing: str, fix: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock of ``folder`` inside the block; it dies with its process, whatever kills it.

    Args:
        doing: the word for what another process does that holds it.
        fix: what can be done about that.
        wait: whether to wait for that process, which holds it for moments.

    Raises:
        Held: where another process holds it, and says who.
        DataError: for a lock that leads somewhere else: a stranger's folder must not make us write there.

    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(in_place(folder / NAME, os.O_CREAT))
        except Elsewhere as error:
            raise DataError(
                f"'{folder / NAME}' is {error.strerror}",
                details=["gendiff writes who holds a directory into it, and follows it nowhere"],
                fix="remove it, if no other process writes there",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            owner = file.read(OWNER).decode(errors="replace").strip()
            raise Held(
                f"'{folder}' is being {doing} by another process",
                details=[f"owner: {printable(owner) or 'unknown'}"],
                fix=fix,
            ) from error
        os.register_at_fork(after_in_child=file.close)  # a data worker must not hold the lock of a killed owner
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with disk.writing(folder / NAME):
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}".encode())
            file.flush()
        for leftover in [path for path in folder.iterdir() if to_become(path.name) and path.is_file()]:
            leftover.unlink(missing_ok=True)  # of a process that was killed; a living one would hold the lock
        yield


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a piece of work, whose folder is made where it is missing: no two do the same, and a killed process gives it back.

    Raises:
        Held: where another process does it.

    """
    Files().make_directory(folder)
    with locked(folder, "worked on", "wait for it, or stop it"):
        yield
