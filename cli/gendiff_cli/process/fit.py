"""``gendiff process fit``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.errors import ConfigError
from gendiff_cli.console import err, json_result, next_step, paragraph, result, table
from gendiff_cli.options import (
    ConfigOption,
    DataOption,
    GridOption,
    NoiseOption,
    ObjectiveOption,
    PresetOption,
    PriorOption,
    ProcessOption,
    RotationOption,
    SamplerOption,
    ScheduleOption,
    SetOption,
    SizeOption,
    StepsOption,
    VelocityOption,
)
from gendiff_cli.process.predict import Covariance, NetworkErrorOption, gaussian, network_error, sampler_of
from gendiff_cli.process.subject import subjects

if TYPE_CHECKING:
    from gendiff.config import Config
    from gendiff.lab.fitting import Fit


def fit(
    context: typer.Context,
    process: ProcessOption = None,
    rotation: RotationOption = None,
    schedule: ScheduleOption = None,
    velocity: VelocityOption = None,
    noise: NoiseOption = None,
    objective: ObjectiveOption = None,
    data: DataOption = None,
    size: SizeOption = None,
    preset: PresetOption = None,
    config_file: ConfigOption = None,
    assignments: SetOption = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="A number of the velocity or of what it owns, such as f_max or noise.beta_max=0.001:0.1; may be given again. "
            "Default: every one whose range is declared.",
            metavar="NAME[=LOW:HIGH]",
        ),
    ] = None,
    sampler: SamplerOption = "dpmpp-2m",
    steps: StepsOption = 10,
    grid: GridOption = None,
    prior: PriorOption = None,
    wrong: NetworkErrorOption = 0.1,
    covariance: Annotated[
        Covariance,
        typer.Option(
            help="dense: as the data have it, for events of at most 256 components; diagonal: independent components."
        ),
    ] = Covariance.AUTO,
    out: Annotated[Path, typer.Option(help="TOML to write, for train --config.")] = Path("fitted.toml"),
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Choose parameters of a process for which the predicted error at a number of steps is smallest; write a configuration.

    The error is that of process predict, with a network that is wrong everywhere by --network-error. λ never rises, and no
    component of the data is above -10 dB at N.
    """
    from gendiff.lab import fitting

    flags = {
        "process": process,
        "rotation": rotation,
        "velocity": velocity,
        "schedule": schedule,
        "noise": noise,
        "objective": objective,
        "data": data,
        "size": size,
    }
    [subject] = subjects(context.obj, None, preset, config_file, assignments, flags)
    wanted = dict(map(_range, vary or []))
    with subject.resolved.locating():
        config = subject.config.fitted()
        free = fitting.chosen(config.velocity, wanted)
        chosen = sampler_of(str(sampler), grid, prior, steps)
        target, dense = gaussian(subject, covariance)
        with err.status("searching") if err.is_terminal else _Silence():
            found = fitting.fit(
                config, chosen, target if dense else None, free, wrong=network_error(subject, chosen, wrong)
            )
    _write(found.config, out)
    _report(found, {parameter.path: parameter.value for parameter in free}, out, dense, wrong, json)


class _Silence:
    """No sign of life: nobody watches."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def _range(text: str) -> tuple[str, tuple[float, float] | None]:
    """``"f_max"``, or ``"f_max=0:1"``."""
    name, equals, limits = text.partition("=")
    if not equals:
        return name, None
    low, _, high = limits.partition(":")
    try:
        return name, (float(low), float(high))
    except ValueError:
        raise ConfigError(f"cannot read '{text}'", where="--vary", fix="write NAME, or NAME=LOW:HIGH") from None


def _write(config: Config, path: Path) -> None:
    """What the fit is about: process, data and sampler; all else is left to whoever trains."""
    import tomli_w

    kept = {"N", "rotation", "velocity", "objective", "data", "sampler"}
    table = {key: value for key, value in config.table().items() if key in kept}
    try:
        path.write_text(f"# Fitted by gendiff process fit.\n{tomli_w.dumps(table)}", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror}", where="--out", fix="give another path") from error


def _report(found: Fit, before: dict[str, float], out: Path, dense: bool, wrong: float, json: bool) -> None:
    facts: dict[str, Any] = {
        "config": str(out),
        "values": found.values,
        "start": before,
        "error_before": found.before,
        "error_after": found.after,
        "evaluations": found.evaluations,
        "sampler": found.config.sampler.spec,
        "network_error": wrong,
        "covariance": "dense" if dense else "diagonal",
    }
    if json:
        json_result(facts)
    else:
        table(
            ["name", "from", "to"],
            [[name, f"{before[name]:.6g}", f"{value:.6g}"] for name, value in found.values.items()],
        )
        paragraph(
            f"predicted error {found.before:.4g} -> {found.after:.4g} with {found.config.sampler.spec} and "
            f"{f'a network that is off by {wrong:g}' if wrong else 'a perfect model'}; {found.evaluations} evaluations of it"
        )
        result(str(out))
    next_step(f"gendiff train --config {shlex.quote(str(out))}")
