"""Observers: whoever watches a run through the lifecycle hooks, and may fail without harm."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pluggy

from gendiff.errors import reason
from gendiff.plugin import hookspecs
from gendiff.plugin.hookspecs import GROUP, register


class Observers:
    """Calls the lifecycle hooks of every observer.

    Args:
        observers: name and object of each; its methods marked with ``@hookimpl`` are the hooks it takes.
        complain: told ``(name, reason)`` when an observer raised and was switched off.

    """

    def __init__(
        self,
        observers: Iterable[tuple[str, object]] = (),
        complain: Callable[[str, str], None] = lambda name, why: None,
    ) -> None:
        self.complain = complain
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        for name, observer in observers:
            self.add(name, observer)

    def add(self, name: str, observer: object) -> None:
        """Let one more watch; one that cannot be registered counts as failed."""
        try:
            register(self._manager, observer, name)
        except Exception as error:  # an observer may be anything; it must not end a run
            self.complain(name, reason(error))

    def make(self, name: str, observer: Callable[[], object]) -> None:
        """Let one more watch, who has to be made first."""
        try:
            watcher = observer()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # an observer may be anything; it must not end a run
            self.complain(name, reason(error))
        else:
            self.add(name, watcher)

    def notify(self, hook: str, **facts: Any) -> None:
        """Call one hook of every observer, in the order they were added."""
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            try:
                with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                    # Copies: an observer may change what it is told, and nobody else must notice.
                    implementation.function(*(copy.deepcopy(facts[name]) for name in implementation.argnames))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # an observer may raise anything; it must not end a run
                self._manager.unregister(implementation.plugin)
                self.complain(implementation.plugin_name, f"{hook}: {reason(error)}")
