"""Weights: those of a run that are asked for, in a network that is ready to be asked."""

from __future__ import annotations

from typing import NamedTuple

import torch

from gendiff.command import option, setting
from gendiff.denoiser import Denoiser
from gendiff.errors import ConfigError
from gendiff.run import checkpoint, posthoc, speeds
from gendiff.run.config import Config
from gendiff.run.directory import Run
from gendiff.run.network import build_denoiser, hasten, load_weights
from gendiff.run.settings import TrainSettings


class Loaded(NamedTuple):
    """A network, the configuration of its run with the process that it had then, the step, which weights, and their hash."""

    config: Config
    denoiser: Denoiser
    step: int
    group: str
    digest: str


def loaded(
    run: Run,
    device: torch.device,
    ema: bool | str = True,
    problems: list[str] | None = None,
    precision: str = "fp32",
    compiled: bool = False,
    step: int | None = None,
) -> Loaded:
    """Arguments and errors are those of `TrainedModel.load`."""
    kind, _, width = ema.partition(":") if isinstance(ema, str) else ("", "", "")
    groups = ("model",) if kind == "posthoc" else _groups(run.config.train, ema)
    newest = (
        checkpoint.newest(run.checkpoints, problems, groups)
        if step is None
        else checkpoint.at(run.checkpoints, step, groups)
    )
    path = checkpoint.directory(run.checkpoints, newest.step)
    config = speeds.moved(run.config, newest.tensors.get(speeds.GROUP, {}), str(path))
    denoiser = build_denoiser(config, device)
    if kind == "posthoc":
        weights = posthoc.average(run.snapshots, _width(width), newest.step, problems)
        load_weights(denoiser.network, weights, str(run.snapshots))
        hasten(denoiser, precision, compiled)
        return Loaded(config, denoiser.eval(), newest.step, f"posthoc-{_width(width)!r}", posthoc.digest(weights))
    group = next((one for one in groups if one in newest.tensors), groups[-1])
    load_weights(denoiser.network, newest.tensors.get(group, {}), str(path / f"{group}.safetensors"))
    hasten(denoiser, precision, compiled)
    return Loaded(config, denoiser.eval(), newest.step, group, checkpoint.weights_hash(path, group))


def _groups(settings: TrainSettings, ema: bool | str) -> tuple[str, ...]:
    """The groups of a checkpoint of which the first that there is are the weights that are asked for."""
    averages = settings.averages
    if isinstance(ema, bool):
        return (*list(averages)[:1], "model") if ema else ("model",)
    try:
        return (next(group for group, decay in averages.items() if decay == float(ema)),)
    except (ValueError, StopIteration):
        known = [*(f"{decay!r}" for decay in averages.values()), *(["posthoc:WIDTH"] if settings.posthoc else [])]
        raise ConfigError(
            f"the run has no averaged weights '{ema}'",
            where=option("--ema"),
            details=[f"it has: {', '.join(known) or 'none'}"],
            fix=f"choose one of them, or {option('--no-ema')} for the raw weights"
            + (
                ""
                if settings.posthoc
                else f"; runs with {setting('train.posthoc', '[0.05,0.1]')} have any, as posthoc:WIDTH"
            ),
        ) from None


def _width(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"cannot read the width '{text}'",
            where=option("--ema"),
            fix=f"write {option('--ema', 'posthoc:0.1')}: its std in parts of the run",
        ) from None
