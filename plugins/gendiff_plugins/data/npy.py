"""Pictures in one NumPy array."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.condition import Conditions
from gendiff.data import Data
from gendiff.datasets.column import Column
from gendiff.datasets.images import Mark, as_bytes, event_of, located, mark, missing, reason
from gendiff.errors import OBJECTS, DataError
from gendiff.shapes import EventShape
from gendiff.storage import arrays, reading
from gendiff.storage.arrays import header as array_header

LAYOUTS = ("nhw", "nhwc", "nchw")
FEW = 4  # channels that a picture has at most where the layout is not given
HASHED_WHOLE = 2**30  # bytes; of a larger array the fingerprint covers parts
PARTS, PART = 4096, 2**16
LOOKED = 64  # events whose values are looked at for their range
ROUNDING = 1e-5  # how far values may lie outside, as a fraction of the bounds
FIX = "write it again with numpy.save"


class Npy(Data):
    """the pictures of one NumPy array, in a file made by numpy.save.

    The array has three axes, (n, height, width), or four; which of the four are the channels is told by ``layout``, ``nhwc`` or
    ``nchw``. Without it, the channels are the axis that is at most 4, the last or the second; where both are or neither is,
    `DataError` asks for ``layout``. Events are ``(C, H, W)``.

    Values are 8 bits, or floating point of any precision. ``bounds`` are the values that become -1 and 1, by default 0 and 255
    for 8 bits (``x = v/127.5 - 1``) and -1 and 1 for floating point. An event with values outside or not finite is a damaged one.
    A warning says where values of an array without ``bounds`` all lie in [0, 1], for they are taken for grey and white.

    The file is mapped into memory, not loaded: an event is read when it is wanted, and the array may be larger than memory.
    Objects are never unpickled. The fingerprint covers every value, but only 4096 parts spread over an array of more than a
    gigabyte.

    ``labels`` is a second file of `numpy.save` with an entry for each picture: whole numbers (n,) are the condition ``label``,
    classes that are counted from 0; floating point (n,) or (n, k) the condition ``vector``, of k numbers in the range that they
    have in the file.

    Raises `DataError` naming the file and the event that is damaged, `IndexError` outside 0..length-1.
    """

    name = "npy"

    path: Path = Field(description="the file; ~ is your home")
    layout: Literal["auto", "nhw", "nhwc", "nchw"] = Field(
        "auto", description="what the axes are: n pictures, h rows, w columns, c channels; auto: see above"
    )
    bounds: tuple[float, float] | None = Field(
        None, description="values that become [-1, 1]; by default [0, 255] for 8 bits and [-1, 1] for floating point"
    )

    labels: Path | None = Field(
        None, description="a file with a label of each picture, whole numbers, or a vector, floating point"
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError("bounds are [low, high], and low is less than high")
        return self

    @property
    def event_shape(self) -> EventShape:
        _, *shape = self._array.shape
        layout = self._layout
        return (1, *shape) if layout == "nhw" else (shape[-1], *shape[:-1]) if layout == "nhwc" else tuple(shape)

    @property
    def length(self) -> int:
        return len(self._array)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"picture {index} of {self.length}")
        try:
            v = np.array(self._array[index])
            if self._layout == "nchw":
                v = v.transpose(1, 2, 0).copy()
            if v.dtype == np.uint8 and self.bounds in (None, (0, 255)):
                return event_of(v)
            return self._scaled(v)
        except (OSError, ValueError) as error:
            what = f"cannot use picture {index} of '{self._file.name}'"
            fix = "correct the array, or set bounds to its least and greatest possible value"
            raise DataError(what, where=str(self._file), details=[reason(error)], fix=fix) from error

    @property
    def conditions(self) -> Conditions:
        return {} if self.labels is None else {self._told[0]: self._told[1].condition}

    def condition(self, index: int) -> Mapping[str, Any]:
        return {} if self.labels is None else {self._told[0]: self._told[1][index]}

    @property
    def _told(self) -> tuple[str, Column]:
        """The condition in the second file, and its name."""
        assert self.labels is not None
        file = located(self.labels)
        try:
            column = _column(file, mark(file), self.length)
        except FileNotFoundError as error:
            raise missing(file, "a file made by numpy.save", "data.labels") from error
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot use '{file.name}' as the labels of '{self._file.name}'",
                where=str(file),
                details=[reason(error)],
                fix="write one entry for each picture with numpy.save: integers from 0 are labels, floats vectors",
                subject="data.labels",
            ) from error
        return ("label" if column.condition.type == "label" else "vector"), column

    def _scaled(self, v: np.ndarray) -> Tensor:
        low, high = self.bounds or ((0, 255) if v.dtype == np.uint8 else (-1, 1))
        v = v.astype(np.float64)
        if not np.isfinite(v).all():
            raise ValueError("it holds values that are not finite")
        if v.min() < low - ROUNDING * (high - low) or v.max() > high + ROUNDING * (high - low):
            raise ValueError(f"it holds values from {v.min():g} to {v.max():g}, outside the bounds {low:g} to {high:g}")
        x = torch.from_numpy(2 * (v - low) / (high - low) - 1).clamp(-1, 1).to(torch.float32)
        return x.reshape(*v.shape[:2], -1).permute(2, 0, 1).contiguous()

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._array.dtype.str} {self._array.shape} {self._layout} {self.bounds}".encode())
        try:
            with self._file.open("rb") as file:
                size = self._array.nbytes
                digest.update(f" {np.isfortran(self._array)}".encode())
                file.seek(start := self._array.offset)
                if size <= HASHED_WHOLE:
                    while part := file.read(2**20):
                        digest.update(part)
                else:
                    for number in range(PARTS):
                        file.seek(start + number * (size - PART) // (PARTS - 1))
                        digest.update(file.read(PART))
        except OSError as error:
            raise _damaged(self._file, error) from error
        self._remark_range()
        return f"npy/1 {self.length} {'x'.join(map(str, self.event_shape))} {digest.hexdigest()[:16]}"

    def _remark_range(self) -> None:
        """Warn where values look like those between 0 and 1, and are taken for those between -1 and 1."""
        if self.bounds is not None or self._array.dtype == np.uint8:
            return
        some = np.stack([self._array[index] for index in self.spread(LOOKED)])
        low, high = float(some.min()), float(some.max())  # NaN compares as false, and is refused with its event
        if low >= 0 and 0.5 < high <= 1 + ROUNDING:
            warnings.warn(
                f"the values of '{self.path}' lie in {low:.3g}..{high:.3g}, and -1 is black: where 0 is black, write "
                f"npy:path={self.path},bounds=[0,1]",
                stacklevel=3,
            )

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        if not path.is_file():
            return None
        with reading.opened(path) as file:
            if file.read(6) != b"\x93NUMPY":
                return None
            file.seek(0)
            return {"path": path} if are_pictures(file, path.stat().st_size) else None

    @cached_property
    def _file(self) -> Path:
        return located(self.path)

    @property
    def _array(self) -> np.memmap:
        # Asked each time, because to touch a map of a file that has become shorter ends the process.
        try:
            return _mapped(self._file, mark(self._file))
        except FileNotFoundError as error:
            raise missing(self._file, "a file made by numpy.save") from error
        except (OSError, ValueError) as error:
            raise _damaged(self._file, error) from error

    @property
    def _layout(self) -> str:
        shape = self._array.shape
        if self.layout != "auto":
            if len(self.layout) != len(shape):
                raise self._unclear(f"the layout {self.layout} has {len(self.layout)} axes, the array {len(shape)}")
            return self.layout
        if len(shape) == 3:
            return "nhw"
        last, second = shape[3] <= FEW, shape[1] <= FEW
        if last == second:
            raise self._unclear("which axis holds the channels is not clear")
        return "nhwc" if last else "nchw"

    def _unclear(self, what: str) -> DataError:
        details = [f"'{self._file}' has the shape {self._array.shape}", f"allowed: {', '.join(LAYOUTS)}"]
        return DataError(what, subject="data.layout", details=details, fix="set layout to what the axes are")


def are_pictures(file: BinaryIO, size: int) -> bool:
    """Whether an array looks like pictures by its header; signals ``(n, L)``, ``(n, C, L)`` and volumes are read by ``array``.

    What is damaged counts as pictures: what is wrong with it is said where it is read.
    """
    try:
        header = array_header(file, size)
    except ValueError:
        return True
    shape = header.shape
    is_signal = len(shape) == 3 and shape[1] <= FEW < shape[2] and header.dtype != np.uint8
    return len(shape) not in (2, 5) and not is_signal


@lru_cache(maxsize=8)
def _mapped(file: Path, mark: Mark) -> np.memmap:
    """The array, whose header has been checked against the file; a process that is forked may go on using the map."""
    size = mark[2]
    with reading.opened(file) as content:
        start = content.read(8)
        content.seek(0)
        if not start.startswith(b"\x93NUMPY"):
            kind = "a zip archive, as numpy.savez makes" if start.startswith(b"PK") else "another kind of file"
            raise ValueError(reading.EMPTY if size == 0 else f"not an array in npy form, but {kind}")
        header = array_header(content, size)
        if reading.hollow(content, size):
            raise ValueError("there is next to nothing in it but a hole")
    shape, dtype = header.shape, header.dtype
    if dtype != np.uint8 and dtype.kind != "f":
        why = OBJECTS if dtype.hasobject else f"it holds {dtype}, and allowed are uint8 and floating point"
        raise _WrongType(why, FIX if dtype.hasobject else f"convert it, and write it again: {as_bytes(dtype)}")
    if len(shape) not in (3, 4) or min(shape) < 1:
        nothing = "there is nothing in it: " if 0 in shape else ""
        raise ValueError(
            f"{nothing}it has the shape {shape}, and allowed are (n, H, W), (n, H, W, C) and (n, C, H, W); "
            "signals and volumes are read by the data array"
        )
    return np.memmap(file, dtype, "r", header.offset, shape, "F" if header.fortran else "C")


@lru_cache(maxsize=8)
def _column(file: Path, mark: Mark, count: int) -> Column:
    values = arrays.npy(file)
    if values.ndim > 2:
        raise ValueError(f"it has the shape {values.shape}; allowed: (n,) and (n, k)")
    return Column.of(values, count)


class _WrongType(ValueError):
    """An array of numbers that are no pictures; ``fix`` says how they become some."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


def _damaged(file: Path, error: Exception) -> DataError:
    fix = error.fix if isinstance(error, _WrongType) else FIX
    return DataError(f"cannot read the array '{file.name}'", where=str(file), details=[reason(error)], fix=fix)
