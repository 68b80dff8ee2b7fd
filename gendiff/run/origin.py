"""Origin: what made a folder of samples or a picture, read back wherever the file went.

`gendiff sample` writes it as ``sample.json`` into its folder and into each PNG and GIF; the previews of a training carry it too.
It says the run and its weights, the process, how the chain was run, on what, with which versions, and the command.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gendiff.errors import DataError, shown
from gendiff.plain import finite, json_object, json_text
from gendiff.storage import reading
from gendiff.storage.caption import caption
from gendiff.storage.files import put

FILE = "sample.json"
FORMAT = 1
FIX = "give the folder or a picture as gendiff sample drew it: editors and web pages often drop the text"
LONGEST = 4000  # characters of a text
#: What each origin says, and what JSON has for it.
PARTS: dict[str, Any] = {
    "run": dict,
    "step": int,
    "weights": dict,
    "process": dict,
    "objective": dict,
    "model": dict,
    "sampler": dict,
    "seed": int,
    "precision": str,
    "device": str,
    "versions": dict,
    "plugins": dict,
    "command": str,
}


@dataclass(frozen=True)
class Origin:
    """What made samples.

    Args:
        facts: ``run`` (id, name), ``step`` of the checkpoint, ``weights`` (kind ``averaged`` or ``raw``, decay, hash),
            ``process``, ``objective``, ``model``, ``data``, ``sampler`` (spec, steps, evaluations, grid, prior), ``seed``,
            ``n`` of a folder or ``image`` of a single picture, ``precision``, ``device``, ``versions``, ``plugins`` that are not
            gendiff's own, and ``command``, which draws the same again.

    """

    facts: Mapping[str, Any]

    @property
    def text(self) -> str:
        """As a picture carries it: ASCII, one line."""
        return json_text({"format": FORMAT, **self.facts})

    def save(self, folder: Path) -> None:
        """Write ``sample.json``."""
        put(folder / FILE, json_text({"format": FORMAT, **self.facts}, indent=1).encode())

    @classmethod
    def of(cls, path: Path) -> Origin:
        """What made a folder of samples, or a picture of one.

        Raises:
            DataError: where that cannot be read, is damaged, or is not of gendiff.

        """
        if not path.is_dir():
            text = caption(path)
            if not text:
                raise _unknown(path, *_beside(path))
            try:
                return cls._checked(path, json_object(text))
            except ValueError as error:
                raise reading.unreadable(path, error) from error
        for folder in (path, path.parent):  # events/ lies in the folder of samples
            if (folder / FILE).exists():
                return cls._checked(folder / FILE, reading.json_file(folder / FILE))
        pictures = sorted(child for child in path.iterdir() if child.suffix.lower() in (".png", ".gif"))
        if not pictures:
            raise _unknown(path, f"no {FILE} and no picture is in it")
        return cls.of(pictures[0])

    @classmethod
    def _checked(cls, path: Path, table: Mapping[str, Any]) -> Origin:
        if table.get("format") != FORMAT:
            raise _unknown(path, f"its format is {table.get('format')!r:.20}, this gendiff reads format {FORMAT}")
        for key, kind in PARTS.items():
            if type(table.get(key)) is not kind or not _short(table[key]):
                raise _unknown(path, f"'{key}' of it is {table.get(key)!r:.40}")
        facts = {key: value for key, value in finite(shown(dict(table))).items() if key != "format"}
        return cls(facts)


def _short(value: Any) -> bool:
    """Whether no text in it is longer than one of ours can be."""
    if isinstance(value, dict):
        return all(_short(key) and _short(part) for key, part in value.items())
    if isinstance(value, list):
        return all(map(_short, value))
    return not isinstance(value, str) or len(value) <= LONGEST


def _beside(picture: Path) -> tuple[str, str]:
    """What is said of a picture without a text, and what to do: the numbers of an evaluation lie beside its picture."""
    numbers = picture.with_suffix(".json")
    if not numbers.is_file():
        return "", FIX
    return f"what is measured and drawn by gendiff evaluate is in the file beside its picture, '{numbers}'", "see there"


def _unknown(path: Path, why: str, fix: str = FIX) -> DataError:
    return DataError(
        f"nothing says what made '{path}'",
        details=[why] if why else [f"gendiff sample writes {FILE}, and the same into each PNG and GIF"],
        fix=fix,
    )
