"""A component is anything that a user can swap by name.

A component is a frozen pydantic model. Its fields are its parameters, and they are at once the command-line spec
(``log:f_max=0.3``), the TOML table, the reference page and the configuration stored with a run. Two class variables place
it: ``kind`` (set by the interface, for example ``"schedule"``) and ``name`` (set by each concrete class).

A field may itself be a component (a velocity owns its noise schedule); it then accepts an instance, a name, a compact spec
or a table. Names are looked up by the resolver in force, which the registry provides.

This module does not import torch.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, final, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from gendiff.command import command
from gendiff.errors import ConfigError, GendiffError, PluginError, did_you_mean
from gendiff.names import resolver
from gendiff.plain import toml_table

if TYPE_CHECKING:
    F = TypeVar("F")

    def abstractmethod(method: F) -> F:
        """What an author gives. Of type checkers it is hidden, or they would refuse ``Rotation("dct")``."""
        return method
else:
    from abc import abstractmethod as abstractmethod

#: What no list offers: what stands in a configuration for an object that somebody gave in Python, for data nobody has, or for
#: data before which another setting puts an autoencoder.
_PYTHON = {
    ("data", "elsewhere"): "gendiff.datasets.elsewhere:Elsewhere",
    ("data", "latents"): "gendiff.datasets.latents:Latents",
    ("data", "python-events"): "gendiff.datasets.tensors:TensorData",
    ("model", "python-module"): "gendiff.run.module:TorchModule",
    ("guide", "python-classifier"): "gendiff.guide:GivenClassifier",
    ("guide", "python-clean-classifier"): "gendiff.guide:GivenCleanClassifier",
    ("operator", "python-functions"): "gendiff.operator:Functions",
}


def component_class(kind: str, name: str) -> type[Component]:
    """Return the component class of that kind and name; raise `ConfigError` or `PluginError` if there is none."""
    if target := _PYTHON.get((kind, name)):
        module, _, own = target.partition(":")
        return getattr(import_module(module), own)  # type: ignore[no-any-return]  # a class of that kind
    return resolver()(kind, name)  # type: ignore[no-any-return]  # a class of that kind


def completed(kind: str, table: Any) -> Any:
    """A table of a component that was stored, with what its later parameters were then (`Component.earlier`).

    What is no table, or of a component that is not here, stays as it is.
    """
    if not isinstance(table, Mapping):
        return table
    try:
        earlier = component_class(kind, str(table.get("name", ""))).earlier
    except Exception:  # who needs the component hears why it is not here
        return table
    return {**table, **{key: value for key, value in earlier.items() if key not in table}}


def guard(cls: type, name: str, check: Callable[..., tuple[Any, ...]]) -> None:
    """Have ``check`` look at the arguments of a method that ``cls`` itself defines; what it returns is what the method gets.

    For methods of an interface that users call and authors write: the rule is the interface's, whoever writes the method.
    """
    method = vars(cls).get(name)
    if method is None:
        return

    @wraps(method)
    def guarded(self: Any, *arguments: Any, **named: Any) -> Any:
        return method(self, *check(*arguments, **named))

    setattr(cls, name, guarded)


class Settings(BaseModel):
    """A frozen set of named parameters, some of which may be components. Numbers are finite."""

    kind: ClassVar[str] = ""
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _validate_components(cls, value: Any) -> Any:
        # Ahead of pydantic, which would not say at which field a nested error arose.
        if not isinstance(value, Mapping):
            return value
        table = dict(value)
        for field in table.keys() & set(_path_fields(cls)):
            if table[field] == "":
                raise _empty_path(cls, field)
        for field in table.keys() & set(_component_fields(cls)):
            if table[field] is not None:
                table[field] = _validated(cls, field, table[field])
        for field, inner in _component_lists(cls):
            if isinstance(parts := table.get(field), list | tuple):
                table[field] = tuple(_listed(cls, field, inner, part) for part in parts)
        return table

    def table(self) -> dict[str, Any]:
        """The parameters as a nested table of plain values: what is written to TOML and read back by validation."""
        tables = {field: table for field in type(self).model_fields if (table := _tables(getattr(self, field)))}
        values = self.model_dump(mode="json", exclude=set(tables), exclude_none=True)
        return {
            field: tables.get(field, values.get(field))
            for field in type(self).model_fields
            if field in {**tables, **values}
        }


def _tables(value: Any) -> Any:
    """The table of settings, or the tables of several; None where ``value`` is neither."""
    if isinstance(value, Settings):
        return value.table()
    if isinstance(value, tuple) and value and all(isinstance(part, Settings) for part in value):
        return [part.table() for part in value]
    return None


def by_name(default: str, description: str) -> Any:
    """A field that is a component, with the spec of its default: ``noise: NoiseSchedule = by_name("linear", "...")``.

    The name is looked up when the field is validated, so that no plugin has to import another.
    """
    return Field(default, description=description)


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass as ComponentType
else:

    class ComponentType(type(BaseModel)):
        """The type of component classes: an interface that is called with a spec gives the component that it names."""

        def __call__(cls, *spec: Any, **parameters: Any) -> Component:
            if not spec and (cls.name or not cls.kind):
                return super().__call__(**parameters)
            return cls._of(*spec, **parameters)


class Component(Settings, metaclass=ComponentType):
    """Base of every pluggable thing.

    An interface is called with what names a component: ``Rotation("dct")``, ``Velocity("blur:schedule=log")``,
    ``Sampler("ddim", steps=20)``, a table, or a component, which is given back. A class of one's own takes its parameters.
    """

    name: ClassVar[str] = ""
    #: What parameters were that came later: tables that were stored before lack them. Their defaults may be others.
    earlier: ClassVar[Mapping[str, Any]] = {}
    _learned: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    @final
    def with_learned(self, learned: Mapping[str, Any]) -> Self:
        """A copy that holds tensors which it learned from data: what `Rotation.fit` or `Velocity.fit` returned."""
        copy = self.model_copy()
        copy._learned = dict(learned)
        return copy

    @final
    @property
    def has_learned(self) -> bool:
        """Whether it holds tensors learned from data."""
        return bool(self._learned)

    @final
    @property
    def learned(self) -> Mapping[str, Any]:
        """The tensors learned from data; raises `ConfigError` where this component has not met any."""
        if not self._learned:
            raise ConfigError(
                f"{self.kind} '{self.name}' is fitted to data, and has seen none",
                fix="fit it first: component.with_learned(component.fit(...)), or Config.fitted()",
            )
        return self._learned

    @classmethod
    def composed(cls, name: str, parts: Sequence[type[Component]]) -> type[Component] | None:
        """What ``A+B`` stands for, ``parts`` being the classes of A and B; None, as here, for a kind that knows no such thing."""
        return None

    @classmethod
    def _of(cls, *spec: Any, **parameters: Any) -> Component:
        """What ``cls(spec, **parameters)`` gives; raises `ConfigError` where that names no component of this class."""
        one, *more = spec or (parameters,)
        example = (
            f"write it as {cls.__name__}('NAME'), {cls.__name__}('NAME:KEY=VALUE') or {cls.__name__}('NAME', KEY=VALUE)"
        )
        if more or not isinstance(one, str | Mapping | Component) or (isinstance(one, Component) and parameters):
            arguments = ", ".join([*map(repr, spec), *parameters])
            raise ConfigError(f"{cls.__name__}({arguments:.80}) names no {cls.kind}", fix=example, subject=cls.kind)
        if isinstance(one, Component):
            table: Any = one
        else:
            table = {**(parse_spec(one) if isinstance(one, str) else one), **parameters}
            if not cls.name and "name" not in table:
                raise ConfigError(
                    f"which {cls.kind}? {cls.__name__} is what all of them have in common",
                    details=[f"all that can be named: {command('plugins', 'list', '--kind', cls.kind)}"],
                    fix=example,
                    subject=cls.kind,
                )
        component = table if isinstance(table, Component) else cls.model_validate(table)
        if not isinstance(component, cls):
            raise ConfigError(f"{component!r} is no {cls.__name__}", fix=example, subject=cls.kind)
        return component

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Around everything, an author's own validators among them, which a wrap validator of this base would not be.
        return core_schema.no_info_wrap_validator_function(cls._resolve_names, handler(source))

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
            return component_class(cls.kind, str(name)).model_validate(table)  # type: ignore[return-value]  # a class of cls.kind
        if inspect.isabstract(cls) or not cls.name:
            raise ValueError(f"which {cls.kind}? give a name")
        try:
            return handler(table)
        except ValidationError as error:
            key = str(*error.errors(include_url=False)[0]["loc"][:1])
            if key in cls.model_fields.keys() - table.keys() and not cls.model_fields[key].is_required():
                raise _invalid_default(cls, key, error) from error
            raise invalid_parameter(cls, error) from error

    def table(self) -> dict[str, Any]:
        return {"name": self.name, **super().table()}

    @property
    def spec(self) -> str:
        """The compact spec that gives this component again, parameters at their default left out."""
        return self._written()

    @property
    def brief(self) -> str:
        """The spec to be read, not to be pasted: of a long value there is the beginning."""
        return self._written(LONG)

    def _written(self, most: int | None = None) -> str:
        table, parameters = self.table(), []
        for field, info in type(self).model_fields.items():
            value = getattr(self, field)
            text = value._written(most) if isinstance(value, Component) else table.get(field)
            if value != info.default and text != info.default and text is not None:
                written = spec_value(text)
                long = most is not None and len(written) > most and not isinstance(value, Component)
                parameters.append(f"{field}={written[:most]}...{written[-1]}" if long else f"{field}={written}")
        return f"{self.name}:{','.join(parameters)}" if parameters else self.name

    def __repr__(self) -> str:
        # As it is written in Python: the interface, and the spec.
        interface = next(base for base in reversed(type(self).__mro__) if getattr(base, "kind", "") == self.kind)
        return f"{interface.__name__}({self.spec!r})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        # By parameters and what was learned: what a component has loaded and cached is no part of what it is.
        return (
            isinstance(other, Component)
            and type(self) is type(other)
            and self.table() == other.table()
            and self._learned.keys() == other._learned.keys()
            and all(value is other._learned[name] for name, value in self._learned.items())
        )

    def __hash__(self) -> int:
        return hash((type(self), repr(self.table())))


def spec_value(value: Any) -> str:
    """A value as a spec writes it: bare words stay bare, what could be misread is quoted."""
    if isinstance(value, str) and parse_value(value.strip()) == value and not set(value) & set(",[]{}\"'="):
        return value
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # the one character that TOML escapes too


def summary(component: type[Component]) -> str:
    """The first line of a component's docstring, without the final stop."""
    return inspect.cleandoc(component.__doc__ or "").partition("\n")[0].removesuffix(".")  # its own, not inherited


def declared_range(info: FieldInfo) -> tuple[float, float]:
    """Between which numbers a field declares its values to be; infinite where it declares no end."""
    lower, upper = (
        [float(getattr(one, key)) for one in info.metadata for key in keys if getattr(one, key, None) is not None]
        for keys in (("ge", "gt"), ("le", "lt"))
    )
    return max(lower, default=-math.inf), min(upper, default=math.inf)


def invalid_parameter(cls: type[Settings], error: ValidationError, section: str = "") -> ConfigError:
    """The first of pydantic's complaints about ``cls`` as an error that says what is allowed."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"][:1])  # deeper are the alternatives of a union
    owner = f"section '{section}'" if section else "the configuration"
    if issubclass(cls, Component):
        owner = f"{cls.kind} '{cls.name}'"
    subject = _path(cls.kind, key)
    if first["type"] == "extra_forbidden":
        names = sorted(cls.model_fields)
        suggestion = did_you_mean(key, names)
        return ConfigError(
            f"{owner} has no parameter '{key}'",
            details=[f"its parameters: {', '.join(names) or 'none'}", suggestion],
            fix=f"leave it out, or choose another {cls.kind}" if cls.kind and not suggestion else "",
            subject=subject,
        )
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return ConfigError(f"{owner}: {message}", subject=subject)
    info = cls.model_fields.get(key)
    description = [f"{key}: {info.description}"] if info and info.description else []
    if first["type"] == "missing":
        option = f"--{cls.kind} {cls.name}:{key}=..." if issubclass(cls, Component) else f"--set {key}=..."
        return ConfigError(f"{owner} needs '{key}'", details=description, fix=f"write {option}", subject=subject)
    return ConfigError(
        f"{owner}: {key} = {first['input']!r}: {_alternatives(error, key)}", details=description, subject=subject
    )


def _alternatives(error: ValidationError, key: str) -> str:
    """What pydantic says of a parameter; of one with several types, what the fitting ones want, or else all."""
    every = [each for each in error.errors(include_url=False) if key == str(each["loc"][0])]
    fitting = [each for each in every if not each["type"].endswith("_type")]
    messages = [each["msg"].removeprefix("Value error, ").replace("valid tuple", "list") for each in fitting or every]
    return "; or: ".join(dict.fromkeys(f"{message[0].lower()}{message[1:]}" for message in messages))


def _invalid_default(cls: type[Component], key: str, error: ValidationError) -> PluginError:
    """The author's mistake, whoever uses the component."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    return PluginError(
        f"{cls.kind} '{cls.name}': its own default is refused: {key} = {first['input']!r}: {message[0].lower()}{message[1:]}",
        fix=f"correct the class, or give another value: {cls.name}:{key}=...",
        subject=_path(cls.kind, "name"),
    )


def _path(*parts: str) -> str:
    return ".".join(filter(None, parts))


def _path_fields(cls: type[BaseModel]) -> Iterator[str]:
    for field, info in cls.model_fields.items():
        if any(inner is Path for inner in (info.annotation, *get_args(info.annotation))):
            yield field


def _empty_path(cls: type[Settings], field: str) -> ConfigError:
    """For an empty text, which would be the working folder to Python, and to a user is a variable that is not set."""
    info, owner = (
        cls.model_fields[field],
        f"{cls.kind} '{getattr(cls, 'name', '')}'" if cls.kind else "the configuration",
    )
    return ConfigError(
        f"{owner}: the path '{field}' is empty",
        details=[
            f"{field}: {info.description}" if info.description else "",
            "a shell variable that is not set gives nothing",
        ],
        fix=f"write a path; the working folder is {field}=.",
        subject=_path(cls.kind, field),
    )


def _component_fields(cls: type[BaseModel]) -> Iterator[str]:
    for field, info in cls.model_fields.items():
        if _settings_type(info.annotation):
            yield field


def _settings_type(annotation: Any) -> type[Settings] | None:
    """The settings that a field holds, or may hold; None for a field of something else."""
    for inner in (annotation, *([] if get_origin(annotation) is tuple else get_args(annotation))):
        if isinstance(inner, type) and issubclass(inner, Settings):
            return inner
    return None


def _component_lists(cls: type[BaseModel]) -> Iterator[tuple[str, type[Component]]]:
    for field, info in cls.model_fields.items():
        inner = (*get_args(info.annotation), None)[0]
        if get_origin(info.annotation) is tuple and isinstance(inner, type) and issubclass(inner, Component):
            yield field, inner


def _listed(cls: type[Settings], field: str, inner: type[Component], value: Any) -> Any:
    """One of several components in a field; an error's subject is the field."""
    try:
        return inner.model_validate(value)
    except GendiffError as error:
        error.subject = _path(cls.kind, field)
        raise


def _validated(cls: type[Settings], field: str, value: Any) -> Any:
    """What a field of ``cls`` holds when it is given ``value``; an error's subject is the whole path from ``cls``."""
    info = cls.model_fields[field]
    inner = _settings_type(info.annotation)
    assert inner is not None  # so says _component_fields
    if isinstance(value, Mapping) and "name" not in value and isinstance(info.default, str):
        value = {**parse_spec(info.default), **value}  # {f_max = 0.3} names no component: the default's
    try:
        return inner.model_validate(value)
    except ValidationError as error:
        if inner.kind or not isinstance(value, Mapping):
            return value  # neither a component nor a table: pydantic says so, and at which field
        complaint = invalid_parameter(inner, error, section=field)
        complaint.subject = _path(cls.kind, field, complaint.subject)
        raise complaint from error
    except GendiffError as error:
        inside = error.subject.partition(".")[2] if inner.kind else error.subject
        error.subject = _path(cls.kind, field, inside)
        raise


# What may hold a comma that separates nothing: quoted text, and anything between brackets.
LONG = 40  # characters of a value that a reader is shown
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[\[\]{},]')


def parse_value(text: str) -> Any:
    """Read a value as TOML does (numbers, booleans, quoted strings, lists, tables); anything else is a string."""
    try:
        value = toml_table(f"value = {text}".encode())["value"]
    except ValueError:
        return text
    is_date = not isinstance(value, bool | int | float | str | list | dict)
    return text if is_date else value  # nothing here is a date, but a folder may be named like one


def parse_spec(spec: str) -> dict[str, Any]:
    """Turn ``"log:f_max=0.3,f_min=0.1"`` into ``{"name": "log", "f_max": 0.3, "f_min": 0.1}``."""
    name, _, rest = spec.partition(":")
    table: dict[str, Any] = {"name": name.strip()}
    if not table["name"]:
        raise ConfigError(f"empty component name in '{spec}'", fix="write a name, or name:key=value,key=value")
    for parameter in _parameters(rest):
        key, equals, value = parameter.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"cannot read '{parameter}' in the spec '{spec}'",
                details=[_several(list(table)[-1], [table[list(table)[-1]], parameter.strip()])]
                if len(table) > 1
                else [],
                fix="write it as name:key=value,key=value",
            )
        if key.strip() in table:
            raise ConfigError(f"'{key.strip()}' is given twice in the spec '{spec}'", fix="keep one of the two")
        table[key.strip()] = parse_value(value.strip())
    return table


def _several(key: str, values: list[Any]) -> str:
    """How values of one parameter, which the comma between them has torn apart, are written."""
    together = ",".join(map(str, values))
    size = "x".join(map(str, values))
    return f"several values of one parameter: {key}=[{together}]" + (f"; or {key}={size}" if key == "size" else "")


def _parameters(text: str) -> Iterator[str]:
    """The parts of ``text`` between the commas that separate parameters."""
    start = depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if token[0] == "," and depth == 0:
            yield text[start : token.start()]
            start = token.end()
    if text[start:].strip():
        yield text[start:]
