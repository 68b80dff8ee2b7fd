"""Extra: a library that one component needs and gendiff does not, imported when it is needed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from gendiff.errors import GendiffError, PluginError


def extra(
    library: str,
    whose: str,
    subject: str = "",
    name: str = "",
    otherwise: str = "",
    error: type[GendiffError] = PluginError,
) -> Any:
    """The module of a library.

    Args:
        whose: who needs it, in words: ``data 'parquet'``.
        subject: the setting that asks for it.
        name: of the extra that installs it; by default that of the library.
        otherwise: what one can do without it.
        error: what is raised where it is not installed, saying how it is.

    """
    try:
        return import_module(library)
    except ImportError as cause:
        raise error(
            f"{whose} needs the library {library.partition('.')[0]}, which is not installed",
            fix=f"pip install 'gendiff[{name or library}]'" + (f", or {otherwise}" if otherwise else ""),
            subject=subject,
        ) from cause


@contextmanager
def silent(library: str) -> Iterator[None]:
    """Inside the block a library says nothing of what it does in its log: we look at that ourselves."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
