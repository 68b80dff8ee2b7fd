"""Options that several commands share, each declared once.

A command names those by which it is told of a configuration, and takes what was said with them as one argument::

    @configured("process rotation preset config set")
    def show(context: typer.Context, given: Given, json: JsonOption = False) -> None:
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.errors import ConfigError

if TYPE_CHECKING:
    from gendiff.plugin.registry import Registry
    from gendiff.run.config import Layer


def complete(kind: str) -> Callable[[str], list[str]]:
    """Shell completion of component names; loads neither torch nor pydantic."""
    return complete_from(lambda registry: registry.names(kind))


def complete_from(names: Callable[[Registry], Iterable[str]]) -> Callable[[str], list[str]]:
    """Shell completion of what a registry knows."""

    def completed(incomplete: str) -> list[str]:
        from gendiff.plugin.registry import default_registry

        return sorted({name for name in names(default_registry()) if name.startswith(incomplete)})

    return completed


def spec_option(kind: str, text: str, panel: str | None = None) -> Any:
    """An option that takes a component of a kind."""
    return typer.Option(help=text, metavar="SPEC", autocompletion=complete(kind), rich_help_panel=panel)


def weights_option(panel: str | None = None) -> Any:
    """The option that takes a file of weights."""
    return typer.Option(help="File of the Inception weights of pytorch-fid.", metavar="FILE", rich_help_panel=panel)


@contextmanager
def saying(option: str, subject: str, given: bool = True) -> Iterator[None]:
    """Errors about the value at ``subject`` that arise inside say that it came from an option, where it was ``given``."""
    try:
        yield
    except ConfigError as error:
        if given and error.subject == subject:
            error.where = option
        raise


def _component(kind: str, text: str) -> Any:
    return spec_option(kind, text, "Components")


def _training(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Training")


GridOption = Annotated[str | None, _component("grid", "At which steps: uniform, lambda, arc-length, ...")]
PriorOption = Annotated[
    str | None,
    typer.Option(
        help="Where chains start: standard (noise), matched (the data's moments at N), data (an event of theirs)."
    ),
]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Model evaluations for each sample.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:K; a GPU where there is one.")]
EmaOption = Annotated[bool, typer.Option("--ema/--no-ema", help="Use the averaged weights.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
RunArgument = Annotated[Path, typer.Argument(help="Run directory.", metavar="RUN")]
WeightsOption = Annotated[Path | None, weights_option()]

#: What a command line can say of a configuration: of its keys, by the short words of `gendiff.run.shorthand`, and as a whole.
OPTIONS: Mapping[str, Any] = {
    "process": Annotated[
        str | None, _component("process", "Rotation and velocity under one name: ddpm, blur-diffusion, ...")
    ],
    "rotation": Annotated[str | None, _component("rotation", "Coordinate system U: identity, dct, blur-eigen, ...")],
    "schedule": Annotated[str | None, _component("schedule", "Blur schedule f(i): quartic, log, 'log:f_max=0.6', ...")],
    "velocity": Annotated[str | None, _component("velocity", "Speed of each component: blur, isotropic, ...")],
    "noise": Annotated[str | None, _component("noise", "Noise schedule β_i: linear, cosine, ...")],
    "objective": Annotated[str | None, _component("objective", "What the network predicts: eps, x0, v, ...")],
    "model": Annotated[str | None, _component("model", "Network: unet, 'unet:channels=64', mlp, ...")],
    "data": Annotated[str | None, _component("data", "Data: digits, dead-leaves, 'folder:path=DIR', ...")],
    "size": Annotated[str | None, typer.Option(help="Size of pictures: 32, or 32x48 (height x width).")],
    "sampler": Annotated[str | None, _component("sampler", "Sampler: ancestral, 'ddim:steps=50', dpmpp-2m, ...")],
    "grid": GridOption,
    "prior": PriorOption,
    "logger": Annotated[
        list[str] | None,
        _component("logger", "Who watches besides metrics.jsonl: tensorboard, wandb; may be given again."),
    ],
    "metric": Annotated[
        list[str] | None, _component("metric", "What is measured on sample grids: spectrum, ...; may be given again.")
    ],
    "steps": Annotated[int | None, _training("Optimiser steps.")],
    "batch": Annotated[int | None, _training("Events per step, over all processes.")],
    "lr": Annotated[float | None, _training("Learning rate.")],
    "ema": Annotated[float | None, _training("Decay of the averaged weights; 0 keeps none.")],
    "precision": Annotated[str | None, _training("auto, fp32 or bf16.")],
    "seed": Annotated[int | None, _training("Everything random follows from it.")],
    "compile": Annotated[bool | None, _training("Compile the network.", "--compile")],
    "deterministic": Annotated[bool | None, _training("Repeat to the bit on a GPU too; slower.", "--deterministic")],
    "preset": Annotated[
        list[str] | None,
        typer.Option(
            help="Start from a shipped configuration; may be given again.",
            autocompletion=complete_from(lambda registry: registry.presets()),
        ),
    ],
    "config": Annotated[Path | None, typer.Option(help="Read a TOML file.", metavar="FILE")],
    "set": Annotated[
        list[str] | None, typer.Option(help="Set any value, such as train.grad_clip=0.5.", metavar="A.B=C")
    ],
}


@dataclass(frozen=True)
class Given:
    """What a command line says of a configuration.

    Args:
        values: what was given, by the word of its option.

    """

    values: Mapping[str, Any]

    @property
    def options(self) -> list[str]:
        """The options that were given."""
        return [f"--{word}" for word in self.values]

    def layers(self, registry: Registry) -> list[Layer]:
        """The layers of the configuration in order of precedence."""
        from gendiff.run.config import Layer, refuse_second_velocity

        refuse_second_velocity(self.values.get("process"), self.values.get("velocity"), "--velocity")
        layers = [Layer.from_file(registry.preset(name), f"preset {name}") for name in self.values.get("preset", ())]
        if "config" in self.values:
            layers.append(Layer.from_file(self.values["config"]))
        layers += map(Layer.from_assignment, self.values.get("set", ()))
        return [*layers, *self.flags()]

    def flags(self) -> list[Layer]:
        """Those of the short words alone, a component before its parameters."""
        from gendiff.run.config import Layer
        from gendiff.run.shorthand import KEYS, parse_size

        values = {word: self.values[word] for word in KEYS if word in self.values}
        if "size" in values:
            values["size"] = parse_size(values["size"])
        return [Layer.at(f"--{word}", KEYS[word], value) for word, value in values.items()]


def configured(words: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `OPTIONS` that ``words`` name; its parameter ``given`` is what was said with them.

    They stand in the help in this order, where ``given`` stands; a word for which the command has a parameter is that one.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own, order = inspect.signature(command, eval_str=True).parameters, words.split()
        parameters: list[inspect.Parameter] = []
        for name, parameter in own.items():
            if name == "given":
                parameters += [own.get(word) or _parameter(word) for word in order]
            elif name not in order:
                parameters.append(parameter)

        @functools.wraps(command)
        def with_given(**values: Any) -> None:
            options = {word: values.pop(word) for word in order if word not in own}
            command(given=Given({word: value for word, value in options.items() if value not in (None, [])}), **values)

        # Typer reads these two.
        with_given.__annotations__ = {}
        with_given.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in parameters])  # type: ignore[attr-defined]
        return with_given

    return decorate


def _parameter(word: str) -> inspect.Parameter:
    return inspect.Parameter(word, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=OPTIONS[word])


def numbers(text: str, where: str, example: str, least: int = 1) -> tuple[int, ...]:
    """The different whole numbers in ``"10,20,50"``, ``least`` or more; a comma may end them."""
    try:
        values = tuple(int(part) for part in text.strip().removesuffix(",").split(","))
    except ValueError:
        values = ()
    if not values or min(values) < least or len(set(values)) < len(values):
        raise ConfigError(
            f"cannot read the numbers '{text}'",
            where=where,
            details=[f"allowed: different whole numbers from {least} on, with commas between them"],
            fix=f"write {where} {example}",
        )
    return values
