"""Pictures in a column of parquet files."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from gendiff.condition import Condition
from gendiff.datasets.column import Column
from gendiff.datasets.images import MOST_BYTES, Mark, mark, missing, reason
from gendiff.errors import ConfigError, DataError, GendiffError, printable
from gendiff.extra import extra
from gendiff.shapes import EventShape
from gendiff_plugins.data.picture_rows import PictureRows

ENDING = ".parquet"
MAGIC = b"PAR1"
SAMPLED = 256  # pictures whose content is part of the fingerprint
GROUPS = 8  # groups of rows that are kept in memory, in each process
ALLOWED = "a parquet file, or a folder with such files"
FIX = "write it again, or take it away"


class Parquet(PictureRows):
    """the pictures in a column of parquet files, resized to one size.

    ``path`` is a file, or a folder: the files below it that end in parquet, in the order of their paths, as one table. The
    column holds encoded pictures as binary, or as the library ``datasets`` writes them, a structure of ``bytes`` and ``path``
    with the bytes inside. Where one column alone can hold pictures it need not be named. A picture becomes an event by the
    rules of the data ``folder``.

    The column ``label``, where there is one of whole numbers from 0, of words, or of floating point, is the condition
    ``label``, or ``vector``; another is given by its name. Names of classes are those that ``datasets`` notes in the file.

    Parquet is read by groups of rows, of which the last few are kept: files of large groups are packed once with `gendiff data
    prepare`, and read fast from there. The fingerprint covers the number of pictures and the content of 256 of them.

    Raises `DataError` naming what is missing or damaged, `ConfigError` without the library pyarrow, `IndexError` outside
    0..length-1.
    """

    name = "parquet"

    path: Path = Field(description="a file, or a folder with files; ~ is your home")
    column: str = Field("", description="the column with the pictures, where several could be")
    label: str = Field(
        "label", description="the column with what is known of a picture, a class or numbers, where it is"
    )

    @property
    def event_shape(self) -> EventShape:
        _ = self._ends, self._column  # what is missing is reported here, before a model of this shape is built
        return (self.channels, *self._height_width)

    @property
    def length(self) -> int:
        return self._ends[-1][0]

    @cached_property
    def fingerprint(self) -> str:
        n = self.length
        digest = hashlib.sha256(f"{n} {self.channels} {self._height_width} {self.crop} {self._column}".encode())
        for index in self.spread(SAMPLED):
            digest.update(self._encoded(index))
        return f"parquet/1 {n} pictures {digest.hexdigest()[:16]}"

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        if path.is_dir():
            return {"path": path} if _files(path) else None
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return {"path": path} if file.read(4) == MAGIC else None

    @cached_property
    def _source(self) -> tuple[tuple[Path, Mark], ...]:
        root = self._root
        if not root.exists():
            raise missing(root, ALLOWED)
        files = _files(root) if root.is_dir() else [root]
        if not files:
            raise DataError(
                f"no parquet files in '{root}'",
                subject="data.path",
                details=[f"allowed: {ALLOWED}"],
                fix="give another folder",
            )
        try:
            return tuple((file, mark(file)) for file in files)
        except (OSError, ValueError) as error:
            raise DataError("cannot read a file", where=str(root), details=[reason(error)], fix=FIX) from error

    @cached_property
    def _ends(self) -> list[tuple[int, int, int]]:
        """Of each group of rows the number of rows up to its end, its file, and its number there."""
        groups = []
        schema = None
        for number, (file, its_mark) in enumerate(self._source):
            table = _table(file, its_mark)
            schema = schema or table.schema_arrow
            if table.schema_arrow.names != schema.names:
                raise DataError(
                    f"'{file.name}' has other columns than '{self._source[0][0].name}'",
                    where=str(self._root),
                    details=[f"{', '.join(table.schema_arrow.names)}; the first has {', '.join(schema.names)}"],
                    fix="give files of one table",
                )
            groups += [(table.metadata.row_group(k).num_rows, number, k) for k in range(table.num_row_groups)]
        counts = accumulate(rows for rows, *_ in groups)
        ends = [(end, number, k) for end, (_, number, k) in zip(counts, groups, strict=True)]
        if not ends or not ends[-1][0]:
            raise DataError(
                f"there are no rows in '{self._root}'", subject="data.path", fix="give another file or folder"
            )
        return ends

    @cached_property
    def _column(self) -> str:
        pyarrow = _library()
        schema = _table(*self._source[0]).schema_arrow
        fitting: list[str] = [field.name for field in schema if _holds_pictures(pyarrow, field.type)]
        if not self.column and len(fitting) == 1:
            return fitting[0]
        if self.column in fitting:
            return self.column
        what = "more than one column could hold pictures" if len(fitting) > 1 else "no column holds pictures"
        if self.column:
            what = (
                f"the column '{self.column}' holds no pictures"
                if self.column in schema.names
                else f"no column '{self.column}'"
            )
        details = [f"columns of pictures: {', '.join(fitting) or 'none'}", f"columns: {', '.join(schema.names)}"]
        fix = "set column to one of them" if fitting else "write pictures as binary, or as {bytes, path}"
        raise DataError(f"{what} in '{self._root.name}'", subject="data.column", details=details, fix=fix)

    def _encoded(self, index: int) -> bytes:
        """The file that is stored in a row."""
        group = bisect_right(self._ends, index, key=lambda end: end[0])
        start = self._ends[group - 1][0] if group else 0
        _, number, k = self._ends[group]
        try:
            value = _group(*self._source[number], k, self._column, os.getpid())[index - start].as_py()
            if isinstance(value, dict):
                if value.get("bytes") is None and value.get("path"):
                    raise ValueError(f"its bytes are not inside, only the path '{printable(str(value['path']))}'")
                value = value.get("bytes")
            if value is None:
                raise ValueError("it is missing")
            if len(value) > MOST_BYTES:
                raise ValueError(f"{len(value):,} bytes, more than the limit of {MOST_BYTES:,}")
            return bytes(value)
        except GendiffError:
            raise
        except Exception as error:
            raise self._damaged(index, error) from error

    def _damaged(self, index: int, error: Exception) -> DataError:
        what, fix = f"cannot read the picture in row {index}", "correct the table, or leave that row out"
        return DataError(what, where=f"{self._root}, column '{self._column}'", details=[reason(error)], fix=fix)

    @cached_property
    def _told(self) -> Mapping[str, Column]:
        schema = _table(*self._source[0]).schema_arrow
        is_default = self.label == type(self).model_fields["label"].default
        if not self.label or (is_default and self.label not in schema.names):
            return {}
        try:
            if self.label not in schema.names:
                raise ValueError("there is no such column")
            column = _labels(self._source, self.label)
        except GendiffError:
            raise
        except Exception as error:
            raise DataError(
                f"the column '{self.label}' of '{self._root.name}' cannot be a condition",
                subject="data.label",
                details=[reason(error), f"columns: {', '.join(schema.names)}"],
                fix="choose a column of whole numbers from 0, words or floating point; label= leaves labels out",
            ) from error
        return {"label" if column.condition.type == "label" else "vector": column}


def _library() -> Any:
    otherwise = "use the data huggingface, or save the pictures as files"
    for module in ("pyarrow.parquet", "pyarrow"):
        library = extra(module, "data 'parquet'", "data.name", "parquet", otherwise, ConfigError)
    return library


def _files(folder: Path) -> list[Path]:
    names = (file for file in folder.rglob(f"*{ENDING}") if file.is_file())
    return sorted(file for file in names if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def _holds_pictures(pyarrow: Any, kind: Any) -> bool:
    types = pyarrow.types
    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_pictures(pyarrow, field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _table(file: Path, its_mark: Mark) -> Any:
    return _opened(file, its_mark, os.getpid())


@lru_cache(maxsize=64)
def _opened(file: Path, its_mark: Mark, process: int) -> Any:
    """The file with its list of groups read, once per process."""
    _library()
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file)
    except Exception as error:
        what = f"cannot read the parquet file '{file.name}'"
        why = "the file is empty (0 bytes)" if its_mark[2] == 0 else reason(error)
        raise DataError(what, where=str(file), details=[why], fix=FIX) from error


@lru_cache(maxsize=GROUPS)
def _group(file: Path, its_mark: Mark, group: int, column: str, process: int) -> Any:
    """A column of a group of rows; without threads, which do not outlive a fork."""
    return _table(file, its_mark).read_row_group(group, columns=[column], use_threads=False).column(column)


@lru_cache(maxsize=4)
def _labels(source: tuple[tuple[Path, Mark], ...], name: str) -> Column:
    values: list[Any] = []
    for file, its_mark in source:
        values += _table(file, its_mark).read(columns=[name], use_threads=False).column(name).to_pylist()
    if any(value is None for value in values):
        raise ValueError("it is empty in some rows")
    if all(isinstance(value, str) for value in values):
        classes = sorted(set(values))
        numbers = {word: number for number, word in enumerate(classes)}
        return Column(
            Condition.label([printable(word) for word in classes]), np.array([numbers[one] for one in values])
        )
    return Column.of(np.asarray(values), len(values), _class_names(_table(*source[0]).schema_arrow, name))


def _class_names(schema: Any, column: str) -> list[str] | None:
    """The names of the classes that the library ``datasets`` noted in a file."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
        return [str(name) for name in names] if names else None
    except (KeyError, TypeError, ValueError):
        return None
