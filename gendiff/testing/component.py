"""What every component promises: it can be named, written down, found again and sent to another process."""

from __future__ import annotations

import pickle
import re
import tomllib

import tomli_w
from pydantic import ValidationError

from gendiff.component import Component, component_class, summary
from gendiff.testing.card import check, require


@check(
    "component",
    "it has a name to type and a summary to read",
    "the class variable `name` and the docstring's first line",
)
def named(component: Component) -> str:
    """Lower case, digits and hyphens: nothing that a shell or a spec could misread; of what is composed, each of the names."""
    names = component.name.split("+")
    slugs = all(re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) for name in names)
    require(slugs and _composed(component, names), "a name of lower-case words joined by hyphens", repr(component.name))
    require(bool(summary(type(component))), "a docstring whose first line says what it is", "none")
    return f"{component.name}: {summary(type(component))}"


@check(
    "component",
    "its spec and its table give it again",
    "the types of its parameters: numbers, texts, lists, components",
)
def written_down(component: Component) -> str:
    """What a configuration stores is the component."""
    again = type(component).model_validate(tomllib.loads(tomli_w.dumps(component.table())))
    require(again.table() == component.table(), str(component.table()), str(again.table()))
    require(dict(again) == dict(component), f"the parameters {dict(component)}", str(dict(again)))
    from_spec = type(component).model_validate(component.spec)
    require(
        from_spec.table() == component.table(), f"{component.table()} from '{component.spec}'", str(from_spec.table())
    )
    return component.spec


@check(
    "component", "its parameters do not change", "a parameter that is a list or a dict: use a tuple; a mutable model"
)
def frozen(component: Component) -> str:
    """It can be a key of a cache."""
    copy = type(component).model_validate(component.table())
    for name in type(component).model_fields:
        value = getattr(component, name)
        require(_lasting(value), "parameters that cannot be changed in place", f"{name} is a {type(value).__name__}")
        try:
            setattr(copy, name, value)
        except ValidationError:
            continue
        require(False, "parameters that cannot be set", f"{name} can")
    return f"{len(type(component).model_fields)} parameters"


def _lasting(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


@check("component", "it can be sent to another process", "define its class at the top of a module; hold no open files")
def sent(component: Component) -> str:
    """Data workers and distributed training need it."""
    if type(component).__module__.startswith("gendiff_plugin_"):
        return "not asked of a plugin in a single file"
    content = pickle.dumps(component)
    require(pickle.loads(content).table() == component.table(), "itself again", "another")  # our own bytes
    return f"{len(content)} bytes"


def _composed(component: Component, names: list[str]) -> bool:
    """Whether a name of several is that of a composition, and no component's own."""
    if len(names) == 1:
        return True
    parts = [component_class(component.kind, name) for name in names]
    return parts[0].composed(component.name, parts) is type(component)
