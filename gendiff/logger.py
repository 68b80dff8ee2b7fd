r"""Logger: someone who watches a run because the user asked for it (``--logger tensorboard``).

A logger component is the recipe; what watches is the observer that it makes, an object whose methods are marked with
``@hookimpl`` and named like the lifecycle hooks of `gendiff.plugin.hookspecs`. Observers are never needed: one that fails is
switched off for the rest of the run, and run.json says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from gendiff.component import Component, abstractmethod


class Logger(Component):
    """Makes an observer; an author gives `observer`."""

    kind: ClassVar[str] = "logger"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    def ready(self) -> None:
        """Raise `ConfigError` where a library it needs is missing; asked before a run is made."""

    def rehearsal(self) -> Logger:
        """The logger with which a check may try this one: it must tell nobody outside this machine."""
        return self

    @abstractmethod
    def observer(self, run: Path) -> object:
        """A fresh observer of the run in that directory; asked once, before the first step."""
