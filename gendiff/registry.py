"""Registry: who provides which component.

Plugins are the entry points of the group ``gendiff`` of every installed distribution, gendiff's own among them, and the files
given with ``--plugin``. A broken plugin breaks only itself: whatever goes wrong while it loads is recorded with its
provider and reason, and is an error only for who asks for it.

Loading the registry does not import torch unless a plugin does.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from gendiff import hookspecs
from gendiff.component import Component, Lazy, summary
from gendiff.errors import ConfigError, PluginError, did_you_mean
from gendiff.hookspecs import GROUP

BUILT_IN = "gendiff"  # the distribution whose plugins are the built-in ones


@dataclass(frozen=True)
class Provider:
    """Where a plugin comes from: a distribution and its entry point, or a file."""

    distribution: str
    version: str
    origin: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    @property
    def built_in(self) -> bool:
        """Whether gendiff itself ships it."""
        return self.distribution == BUILT_IN


@dataclass(frozen=True)
class Entry:
    """One component and who provides it."""

    kind: str
    name: str
    summary: str
    provider: Provider
    target: type[Component] | str

    def load(self) -> type[Component]:
        """The class; raises `PluginError` where its module cannot be imported or holds something else."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                found = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # a plugin may raise anything; it must not take the program down
            raise self._broken(_reason(error)) from error
        if flaw := _flaw(found):
            raise self._broken(f"{self.target} {flaw}")
        if (found.kind, found.name) != (self.kind, self.name):
            raise self._broken(f"{self.target} says it is {found.kind} '{found.name}'")
        return found  # type: ignore[no-any-return]  # a component class, or _flaw had said so

    def _broken(self, reason: str) -> PluginError:
        return PluginError(
            f"{self.kind} '{self.name}' of {self.provider} cannot be loaded",
            details=[reason],
            fix="see what is broken: gendiff plugins list",
            subject=f"{self.kind}.name",
        )


@dataclass(frozen=True)
class Problem:
    """A plugin, or a part of one, that could not be used."""

    provider: Provider
    reason: str


class Registry:
    """All components and presets, by kind and name.

    Args:
        files: plugin files to load beside the installed ones.
        third_party: load installed plugins other than gendiff's own.

    """

    def __init__(self, files: Iterable[Path] = (), third_party: bool = True) -> None:
        self.problems: list[Problem] = []
        self._entries: dict[tuple[str, str], Entry] = {}
        self._presets: dict[str, tuple[Path, Provider]] = {}
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        providers: dict[int, Provider] = {}  # by identity: a plugin may be any object, hashable or not
        for provider, load in [*_installed(third_party), *_files(files)]:
            plugin = self._guarded(provider, load)
            if plugin is not None and id(plugin) not in providers:
                providers[id(plugin)] = provider
                self._guarded(provider, lambda plugin=plugin, provider=provider: self._register(plugin, provider))
        self._refuse_unknown_hooks(providers)
        for provider, implementation in _in_order(providers, self._manager.hook.gendiff_components):
            for component in self._guarded(provider, lambda call=implementation.function: list(call())) or ():
                self._add(component, provider)
        for provider, implementation in _in_order(providers, self._manager.hook.gendiff_presets):
            presets = self._guarded(provider, lambda call=implementation.function: dict(call()))
            for name, path in (presets or {}).items():
                if name in self._presets:
                    self._problem(provider, f"preset '{name}' is already provided by {self._presets[name][1]}")
                else:
                    self._presets[name] = (Path(path), provider)

    # --- asking ------------------------------------------------------------------------------------------------------

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All entries, or those of one kind, ordered by kind and name."""
        return [entry for key, entry in sorted(self._entries.items()) if kind in (None, key[0])]

    def names(self, kind: str) -> list[str]:
        """The names of one kind, sorted."""
        return [entry.name for entry in self.entries(kind)]

    def resolve(self, kind: str, name: str) -> type[Component]:
        """The class of that kind and name; raises `ConfigError` (unknown) or `PluginError` (broken)."""
        entry = self._entries.get((kind, name))
        if entry is None:
            raise self._unknown(kind, name)
        return entry.load()

    def presets(self) -> dict[str, Path]:
        """The TOML files of all presets by name."""
        return {name: path for name, (path, _) in sorted(self._presets.items())}

    def preset(self, name: str) -> Path:
        """The TOML file of a preset; raises `ConfigError` where there is none."""
        if name not in self._presets:
            known = sorted(self._presets)
            raise ConfigError(
                f"unknown preset '{name}'",
                where="--preset",
                details=[f"known: {', '.join(known) or 'none'}", did_you_mean(name, known)],
            )
        return self._presets[name][0]

    def health(self) -> list[Problem]:
        """`problems`, and what shows only when the announcements of third parties are followed: this imports them."""
        found = list(self.problems)
        for entry in self.entries():
            if not entry.provider.built_in:
                try:
                    entry.load()
                except PluginError as error:
                    found.append(Problem(entry.provider, f"{entry.kind} '{entry.name}': {error.details[0]}"))
        return found

    def provider(self, component: Component) -> Provider:
        """Who provides the class of ``component``."""
        return self._entries[component.kind, component.name].provider

    def _unknown(self, kind: str, name: str) -> ConfigError:
        own = [entry.name for entry in self.entries(kind) if entry.provider.built_in]
        others = [f"{entry.name} ({entry.provider})" for entry in self.entries(kind) if not entry.provider.built_in]
        broken = [f"broken plugin: {problem.provider}: {problem.reason}" for problem in self.problems]
        return ConfigError(
            f"unknown {kind} '{name}'",
            details=[
                f"known: {' | '.join(filter(None, [', '.join(own), ', '.join(others)])) or 'none'}",
                did_you_mean(name, self.names(kind)),
                *broken[:5],
            ],
            fix=f"list all: gendiff plugins list --kind {kind}",
            subject=f"{kind}.name",
        )

    # --- loading -----------------------------------------------------------------------------------------------------

    def _guarded(self, provider: Provider, call: Any) -> Any:
        """Run plugin code; whatever it raises or prints becomes a problem of its provider."""
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                result = call()
        except (Exception, SystemExit) as error:  # a plugin may raise anything; it must not take the program down
            self._problem(provider, _reason(error))
            return None
        if printed.getvalue():
            self._problem(provider, f"it printed at import: {printed.getvalue().strip()[:80]!r}")
        return result

    def _problem(self, provider: Provider, reason: str) -> None:
        self.problems.append(Problem(provider, " ".join(reason.split())))

    def _register(self, plugin: Any, provider: Provider) -> None:
        self._manager.register(plugin, name=f"{provider.distribution}/{provider.origin}")

    def _refuse_unknown_hooks(self, providers: dict[int, Provider]) -> None:
        while True:
            try:
                self._manager.check_pending()
                return
            except pluggy.PluginValidationError as error:
                self._problem(providers[id(error.plugin)], str(error))
                self._manager.unregister(error.plugin)

    def _add(self, component: type[Component] | Lazy, provider: Provider) -> None:
        flaw = _flaw(component)
        if not flaw and isinstance(component, Lazy):
            entry = Entry(component.kind, component.name, component.summary, provider, component.target)
        elif not flaw and isinstance(component, type):
            entry = Entry(component.kind, component.name, summary(component), provider, component)
        else:
            self._problem(provider, f"{component!r} {flaw}")
            return
        taken = self._entries.setdefault((entry.kind, entry.name), entry)
        if taken is not entry:
            self._problem(provider, f"{entry.kind} '{entry.name}' is already provided by {taken.provider}")


def _flaw(component: Any) -> str:
    """What keeps it from being used as a component, or an empty string."""
    if not (isinstance(component, Lazy) or (isinstance(component, type) and issubclass(component, Component))):
        return "is not a component class"
    if not all(isinstance(text, str) and text for text in (component.kind, component.name)):
        return 'has no kind and name: derive it from an interface such as BlurSchedule and write name = "..."'
    missing = sorted(getattr(component, "__abstractmethods__", ()))
    return f"lacks {', '.join(missing)}" if missing else ""


def _reason(error: BaseException) -> str:
    """What was raised, and the plugin's line of code that raised it."""
    told = f"{type(error).__name__}: {error}"
    files = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(file, line) for file, line in files if file.is_file() and not _is_machinery(file)]
    return f"{told} ({own[-1][0].name}, line {own[-1][1]})" if own else told


def _is_machinery(file: Path) -> bool:
    """Whether it is what imports plugins, makes their classes and calls their hooks."""
    return file.is_relative_to(Path(__file__).parent) or not {"pluggy", "pydantic", "importlib"}.isdisjoint(file.parts)


def _in_order(providers: Mapping[int, Provider], hook: Any) -> list[tuple[Provider, Any]]:
    """Who answers a hook, gendiff itself first: the first to take a name has it. Pluggy's order is for the plugins to change."""
    answers = {id(implementation.plugin): implementation for implementation in hook.get_hookimpls()}
    return [(provider, answers[plugin]) for plugin, provider in providers.items() if plugin in answers]


@cache
def default_registry() -> Registry:
    """The registry of everything installed, loaded once."""
    return Registry()


def _installed(third_party: bool) -> Iterator[tuple[Provider, Any]]:
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
        if third_party or provider.built_in:
            yield provider, found[provider]


def _refuse(error: Exception) -> None:
    raise error


def _files(files: Iterable[Path]) -> Iterator[tuple[Provider, Any]]:
    for path in files:
        if not path.is_file():
            raise PluginError(f"no plugin file '{path}'", where="--plugin", fix="give the path of a Python file")
        yield Provider(path.name, "", str(path)), lambda path=path: _load_file(path)


def _load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gendiff_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks there for what annotations mean
    spec.loader.exec_module(module)
    return module
