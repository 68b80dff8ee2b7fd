"""Number: a measurement with everything it depends on.

A distance between samples and data means nothing by itself: it depends on how many samples there are (with n samples a Fréchet
distance is too large by about a constant over n), on what they are compared with, and on what measures them. So a number is
never stored or printed without its conditions, and numbers whose conditions differ are never put into one ranking: `comparable`
says why not.

This module does not import torch, so that stored numbers can be listed in a tenth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from gendiff.errors import DataError, shown
from gendiff.plain import json_text
from gendiff.storage import reading
from gendiff.storage.files import Files

FORMAT = 1  # of the JSON

#: What JSON has for a field of such a type; the others are tables.
KINDS = {"str": str, "int": int, "int | None": int | None, "Better": str, "dict[str, Any]": dict}

Better = Literal["lower", "higher", ""]

#: Between which ends numbers of such a name lie, whatever is measured; others may be anything.
BOUNDS = {
    "precision": (0.0, 1.0),
    "recall": (0.0, 1.0),
    "closer": (0.0, 1.0),
    "fid": (0.0, math.inf),
    "fd": (0.0, math.inf),
}


def bounds(name: str) -> tuple[float, float]:
    """Between which ends a number of this name lies: shares in [0, 1], Fréchet distances from 0 on."""
    return BOUNDS.get(name.partition("-")[0], (-math.inf, math.inf))


@dataclass(frozen=True)
class Events:
    """Which events: of the samples, or of the reference.

    Args:
        spec: where they come from: the spec of a data component, the path of a file, or the id of a run.
        fingerprint: changes when they change; of samples the SHA-256 of their values, of data `Data.fingerprint`, of a file of
            statistics the SHA-256 of what it holds.
        n: how many; None for statistics whose file does not say.

    """

    spec: str
    fingerprint: str
    n: int | None


@dataclass(frozen=True)
class Drawing:
    """How samples were drawn from a run.

    Args:
        run: the id of the run.
        step: optimiser steps of its checkpoint.
        weights: ``"ema"``, ``"model"`` or the name of another average, and the hash of these weights.
        sampler: its spec, grid and prior of a sampler that has them among its parameters.
        evaluations: of the network, for each sample; None where the sampler chooses its steps, for each its own.
        seed: sample k is a function of it and of k.
        precision: in which the network was asked.
        condition: what it was told of the samples, as ``label=all``; empty where it was told of nothing.
        guides: what steered them, specs with a blank between.

    """

    run: str
    step: int
    weights: str
    weights_hash: str
    sampler: str
    evaluations: int | None
    seed: int
    precision: str = "fp32"
    condition: str = ""
    guides: str = ""


@dataclass(frozen=True)
class Number:
    """One measurement.

    Args:
        name: ``fid`` only for the published Inception weights; ``fd-pixels``, ``kd-pixels``, ``precision-pixels``,
            ``spectrum.band_0`` and so on.
        value: what was measured with all samples.
        low, high: the interval that holds its expectation, at this n and for this reference, with probability ``level``.
        better: which way is better; empty where neither is, as for a difference that should vanish.
        instrument: spec of the features or of the metric.
        instrument_fingerprint: changes when the same events would give other numbers.
        samples, reference: the events that were used, of which a metric may see fewer than a distance.
        drawing: how the samples were drawn; None for pictures from elsewhere.
        gendiff: the version that measured.

    """

    name: str
    value: float
    low: float
    high: float
    level: float
    better: Better
    instrument: str
    instrument_fingerprint: str
    samples: Events
    reference: Events
    drawing: Drawing | None
    gendiff: str

    @property
    def conditions(self) -> dict[str, Any]:
        """Everything but what was found: equal for two measurements of the same."""
        outcome = ("value", "low", "high", "gendiff")
        return {key: value for key, value in self.json().items() if key not in outcome}

    def json(self) -> dict[str, Any]:
        """Every field, as values that JSON has."""
        return asdict(self)

    @classmethod
    def of_json(cls, table: Any) -> Self:
        """What `json` gave; raises `DataError` for anything else."""
        table = dict(_table(cls, table))
        table["samples"], table["reference"] = (
            Events(**_table(Events, table[key])) for key in ("samples", "reference")
        )
        if table["drawing"] is not None:
            table["drawing"] = Drawing(**_table(Drawing, table["drawing"]))
        for key in ("value", "low", "high", "level"):
            if isinstance(table[key], bool) or not isinstance(table[key], int | float) or not math.isfinite(table[key]):
                raise DataError(f"'{key}' of a number is {table[key]!r:.40}", fix="measure again: gendiff evaluate")
        return cls(**table)


def comparable(a: Number, b: Number) -> tuple[str, ...]:
    """Why ``a`` and ``b`` must not be ranked, one reason a line; empty where they may be.

    How the samples were drawn is no reason: that is what is compared.
    """
    why = []
    if a.name != b.name:
        why.append(f"{a.name} and {b.name} are different numbers")
    elif a.instrument_fingerprint != b.instrument_fingerprint:
        why.append(f"measured by {a.instrument_fingerprint} and by {b.instrument_fingerprint}")
    told = [number.drawing.condition if number.drawing else "" for number in (a, b)]
    if all(told) and told[0] != told[1]:
        why.append(f"drawn under the conditions {told[0]} and {told[1]}")
    if a.samples.n != b.samples.n:
        why.append(f"{a.samples.n} and {b.samples.n} samples")
    if a.reference.fingerprint != b.reference.fingerprint:
        why.append(f"against {a.reference.spec} and {b.reference.spec}, which are different events")
    elif a.reference.n != b.reference.n:
        why.append(f"against {a.reference.n} and {b.reference.n} events of {a.reference.spec}")
    return tuple(why)


@dataclass(frozen=True)
class Remark:
    """What must be known to read the numbers: a rule of `gendiff.evaluation.remarks` that applies, and by which numbers."""

    rule: str
    text: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one set of samples.

    Args:
        numbers: in the order in which they are shown, the headline first.
        alarms: warnings about the samples, one line each; empty where nothing is striking.
        when: the time in UTC.
        remarks: on the numbers; none in evaluations that were stored before there were any.
        neighbours: how near the samples are to training events, in each space, as
            `gendiff.evaluation.neighbours.Neighbours.json` has it; empty where nobody asked.
        threads: that computed one tensor, on a CPU: they decide last bits; 0 where nobody said.

    """

    numbers: tuple[Number, ...]
    alarms: tuple[str, ...] = ()
    when: str = ""
    remarks: tuple[Remark, ...] = ()
    neighbours: tuple[Mapping[str, Any], ...] = ()
    threads: int = 0

    def __getitem__(self, name: str) -> Number:
        """The number of that name; raises `KeyError`."""
        for number in self.numbers:
            if number.name == name:
                return number
        raise KeyError(name)

    def json(self) -> dict[str, Any]:
        """Every field, as values that JSON has."""
        return {
            "format": FORMAT,
            "numbers": [number.json() for number in self.numbers],
            "alarms": list(self.alarms),
            "remarks": [asdict(remark) for remark in self.remarks],
            "neighbours": [dict(one) for one in self.neighbours],
            "when": self.when,
            "threads": self.threads,
        }

    @classmethod
    def of_json(cls, table: Any) -> Self:
        """What `json` gave; raises `DataError` for anything else."""
        if not isinstance(table, Mapping) or table.get("format") != FORMAT:
            raise DataError(f"no evaluation of format {FORMAT}", fix="measure again: gendiff evaluate")
        absent: dict[str, Any] = {"remarks": [], "neighbours": [], "threads": 0}  # in older files
        table = _table(cls, {key: value for key, value in {**absent, **table}.items() if key != "format"})
        lists = [key for key in table if key not in ("when", "threads")]
        if not all(isinstance(table[key], list) for key in lists) or not all(
            isinstance(one, Mapping) for one in table["neighbours"]
        ):
            raise DataError(f"{_listed(lists)} of an evaluation are lists", fix="measure again: gendiff evaluate")
        return cls(
            numbers=tuple(Number.of_json(number) for number in table["numbers"]),
            alarms=tuple(map(str, table["alarms"])),
            when=str(table["when"]),
            remarks=tuple(Remark(**_table(Remark, remark)) for remark in table["remarks"]),
            neighbours=tuple(table["neighbours"]),
            threads=table["threads"] if isinstance(table["threads"], int) else 0,
        )

    def save(self, path: Path) -> None:
        """Write a JSON file; an older one is replaced at once."""
        Files().replace(path, json_text(self.json(), indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raises `DataError` where it is missing, damaged or something else."""
        try:
            return cls.of_json(shown(reading.json_file(path)))
        except DataError as error:
            error.where, error.fix = str(path), "measure again: gendiff evaluate"
            raise


def _listed(keys: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(f"'{key}'" for key in keys[:-1]), f"'{keys[-1]}'"]))


def _table(cls: type, table: Any) -> Mapping[str, Any]:
    names = {field.name for field in fields(cls)}
    if not isinstance(table, Mapping) or table.keys() != names:
        raise DataError(
            f"this is no {cls.__name__.lower()} of an evaluation",
            details=[f"it should hold {', '.join(sorted(names))}"],
            fix="measure again: gendiff evaluate",
        )
    for field in fields(cls):
        if not isinstance(table[field.name], KINDS.get(str(field.type), object)):
            raise DataError(f"'{field.name}' is {table[field.name]!r:.40}", fix="measure again: gendiff evaluate")
    return table
