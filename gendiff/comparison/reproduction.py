r"""Reproduction: the experiments of Lee, Chung, Kim, Ye 2022 (arXiv 2207.11192), the same code at every scale.

    target      arms                              what is made
    figure1     no blur, quartic 0.14             the reverse process x_N .. x_0 of both
    figure2     no blur, quartic 0.14             what their networks believe on the way, x̂_0
    figure3     quartic 0.14, fine-to-coarse      both directions, forward and back
    figure4     none: nothing is trained          f(i) of the paper's blur schedules, and the blur they add up to
    table1      all four                          the Fréchet distance of each

A scale is a preset, features and a budget. The arms of a scale are one comparison (`gendiff.comparison`), of which a target
trains what it needs: targets share their runs, and an interrupted one goes on. The numbers of the paper stand beside those that
come out. They are of the same kind at the scale ``paper`` alone; elsewhere data, features and budget are others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from gendiff.comparison import report
from gendiff.comparison.arm import Arm
from gendiff.comparison.directory import Comparison
from gendiff.comparison.engine import Engine
from gendiff.comparison.look import Look
from gendiff.comparison.plan import Cell, Contender, Plan
from gendiff.comparison.report.figures import STYLE, strips
from gendiff.comparison.result import result as result_of
from gendiff.features import Features
from gendiff.lab.figures import FORMATS, Curve, save, schedules
from gendiff.plain import json_bytes
from gendiff.run.layers import Layer
from gendiff.schedule import BlurSchedule
from gendiff.storage.disk import unwritable
from gendiff.storage.files import Files
from gendiff.storage.folder import ELSEWHERE, leaving_no_folder
from gendiff.velocity import Velocity

#: The arms, as ``gendiff compare --arm`` takes them. Reverse diffusion cannot sample the control (its velocity says why).
ARMS = {
    "no blur": "blur-eigen schedule=none",
    "log 0.6": "blur-eigen schedule=log:f_max=0.6",
    "quartic 0.14": "blur-eigen schedule=quartic:f_max=0.14",
    "fine-to-coarse": "blur-eigen velocity=fine-to-coarse schedule=quartic:f_max=0.14 sampler=ancestral",
}
TARGETS: dict[str, tuple[str, ...]] = {
    "figure1": ("no blur", "quartic 0.14"),
    "figure2": ("no blur", "quartic 0.14"),
    "figure3": ("quartic 0.14", "fine-to-coarse"),
    "figure4": (),
    "table1": tuple(ARMS),
}
#: FID-10K on LSUN 64x64, the paper's Table 1, by scene and arm.
PUBLISHED: dict[str, dict[str, float]] = {
    "bedroom": {"no blur": 9.24, "log 0.6": 73.23, "quartic 0.14": 7.86},
    "church": {"no blur": 6.04, "quartic 0.14": 5.89},
}
SCHEDULES = ("linear", "log", "quadratic", "cubic", "quartic", "triangular")
N = 1000  # steps of the paper's process


@dataclass(frozen=True)
class Scale:
    """How much is done.

    Args:
        preset: the configuration that all arms share.
        features: what the Fréchet distance is taken in.
        n: samples of each run.
        seeds: how many.
        evaluations: as of a `Plan`.

    """

    preset: str
    features: str
    n: int
    seeds: int
    evaluations: tuple[int, ...] = ()


SCALES = {
    "tiny": Scale("reproduce-tiny", "pixels", 256, 1),
    "small": Scale("reproduce-small", "random-conv", 1000, 3),
    "paper": Scale("paper-{scene}", "inception", 10_000, 1),
}


def plan(
    scale: Scale,
    common: Sequence[Layer],
    seeds: int,
    n: int,
    features: Features | str | None = None,
    precision: str = "fp32",
    compiled: bool = False,
) -> Plan:
    """The comparison of all arms; ``common`` are the layers that they have in common, the preset first.

    ``precision`` and ``compiled`` are those of `Plan`: of sampling.
    """
    return Plan(
        contenders=tuple(
            Contender.of(Arm.parse(f"{text} label='{label}'"), text, list(common)) for label, text in ARMS.items()
        ),
        seeds=tuple(range(seeds)),
        features=(Features.model_validate(features or scale.features),),
        n=n,
        evaluations=scale.evaluations,
        precision=precision,
        compiled=compiled,
    )


def reproduce(target: str, engine: Engine) -> list[Path]:
    """Train and measure what ``target`` (not figure4) needs, and write it into the comparison's directory; returns the files."""
    comparison = engine.comparison
    if target == "table1":
        engine.finish()
        result = result_of(comparison, ())
        pages = report.write(comparison, result, engine.looks())
        rows = table(result)
        values, page = comparison.path / "table1.json", comparison.path / "table1.md"
        Files().replace(values, json_bytes(rows))
        Files().replace(page, markdown(rows).encode())
        return [page, values, *pages[:2]]
    cells = needed(target, comparison)
    engine.train(cells)
    looks = engine.looks(cells)
    with matplotlib.rc_context(STYLE):
        return _saved(_figure(target, TARGETS[target], looks), comparison.path / target)


def needed(target: str, comparison: Comparison) -> list[Cell]:
    """The runs that ``target`` (not figure4) needs: all for table1, and else the first of each arm that is shown."""
    return comparison.plan.cells() if target == "table1" else _cells(comparison, TARGETS[target])


def figure4(folder: Path) -> list[Path]:
    """Write f(i) of the paper's schedules at f(N) = 0.14; returns the files."""
    curves = {}
    for name in SCHEDULES:
        velocity = Velocity.model_validate(f"blur:schedule={name}:f_max=0.14")
        width = velocity.blur_width(N)
        schedule = BlurSchedule.model_validate(f"{name}:f_max=0.14")
        curves[name] = Curve(schedule, width.true if width else None)
    with leaving_no_folder(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(error, folder, f"cannot make the directory '{folder}'", fix=ELSEWHERE) from error
        return _saved(schedules(curves, N), folder / "figure4")


def table(result: Mapping[str, Any]) -> dict[str, Any]:
    """Table 1: of each arm what came out and what the paper has; ``result`` is a result of a comparison."""
    name = result["number"]
    return {
        "number": name,
        "n": result["n"],
        "features": result["features"],
        "reference": result["reference"],
        "seeds": result["seeds"],
        "arms": [
            {
                "arm": arm["label"],
                **{key: arm["numbers"][name]["value"][key] for key in ("value", "low", "high")},
                "difference": arm["numbers"][name]["difference"],
                "published": {scene: by_arm.get(arm["label"]) for scene, by_arm in PUBLISHED.items()},
            }
            for arm in result["arms"]
        ],
    }


def markdown(rows: Mapping[str, Any]) -> str:
    """The table as a page, what came out and what is published in columns of their own."""
    seeds = len(rows["seeds"])
    of = f"{rows['number']} of {rows['n']:,} samples, {seeds} seed{'s' if seeds > 1 else ''}"
    lines = [
        f"| arm | here: {of} | the paper: FID-10K, bedroom | the paper: FID-10K, church |",
        "|---|---|---|---|",
    ]
    for arm in rows["arms"]:
        interval = "" if arm["low"] is None else f" [{arm['low']:.3f}, {arm['high']:.3f}]"
        columns = " | ".join("-" if value is None else f"{value:.2f}" for value in arm["published"].values())
        lines.append(f"| {arm['arm']} | {arm['value']:.3f}{interval} | {columns} |")
    return "\n".join([*lines, ""])


def _cells(comparison: Comparison, labels: Sequence[str]) -> list[Cell]:
    """The first run of each of these arms, in their order."""
    cells = {cell.contender.label: cell for cell in comparison.shown()}
    return [cells[label] for label in labels]


def _figure(target: str, labels: Sequence[str], looks: Sequence[Look]) -> Figure:
    """From noise to data, as the reverse process goes; both directions from data to noise."""
    steps, rows = looks[0].steps, list[tuple[str, Tensor]]()
    for label, look in zip(labels, looks, strict=True):
        if target == "figure3":
            rows += [(f"{label}\n{way}", getattr(look, way)[:, 0].flip(0)) for way in ("forward", "reverse")]
        else:
            views = look.reverse if target == "figure1" else look.belief
            rows += [(label if event == 0 else "", views[:, event]) for event in range(min(3, views.shape[1]))]
    return strips(rows, (steps.flip(0) if target == "figure3" else steps).tolist())


def _saved(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(ending) for ending in FORMATS]
    for path in paths:
        save(figure, path)
    return paths
