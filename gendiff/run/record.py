"""Record: run.json, what is known of a run besides its configuration, and what it must be to be believed."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gendiff.component import Component, Settings
from gendiff.datasets.tensors import TensorData
from gendiff.errors import GendiffError
from gendiff.plugin.registry import Registry
from gendiff.run.config import Config
from gendiff.run.module import TorchModule
from gendiff.storage import reading
from gendiff.storage.files import Files

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
}
LONGEST = 1000  # characters of a name
PLUGIN = 2**24  # bytes of a plugin file
VALUES = 2**28  # of an event


def _components(settings: Settings) -> Iterator[Component]:
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Component):
                yield part
            if isinstance(part, Settings):
                yield from _components(part)


def given_in_python(config: Config, path: Path) -> dict[str, Any]:
    """What was given in Python and is not stored, and how the run is opened again."""
    parts = {"model": config.model, "data": config.data}
    given = {key: part.table() for key, part in parts.items() if isinstance(part, TorchModule | TensorData)}
    words = {"model": "model=net", "data": "data=x"}
    arguments = ", ".join([repr(str(path)), *(words[key] for key in given)])
    return {**given, "open": f"gendiff.load({arguments})", "resume": f"gendiff.resume({arguments})"} if given else {}


def providers(config: Config, registry: Registry) -> dict[str, dict[str, Any]]:
    """Who provides each component of ``config``."""
    table = {}
    for component in _components(config):
        provider = registry.provider(component)
        if provider is not None:
            table[f"{component.kind} {component.name}"] = {
                "plugin": str(provider),
                "distribution": provider.distribution,
                "version": provider.version,
                "origin": provider.origin,
                "built_in": provider.built_in,
            }
    return table


def copy_plugin_files(folder: Path, registry: Registry) -> dict[str, dict[str, str]]:
    """Copy the plugin files that were loaded; returns where each came from, its hash and its copy."""
    copies = {}
    for provider in registry.providers:
        if provider.sha256:
            content = reading.content(Path(provider.origin), PLUGIN)
            Files().make_directory(folder)
            name = provider.distribution
            if (folder / name).exists():  # two files may have the same name
                name = f"{provider.sha256[:12]}-{name}"
            Files().replace(folder / name, content)
            copies[name] = {
                "plugin": str(provider),
                "given": provider.origin,
                "origin": str(Path(provider.origin).resolve()),
                "sha256": provider.sha256,
                "copy": f"plugins/{name}",
            }
            if hashlib.sha256(content).hexdigest() != provider.sha256:
                raise GendiffError(
                    f"'{provider.origin}' changed while it was used as a plugin",
                    fix="start again, with the file at rest",
                )
    return copies


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


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
