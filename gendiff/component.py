"""A component is anything that a user can swap by name.

A component is a frozen pydantic model. Its fields are its parameters, and they are at once the command-line spec
(``log:f_max=0.3``), the TOML table, the reference page and the configuration stored with a run. Two class variables place
it: ``kind`` (set by the interface, for example ``"schedule"``) and ``name`` (set by each concrete class).

A field may itself be a component (a velocity owns its noise schedule); it then accepts an instance, a name, a compact spec
or a table. Names are looked up by the resolver in force, which the registry provides.

This module does not import torch, so that names can be listed and completed in a tenth of a second.
"""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from gendiff.errors import ConfigError, PluginError, did_you_mean

Resolver = Callable[[str, str], "type[Component]"]
_resolver: ContextVar[Resolver | None] = ContextVar("resolver", default=None)
_default_resolver: list[Resolver] = []


def set_default_resolver(resolver: Resolver) -> None:
    """Set how ``(kind, name)`` becomes a class wherever no other resolver is in force."""
    _default_resolver[:] = [resolver]


@contextmanager
def resolving_with(resolver: Resolver) -> Iterator[None]:
    """Look names up with ``resolver`` inside the block."""
    token = _resolver.set(resolver)
    try:
        yield
    finally:
        _resolver.reset(token)


def resolve(kind: str, name: str) -> type[Component]:
    """Return the component class of that kind and name; raise `ConfigError` or `PluginError` if there is none."""
    resolver = _resolver.get() or (_default_resolver[0] if _default_resolver else None)
    if resolver is None:
        raise PluginError(f"no registry in force while looking up {kind} '{name}'")
    return resolver(kind, name)


class Settings(BaseModel):
    """A frozen set of named parameters, some of which may be components."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def table(self) -> dict[str, Any]:
        """The parameters as a nested table of plain values: what is written to TOML and read back by validation."""
        dumped = self.model_dump(mode="json", exclude=set(_component_fields(type(self))), exclude_none=True)
        values = {
            field: value.table() if isinstance(value := getattr(self, field), Settings) else dumped.get(field)
            for field in type(self).model_fields
        }
        return {field: value for field, value in values.items() if value is not None}


def by_name(default: str, description: str) -> Any:
    """A field that is a component, with the spec of its default: ``noise: NoiseSchedule = by_name("linear", "...")``.

    The name is looked up when the field is validated, so that no plugin has to import another.
    """
    return Field(default, description=description)


class Component(Settings):
    """Base of every pluggable thing."""

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    references: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="wrap")
    @classmethod
    def _resolve_names(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = parse_spec(value)
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a {cls.kind}: a name, a spec like 'name:key=value' or a table")
        table = {str(key): entry for key, entry in value.items()}
        name = table.pop("name", cls.name)
        if name != cls.name:
            return resolve(cls.kind, str(name)).model_validate(table)  # type: ignore[return-value]  # a class of cls.kind
        if inspect.isabstract(cls) or not cls.name:
            raise ValueError(f"which {cls.kind}? give a name")
        try:
            return handler(with_default_names(cls, table))
        except ValidationError as error:
            raise invalid_parameter(cls, error) from error

    def table(self) -> dict[str, Any]:
        return {"name": self.name, **super().table()}

    @property
    def spec(self) -> str:
        """The compact spec that gives this component again, parameters at their default left out."""
        table, parameters = self.table(), []
        for field, info in type(self).model_fields.items():
            value = getattr(self, field)
            text = value.spec if isinstance(value, Component) else table.get(field)
            if value != info.default and text != info.default and text is not None:
                parameters.append(f"{field}={_toml_value(text)}")
        return f"{self.name}:{','.join(parameters)}" if parameters else self.name

    def __eq__(self, other: object) -> bool:
        # By parameters alone: what a component has loaded and cached is no part of what it is.
        return isinstance(other, Component) and type(self) is type(other) and self.table() == other.table()

    def __hash__(self) -> int:
        return hash((type(self), repr(self.table())))


def _toml_value(value: Any) -> str:
    """A value as a spec writes it: bare words stay bare, what could be misread is quoted."""
    if isinstance(value, str) and parse_value(value) == value and not set(value) & set(',[]"='):
        return value
    return json.dumps(value)


@dataclass(frozen=True)
class Lazy:
    """A component announced without importing it: what a listing needs, and where to find the class.

    Args:
        kind, name, summary: as the class itself says them (its docstring's first line is the summary).
        target: ``"package.module:Class"``.

    """

    kind: str
    name: str
    target: str
    summary: str = ""


def summary(component: type[Component]) -> str:
    """The first line of a component's docstring, without the final stop."""
    return (inspect.getdoc(component) or "").partition("\n")[0].removesuffix(".")


def invalid_parameter(cls: type[Settings], error: ValidationError) -> ConfigError:
    """The first of pydantic's complaints about ``cls`` as an error that says what is allowed."""
    first = error.errors(include_url=False)[0]
    # A component's own parameter is one level deep (below are a union's alternatives); the tree's may be two: train.steps.
    depth = 1 if issubclass(cls, Component) else 2
    key = ".".join(str(part) for part in first["loc"][:depth])
    owner = f"{cls.kind} '{cls.name}'" if issubclass(cls, Component) else "the configuration"
    subject = ".".join(part for part in (cls.kind if issubclass(cls, Component) else "", key) if part)
    if first["type"] == "extra_forbidden":
        known = sorted(cls.model_fields)
        return ConfigError(
            f"{owner} has no parameter '{key}'",
            details=[f"its parameters: {', '.join(known) or 'none'}", did_you_mean(key, known)],
            subject=subject,
        )
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return ConfigError(f"{owner}: {message}", subject=subject)
    if first["type"] == "missing":
        return ConfigError(
            f"{owner} needs '{key}'", details=[_describe(cls, key)], fix=_example(cls, key), subject=subject
        )
    return ConfigError(
        f"{owner}: {key} = {first['input']!r}: {message[0].lower()}{message[1:]}",
        details=[_describe(cls, key)],
        subject=subject,
    )


def _describe(cls: type[BaseModel], key: str) -> str:
    info = cls.model_fields.get(key.partition(".")[0])
    return f"{key}: {info.description}" if info and info.description else ""


def _example(cls: type[Settings], key: str) -> str:
    return f"write --{cls.kind} {cls.name}:{key}=..." if issubclass(cls, Component) else f"write --set {key}=..."


def _component_fields(cls: type[BaseModel]) -> Iterator[str]:
    for field, info in cls.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Settings):
            yield field


def with_default_names(cls: type[BaseModel], table: dict[str, Any]) -> dict[str, Any]:
    """Complete tables of parameters that name no component (``{f_max = 0.3}``) with the field's default name."""
    completed = dict(table)
    for field in _component_fields(cls):
        given, default = table.get(field), cls.model_fields[field].default
        if isinstance(given, Mapping) and "name" not in given and isinstance(default, str):
            completed[field] = {**parse_spec(default), **given}
    return completed


# A comma separates parameters unless it stands inside brackets or quotes.
_PARAMETER = re.compile(r'(?:[^,\[\]"]|\[[^\]]*\]|"[^"]*")+')


def parse_value(text: str) -> Any:
    """Read a value as TOML does (numbers, booleans, quoted strings, lists); anything else is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parse_spec(spec: str) -> dict[str, Any]:
    """Turn ``"log:f_max=0.3,f_min=0.1"`` into ``{"name": "log", "f_max": 0.3, "f_min": 0.1}``."""
    name, _, rest = spec.partition(":")
    table: dict[str, Any] = {"name": name.strip()}
    if not table["name"]:
        raise ConfigError(f"empty component name in '{spec}'", fix="write a name, or name:key=value,key=value")
    for parameter in _PARAMETER.findall(rest):
        key, equals, value = parameter.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"cannot read '{parameter}' in the spec '{spec}'", fix="write it as name:key=value,key=value"
            )
        if key.strip() in table:
            raise ConfigError(f"'{key.strip()}' is given twice in the spec '{spec}'", fix="keep one of the two")
        table[key.strip()] = parse_value(value.strip())
    return table
