"""The fixture that holds the given plugins alone."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from parts import Ramp

from gendiff import BlurSchedule, Lazy, Velocity, component, hookimpl
from gendiff.errors import ConfigError


class Bad:
    """a plugin that announces what is not there."""

    def __init__(self, found: Callable[[], list[Any]]) -> None:
        self.gendiff_components = hookimpl(found)


def raises() -> list[Any]:
    raise RuntimeError("no components today")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (raises, "no components today"),
        (lambda: [int], "is not a component class"),
        (lambda: [Lazy("schedule", "gone", "a_module_that_is_not_here:Gone", "is not there")], "schedule 'gone': "),
        (lambda: [type("Linear", (Ramp,), {"name": "linear"})], "schedule 'linear' is already provided by gendiff"),
        (lambda: print("loud") or [], "it printed at import: 'loud'"),
    ],
    ids=["raises", "no-component", "announces-nothing", "name-taken", "prints"],
)
def test_the_fixture_fails_on_a_broken_plugin(gendiff_registry, found, says):
    before = component.component_class("schedule", "linear")
    with pytest.raises(AssertionError, match=says):
        gendiff_registry(Bad(found))
    assert component.component_class("schedule", "linear") is before


def test_the_fixture_holds_gendiffs_plugins_and_the_given_ones_alone(gendiff_registry, monkeypatch):
    class Sine(Ramp):
        """another."""

        name = "sine"

    plugin = types.ModuleType("acme")
    plugin.gendiff_components = hookimpl(lambda: [Sine])  # type: ignore[attr-defined]
    registry = gendiff_registry(plugin)
    assert {entry.provider.distribution for entry in registry.entries()} == {"gendiff", "acme"}
    assert registry.component_class("schedule", "sine") is Sine
    assert BlurSchedule.model_validate("sine") == Sine()  # by the resolver in force
    assert Velocity.model_validate("blur:schedule=sine").schedule == Sine()
    other = gendiff_registry()
    assert "sine" not in other.names("schedule")
    with pytest.raises(ConfigError, match="unknown schedule 'sine'"):
        BlurSchedule.model_validate("sine")


PLUGIN_SESSION = """
import pytest
from gendiff import names

def mine(kind, name):
    return "mine"

def resolver():
    return names.default_resolver()

@pytest.fixture(scope="module", autouse=True)
def own():
    names.set_default_resolver(mine)

def test_in_force(gendiff_registry):
    registry = gendiff_registry()
    assert resolver() == registry.component_class

def test_restored():
    assert resolver() is mine

def test_after_a_failure(gendiff_registry):
    gendiff_registry()
    assert resolver() is not mine
    raise ValueError("on purpose")

def test_restored_again():
    assert resolver() is mine
"""


def test_the_fixture_restores_what_was_in_force(tmp_path):
    (tmp_path / "test_session.py").write_text(PLUGIN_SESSION)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_session.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 3 passed" in done.stdout, done.stdout
    assert "ValueError: on purpose" in done.stdout


def test_a_pytest_session_does_not_import_torch():
    code = (
        "import sys, gendiff.testing.pytest_plugin; assert not {'torch', 'numpy'} & {*sys.modules};"
        "from gendiff.testing import SmoothNoise, fitted, checks; assert 'torch' in sys.modules;"
        "import gendiff.testing as kit; assert all(hasattr(kit, name) for name in kit.__all__);"
        "assert not hasattr(kit, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
