"""gendiff: generalized diffusion in a rotated coordinate system, each component at its own speed.

The names below are imported on first use, so that ``import gendiff`` does not import torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# The first class of pydantic reads the entry points of everything installed, in search of plugins of its own: one damaged
# distribution, and nothing works. They would also be code that comes in by another door than ours. Set it to "" to have them.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from gendiff.component import Component, Lazy, set_default_resolver
from gendiff.errors import GendiffError
from gendiff.hookspecs import hookimpl

if TYPE_CHECKING:
    from gendiff.config import Config
    from gendiff.data import Data
    from gendiff.diffusion import Diffusion
    from gendiff.features import Features
    from gendiff.grid import Grid
    from gendiff.level import Level
    from gendiff.logger import Logger
    from gendiff.metric import Metric
    from gendiff.model import Model
    from gendiff.moments import Moments
    from gendiff.objective import Objective
    from gendiff.process import Process
    from gendiff.rotation import Rotation, SeparableRotation
    from gendiff.sampler import GridSampler, Past, Sampler, Update, sample
    from gendiff.scales import BlurScales, Scales, VariancePreserving
    from gendiff.schedule import BlurSchedule, NoiseSchedule
    from gendiff.score import GaussianScore, NetworkScore, Parametrization, Pivot, ScoreModel
    from gendiff.velocity import Velocity

__version__ = "0.1.0"

__all__ = [
    "BlurScales",
    "BlurSchedule",
    "Component",
    "Config",
    "Data",
    "Diffusion",
    "Features",
    "GaussianScore",
    "GendiffError",
    "Grid",
    "GridSampler",
    "Lazy",
    "Level",
    "Logger",
    "Metric",
    "Model",
    "Moments",
    "NetworkScore",
    "NoiseSchedule",
    "Objective",
    "Parametrization",
    "Past",
    "Pivot",
    "Process",
    "Rotation",
    "Sampler",
    "Scales",
    "ScoreModel",
    "SeparableRotation",
    "Update",
    "VariancePreserving",
    "Velocity",
    "default_registry",
    "hookimpl",
    "sample",
]

_MODULE_OF = {
    "BlurScales": "scales",
    "BlurSchedule": "schedule",
    "Config": "config",
    "Data": "data",
    "Diffusion": "diffusion",
    "Features": "features",
    "GaussianScore": "score",
    "Logger": "logger",
    "Metric": "metric",
    "Grid": "grid",
    "GridSampler": "sampler",
    "Level": "level",
    "Model": "model",
    "Moments": "moments",
    "NetworkScore": "score",
    "NoiseSchedule": "schedule",
    "Objective": "objective",
    "Parametrization": "score",
    "Past": "sampler",
    "Pivot": "score",
    "Process": "process",
    "Rotation": "rotation",
    "Sampler": "sampler",
    "Scales": "scales",
    "ScoreModel": "score",
    "SeparableRotation": "rotation",
    "Update": "sampler",
    "VariancePreserving": "scales",
    "Velocity": "velocity",
    "default_registry": "registry",
    "sample": "sampler",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'gendiff' has no attribute '{name}'")
    return getattr(import_module(f"gendiff.{_MODULE_OF[name]}"), name)


def _resolve_installed(kind: str, name: str) -> type[Component]:
    from gendiff.registry import default_registry

    return default_registry().resolve(kind, name)


set_default_resolver(_resolve_installed)
