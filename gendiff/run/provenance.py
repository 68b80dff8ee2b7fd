"""Provenance: who provided the components of a run, what was given in Python, and the plugin files that were loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gendiff.command import command, is_command
from gendiff.component import Component, Settings
from gendiff.datasets.tensors import TensorData
from gendiff.errors import GendiffError
from gendiff.plugin import discovery
from gendiff.plugin.discovery import Provider
from gendiff.plugin.registry import Registry
from gendiff.run.config import Config
from gendiff.run.module import ModuleFile, TorchModule
from gendiff.storage import reading
from gendiff.storage.files import Files

PLUGIN = 2**24  # bytes of a plugin file


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


def beginning_from(path: Path, given: Mapping[str, Any], *words: object) -> str:
    """What begins a new run with the weights of the one at ``path``, which knows what it was ``given`` in Python.

    ``words`` are what a command says besides; in Python the same settings are keywords.
    """
    if is_command() and not given:
        return command("train", "--from", path, *words)
    data, model = "x" if "data" in given else "DATA", ["model=net"] * ("model" in given)
    return f"gendiff.train({', '.join([data, *model, f'from_={str(path)!r}'])}, ...)"


def providers(config: Config, registry: Registry) -> dict[str, dict[str, Any]]:
    """Who provides each component of ``config``."""
    table = {}
    for component in _components(config):
        for name, provider in registry.provided(component).items():
            table[f"{component.kind} {name}"] = {
                "plugin": str(provider),
                "distribution": provider.distribution,
                "version": provider.version,
                "origin": provider.origin,
                "built_in": provider.built_in,
            }
    return table


def copy_plugin_files(folder: Path, registry: Registry, config: Config) -> dict[str, dict[str, str]]:
    """Copy the plugin files that were loaded, and that of the network; returns where each came from, its hash and its copy."""
    copies = {}
    files = {provider.sha256: provider for provider in registry.providers if provider.sha256}
    if isinstance(model := config.model, ModuleFile) and (file := discovery.given_file(model.sha256)):
        files.setdefault(model.sha256, Provider(file.name, "", str(file), model.sha256))
    for provider in files.values():
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
