"""gendiff-sine: a plugin for gendiff."""

from __future__ import annotations

from gendiff import Lazy, hookimpl

gendiff_api_version = 1


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the schedule; its module, and torch with it, is imported when it is used."""
    return [
        Lazy(
            "schedule",
            "sine",
            "gendiff_sine.schedule:Sine",
            "f(i) = f_max sin²(π i / 2N)",
        ),
    ]
