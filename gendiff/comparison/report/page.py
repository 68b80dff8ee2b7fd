"""Page: report.html, one file that opens from a disk: no network, no other file, nothing that is not in the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from torch import Tensor

from gendiff.command import quoted
from gendiff.comparison.look import BANDS, Look, frequencies, largest_excess
from gendiff.comparison.report import charts, sheets
from gendiff.comparison.verdict import number, signed
from gendiff.plain import json_text
from gendiff.storage.files import Files

TEMPLATE = "page.html.j2"
GRID_BUDGET, TRAJECTORY_BUDGET = 900_000, 2_200_000  # bytes of pictures before they are text
MOST_SAMPLES = 36


def write(path: Path, result: dict[str, Any], looks: Sequence[Look], samples: Sequence[Tensor], data: Tensor) -> None:
    """Write the page.

    Args:
        result: of `gendiff.comparison.result.result`.
        looks, samples: of each arm, in the order of the result; samples are ``(n, *event)``, of the same noise in every arm.
        data: events of the data, ``(n, *event)``.

    """
    Files().replace(path, render(result, looks, samples, data).encode())


def render(result: dict[str, Any], looks: Sequence[Look], samples: Sequence[Tensor], data: Tensor) -> str:
    """The page as text; the same result is the same text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gendiff.comparison.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "setting": _setting}
    arms, name = result["arms"], result["number"]
    return environment.get_template(TEMPLATE).render(
        result=result,
        title=f"{' · '.join(arm['label'] for arm in arms)}",
        arms=sorted(arms, key=lambda arm: arm["rank"]),
        better="higher" if result["better"][name] == "higher" else "lower",
        starts=_starts(result["arms"]),
        one_seed=any(arm["numbers"][name]["value"]["method"] != "seeds" for arm in arms),
        keys={arm["label"]: charts.marker(place) for place, arm in enumerate(arms)},
        data_key=charts.marker(-1),
        forest=_forest(result),
        grids=grids([arm["label"] for arm in arms], samples, data),
        trajectory=_trajectory(arms, looks),
        curve=_curve(result),
        spectrum=_spectrum(result),
        heat_maps=_heat_maps(arms, looks),
        command=quoted("gendiff", *result["reproduce"]["command"]),
        json=lambda value: Markup(json_text(value).replace("<", "\\u003c")),
    )


def _setting(value: Any) -> str:
    return "—" if value is None else value if isinstance(value, str) else json_text(value)


#: What a chain with each prior begins as.
BEGINNINGS = {
    "standard": "N(0, s_N²)",
    "matched": "noise with the mean and variance that the data have at N",
    "data": "an event of the training data brought to N without noise",
}


def _starts(arms: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Where the chains of picture k begin, and what they have in common; ``arms`` in the order of the result.

    Returns:
        ``same``, whether all begin as the same noise; ``sentences``.

    """
    arm_seeds = [[run["seed"] for run in arm["runs"]] for arm in arms]
    common = next((seed for seed in arm_seeds[0] if all(seed in seeds for seeds in arm_seeds)), None)
    priors = dict.fromkeys(arm["prior"] for arm in arms)
    if common is None:
        sentences = ["The arms have no seed in common, and picture k of each is made with noise of its own."]
    elif list(priors) == ["standard"]:
        return {
            "same": True,
            "sentences": [f"Picture k of every arm began as the same noise in event space (seed {common})."],
        }
    else:
        sentences = [f"Picture k of every arm is made with the same noise in event space (seed {common})."]
    for prior in priors:
        labels = [arm["label"] for arm in arms if arm["prior"] == prior]
        who = "of all arms" if len(priors) == 1 else f"of {', '.join(labels)}"
        sentences.append(f"Chains {who} began as {BEGINNINGS[prior]} (prior={prior}).")
    return {"same": False, "sentences": sentences}


def _forest(result: dict[str, Any]) -> dict[str, Markup | None]:
    """Every difference on one scale, and once more those that one scale makes too small to read."""
    name, rows = result["number"], []
    baseline = {run["seed"]: run["numbers"][name]["value"] for run in result["arms"][0]["runs"]}
    for place, arm in enumerate(result["arms"][1:], start=1):
        difference = arm["numbers"][name]["difference"]
        of = {run["seed"]: run["numbers"][name]["value"] for run in arm["runs"]}
        seeds = [value - baseline[seed] for seed, value in of.items() if seed in baseline]
        rows.append(
            charts.Row(
                arm["label"],
                difference["value"],
                difference["low"],
                difference["high"],
                seeds if len(seeds) > 1 else [],
                place,
            )
        )
    better = "higher" if result["better"][name] == "higher" else "lower"
    label = f"{name} minus that of the baseline ({better} is better)"
    close = [row for row in rows if row.reach < max(row.reach for row in rows) / 8]
    return {"all": charts.forest(rows, label), "close": charts.forest(close, label) if close else None}


def grids(labels: Sequence[str], samples: Sequence[Tensor], data: Tensor) -> list[dict[str, Any]]:
    """A square sheet of the first samples of each, and of data."""
    count = sheets.squares([data, *samples], MOST_SAMPLES, GRID_BUDGET)
    side = math.isqrt(count)
    pictures = [(label, sheets.sheet(events[:count], side)) for label, events in zip(labels, samples, strict=True)]
    return [
        {"label": label, "uri": sheets.data_uri(picture), "width": picture.width, "height": picture.height}
        for label, picture in [*pictures, ("data", sheets.sheet(data[:count], side))]
    ]


def _trajectory(arms: Sequence[dict[str, Any]], looks: Sequence[Look]) -> dict[str, Any]:
    """What the slider shows: for each step, three sheets of each arm; fewer steps and events where pictures are large."""
    events = looks[0].forward[0]
    rows, columns = len(events), len(looks[0].steps)
    large = sheets.values_of(events) > 1000
    each = sheets.values_of(events) * (5 if large else 8) / 8  # of 256 or 32 shades
    while rows * columns * len(arms) * 3 * each > TRAJECTORY_BUDGET and (rows > 1 or columns > 9):
        rows, columns = (rows - 1, columns) if rows > 2 or columns <= 9 else (rows, columns - 4)
    places = sheets.chosen(max(columns, 2), len(looks[0].steps))
    views = ("forward", "reverse", "belief")
    frames = [
        {
            view: [
                sheets.data_uri(sheets.sheet(getattr(look, view)[place][:rows], rows, sheets.SHADES if large else None))
                for place in places
            ]
            for view in views
        }
        for look in looks
    ]
    picture = sheets.sheet(events[:rows], rows)
    return {
        "steps": [looks[0].shown[0][place] for place in places],
        "visited": [[look.shown[1][place] for place in places] for look in looks],
        "frames": frames,
        "labels": [arm["label"] for arm in arms],
        "width": picture.width,
        "height": picture.height,
        "shades": sheets.SHADES if large else 0,
        "start": len(places) * 2 // 3,
    }


def _curve(result: dict[str, Any]) -> Markup | None:
    """Quality against network evaluations; None for a single number of them."""
    arms = result["arms"]
    if max(len(arm["curve"]) for arm in arms) < 2:
        return None
    curves = [
        charts.Line(
            arm["label"],
            [point["evaluations"] for point in arm["curve"]],
            [point["value"]["value"] for point in arm["curve"]],
            [point["value"]["low"] for point in arm["curve"]],
            [point["value"]["high"] for point in arm["curve"]],
            place,
        )
        for place, arm in enumerate(arms)
    ]
    return charts.lines(curves, "network evaluations per sample", result["number"], log_x=True)


def _spectrum(result: dict[str, Any]) -> Markup:
    curves = [charts.Line("data", frequencies(result["data_spectrum"]), result["data_spectrum"])]
    curves += [
        charts.Line(arm["label"], frequencies(arm["spectrum"]), arm["spectrum"], place=place)
        for place, arm in enumerate(result["arms"])
    ]
    return charts.lines(curves, "frequency, from lowest to highest", "power")


def _heat_maps(arms: Sequence[dict[str, Any]], looks: Sequence[Look]) -> dict[str, Any]:
    largest = largest_excess(looks)
    maps = []
    for arm, look in zip(arms, looks, strict=True):
        excess, levels = look.excess, [int(i) for i in look.levels]
        rows = [[excess[c][r] for c in range(len(levels))] for r in range(BANDS)]

        def title(r: int, c: int, look: Look = look, levels: list[int] = levels) -> str:
            loss, floor = float(look.loss[c, r]), float(look.floor[c, r])
            return f"band {r + 1} of {BANDS}, i = {levels[c]}: loss {number(loss)}, floor {number(floor)}, {signed(loss - floor)}"

        chart = charts.heat_map(
            rows, [float(i) for i in levels], largest, "step i: from clean to noise", "frequency", title
        )
        worst = max(
            (
                (value, levels[c], r + 1)
                for r, row in enumerate(rows)
                for c, value in enumerate(row)
                if value is not None
            ),
            default=(0.0, 0, 0),
        )
        mean = [value for row in rows for value in row if value is not None]
        maps.append({"label": arm["label"], "chart": chart, "worst": worst, "mean": sum(mean) / max(len(mean), 1)})
    return {"largest": largest, "maps": maps, "bands": BANDS}
