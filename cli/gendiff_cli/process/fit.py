"""``gendiff process fit``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError
from gendiff_cli.console import busy, json_result, next_step, paragraph, result, shown, table
from gendiff_cli.options import Given, GridOption, JsonOption, PriorOption, configured, saying, spec_option
from gendiff_cli.process.predict import (
    Covariance,
    CovarianceOption,
    NetworkErrorOption,
    gaussian,
    network_error,
    sampler_of,
)
from gendiff_cli.process.subject import Subject, subjects

if TYPE_CHECKING:
    from gendiff.lab.fitting import Fit, Parameter
    from gendiff.run.config import Config
    from gendiff.sampler import Sampler

DEFAULT_SAMPLER, DEFAULT_STEPS = "dpmpp-2m", 10
HEAD = "# Fitted by gendiff process fit."  # the first line of what is written, by which it is known again


@configured("process rotation schedule velocity noise objective data size latent preset config set")
def fit(
    context: typer.Context,
    given: Given,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="A number of the velocity or of what it owns, such as f_max or noise.beta_max=0.001:0.1; may be given again. "
            "Default: every one whose range is declared.",
            metavar="NAME[=LOW:HIGH]",
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        spec_option("sampler", "Default: the one that a preset or file names, with its prior; else dpmpp-2m."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Model evaluations for each sample. Default: those of the sampler, else 10."),
    ] = None,
    grid: GridOption = None,
    prior: PriorOption = None,
    wrong: NetworkErrorOption = 0.1,
    covariance: CovarianceOption = Covariance.AUTO,
    out: Annotated[Path, typer.Option(help="TOML to write, for train --config.")] = Path("fitted.toml"),
    json: JsonOption = False,
) -> None:
    """Choose parameters of a process for which the predicted error at a number of steps is smallest; write a configuration.

    The error is that of process predict, with a network that is wrong everywhere by --network-error. λ never rises, and no
    component of the data is above -10 dB at N: for --prior standard without exception, for matched and data with that of those
    that are above it from the start, which must not rise. What a velocity learns along with a network, such as the speeds of
    'learned', follows the gradient of that error: where its training then begins.
    """
    from gendiff.lab import descent, fitting

    [subject] = subjects(context.obj, None, given)
    ranges = dict(map(_range, vary or []))
    _refuse_foreign(out)
    with saying("--steps", "sampler.steps", steps is not None), subject.settings.locating():
        with busy("measuring the data"):
            config = subject.config.fitted()
            target, dense = gaussian(subject, covariance)
        choice = _sampler(subject, sampler, grid, prior, steps)
        aim, error = target if dense else None, network_error(subject, choice, wrong)
        if config.velocity.trained and not ranges:
            free, rest = list["Parameter"](), dict[str, str]()
            with busy("descending"):
                best = descent.descend(config, choice, aim, wrong=error)
        else:
            free = fitting.chosen(config.velocity, ranges)
            rest = fitting.kept(config.velocity, free, ranges)
            with busy("searching"):
                best = fitting.fit(config, choice, aim, free, wrong=error)
    _write(best.config, out)
    _report(best, free, rest, out, dense, wrong, json)


def _sampler(subject: Subject, spec: str | None, grid: str | None, prior: str | None, steps: int | None) -> Sampler:
    """The one that is asked for or configured, with as many steps as somebody says, or 10 where it can skip some."""
    from gendiff.grid import GridSampler

    choice = spec or (subject.sampler.table() if subject.sampler is not None else DEFAULT_SAMPLER)
    sampler = sampler_of(choice, grid, prior, steps, subject.prior)
    if isinstance(sampler, GridSampler) and sampler.steps is None and not sampler.grid.counted:
        return sampler.model_copy(update={"steps": min(DEFAULT_STEPS, subject.config.N)})
    return sampler


def _range(text: str) -> tuple[str, tuple[float, float] | None]:
    """``"f_max"``, or ``"f_max=0:1"``."""
    name, equals, limits = text.partition("=")
    if not equals:
        return name, None
    parts = limits.partition(":")
    try:
        low, high = float(parts[0]), float(parts[2])
    except ValueError:
        raise ConfigError(f"cannot read '{text}'", where="--vary", fix="write NAME, or NAME=LOW:HIGH") from None
    if not low < high:
        raise ConfigError(f"'{text}' is no range", where="--vary", fix="LOW must be below HIGH in NAME=LOW:HIGH")
    return name, (low, high)


def _refuse_foreign(path: Path) -> None:
    """Raise `ConfigError` where a file is there that is no earlier fit, or no folder for one."""
    from gendiff.storage.reading import opened

    head = f"{HEAD}\n".encode()
    try:
        with opened(path) as file:
            earlier = file.read(len(head)) == head
    except (OSError, ValueError) as error:
        if not path.exists() and path.parent.is_dir():
            return
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot write '{path}': {why}", where="--out", fix="give another path: --out FILE"
        ) from error
    if not earlier:
        raise ConfigError(
            f"'{path}' is there, and no file of an earlier fit",
            where="--out",
            details=[f"such a file begins with '{HEAD}'"],
            fix="give another path, or remove it",
        )


def _write(config: Config, path: Path) -> None:
    """What the fit is about: process, data and sampler; all else is left to whoever trains."""
    import tomli_w

    from gendiff.storage.disk import unwritable
    from gendiff.storage.files import put

    keys = {"N", "rotation", "velocity", "objective", "data", "sampler"}
    table = {key: value for key, value in config.table().items() if key in keys}
    content = f"{HEAD}\n{tomli_w.dumps(table)}".encode()
    try:
        put(path, content)
    except OSError as error:
        raise unwritable(error, path, size=len(content), fix="give another path: --out FILE") from error


def _report(
    best: Fit, free: Sequence[Parameter], kept: Mapping[str, str], out: Path, dense: bool, wrong: float, json: bool
) -> None:
    before, velocity = {parameter.path: parameter.value for parameter in free}, best.config.velocity
    facts: dict[str, Any] = {
        "config": str(out),
        "values": best.values,
        "learned": dict(velocity.written(velocity.learned)) if velocity.trained else {},
        "start": before,
        "ranges": {parameter.path: [parameter.low, parameter.high] for parameter in free},
        "not_varied": dict(kept),
        "error_before": best.before,
        "error_after": best.after,
        "evaluations": best.evaluations,
        "sampler": best.config.sampler.spec,
        "network_error": wrong,
        "covariance": "dense" if dense else "diagonal",
    }
    if json:
        json_result(facts)
    else:
        if free:
            table(
                ["name", "from", "to", "within"],
                [
                    [one.path, f"{one.value:.6g}", f"{best.values[one.path]:.6g}", f"{one.low:g} to {one.high:g}"]
                    for one in free
                ],
            )
        for name in velocity.trained if not free else ():
            paragraph(f"{name}: {velocity.learned[name].numel():,} numbers of velocity {velocity.name}")
        for name, why in kept.items():
            paragraph(f"not varied: {name}, for {why}", indent=2)
        if any("declares" in why for why in kept.values()):
            paragraph("--vary is given again for each that is to vary: only those that it names do", indent=2)
        paragraph(
            f"predicted error {shown(best.before, '.4g')} -> {best.after:.4g} with {best.config.sampler.spec} and "
            f"{f'a network that is off by {wrong:g}' if wrong else 'a perfect model'}; {best.evaluations} evaluations of it"
        )
        result(str(out))
    next_step(command("train", "--config", out))
