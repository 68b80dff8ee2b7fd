"""Reference: what a component says about itself, for ``gendiff plugins info`` and the reference pages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from gendiff.component import Component

_BOUNDS = {
    "ge": "≥ {}",
    "gt": "> {}",
    "le": "≤ {}",
    "lt": "< {}",
    "multiple_of": "multiple of {}",
    "min_length": "at least {}",
}


def described(component: type[Component]) -> dict[str, Any]:
    """Description, references and parameters of a component class, as plain values."""
    text = inspect.cleandoc(component.__doc__ or "")
    description, references = _split(text)
    return {
        "description": description,
        "references": references,
        "parameters": [_parameter(name, info) for name, info in component.model_fields.items()],
    }


def _split(text: str) -> tuple[str, list[str]]:
    """A docstring without its references, and these."""
    paragraphs = re.split(r"\n\s*\n", text)
    references = [" ".join(part.split()) for part in paragraphs if part.startswith(("Reference:", "References:"))]
    rest = [part for part in paragraphs if not part.startswith(("Reference:", "References:"))]
    return "\n\n".join(rest), references


def _parameter(name: str, info: FieldInfo) -> dict[str, Any]:
    default = "required" if info.is_required() else _text(info.get_default(call_default_factory=True))
    return {
        "name": name,
        "type": _type(info.annotation),
        "default": default,
        "range": _range(info),
        "description": info.description or "",
    }


def _text(value: Any) -> str:
    if isinstance(value, Component):
        return value.spec
    return "none" if value is None or value == () else str(value).lower() if isinstance(value, bool) else str(value)


def _type(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is Annotated:
        return _type(args[0])
    if origin in (Union, UnionType):
        return " or ".join(_type(arg) for arg in args)
    if origin is tuple:
        return f"list of {_type(args[0])}" if args[-1] is Ellipsis else f"{len(args)} of {_type(args[0])}"
    if annotation is NoneType:
        return "none"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return annotation.kind
    names: Mapping[Any, str] = {bool: "true or false", int: "integer", float: "number", str: "text"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _range(info: FieldInfo) -> str:
    bounds = [
        form.format(f"{value:g}" if isinstance(value, float) else value)
        for constraint in info.metadata
        for key, form in _BOUNDS.items()
        if (value := getattr(constraint, key, None)) is not None
    ]
    return ", ".join(bounds)
