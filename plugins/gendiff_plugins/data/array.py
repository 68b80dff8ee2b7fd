"""Signals, fields and volumes: one array of numbers in any of four kinds of file."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.condition import Conditions
from gendiff.data import Data
from gendiff.datasets.column import Column
from gendiff.datasets.images import Mark, located, mark, missing, reason
from gendiff.errors import ConfigError, DataError, GendiffError
from gendiff.extra import extra
from gendiff.shapes import EventShape
from gendiff.storage import arrays, reading
from gendiff_plugins.data.npy import are_pictures

LAYOUTS = ("nl", "ncl", "nhw", "nchw", "nhwc", "ndhw", "ncdhw")
FEW = 4  # channels that an event has at most where the layout is not given
HASHED_WHOLE = 2**30  # bytes; of a larger array the fingerprint covers some events
SAMPLED = 1024
CHUNK = 2**22  # values that are looked at, at a time
ROUNDING = 1e-5  # how far values may lie outside, as a fraction of the bounds
HDF5 = b"\x89HDF\r\n\x1a\n"
ZARR = ("zarr.json", ".zarray", ".zgroup")
LISTED = 12  # names of arrays in one message
ALLOWED = "a file of numpy.save (.npy) or numpy.savez (.npz), an HDF5 file, or a Zarr folder"


class Array(Data):
    """signals, fields or volumes: one array in npy, npz, HDF5 or Zarr.

    The first axis counts events. ``layout`` says what the others are: ``nl`` and ``ncl`` are signals ``(C, L)``, ``nhw``,
    ``nchw`` and ``nhwc`` fields ``(C, H, W)``, ``ndhw`` and ``ncdhw`` volumes ``(C, D, H, W)``. Without it two axes are ``nl``,
    five ``ncdhw``; three are ``ncl`` and four ``nchw`` where the second axis is at most 4 and the last is larger, three are
    ``nhw`` where all are larger; what is not clear is asked for.

    Numbers may be of any real type. ``scale`` says what they become, for each channel by itself:

    * ``standard``: ``x = (v - mean)/std``, with mean and standard deviation of all values. Unbounded.
    * ``range``: ``x = 2(v - low)/(high - low) - 1``, in [-1, 1], with ``bounds`` where they are given, and otherwise the least
      and greatest of all values.
    * ``none``: ``x = v``. Unbounded.

    `scaling` are the shift and the factor of each channel, ``v = shift + factor x``, which the fingerprint covers. To find them
    every value is read once. Values that are not finite are refused, with the event.

    Events are read when they are wanted: an npy file and what `numpy.savez` stored are mapped into memory, of HDF5 and Zarr the
    chunks are read that hold an event; an array of `numpy.savez_compressed` is loaded whole. Where a file holds several arrays
    ``key`` names one. ``label`` names another with an entry for each event: whole numbers (n,) are the condition ``label``,
    floating point (n,) or (n, k) the condition ``vector``. The fingerprint covers every value, of more than a gigabyte 1024
    events.

    HDF5 needs the library h5py, Zarr the library zarr, which is `ConfigError` where it is not installed. Raises `DataError`
    naming the file and the event that is damaged, `IndexError` outside 0..length-1.
    """

    name = "array"

    path: Path = Field(description="the file, or the Zarr folder; ~ is your home")
    key: str = Field("", description="the array, where there are several: its name, in HDF5 and Zarr with its groups")
    layout: Literal["auto", "nl", "ncl", "nhw", "nchw", "nhwc", "ndhw", "ncdhw"] = Field(
        "auto", description="what the axes are: n events, c channels, l samples, d slices, h rows, w columns"
    )
    scale: Literal["standard", "range", "none"] = Field(
        "standard", description="standard: mean 0 and std 1 of each channel; range: to [-1, 1]; none: as they are"
    )
    bounds: tuple[float, float] | None = Field(None, description="values that become [-1, 1], for scale=range")
    label: str = Field("", description="another array of the file, with a class or numbers for each event")

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError("bounds are [low, high], and low is less than high")
        if self.bounds is not None and self.scale != "range":
            raise ValueError(f"bounds are for scale=range, and scale is {self.scale}")
        return self

    @property
    def value_range(self) -> tuple[float, float] | None:  # type: ignore[override]  # a constant of other data
        return (-1.0, 1.0) if self.scale == "range" else None

    @property
    def event_shape(self) -> EventShape:
        shape, layout = self._array.shape[1:], self._layout
        if "c" not in layout:
            return (1, *shape)
        return (shape[-1], *shape[:-1]) if layout == "nhwc" else tuple(shape)

    @property
    def length(self) -> int:
        return int(self._array.shape[0])

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"event {index} of {self.length}")
        shift, factor = (part.reshape(-1, *[1] * (len(self.event_shape) - 1)) for part in self._moved)
        try:
            v = self._values(index, index + 1)[0]
            if self.bounds is not None:
                _check_inside(v, self.bounds)
            x = (v - shift) / factor
        except GendiffError:
            raise
        except Exception as error:
            raise self._damaged(f"cannot use event {index} of '{self._root.name}'", error) from error
        if self.scale == "range":
            x = x.clip(-1, 1)
        return torch.from_numpy(np.ascontiguousarray(x, np.float32))

    @property
    def conditions(self) -> Conditions:
        return {name: column.condition for name, column in self._told.items()}

    def condition(self, index: int) -> Mapping[str, Any]:
        return {name: column[index] for name, column in self._told.items()}

    @property
    def scaling(self) -> tuple[Tensor, Tensor]:
        """Shift and factor of each channel, float64 ``(C,)``: ``v = shift + factor x`` are the values of the file."""
        shift, factor = self._moved
        return torch.from_numpy(shift.copy()), torch.from_numpy(factor.copy())

    @cached_property
    def fingerprint(self) -> str:
        shape, (shift, factor) = self.event_shape, self._moved
        digest = hashlib.sha256(f"{self._array.dtype.str} {self._array.shape} {self._layout} {self.scale}".encode())
        digest.update(np.stack([shift, factor]).astype("<f8").tobytes())
        digest.update(bytes.fromhex(self._content_digest))
        return f"array/1 {self.length} {'x'.join(map(str, shape))} {self.scale} {digest.hexdigest()[:16]}"

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        if path.is_dir():
            return {"path": path} if any((path / name).is_file() for name in ZARR) else None
        if not path.is_file():
            return None
        with reading.opened(path) as file:
            start = file.read(8)
            file.seek(0)
            if start.startswith(b"\x93NUMPY"):
                return None if are_pictures(file, path.stat().st_size) else {"path": path}
        is_npz = start.startswith(b"PK\x03\x04") and path.suffix.lower() == ".npz"
        return {"path": path} if start == HDF5 or is_npz else None

    # --- the file ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _root(self) -> Path:
        return located(self.path)

    @property
    def _source(self) -> tuple[Path, tuple[Mark, ...]]:
        """What is read, and what it was when it was asked for."""
        try:
            if not self._root.is_dir():
                return self._root, (mark(self._root),)
            metadata = [self._root / name for name in ZARR if (self._root / name).is_file()]
            if not metadata:
                raise ValueError("a folder with none of " + ", ".join(ZARR))
            return self._root, tuple(mark(file) for file in metadata)
        except FileNotFoundError as error:
            raise missing(self._root, ALLOWED) from error
        except (OSError, ValueError) as error:
            raise self._damaged(f"cannot read '{self._root.name}'", error) from error

    @property
    def _array(self) -> Any:
        try:
            array = _opened(*self._source, self.key, os.getpid())
            _check_numbers(array)
            return array
        except GendiffError:
            raise
        except _NoSuchArray as error:
            raise DataError(
                f"{error} in '{self._root.name}'",
                subject="data.key",
                details=[f"its arrays: {error.listed}"],
                fix="set key to one of them" if error.names else "write an array of numbers",
            ) from error
        except Exception as error:
            raise self._damaged(f"cannot read the array in '{self._root.name}'", error) from error

    @property
    def _told(self) -> Mapping[str, Column]:
        if not self.label:
            return {}
        try:
            column = _column(*self._source, self.label, self.length)
        except GendiffError:
            raise
        except Exception as error:
            details = [f"its arrays: {error.listed}"] if isinstance(error, _NoSuchArray) else [reason(error)]
            raise DataError(
                f"cannot use '{self.label}' as the labels of '{self._root.name}'",
                subject="data.label",
                details=details,
                fix="name an array of the file with one entry for each event: integers from 0 are labels, floats vectors",
            ) from error
        return {"label" if column.condition.type == "label" else "vector": column}

    @property
    def _layout(self) -> str:
        shape = tuple(self._array.shape)
        if self.layout != "auto":
            if len(self.layout) != len(shape):
                self._unclear(f"the layout {self.layout} has {len(self.layout)} axes, the array {len(shape)}")
            return self.layout
        few = [size <= FEW for size in shape]
        if len(shape) == 2:
            return "nl"
        if len(shape) == 5:
            return "ncdhw"
        if len(shape) == 3 and not few[2]:
            return "ncl" if few[1] else "nhw"
        if len(shape) == 4 and few[1] and not few[3]:
            return "nchw"
        if len(shape) == 4 and few[3] and not few[1]:
            return "nhwc"
        if len(shape) not in (3, 4):
            self._unclear("an array of events has two to five axes")
        self._unclear("what its axes are is not clear")

    def _unclear(self, what: str) -> NoReturn:
        shape = tuple(self._array.shape)
        fitting = [layout for layout in LAYOUTS if len(layout) == len(shape)]
        details = [f"'{self._root}' has the shape {shape}", f"allowed: {', '.join(fitting or LAYOUTS)}"]
        fix = "set layout to what the axes are" if fitting else "write it with one axis of events before the others"
        raise DataError(what, subject="data.layout", details=details, fix=fix)

    # --- the values -------------------------------------------------------------------------------------------------------

    def _values(self, start: int, stop: int) -> np.ndarray:
        """Some events as they are in the file, float64 ``(n, C, *spatial)``; raises `ValueError` where any is not finite."""
        v = np.asarray(self._array[start:stop], np.float64)
        for number, event in enumerate(v):
            if bad := int((~np.isfinite(event)).sum()):
                raise ValueError(f"event {start + number}: {bad:,} of its {event.size:,} values are not finite")
        v = v.reshape(len(v), *v.shape[1:])
        if "c" not in self._layout:
            return v[:, None]
        return np.moveaxis(v, -1, 1) if self._layout == "nhwc" else v

    @cached_property
    def _moved(self) -> tuple[np.ndarray, np.ndarray]:
        channels = self.event_shape[0]
        if self.scale == "none":
            return np.zeros(channels), np.ones(channels)
        if self.bounds is not None:
            low, high = self.bounds
            return np.full(channels, (low + high) / 2), np.full(channels, (high - low) / 2)
        extents = _extents(self, self._source, self.key, self._layout)
        shift, factor = (
            (extents.mean, extents.std)
            if self.scale == "standard"
            else ((extents.least + extents.greatest) / 2, (extents.greatest - extents.least) / 2)
        )
        if not (factor > 0).all():
            channel = int(np.argmin(factor))
            raise DataError(
                f"all values of channel {channel} of '{self._root.name}' are {extents.least[channel]:g}",
                where=str(self._root),
                details=[f"scale={self.scale} divides by how far they differ"],
                fix="leave that channel out, or set scale=none",
            )
        return shift, factor

    @property
    def _content_digest(self) -> str:
        return _digest(self, self._source, self.key)

    def _damaged(self, what: str, error: Exception) -> DataError:
        text = str(error)
        fix = "correct the array, or leave that event out"
        if "outside the bounds" in text:
            fix = "correct the array, or set bounds to its least and greatest possible value"
        elif not isinstance(error, ValueError) or "finite" not in text:
            fix = "write it again"
        return DataError(what, where=str(self._root), details=[reason(error), *self._allowed(text)], fix=fix)

    def _allowed(self, text: str) -> list[str]:
        return [] if "finite" in text or "outside" in text else [f"allowed: {ALLOWED}"]


# --- what is in a file ------------------------------------------------------------------------------------------------


class _NoSuchArray(ValueError):
    """No array of the wanted name, or several and no name; ``names`` are there."""

    def __init__(self, what: str, names: Sequence[str]) -> None:
        super().__init__(what)
        self.names = names
        more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
        self.listed = (", ".join(names[:LISTED]) or "none") + more


def _chosen(names: Sequence[str], key: str) -> str:
    if key:
        if key.strip("/") not in names:
            raise _NoSuchArray(f"no array '{key}'", names)
        return key.strip("/")
    if len(names) != 1:
        raise _NoSuchArray("more than one array" if names else "no array", names)
    return names[0]


@lru_cache(maxsize=8)
def _opened(path: Path, marks: tuple[Mark, ...], key: str, process: int) -> Any:
    """The array, once per process: libraries keep positions and locks that a fork would share."""
    if path.is_dir():
        return _in_zarr(path, key)
    with reading.opened(path) as file:
        start = file.read(8)
        if not start:
            raise ValueError(reading.EMPTY)
        file.seek(0)
        if start.startswith(b"\x93NUMPY"):
            header = arrays.header(file, marks[0][2])
            if reading.hollow(file, marks[0][2]):
                raise ValueError("there is next to nothing in it but a hole")
            if key:
                raise _NoSuchArray(f"no array '{key}': an npy file holds one without a name", [])
            return _mapped(path, header, header.offset)
    if start == HDF5:
        return _in_hdf5(path, key)
    if start.startswith(b"PK"):
        return _in_npz(path, key)
    raise ValueError("it is of none of these kinds")


def _mapped(path: Path, header: arrays.Header, offset: int) -> np.ndarray:
    if 0 in header.shape:
        return np.empty(header.shape, header.dtype)
    return np.memmap(path, header.dtype, "r", offset, header.shape, "F" if header.fortran else "C")


def _in_npz(path: Path, key: str) -> np.ndarray:
    """What is stored is mapped, what is compressed is loaded."""
    with reading.archive(path) as archive:
        content = arrays.Arrays(archive)
        key = _chosen(content.names, key)
        info = reading.sound(archive.getinfo(f"{key}.npy"))
        header = content.header(key)
        if info.compress_type:
            return content[key]
        with reading.opened(path) as file:
            file.seek(info.header_offset)
            local = file.read(30)
        start = (
            info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        )
        if start + header.offset + header.size > path.stat().st_size:
            raise ValueError("it ends before its values do")
        return _mapped(path, header, start + header.offset)


def _in_hdf5(path: Path, key: str) -> Any:
    h5py = extra("h5py", "data 'array'", "data.name", "hdf5", "write the array with numpy.save", ConfigError)
    file = h5py.File(path, "r")
    names: list[str] = []

    def note(name: str, thing: Any) -> None:
        if isinstance(thing, h5py.Dataset) and (key or len(thing.shape or ()) > 1):
            names.append(name)

    file.visititems(note)
    return file[_chosen(names, key)]


def _in_zarr(path: Path, key: str) -> Any:
    zarr = extra("zarr", "data 'array'", "data.name", otherwise="write the array with numpy.save", error=ConfigError)
    root = zarr.open(str(path), mode="r")
    if not hasattr(root, "arrays"):
        if key:
            raise _NoSuchArray(f"no array '{key}': the folder is one array without a name", [])
        return root
    names: list[str] = []
    groups = [("", root)]
    while groups:
        place, group = groups.pop()
        names += [place + name for name, one in group.arrays() if key or one.ndim > 1]
        groups += [(f"{place}{name}/", one) for name, one in group.groups()]
    return root[_chosen(sorted(names), key)]


def _check_numbers(array: Any) -> None:
    kind = np.dtype(array.dtype).kind
    if kind not in "fiub":
        what = "complex numbers: write real and imaginary parts as two channels" if kind == "c" else f"{array.dtype}"
        raise ValueError(f"it holds {what}; events are real numbers")
    if min(array.shape, default=0) < 1:
        raise ValueError(f"there is nothing in it: it has the shape {tuple(array.shape)}")


def _check_inside(v: np.ndarray, bounds: tuple[float, float]) -> None:
    low, high = bounds
    slack = ROUNDING * (high - low)
    if v.min() < low - slack or v.max() > high + slack:
        raise ValueError(f"it holds values from {v.min():g} to {v.max():g}, outside the bounds {low:g} to {high:g}")


@dataclass(frozen=True, eq=False)
class Extents:
    """Mean, standard deviation, least and greatest of all values of each channel, float64 ``(C,)``."""

    mean: np.ndarray
    std: np.ndarray
    least: np.ndarray
    greatest: np.ndarray


_KNOWN: dict[Any, Any] = {}  # by file, as it was, and array: a process that is forked has them already


def _extents(data: Array, source: Any, key: str, layout: str) -> Extents:
    known = ("extents", source, key, layout)
    if known not in _KNOWN:
        count, mean, scatter = 0, np.zeros(data.event_shape[0]), np.zeros(data.event_shape[0])
        least, greatest = np.full_like(mean, np.inf), np.full_like(mean, -np.inf)
        for start, stop in _pieces(data):
            try:
                v = np.moveaxis(data._values(start, stop), 1, 0).reshape(len(mean), -1)
            except ValueError as error:
                raise data._damaged(f"cannot use the array in '{data._root.name}'", error) from error
            new = v.mean(1)
            total = count + v.shape[1]
            scatter += ((v - new[:, None]) ** 2).sum(1) + (new - mean) ** 2 * (count * v.shape[1] / total)
            mean = mean + (new - mean) * (v.shape[1] / total)
            count = total
            least, greatest = np.minimum(least, v.min(1)), np.maximum(greatest, v.max(1))
        _KNOWN[known] = Extents(mean, np.sqrt(scatter / count), least, greatest)
    result: Extents = _KNOWN[known]
    return result


def _digest(data: Array, source: Any, key: str) -> str:
    known = ("digest", source, key)
    if known not in _KNOWN:
        array, digest = data._array, hashlib.sha256()
        whole = math.prod(array.shape) * array.dtype.itemsize <= HASHED_WHOLE
        pieces = _pieces(data) if whole else [(index, index + 1) for index in data.spread(SAMPLED)]
        for start, stop in pieces:
            digest.update(np.ascontiguousarray(array[start:stop]).tobytes())
        _KNOWN[known] = digest.hexdigest()
    result: str = _KNOWN[known]
    return result


def _pieces(data: Array) -> list[tuple[int, int]]:
    step = max(1, CHUNK // math.prod(data.event_shape))
    return [(start, min(start + step, data.length)) for start in range(0, data.length, step)]


@lru_cache(maxsize=8)
def _column(path: Path, marks: tuple[Mark, ...], label: str, count: int) -> Column:
    return Column.of(np.asarray(_opened(path, marks, label, os.getpid())[...]), count)
