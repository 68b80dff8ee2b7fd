"""Configuration: one frozen tree of settings, and where each value came from.

A run is described by a `Config`. Its components resolve by name through the registry, so the parameters of a third-party
plugin are part of it like any other. Values come in layers, later ones winning:

    defaults < preset < file < --set < dedicated flag
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from gendiff.command import again
from gendiff.component import Settings, by_name, component_class, invalid_parameter, parse_spec, parse_value
from gendiff.data import Data
from gendiff.datasets.sources import settled
from gendiff.datasets.split import HoldOut, Split
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, DataError, GendiffError, PluginError
from gendiff.logger import Logger
from gendiff.metric import Metric
from gendiff.model import Model
from gendiff.moments import Moments
from gendiff.objective import Objective
from gendiff.plain import toml_table
from gendiff.plugin import discovery
from gendiff.process import Process
from gendiff.rotation import Rotation
from gendiff.sampler import Sampler
from gendiff.scales import common
from gendiff.shapes import MOST_STEPS, EventShape
from gendiff.storage import reading
from gendiff.velocity import Velocity

Share = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[float, Field(ge=1e-3, le=0.28)]


SNAPSHOTS = 32  # of the averages of a run, of which others are made


class TrainSettings(Settings):
    """How a run trains."""

    steps: int = Field(2000, ge=1, description="optimiser steps")
    batch: int = Field(64, ge=1, description="events per optimiser step, over all processes")
    accumulate: int = Field(
        1, ge=1, description="parts of a batch that are computed one after the other: less memory, the same step"
    )
    optimizer: Literal["adam", "adamw"] = Field("adam", description="adamw: Adam with decoupled weight decay")
    lr: float = Field(1e-3, gt=0, description="learning rate, at its highest")
    warmup: int = Field(100, ge=0, description="steps over which the learning rate rises linearly from 0")
    decay: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the learning rate goes on after that, to lr_end in the last step"
    )
    lr_end: float = Field(0.0, ge=0, description="learning rate in the last step, where it decays")
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="decays of the two moments of Adam")
    weight_decay: float = Field(
        0.0, ge=0, description="of adamw: what matrices and convolutions lose in a step, in units of the learning rate"
    )
    grad_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 never clips")
    ema: Share | tuple[Share, ...] = Field(
        0.999, description="decay of the averaged weights, or several, of which the first are sampled; 0 keeps none"
    )
    posthoc: tuple[Width, ...] = Field(
        (),
        description="relative widths of averages that are kept over time, of which others are made later: [0.05, 0.1]",
    )
    snapshot_every: int | None = Field(
        None, ge=1, description="steps between snapshots of these; left out: 32 in the whole run"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="arithmetic of the network, all else stays float32; auto: bf16 on a GPU that has it, else fp32",
    )
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="torch.compile; auto: on a GPU, after the first picture of a run that goes on for ten minutes",
    )
    recompute: bool = Field(
        False, description="compute activations a second time for the gradient: much less memory, a third more work"
    )
    shard: bool = Field(
        False, description="each of several processes holds a part of the network (FSDP2): for one that does not fit"
    )
    capture: bool = Field(True, description="record the whole step as one CUDA graph, where the device is a GPU")
    deterministic: bool = Field(
        False, description="repeat to the bit on a GPU too, where runs otherwise repeat to rounding; slower"
    )
    seed: int = Field(0, ge=0, description="everything random in the run follows from it")
    workers: int | None = Field(None, ge=0, description="data processes; left out: 0 on a CPU, up to 8 on a GPU")
    log_every: int = Field(50, ge=1, description="steps between rows of metrics.jsonl")
    sample_every: int = Field(1000, ge=0, description="steps between sample grids; 0 draws none")
    checkpoint_every: int = Field(
        1000, ge=1, description="steps between checkpoints; there is one before each sample grid too"
    )
    preview: Sampler = by_name("trig:solver=ab2,steps=50", "sampler of these grids")
    preview_images: int = Field(16, ge=1, description="images in a grid, and what metrics measure")
    metrics: tuple[Metric, ...] = Field((), description="what is measured on the images of each grid")
    loggers: tuple[Logger, ...] = Field((), description="who watches the run, besides metrics.jsonl")
    keep: int = Field(2, ge=1, description="how many checkpoints to keep")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError(f"weight_decay = {self.weight_decay:g} is of optimizer=adamw, and this is adam")
        if isinstance(self.ema, tuple) and (not all(self.ema) or len(set(self.ema)) < len(self.ema)):
            raise ValueError(f"ema = {list(self.ema)}: several decays differ, and none is 0")
        if len(self.posthoc) == 1 or len(set(self.posthoc)) < len(self.posthoc):
            raise ValueError(
                f"posthoc = {list(self.posthoc)}: of two widths or more, all different, others can be made"
            )
        if self.decay != "constant" and self.lr_end > self.lr:
            raise ValueError(f"lr_end = {self.lr_end:g} is above lr = {self.lr:g}")
        return self

    @property
    def averages(self) -> dict[str, float]:
        """The decay of each average of the weights, the one that is sampled first, by its name in a checkpoint."""
        if isinstance(self.ema, tuple):
            return {f"ema-{decay!r}": decay for decay in self.ema}
        return {"ema": self.ema} if self.ema else {}

    @property
    def profiles(self) -> dict[str, float]:
        """The relative width of each average of which snapshots are kept, by its name in a checkpoint and a snapshot."""
        return {f"posthoc-{width!r}": width for width in self.posthoc}

    @property
    def averaging(self) -> str:
        """Decays and widths in a few words, such as ``EMA 0.999, 0.9999, post-hoc 0.05, 0.1``."""
        parts = [f"EMA {', '.join(f'{decay:g}' for decay in self.averages.values()) or 0}"]
        parts += [f"post-hoc {', '.join(f'{width:g}' for width in self.posthoc)}"] if self.posthoc else []
        return ", ".join(parts)

    @property
    def snapshot_period(self) -> int:
        """Steps between snapshots."""
        return self.snapshot_every or -(-self.steps // SNAPSHOTS)

    @property
    def optimization(self) -> str:
        """Optimiser and rate in a few words, such as ``AdamW 0.001, weight decay 0.01, cosine to 0``."""
        parts = [f"{'AdamW' if self.optimizer == 'adamw' else 'Adam'} {self.lr:g}"]
        parts += [f"weight decay {self.weight_decay:g}"] if self.weight_decay else []
        parts += [f"{self.decay} to {self.lr_end:g}"] if self.decay != "constant" else []
        return ", ".join(parts)


class Config(Settings):
    """Everything that defines a run."""

    N: int = Field(1000, ge=2, le=MOST_STEPS, description="steps of the diffusion; schedules are per step")
    rotation: Rotation = by_name("identity", "coordinate system U")
    velocity: Velocity = by_name("blur", "speed of each component")
    objective: Objective = by_name("wiener", "what the network predicts")
    model: Model = by_name("unet", "network")
    data: Data = by_name("digits", "source of events")
    hold_out: HoldOut | None = Field(None, description="events that nothing is trained on; left out, there are none")
    sampler: Sampler = by_name("trig:solver=ab2,steps=50", "how samples are drawn")
    train: TrainSettings = Field(default_factory=TrainSettings, description="how the run trains")

    _moments: Moments | None = PrivateAttr(None)
    _basis: Rotation | None = PrivateAttr(None)
    _diffusion: Diffusion | None = PrivateAttr(None)
    _split: Split | None = PrivateAttr(None)
    _below: int | None = PrivateAttr(None)

    @property
    def split(self) -> Split:
        """Which events are trained on, and which are held out; raises as `Split.of` does."""
        if self._split is None:
            self._split = Split.of(self.data, self.hold_out, self._below)
        return self._split

    @property
    def training(self) -> Data:
        """What is trained on, and measured for training: the data, without what is held out."""
        return self.split.training

    @property
    def held_out(self) -> Data | None:
        """What nothing is trained on; None where nothing is held out."""
        return self.split.held_out

    def splitting_at(self, below: int | None) -> Config:
        """This configuration with the bound that a run has split its data at (`gendiff.datasets.split`)."""
        config = self.model_copy()
        config._below, config._split = below, None
        return config

    def filled(self, processes: int = 1, say: bool = True) -> Config:
        """This configuration with a batch that its data fill: of all of them where it was larger, which a warning may say.

        Raises `ConfigError` where there are fewer events than processes that share a batch.
        """
        batch, length = self.train.batch, self.training.length
        if length is None or batch <= length or length < 1:
            return self
        size = length - length % processes
        if size < 1:
            raise ConfigError(
                f"{length} events cannot be shared by {processes} processes",
                fix=f"start at most {length}",
                subject="train.batch",
            )
        if say:
            share = "all of them" if size == length else f"{size:,} of them, a multiple of {processes} processes"
            warnings.warn(
                f"the batch of {batch:,} is larger than the {length:,} events that there are: each step takes {share}",
                stacklevel=2,
            )
        return self.model_copy(update={"train": self.train.model_copy(update={"batch": size})})

    def fitted(self) -> Config:
        """This configuration with all that is learned from the data of the run: U, m and c in its coordinates, the velocity."""
        if self._moments is not None:
            return self
        rotation, velocity = self.rotation, self.velocity
        rotation.require(self.data.event_shape)
        data = self.training
        if not rotation.has_learned and (learned := rotation.fit(data)):
            rotation = rotation.with_learned(learned)
        if not velocity.has_learned and (learned := velocity.fit(data, rotation)):
            velocity = velocity.with_learned(learned)
        basis = self.basis_of(rotation, velocity, data.event_shape)
        return self.holding(rotation, velocity, Moments.fit(data, basis), basis)

    def basis_of(self, rotation: Rotation, velocity: Velocity, event_shape: EventShape) -> Rotation:
        """In whose coordinates m and c of the data are taken: those of U, or the DCT where U is of no consequence.

        Where all components are scaled alike, a process is itself in any basis, and U no more than a name: what the network and
        the sampler assume of the data must not depend on it. `objective.basis` may ask for U all the same.
        """
        if self.objective.basis == "process" or rotation.name == "dct":
            return rotation
        if not velocity.scales(rotation, event_shape, self.N).alike:
            return rotation
        rotation.check(event_shape)  # it would not be met again
        return Rotation("dct")

    @property
    def basis(self) -> Rotation:
        """In whose coordinates m and c of the data are taken; reads the data where this is not fitted to them."""
        fitted = self.fitted()
        return fitted._basis or fitted.rotation

    def holding(
        self, rotation: Rotation, velocity: Velocity, moments: Moments, basis: Rotation | None = None
    ) -> Config:
        """This configuration with what was learned from data before, the moments in ``basis``; left out, that of U."""
        config = self.model_copy(update={"rotation": rotation, "velocity": velocity})
        config._moments, config._basis, config._diffusion = moments, basis or rotation, None
        return config

    def diffusion(self) -> Diffusion:
        """The process of this run, built and checked once; reads the data where it is not fitted to them."""
        config = self.fitted()
        if config._diffusion is None:
            rotation, basis, shape = config.rotation, config._basis, self.data.event_shape
            if basis is None or basis is rotation:
                config._diffusion = Diffusion.of(rotation, config.velocity, shape, self.N, config._moments)
            else:
                scales = common(config.velocity.scales(rotation, shape, self.N), shape)
                config._diffusion = Diffusion(basis, scales, shape, config._moments)
        return config._diffusion

    def toml(self) -> str:
        """This configuration as TOML, every value written out."""
        return tomli_w.dumps(self.table())


MOST_NAMED = 10  # plugin files in one error


@dataclass(frozen=True)
class Layer:
    """A partial table of values and where it came from, such as ``"--schedule"`` or ``"preset digits-demo"``."""

    origin: str
    table: Mapping[str, Any]

    @classmethod
    def from_file(cls, path: Path, origin: str = "") -> Layer:
        """Read TOML.

        A list ``plugins`` in it says which plugin files it needs, relative to it. They are not part of the layer, and nothing
        that a configuration names is ever executed.

        Raises:
            ConfigError: naming the file and line where it cannot be read.
            PluginError: where it names a plugin file that the user has not given.

        """
        origin = origin or str(path)
        try:
            content = reading.content(path, reading.TOML)
        except DataError as error:
            what = error.what.replace("cannot read", "cannot read the configuration", 1)
            raise ConfigError(what, fix="give the path of a TOML file") from error
        try:
            table = toml_table(content)
        except ValueError as error:  # not TOML, or not even UTF-8
            raise ConfigError(
                f"'{path}' is not valid TOML: {error}", fix="see how one looks: gendiff config show"
            ) from error
        refuse_plugins(table.pop("plugins", []), path)
        return cls(origin, table)

    @classmethod
    def from_assignment(cls, assignment: str) -> Layer:
        """Read ``a.b=c``."""
        key, equals, value = assignment.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"cannot read '{assignment}'", where="--set", fix="write --set section.key=value")
        return cls.at(f"--set {key.strip()}", key.strip(), parse_value(value.strip()))

    @classmethod
    def at(cls, origin: str, path: str, value: Any) -> Layer:
        """A layer with one value at a dotted path."""
        for part in reversed(path.split(".")):
            value = {part: value}
        return cls(origin, value)


@dataclass(frozen=True)
class Loss:
    """A value that a preset or a file gives to its data, and that went with them when ``by`` named others."""

    key: str
    value: Any
    origin: str
    by: str


@dataclass
class Resolved:
    """A configuration and the origin of each value, by dotted path; what is not named there is a default.

    ``losses`` are those of the data, for which nobody has said another value since.
    """

    config: Config
    origins: dict[str, str] = field(default_factory=dict)
    losses: tuple[Loss, ...] = ()

    def overruled(self) -> list[str]:
        """What a preset or a file says of its data, and the data that took their place have otherwise, a sentence each.

        Raises `DataError` where data cannot be read that must be read to know their size.
        """
        data, sentences = self.config.data, list[str]()
        fields = type(data).model_fields
        for loss in self.losses:
            if loss.key == "size":
                theirs, own = _pixels(loss.value), "x".join(map(str, data.event_shape[1:]))
            elif loss.key == "channels":
                theirs, own = str(loss.value), str(data.event_shape[0])
            elif loss.key in fields:
                theirs, own = str(loss.value), str(data.table()[loss.key])
            else:
                continue
            if theirs != own:
                size = loss.value if isinstance(loss.value, int) else theirs
                option = f"--size {size}" if loss.key == "size" else f"--set data.{loss.key}={loss.value}"
                way = f": {option} keeps it" if loss.key in fields else ", the only one that these data have"
                sentences.append(
                    f"{loss.origin} has {loss.key} {theirs}, and with data '{data.name}' (from {loss.by}) it is {own}{way}"
                )
        return sentences

    @contextmanager
    def locating(self) -> Iterator[None]:
        """Errors that arise inside, when the values meet each other and the data, name the origin of their subject too."""
        try:
            yield
        except GendiffError as error:
            _locate(error, self.origins)
            raise


def _pixels(size: Any) -> str:
    """A size as ``--size`` takes it."""
    return "x".join(map(str, size if isinstance(size, list | tuple) else [size, size]))


def overlaid(table: Mapping[str, Any], layer: Layer) -> dict[str, Any]:
    """A table of configuration with the values of one more layer; nothing is checked."""
    return dict(_merge(table, layer.table, layer.origin, {}, path=""))


def resolve(layers: Iterable[Layer]) -> Resolved:
    """Merge the layers over the defaults and validate; errors name the layer at fault."""
    table: Any = _default_specs(Config)
    origins: dict[str, str] = {}
    process: Process | None = None
    losses = list[Loss]()
    try:
        for layer in layers:
            try:
                losses += _losses(table, layer, origins)
                if "process" in layer.table:
                    process = Process.model_validate(layer.table["process"])
                    rotation, velocity = process.parts()
                    refuse_second_velocity(process, layer.table.get("velocity"), layer.origin)
                    parts = {"rotation": rotation.table(), "velocity": velocity.table()}
                    table = _merge(table, parts, layer.origin, origins, path="")
                rest = {key: value for key, value in settled(layer.table).items() if key != "process"}
                _take_back(table, rest, origins)
                table = _merge(table, rest, layer.origin, origins, path="")
                _count_steps(table, rest, layer.origin, origins)
            except GendiffError as error:  # a spec that cannot be read
                error.where = error.where or layer.origin
                raise
        _shorten(table, origins)
        _size_held_out(table)
        config = Config.model_validate(table)
        given = _of_values(origins, table, config.table())
        return Resolved(config, given, tuple(loss for loss in losses if f"data.{loss.key}" not in given))
    except GendiffError as error:
        if process and error.subject.startswith("velocity.") and table["velocity"].get("name") == velocity.name:
            error.details = (*error.details, f"process '{process.name}' is {rotation.spec} with {velocity.spec}")
            _say_inside(error, process, table["velocity"])
        _locate(error, origins)
        raise
    except ValidationError as error:
        invalid = invalid_parameter(Config, error)
        _locate(invalid, origins)
        raise invalid from error
    except RecursionError as error:
        raise ConfigError("the configuration is nested too deeply") from error


def refuse_plugins(names: Any, path: Path) -> None:
    """Raise `PluginError` for the plugin files that a configuration names, unless the user gave files of the same content."""
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            "'plugins' must be a list of paths",
            where=str(path),
            fix='write plugins = ["my_schedule.py"]',
            subject="plugins",
        )
    missing = [
        plugin.provider
        for plugin in (discovery.file(path.parent / name, str(path)) for name in names)
        if not discovery.let_in(plugin.provider.sha256)
    ]
    if missing:
        files = [Path(provider.origin) for provider in missing]
        few = [*map(repr, map(str, files[:MOST_NAMED])), *(["others"] if len(files) > MOST_NAMED else [])]
        raise PluginError(
            f"'{path}' needs {'the plugin file' if len(files) == 1 else 'plugin files'} "
            f"{', '.join(few)}, and a configuration never runs code",
            details=[
                *(f"SHA-256 of {provider.origin}: {provider.sha256}" for provider in missing[:MOST_NAMED]),
                f"and {len(files) - MOST_NAMED} more" if len(files) > MOST_NAMED else "",
                "a plugin runs with your rights: read it first",
            ],
            fix=f"give it yourself: {again(*(word for file in files for word in ('--plugin', file)))}",
        )


def _say_inside(error: GendiffError, process: Process, velocity: Mapping[str, Any]) -> None:
    """Where the process inside another one has what the other lacks, say how to give it that."""
    key = error.subject.partition(".")[2]
    for part in type(process).model_fields:
        inner = getattr(process, part)
        if isinstance(inner, Process) and key in type(inner).model_fields:
            value = velocity[key] if isinstance(velocity.get(key), str) else "SPEC"
            error.fix = f"give it to the process inside: --process '{process.name}:{part}={inner.name}:{key}={value}'"


def refuse_second_velocity(process: Any, velocity: Any, where: str = "") -> None:
    """Raise `ConfigError` where one author names a process and another velocity than its own, which would replace it.

    Args:
        process, velocity: components, specs or tables; ``velocity`` None, or a table without a name, names none.

    """
    spec = parse_spec(velocity) if isinstance(velocity, str) else velocity
    if process is None or not isinstance(spec, Mapping) or "name" not in spec:
        return
    recipe = Process.model_validate(process)
    own = recipe.parts()[1].name
    if spec["name"] != own:
        raise ConfigError(
            f"process '{recipe.name}' has a velocity of its own, '{own}', and '{spec['name']}' is another",
            where=where,
            details=["a process is a rotation and a velocity under one name"],
            fix=f"leave one of the two out; a parameter of '{own}' is set with velocity.KEY=VALUE",
            subject="velocity.name",
        )


def _default_specs(cls: type[Settings]) -> dict[str, Any]:
    """The components that are there by default: what layers may say a part of (``--set train.preview.steps=10``)."""
    table: dict[str, Any] = {}
    for key, info in cls.model_fields.items():
        if isinstance(inner := info.annotation, type) and issubclass(inner, Settings):
            spec = parse_spec(info.default) if isinstance(info.default, str) else {}
            table[key] = _default_specs(component_class(inner.kind, spec["name"]) if spec else inner) | spec
    return table


def _count_steps(table: Any, over: Mapping[str, Any], origin: str, origins: dict[str, str]) -> None:
    """A grid that counts its steps itself replaces a number that was there: not one of the same layer, nor that of a flag."""
    for path in ("sampler", "train.preview"):
        sampler, given, steps = _part(table, path), _part(over, path), f"{path}.steps"
        grid = _part(sampler, "grid").get("name")
        if "grid" not in given or "steps" in given or sampler.get("steps") is None or not isinstance(grid, str):
            continue
        theirs = origins.get(steps, "")
        if component_class("grid", grid).counted and theirs != origin and not theirs.startswith("--"):  # type: ignore[attr-defined]  # a grid
            sampler["steps"] = None
            _forget(origins, steps)


def _part(table: Any, path: str) -> Any:
    """What a table says of a component; nothing where it says nothing."""
    for key in path.split("."):
        table = table.get(key, {}) if isinstance(table, Mapping) else {}
        table = parse_spec(table) if isinstance(table, str) else table
    return table if isinstance(table, Mapping) else {}


def _shorten(table: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """Default numbers of sampling steps are at most N: only a number that somebody gave can be too large."""
    N, train = table.get("N"), table.get("train")
    defaults = {
        "sampler": table.get("sampler"),
        "train.preview": train.get("preview") if isinstance(train, dict) else None,
    }
    for path, sampler in defaults.items():
        given = {path, f"{path}.steps"} & origins.keys()
        if isinstance(N, int) and isinstance(sampler, dict) and sampler.get("steps") is not None and not given:
            sampler["steps"] = min(sampler["steps"], max(N, 1))


def _take_back(table: dict[str, Any], over: Mapping[str, Any], origins: dict[str, str]) -> None:
    """Who holds out other data holds out no part any more, and the other way round."""
    given, before = (one.get("hold_out") for one in (over, table))
    for key, other in (("events", "data"), ("data", "events")):
        if isinstance(given, Mapping) and isinstance(before, Mapping) and key in given and other not in given:
            before = table["hold_out"] = {name: value for name, value in before.items() if name != other}
            _forget(origins, f"hold_out.{other}")


def _size_held_out(table: dict[str, Any]) -> None:
    """Other data that are held out have the size, channels and crop of the data, where both can have them and nobody says."""
    hold_out = table.get("hold_out")
    pair = (table.get("data"), hold_out.get("data") if isinstance(hold_out, Mapping) else None)
    data, others = (parse_spec(one) if isinstance(one, str) else one for one in pair)
    if not isinstance(data, Mapping) or not isinstance(others, Mapping):
        return
    if not isinstance(data.get("name"), str) or not isinstance(others.get("name"), str):
        return
    try:
        ours, theirs = (component_class("data", one["name"]).model_fields for one in (data, others))
    except GendiffError:  # whoever validates it says so, and where
        return
    keys = [key for key in ("size", "channels", "crop") if key in ours and key in theirs and key not in others]
    own = {key: data.get(key, ours[key].default) for key in keys}
    table["hold_out"] = {**table["hold_out"], "data": {**others, **own}}


def _merge(base: Any, over: Any, origin: str, origins: dict[str, str], path: str) -> Any:
    """``over`` on top of ``base``: tables are merged, but another component's parameters are never inherited."""
    if isinstance(over, str) and isinstance(base, Mapping) and "name" in base:
        over = parse_spec(over)
    if isinstance(base, str) and isinstance(over, Mapping):
        base = parse_spec(base)
        if path in origins:
            origins.update(dict.fromkeys((f"{path}.{key}" for key in base), origins.pop(path)))
    if isinstance(over, Mapping):
        keep = isinstance(base, Mapping) and over.get("name", base.get("name")) == base.get("name")
        table = dict(base) if keep else {}
        if not keep:
            _refuse_loss(origins, path, origin)
            _forget(origins, path)
        for key, value in over.items():
            table[key] = _merge(table.get(key), value, origin, origins, f"{path}.{key}" if path else key)
        return table
    _forget(origins, path)
    origins[path] = origin
    return over


def _refuse_loss(origins: Mapping[str, str], path: str, origin: str) -> None:
    """Raise `ConfigError` where a flag names a component and so drops what ``--set`` says of the one before."""
    losses = [
        source for value, source in origins.items() if value.startswith(f"{path}.") and source.startswith("--set ")
    ]
    if losses and origin.startswith("--") and origin not in losses:
        raise ConfigError(
            f"'{losses[0]}' would have no effect: {origin} names another {path.rpartition('.')[2]}",
            where=origin,
            fix=f"say it there too, as in {origin} 'NAME:PARAMETER=VALUE', or leave it out",
        )


def _losses(table: Mapping[str, Any], layer: Layer, origins: Mapping[str, str]) -> Iterator[Loss]:
    """What presets and files give to the data, where a layer is about to name others."""
    before, after = _part(table, "data"), _part(layer.table, "data")
    if after.get("name", before.get("name")) == before.get("name"):
        return
    for key, value in before.items():
        origin = origins.get(f"data.{key}") or origins.get("data", "")
        if key != "name" and origin and not origin.startswith("--"):
            yield Loss(key, value, origin, layer.origin)


def _forget(origins: dict[str, str], path: str) -> None:
    for key in [key for key in origins if key == path or key.startswith(f"{path}.")]:
        del origins[key]


def _of_values(origins: Mapping[str, str], given: Any, values: Any) -> dict[str, str]:
    """Origins by the paths of ``values``: a spec that stood for a whole component gave its name and some parameters."""
    by_path = {}
    for path, origin in origins.items():
        spec, value = given, values
        for part in path.split("."):
            spec, value = spec[part], value.get(part)
        keys = (
            [f"{path}.{key}" for key in parse_spec(spec)]
            if isinstance(value, dict) and isinstance(spec, str)
            else [path]
        )
        by_path.update(dict.fromkeys(keys, origin))
    return by_path


def _locate(error: GendiffError, origins: Mapping[str, str]) -> None:
    """Give the error the origin of its subject: of that very path, of its name, of a part, or of what holds it."""
    subject = error.subject
    while subject and not error.where:
        ends = {path: f".{path}." for path in origins}  # a component that is at fault later does not know what holds it
        whole = [path for path in (subject, f"{subject}.name") if path in origins]
        exact = whole or [path for path, end in ends.items() if end.endswith((f".{subject}.", f".{subject}.name."))]
        parts = [path for path, end in ends.items() if f".{subject}." in end]
        paths = exact or (parts if subject == error.subject else [])
        error.where = origins[paths[0]] if paths else ""
        subject = subject.rpartition(".")[0]
