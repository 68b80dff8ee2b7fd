"""Names: who knows which class a kind and a name stand for.

It is somebody above: a registry of plugins, set here by whoever makes one. So a component can be named where no registry is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Resolver = Callable[[str, str], Any]

_resolver: ContextVar[Resolver | None] = ContextVar("resolver", default=None)
_default: list[Resolver] = []


def set_default_resolver(resolver: Resolver) -> None:
    """Set how ``(kind, name)`` becomes a class wherever no other resolver is in force."""
    _default[:] = [resolver]


def default_resolver() -> Resolver:
    """That one."""
    return _default[0]


def resolver() -> Resolver:
    """The one in force."""
    return _resolver.get() or default_resolver()


@contextmanager
def resolving_with(resolver: Resolver) -> Iterator[None]:
    """Look names up with ``resolver`` inside the block."""
    token = _resolver.set(resolver)
    try:
        yield
    finally:
        _resolver.reset(token)
