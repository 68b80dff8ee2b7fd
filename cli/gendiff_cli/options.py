"""Options that several commands share, each declared once.

A command names those by which it is told of a configuration, and takes what was said with them as one argument::

    @configured("process rotation preset config set")
    def show(context: typer.Context, given: Given, json: JsonOption = False) -> None:
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import keep_also
from gendiff.errors import ConfigError

if TYPE_CHECKING:
    from gendiff.plugin.registry import Registry
    from gendiff.run.layers import Layer


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
    """Errors about the value at ``subject``, or of its own, that arise inside say that it came from an option, if ``given``."""
    try:
        yield
    except ConfigError as error:
        if given and (error.subject == subject or error.subject.startswith(f"{subject}.")):
            error.where = option
        raise


def _component(kind: str, text: str) -> Any:
    return spec_option(kind, text, "Components")


def _training(text: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Training", metavar=metavar)


GridOption = Annotated[str | None, _component("grid", "At which steps: uniform, lambda, arc-length, ...")]
PriorOption = Annotated[
    str | None,
    typer.Option(
        help="Where chains start: standard (noise), matched (the data's moments at N), data (an event of theirs)."
    ),
]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Model evaluations for each sample.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:K; a GPU where there is one.")]


class Precision(StrEnum):
    """In which a network is asked."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        help="In which the network is asked: fp32, bf16, or auto, what the device computes well. Default: fp32.",
        show_default=False,
    ),
]
#: Of commands that train too: how what they train is sampled.
SampledPrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        help="In which the networks are sampled: fp32, bf16, or auto, what the device computes well. Default: fp32. Training has "
        "its own: --set train.precision=bf16.",
        show_default=False,
        rich_help_panel="Measuring",
    ),
]
SampledCompileOption = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the networks that are sampled: the first batch of each takes minutes, the others less.",
        rich_help_panel="Measuring",
    ),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the network: the first batch takes minutes, the others less.")
]
EmaOption = Annotated[
    str | None,
    typer.Option(
        "--ema", help="Which averaged weights, by their decay, or posthoc:WIDTH; default: the first.", metavar="DECAY"
    ),
]
RawOption = Annotated[bool, typer.Option("--no-ema", help="Use the raw weights, without averaging.")]
HeldOutOption = Annotated[
    bool | None,
    typer.Option(
        "--held-out/--training",
        help="Which events of the run; default: those that are held out, where there are any.",
        show_default=False,
    ),
]
ConditionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--condition",
        help="Under which condition: label=3, label=0,3,5 in turn, label=all, label=none; may be given again.",
        metavar="NAME=VALUE",
    ),
]
GuideOption = Annotated[
    list[str] | None,
    spec_option(
        "guide", "What steers the samples: 'cfg:weight=3', ...; may be given again, and is put on in this order."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
RunArgument = Annotated[Path, typer.Argument(help="Run directory.", metavar="RUN")]
CheckpointArgument = Annotated[
    Path, typer.Argument(help="Run directory, with its newest checkpoint or that of a step.", metavar="RUN[@STEP]")
]
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
    "levels": Annotated[
        str | None, _component("levels", "Law of noise levels in training: uniform, log-normal, logit-normal, ...")
    ],
    "model": Annotated[str | None, _component("model", "Network: unet, 'unet:channels=64', mlp, ...")],
    "data": Annotated[
        str | None, _component("data", "Data: digits, dead-leaves, ..., or the path of a folder or file.")
    ],
    "size": Annotated[str | None, typer.Option(help="Size of pictures: 32, or 32x48 (height x width).")],
    "latent": Annotated[
        str | None,
        _component("latent", "An autoencoder before the rotation: diffusers:path=DIR; events are its latents."),
    ],
    "condition": Annotated[
        list[str] | None,
        typer.Option(
            help="What the network is told of events, by its name in the data: label; may be given again.",
            metavar="NAME",
            rich_help_panel="Components",
        ),
    ],
    "hold_out": Annotated[
        str | None,
        typer.Option(
            help="Events that nothing is trained on: a part, 0.1; how many, 200; or other data, a SPEC or a path.",
            metavar="PART|N|SPEC",
            rich_help_panel="Components",
        ),
    ],
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
    "ema": Annotated[
        str | None, _training("Decay of the averaged weights, or several: 0.999,0.9999; 0 keeps none.", metavar="DECAY")
    ],
    "precision": Annotated[str | None, _training("auto, fp32 or bf16.")],
    "seed": Annotated[int | None, _training("Everything random follows from it.")],
    "compile": Annotated[bool | None, _training("Compile the network.", "--compile")],
    "keep": Annotated[int | None, _training("How many checkpoints are kept.")],
    "checkpoint-every": Annotated[int | None, _training("Steps between checkpoints.", "--checkpoint-every")],
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


def chosen_weights(ema: str | None, raw: bool) -> bool | str:
    """Which weights of a run ``--ema`` and ``--no-ema`` ask for; raises `ConfigError` where both are given."""
    if raw and ema is not None:
        fix = "give one of the two"
        raise ConfigError("--no-ema asks for raw weights, and --ema for averaged ones", where=f"--ema {ema}", fix=fix)
    return (not raw) if ema is None else ema


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
        return [f"--{word.replace('_', '-')}" for word in self.values]

    def words(self) -> list[str]:
        """The words of the command line that say the same."""
        words = list[str]()
        for word, value in self.values.items():
            for one in value if isinstance(value, list) else [value]:
                words += (
                    [f"--{word}"]
                    if one is True
                    else [f"--{word}", str(one).removesuffix(".0") if isinstance(one, float) else str(one)]
                )
        return words

    def layers(self, registry: Registry) -> list[Layer]:
        """The layers of the configuration in order of precedence."""
        from gendiff.run.layers import Layer, refuse_second_velocity

        refuse_second_velocity(self.values.get("process"), self.values.get("velocity"), "--velocity")
        layers = [Layer.from_file(registry.preset(name), f"preset {name}") for name in self.values.get("preset", ())]
        if "config" in self.values:
            layers.append(Layer.from_file(self.values["config"]))
        layers += map(Layer.from_assignment, self.values.get("set", ()))
        return [*layers, *self.flags()]

    def flags(self) -> list[Layer]:
        """Those of the short words alone, a component before its parameters."""
        from gendiff.component import parse_value
        from gendiff.run.layers import Layer
        from gendiff.run.shorthand import KEYS, parse_size

        given = {word.replace("_", "-"): value for word, value in self.values.items()}
        values = {word: given[word] for word in KEYS if word in given}
        if "size" in values:
            values["size"] = parse_size(values["size"])
        if "ema" in values:
            text = values["ema"].strip()
            values["ema"] = parse_value(f"[{text}]" if "," in text and not text.startswith("[") else text)
        if "model" in values:
            from gendiff.run.module import named_by_user

            values["model"] = named_by_user(values["model"])
            if isinstance(values["model"], dict):
                keep_also("--plugin", values["model"]["path"].rpartition(":")[0])
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
            options = {word: values.pop(_identifier(word)) for word in order if word not in own}
            command(given=Given({word: value for word, value in options.items() if value not in (None, [])}), **values)

        # Typer reads these two; that a function may be given a signature is known to `inspect` alone.
        with_given.__annotations__ = {}
        with_given.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in parameters])  # type: ignore[attr-defined]
        return with_given

    return decorate


def _identifier(word: str) -> str:
    return word.replace("-", "_")


def _parameter(word: str) -> inspect.Parameter:
    return inspect.Parameter(_identifier(word), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=OPTIONS[word])


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


def typed(context: typer.Context, but: Collection[str] = ()) -> list[str]:
    """The options that were given on the command line, as they are typed, but those of these parameters."""
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name
        and parameter.name not in but
        and (source := context.get_parameter_source(parameter.name))
        and source.name == "COMMANDLINE"
    ]
