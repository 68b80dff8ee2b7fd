"""Layers: where each value of a configuration comes from, later ones winning.

defaults < preset < file < --set < dedicated flag
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gendiff.command import again
from gendiff.component import Settings, component_class, invalid_parameter, parse_spec, parse_value
from gendiff.datasets.sources import settled
from gendiff.errors import ConfigError, DataError, GendiffError, PluginError, did_you_mean, nearest
from gendiff.latent import latent_table
from gendiff.plain import toml_table
from gendiff.plugin import discovery
from gendiff.process import Process
from gendiff.run.config import Config
from gendiff.storage import reading

LATENTS = "latents"  # the data that `latent` makes of data
ELSEWHERE = "elsewhere"
MOST_NAMED = 10  # plugin files in one error
MEANT = 3  # settings at most that a word may mean


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
        data, sentences = self.config.data.shown, list[str]()
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
            locate(error, self.origins)
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
                said = settled(layer.table)
                losses += _losses(table, said, layer.origin, origins)
                if "process" in layer.table:
                    process = Process.model_validate(layer.table["process"])
                    rotation, velocity = process.parts()
                    refuse_second_velocity(process, layer.table.get("velocity"), layer.origin)
                    parts = {"rotation": rotation.table(), "velocity": velocity.table()}
                    table = _merge(table, parts, layer.origin, origins, path="")
                rest = {key: value for key, value in said.items() if key != "process"}
                if isinstance(latent := rest.get("latent"), str):
                    rest["latent"] = latent_table(latent)
                _take_back(table, rest, origins)
                table = _merge(table, rest, layer.origin, origins, path="")
                _count_steps(table, rest, layer.origin, origins)
            except GendiffError as error:  # a spec that cannot be read
                error.where = error.where or layer.origin
                raise
        _shorten(table, origins)
        _size_held_out(table)
        if table.get("latent"):
            _encode(table, origins)
        config = Config.model_validate(table)
        given = _of_values(origins, table, config.table())
        return Resolved(config, given, tuple(loss for loss in losses if not _given(loss, given)))
    except GendiffError as error:
        if process and error.subject.startswith("velocity.") and table["velocity"].get("name") == velocity.name:
            error.details = (*error.details, f"process '{process.name}' is {rotation.spec} with {velocity.spec}")
            _say_inside(error, process, table["velocity"])
        locate(error, origins)
        raise
    except ValidationError as error:
        invalid = invalid_parameter(Config, error)
        if invalid.subject not in Config.model_fields and not did_you_mean(invalid.subject, Config.model_fields):
            invalid.details = (*invalid.details, _below(table, invalid.subject))
        locate(invalid, origins)
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
    """Where a process, or the one inside it, has what its velocity lacks, say how to give it that."""
    key = error.subject.partition(".")[2]
    if key in type(process).model_fields:  # of a velocity inside its velocity
        value = velocity[key] if isinstance(velocity.get(key), str) else "SPEC"
        error.fix = f"give it to the process: --process '{process.name}:{key}={value}'"
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


def _below(table: Mapping[str, Any], key: str) -> str:
    """Which settings of a part are called like ``key``, which the configuration itself has not; empty where none is."""
    paths = list(_paths(Config, table))
    near = nearest(key, {path.rpartition(".")[2] for path in paths})
    meant = [path for path in paths if path.endswith(f".{near}")]
    depth = min((path.count(".") for path in meant), default=0)
    least = [path for path in meant if path.count(".") == depth]  # train.lr, and not train.speeds.lr
    return f"did you mean {' or '.join(map(repr, least))}?" if near and len(least) <= MEANT else ""


def _paths(cls: type[Settings], table: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted paths of all settings, those of the components that a table of configuration names among them."""
    for key, info in cls.model_fields.items():
        if above:
            yield f"{above}{key}"
        if isinstance(inner := info.annotation, type) and issubclass(inner, Settings):
            part = _part(table, key)
            if not inner.kind or "name" in part:
                found: Any = component_class(inner.kind, part["name"]) if inner.kind else inner
                yield from _paths(found, part, f"{above}{key}.")


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


def _encode(table: dict[str, Any], origins: dict[str, str]) -> None:
    """The data, and what is held out of other data, become their latents; of latents, another encodes them.

    So there is no `latent` in a configuration: it is a part of its data. Events that are not here, of a network that came with
    its weights, are latents already.
    """
    latent = table.pop("latent")
    before = _part(table, "data")
    if before.get("name") in (LATENTS, ELSEWHERE):
        by = latent if "name" in latent else {**_part(before, "by"), **latent}
        table["data"] = {**before, "by": by}
        _forget(origins, "data.by")
    else:
        by = latent
        table["data"] = {"name": LATENTS, "source": table["data"], "by": by}
        _move(origins, "data", "data.source")
    _move(origins, "latent", "data.by")
    others = _part(table, "hold_out.data")
    if others and others.get("name") != LATENTS:
        table["hold_out"] = {**table["hold_out"], "data": {"name": LATENTS, "source": others, "by": by}}
        _move(origins, "hold_out.data", "hold_out.data.source")


def _move(origins: dict[str, str], path: str, to: str) -> None:
    for key in [key for key in origins if key == path or key.startswith(f"{path}.")]:
        origins[f"{to}{key.removeprefix(path)}"] = origins.pop(key)


def _given(loss: Loss, given: Mapping[str, str]) -> bool:
    """Whether somebody has said another value since."""
    return f"data.{loss.key}" in given or f"data.source.{loss.key}" in given


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


def _losses(table: Mapping[str, Any], said: Mapping[str, Any], by: str, origins: Mapping[str, str]) -> Iterator[Loss]:
    """What presets and files give to the data, where the layer ``by`` is about to name others."""
    before, after = _part(table, "data"), _part(said, "data")
    if after.get("name", before.get("name")) == before.get("name"):
        return
    for key, value in before.items():
        origin = origins.get(f"data.{key}") or origins.get("data", "")
        if key != "name" and origin and not origin.startswith("--"):
            yield Loss(key, value, origin, by)


def _forget(origins: dict[str, str], path: str) -> None:
    for key in [key for key in origins if key == path or key.startswith(f"{path}.")]:
        del origins[key]


def _of_values(origins: Mapping[str, str], given: Any, values: Any) -> dict[str, str]:
    """Origins by the paths of ``values``: a spec that stood for a whole component gave its name and some parameters."""
    by_path = {}
    for path, origin in origins.items():
        spec, value = given, values
        for part in path.split("."):
            spec, value = spec[part], value.get(part) if isinstance(value, Mapping) else None
        keys = (
            [f"{path}.{key}" for key in parse_spec(spec)]
            if isinstance(value, dict) and isinstance(spec, str)
            else [path]
        )
        by_path.update(dict.fromkeys(keys, origin))
    return by_path


def locate(error: GendiffError, origins: Mapping[str, str]) -> None:
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
