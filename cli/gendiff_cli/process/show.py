"""``gendiff process show``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff_cli.console import busy, json_result, next_step, note, paragraph, result, room, table
from gendiff_cli.options import Given, JsonOption, configured
from gendiff_cli.process.subject import ArmOption, Subject, again, subjects
from gendiff_cli.remarks import remark_schedule

if TYPE_CHECKING:
    from gendiff.lab.forward import BandSNR
    from gendiff.velocity import BlurWidth


@configured("arms process rotation schedule velocity noise data size preset config set")
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
    if json:
        json_result({"processes": facts})
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
    next_step(again("process show", "process plot", {"--bands", "--moments"}))


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
        "snr_db": [_plain(snr.decibel(i).tolist()) for i in steps],
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
        "SNR at N": f"{low:.1f} dB" if high - low < 0.05 else f"{low:.1f} to {high:.1f} dB",
        "data-SNR at N": f"at most {fact['terminal_data_snr_db']:.1f} dB",
    }
    if fact["blur_pixels"] is not None:
        words["blur at N"] = f"{fact['blur_pixels']:.2f} pixels (nominal {fact['blur_pixels_nominal']:.2f})"
    if fact["basis"] != fact["rotation"]:
        words["seen in"] = f"{fact['basis']}: all components move alike, so it is itself in any basis"
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
