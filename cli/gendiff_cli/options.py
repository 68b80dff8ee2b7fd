"""Options that several commands share, and how they become layers of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gendiff.errors import ConfigError
from gendiff.plugin.registry import Registry, default_registry


def complete(kind: str) -> Callable[[str], list[str]]:
    """Shell completion of component names; loads no torch."""
    return complete_from(lambda registry: registry.names(kind))


def complete_from(names: Callable[[Registry], Iterable[str]]) -> Callable[[str], list[str]]:
    """Shell completion of what a registry knows."""

    def completed(incomplete: str) -> list[str]:
        return sorted({name for name in names(default_registry()) if name.startswith(incomplete)})

    return completed


def numbers(text: str, where: str, example: str, least: int = 1) -> tuple[int, ...]:
    """The different whole numbers in ``"10,20,50"``, ``least`` or more; a comma may end them."""
    try:
        found = tuple(int(part) for part in text.strip().removesuffix(",").split(","))
    except ValueError:
        found = ()
    if not found or min(found) < least or len(set(found)) < len(found):
        raise ConfigError(
            f"cannot read the numbers '{text}'",
            where=where,
            details=[f"allowed: different whole numbers from {least} on, with commas between them"],
            fix=f"write {where} {example}",
        )
    return found


def _component(kind: str, text: str) -> Any:
    return typer.Option(help=text, metavar="SPEC", autocompletion=complete(kind), rich_help_panel="Components")


RotationOption = Annotated[str | None, _component("rotation", "Coordinate system U: identity, dct, blur-eigen, ...")]
ScheduleOption = Annotated[str | None, _component("schedule", "Blur schedule f(i): quartic, log, 'log:f_max=0.6', ...")]
VelocityOption = Annotated[str | None, _component("velocity", "Speed of each component: blur, isotropic, ...")]
ProcessOption = Annotated[
    str | None, _component("process", "Rotation and velocity under one name: ddpm, blur-diffusion, ...")
]
NoiseOption = Annotated[str | None, _component("noise", "Noise schedule β_i: linear, cosine, ...")]
ObjectiveOption = Annotated[str | None, _component("objective", "What the network predicts: eps, x0, v, ...")]
ModelOption = Annotated[str | None, _component("model", "Network: unet, 'unet:channels=64', mlp, ...")]
DataOption = Annotated[str | None, _component("data", "Data: digits, dead-leaves, 'folder:path=DIR', ...")]
SamplerOption = Annotated[str | None, _component("sampler", "Sampler: ancestral, 'ddim:steps=50', dpmpp-2m, ...")]
GridOption = Annotated[str | None, _component("grid", "At which steps: uniform, lambda, arc-length, ...")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Model evaluations for each sample.")]
PriorOption = Annotated[
    str | None,
    typer.Option(
        help="Where chains start: standard (noise), matched (the data's moments at N), data (an event of theirs)."
    ),
]

LoggerOption = Annotated[
    list[str] | None, _component("logger", "Who watches besides metrics.jsonl: tensorboard, wandb; may be given again.")
]
MetricOption = Annotated[
    list[str] | None, _component("metric", "What is measured on sample grids: spectrum, ...; may be given again.")
]

PresetOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Start from a shipped configuration; may be given again.", autocompletion=complete_from(Registry.presets)
    ),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Read a TOML file.", metavar="FILE")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Set any value, such as train.grad_clip=0.5.", metavar="A.B=C")
]
SizeOption = Annotated[str | None, typer.Option(help="Size of pictures: 32, or 32x48 (height x width).")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:K; a GPU where there is one.")]


def layers(
    registry: Registry,
    presets: list[str] | None,
    file: Path | None,
    assignments: list[str] | None,
    flags: Mapping[str, Any],
) -> list[Any]:
    """The layers of the configuration in order of precedence; flags that are None were not given."""
    from gendiff.run.config import Layer, refuse_second_velocity
    from gendiff.run.shorthand import KEYS, parse_size

    refuse_second_velocity(flags.get("process"), flags.get("velocity"), "--velocity")
    found = [Layer.from_file(registry.preset(name), f"preset {name}") for name in presets or []]
    if file is not None:
        found.append(Layer.from_file(file))
    found += [Layer.from_assignment(assignment) for assignment in assignments or []]
    for flag, value in flags.items():
        if value is not None:
            found.append(Layer.at(f"--{flag}", KEYS[flag], parse_size(value) if flag == "size" else value))
    return found
