"""Does the predicted error rank what is measured? The digits of the quality campaign against their predictions.

    python tests/campaigns/predicted_ranking.py --out docs/results

reads what `quality.py` has measured of digits, with a sampler of few steps, and holds it against what `gendiff.lab.prediction`
says of the same process, sampler and steps before any training. Writes a table, its numbers and a figure; trains nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from quality import ARMS, BASELINES, SETS, N

OFF = (0, 0.03, 0.1, 0.3)  # by how much the network is assumed to be wrong
SHOWN = "0.1"  # the one that commands assume
COLOURS = dict(zip(ARMS, ("tab:blue", "tab:cyan", "tab:green", "tab:orange", "tab:red"), strict=True))


@dataclass(frozen=True)
class Row:
    """One sampler of one arm: the error that is predicted, for each `OFF`, and the mean over seeds that is measured."""

    arm: str
    objective: str
    sampler: str
    steps: int
    predicted: dict[str, float]
    measured: float


def rows(facts: dict) -> list[Row]:
    """Every process, objective, sampler and number of steps that was measured."""
    measured: dict[tuple[str, str, str, int], list[float]] = {}
    for one in facts["measured"]:
        if one["sampler"] not in BASELINES:
            key = one["arm"], one["objective"], one["sampler"], one["wanted"]
            measured.setdefault(key, []).append(one["distance"])
    return [Row(*key, predicted(*key), statistics.mean(values)) for key, values in measured.items()]


def predicted(arm: str, objective: str, spec: str, steps: int) -> dict[str, float]:
    """The error of a Gaussian with the covariance of the digits, sampled with a network that is off."""
    from gendiff import Data, Sampler
    from gendiff.lab import prediction
    from gendiff.lab.recursion import NetworkError
    from gendiff.run.layers import Layer, resolve

    layers = [Layer("set", SETS["digits"].table), Layer("arm", {"N": N, "objective": objective, **ARMS[arm]})]
    config = resolve(layers).config
    sampler = Sampler.model_validate(spec).model_copy(update={"steps": steps})
    diffusion = config.diffusion()
    target = prediction.dense(Data.model_validate("digits"), diffusion.rotation)
    limit = 1.0 if sampler.clip else math.inf
    errors = {off: NetworkError(config.objective.parametrization, off, limit) if off else None for off in OFF}
    return {
        f"{off:g}": prediction.predict(diffusion, sampler, target, error=error).total for off, error in errors.items()
    }


def correlations(found: Sequence[Row], real: float) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation between each predicted and the measured error, of all rows and of parts of them.

    An error that is smaller than the distance of two sets of real events cannot be measured well: ``real`` divides the rows.
    """
    from scipy.stats import spearmanr

    large = [row for row in found if row.predicted["0"] > real]
    parts = {"all": list(found), "predicted above real against real": large}
    parts |= {f"that, {key}": [row for row in large if row.objective == key] for key in ("eps", "wiener")}
    for key in ("objective", "arm", "sampler", "steps"):
        for value in dict.fromkeys(getattr(row, key) for row in found):
            parts[f"{key} {value}"] = [row for row in found if getattr(row, key) == value]
    return {
        f"{name} ({len(part)})": {
            off: float(spearmanr([row.predicted[off] for row in part], [row.measured for row in part]).statistic)
            for off in part[0].predicted
        }
        for name, part in parts.items()
        if len({row.measured for row in part}) > 2
    }


def table(found: Sequence[Row], ranks: dict[str, dict[str, float]], real: float) -> str:
    """Markdown: how well predictions rank what is measured, then each of them."""
    lines = ["| rank correlation with what is measured | " + " | ".join(f"off by {off:g}" for off in OFF) + " |"]
    lines += ["|---|" + "---|" * len(OFF)]
    for name, values in ranks.items():
        lines.append(f"| {name} | " + " | ".join(f"{value:+.2f}" for value in values.values()) + " |")
    steps = sorted({row.steps for row in found})
    lines += [
        "",
        f"Each cell: predicted with a perfect model / off by {SHOWN} / measured; real against real {real:.2f}.",
        "",
        "| arm | objective | sampler | " + " | ".join(map(str, steps)) + " |",
        "|---|---|---|" + "---|" * len(steps),
    ]
    for arm, objective, sampler in dict.fromkeys((row.arm, row.objective, row.sampler) for row in found):
        cells = {
            row.steps: " / ".join(map(short, (row.predicted["0"], row.predicted[SHOWN], row.measured)))
            for row in found
            if (row.arm, row.objective, row.sampler) == (arm, objective, sampler)
        }
        lines.append(
            f"| {arm} | {objective} | `{sampler}` | " + " | ".join(cells.get(number, "-") for number in steps) + " |"
        )
    return "\n".join(lines) + "\n"


def short(value: float) -> str:
    """Three digits, or a power of ten."""
    return f"{value:.3g}" if 1e-3 < value < 1000 else f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")


def figure(found: Sequence[Row], path: Path) -> None:
    """Measured over predicted error, for each objective."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8.5, 4), dpi=150, layout="constrained")
    objectives, samplers = (list(dict.fromkeys(getattr(row, key) for row in found)) for key in ("objective", "sampler"))
    panels = drawing.subplots(1, len(objectives), sharex=True, sharey=True, squeeze=False)[0]
    for panel, objective in zip(panels, objectives, strict=True):
        for arm, colour in COLOURS.items():
            for sampler, mark in zip(samplers, "os^xv+", strict=False):
                part = [row for row in found if (row.objective, row.arm, row.sampler) == (objective, arm, sampler)]
                if not part:
                    continue
                x, y = [row.predicted[SHOWN] for row in part], [row.measured for row in part]
                label = f"{arm}, {sampler}" if objective == objectives[0] else None
                panel.plot(x, y, mark + "-", color=colour, label=label, markersize=4, linewidth=0.8)
        panel.set(xscale="log", yscale="log", xlabel=f"predicted error, off by {SHOWN}", title=f"objective {objective}")
    panels[0].set_ylabel("measured squared Fréchet distance")
    drawing.legend(loc="outside right", fontsize=7, frameon=False)
    drawing.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where quality-digits.json is, and the table goes")
    parser.add_argument("--figure", type=Path, help="where the figure goes")
    options = parser.parse_args(arguments)
    facts = json.loads((options.out / "quality-digits.json").read_text())
    found, real = rows(facts), statistics.mean(facts["floor"])
    ranks = correlations(found, real)
    told = {"rows": [asdict(row) for row in found], "correlations": ranks}
    (options.out / "prediction-digits.json").write_text(json.dumps(told, indent=1))
    (options.out / "prediction-digits.md").write_text(table(found, ranks, real))
    if options.figure:
        figure(found, options.figure)
    print(table(found, ranks, real))


if __name__ == "__main__":
    main()
