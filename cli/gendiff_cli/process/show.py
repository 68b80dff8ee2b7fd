"""``gendiff process show``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.errors import ConfigError
from gendiff_cli.console import busy, json_result, next_step, note, paragraph, result, room, table
from gendiff_cli.options import Given, JsonOption, configured
from gendiff_cli.process.decision import EACH, decision, floor, standard
from gendiff_cli.process.predict import Covariance, as_sampled, name_of
from gendiff_cli.process.subject import ArmOption, Subject, again, subjects
from gendiff_cli.remarks import remark_schedule

if TYPE_CHECKING:
    from gendiff.lab.decision import Decision
    from gendiff.lab.forward import BandSNR
    from gendiff.velocity import BlurWidth


FEW = 5  # evaluations that a fast sampler takes
WRONG = 0.1  # by how much a network is off, as process predict has it


@configured("arms process rotation schedule velocity noise data size latent preset config set")
def show(
    context: typer.Context,
    given: Given,
    arms: ArmOption = None,
    bands: Annotated[int, typer.Option(min=1, max=64, help="Frequency bands, equal steps of ρ.")] = 4,
    moments: Annotated[int, typer.Option(min=2, max=1000, help="Steps that are shown.")] = 11,
    json: JsonOption = False,
) -> None:
    """Show when each frequency band is destroyed, how fast, what is left at N, and what is odd about a process.

    SNR is a²/s² in decibel; data-SNR is that times the variance of the data, which crosses 1 where a band turns into noise.
    """
    processes = subjects(context.obj, arms, given)
    with busy("measuring the data"):
        facts = [_facts(subject, bands, moments) for subject in processes]
        choice = _decision(processes)
    if json:
        json_result({"processes": facts, "decision": choice and asdict(choice)})
        return
    for subject in processes:
        remark_schedule(subject.config)
    for place, (subject, fact) in enumerate(zip(processes, facts, strict=True)):
        if place:
            result("")
        _print(fact)
        if not subject.config.rotation.diagonalises_blur and fact["basis"] == subject.config.rotation.spec:
            name = subject.config.rotation.name
            note(f"rotation '{name}' does not diagonalise a blur: D is what a component keeps of its own energy")
    if choice:
        result("")
        paragraph(choice.text)
    next_step(again("process show", "process plot", {"--bands", "--moments"}))


def _decision(processes: Sequence[Subject]) -> Decision | None:
    """What the predicted errors decide between the processes, or one and standard diffusion, as they would be sampled."""
    from gendiff.grid import GridSampler

    samplers = [subject.config.sampler for subject in processes]
    if len({subject.config.data.fingerprint for subject in processes}) > 1:
        return None
    plain = standard(processes[0]) if len(processes) == 1 else None
    rows: list[dict[str, Any]] = []
    common = name_of(samplers[0]) if len({one.spec for one in samplers}) == 1 else EACH
    for subject, one in [*zip(processes, samplers, strict=True), *([(plain, samplers[0])] if plain else [])]:
        steps = one.steps if isinstance(one, GridSampler) else None
        counts = None if steps is None else tuple(sorted({min(FEW, steps), steps}))
        try:
            rows += [{**row, "sampler": common} for row in as_sampled(subject, one, counts, Covariance.AUTO, WRONG)]
        except ConfigError as error:
            if subject is not plain:
                note(f"{subject.label}: {error.what}")
                return None
    asked = samplers[0].steps if isinstance(samplers[0], GridSampler) else None
    return decision(rows, processes, common, asked, floor(processes[0]))


def _facts(subject: Subject, bands: int, moments: int) -> dict[str, Any]:
    from gendiff.lab.diagnosis import CLEAN, GONE, diagnose
    from gendiff.lab.forward import DECIBEL, BandSNR, spaced

    config, diffusion = subject.config, subject.in_frequencies
    snr = BandSNR(diffusion, bands)
    terminal = diffusion.at(diffusion.N).half_log_snr * DECIBEL
    alike = diffusion is not subject.diffusion  # then nothing is blurred, whatever the schedule
    width: BlurWidth | None = None if alike else config.velocity.blur_width(diffusion.N)
    steps = spaced(diffusion.N, moments)
    return {
        "label": subject.label,
        "rotation": config.rotation.spec,
        "velocity": config.velocity.spec,
        "basis": diffusion.rotation.spec,
        "N": diffusion.N,
        "event_shape": list(diffusion.event_shape),
        "sampler": config.sampler.spec,
        "prior": config.sampler.prior,
        "data": None if subject.data is None else subject.data.spec,
        "data_known": diffusion.moments.measured,
        "terminal_snr_db": [float(terminal.min()), float(terminal.max())],
        "terminal_data_snr_db": float((terminal + snr.component_data).max()),
        "blur_pixels": None if width is None else float(width.true[-1]),
        "blur_pixels_nominal": None if width is None else float(width.nominal[-1]),
        "band_edges": snr.edges,
        "components": snr.components,
        "data_db": _plain(snr.data.tolist()),
        "crossing": snr.below(0.0),
        "data_crossing": snr.data_below(0.0),
        "data_clean_until": snr.data_below(CLEAN),
        "data_gone_from": snr.data_below(GONE),
        "speed_db_per_step": _speed(snr, CLEAN, GONE),
        "steps": steps,
        "snr_db": [_plain(row) for row in snr.decibels(steps).tolist()],
        "findings": [{"rule": f.rule, "text": f.text, **f.numbers} for f in diagnose(snr, config.velocity)],
    }


def _speed(snr: BandSNR, clean: float, end: float) -> list[float | None]:
    """Decibel per step that each band loses on its way from clean to gone; None where it does not get there."""
    spans = zip(snr.data_below(clean), snr.data_below(end), strict=True)
    return [(clean - end) / max(last - first, 1) if first and last else None for first, last in spans]


def _plain(values: list[float]) -> list[float | None]:
    return [None if value != value else value for value in values]  # NaN: a band without components


def _print(fact: dict[str, Any]) -> None:
    shape = "x".join(map(str, fact["event_shape"]))
    low, high = fact["terminal_snr_db"]
    words = {
        "process": fact["label"],
        "N, events": f"{fact['N']}, {shape} of {fact['data'] or 'data that are not here'}",
        "sampler": f"{fact['sampler']}, from the {fact['prior']} prior: what train and sample use",
        "SNR at N": f"{low:.1f} dB" if high - low < 0.05 else f"{low:.1f} to {high:.1f} dB",
        "data-SNR at N": f"at most {fact['terminal_data_snr_db']:.1f} dB",
    }
    if fact["blur_pixels"] is not None:
        words["blur at N"] = f"{fact['blur_pixels']:.2f} pixels (nominal {fact['blur_pixels_nominal']:.2f})"
    if fact["basis"] != fact["rotation"]:
        words["seen in"] = f"{fact['basis']}: all components move alike, so it is itself in any basis"
    if not fact["data_known"]:
        words["data"] = "assumed to have variance 1: data, at N and crosses say nothing of yours"
    for name, text in words.items():
        paragraph(f"{name:13}  {text}", indent=15)
    result("")
    paragraph(
        "bands of frequency ρ, radians per pixel: mean variance of the data and data-SNR at N in dB, the step where data-SNR "
        "crosses 1, and dB lost per step around it"
    )
    table(
        ["ρ <", "data", "at N", "crosses", "speed"],
        [
            [
                f"{edge:.2f}",
                _decibel(fact["data_db"][k]),
                _decibel(None if (db := fact["snr_db"][-1][k]) is None else db + fact["data_db"][k]),
                _step(fact["data_crossing"][k], fact["components"][k]),
                "-" if fact["speed_db_per_step"][k] is None else f"{fact['speed_db_per_step'][k]:.2g}",
            ]
            for k, edge in enumerate(fact["band_edges"])
        ],
    )
    result("")
    paragraph("SNR in dB by step and band; the last row is the step where it crosses 1")
    for start in range(0, len(fact["band_edges"]), fits := room(cell=8, indent=6)):
        part = slice(start, start + fits)
        rows = [[str(i), *map(_decibel, values[part])] for i, values in zip(fact["steps"], fact["snr_db"], strict=True)]
        crossing = [
            _step(i, count, "i=") for i, count in zip(fact["crossing"][part], fact["components"][part], strict=True)
        ]
        table(["i", *(f"<{edge:.2f}" for edge in fact["band_edges"][part])], [*rows, ["1", *crossing]])
    for finding in fact["findings"]:
        result("")
        paragraph(f"{finding['rule']}: {finding['text']}")


def _step(i: int | None, components: int, sign: str = "") -> str:
    """The step where a band crosses a level; '-' for a band without components."""
    return "-" if not components else "never" if i is None else f"{sign}{i}"


def _decibel(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"
