"""Record: run.json, what is known of a run besides its configuration, and what it must be to be believed.

This module does not import torch, so that hundreds of runs are listed in a moment.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gendiff.errors import DataError, printable, shown
from gendiff.storage import reading

RESTORE = "restore it from a copy, or start a new run"
RECORD = "run.json"
#: What run.json has tables of: of tables that say these, of texts, or of anything.
TABLES: dict[str, tuple[str, ...] | None] = {
    "versions": (),
    "switched_off": (),
    "process": (),
    "providers": ("plugin", "distribution", "version", "origin"),
    "plugin_files": ("plugin", "given", "origin", "sha256", "copy"),
    "data": None,
    "held_out": None,
    "given": None,
    "config": None,
    "from": None,
    "place": None,
}
#: What the run says of the one that it began from: texts, and a number.
LINEAGE = ("id", "name", "weights", "hash")
LONGEST = 1000  # characters of a name
VALUES = 2**28  # of an event


def flaw(info: Mapping[str, Any]) -> str:
    """Why this is not the content of run.json; empty where it is."""
    tables: dict[str, Any] = {key: info.get(key, {}) for key in TABLES}
    if absent := [key for key in ("id", "status", "versions", "data") if key not in info]:
        return f"it has no '{absent[0]}'"
    for key in ("id", "status", "created", "ended", "host", "python", "predicts"):
        text = info.get(key)
        if not isinstance(text, str | None) or len(text or "") > LONGEST or (text is None and key in ("id", "status")):
            return f"'{key}' is no short text"
    for key, table in tables.items():
        if not isinstance(table, dict):
            return f"'{key}' is no table"
        for name, entry in table.items():
            parts = TABLES[key]
            if parts and (not isinstance(entry, dict) or not all(isinstance(entry.get(part), str) for part in parts)):
                return f"'{key}.{name}' does not say {', '.join(parts)}"
            if parts is not None and not parts and not isinstance(entry, str):
                return f"'{key}.{name}' is no text"
    for name, file in tables["plugin_files"].items():
        if not re.fullmatch(r"plugins/[^/]+", file["copy"]) or file["copy"] == "plugins/..":
            return f"the copy of the plugin file '{name}' is not in plugins/"
    if (origin := tables["from"]) and not (
        all(isinstance(origin.get(key), str) and len(origin[key]) <= LONGEST for key in LINEAGE)
        and type(origin.get("step")) is int
    ):
        return f"'from' does not say {', '.join(LINEAGE)} and step"
    changes = info.get("changes", [])
    if not isinstance(changes, list) or not all(
        isinstance(change, dict)
        and type(change.get("step")) is int
        and all(isinstance(change.get(key, {}), dict) for key in ("set", "before", "data"))
        for change in changes
    ):
        return "'changes' is no list of what changed at a step"
    data = tables["data"]
    held_out = tables["held_out"]
    if held_out and not (isinstance(held_out.get("fingerprint"), str) and isinstance(held_out.get("words"), str)):
        return "'held_out' does not say which events they are"
    if type(held_out.get("below", 0)) is not int or not 0 <= held_out.get("below", 0) < 2**63:
        return "'held_out.below' is no bound of a split"
    shape, bounds = data.get("event_shape", []), data.get("value_range")
    if not isinstance(data.get("fingerprint"), str):
        return "'data.fingerprint' is no text"
    sides = isinstance(shape, list) and len(shape) <= 8 and all(type(side) is int and side > 0 for side in shape)
    if not sides or math.prod(shape) > VALUES:
        return f"'data.event_shape' is {shape!s:.40}"
    numbers = isinstance(bounds, list) and len(bounds) == 2 and all(type(end) in (int, float) for end in bounds)
    return "" if bounds is None or numbers else f"'data.value_range' is {bounds!s:.40}"


def read(path: Path) -> dict[str, Any]:
    """run.json of the run at ``path``, what no terminal should obey written out; raises `DataError` where it describes no run."""
    value = shown(reading.json_file(path / RECORD))
    if why := flaw(value):
        raise DataError(f"'{path / RECORD}' does not describe a run: {why:.200}", fix=RESTORE)
    return dict(value)


def new_id(path: Path) -> str:
    """An id for the run at ``path`` that no other has."""
    return f"{printable(Path(os.path.abspath(path)).name)}-{os.urandom(4).hex()}"  # noqa: PTH100


def place(path: Path) -> dict[str, Any]:
    """Where a run is: what tells a copy, which has the same id, from the run itself, moved or not."""
    return {"path": os.path.abspath(path), "inode": path.stat().st_ino}  # noqa: PTH100  # links as they are


def same_run(path: Path, info: Mapping[str, Any]) -> list[Path]:
    """Other directories beside ``path``, or where it was, of a run with the same id: one of them is a copy."""
    folder = path.parent if path.name not in ("", "..") else Path(os.path.abspath(path)).parent  # noqa: PTH100
    candidates = {child.name: child for child in sorted(folder.iterdir()) if (child / RECORD).is_file()}
    before = info.get("place", {}).get("path")
    if isinstance(before, str) and (Path(before) / RECORD).is_file():
        candidates[before] = Path(before)
    others = list[Path]()
    for candidate in candidates.values():
        try:
            if candidate.samefile(path) or any(candidate.samefile(other) for other in others):
                continue
            if read(candidate)["id"] == info["id"]:
                others.append(candidate)
        except (DataError, OSError):
            continue
    return others


def is_copy(path: Path, info: Mapping[str, Any], others: list[Path]) -> bool:
    """Whether ``path`` is the copy, and one of the ``others`` with its id the run: that stayed where run.json says."""
    then = info.get("place", {})
    if not others or path.stat().st_ino == then.get("inode"):
        return False
    if any(other.stat().st_ino == then.get("inode") for other in others):
        return True
    if not then:  # an older run
        return not info["id"].startswith(path.name)
    return bool(place(path)["path"] != then.get("path"))


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
