"""File operations that survive a crash, and that touch nothing but what they name.

All that must outlive a crash is written through `Files`, so that tests can record, fail and replay every operation. A folder may
come from a stranger: nothing here writes through a link, into a pipe or device, or into a file that has another name elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gendiff.storage.disk import Refused

_STAGED = re.compile(r"\.(.+)\.[0-9a-f]{8}\.staged")


class Elsewhere(OSError):
    """What would be written is not a file of its own: a link, a pipe, a device, a file with two names."""


class Files:
    """The few operations that durable storage needs."""

    def make_directory(self, path: Path) -> None:
        """Create a directory and its parents, and force their names to the disk."""
        for missing in reversed([part for part in (path, *path.parents) if not part.exists()]):
            missing.mkdir(exist_ok=True)
            self.sync_directory(missing.parent)

    def write(self, path: Path, content: bytes) -> None:
        """Write a new file and force it to the disk; raises OSError where the disk takes less than all of it."""
        with _new(path) as file:
            _put(file, path, content)

    def append(self, path: Path, content: bytes, at: int) -> None:
        """Write at byte ``at``, the end of a file, and force it to the disk; what a crash left beyond is cut off first."""
        with in_place(path) as file:
            if file.seek(0, os.SEEK_END) < at:
                raise OSError(f"the file is shorter than {at:,} bytes: {path}")
            file.truncate(at)
            file.seek(at)
            _put(file, path, content)

    def add(self, path: Path, content: bytes) -> None:
        """Write at the end of a file, which need not exist, and force it to the disk."""
        with in_place(path, os.O_CREAT | os.O_APPEND) as file:
            _put(file, path, content)

    def overwrite(self, path: Path, content: bytes) -> None:
        """Write over the first bytes of a file, and force them to the disk; a crash may leave a part of both."""
        with in_place(path) as file:
            _put(file, path, content)

    def sync_directory(self, path: Path) -> None:
        """Force the names in a directory to the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or directory its final name, in one step; a file replaces an older one, or a link to one."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Delete a file."""
        path.unlink()

    def remove_tree(self, path: Path) -> None:
        """Delete a directory and all it holds; of a link, the link."""
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)

    def replace(self, path: Path, content: bytes) -> None:
        """Replace a file so that a crash leaves either the old or the new content."""
        with _staged(path) as stage:
            self.write(stage, content)
            self.rename(stage, path)
        self.sync_directory(path.parent)


def put(path: Path, content: bytes) -> None:
    """Replace a file without waiting for the disk: for what can be made again. Nobody sees half of it."""
    with _staged(path) as stage:
        with _new(stage) as file:
            _put(file, stage, content, durable=False)
        stage.replace(path)


def saved(path: Path, save: Callable[[IO[bytes]], object]) -> None:
    """The same, with the content that ``save`` writes into a file, from any place in it."""
    with _staged(path) as stage:
        with _new(stage) as file:
            try:
                save(file)
                file.flush()
            except OSError as error:  # the system does not say of which file
                if error.filename is not None or error.errno is None:
                    raise
                raise OSError(error.errno, error.strerror, str(stage)) from error
        stage.replace(path)


def to_become(name: str) -> str | None:
    """The name of the file that a staged one was to become, where the process was killed; None for any other file."""
    match = _STAGED.fullmatch(name)
    return match and match[1]


@contextmanager
def in_place(path: Path, flags: int = 0) -> Iterator[IO[bytes]]:
    """A file to read and write where it is; raises `Elsewhere` where that would touch something else."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, 0o666)
    except OSError as error:
        why = {errno.ELOOP: "a link", errno.EISDIR: "a directory", errno.ENXIO: "not a regular file"}
        if error.errno in why:
            raise Elsewhere(error.errno, why[error.errno], str(path)) from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Elsewhere(errno.EINVAL, "not a regular file", str(path))
        if status.st_nlink > 1:
            raise Elsewhere(errno.EMLINK, "a file that has another name, and would change there too", str(path))
    except OSError:
        os.close(descriptor)
        raise
    with _closing(os.fdopen(descriptor, "r+b")) as file:
        yield file


@contextmanager
def _new(path: Path) -> Iterator[IO[bytes]]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with _closing(os.fdopen(os.open(path, flags, 0o666), "w+b")) as file:
        yield file


@contextmanager
def _closing(file: Any) -> Iterator[IO[bytes]]:
    """Close the file; where the block fails, without a second try to write, which would fail too and not say where."""
    try:
        yield file
    except BaseException:
        getattr(file, "raw", file).close()  # what a buffer still holds is given up
        raise
    file.close()


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that nobody can know before; nothing is left there where the disk refuses."""
    stage = path.with_name(f".{path.name[:50]}.{os.urandom(4).hex()}.staged")
    try:
        yield stage
    except (Exception, KeyboardInterrupt) as error:
        with contextlib.suppress(OSError):
            stage.unlink()
        if isinstance(error, OSError) and error.filename == str(stage):
            error.filename, error.filename2 = str(path), None  # what was to be written, not where
        raise


def _put(file: IO[bytes], path: Path, content: bytes, durable: bool = True) -> None:
    try:
        count = file.write(content)
        if count != len(content):
            raise OSError(f"short write: {count} of {len(content)} bytes")
        file.flush()
        if durable:
            os.fsync(file.fileno())
    except OSError as error:  # the system does not say of which file
        raise Refused(error, path, len(content)) from error
