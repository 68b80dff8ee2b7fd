"""Study: what a study found, as data, and as a page like that of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
from markupsafe import Markup
from torch import Tensor

from gendiff.command import quoted
from gendiff.comparison.report import charts
from gendiff.comparison.report.page import MOST_SAMPLES, grids
from gendiff.comparison.space import Dimension, space
from gendiff.comparison.study import Study
from gendiff.comparison.verdict import number, signed
from gendiff.evaluation.event_set import spread
from gendiff.plain import json_bytes
from gendiff.storage import reading
from gendiff.storage.files import Files

TEMPLATE = "study.html.j2"


def write(study: Study, facts: Mapping[str, Any]) -> list[Path]:
    """Write tune.json and report.html of a study; returns the files. ``facts`` as `Study.facts`."""
    values, page = study.path / "tune.json", study.path / "report.html"
    Files().replace(values, json_bytes(facts))
    Files().replace(page, render(facts, *_seen(study, facts)).encode())
    return [values, page]


def render(facts: Mapping[str, Any], samples: Tensor | None = None, data: Tensor | None = None) -> str:
    """The page as text; the same facts are the same text.

    Args:
        samples, data: the first of the best trial, and some of what they are compared with, ``(n, *event)``.

    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gendiff.comparison.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "setting": setting}
    dimensions = space(facts["over"])
    judged = [one for one in facts["trials"] if one["value"] is not None]
    best = facts["best"]["trial"] if facts["best"] else None
    return environment.get_template(TEMPLATE).render(
        study=facts,
        keys=[one.key for one in dimensions],
        trials=ranked(facts),
        better={"higher": "higher is better", "lower": "lower is better"}.get(facts["better"], "nearer to 0 is better"),
        toml=reading.content(Path(facts["best"]["config"]), reading.TOML).decode() if facts["best"] else "",
        grids=grids([f"trial {facts['best']['trial']}"], [samples], data)
        if samples is not None and data is not None
        else [],
        history=_history(judged, facts["number"], best) if judged else None,
        scatters=[(one.key, _scatter(one, judged, facts["number"], best)) for one in dimensions] if judged else [],
        command=quoted("gendiff", *facts["reproduce"]["command"]),
    )


def _seen(study: Study, facts: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    """Samples of the best trial, and data; nothing where there is no trial, or its samples are gone."""
    measure = study.measured(facts["best"]["trial"]) if facts["best"] else None
    if measure is None:
        return None, None
    reference = study.plan.ruler.reference
    return measure.first, torch.cat(
        [events.cpu() for events in reference.at(spread(min(MOST_SAMPLES, reference.n), reference.n))]
    )


def ranked(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials, the best first; those that were given up follow those that were not, and those without a number are last."""
    sign = -1 if facts["better"] == "higher" else 1
    order = {"complete": 0, "pruned": 1, "running": 2, "failed": 3}

    def place(one: Mapping[str, Any]) -> tuple[float, ...]:
        depth = 0 if one["state"] == "complete" else -len(one["checks"])
        return order.get(one["state"], 4), depth, sign * (one["value"] or 0.0), one["trial"]

    return sorted(facts["trials"], key=place)


def setting(value: Any) -> str:
    """A value that a trial sets, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _title(one: Mapping[str, Any]) -> str:
    said = ", ".join(f"{key}={setting(value)}" for key, value in one["parameters"].items())
    given_up = "" if one["state"] == "complete" else f", {one['state']} at check {len(one['checks'])}"
    return f"trial {one['trial']}: {number(one['value'])}{given_up}; {said}"


def _scatter(dimension: Dimension, judged: Sequence[Mapping[str, Any]], name: str, best: int | None) -> Markup:
    """The number of each trial against one of its settings."""
    names = dimension.choices
    points = [
        charts.Point(
            names.index(value) if names else value,
            one["value"],
            _title(one),
            one["state"] == "complete",
            _place(one, best),
        )
        for one in judged
        for value in [one["parameters"][dimension.key]]
    ]
    return charts.scatter(points, dimension.key, name, log_x=dimension.log, names=names)


def _history(judged: Sequence[Mapping[str, Any]], name: str, best: int | None) -> Markup:
    """The number of each trial in their order."""
    points = [
        charts.Point(one["trial"], one["value"], _title(one), one["state"] == "complete", _place(one, best))
        for one in judged
    ]
    return charts.scatter(points, "trial", name)


def _place(one: Mapping[str, Any], best: int | None) -> int:
    """Which colour and mark a trial has: the best another one than all others."""
    return 2 if one["trial"] == best else 1
