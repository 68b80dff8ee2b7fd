"""Lock: one process at a time writes into a directory."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from gendiff.errors import GendiffError

NAME = ".lock"


@contextmanager
def locked(folder: Path, doing: str, fix: str) -> Iterator[None]:
    """Hold the lock of ``folder`` inside the block; it dies with its process, whatever kills it.

    Raises `GendiffError` where another process holds it, and says who; ``doing`` is the word for what that one does.
    """
    with (folder / NAME).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise GendiffError(
                f"'{folder}' is being {doing} by another process",
                details=[f"owner: {file.read().strip() or 'unknown'}"],
                fix=fix,
            ) from error
        os.register_at_fork(after_in_child=file.close)  # a data worker must not hold the lock of a killed owner
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}")
        file.flush()
        yield
