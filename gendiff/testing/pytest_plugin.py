"""The pytest plugin: fixtures for the authors of gendiff plugins. It is loaded in every pytest session, and imports little."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gendiff.plugin.registry import Registry


@pytest.fixture
def gendiff_registry() -> Iterator[Callable[..., Registry]]:
    """Makes a registry of gendiff's own plugins and the given ones (modules or objects), and puts it in force for the test.

    Other installed plugins are not there. A plugin that is broken fails the test.
    """
    from gendiff.names import default_resolver, set_default_resolver
    from gendiff.plugin.discovery import Plugin, Provider
    from gendiff.plugin.registry import Registry

    def make(*plugins: Any) -> Registry:
        providers = [
            Provider(getattr(plugin, "__name__", type(plugin).__name__), "", repr(plugin)) for plugin in plugins
        ]
        wrappers = [
            Plugin(provider, partial(operator.itemgetter(0), (plugin,)))
            for provider, plugin in zip(providers, plugins, strict=True)
        ]
        registry = Registry(third_party=False, plugins=wrappers)
        problems = registry.health()  # announcements are followed too
        assert not problems, "; ".join(f"{problem.provider}: {problem.why}" for problem in problems)
        set_default_resolver(registry.component_class)
        return registry

    before = default_resolver()
    yield make
    set_default_resolver(before)
