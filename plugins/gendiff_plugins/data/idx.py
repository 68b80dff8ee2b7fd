"""The pictures of MNIST and of the sets that have its form."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from gendiff.condition import Condition, Conditions
from gendiff.data import Data
from gendiff.datasets.images import Mark, event_of, located, mark, missing, reason
from gendiff.errors import DataError
from gendiff.shapes import EventShape
from gendiff.storage.reading import hollow, inflated, opened

MAGIC = 0x00000803  # bytes, three axes
LABELS = 0x00000801  # bytes, one axis
NAMES = {"train": "train-images", "test": "t10k-images"}
MOST_BYTES = 2**31  # of pixels; MNIST has 47 million


class Idx(Data):
    """Pictures in one idx file per split, as MNIST has them."""

    folders: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    classes: ClassVar[tuple[str, ...]] = ()

    path: Path = Field(description="the folder with the published files; ~ is your home")
    split: Literal["train", "test"] = Field("train", description="train: 60 000 pictures; test: 10 000")

    @property
    def event_shape(self) -> EventShape:
        return (1, *self._pixels.shape[1:])

    @property
    def length(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"picture {index} of {self.length}")
        return event_of(self._pixels[index].copy())

    @property
    def conditions(self) -> Conditions:
        return {"label": Condition.label(self.classes)} if self._labels_file else {}

    def condition(self, index: int) -> Mapping[str, Any]:
        return {"label": int(self._labels[index])} if self._labels_file else {}

    @cached_property
    def fingerprint(self) -> str:
        shape = "x".join(map(str, self.event_shape))
        return f"{self.name}/1 {self.split} {self.length} {shape} {hashlib.sha256(self._pixels.tobytes()).hexdigest()[:16]}"

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        """The two sets have files of the same names: those with ``fashion`` in the last parts of their path are Fashion-MNIST."""
        fashion = any("fashion" in part.lower() for part in path.absolute().parts[-3:])
        anywhere = ("", "raw") if fashion == (cls.name == "fashion-mnist") else ()
        for split, name in NAMES.items():
            parameters = {} if split == "train" else {"split": split}
            if anywhere and path.name in _names(name) and path.is_file():
                return {"path": path.parent, **parameters}
            if any((path / below / file).is_file() for below in (*anywhere, cls.folders[0]) for file in _names(name)):
                return {"path": path, **parameters}
        return None

    @property
    def _pixels(self) -> np.ndarray:
        return _read(*self._file, self.source)

    @property
    def _labels(self) -> np.ndarray:
        assert self._labels_file is not None
        file, mark = self._labels_file
        labels = _read(file, mark, self.source, LABELS)
        if len(labels) != self.length or labels.max() >= len(self.classes):
            why = f"it holds {len(labels)} labels up to {labels.max()}, and there are {self.length} pictures"
            raise _damaged(file, ValueError(f"{why} of {len(self.classes)} classes"), self.source)
        return labels

    @cached_property
    def _labels_file(self) -> tuple[Path, Mark] | None:
        """The file of labels that lies beside that of the pictures, and what it was at first use; None where there is none."""
        beside, name = self._file[0].parent, NAMES[self.split].replace("images", "labels")
        file = next((file for one in _names(name, axes=1) if (file := beside / one).exists()), None)
        try:
            return None if file is None else (file, mark(file))
        except (OSError, ValueError) as error:
            raise _damaged(file or beside, error, self.source) from error

    @cached_property
    def _file(self) -> tuple[Path, Mark]:
        """The file, and what it was at first use."""
        file = _found(located(self.path), NAMES[self.split], self.folders, self.source)
        try:
            return file, mark(file)
        except (OSError, ValueError) as error:
            raise _damaged(file, error, self.source) from error


class Mnist(Idx):
    """the handwritten digits of MNIST, 1x28x28, from its own files.

    ``x = v/127.5 - 1`` for the 8-bit values v, so ink is 1, in the order of the file: ``train-images-idx3-ubyte`` for
    ``split=train``, ``t10k-images-idx3-ubyte`` for ``split=test``, as published, compressed (``.gz``) or not. The folder may
    also be the one that torchvision was given. The file is read into memory at first use. The condition ``label`` is the digit,
    where the file of labels, ``train-labels-idx1-ubyte`` or ``t10k-labels-idx1-ubyte``, lies beside that of the pictures.

    Raises `DataError` naming the file that is missing or damaged, `IndexError` outside 0..length-1.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits.
    """

    name = "mnist"
    classes = tuple("0123456789")
    folders = ("MNIST/raw", "raw")
    source = "https://ossci-datasets.s3.amazonaws.com/mnist/"


class FashionMnist(Idx):
    """the articles of clothing of Fashion-MNIST, 1x28x28, from its own files.

    Everything is as for MNIST, the names of the files too: give the folder that holds the files of Fashion-MNIST.

    Source: H. Xiao, K. Rasul, R. Vollgraf 2017, Fashion-MNIST, arXiv:1708.07747, licence MIT.
    """

    name = "fashion-mnist"
    classes = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    folders = ("FashionMNIST/raw", "raw")
    source = "https://github.com/zalandoresearch/fashion-mnist"


def _names(name: str, axes: int = 3) -> list[str]:
    return [f"{name}{dash}idx{axes}-ubyte{ending}" for dash in "-." for ending in ("", ".gz")]


def _found(path: Path, name: str, folders: tuple[str, ...], source: str) -> Path:
    names = _names(name)
    kind = f"a folder with {names[0]} or {names[1]}"
    if path.is_file():
        fix = f"give the folder that holds it, {path.parent}"
        raise DataError(f"'{path}' is a file", subject="data.path", details=[f"allowed: {kind}"], fix=fix)
    if not path.is_dir():
        raise missing(path, kind)
    for folder in (path, *(path / below for below in folders)):
        for file in (folder / name for name in names):
            if file.exists():
                return file
    what = f"no {names[0]} in '{path}'"
    raise DataError(what, subject="data.path", details=[f"allowed: {kind}"], fix=f"download it from {source}")


@lru_cache(maxsize=4)
def _read(file: Path, _: Mark, source: str, magic: int = MAGIC) -> np.ndarray:
    """All pixels, ``(n, H, W)``, or labels, ``(n,)``.

    Every component of this file in this process shares them, and forked processes do too.
    """
    try:
        size = file.stat().st_size
        if size == 0:
            raise ValueError("the file is empty (0 bytes)")
        with opened(file) as content:
            is_gzip = content.read(2) == b"\x1f\x8b"
            content.seek(0)
            if hollow(content, size):
                raise ValueError("there is next to nothing in it but a hole")
            if not is_gzip:
                return _parsed(content, size, magic)
            with gzip.GzipFile(fileobj=content) as stream:
                return _parsed(stream, inflated(size), magic)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise _damaged(file, error, source) from error


def _parsed(content: BinaryIO | gzip.GzipFile, most: int, magic: int = MAGIC) -> np.ndarray:
    """The pixels or labels of an idx file that can hold ``most`` bytes; raises `ValueError` saying what is wrong."""
    bytes_of_header = 4 * (1 + magic % 256)
    header = content.read(bytes_of_header)
    if len(header) < bytes_of_header:
        raise ValueError(f"{len(header)} bytes are less than a header")
    start, *shape = np.frombuffer(header, ">u4").tolist()
    what = "pictures" if magic == MAGIC else "labels"
    if start != magic:
        raise ValueError(f"it starts with 0x{start:08x}, and {what} in idx form start with 0x{magic:08x}")
    of = f" of {shape[1]}x{shape[2]} pixels" if magic == MAGIC else ""
    claim, size = f"its header tells of {shape[0]} {what}{of}", math.prod(shape)
    if size == 0:
        raise ValueError(claim)
    if size > min(most - bytes_of_header, MOST_BYTES):
        raise ValueError(f"{claim}, more than the file can hold")
    pixels = bytearray()  # it grows with what is there, whatever the header says
    while len(pixels) < size and (part := content.read(min(size - len(pixels), 2**20))):
        pixels += part
    if len(pixels) < size or content.read(1):
        raise ValueError(f"{claim}, and {'less' if len(pixels) < size else 'more'} than these follow")
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _damaged(file: Path, error: Exception, source: str) -> DataError:
    what = f"cannot read the idx file '{file.name}'"
    return DataError(what, where=str(file), details=[reason(error)], fix=f"download it again from {source}")
