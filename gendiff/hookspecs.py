"""What a plugin may tell gendiff.

A plugin is a module (or any object) registered through an entry point of the group ``gendiff``, or a file given with
``--plugin``. It marks functions of these names with ``@hookimpl``. A hook that gendiff does not know is an error, so that a
misspelling is heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pluggy

from gendiff.component import Component, Lazy

GROUP = "gendiff"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def gendiff_components() -> Iterable[type[Component] | Lazy]:  # type: ignore[empty-body]  # a specification has no body
    """The components that this plugin provides: classes, or `Lazy` announcements that cost no import."""


@hookspec
def gendiff_presets() -> Mapping[str, Path]:  # type: ignore[empty-body]  # a specification has no body
    """Named TOML files, each a complete or partial configuration for ``--preset``."""
