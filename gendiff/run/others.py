"""Others: what a guide may ask besides the network of its run, the networks of other checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from weakref import WeakKeyDictionary

from gendiff.denoiser import Denoiser
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.guide import Scene
from gendiff.machine.recording import recorder_for
from gendiff.run import checkpoint
from gendiff.run.asked import Asked
from gendiff.run.directory import Run
from gendiff.run.network import score_of
from gendiff.run.replayed import Replayed
from gendiff.run.stored import difference
from gendiff.run.weights import loaded
from gendiff.score import ScoreModel

_loaded: WeakKeyDictionary[Denoiser, dict[Hashable, ScoreModel]] = WeakKeyDictionary()  # beside each that is drawn from


def scene_of(run: Run, denoiser: Denoiser, asked: Asked, process: Diffusion) -> Scene:
    """What guides may know of what is drawn."""
    return Scene(process, run.config.train.condition_dropout, _others(run, denoiser), asked.measurement)


def _others(run: Run, denoiser: Denoiser) -> Callable[[str], ScoreModel]:
    """The networks of other checkpoints, by ``@STEP`` of this run or ``RUN@STEP``; see `Scene.other`.

    Each is loaded once and lives as long as ``denoiser``: it is asked at each step, and pictures may be drawn a few at a time.
    """
    device, known = next(denoiser.parameters()).device, dict[str, ScoreModel]()
    recorder, kept = recorder_for(device), _loaded.setdefault(denoiser, {})

    def other(name: str) -> ScoreModel:
        if name not in known:
            known[name] = find(name)
        return known[name]

    def find(name: str) -> ScoreModel:
        path, step, raw = _named(name)
        source = Run.open(path) if path else run
        if source.config.conditions != run.config.conditions:
            raise ConfigError(
                f"'{name}' is told of other conditions than this run",
                details=[f"of {', '.join(source.config.conditions) or 'nothing'}; the classes and ranges count too"],
                fix="name a run that is told of the same",
            )
        there = checkpoint.steps(source.checkpoints)
        if step is not None and step not in there:
            raise ConfigError(
                f"'{name}' names no checkpoint: there is none of step {step}",
                details=[f"steps in '{source.checkpoints}': {', '.join(map(str, sorted(there))) or 'none'}"],
                fix="name one of them; train with --keep to have more of them",
            )
        latest = max(there, default=0) if step is None else step
        key = source.path.resolve(), source.info["id"], latest, raw, device, denoiser.precision, recorder
        if key in kept:
            return kept[key]
        model = loaded(source, device, not raw, precision=denoiser.precision, step=step).denoiser
        if apart := difference(model.diffusion, denoiser.diffusion):
            raise ConfigError(
                f"'{name}' was trained with another process than this run",
                details=[f"they differ: {apart}"],
                fix="name a run of the same process",
            )
        network = model if recorder is None else Replayed(model, recorder)
        kept[key] = score_of(network, model.diffusion, source.config)
        return kept[key]

    return other


def _named(name: str) -> tuple[Path | None, int | None, bool]:
    """The run, None for this one, the step, None for the newest, and whether raw weights are meant."""
    path, at, step = name.rpartition("@")
    step, colon, kind = step.partition(":")
    if not at or not (step == "last" or step.isdecimal()) or (colon and kind != "raw"):
        raise ConfigError(
            f"'{name}' names no checkpoint",
            details=[
                "allowed: @STEP of this run, RUN@STEP of another, @last for the newest, :raw after it for raw weights"
            ],
            fix="write such as @1000, @last:raw or runs/small@1000",
        )
    return Path(path) if path else None, None if step == "last" else int(step), bool(colon)
