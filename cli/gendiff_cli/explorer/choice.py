"""Choice: what one side of the page is set to, as a process, and as the words and the file that train it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gendiff.command import command
from gendiff.component import Component, component_class, spec_value
from gendiff.errors import GendiffError
from gendiff.plugin.registry import Registry
from gendiff.process import Process
from gendiff.rotation import Rotation
from gendiff.run.config import Config
from gendiff.run.directory import CONFIG
from gendiff.run.layers import Layer, resolve
from gendiff.velocity import Velocity
from gendiff_cli.explorer.controls import Control, controls
from gendiff_cli.options import Given
from gendiff_cli.process.subject import DEFAULT, DEFAULT_DATA, Subject

PAGE = "the page"  # where values come from that were set on it
BY_HAND = "by hand"
OWN = ("schedule", "noise")  # parts of a velocity that have an option of their own
PARTS = ("process", "rotation", "velocity", "schedule", "noise")
HEAD = "# From gendiff process explore: gendiff train --config FILE\n"
STEPS = 2000  # of a process, up to which a slider goes


@dataclass(frozen=True)
class Base:
    """What all processes of the page have in common.

    Args:
        layers: of the configuration, without the process.
        words: of a command line that say the same.
        written: whether files and assignments are among them, over which a spec has to say every parameter.

    """

    layers: tuple[Layer, ...]
    words: tuple[str, ...]
    written: bool = False

    @classmethod
    def of(cls, registry: Registry, given: Given) -> Base:
        """What a command line says, and the data of `gendiff process` where it names none."""
        rest = {word: value for word, value in given.values.items() if word not in PARTS}
        if "set" in rest:
            rest["set"] = [one for one in rest["set"] if one.partition("=")[0].partition(".")[0] not in ("N", *PARTS)]
        written = any(rest.get(word) for word in ("preset", "config", "set"))
        base = cls((Layer(DEFAULT, DEFAULT_DATA), *Given(rest).layers(registry)), tuple(Given(rest).words()), written)
        settings = resolve(base.layers)
        if settings.origins.get("data.name") != DEFAULT:
            return base
        words = Given({word: value for word, value in rest.items() if word != "size"}).words()
        return replace(base, words=("--data", settings.config.data.spec, *words))  # train takes others by itself

    def with_data(self, spec: str) -> Base:
        """The same with other data, of their own size."""
        words, rest = list(self.words), list[str]()
        while words:
            word = words.pop(0)
            if word in ("--data", "--size", "--latent"):
                words.pop(0)
            else:
                rest.append(word)
        return replace(self, layers=(*self.layers, Layer(PAGE, {"data": spec})), words=("--data", spec, *rest))


@dataclass(frozen=True)
class Choice:
    """The settings of one process.

    Args:
        N: steps.
        rotation, velocity: tables of its parts.
        process: the table of a named one, which then stands for its parts.
        run: one that was trained, which then stands for all.
        path: its directory.

    """

    N: int
    rotation: Mapping[str, Any]
    velocity: Mapping[str, Any]
    process: Mapping[str, Any] | None = None
    run: Subject | None = None
    path: Path = Path()

    @classmethod
    def of(cls, subject: Subject, path: Path | None = None) -> Choice:
        """The process that a command line names; that of a run, which is at ``path``, stands for itself."""
        config = subject.config
        choice = cls(config.N, config.rotation.table(), config.velocity.table())
        return choice if path is None else replace(choice, run=subject, path=path)

    @property
    def key(self) -> str:
        """A text that is another one for another process."""
        return json.dumps([self.N, self.rotation, self.velocity, self.process, str(self.path)], sort_keys=True)

    @property
    def basis(self) -> str:
        """A text that is another one for another rotation."""
        return json.dumps(self._parts()["rotation"], sort_keys=True)

    @property
    def name(self) -> str:
        """What the choice among processes shows."""
        if self.run is not None:
            return str(self.path)
        return BY_HAND if self.process is None else str(self.process["name"])

    # --- setting -------------------------------------------------------------------------------------------------------

    def named(self, name: str) -> Choice:
        """The same N with a named process, or `BY_HAND` with the parts that there are.

        Raises `GendiffError` for a process that cannot be.
        """
        if name == BY_HAND:
            return replace(self, **self._parts(), process=None, run=None, path=Path())
        return replace(self, process=Process.model_validate({"name": name}).table(), run=None, path=Path())

    def with_value(self, path: str, value: Any) -> Choice:
        """One value changed, at a path as of `Control`; a component by its name, which keeps what means the same in both.

        Raises `GendiffError` for a value that is refused; what is refused in another value is heard when the process is made.
        """
        if path == "N":
            return replace(self, N=int(value))
        head, _, rest = path.partition(".")
        table = dict(getattr(self, head))
        changed: dict[str, Any] = {head: _changed(head, table, rest.split(".") if rest else [], value)}
        return replace(self, **changed)

    def controls(self, registry: Registry) -> list[Control]:
        """All that can be set of it besides its name and N; raises `GendiffError` where a value is refused."""
        if self.run is not None:
            return []
        if self.process is not None:
            return controls(Process.model_validate(self.process), "process", registry)[1:]
        rotation, velocity = Rotation.model_validate(self.rotation), Velocity.model_validate(self.velocity)
        return [*controls(rotation, "rotation", registry), *controls(velocity, "velocity", registry)]

    def _parts(self) -> dict[str, Any]:
        if self.process is None:
            return {"rotation": self.rotation, "velocity": self.velocity}
        rotation, velocity = Process.model_validate(self.process).parts()
        return {"rotation": rotation.table(), "velocity": velocity.table()}

    # --- what it is ----------------------------------------------------------------------------------------------------

    def subject(self, base: Base, label: str) -> Subject:
        """The process over what all have in common; raises `GendiffError` where it is none."""
        if self.run is not None:
            return self.run
        settings = resolve([*base.layers, Layer(PAGE, {"N": self.N, **self._parts()})])
        return Subject(label, settings, settings.config.training)

    def words(self, base: Base) -> list[tuple[str, str]]:
        """The short words that say it, and N, with their values, in an order in which a later one adds to those before."""
        if self.process is not None:
            process = Process.model_validate(self.process)
            said = [("process", _spec(process, base.written))]
        else:
            rotation, velocity = Rotation.model_validate(self.rotation), Velocity.model_validate(self.velocity)
            own = [name for name in OWN if isinstance(getattr(velocity, name, None), Component)]
            said = [("rotation", _spec(rotation, base.written)), ("velocity", _spec(velocity, base.written, own))]
            if said[1][1] == Config.model_fields["velocity"].default:
                said.pop()
            for name in own:
                part, default = getattr(velocity, name), type(velocity).model_fields[name].default
                if base.written or part.spec != default:
                    said.append((name, _spec(part, base.written)))
        if base.written or Config.model_fields["N"].default != self.N:
            said.append(("N", str(self.N)))
        return said

    def train(self, base: Base) -> str:
        """The command that trains it."""
        if self.run is not None:
            return command("train", "--config", self.path / CONFIG)
        options = [word for name, value in self.words(base) for word in _option(name, value)]
        return command("train", *options, *base.words)

    def arm(self, base: Base, label: str = "") -> str:
        """The same as an arm, which tables call ``label``."""
        named = [f"label={label}"] if label else []
        if self.run is not None:
            return " ".join([shlex.quote(str(self.path)), *named])
        words = [f"{name}={shlex.quote(value)}" for name, value in self.words(base)]
        return " ".join([*words, *named])

    def toml(self, subject: Subject) -> str:
        """A file for ``gendiff train --config``: process, data, what the network predicts and how samples are drawn."""
        import tomli_w

        keys = ("N", "rotation", "velocity", "objective", "data", "sampler")
        table = subject.config.table()
        return HEAD + tomli_w.dumps({key: table[key] for key in keys if key in table})


def compare(one: Choice, other: Choice, base: Base) -> str:
    """The command that trains both and holds them against each other."""
    arms = [word for label, choice in (("A", one), ("B", other)) for word in ("--arm", choice.arm(base, label))]
    return command("compare", *arms, *base.words)


def _option(name: str, value: str) -> list[str]:
    return ["--set", f"N={value}"] if name == "N" else [f"--{name}", value]


def _changed(kind: str, table: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The table of a component with one value changed, or of another one of that kind."""
    component = component_class(kind, str(table["name"]))
    if not path:
        return _renamed(kind, table, str(value))
    name, *rest = path
    inner = table.get(name)
    if isinstance(inner, Mapping):
        one = component.model_validate({key: entry for key, entry in table.items() if key != "name"})
        return {**table, name: _changed(getattr(one, name).kind, dict(inner), rest, value)}
    return {**table, name: value}


def _renamed(kind: str, table: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The table of another component with those parameters of one that mean the same in both, where it takes them."""
    before, after = component_class(kind, str(table["name"])), component_class(kind, name)
    same = {
        field: table[field]
        for field, info in after.model_fields.items()
        if field in table and _meaning(before, field) == (info.annotation, info.description)
    }
    try:
        return after.model_validate(same).table()
    except GendiffError:
        return after.model_validate({}).table()


def _meaning(component: type[Component], field: str) -> tuple[Any, Any]:
    info = component.model_fields[field]
    return info.annotation, info.description


def _spec(component: Component, whole: bool, without: Sequence[str] = ()) -> str:
    """The spec of a component without some of its parts; ``whole`` with the parameters at their default."""
    table = {key: value for key, value in component.table().items() if key not in without}
    if not whole:
        return type(component).model_validate(table).spec
    parameters = [
        f"{key}={spec_value(_compact(component, key, value))}" for key, value in table.items() if key != "name"
    ]
    return f"{component.name}:{','.join(parameters)}" if parameters else component.name


def _compact(component: Component, key: str, value: Any) -> Any:
    part = getattr(component, key)
    return part.spec if isinstance(part, Component) else value
