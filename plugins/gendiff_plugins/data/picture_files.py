"""Picture files: what the data ``folder`` and ``zip`` have in common, wherever the files are.

What they show is the condition ``label``: the folder that a picture lies in, by the first level below the root, where there are
at least two and every picture lies in one. A ``dataset.json`` at the root, as EDM and StyleGAN have it, says it instead:
``{"labels": [["00000/img00000000.png", 6], ...]}``, with ``null`` where there are none; with lists of numbers in place of
classes it is the condition ``vector``.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field
from torch import Tensor

from gendiff.condition import Conditions
from gendiff.datasets.column import Column
from gendiff.datasets.images import FIRST, ImageData, eight_bit, hushed, reason, survey, upright
from gendiff.errors import DataError, printable
from gendiff.plain import json_object
from gendiff.shapes import EventShape

TABLE = "dataset.json"
MOST_TABLE = 2**30  # bytes of it; that of ImageNet has 60 million
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

    @property
    def conditions(self) -> Conditions:
        return {name: column.condition for name, column in self._told.items()}

    def condition(self, index: int) -> Mapping[str, Any]:
        return {name: column[index] for name, column in self._told.items()}

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
    def _told(self) -> Mapping[str, Column]:
        """What is said of every picture, by the name of the condition; empty where nothing is."""
        try:
            content = self._table()
            if content is None:
                return self._by_folder()
            labels = json_object(content).get("labels")
            return {} if labels is None else self._by_table(labels)
        except DataError:
            raise
        except Exception as error:
            what, fix = f"cannot use the labels in {TABLE}", f"correct it, or take {TABLE} away to leave labels out"
            raise DataError(what, where=self._where(TABLE), details=[reason(error)], fix=fix) from error

    def _by_folder(self) -> Mapping[str, Column]:
        column = Column.of_folders(self._names)
        return {} if column is None else {"label": column}

    def _by_table(self, labels: Any) -> Mapping[str, Column]:
        pairs = labels.items() if isinstance(labels, dict) else labels
        said = {str(name).replace("\\", "/"): value for name, value in pairs}
        if absent := [name for name in self._names if name not in said]:
            raise ValueError(f"it has no label for {printable(absent[0])}, and {len(absent) - 1} more")
        everyone = np.array(list(said.values()))  # classes are those of the whole table, whatever pictures are left out
        column = Column.of(everyone, len(everyone))
        values = np.array([said[name] for name in self._names])
        if values.ndim > 2:
            raise ValueError("labels are whole numbers, or lists of numbers")
        name = "label" if column.condition.type == "label" else "vector"
        return {name: Column(column.condition, values.reshape(len(values), *column.condition.shape))}

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
    def _table(self) -> bytes | None:
        """What is in `TABLE`; None where there is none."""

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
