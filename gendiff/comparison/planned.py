"""Planned: a directory that one sealed file defines, with what is to be done there; who has the same plan goes on with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gendiff.command import command
from gendiff.errors import ConfigError, Stopped
from gendiff.machine.stopping import StopRequest, interruptible, stop_requests, stopped
from gendiff.run.record import now
from gendiff.storage import sealed
from gendiff.storage.disk import unwritable
from gendiff.storage.files import Files, to_become
from gendiff.storage.folder import ELSEWHERE, check_empty, empty, leaving_no_folder, numbered


@dataclass(frozen=True)
class Planned:
    """A kind of such directories.

    Args:
        what: it is, in a word.
        file: the name of the file that defines it.
        key: under which that file has the plan.
        format: of that file.
        command: of gendiff that makes one, and goes on with it.
        home: the folder in which new ones are numbered.
        another: what one with another plan is called.

    """

    what: str
    file: str
    key: str
    format: int
    command: str
    home: str
    another: str

    def make(self, out: Path | None, name: str, plan: Mapping[str, Any], argv: Sequence[str]) -> Path:
        """Make ``out`` (default: the next number under `home`, with a name) and write what defines it; all or nothing stays.

        Raises:
            ConfigError: where ``out`` holds something.

        """
        for leftover in self._staged(out) if out is not None else ():
            leftover.unlink()
        with leaving_no_folder(out or Path(self.home)):
            path = numbered(Path(self.home), name) if out is None else empty(out)
            about = sealed.sealed({"format": self.format, "created": now(), "argv": list(argv), self.key: dict(plan)})
            try:
                Files().replace(path / self.file, about)
            except OSError as error:
                if out is None:
                    with suppress(OSError):
                        path.rmdir()
                raise unwritable(error, path / self.file, size=len(about), fix=ELSEWHERE) from error
        return path

    def is_made(self, out: Path) -> bool:
        """Whether there is one; raises `ConfigError` where there is something else, and no room for one."""
        if os.path.lexists(out / self.file):
            return True
        if not (leftovers := self._staged(out)) or len(leftovers) < len(list(out.iterdir())):
            check_empty(out)
        return False

    def refuse_another(
        self, out: Path, own: Mapping[str, Any], there: Mapping[str, Any], details: Sequence[str] = ()
    ) -> None:
        """Raise `ConfigError` where the plan that is ``there`` is not one's own."""
        if keys := [key for key, value in own.items() if there[key] != value]:
            raise ConfigError(
                f"'{out}' holds {self.another}",
                where="--out",
                details=[f"it differs in: {', '.join(keys)}", *details],
                fix=f"choose a new directory, or go on with the old one: {command(self.command, '--resume', out)}",
            )

    def plan(self, path: Path) -> Mapping[str, Any]:
        """The plan of one that exists; raises `ConfigError` where ``path`` is none, `DataError` where it is damaged."""
        if not os.path.lexists(path / self.file):
            raise ConfigError(
                f"'{path}' is not a {self.what} directory",
                details=[f"a {self.what} directory holds {self.file}"],
                fix=f"give the directory that gendiff {self.command} made",
            )
        table = self.about(path)
        if table.get("format") != self.format:
            raise ConfigError(
                f"'{path}' has format {table.get('format')!r:.20}; this gendiff reads format {self.format}"
            )
        plan: Mapping[str, Any] = table.get(self.key, {})
        return plan

    def about(self, path: Path) -> dict[str, Any]:
        """All that the file says: the plan, when and by which command it was made; raises `DataError` where it is damaged."""
        content = sealed.read(path / self.file)
        return sealed.check_seal(path / self.file, content, sealed.parsed(path / self.file, content))

    @contextmanager
    def stopping(self, path: Path) -> Iterator[Callable[[], None]]:
        """Stop on request inside the block; what it returns is to be called between pieces of work, and raises then.

        Every file is written whole or not at all, so that work may end anywhere.

        Raises:
            Stopped: on a request to stop, wherever it comes; it says how to go on with ``path``.

        """
        with stop_requests() as requests:

            def heed() -> None:
                if requests:
                    raise self._stopped(path, requests[0])

            try:
                with interruptible():
                    yield heed
            except (Stopped, StopRequest) as stop:  # that of a run says how to go on with that run alone
                raise self._stopped(path, requests[0]) from stop

    def _stopped(self, path: Path, number: int) -> Stopped:
        go_on = command(self.command, "--resume", path)
        return stopped(f"the {self.what}", number, "what was reached is saved", go_on)

    def _staged(self, out: Path) -> list[Path]:
        """What a process left that was killed while it made one."""
        return [path for path in out.iterdir() if to_become(path.name) == self.file] if out.is_dir() else []
