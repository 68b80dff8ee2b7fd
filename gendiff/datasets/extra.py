"""Extra: a library that one source of events needs and gendiff does not, imported when that source is read."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gendiff.errors import ConfigError


def extra(library: str, data: str, otherwise: str = "", name: str = "") -> Any:
    """The module of a library.

    Args:
        data: who needs it, by its name.
        otherwise: what one can do without it.
        name: of the extra that installs it; by default that of the library.

    Raises:
        ConfigError: where it is not installed, saying how it is.

    """
    try:
        return import_module(library)
    except ImportError as error:
        raise ConfigError(
            f"data '{data}' needs the library {library.partition('.')[0]}, which is not installed",
            fix=f'pip install "gendiff[{name or library}]"' + (f", or {otherwise}" if otherwise else ""),
            subject="data.name",
        ) from error
