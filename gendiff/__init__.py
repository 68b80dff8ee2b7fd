"""gendiff: generalized diffusion in a rotated coordinate system, each component at its own speed.

The public names are those of ``__init__.pyi``. They are imported on first use: ``import gendiff`` imports
neither torch nor pydantic.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

# The first class of pydantic reads the entry points of everything installed, in search of plugins of its own: one damaged
# distribution, and nothing works. They would also be code that comes in by another door than ours. Set it to "" to have them.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from gendiff.names import set_default_resolver
from gendiff.version import __version__ as __version__

_MODULE_OF = {
    name: module
    for module, name in re.findall(
        r"^from (\S+) import (\w+) as \2$", Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"), re.MULTILINE
    )
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'gendiff' has no attribute '{name}'")
    place = import_module(_MODULE_OF[name])  # of a package, its modules are public
    value = import_module(f"{place.__name__}.{name}") if hasattr(place, "__path__") else getattr(place, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _installed(kind: str, name: str) -> Any:
    from gendiff.plugin.registry import default_registry

    return default_registry().component_class(kind, name)


set_default_resolver(_installed)
