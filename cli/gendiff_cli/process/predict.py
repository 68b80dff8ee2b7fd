"""``gendiff process predict``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import quoted
from gendiff.errors import ConfigError, GendiffError
from gendiff_cli.console import busy, json_result, next_step, note, paragraph, result, room, shown, table
from gendiff_cli.options import Given, GridOption, JsonOption, PriorOption, configured, numbers, saying, spec_option
from gendiff_cli.process.decision import decision, floor, standard
from gendiff_cli.process.subject import ArmOption, Subject, again, one_data, subjects
from gendiff_cli.remarks import remark_end, remark_schedule

if TYPE_CHECKING:
    from gendiff.diffusion import Diffusion
    from gendiff.lab.decision import Floor
    from gendiff.lab.recursion import Gaussian, NetworkError
    from gendiff.sampler import Prior, Sampler

#: Beside the one that is used: the first-order sampler and the second-order one that most people use.
SAMPLERS = ("ddim", "dpmpp-2m")


class Covariance(StrEnum):
    """What is kept of how the components of the data depend on each other."""

    AUTO = "auto"
    DIAGONAL = "diagonal"
    DENSE = "dense"


CovarianceOption = Annotated[
    Covariance,
    typer.Option(
        help="dense: as the data have it, for events of at most 256 components; diagonal: independent components."
    ),
]
NetworkErrorOption = Annotated[
    float,
    typer.Option(
        "--network-error",
        min=0.0,
        help="Also predict for a network whose outputs, in what --objective predicts, are off by this standard deviation, "
        "independently in every component and evaluation; 0: for the perfect model alone.",
    ),
]


@configured("arms process rotation schedule velocity noise objective data size latent preset config set")
def predict(
    context: typer.Context,
    given: Given,
    arms: ArmOption = None,
    sampler: Annotated[
        list[str] | None,
        spec_option(
            "sampler",
            "A sampler; may be given again. Default: the one that train and sample use, as a preset, file, arm or run names "
            "it, with its prior, beside ddim and dpmpp-2m where they can run.",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Model evaluations, such as 5,10,20. Default: 5,10,20,50, or as many as an explicit grid has."
        ),
    ] = None,
    grid: GridOption = None,
    prior: PriorOption = None,
    best: Annotated[
        bool,
        typer.Option("--best-grid", help="Also look for the steps at which the error is smallest, which takes longer."),
    ] = False,
    bands: Annotated[
        int | None, typer.Option(min=1, max=64, help="Show the error of so many frequency bands too.")
    ] = None,
    wrong: NetworkErrorOption = 0.1,
    covariance: CovarianceOption = Covariance.AUTO,
    json: JsonOption = False,
) -> None:
    """Predict the error of samples against the number of steps, in closed form, before any training.

    It is the squared Wasserstein (Fréchet) distance between the data, as a Gaussian, and what the sampler draws with the best
    possible model of them: what steps and prior cost. Below it, the same for a network that is wrong everywhere by a little,
    which tells where its errors grow.
    """
    from gendiff.grid import GridSampler

    counts = None if steps is None else numbers(steps, "--steps", "5,10,20")
    processes = subjects(context.obj, arms, given)
    data_spec = one_data(processes)
    results, against, used = [], list[dict[str, Any]](), processes[0].config.sampler
    for subject in processes:
        remark_schedule(subject.config)
        with busy("measuring the data"):
            target, dense = gaussian(subject, covariance)
            diffusion = subject.diffusion if dense else subject.as_planned
            samplers = _samplers(subject, diffusion, sampler, grid, prior)
            if any(one.prior == "standard" for one in samplers):
                remark_end(subject.in_frequencies, subject.config, subject.label if len(processes) > 1 else "")
        for one in samplers:
            off = network_error(subject, one, wrong)
            with busy(f"{subject.label}, {one.spec}: {'searching' if best else 'predicting'}"):
                rows = predictions(subject, diffusion, target, one, counts, bands or 4, best, off)
            results += [{**row, "data": data_spec, "covariance": "dense" if dense else "diagonal"} for row in rows]
    with busy("what real events differ by"):
        real = floor(processes[0])
        used = used if any(row["sampler"] == name_of(used) for row in results) else samplers[0]
        if len(processes) == 1 and (plain := standard(processes[0])):
            for one in [used, *samplers]:
                with suppress(ConfigError):  # a sampler that cannot draw from it
                    against = against or as_sampled(plain, one, counts, covariance, wrong)
    steps_asked = used.steps if isinstance(used, GridSampler) and counts is None else None
    choice = decision([*results, *against], processes, name_of(used), steps_asked, real)
    for text in _remarks(results, counts):
        note(text)
    bad = [row for row in results if not _finite(row)]
    for row in bad:
        note(f"{row['process']}, {row['sampler']}, {row['asked']} steps: the predicted error is not finite")
    if len(bad) == len(results):
        raise GendiffError(
            "no predicted error is finite",
            details=[f"process {results[0]['process']}, data {data_spec}"],
            fix="look at the process: gendiff process show; SNR, scales and moments must be finite",
        )
    if json:
        facts = {"predictions": results, "sampler": used.spec}
        json_result({**facts, "real": real and asdict(real), "decision": choice and asdict(choice)})
        return
    _print(results, bands, real)
    if choice:
        result("")
        paragraph(choice.text)
    next_step(_following(arms or []))


def _samplers(
    subject: Subject, diffusion: Diffusion, specs: list[str] | None, grid: str | None, prior: str | None
) -> list[Sampler]:
    """Those that are asked for, or the one that the configuration names and of the usual ones those that can run beside it."""
    from gendiff.grid import GridSampler

    start = prior or subject.prior
    if specs:
        return [sampler_of(spec, grid, prior, default_prior=subject.prior) for spec in specs]
    own = subject.config.sampler
    skips = isinstance(own, GridSampler)
    samplers = [sampler_of(own.table(), grid if skips else None, prior)]
    for spec in SAMPLERS:
        one = sampler_of(spec, grid, start)
        try:
            next(iter(one.updates(diffusion)))
        except ConfigError as error:
            note(f"{spec} is left out: {error.what}")
        else:
            samplers.append(one)
    by_name = {name_of(one): one for one in reversed(samplers)}
    return list(reversed(by_name.values()))


def _remarks(rows: Sequence[dict[str, Any]], counts: tuple[int, ...] | None) -> list[str]:
    """Where a number of steps is not the one that was asked for, and what was done."""
    remarks = dict[str, None]()
    for row in rows:
        name, count = row["sampler"], row["evaluations"]
        if not row["skips"] and counts is not None:
            remarks[f"{name} cannot skip steps: it takes all {count}, whatever --steps says"] = None
        elif count != row["asked"]:
            remarks[
                f"{name}: {count} evaluation{'s' * (count != 1)} where {row['asked']} are asked for, the most it can use"
            ] = None
    return list(remarks)


def _following(arms: list[str]) -> str:
    """To fit the one process, to look at the one arm, or to train and compare several."""
    own = {"--sampler", "--steps", "--grid", "--bands", "--network-error", "--covariance"}
    if not arms:
        return again("process predict", "process fit", own, ("--best-grid",))
    own |= {"--prior", "--objective"} if len(arms) == 1 else {
        "--prior", "--process", "--rotation", "--schedule", "--velocity"
    }  # fmt: skip
    return again("process predict", "process show" if len(arms) == 1 else "compare", own, ("--best-grid",))


def sampler_of(
    spec: str | dict[str, Any],
    grid: str | None,
    prior: str | None,
    steps: int | None = None,
    default_prior: Prior | None = None,
) -> Sampler:
    """A sampler with the grid, prior and number of steps that are asked for; where none says a prior, ``default_prior``."""
    from gendiff.component import parse_spec
    from gendiff.run.layers import Layer, resolve

    table = [Layer.at("--sampler", "sampler", spec)]
    if (
        prior is None
        and default_prior is not None
        and "prior" not in (parse_spec(spec) if isinstance(spec, str) else spec)
    ):
        prior = default_prior
    for option, value in (("grid", grid), ("prior", prior), ("steps", steps)):
        if value is not None:
            table.append(Layer.at(f"--{option}", f"sampler.{option}", value))
    return resolve(table).config.sampler


def gaussian(subject: Subject, covariance: Covariance) -> tuple[Gaussian, bool]:
    """The data as a Gaussian in the coordinates of the process, and whether it is dense."""
    from gendiff.lab import prediction

    small = subject.components <= prediction.MOST_DENSE and subject.data is not None
    if covariance is Covariance.DIAGONAL or (covariance is Covariance.AUTO and not small):
        return prediction.diagonal(subject.in_frequencies), False
    if subject.data is None:
        raise ConfigError(
            f"the data of '{subject.label}' are not here",
            where="--covariance",
            fix="leave it out: their moments are known",
        )
    try:
        return prediction.dense(subject.data, subject.diffusion.rotation), True
    except ConfigError as error:
        error.where = error.where or "--covariance"
        raise


def network_error(subject: Subject, sampler: Sampler, std: float) -> NetworkError | None:
    """A network whose outputs, as the objective of the process says them, are off by ``std``; None where that is 0."""
    from gendiff.lab.recursion import NetworkError

    if std == 0:
        return None
    limits = subject.config.data.value_range
    # Clipped, a pixel is off by half the range at most, roughly.
    limit = (limits[1] - limits[0]) / 2 if sampler.clip and limits else math.inf
    return NetworkError(subject.config.objective.parametrization, std, limit)


def predictions(
    subject: Subject,
    diffusion: Diffusion,
    target: Gaussian,
    sampler: Sampler,
    counts: tuple[int, ...] | None,
    bands: int,
    best: bool,
    wrong: NetworkError | None,
) -> list[dict[str, Any]]:
    """One row for each number of steps; a sampler that cannot skip steps has one row."""
    from gendiff.grid import GridSampler
    from gendiff.lab import prediction
    from gendiff.lab.decision import is_exact

    variance = float(target.variance.sum())

    def errors(by: Sampler) -> dict[str, Any]:
        with saying("--steps", "sampler.steps", counts is not None), subject.settings.locating():
            outcome = prediction.predict(diffusion, by, target, bands)
        facts: dict[str, Any] = {"evaluations": outcome.evaluations, "grid": outcome.steps, "error": outcome.total}
        facts |= {"of_variance": outcome.total / variance if variance else None, "bands": outcome.bands}
        if wrong is not None:
            off = prediction.predict(diffusion, by, target, bands, wrong)
            facts["off"] = {"network_error": wrong.std, "error": off.total, "bands": off.bands}
        return facts

    rows = []
    skips = isinstance(sampler, GridSampler)
    names = {"process": subject.label, "sampler": name_of(sampler), "objective": subject.config.objective.spec}
    own: list[int | None] = [None]
    if isinstance(sampler, GridSampler) and not (counts is None and sampler.grid.counted):
        own = [*(counts or [n for n in DEFAULT_COUNTS if n <= diffusion.N] or [diffusion.N])]
    for n in own:
        one = sampler.model_copy(update={"steps": n}) if isinstance(sampler, GridSampler) else sampler
        facts = errors(one)
        row = {**names, "skips": skips, "asked": facts["evaluations"] if n is None else n, **facts}
        if best and isinstance(sampler, GridSampler) and n is not None:
            grid = prediction.best_grid(diffusion, sampler, target, -(-n // sampler.stages), GRIDS, wrong)
            row["best"] = errors(prediction.at(sampler, grid))
        rows.append(row)
    exact = is_exact([row["error"] for row in rows], variance)
    return [{**row, "exact": exact} for row in rows]


def as_sampled(
    subject: Subject, sampler: Sampler, counts: tuple[int, ...] | None, covariance: Covariance, wrong: float
) -> list[dict[str, Any]]:
    """The predictions of one process with one sampler."""
    target, dense = gaussian(subject, covariance)
    diffusion = subject.diffusion if dense else subject.as_planned
    rows = predictions(subject, diffusion, target, sampler, counts, 4, False, network_error(subject, sampler, wrong))
    data = f"the data of {subject.label}" if subject.data is None else subject.data.spec
    return [{**row, "data": data} for row in rows]


def _finite(row: dict[str, Any]) -> bool:
    """Whether all errors of a row are numbers."""
    return all(math.isfinite(_at(row, keys) or 0.0) for _, keys in _lines("", row))


def name_of(sampler: Sampler) -> str:
    """What a sampler is called in the table: the number of its steps is that of a column."""
    from gendiff.grid import GridSampler

    if not isinstance(sampler, GridSampler):
        return sampler.spec
    return sampler.model_copy(update={"steps": type(sampler).model_fields["steps"].default}).spec


#: The numbers of steps where none are given.
DEFAULT_COUNTS = (5, 10, 20, 50)

#: Where the search for a grid may begin.
GRIDS = ("uniform", "lambda", "arc-length", "karras")


def _print(rows: list[dict[str, Any]], bands: int | None, real: Floor | None) -> None:
    meanings = {"dense": "the covariance of the data", "diagonal": "independent components"}
    phrase = " or ".join(meanings[each] for each in dict.fromkeys(row["covariance"] for row in rows))
    paragraph(
        f"squared Wasserstein distance between samples and {rows[0]['data']}, by number of evaluations: what steps and prior "
        f"cost with a perfect model of Gaussian data with {phrase}"
        + ("; and below it with a network that is off everywhere" if "off" in rows[0] else "")
    )
    arms = list(dict.fromkeys((row["process"], row["sampler"]) for row in rows))
    counts = list(dict.fromkeys(row["asked"] for row in sorted(rows, key=lambda row: not row["skips"])))
    by_key = {(row["process"], row["sampler"], row["asked"]): row for row in rows}
    names = {arm: f"{arm[0]}, {arm[1]}" for arm in arms}
    for start in range(0, len(counts), fits := room(cell=10, indent=min(max(map(len, names.values())), 20) + 2)):
        part = counts[start : start + fits]
        lines = []
        for arm in arms:
            cells = [by_key.get((*arm, n)) for n in part]
            for head, keys in _lines(names[arm], rows[0]):
                values = [_at(row, keys) for row in cells]
                if any(value is not None for value in values):
                    lines.append([head, *("-" if value is None else _number(value) for value in values)])
        if real is not None:
            lines.append([f"{real.n} real events", *[_number(real.value)] * len(part)])
        table(["process, sampler", *map(str, part)], lines)
    for arm in arms:
        of = [row for row in rows if (row["process"], row["sampler"]) == arm]
        if of[0]["exact"]:
            paragraph(
                f"{names[arm]}: the same whatever the number of evaluations, as the sampler is exact for such data: what is left "
                "is the prior's, and the line says nothing of steps"
            )
    if bands:
        _print_bands(rows, bands)
    for row in rows:
        if "best" in row:
            grid = ",".join(map(str, row["best"]["grid"]))
            words = quoted("--sampler", _without_grid(row["sampler"]), "--grid", f"explicit:at=[{grid}]")
            paragraph(f"{names[row['process'], row['sampler']]}, {row['asked']}: {words}")


def _without_grid(spec: str) -> str:
    """The spec of a sampler without its grid."""
    from gendiff.sampler import Sampler

    table = Sampler.model_validate(spec).table()
    return Sampler.model_validate({key: value for key, value in table.items() if key != "grid"}).spec


def _lines(name: str, row: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """The lines of a process and sampler in the table: what they are called, and where their numbers are in a row."""
    off = f"off by {row['off']['network_error']:g}" if "off" in row else ""
    lines: list[tuple[str, tuple[str, ...]]] = [(name, ("error",)), (f"  {off}", ("off", "error"))]
    lines += [("  at its best steps", ("best", "error")), (f"  {off} there", ("best", "off", "error"))]
    return [(head, keys) for head, keys in lines if off or "off" not in keys]


def _at(row: dict[str, Any] | None, keys: tuple[str, ...]) -> float | None:
    value: Any = row
    for key in keys:
        value = None if value is None else value.get(key)
    number: float | None = value
    return number


def _print_bands(rows: list[dict[str, Any]], bands: int) -> None:
    result("")
    paragraph("the same by frequency band, from coarse to fine")
    for start in range(0, bands, fits := room(cell=10, indent=28)):
        part = range(start, min(start + fits, bands))
        lines = [
            [f"{row['process']}, {row['sampler']}", str(row["asked"]), *(_number(row["bands"][band]) for band in part)]
            for row in rows
        ]
        table(["process, sampler", "steps", *(f"band {band + 1}" for band in part)], lines)


def _number(value: float) -> str:
    return shown(value, ".3g" if value < 1e5 else ".0e")
