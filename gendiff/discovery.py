"""Discovery: which plugins there are, found without importing any of them.

Plugins are the entry points of the group ``gendiff`` of every installed distribution, gendiff's own among them, and files that
the user names (``--plugin``, ``GENDIFF_PLUGINS``, ``plugins`` in a configuration). There is no other door.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from gendiff.errors import PluginError
from gendiff.hookspecs import GROUP

BUILT_IN = "gendiff"  # the distribution whose plugins are the built-in ones


@dataclass(frozen=True)
class Provider:
    """Where a plugin comes from: a distribution and its entry point, or a file and its hash.

    Args:
        distribution: its name; of a file, the file's.
        version: the distribution's; a file has none.
        origin: ``"name = module"`` of the entry point, or the path of the file.
        sha256: of a file.

    """

    distribution: str
    version: str
    origin: str
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    @property
    def place(self) -> tuple[str, ...]:
        """The same for the same plugin, however its file is named."""
        origin = str(Path(self.origin).resolve()) if self.sha256 else self.origin
        return (self.distribution, self.version, origin, self.sha256)

    @property
    def built_in(self) -> bool:
        """Whether gendiff itself ships it."""
        return self.distribution == BUILT_IN

    @property
    def names(self) -> tuple[str, ...]:
        """What ``--block`` may call it."""
        entry_point = self.origin.partition(" = ")[0]
        return (self.distribution, entry_point, f"{self.distribution}/{entry_point}")


@dataclass(frozen=True)
class Plugin:
    """A plugin that may be loaded."""

    provider: Provider
    load: Callable[[], Any] = field(compare=False)


def installed() -> Iterator[Plugin]:
    """Entry points, gendiff's own first, then by distribution; the same one seen twice on the path counts once."""
    found: dict[Provider, Callable[[], Any]] = {}
    for distribution in importlib.metadata.distributions():
        if f"[{GROUP}]" not in (distribution.read_text("entry_points.txt") or ""):
            continue  # a damaged distribution that has nothing to do with gendiff must not matter
        name, version = (
            str(distribution.metadata["Name"] or "a nameless distribution"),
            str(distribution.metadata["Version"]),
        )
        try:
            points = distribution.entry_points.select(group=GROUP)
        except Exception as error:  # importlib.metadata raises whatever its parser trips over
            found[Provider(name, version, "entry_points.txt")] = partial(_refuse, error)
            continue
        for point in points:
            found.setdefault(Provider(name, version, f"{point.name} = {point.value}"), point.load)
    for provider in sorted(found, key=lambda provider: (not provider.built_in, provider.distribution, provider.origin)):
        yield Plugin(provider, found[provider])


def file(path: Path, where: str = "--plugin") -> Plugin:
    """The plugin in a Python file; raises `PluginError` where there is none. ``where`` is who named it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PluginError(
            f"no plugin file '{path}': {error.strerror}", where=where, fix="give the path of a Python file"
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    return Plugin(Provider(path.name, "", str(path), sha256), partial(_load_file, path, sha256))


def _load_file(path: Path, sha256: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gendiff_plugin_{path.stem}_{sha256[:12]}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks there for what annotations mean
    spec.loader.exec_module(module)
    return module


def _refuse(error: Exception) -> None:
    raise error
