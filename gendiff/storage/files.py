"""File operations that survive a crash.

All that must outlive a crash is written through `Files`, so that tests can record, fail and replay every operation.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO

from gendiff.storage.disk import Refused


class Files:
    """The few operations that durable storage needs."""

    def make_directory(self, path: Path) -> None:
        """Create a directory and its parents, and force their names to the disk."""
        for missing in reversed([part for part in (path, *path.parents) if not part.exists()]):
            missing.mkdir(exist_ok=True)
            self.sync_directory(missing.parent)

    def write(self, path: Path, content: bytes) -> None:
        """Write a new file and force it to the disk; raises OSError where the disk takes less than all of it."""
        with path.open("xb") as file:
            self._put(file, path, content)

    def append(self, path: Path, content: bytes, at: int) -> None:
        """Write at byte ``at``, the end of a file, and force it to the disk; what a crash left beyond is cut off first."""
        with path.open("r+b") as file:
            if file.seek(0, os.SEEK_END) < at:
                raise OSError(f"the file is shorter than {at:,} bytes: {path}")
            file.truncate(at)
            file.seek(at)
            self._put(file, path, content)

    def overwrite(self, path: Path, content: bytes) -> None:
        """Write over the first bytes of a file, and force them to the disk; a crash may leave a part of both."""
        with path.open("r+b") as file:
            self._put(file, path, content)

    def sync_directory(self, path: Path) -> None:
        """Force the names in a directory to the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or directory its final name, in one step; a file replaces an older one."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Delete a file."""
        path.unlink()

    def remove_tree(self, path: Path) -> None:
        """Delete a directory and all it holds."""
        shutil.rmtree(path)

    def replace(self, path: Path, content: bytes) -> None:
        """Replace a file so that a crash leaves either the old or the new content."""
        staged = path.with_name(f".{path.name}.staged")
        staged.unlink(missing_ok=True)
        self.write(staged, content)
        self.rename(staged, path)
        self.sync_directory(path.parent)

    def _put(self, file: IO[bytes], path: Path, content: bytes) -> None:
        try:
            written = file.write(content)
            if written != len(content):
                raise OSError(f"short write: {written} of {len(content)} bytes")
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:  # the system does not say of which file
            raise Refused(error, path, len(content)) from error
