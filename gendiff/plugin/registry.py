"""Registry: who provides which component.

A broken plugin breaks only itself: whatever goes wrong while it loads is recorded with its provider and reason, and is an error
only for who asks for it. Nothing here knows what kinds of components there are: a new kind is a new interface, announced like any
other component.

Loading the registry imports neither torch nor pydantic unless a plugin does.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from gendiff.command import command
from gendiff.errors import ConfigError, PluginError, did_you_mean, reason
from gendiff.names import resolver
from gendiff.plugin import discovery, hookspecs
from gendiff.plugin.discovery import Plugin, Provider
from gendiff.plugin.hookspecs import API_VERSION, GROUP, LIFECYCLE, Lazy, register
from gendiff.plugin.import_guard import process_state, restore
from gendiff.storage import reading

if TYPE_CHECKING:
    from gendiff.component import Component

MOST_PROBLEMS = 10  # named in one error
LONGEST_SUMMARY = 200  # characters
NAME = re.compile(r"\w[\w.-]{0,99}")
UNTYPABLE = "is no name to type: letters, digits, '-', '_' and '.', up to 100"


@dataclass(frozen=True)
class Entry:
    """One component and who provides it."""

    kind: str
    name: str
    summary: str
    provider: Provider
    target: type[Component] | str

    @property
    def module(self) -> str:
        """The module that holds the class."""
        return self.target.partition(":")[0] if isinstance(self.target, str) else self.target.__module__

    @property
    def class_name(self) -> str:
        """The name of the class in it."""
        return self.target.partition(":")[2] if isinstance(self.target, str) else self.target.__name__

    def load(self) -> type[Component]:
        """The class; raises `PluginError` where its module cannot be imported or holds something else."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                component = getattr(importlib.import_module(module), attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything; it must not take the program down
            raise self._broken(reason(error)) from error
        if flaw := _flaw(component):
            raise self._broken(f"{self.target} {flaw}")
        if (component.kind, component.name) != (self.kind, self.name):
            raise self._broken(f"{self.target} says it is {component.kind} '{component.name}'")
        return component  # type: ignore[no-any-return]  # a component class, or _flaw had said so

    def _broken(self, reason: str) -> PluginError:
        return PluginError(
            f"{self.kind} '{self.name}' of {self.provider} cannot be loaded",
            details=[reason],
            fix="see what is broken: gendiff plugins list",
            subject=f"{self.kind}.name",
        )


@dataclass(frozen=True)
class Problem:
    """What is wrong with a plugin.

    Args:
        status: ``broken`` (it, or the part that ``why`` names, cannot be used), ``blocked`` (on request, and never imported) or
            ``warning`` (it can be used, and did something that a plugin should not do).
        cause: what was raised where nothing of the plugin can be used.

    """

    provider: Provider
    why: str
    status: str = "broken"
    cause: BaseException | None = field(default=None, compare=False)


class Registry:
    """All components and presets, by kind and name.

    Args:
        files: plugin files to load beside the installed ones.
        third_party: load installed plugins other than gendiff's own.
        block: names of distributions, entry points (``NAME`` or ``DISTRIBUTION/NAME``) or files that must not be imported.
        plugins: more plugins, as objects: for tests.

    Raises:
        PluginError: where a file is not there.
        ConfigError: where ``block`` names nothing that is there.

    """

    def __init__(
        self,
        files: Iterable[Path] = (),
        third_party: bool = True,
        block: Iterable[str] = (),
        plugins: Iterable[Plugin] = (),
    ) -> None:
        self._made_of = tuple(files), third_party, tuple(block), tuple(plugins)
        files, third_party, block, plugins = self._made_of
        self.problems: list[Problem] = []
        self.providers: list[Provider] = []
        self._entries: dict[tuple[str, str], Entry] = {}
        self._presets: dict[str, tuple[Path, Provider]] = {}
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        own = [plugin for plugin in discovery.installed() if third_party or plugin.provider.built_in]
        all_plugins = [*own, *map(discovery.file, files), *plugins]
        self._block = set(block)
        self._refuse_unknown(self._block, all_plugins)
        for plugin in all_plugins:
            self.add(plugin)

    def __reduce__(self) -> tuple[type[Registry], tuple[Any, ...]]:
        """Another process makes it anew, of the same plugins."""
        return Registry, self._made_of

    # --- asking ------------------------------------------------------------------------------------------------------

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All entries, or those of one kind, ordered by kind and name."""
        return [entry for key, entry in sorted(self._entries.items()) if kind in (None, key[0])]

    def kinds(self) -> list[str]:
        """The kinds of which there is a component, sorted."""
        return sorted({kind for kind, _ in self._entries})

    def names(self, kind: str) -> list[str]:
        """The names of one kind, sorted."""
        return [entry.name for entry in self.entries(kind)]

    def component_class(self, kind: str, name: str) -> type[Component]:
        """The class of that kind and name; raises `ConfigError` (unknown) or `PluginError` (broken).

        ``A+B`` is what the kind makes of the classes A and B (`Component.composed`).
        """
        entry = self._entries.get((kind, name))
        if entry is not None:
            return entry.load()
        parts = name.split("+")
        known = [self._entries[kind, part].load() for part in parts if (kind, part) in self._entries]
        if len(parts) > 1 and known:
            strange = [part for part in parts if (kind, part) not in self._entries]
            composed = None if strange else known[0].composed(name, known)
            if composed is not None:
                return composed
            raise self._unknown(kind, strange[0] if strange else name)
        raise self._unknown(kind, name)

    def composed(self, name: str, kind: str | None = None) -> list[Entry]:
        """What ``A+B`` stands for, one for each kind that knows what; by the first of its providers that is not gendiff."""
        entries = []
        for each in self.kinds() if kind is None else [kind]:
            parts = [entry for part in name.split("+") if (entry := self._entries.get((each, part)))]
            if len(parts) == name.count("+") + 1 > 1:
                from gendiff.component import summary

                target = self.component_class(each, name)
                provider = min((part.provider for part in parts), key=lambda provider: provider.built_in)
                entries.append(Entry(each, name, one_line(summary(target)), provider, target))
        return entries

    def presets(self) -> dict[str, Path]:
        """The TOML files of all presets by name."""
        return {name: path for name, (path, _) in sorted(self._presets.items())}

    def preset(self, name: str) -> Path:
        """The TOML file of a preset; raises `ConfigError` where there is none."""
        if name not in self._presets:
            names = sorted(self._presets)
            raise ConfigError(
                f"unknown preset '{name}'",
                where="--preset",
                details=[f"known: {', '.join(names) or 'none'}", did_you_mean(name, names)],
            )
        return self._presets[name][0]

    def preset_summary(self, name: str) -> str:
        """The first line of a preset that `presets` lists: a comment that says what it is."""
        first = _text(self._presets[name][0]).partition("\n")[0]
        return one_line(first.removeprefix("# "))

    def preset_provider(self, name: str) -> Provider:
        """Who provides a preset that `presets` lists."""
        return self._presets[name][1]

    def health(self) -> list[Problem]:
        """`problems`, and what shows only when the announcements of third parties are followed: this imports them."""
        problems = list(self.problems)
        for entry in self.entries():
            if not entry.provider.built_in:
                try:
                    entry.load()
                except PluginError as error:
                    problems.append(Problem(entry.provider, f"{entry.kind} '{entry.name}': {error.details[0]}"))
        return problems

    def provider(self, component: Component) -> Provider | None:
        """Who provides the class of ``component``; None for one that came in by no plugin."""
        return next(iter(self.provided(component).values()), None)

    def provided(self, component: Component) -> dict[str, Provider]:
        """Who provides the class of ``component``, by its name; of one that is composed, each of its parts."""
        names = [component.name, *component.name.split("+")]
        entries = {name: entry for name in names if (entry := self._entries.get((component.kind, name)))}
        return {name: entry.provider for name, entry in entries.items()}

    def observers(self) -> list[tuple[str, object]]:
        """The plugins that take a lifecycle hook, by name."""
        hooks = [getattr(self._manager.hook, name) for name in LIFECYCLE]
        return [
            (name, plugin)
            for name, plugin in self._manager.list_name_plugin()
            if any(implementation.plugin is plugin for hook in hooks for implementation in hook.get_hookimpls())
        ]

    def _unknown(self, kind: str, name: str) -> ConfigError:
        own = [entry.name for entry in self.entries(kind) if entry.provider.built_in]
        others = [f"{entry.name} ({entry.provider})" for entry in self.entries(kind) if not entry.provider.built_in]
        unusable = [problem for problem in self.problems if problem.status != "warning"]
        suggestion = did_you_mean(name, self.names(kind))
        own_file = "" if suggestion else "; one in a file of your own: gendiff --plugin FILE ..."
        problems = [f"{problem.status} plugin: {problem.provider}: {problem.why}" for problem in unusable]
        return ConfigError(
            f"unknown {kind} '{name}'",
            details=[
                f"known: {' | '.join(filter(None, [', '.join(own), ', '.join(others)])) or 'none'}",
                suggestion,
                *problems[:MOST_PROBLEMS],
            ],
            fix=f"list all: {command('plugins', 'list', '--kind', kind)}{own_file}",
            subject=f"{kind}.name",
        )

    # --- loading -----------------------------------------------------------------------------------------------------

    def add(self, plugin: Plugin) -> Provider:
        """Load one more plugin, unless it is here already; returns its provider. The first to take a name has it."""
        provider = plugin.provider
        for other in self.providers:
            if other.place == provider.place:
                return other
        self.providers.append(provider)
        if provider.sha256:
            discovery.open_to(provider.sha256, Path(provider.origin))
        if names := self._block.intersection(provider.names):
            self._problem(provider, f"--block {min(names)}", "blocked")
        else:
            self._load(plugin)
        return provider

    def _load(self, plugin: Plugin) -> None:
        """Run the code of a plugin; what it prints, or changes of the whole process, becomes a problem of its provider."""
        output, before = io.StringIO(), process_state()
        with contextlib.redirect_stdout(output):
            self._take(plugin)
        if not output.closed and output.getvalue():
            self._problem(plugin.provider, f"it printed at import: {output.getvalue().strip()[:80]!r}", "warning")
        if names := restore(before):
            why = f"its import changed {', '.join(names)} of the whole process, which was undone"
            self._problem(plugin.provider, why, "warning")

    def _take(self, plugin: Plugin) -> None:
        provider = plugin.provider
        module = self._tried(provider, plugin.load, whole=True)
        if module is None or self._manager.is_registered(module):
            return
        self._tried(provider, lambda: self._register(module, provider), whole=True)
        if not self._manager.is_registered(module):
            return
        for component in self._asked("gendiff_components", module, provider, list) or ():
            self._tried(provider, partial(self._add, component, provider))
        for name, path in (self._asked("gendiff_presets", module, provider, dict) or {}).items():
            self._tried(provider, partial(self._add_preset, name, path, provider))

    def _register(self, module: Any, provider: Provider) -> None:
        version = getattr(module, "gendiff_api_version", API_VERSION)
        if not isinstance(version, int) or not 1 <= version <= API_VERSION:
            raise ImportError(
                f"it needs version {version} of gendiff's plugin interface, this gendiff has {API_VERSION}: "
                "upgrade the older of the two"
            )
        try:
            register(self._manager, module, f"{provider} ({provider.origin})")
        except pluggy.PluginValidationError as error:
            raise ImportError(f"{error}{_line_of_hook(module, str(error))}") from error

    def _asked(self, hook: str, module: Any, provider: Provider, into: Callable[[Any], Any]) -> Any:
        """What one plugin answers to a hook; None where it does not take it or fails."""
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin is module:
                return self._tried(provider, partial(_call, into, implementation.function), whole=True)
        return None

    def _tried(self, provider: Provider, call: Callable[[], Any], whole: bool = False) -> Any:
        """What plugin code gives; None where it raises, which becomes a problem of its provider, or of a ``whole`` plugin."""
        try:
            return call()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything; it must not take the program down
            self._problem(provider, reason(error), cause=error if whole else None)
            return None

    def _problem(
        self, provider: Provider, why: str, status: str = "broken", cause: BaseException | None = None
    ) -> None:
        self.problems.append(Problem(provider, " ".join(why.split()), status, cause))

    def _add(self, component: type[Component] | Lazy, provider: Provider) -> None:
        flaw = _flaw(component)
        if not flaw and isinstance(component, Lazy):
            entry = Entry(component.kind, component.name, one_line(component.summary), provider, component.target)
        elif not flaw and isinstance(component, type):
            from gendiff.component import summary

            entry = Entry(component.kind, component.name, one_line(summary(component)), provider, component)
        else:
            self._problem(provider, f"{component!r} {flaw}")
            return
        holder = self._entries.setdefault((entry.kind, entry.name), entry)
        if holder is not entry:
            self._problem(provider, f"{entry.kind} '{entry.name}' is already {_provided_by(holder.provider, provider)}")

    def _add_preset(self, name: str, path: Path, provider: Provider) -> None:
        if not isinstance(name, str) or not isinstance(path, str | Path):
            raise TypeError(f"preset {name!r}: {path!r} is not a name and the path of a TOML file")
        if not NAME.fullmatch(name):
            raise ValueError(f"preset {name[:100]!r} {UNTYPABLE}")
        _text(Path(path))  # there, and a text
        if name in self._presets:
            owner = self._presets[name][1]
            self._problem(provider, f"preset '{name}' is already {_provided_by(owner, provider)}")
        else:
            self._presets[name] = (Path(path), provider)

    def _refuse_unknown(self, block: Iterable[str], plugins: Iterable[Plugin]) -> None:
        names = sorted({name for plugin in plugins for name in plugin.provider.names})
        for name in block:
            if name not in names and not name.endswith(".py"):  # `plugins check` may name that file later
                distributions = sorted({plugin.provider.distribution for plugin in plugins})
                raise ConfigError(
                    f"no plugin is called '{name}'",
                    where="--block",
                    details=[
                        f"known: {', '.join(distributions)}, and their entry points",
                        did_you_mean(name, names),
                    ],
                    fix="see who provides what: gendiff plugins list",
                )


def _line_of_hook(module: Any, complaint: str) -> str:
    """Where the hook is that pluggy complains of; empty where its name says nothing."""
    for name, function in vars(module).items() if isinstance(module, ModuleType) else ():
        code = getattr(function, "__code__", None)
        if code is not None and hasattr(function, f"{GROUP}_impl") and f"'{name}'" in complaint:
            return f" ({Path(code.co_filename).name}, line {code.co_firstlineno})"
    return ""


def _provided_by(owner: Provider, other: Provider) -> str:
    """Who has what another one gives too; two files of one name are told apart."""
    return f"provided by {owner}" + (f" ({owner.origin})" if str(owner) == str(other) else "")


def _text(preset: Path) -> str:
    return reading.content(preset, reading.TOML).decode("utf-8")


def one_line(text: str) -> str:
    """A text as one line of a list."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SUMMARY else f"{line[:LONGEST_SUMMARY]} ..."


def _call(into: Callable[[Any], Any], function: Callable[[], Any]) -> Any:
    return into(function())


def _flaw(component: Any) -> str:
    """What keeps it from being used as a component, or an empty string."""
    if isinstance(component, Lazy):
        if not all(isinstance(text, str) for text in (component.target, component.summary)):
            return "has a target or summary that is no text"
    else:
        from gendiff.component import Component

        if not isinstance(component, type) or not issubclass(component, Component):
            return "is not a component class"
    if not all(isinstance(text, str) and text for text in (component.kind, component.name)):
        return 'has no kind and name: derive it from an interface such as BlurSchedule, and write name = "..." without a type'
    if unfit := [text for text in (component.kind, component.name) if not NAME.fullmatch(text)]:
        return f"is called {unfit[0][:100]!r}, which {UNTYPABLE}"
    missing = sorted(getattr(component, "__abstractmethods__", ()))
    return f"lacks {', '.join(missing)}" if missing else ""


def registry_in_force() -> Registry:
    """The registry that names are looked up in here."""
    owner = getattr(resolver(), "__self__", None)
    return owner if isinstance(owner, Registry) else default_registry()


@cache
def default_registry() -> Registry:
    """The registry of everything installed, loaded once."""
    return Registry()
