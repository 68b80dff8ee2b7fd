"""What a plugin may tell gendiff, and what gendiff tells a plugin.

A plugin is a module (or any object) registered through an entry point of the group ``gendiff``, or a file given with
``--plugin``. It marks functions of these names with ``@hookimpl`` and takes those of their arguments that it needs. A hook that
gendiff does not know is an error, so that a misspelling is heard.

A plugin may say which version of this interface it was written for: ``gendiff_api_version = 1`` in the module. One that is newer
than `API_VERSION` is refused with that reason.

This module imports neither torch nor pydantic, and no more should a module that announces: then names are listed and completed
in a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import Tensor

    from gendiff.component import Component

GROUP = "gendiff"
API_VERSION = 1
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

# --- what a plugin provides -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lazy:
    """A component announced without importing it: what a listing needs, and where to find the class.

    Args:
        kind, name, summary: as the class itself says them (its docstring's first line is the summary).
        target: ``"package.module:Class"``.

    """

    kind: str
    name: str
    target: str
    summary: str = ""


@hookspec
def gendiff_components() -> Iterable[type[Component] | Lazy]:
    """The components that this plugin provides: classes, or `Lazy` announcements that cost no import."""


@hookspec
def gendiff_presets() -> Mapping[str, Path]:
    """Named TOML files, each a complete or partial configuration for ``--preset``."""


# --- what happens in a run: observers -----------------------------------------------------------------------------------
# Called in the main process only. An observer that raises is switched off for the rest of the run; the run goes on.


@hookspec
def gendiff_run_started(run: Path, config: Mapping[str, Any], step: int) -> None:
    """Training begins, or goes on where ``step`` > 0 steps are done already.

    Args:
        run: the run directory.
        config: the configuration as nested plain values, as in config.toml.
        step: optimiser steps done so far.

    """


@hookspec
def gendiff_step(run: Path, step: int, loss: float, images_per_s: float) -> None:
    """An optimiser step is done; ``loss`` is the mean since the last row of metrics.jsonl.

    It is not a number where every step since then was skipped.
    """


@hookspec
def gendiff_metrics_ready(run: Path, step: int, values: Mapping[str, float]) -> None:
    """A row was added to metrics.jsonl: training losses every ``log_every`` steps, metrics whenever samples are drawn.

    Args:
        values: finite numbers by name, such as ``loss``, ``loss_bands.0``, ``lr``, ``spectrum.error``; none where there is none.

    """


@hookspec
def gendiff_samples_ready(run: Path, step: int, events: Tensor, picture: Path) -> None:
    """A grid of samples was drawn.

    Args:
        events: the samples, ``(n, *event)`` float32 on the CPU, in the range of the data.
        picture: the PNG that shows them.

    """


@hookspec
def gendiff_checkpoint_saved(run: Path, step: int, checkpoint: Path) -> None:
    """The checkpoint of ``step`` is on the disk, in the directory ``checkpoint``."""


@hookspec
def gendiff_run_ended(run: Path, step: int, status: str) -> None:
    """Training is over: ``status`` is ``done``, ``stopped`` (on request, resumable) or ``failed``."""


# --- who is asked and told ----------------------------------------------------------------------------------------------


def register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    """Let ``plugin`` take part; one with a hook that would never be called, such as a misspelt one, is refused and left out.

    Raises:
        PluginValidationError: with the hook and what is wrong with it.

    """
    try:
        manager.register(plugin, name=name)
        manager.check_pending()
        for caller in manager.get_hookcallers(plugin) or ():
            if any(own.plugin is plugin and (own.wrapper or own.hookwrapper) for own in caller.get_hookimpls()):
                raise pluggy.PluginValidationError(plugin, f"{caller.name} is a wrapper, and there is nothing to wrap")
    except Exception:  # whatever it is, it goes on to the caller: a plugin that is half registered must not stay
        if manager.is_registered(plugin):
            manager.unregister(plugin)
        raise


#: The hooks of observers.
LIFECYCLE = (
    "gendiff_run_started",
    "gendiff_step",
    "gendiff_metrics_ready",
    "gendiff_samples_ready",
    "gendiff_checkpoint_saved",
    "gendiff_run_ended",
)
