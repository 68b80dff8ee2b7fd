"""Blame: whose code raised an error that nobody foresaw."""

from __future__ import annotations

from collections.abc import Iterable
from types import FrameType

from gendiff.command import again
from gendiff.component import Component
from gendiff.errors import GendiffError, PluginError, reason
from gendiff.machine.memory import shortage
from gendiff.plugin.registry import Entry


def culprit(error: BaseException, entries: Iterable[Entry]) -> Entry | None:
    """The component, of these, in whose code ``error`` was raised; None for nobody's.

    Code of gendiff that fails in the hands of others is their failure.
    """
    candidates, suspect = list(entries), None
    for frame in reversed(_frames(error)):
        if (owner := _owner(frame, candidates)) is None:
            continue
        if not owner.provider.built_in and (suspect is None or _package(owner.module) == _package(_module(frame))):
            return owner
        suspect = suspect or owner
    return suspect


def accusation(entry: Entry, error: BaseException) -> PluginError:
    """That a component failed, and at what."""
    return PluginError(
        f"{entry.kind} '{entry.name}' of {entry.provider} failed: {reason(error)}",
        fix=f"see the traceback: {again('-v')}",
    )


def named(error: Exception, entries: Iterable[Entry]) -> Exception:
    """The same error with its culprit in it, for whoever is given it without the frames that it was raised in."""
    about_something_else = isinstance(error, OSError) or bool(shortage(error))
    if about_something_else or (entry := culprit(error, entries)) is None:
        return error
    if not isinstance(error, GendiffError):
        return accusation(entry, error).with_traceback(error.__traceback__)
    if isinstance(error, PluginError) and str(entry.provider) not in str(error):
        error.details = (*error.details, f"provided by {entry.provider}")
    return error


def _owner(frame: FrameType, entries: list[Entry]) -> Entry | None:
    """The component whose code runs in a frame, also where it runs what it inherits from an interface."""
    holder = frame.f_locals.get("self", frame.f_locals.get("cls"))
    cls, module = holder if isinstance(holder, type) else type(holder), _module(frame)
    if issubclass(cls, Component):
        itself = [entry for entry in entries if (entry.kind, entry.name) == (cls.kind, cls.name)]
        if itself:
            return itself[0]
    here = [entry for entry in entries if entry.module == module]
    near = [
        entry  # another module of the same package; gendiff's own packages hold more than one provider
        for entry in entries
        if not entry.provider.built_in and _package(entry.module) == _package(module)
    ]
    own = [entry for entry in here if entry.class_name == cls.__name__]
    return next(iter(own or here or near), None)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _package(module: str) -> str:
    return module.partition(".")[0]


def _frames(error: BaseException) -> list[FrameType]:
    """The frames through which it was raised, and those of what caused it, the innermost last."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return frames + (_frames(error.__cause__) if error.__cause__ else [])
