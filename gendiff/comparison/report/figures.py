"""Figures: what a comparison found, for a paper: PNG and PDF, the same bytes for the same result."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gendiff.comparison.look import Look, frequencies, largest_excess
from gendiff.comparison.report import charts, sheets
from gendiff.storage.folder import make_inside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f2937", "#0a6cb0", "#c2570c", "#147d55", "#9b3d8f", "#8a6d00", "#a32638", "#4b5bc4")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "os^Dv"
COLUMN = 3.4  # inches: one column of a paper
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
}


def write(
    folder: Path, result: dict[str, Any], looks: Sequence[Look], samples: Sequence[Tensor], data: Tensor
) -> list[Path]:
    """Write every figure that the result has; returns the files. Arguments as for `gendiff.comparison.report.page.write`."""
    import matplotlib

    make_inside(folder.parent, folder)
    arms = result["arms"]
    with matplotlib.rc_context(STYLE):
        figures = {
            "differences": _differences(result),
            "spectra": _spectra(result),
            "losses": _losses(arms, looks),
            "samples": _samples(arms, samples, data),
            "trajectories": _trajectories(arms, looks),
        }
        if len(arms[0]["curve"]) > 1:
            figures["evaluations"] = _evaluations(result)
        return [path for name, figure in figures.items() for path in _save(figure, folder / name)]


def _save(figure: Figure, stem: Path) -> list[Path]:
    from gendiff.lab.figures import FORMATS, save

    paths = [stem.with_suffix(ending) for ending in FORMATS]
    for path in paths:
        save(figure, path)
    return paths


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _differences(result: dict[str, Any]) -> Figure:
    name, arms = result["number"], result["arms"][1:]
    figure, axes = _figure(COLUMN, 0.75 + 0.42 * len(arms))
    axis: Axes = axes[0, 0]
    baseline = {run["seed"]: run["numbers"][name]["value"] for run in result["arms"][0]["runs"]}
    for place, arm in enumerate(arms):
        difference, tint = arm["numbers"][name]["difference"], COLOURS[(place + 1) % len(COLOURS)]
        if difference["low"] is not None:
            axis.plot(
                [difference["low"], difference["high"]],
                [place, place],
                color=tint,
                linewidth=1.8,
                solid_capstyle="butt",
            )
        axis.plot(difference["value"], place, MARKERS[(place + 1) % len(MARKERS)], color=tint)
        seeds = [
            run["numbers"][name]["value"] - baseline[run["seed"]] for run in arm["runs"] if run["seed"] in baseline
        ]
        if len(seeds) > 1:
            axis.plot(
                seeds,
                [place + 0.22] * len(seeds),
                "o",
                color=tint,
                fillstyle="none",
                markersize=2.5,
                markeredgewidth=0.6,
            )
    axis.axvline(0, color="black", linewidth=0.7, linestyle=(0, (3, 2)))
    axis.set_yticks(range(len(arms)), [_label(arm) for arm in arms])
    axis.set_ylim(len(arms) - 0.5, -0.5)
    better = "higher" if result["better"][name] == "higher" else "lower"
    figure.supxlabel(f"{name} minus that of the baseline ({better} is better)", fontsize=8)
    return figure


def _evaluations(result: dict[str, Any]) -> Figure:
    figure, axes = _figure(COLUMN, 2.5)
    axis: Axes = axes[0, 0]
    for place, arm in enumerate(result["arms"]):
        x = [point["evaluations"] for point in arm["curve"]]
        values = [point["value"] for point in arm["curve"]]
        y = [value["value"] for value in values]
        ends = [
            [abs(v["value"] - (v[end] if v[end] is not None else v["value"])) for v in values]
            for end in ("low", "high")
        ]
        axis.errorbar(x, y, ends, label=_label(arm), capsize=1.5, elinewidth=0.8, **_look_of(place))
    axis.set(xscale="log", yscale="log" if _positive(result) else "linear")
    steps = sorted({point["evaluations"] for arm in result["arms"] for point in arm["curve"]})
    axis.set_xticks(steps, [str(step) for step in steps])
    if axis.get_yscale() == "log":  # which has no tick of its own within a decade
        ticks = charts.log_ticks(*axis.get_ylim())
        axis.set_yticks(ticks, [charts.tick_text(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("network evaluations per sample")
    axis.set_ylabel(result["number"])
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _positive(result: dict[str, Any]) -> bool:
    ends = [point["value"][end] for arm in result["arms"] for point in arm["curve"] for end in ("value", "low")]
    return all(end is None or end > 0 for end in ends)


def _spectra(result: dict[str, Any]) -> Figure:
    figure, axes = _figure(COLUMN, 2.5)
    axis: Axes = axes[0, 0]
    data = result["data_spectrum"]
    axis.plot(frequencies(data), data, color="#9aa0a6", linewidth=4, label="data", solid_capstyle="round")
    for place, arm in enumerate(result["arms"]):
        axis.plot(frequencies(arm["spectrum"]), arm["spectrum"], label=_label(arm), **_look_of(place))
    axis.set(yscale="log", xlabel="frequency (fraction of the largest)", ylabel="mean power of DCT coefficients")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _losses(arms: Sequence[dict[str, Any]], looks: Sequence[Look]) -> Figure:
    columns = min(len(arms), 3)
    rows = -(-len(arms) // columns)
    figure, axes = _figure(2.3 * columns + 0.6, 1.75 * rows + 0.3, rows, columns, sharey=True)
    largest = largest_excess(looks) or 1.0
    mesh = None
    for place, (arm, look) in enumerate(zip(arms, looks, strict=True)):
        axis: Axes = axes.flat[place]
        excess = np.array([[math.nan if v is None else v for v in row] for row in look.excess]).T
        edges = _edges([int(i) for i in look.levels])
        mesh = axis.pcolormesh(
            edges, range(len(excess) + 1), excess, cmap="RdBu_r", vmin=-largest, vmax=largest, rasterized=True
        )
        axis.set_title(_label(arm))
        axis.set_xlabel("step i")
        axis.set_yticks([0.5, len(excess) - 0.5], ["low", "high"])
    for axis in axes.flat[len(arms) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("frequency band")
    if mesh is not None:
        figure.colorbar(mesh, ax=axes, label="loss − a²c/v", pad=0.02)
    return figure


def _edges(levels: Sequence[int]) -> list[float]:
    middles = [(a + b) / 2 for a, b in itertools.pairwise(levels)]
    return [float(levels[0]), *middles, float(levels[-1])]


def _samples(arms: Sequence[dict[str, Any]], samples: Sequence[Tensor], data: Tensor) -> Figure:
    sets = [("data", data), *((_label(arm, 24), events) for arm, events in zip(arms, samples, strict=True))]
    side = math.isqrt(min(25, *(len(events) for _, events in sets)))
    columns = min(len(sets), 4)
    rows = -(-len(sets) // columns)
    figure, axes = _figure(1.7 * columns, 1.9 * rows, rows, columns)
    for axis, (label, events) in zip(axes.flat, sets, strict=False):
        _picture(axis, sheets.sheet(events[: side * side], side))
        axis.set_title(label)
    for axis in axes.flat[len(sets) :]:
        axis.set_visible(False)
    return figure


def _trajectories(arms: Sequence[dict[str, Any]], looks: Sequence[Look]) -> Figure:
    """One event forward and one back in each arm, at the same steps."""
    rows = [
        (f"{_label(arm)}\n{view}", getattr(look, view)[:, 0].flip(0))
        for arm, look in zip(arms, looks, strict=True)
        for view in ("forward", "reverse")
    ]
    return strips(rows, looks[0].shown[0][::-1])


def strips(rows: Sequence[tuple[str, Tensor]], steps: Sequence[float], columns: int = 9) -> Figure:
    """Events on their way, a row for each: its label, and ``(M, *event)`` at M ``steps``, of which ``columns`` are shown."""
    places = sheets.chosen(columns, len(steps))
    figure, axes = _figure(0.62 * len(places) + 0.9, 0.68 * len(rows) + 0.3, len(rows), len(places))
    for row, (label, events) in enumerate(rows):
        for column, place in enumerate(places):
            axis: Axes = axes[row, column]
            _picture(axis, sheets.sheet(events[place : place + 1], 1))
            if row == 0:
                axis.set_title(f"i = {steps[place]}", fontsize=6.5)
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=6.5)
    return figure


def _picture(axis: Axes, picture: Any) -> None:
    grey = picture.mode == "L"
    axis.imshow(np.asarray(picture), cmap="gray" if grey else None, vmin=0, vmax=255, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _label(arm: dict[str, Any], most: int = 34) -> str:
    """What an arm is called, none of it as mathematics, and short enough to stand beside an axis."""
    text = arm["label"] if len(arm["label"]) <= most else f"{arm['label'][: most - 1]}…"
    return str(text.replace("$", r"\$"))


def _look_of(place: int) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": DASHES[place % len(DASHES)],
        "marker": MARKERS[place % len(MARKERS)],
    }
