"""Sound: pieces of one length of the wav files in a folder."""

from __future__ import annotations

import hashlib
import os
import warnings
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from scipy.io import wavfile
from torch import Tensor

from gendiff.condition import Conditions
from gendiff.data import Data
from gendiff.datasets.column import Column
from gendiff.datasets.images import SHOWN, Mark, located, mark, missing, reason
from gendiff.errors import DataError, printable
from gendiff.shapes import EventShape
from gendiff.storage import reading

ENDINGS = (".wav", ".wave")
ENDS = 2**16  # bytes at each end of a file that are part of the fingerprint
ALLOWED = "a wav file of PCM or floating-point samples, or a folder with such files"
FIX = "convert it to PCM of 16 bits, or take it away"


@dataclass(frozen=True)
class Sounds:
    """The files that are long enough, by name; samples per second, channels, how many pieces there are up to each, its labels."""

    names: tuple[str, ...]
    marks: tuple[Mark, ...]
    rate: int
    channels: int
    ends: tuple[int, ...]
    label: Column | None
    skipped: tuple[tuple[str, str], ...]


class Wav(Data):
    """pieces of one length of the wav files in a folder, or of one file.

    Files end in wav or wave, at any depth, in the order of their paths; names that begin with a dot are passed over. Each is cut
    into pieces of ``samples`` samples, one every ``hop`` samples, from its beginning; what is left at its end is not used, and
    a file that is shorter than a piece is left out. An event is ``(C, samples)``.

    Samples of 8, 16, 24 or 32 bits become ``x = v/2^(bits-1)``, in [-1, 1); floating point is taken as it is, and refused
    outside of [-1, 1]. ``mono`` takes the mean of the channels. All files have one sample rate and number of channels.

    Where every file lies in one of at least two sub-folders, the sub-folder is the condition ``label``.

    Files are mapped into memory, not loaded, but for those of 24 bits. The fingerprint covers the names and sizes of all
    files, and the first and last 65536 bytes of each.

    Raises `DataError` naming the file that is missing, damaged or of another rate, `IndexError` outside 0..length-1.
    """

    name = "wav"

    path: Path = Field(description="the folder, or one file; ~ is your home")
    samples: int = Field(1024, ge=2, le=2**22, description="samples of a piece")
    hop: int | None = Field(None, ge=1, description="samples from the start of one to the next; by default no overlap")
    mono: bool = Field(False, description="the mean of the channels")

    @property
    def event_shape(self) -> EventShape:
        return (1 if self.mono else self._sounds.channels, self.samples)

    @property
    def length(self) -> int:
        return self._sounds.ends[-1]

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self._sounds.rate

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"piece {index} of {self.length}")
        number, start = self._place(index)
        file = self._file(self._sounds.names[number])
        try:
            v = _read(file, mark(file))[1][start : start + self.samples]
            if len(v) < self.samples:
                raise ValueError("it has become shorter")
            x = _scaled(v)
        except Exception as error:
            what = f"cannot read the sound '{self.origin(index)}'"
            raise DataError(what, where=str(file), details=[reason(error)], fix=FIX) from error
        x = x.reshape(len(x), -1)
        x = x.mean(1, keepdims=True) if self.mono else x
        return torch.from_numpy(np.ascontiguousarray(x.T, np.float32))

    @property
    def conditions(self) -> Conditions:
        label = self._sounds.label
        return {} if label is None else {"label": label.condition}

    def condition(self, index: int) -> Mapping[str, Any]:
        label = self._sounds.label
        return {} if label is None else {"label": label[self._place(index)[0]]}

    def origin(self, index: int) -> str:
        number, start = self._place(index)
        return f"{printable(self._sounds.names[number])}, from sample {start}"

    def entry(self, index: int) -> str:
        number, start = self._place(index)
        return f"{self._sounds.names[number]}/{start}"

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """``(name, reason)`` of every file that is shorter than a piece."""
        return self._sounds.skipped

    @cached_property
    def fingerprint(self) -> str:
        sounds = self._sounds
        digest = hashlib.sha256(f"{self.samples} {self._hop} {self.mono} {sounds.rate}".encode())
        for name in sounds.names:
            with reading.opened(self._file(name)) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                digest.update(
                    b"\0" + name.encode("utf-8", "surrogateescape") + f"\0{size}\0".encode() + file.read(ENDS)
                )
                file.seek(max(size - ENDS, 0))
                digest.update(file.read(ENDS))
        return f"wav/1 {self.length} pieces {sounds.rate} Hz {digest.hexdigest()[:16]}"

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        if path.is_file():
            with reading.opened(path) as file:
                start = file.read(12)
            return {"path": path} if start[:4] in (b"RIFF", b"RIFX", b"RF64") and start[8:] == b"WAVE" else None
        return {"path": path} if _names(path) else None

    @property
    def _hop(self) -> int:
        return self.hop or self.samples

    def _place(self, index: int) -> tuple[int, int]:
        """The number of the file of a piece, and the sample that it begins with."""
        ends = self._sounds.ends
        number = bisect_right(ends, index)
        return number, (index - (ends[number - 1] if number else 0)) * self._hop

    def _file(self, name: str) -> Path:
        root = located(self.path)
        return root if root.is_file() else root / name

    @cached_property
    def _sounds(self) -> Sounds:
        root = located(self.path)
        if not root.exists():
            raise missing(root, ALLOWED)
        names = [root.name] if root.is_file() else _names(root)
        if not names:
            raise DataError(
                f"no wav files in '{root}'",
                subject="data.path",
                details=[f"allowed: {ALLOWED}"],
                fix="give another folder",
            )
        abouts, bad = {}, []
        for name in names:
            file = self._file(name)
            try:
                abouts[name] = (mark(file), *_about(file))
            except Exception as error:
                bad.append(f"{printable(name)}: {reason(error)}")
        if bad:
            more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
            what = f"{len(bad)} of {len(names)} wav files cannot be read"
            raise DataError(what, where=str(root), details=[*bad[:SHOWN], *more], fix=FIX)
        return self._gathered(root, abouts)

    def _gathered(self, root: Path, abouts: Mapping[str, tuple[Mark, int, int, int]]) -> Sounds:
        (first, (_, rate, channels, _)), *others = abouts.items()
        for name, (_, other_rate, other_channels, _) in others:
            one, other, word, fix = rate, other_rate, "samples per second", "resample them to one rate"
            if one == other:
                one, other, word, fix = channels, other_channels, "channels", "set mono=true, or keep those of one kind"
            if one != other and not (self.mono and word == "channels"):
                details = [f"{printable(first)}: {one:,} {word}", f"{printable(name)}: {other:,} {word}"]
                raise DataError("the sounds are not of one kind", where=str(root), details=details, fix=fix)
        pieces = {
            name: 1 + (count - self.samples) // self._hop
            for name, (*_, count) in abouts.items()
            if count >= self.samples
        }
        if not pieces:
            longest = max(count for *_, count in abouts.values())
            raise DataError(
                f"no sound has {self.samples:,} samples",
                where=str(root),
                details=[f"the longest has {longest:,}, which are {longest / rate:.3g} s"],
                fix=f"set samples to at most {longest}",
                subject="data.samples",
            )
        skipped = [
            (name, f"{count:,} samples, fewer than {self.samples:,}")
            for name, (*_, count) in abouts.items()
            if name not in pieces
        ]
        marks = tuple(abouts[name][0] for name in pieces)
        ends, label = tuple(accumulate(pieces.values())), Column.of_folders(list(pieces))
        return Sounds(tuple(pieces), marks, rate, channels, ends, label, tuple(skipped))


def _names(folder: Path) -> list[str]:
    names = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(place).relative_to(folder)
        names += [
            (below / name).as_posix() for name in files if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    return sorted(names)


def _about(file: Path) -> tuple[int, int, int]:
    """Samples per second, channels and samples of a file; raises what is wrong with it."""
    rate, v = _read(file, mark(file))
    if not v.size:
        raise ValueError("there are no samples in it")
    return rate, 1 if v.ndim == 1 else v.shape[1], len(v)


@lru_cache(maxsize=64)
def _read(file: Path, mark: Mark) -> tuple[int, np.ndarray]:
    """Samples per second, and the samples ``(n,)`` or ``(n, C)`` as they are stored, mapped where they can be."""
    if mark[2] == 0:
        raise ValueError(reading.EMPTY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks with names and places, which are no samples
        try:
            rate, v = wavfile.read(file, mmap=True)
        except ValueError as error:
            if "mmap" not in str(error):
                raise
            rate, v = wavfile.read(file)
    return int(rate), v


def _scaled(v: np.ndarray) -> np.ndarray:
    """``[-1, 1)``, float64; 8 bits are stored without a sign, 24 bits as the upper ones of 32."""
    if v.dtype.kind == "u":
        return (v.astype(np.float64) - 128) / 128
    if v.dtype.kind == "i":
        return v.astype(np.float64) / 2.0 ** (8 * v.dtype.itemsize - 1)
    if not np.isfinite(v).all():
        raise ValueError("it holds values that are not finite")
    if np.abs(v).max() > 1:
        raise ValueError(f"it holds values up to {np.abs(v).max():g}; floating-point sound is in [-1, 1]")
    return v.astype(np.float64)
