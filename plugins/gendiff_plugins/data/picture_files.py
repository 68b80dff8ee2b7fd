"""Picture files: what the data ``folder`` and ``zip`` have in common, wherever the files are."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from PIL import Image
from pydantic import Field
from torch import Tensor

from gendiff.datasets.images import FIRST, ImageData, eight_bit, hushed, reason, survey, upright
from gendiff.errors import DataError, printable
from gendiff.shapes import EventShape

FIX = "replace or remove the file, or set on_bad_image=skip to leave bad files out"


@dataclass(frozen=True)
class Scan:
    """What was found.

    Args:
        files: the trace of each picture's file by name, in order.
        others: how many files there are of each other ending.
        skipped: ``(name, reason)`` of what was left out.

    """

    files: dict[str, int]
    others: Mapping[str, int]
    skipped: tuple[tuple[str, str], ...]


class PictureFiles(ImageData):
    """Files with a picture each, known by their names in one place."""

    #: The word for the place, and the version of the fingerprint.
    place: ClassVar[str]
    edition: ClassVar[int]

    on_bad_image: Literal["error", "skip"] = Field("error", description="error: stop and name it; skip: leave it out")

    @property
    def event_shape(self) -> EventShape:
        _ = self._scan  # what is missing is reported here, before a model of this shape is built
        return (self.channels, *self._height_width)

    @property
    def length(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"picture {index} of {self.length}")
        name = self._names[index]
        try:
            with self._opened(name) as image:
                return self._event(image)
        except DataError:
            raise
        except Exception as error:
            what = f"cannot read the picture '{self.origin(index)}'"
            details = [reason(error), FIRST]
            raise DataError(what, where=self._where(name), details=details, fix=FIX) from error

    def own_size(self, index: int) -> tuple[int, int] | None:
        try:
            with hushed(), self._opened(self._names[index]) as image:
                return upright(image)
        except Exception:  # what is wrong with it is said where it is read
            return None

    def origin(self, index: int) -> str:
        return printable(self._names[index])

    def entry(self, index: int) -> str:
        return self._names[index]

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """``(name, reason)`` of every file left out with ``on_bad_image="skip"``."""
        return self._scan.skipped

    @property
    def parts(self) -> Mapping[str, int]:
        return self._scan.files

    @property
    def passed_over(self) -> Mapping[str, int]:
        return self._scan.others

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.channels} {self._height_width} {self.crop}".encode())
        for name, trace in self._scan.files.items():
            digest.update(b"\0" + name.encode("utf-8", "surrogateescape") + f"\0{trace}".encode())
        return f"{self.name}/{self.edition} {self.length} files {digest.hexdigest()[:16]}"

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self._scan.files)

    @cached_property
    def _scan(self) -> Scan:
        names, others = self._listed()
        probe = self._decoded if self.on_bad_image == "skip" else self._glanced
        files, bad = survey(names, probe, self.on_bad_image, str(self._root), self.place, FIX)
        return Scan(files, others, tuple(bad))

    def _glanced(self, name: str) -> int | str:
        """The trace of a file whose header can be read, or why it cannot."""
        try:
            self._look(name)
            return self._trace(name)
        except Exception as error:
            return reason(error)

    def _decoded(self, name: str) -> int | str:
        """The same after decoding every pixel."""
        try:
            with self._opened(name) as image:
                eight_bit(image).convert("RGB")
            return self._trace(name)
        except Exception as error:
            return reason(error)

    @abstractmethod
    def _listed(self) -> tuple[list[str], Mapping[str, int]]:
        """The names of all image files, sorted, and how many files there are of each other ending.

        Raises `DataError` if there are none.
        """

    @abstractmethod
    def _opened(self, name: str) -> AbstractContextManager[Image.Image]:
        """The picture of a file; raises what is wrong with it."""

    @abstractmethod
    def _trace(self, name: str) -> int:
        """A number that another content of the file would change."""

    def _look(self, name: str) -> None:
        """Read the header of a file; raises what is wrong with it."""
        with self._opened(name):
            pass

    def _where(self, name: str) -> str:
        """Where a file is, for who has to mend it."""
        return str(self._root)
