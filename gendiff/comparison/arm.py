r"""Arm: one of several processes or experiments, in one line of text.

    identity                        a rotation,
    dct schedule=log:f_max=0.6      with further words KEY=VALUE: those of the command line without their dashes,
    dct velocity.sigma=0.3 N=500    and any key of the configuration, schedule.f_max for velocity.schedule.f_max;
    blur-diffusion noise=cosine     a named process;
    preset=heat-dissipation         a shipped configuration, over which the arm says the rest;
    runs/00001-digits-dct-log-s0    a run, as it was trained, or several that differ in their seed alone,
    RUN sampler=ddim:steps=50       and perhaps with another sampler;
    dct schedule=log label=paper    and the name by which tables and figures call it.

Words are separated by blanks, as in a shell; quotes keep a value with blanks together. What an arm does not say is that of the
layers below it; its preset lies below the flags that all arms share, and above their presets and files.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from gendiff.component import component_class, parse_spec, parse_value
from gendiff.errors import ConfigError, GendiffError
from gendiff.plugin.registry import Registry, default_registry
from gendiff.run.checkpoint import named
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, Resolved, refuse_second_velocity, resolve
from gendiff.run.shorthand import KEYS, parse_size

FIX = "write --arm 'ROTATION KEY=VALUE ...', such as 'dct schedule=log:f_max=0.6', or the directory of a run"


@dataclass(frozen=True)
class Arm:
    """One arm.

    Args:
        label: what tables and figures call it; the text itself unless ``label=`` says otherwise.
        layers: what it sets in the configuration, in rising order; for a run, the sampler at most.
        runs: the directories of the runs that it is; none for one that is described.
        presets: those that it names, in rising order.
        step: of a run, the checkpoint whose process is meant, where it learns its speeds; None for the newest.

    """

    label: str
    layers: tuple[Layer, ...] = ()
    runs: tuple[Path, ...] = ()
    presets: tuple[Layer, ...] = ()
    step: int | None = None

    @property
    def run(self) -> Path | None:
        """The first of its runs; None for an arm that is described."""
        return self.runs[0] if self.runs else None

    @classmethod
    def parse(cls, text: str, registry: Registry | None = None) -> Arm:
        """Read one line; raises `ConfigError` for words that say nothing.

        Args:
            registry: knows the presets; by default that of everything installed.

        """
        where = f"arm '{text}'"
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ConfigError(f"cannot read the {where}: {error}", fix=FIX) from error
        if not words:
            raise ConfigError("an arm is empty", fix=FIX)
        labels = [word.partition("=")[2] for word in words if word.startswith("label=")]
        words = [word for word in words if not word.startswith("label=")]
        label = labels[-1] if labels else text
        places = [named(word) for word in takewhile(_is_run, words)]
        runs, words = tuple(path for path, _ in places), words[len(places) :]
        step = next((step for _, step in places if step is not None), None)
        if step is not None and len(runs) > 1:
            raise ConfigError(f"{where} names one step of several runs", fix="name RUN@STEP alone")
        if runs and (overrides := [word for word in words if not word.startswith(("sampler=", "sampler."))]):
            fix = "a run is compared as it was trained; sampler=SPEC alone may be another"
            raise ConfigError(f"{where} changes '{overrides[0]}' of a run", fix=fix)
        names = [word.partition("=")[2] for word in words if word.startswith("preset=")]
        presets = tuple(_preset(name, registry or default_registry(), where) for name in names)
        words = [word for word in words if not word.startswith("preset=")]
        layers = tuple(_layer(word, place == 0 and not runs, where) for place, word in enumerate(words))
        tables = {key: layer.table[key] for layer in layers for key in ("process", "velocity") if key in layer.table}
        refuse_second_velocity(tables.get("process"), tables.get("velocity"), where)
        return cls(label, layers, runs, presets, step)

    def over(self, below: Iterable[Layer]) -> Resolved:
        """Its configuration over the layers ``below``, or that of its run, of which they change nothing."""
        if self.run is None:
            layers = list(below)
            flags = next((k for k, layer in enumerate(layers) if layer.origin.startswith("--")), len(layers))
            return resolve([*layers[:flags], *self.presets, *layers[flags:], *self.layers])
        run = Run.open(self.run, at=self.step)
        own = {"N": run.config.N, "sampler": run.config.sampler.table()}
        sampler = resolve([Layer(str(self.run / "config.toml"), own), *self.layers]).config.sampler
        return Resolved(run.config.model_copy(update={"sampler": sampler}))


def parse_arms(texts: Iterable[str], registry: Registry | None = None) -> list[Arm]:
    """Read several; raises `ConfigError` where two have the same label."""
    arms = [Arm.parse(text, registry) for text in texts]
    labels = [arm.label for arm in arms]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"two arms are called '{label}'", fix="tell them apart with label=NAME")
    return arms


def _is_run(word: str) -> bool:
    return (named(word)[0] / "run.json").is_file()


def _preset(name: str, registry: Registry, where: str) -> Layer:
    try:
        return Layer.from_file(registry.preset(name), f"preset {name} of the {where}")
    except GendiffError as error:
        error.where = where
        raise


def _layer(word: str, first: bool, where: str) -> Layer:
    key, equals, value = word.partition("=")
    if equals and re.fullmatch(r"[\w.-]+", key):  # and not "blur-eigen:released_tiling=true"
        if not value:
            raise ConfigError(f"{where} gives '{key}' no value", fix=FIX)
        head, dot, rest = key.partition(".")
        path = KEYS.get(head, head) + dot + rest  # schedule.f_max is velocity.schedule.f_max
        return Layer.at(where, path, _value(key, value, where))
    if not first:
        raise ConfigError(f"cannot read '{word}' in the {where}", fix=FIX)
    return Layer.at(where, _kind(parse_spec(word)["name"], where), word)


def _value(key: str, text: str, where: str) -> Any:
    if key in ("size", "data.size"):
        return parse_size(text, where)
    return [text] if key in ("logger", "metric", "condition") else parse_value(text)


def _kind(name: str, where: str) -> str:
    """Whether ``name`` is a rotation or a process."""
    problems = list[ConfigError]()
    for kind in ("rotation", "process"):
        try:
            component_class(kind, name)
        except ConfigError as error:
            problems.append(error)
        else:
            return kind
    raise ConfigError(
        f"'{name}' is no rotation, no process and no run", where=where, details=list(_details(problems)), fix=FIX
    )


def _details(problems: list[ConfigError]) -> Iterator[str]:
    for kind, error in zip(("rotations", "processes"), problems, strict=True):
        for line in error.details:
            yield f"{kind} {line}" if line.startswith("known") else line
