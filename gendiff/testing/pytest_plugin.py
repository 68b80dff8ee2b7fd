"""The pytest plugin: fixtures for the authors of gendiff plugins. It is loaded in every pytest session, and imports little."""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gendiff.plugin.registry import Registry


MARKER = "gendiff_formula: what the example that `gendiff plugins new` wrote computes; it changes with the formula"
CHANGES = (
    "This test states what the example computes that `gendiff plugins new` wrote. If you have changed the formula, change or "
    "delete it; the tests without the mark `gendiff_formula` hold for any formula."
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", MARKER)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where a test of an example's formula fails, say that it is one."""
    report = yield
    if report.failed and item.get_closest_marker("gendiff_formula"):
        report.sections.append(("a test of the example's formula", CHANGES))
    return report


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
