"""Speeds: those that a run has learned up to a checkpoint, as its process.

``process.safetensors`` holds the process with which a run began. Where its velocity is learned (`Velocity.trained`), each
checkpoint holds what it has become: the tensors that are learned, and the scales that they make, so that a run can be sampled
without the plugin of its velocity.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.errors import DataError, GendiffError
from gendiff.run import checkpoint
from gendiff.run.config import Config
from gendiff.run.stored import StoredVelocity, difference, scales_tensors

GROUP = "speeds"  # of a checkpoint
_LEARNED, _SCALES = "learned.", "scales."


def group(learned: Mapping[str, Tensor], diffusion: Diffusion) -> dict[str, Tensor]:
    """What a checkpoint keeps of learned tensors and of the process that they make."""
    scales = scales_tensors(diffusion.scales)
    named = {f"{_LEARNED}{name}": value for name, value in learned.items()}
    return named | {f"{_SCALES}{name}": value.detach().cpu() for name, value in scales.items()}


def learned_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The learned ones of the tensors that a checkpoint keeps."""
    return _named(tensors, _LEARNED)


def moved(config: Config, tensors: Mapping[str, Tensor], where: str = "") -> Config:
    """A configuration, fitted, with the process of a checkpoint; the same where that keeps none.

    By its velocity where that still gives these numbers, by the numbers where it does not, or is gone.

    Raises:
        DataError: where they are no process of these events.

    """
    if not tensors:
        return config
    try:
        numbers = config.velocity_of(StoredVelocity().with_learned(_named(tensors, _SCALES)))
        learned = learned_of(tensors)
        if learned.keys() != set(config.velocity.trained):
            return numbers
        own = config.with_trained(learned)
        return numbers if difference(own.diffusion(), numbers.diffusion()) else own
    except (GendiffError, KeyError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the speeds of a checkpoint make no process: {error!s:.200}",
            where=where,
            fix="move that checkpoint to another place to use the one before it",
        ) from error


def newest(config: Config, checkpoints: Path, step: int | None = None) -> Config:
    """A configuration with the process of a checkpoint, the newest where no step is named; the same where there is none.

    Only the process is read of it. Raises `DataError` where it is damaged, or there is no checkpoint of that step.
    """
    if step is not None and step not in checkpoint.steps(checkpoints):
        checkpoint.at(checkpoints, step)  # raises, and says which there are
    for one in checkpoint.steps(checkpoints) if step is None else [step]:
        path = checkpoint.directory(checkpoints, one)
        try:
            return moved(config, checkpoint.part(path, GROUP), str(path / f"{GROUP}.safetensors"))
        except DataError:
            if step is not None:
                raise
    return config


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
