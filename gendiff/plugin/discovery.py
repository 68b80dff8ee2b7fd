"""Discovery: which plugins there are, found without importing any of them.

Plugins are the entry points of the group ``gendiff`` of every installed distribution, gendiff's own among them, and files that
the user names (``--plugin``, ``GENDIFF_PLUGINS``). There is no other door: what a configuration or a run says of plugins opens
none.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from gendiff.errors import DataError, PluginError
from gendiff.plugin.hookspecs import GROUP
from gendiff.storage import reading
from gendiff.version import __version__

BUILT_IN = "gendiff"  # the distribution whose plugins are the built-in ones
MOST_BYTES = 1 << 24  # of a plugin file; a real one has a few thousand

METADATA = ("METADATA", "PKG-INFO", "entry_points.txt")  # of a distribution: what is read of it

_let_in: dict[str, Path] = {}  # the files that the user has given, by their hashes


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


class Damaged(PluginError):
    """The metadata of an installed distribution cannot be read, so nobody knows what it provides."""


def installed() -> Iterator[Plugin]:
    """Entry points, gendiff's own first, then by distribution; the same one seen twice on the path counts once.

    A distribution with damaged metadata is a plugin that raises `Damaged` when it is loaded.
    """
    loaders: dict[Provider, Callable[[], Any]] = {}
    for distribution in importlib.metadata.distributions():
        try:
            contents = _contents(distribution)
        except Damaged as error:
            loaders[_unread(distribution)] = partial(_refuse, error.what)
            _keep_torch_from_looking()
            continue
        if flaw := _metadata_flaw(contents):
            loaders[_unread(distribution)] = partial(_refuse, flaw)
        if "entry_points.txt" not in contents:
            continue
        try:
            points = distribution.entry_points
        except Exception as error:  # importlib.metadata raises whatever its parser trips over
            loaders[_unread(distribution)] = partial(_refuse, f"its entry_points.txt: {type(error).__name__}: {error}")
            _keep_torch_from_looking()
            continue
        own = points.select(group=GROUP)
        name, version = _identity(distribution) if own else ("", "")  # which reads all of a README
        for point in own:
            loaders.setdefault(Provider(name, version, f"{point.name} = {point.value}"), point.load)
    for provider in sorted(
        loaders, key=lambda provider: (not provider.built_in, provider.distribution, provider.origin)
    ):
        yield Plugin(provider, loaders[provider])


def version(distribution: str) -> str:
    """The installed version of a distribution; ``"unknown"`` where its metadata do not say. gendiff's own is that of the code."""
    if distribution == BUILT_IN:
        return __version__  # an editable installation keeps the metadata of the day it was made
    try:
        return importlib.metadata.version(distribution) or "unknown"
    except Exception:  # as above
        return "unknown"


def file(path: Path, where: str = "--plugin") -> Plugin:
    """The plugin in a Python file; raises `PluginError` where there is none. ``where`` is who named it."""
    import hashlib

    try:
        content = reading.content(path, MOST_BYTES)
    except DataError as error:
        why = "it is a folder" if path.is_dir() else reading.why(error.__cause__ or error)
        raise PluginError(
            f"no plugin file '{path}': {why}", where=where, fix="give the path of a Python file"
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    return Plugin(Provider(path.name, "", str(path), sha256), partial(_load_file, path, sha256))


def let_in(sha256: str) -> bool:
    """Whether the user has given a plugin file of this content."""
    return sha256 in _let_in


def open_to(sha256: str, path: Path) -> None:
    """Take note that the user has given a file of this content."""
    _let_in[sha256] = path


def given_file(sha256: str) -> Path | None:
    """Where a file of this content lies that the user has given; None where none was given."""
    return _let_in.get(sha256)


def loaded(path: Path, sha256: str) -> ModuleType:
    """The module in a file that the user has given, imported once."""
    return sys.modules.get(_module_name(path, sha256)) or _load_file(path, sha256)


def begin_anew() -> None:
    """Forget the plugin files that were given: another command begins."""
    _let_in.clear()


def _contents(distribution: importlib.metadata.Distribution) -> dict[str, bytes]:
    """What is in the files of a distribution's metadata, as far as they are there.

    Raises `Damaged` where one is there and must not be opened, a pipe or an endless one.
    """
    folder, contents = getattr(distribution, "_path", None), dict[str, bytes]()
    if not isinstance(folder, Path):  # it is in an archive
        try:
            texts = {name: distribution.read_text(name) for name in METADATA}
        except Exception as error:  # as above
            raise Damaged(f"its metadata: {type(error).__name__}: {error}") from error
        return {name: text.encode() for name, text in texts.items() if text is not None}
    for name in METADATA if folder.is_dir() else ("",):
        try:
            with reading.opened(folder / name, MOST_BYTES) as file:
                contents[name] = file.read()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise Damaged(f"its {name or 'metadata'}: {reading.why(error)}") from error
    return contents


def _metadata_flaw(contents: dict[str, bytes]) -> str:
    """What is wrong with the text that names a distribution; empty where nothing is."""
    content = contents.get("METADATA") or contents.get("PKG-INFO") or contents.get("")
    if not content:
        return "it has no METADATA"
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return f"its METADATA: {type(error).__name__}: {error}"
    return "" if re.search(r"(?mi)^Name:[ \t]*\S", text) else "its METADATA does not say its name"


def _identity(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Name and version; of one with damaged metadata, the name of the folder that holds them."""
    try:
        facts = distribution.metadata
        name = str(facts["Name"] or _unread(distribution).distribution)
        return name, __version__ if name == BUILT_IN else str(facts["Version"] or "")
    except Exception:  # as above
        return _unread(distribution).distribution, ""


def _unread(distribution: importlib.metadata.Distribution) -> Provider:
    """A distribution with damaged metadata, by the folder that holds them."""
    place = Path(str(getattr(distribution, "_path", "a nameless distribution")))
    return Provider(place.name, "", str(place))


def _module_name(path: Path, sha256: str) -> str:
    return f"gendiff_plugin_{path.stem}_{sha256[:12]}"


def _load_file(path: Path, sha256: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_module_name(path, sha256), path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks there for what annotations mean
    spec.loader.exec_module(module)
    return module


def _keep_torch_from_looking() -> None:
    # Its import reads the entry points of everything installed too, for devices that gendiff does not use.
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


def _refuse(why: str) -> None:
    raise Damaged(why)
