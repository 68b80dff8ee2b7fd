"""Conformance: does a component keep what its interface promises?

`checks` gives the checks of a component, each a callable with a title; it returns what it saw and raises `CheckFailed` (an
`AssertionError`) with what was expected, what was seen and where to look. ``gendiff plugins check`` prints them as a score card;
a plugin's own tests run them through pytest:

    @pytest.mark.parametrize("check", checks(Sine(f_max=0.2)), ids=str)
    def test_conforms(check):
        check()

The checks of a kind live in the module of that name (`gendiff.testing.rotation`, ...). A new kind brings its own: functions
marked with ``@check(kind, title)`` in the module that defines it.

The pytest fixture ``gendiff_registry`` makes a registry of gendiff's own plugins and those given to it, whatever else is
installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gendiff.testing.card import Check, CheckFailed, Line, check, checks, require, score

if TYPE_CHECKING:
    from gendiff.testing.probes import SmoothNoise, fitted, fitted_velocity, level

__all__ = [
    "Check",
    "CheckFailed",
    "Line",
    "SmoothNoise",
    "check",
    "checks",
    "fitted",
    "fitted_velocity",
    "level",
    "require",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in ("SmoothNoise", "fitted", "fitted_velocity", "level"):
        raise AttributeError(f"module 'gendiff.testing' has no attribute '{name}'")
    from gendiff.testing import probes  # it needs torch, which a pytest session without gendiff should not import

    return getattr(probes, name)
