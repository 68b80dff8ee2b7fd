"""Drawn: events that are written as they come, in any order, by several processes, and gone on with where that ended.

They lie in numbered files, which every tool reads, or in one array, which tens of thousands of them are better kept in.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendiff.datasets import pictures
from gendiff.shapes import EventShape
from gendiff.storage import disk

FILES, ARRAY, DONE = "events", "events.npy", ".events.done"
NUMBERED = re.compile(r"\d{6,}\.(png|npy)")


class Drawn(ABC):
    """Where events are put and read back; `open` may be called by several processes on one directory."""

    @abstractmethod
    def has(self, number: int) -> bool:
        """Whether an event is there, and whole."""

    @abstractmethod
    def put(self, number: int, event: Tensor, text: str = "") -> None:
        """Write it, with a caption where its form has one."""

    @abstractmethod
    def read(self, number: int) -> Tensor:
        """An event that is there; pictures within their 8 bits."""

    @abstractmethod
    def close(self) -> None:
        """All are there: nothing else is to be left."""


class DrawnFiles(Drawn):
    """PNG for grey and RGB pictures, ``.npy`` for anything else, one file an event."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FILES
        self.folder.mkdir(exist_ok=True)

    def has(self, number: int) -> bool:
        return any((self.folder / f"{number:06d}{end}").is_file() for end in (".png", ".npy"))

    def put(self, number: int, event: Tensor, text: str = "") -> None:
        pictures.save_event(self.folder, number, event, text)

    def read(self, number: int) -> Tensor:
        return pictures.read_event(self.folder, number)

    def close(self) -> None:
        for path in self.folder.iterdir():
            if not NUMBERED.fullmatch(path.name):  # a file that was half written when somebody was killed
                path.unlink()


class DrawnArray(Drawn):
    """One array ``(n, *event)``: bytes 0..255 for pictures, float32 for anything else.

    Args:
        fresh: make it where it is not there, in the one process that does.
        is_picture: whether events are within [-1, 1], and are kept in 8 bits.

    """

    def __init__(self, folder: Path, n: int, event_shape: EventShape, is_picture: bool, fresh: bool) -> None:
        self.file, self.marks = folder / ARRAY, folder / DONE
        shape, self.dtype = (n, *event_shape), np.dtype(np.uint8 if is_picture else np.float32)
        if fresh and not (self.file.exists() and self.marks.exists()):
            with disk.writing(self.file):
                np.lib.format.open_memmap(self.file, "w+", self.dtype, shape).flush()
                np.memmap(self.marks, np.uint8, "w+", shape=(n,)).flush()
        self.values = np.load(self.file, mmap_mode="r+", allow_pickle=False)
        self.done = np.memmap(self.marks, np.uint8, "r+", shape=(n,))

    def has(self, number: int) -> bool:
        return bool(self.done[number])

    def put(self, number: int, event: Tensor, text: str = "") -> None:
        picture = self.dtype == np.uint8
        self.values[number] = pictures.to_uint8(event).numpy() if picture else event.detach().cpu().float().numpy()
        self.done[number] = 1  # after the values: of a process that is killed both are kept, in this order

    def read(self, number: int) -> Tensor:
        event = torch.from_numpy(np.array(self.values[number]))
        return event.float() / 127.5 - 1 if self.dtype == np.uint8 else event

    def close(self) -> None:
        self.values.flush()
        self.marks.unlink(missing_ok=True)
