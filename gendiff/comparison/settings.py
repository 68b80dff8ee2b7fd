r"""Settings: in what arms differ, and which of it is asked for.

An arm is one line of text; what it says is what the comparison is about. A preset, a process or a run brings more. So the
settings in which arms differ are told apart: those that the text of an arm names, and all others, by what they are settings of.
Settings that do nothing in an arm are none of it: with D = 1 there is nothing for a blur schedule to act on, and where all
components are scaled alike U is no more than a name. Whether one does anything is decided by the numbers: with another value,
that of another arm, the scales are the same in the same basis, or they are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gendiff.comparison.plan import Contender
from gendiff.errors import GendiffError
from gendiff.plain import json_text
from gendiff.rotation import Rotation
from gendiff.scales import Scales
from gendiff.velocity import Velocity

#: What settings belong to, and where their paths begin; the first that fits.
GROUPS = {
    "process": ("rotation.", "velocity.", "N"),
    "network": ("model.",),
    "basis": ("objective.basis",),
    "objective": ("objective.",),
    "sampler": ("sampler.",),
    "data": ("data.",),
    "training": ("train.",),
}
#: What is looked at and kept on the way: it changes no weight and no sample.
WATCHING = tuple(
    f"train.{name}"
    for name in (
        "preview", "preview_images", "sample_every", "log_every", "checkpoint_every", "keep", "loggers", "metrics", "workers",
    )
)  # fmt: skip
SAME = 1e-9  # difference of log a and log s up to which scales are the same
LOOKED = 8  # steps
NUDGE = 1.1  # what a number is multiplied by where no arm has another one


@dataclass(frozen=True)
class Setting:
    """A setting in which arms differ.

    Args:
        path: dotted.
        group: what it belongs to, one of `GROUPS`.
        values: of each arm; None where it has none, or where it does nothing.
        asked: whether the text of an arm names it.

    """

    path: str
    group: str
    values: tuple[Any, ...]
    asked: bool


def shown(value: Any) -> str:
    """A value of a setting as text."""
    return "-" if value is None else value if isinstance(value, str) else json_text(value)


def differing(contenders: Sequence[Contender]) -> list[Setting]:
    """The settings in which contenders differ and that do something, by group."""
    tables = _effective(contenders)
    keys = dict.fromkeys(key for table in tables for key in table)
    settings = []
    for key in keys:
        values = tuple(table.get(key) for table in tables)
        if _differ(values) and not _within(key, WATCHING) and (_is_inner(key) or _differ(_raw(key, contenders))):
            asked = any(_within(key, contender.asked) for contender in contenders)
            settings.append(Setting(key, group(key), values, asked))
    bases = tuple(contender.config.basis.spec for contender in contenders)
    if len(set(bases)) > 1 and not any(one.group == "basis" for one in settings):
        settings.append(Setting("basis of m and c", "basis", bases, False))
    order = list(GROUPS)
    return sorted(settings, key=lambda one: order.index(one.group))


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def _raw(path: str, contenders: Sequence[Contender]) -> list[Any]:
    return [contender.settings.get(path) for contender in contenders]


def _is_inner(path: str) -> bool:
    """Whether it belongs to a part of a velocity, such as its schedule, which is named where one arm alone has a use for it."""
    return path.startswith("velocity.") and path.count(".") > 1


def group(path: str) -> str:
    """What a setting belongs to."""
    return next(
        (name for name, starts in GROUPS.items() if any(path == s or path.startswith(s) for s in starts)), "training"
    )


def sentences(contenders: Sequence[Contender]) -> list[str]:
    """In what the arms differ: what is asked for, what else, and which of them are the process of the baseline."""
    settings = differing(contenders)
    asked, others = (
        [f"{name}: {'; '.join(texts)}" for name in GROUPS if (texts := _texts(settings, name, asked))]
        for asked in (True, False)
    )
    lines = []
    if asked:
        lines = [f"as asked, the arms differ in {', and in '.join(asked)}{'.' if others else '; in nothing besides.'}"]
    if others:
        lines += [f"{'besides, they' if asked else 'unasked, the arms'} differ in {', and in '.join(others)}."]
    same = [
        one for one in contenders[1:] if _process(one) != _process(contenders[0]) and same_process(one, contenders[0])
    ]
    return [
        *(lines or ["the arms differ in nothing that does anything."]),
        *(f"{one.label} is the process of {contenders[0].label}." for one in same),
    ]


def _process(contender: Contender) -> dict[str, Any]:
    return {key: value for key, value in contender.settings.items() if group(key) == "process"}


def _texts(settings: Sequence[Setting], name: str, asked: bool) -> list[str]:
    """The settings of a group, in words; of components that are others, their names."""
    part = [one for one in settings if one.group == name and one.asked == asked]
    named = [one.path.removesuffix("name") for one in part if one.path.endswith(".name")]
    return [
        f"{one.path.removesuffix('.name')} {' | '.join(map(shown, one.values))}"
        for one in part
        if one.path.endswith(".name") or not any(one.path.startswith(start) for start in named)
    ]


def _within(path: str, prefixes: Sequence[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


# --- what does nothing --------------------------------------------------------------------------------------------------


def _effective(contenders: Sequence[Contender]) -> list[dict[str, Any]]:
    """The settings of each contender without those that do nothing in it."""
    idle = [list(_idle(place, contenders)) for place in range(len(contenders))]
    if all(same_process(one, contenders[0]) for one in contenders[1:]):
        idle = [["rotation", "velocity"]] * len(contenders)
    return [
        {key: value for key, value in contender.settings.items() if not _within(key, prefixes)}
        for contender, prefixes in zip(contenders, idle, strict=True)
    ]


def _idle(place: int, contenders: Sequence[Contender]) -> Iterator[str]:
    """The settings of the process of a contender for which those of the others would do as well."""
    here, others = contenders[place], [one for k, one in enumerate(contenders) if k != place]
    rotation, velocity = _parts(here)
    rotations = [_parts(one)[0] for one in others if one.config.rotation.spec != here.config.rotation.spec]
    if rotations and all(_does_nothing(here, other, velocity) for other in rotations):
        yield "rotation"
    velocities = [_parts(one)[1] for one in others if one.config.velocity.name != velocity.name]
    if velocities and all(_does_nothing(here, rotation, _like(other, velocity)) for other in velocities):
        yield "velocity.name"
    for name in type(velocity).model_fields:
        own = getattr(velocity, name)
        values = [getattr(_parts(one)[1], name, own) for one in others]
        values = [value for value in values if value != own]
        if getattr(own, "kind", "") == "schedule":
            values.append("none")
        elif isinstance(own, float):
            values.append(own * NUDGE)
        if values and all(_does_nothing(here, rotation, value, name) for value in values):
            yield f"velocity.{name}"


def _like(other: Velocity, own: Velocity) -> Velocity:
    """Another velocity with the parts that both have as they are here."""
    common = {name: value for name, value in own.table().items() if name in type(other).model_fields}
    return Velocity.model_validate({**other.table(), **common, "name": other.name}).with_learned(other._learned)


def _parts(contender: Contender) -> tuple[Rotation, Velocity]:
    fitted = contender.config.fitted()
    return fitted.rotation, fitted.velocity


def _does_nothing(contender: Contender, rotation: Rotation, other: Any, name: str = "") -> bool:
    """Whether the process is the same with another rotation, another velocity or, where ``name`` is given, another part of it."""
    own_rotation, own = _parts(contender)
    try:
        velocity = other
        if name:
            table = {**own.table(), name: other.table() if hasattr(other, "table") else other}
            velocity = Velocity.model_validate(table).with_learned(own._learned)
        return _same(contender, (own_rotation, own), (rotation, velocity))
    except GendiffError:  # it cannot be there: so it does something
        return False


def _same(contender: Contender, *recipes: tuple[Rotation, Velocity]) -> bool:
    config = contender.config
    shape, N = config.data.event_shape, config.N
    one, other = (
        (velocity.scales(rotation, shape, N), config.basis_of(rotation, velocity, shape))
        for rotation, velocity in recipes
    )
    return one[1].spec == other[1].spec and same_scales(one[0], other[0], shape)


def same_process(one: Contender, other: Contender) -> bool:
    """Whether two contenders have the same scales in the same basis."""
    p, q = one.diffusion, other.diffusion
    return (
        p.event_shape == q.event_shape
        and p.rotation.spec == q.rotation.spec
        and same_scales(p.scales, q.scales, p.event_shape)
    )


def same_scales(one: Scales, other: Scales, event_shape: tuple[int, ...]) -> bool:
    """Whether scales give the same numbers, looked at in about 8 steps."""
    if one.N != other.N:
        return False
    i = torch.tensor(
        sorted({1, *(round(1 + k * (one.N - 1) / (LOOKED - 1)) for k in range(LOOKED))}), device=one.device
    )
    for name in ("log_a", "log_s"):
        p, q = (getattr(scales, name)(i).expand(len(i), *event_shape) for scales in (one, other))
        if not torch.allclose(p, q, rtol=0, atol=SAME):
            return False
    return True
