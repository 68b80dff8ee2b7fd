"""Shorthand: short words for keys of the configuration, as the command line and arms write them."""

from __future__ import annotations

from gendiff.errors import ConfigError
from gendiff.shapes import HOW, sides

#: Each short word, which is an option without its dashes, and the key that it sets; a component comes before its parameters.
KEYS = {
    "process": "process",
    "rotation": "rotation",
    "velocity": "velocity",
    "schedule": "velocity.schedule",
    "noise": "velocity.noise",
    "objective": "objective",
    "levels": "train.levels",
    "model": "model",
    "data": "data",
    "size": "data.size",
    "latent": "latent",
    "condition": "condition",
    "hold-out": "hold_out",
    "sampler": "sampler",
    "grid": "sampler.grid",
    "prior": "sampler.prior",
    "logger": "train.loggers",
    "metric": "train.metrics",
    "steps": "train.steps",
    "batch": "train.batch",
    "lr": "train.lr",
    "ema": "train.ema",
    "precision": "train.precision",
    "seed": "train.seed",
    "compile": "train.compile",
    "keep": "train.keep",
    "checkpoint-every": "train.checkpoint_every",
    "deterministic": "train.deterministic",
}


def parse_size(text: str, where: str = "--size") -> int | list[int]:
    """``"32"``, ``"32x48"`` or ``"[32, 48]"``; raises `ConfigError` for anything else."""
    try:
        size = sides(text)
    except ValueError as error:
        raise ConfigError(f"cannot read the size '{text}'", where=where, fix=str(error)) from None
    if isinstance(size, list) and len(size) > 2:
        raise ConfigError(f"the size '{text}' has {len(size)} sides", where=where, fix=HOW)
    return size
