"""Pictures in a data set of the Hugging Face library."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from gendiff.datasets.column import Column
from gendiff.datasets.images import MOST_BYTES, Mark, located, mark, missing, reason
from gendiff.errors import ConfigError, DataError, GendiffError, without_advice
from gendiff.extra import extra
from gendiff.shapes import EventShape
from gendiff.storage import reading
from gendiff_plugins.data.picture_rows import PictureRows

ALLOWED = "a folder written by save_to_disk, or the name of a data set on the hub, such as ylecun/mnist"
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
SAMPLED = 256  # pictures whose content is part of the fingerprint


class HuggingFace(PictureRows):
    """the pictures in a column of a Hugging Face data set, resized to one size.

    ``path`` is a folder that ``save_to_disk`` wrote, read where it lies; where there is no such folder it is the name of a data
    set on the hub, which the library ``datasets`` downloads into its own cache. No code that comes with a data set is run. The
    column has to be one of images; a picture becomes an event by the rules of the data ``folder``, and pictures are decoded when
    they are wanted.

    The column ``label``, where there is one of classes or of whole numbers from 0, is the condition ``label``. Another column is
    given by its name; one of floating point, a number or a list of them in each row, is the condition ``vector``.

    The fingerprint covers the number of pictures and the content of 256 of them.

    Raises `DataError` naming what is missing or damaged, `ConfigError` without the library, `IndexError` outside
    0..length-1.
    """

    name = "huggingface"

    path: Path = Field(description="a folder written by save_to_disk (~ is your home), or a name on the hub")
    column: str = Field("image", description="the column with the pictures")
    split: str = Field("train", description="the split, where the data set has several")
    label: str = Field(
        "label", description="the column with what is known of a picture, a class or numbers, where it is"
    )

    @property
    def event_shape(self) -> EventShape:
        _ = self._rows  # a missing data set is reported here, before a model of this shape is built
        return (self.channels, *self._height_width)

    @property
    def length(self) -> int:
        return len(self._rows)

    @property
    def _told(self) -> Mapping[str, Column]:
        column = _labels(*self._source, self.split, self.label, self.label == type(self).model_fields["label"].default)
        return {} if column is None else {"label" if column.condition.type == "label" else "vector": column}

    def _encoded(self, index: int) -> bytes:
        """The file that is stored in a row, or that the row names."""
        try:
            picture = self._rows[index][self.column]
            if picture is None:
                raise ValueError("it is missing")
            if picture["bytes"] is not None:
                return bytes(picture["bytes"])
            file = Path(picture["path"])
            with reading.opened(file, MOST_BYTES) as content:
                return content.read()
        except GendiffError:
            raise
        except Exception as error:
            raise self._damaged(index, error) from error

    def _damaged(self, index: int, error: Exception) -> DataError:
        what, fix = f"cannot read the picture in row {index}", "correct the data set, or leave that row out"
        return DataError(what, where=f"{self.path}, column '{self.column}'", details=[reason(error)], fix=fix)

    @cached_property
    def fingerprint(self) -> str:
        n = self.length
        digest = hashlib.sha256(f"{n} {self.channels} {self._height_width} {self.crop} {self.column}".encode())
        for index in sorted({number * (n - 1) // (SAMPLED - 1) for number in range(SAMPLED)}):
            digest.update(self._encoded(index))
        return f"huggingface/1 {n} pictures {digest.hexdigest()[:16]}"

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        several, one = (path / "dataset_dict.json").is_file(), (path / "dataset_info.json").is_file()
        return {"path": path} if several or (one and (path / "state.json").is_file()) else None

    @property
    def _rows(self) -> Any:
        return _loaded(*self._source, self.column, self.split)

    @cached_property
    def _source(self) -> tuple[str, tuple[Mark, ...] | None]:
        """The folder and what its files were at first use, or a name on the hub and None."""
        folder = located(self.path)
        if folder.is_dir():
            return str(folder), tuple(mark(file) for file in sorted(folder.rglob("*")) if file.is_file())
        if folder.exists() or not HUB_NAME.fullmatch(str(self.path)):
            raise missing(folder, ALLOWED)
        return str(self.path), None


@lru_cache(maxsize=4)
def _loaded(path: str, marks: tuple[Mark, ...] | None, column: str, split: str) -> Any:
    """The rows of one column, undecoded, shared by all components that ask for them."""
    rows = _opened(path, marks, split)
    feature = rows.features.get(column)
    if type(feature).__name__ != "Image":
        images = [name for name, other in rows.features.items() if type(other).__name__ == "Image"]
        what = f"no column '{column}'" if feature is None else f"the column '{column}' holds no images"
        details = [f"columns of images: {', '.join(images) or 'none'}"]
        raise DataError(
            f"{what} in the data set '{path}'", subject="data.column", details=details, fix="choose one of them"
        )
    if not len(rows):
        raise DataError(
            f"the data set '{path}' has no rows", subject="data.path", fix="choose another split or data set"
        )
    return rows.with_format(None).select_columns([column]).cast_column(column, type(feature)(decode=False))


@lru_cache(maxsize=4)
def _labels(path: str, marks: tuple[Mark, ...] | None, split: str, column: str, is_default: bool) -> Column | None:
    """What a column says of every row; None where nobody has asked for it by name and there is none that could."""
    rows = _opened(path, marks, split)
    feature = rows.features.get(column)
    try:
        if feature is None:
            raise ValueError("there is no such column")
        if type(feature).__name__ == "Image":
            raise ValueError("it holds images")
        values = rows.with_format(None).select_columns([column])[:][column]
        if any(value is None for value in values):
            raise ValueError("it is empty in some rows")
        return Column.of(np.asarray(values), len(values), getattr(feature, "names", None))
    except Exception as error:
        if is_default and feature is None:
            return None
        if is_default:
            warnings.warn(f"the column '{column}' of '{path}' is no condition: {reason(error)}", stacklevel=2)
            return None
        raise DataError(
            f"the column '{column}' of the data set '{path}' cannot be a condition",
            subject="data.label",
            details=[reason(error), f"columns: {', '.join(rows.features)}"],
            fix="choose a column of classes, whole numbers from 0, or floating point",
        ) from error


def _opened(path: str, marks: tuple[Mark, ...] | None, split: str) -> Any:
    """All columns of a split."""
    library = _library()
    try:
        if marks is None:
            rows = library.load_dataset(path, split=split, trust_remote_code=False)
        else:
            rows = library.load_from_disk(path)
            if hasattr(rows, "keys"):
                rows = _chosen(dict(rows), split, path)
    except DataError:
        raise
    except Exception as error:
        what = f"cannot load the data set '{path}'"
        fix = "check the name and the connection" if marks is None else "write it again with save_to_disk"
        why = without_advice(str(error).strip().partition("\n")[0]) or type(error).__name__
        raise DataError(what, subject="data.path", details=[why, f"allowed: {ALLOWED}"], fix=fix) from error
    return rows


def _chosen(splits: dict[str, Any], split: str, path: str) -> Any:
    if split not in splits:
        names = ", ".join(splits)
        raise DataError(
            f"no split '{split}' in the data set '{path}'",
            subject="data.split",
            details=[f"its splits: {names or 'none'}"],
            fix="choose one of them",
        )
    return splits[split]


def _library() -> Any:
    otherwise = "save the pictures as files and use the data folder"
    return extra("datasets", "data 'huggingface'", "data.name", "huggingface", otherwise, ConfigError)
