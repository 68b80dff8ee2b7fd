"""``gendiff process likelihood``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError, GendiffError
from gendiff_cli.console import json_result, next_step, paragraph, progress, result
from gendiff_cli.measured import events_of
from gendiff_cli.opening import load_model, open_run
from gendiff_cli.options import (
    CheckpointArgument,
    DeviceOption,
    EmaOption,
    HeldOutOption,
    JsonOption,
    RawOption,
    chosen_weights,
    spec_option,
)

if TYPE_CHECKING:
    from gendiff.data import Data
    from gendiff.run.directory import Run


class Prior(StrEnum):
    """Where the chain starts."""

    STANDARD = "standard"
    MATCHED = "matched"


class Method(StrEnum):
    """How the likelihood is found."""

    BOUND = "bound"
    ODE = "ode"


class Trace(StrEnum):
    """How the trace of the field is."""

    HUTCHINSON = "hutchinson"
    EXACT = "exact"


def likelihood(
    run: CheckpointArgument,
    events: Annotated[int, typer.Option(min=2, help="How many events are looked at.")] = 256,
    draws: Annotated[int, typer.Option(min=1, help="Steps that each event draws.")] = 8,
    data: Annotated[
        str | None, spec_option("data", "Data that the run was not trained on, or a path; default: its own.")
    ] = None,
    held_out: HeldOutOption = None,
    prior: Annotated[
        Prior | None,
        typer.Option(
            help="Start of the chain: standard, N(0, s_N²), or matched, with the moments that the data have at N. Default: the "
            "one from which the run samples; matched where that is data, which has no density."
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(help="bound: the variational bound of the chain; ode: the density of the probability-flow ODE."),
    ] = Method.BOUND,
    trace: Annotated[
        Trace,
        typer.Option(
            help="With ode: hutchinson, an estimate without bias by probes of ±1, or exact, for small events."
        ),
    ] = Trace.HUTCHINSON,
    probes: Annotated[int, typer.Option(min=1, help="With ode: probes of each event.")] = 1,
    rtol: Annotated[
        float, typer.Option(min=1e-10, max=1, help="With ode: error of a step, relative and absolute.")
    ] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Noise and steps follow from it.")] = 0,
    ema: EmaOption = None,
    no_ema: RawOption = False,
    batch: Annotated[int, typer.Option(min=1, help="Events at a time; changes speed and memory alone.")] = 64,
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Bound the negative log-likelihood of a run's data, in bits per dimension, with its standard error.

    It is that of the chain which the ancestral sampler with all N steps draws from, x̂_0 clipped to the range of the data; runs of
    any process and objective have one. With ``--method ode`` it is no bound on a chain but the density of the probability-flow
    ODE, of the data with the noise of step 1, and nothing is clipped.
    Data in [-1, 1] count as pictures of 8 bits, unbounded ones as numbers with a density.
    """
    from gendiff.datasets.split import UNSEEN
    from gendiff.denoiser import NetworkScore
    from gendiff.flow import Tolerance
    from gendiff.lab.likelihood import bound, flow_likelihood
    from gendiff.machine.world import join
    from gendiff.sampler import Clamped

    with join(device) as world:
        run_model = load_model(run, open_run(run), world.device, chosen_weights(ema, no_ema))
        diffusion = run_model.denoiser.diffusion
        source = _data(run_model.run, data, held_out)
        if source.event_shape != diffusion.event_shape:
            raise ConfigError(
                f"the run has events of shape {diffusion.event_shape}, the data {source.event_shape}",
                where="--data",
                fix="give data of the same shape",
            )
        endless = source.length is None
        indices = range(UNSEEN, UNSEEN + events) if endless and held_out is not False else source.spread(events)
        if len(indices) < 2:
            raise ConfigError(f"the data hold {len(indices)} events", where="--data", fix="give at least two")
        if prior is None:
            prior = Prior.STANDARD if run_model.run.config.sampler.prior == "standard" else Prior.MATCHED
        parametrization, limits = run_model.run.config.objective.parametrization, source.value_range
        network = NetworkScore(run_model.denoiser, diffusion, parametrization, limits)
        if method is Method.ODE:
            with progress() as bar:
                task = bar.add_task("events", total=len(indices))
                flow = flow_likelihood(
                    diffusion,
                    network,
                    source.__getitem__,
                    indices,
                    eight_bit=limits == (-1.0, 1.0),
                    matched=prior is Prior.MATCHED,
                    trace=trace.value,
                    probes=probes,
                    tolerance=Tolerance(rtol, rtol),
                    seed=seed,
                    chunk=batch,
                    watch=lambda count: bar.update(task, completed=count),
                )
            _report_flow(
                {
                    "run": str(run),
                    "method": "ode",
                    "bits_per_dimension": flow.total.bits,
                    "standard_error": flow.total.error,
                    "evaluations": flow.evaluations,
                    "events": flow.events,
                    "trace": trace.value,
                    "probes": probes if trace is Trace.HUTCHINSON else None,
                    "rtol": rtol,
                    "convention": "8-bit" if limits == (-1.0, 1.0) else "continuous",
                    "start": prior.value,
                    "data": source.spec,
                    "seed": seed,
                    "weights": run_model.weights,
                    "weights_hash": run_model.weights_hash,
                    "step": run_model.step,
                },
                json,
            )
            return
        model = Clamped(network, diffusion)
        with progress() as bar:
            task = bar.add_task("events", total=len(indices))
            estimate = bound(
                diffusion,
                model,
                source.__getitem__,
                indices,
                eight_bit=limits == (-1.0, 1.0),
                matched=prior is Prior.MATCHED,
                draws=draws,
                seed=seed,
                chunk=batch,
                watch=lambda count: bar.update(task, completed=count),
            )
    trained_on = run_model.run.info["data"]["fingerprint"] if data else run_model.run.split().training.fingerprint
    seen = source.fingerprint == trained_on and not (endless and held_out is not False)
    facts = {
        "run": str(run),
        "bits_per_dimension": estimate.total.bits,
        "standard_error": estimate.total.error,
        **{name: vars(getattr(estimate, name)) for name in ("prior", "steps", "decoder")},
        "events": estimate.events,
        "draws": estimate.draws,
        "convention": "8-bit" if limits == (-1.0, 1.0) else "continuous",
        "start": prior.value,
        "data": source.spec,
        "held_out": not seen,
        "seed": seed,
        "weights": run_model.weights,
        "weights_hash": run_model.weights_hash,
        "step": run_model.step,
    }
    _report(facts, json)


def _data(run: Run, text: str | None, held_out: bool | None) -> Data:
    from gendiff.datasets.sources import data_like
    from gendiff.plugin.registry import registry_in_force

    if text is None:
        return events_of(run, held_out)
    if held_out is not None:
        raise ConfigError(
            "--data are not events of the run",
            where="--held-out" if held_out else "--training",
            fix="leave one of the two out",
        )
    try:
        return data_like(registry_in_force(), text, run.config.data.event_shape)
    except GendiffError as error:
        error.where = error.where or "--data"
        raise


def _report_flow(facts: dict[str, Any], json: bool) -> None:
    if json:
        json_result(facts)
        return
    result(f"{facts['bits_per_dimension']:.3f} ± {facts['standard_error']:.3f} bits per dimension")
    unit = (
        "bytes made continuous by uniform noise, which makes it a bound"
        if facts["convention"] == "8-bit"
        else "a density in the units of the data, which may be negative"
    )
    way = "exact trace" if facts["probes"] is None else f"{facts['probes']} probes of the trace"
    paragraph(
        f"{facts['events']} events of {facts['data']}, by the probability-flow ODE from step 1 to the {facts['start']} prior, "
        f"{facts['evaluations']} evaluations of the network; {way}; {unit}"
    )
    next_step(command("sample", Path(facts["run"])))


def _report(facts: dict[str, Any], json: bool) -> None:
    if json:
        json_result(facts)
        return
    result(f"at most {facts['bits_per_dimension']:.3f} ± {facts['standard_error']:.3f} bits per dimension")
    for name, meaning in (
        ("prior", "KL at step N"),
        ("steps", "sum over the steps 2..N"),
        ("decoder", "step 1 to the data"),
    ):
        part = facts[name]
        result(f"  {name:8} {part['bits']:8.4f} ± {part['error']:.4f}  {meaning}")
    which = "data it was not trained on" if facts["held_out"] else "the data it was trained on"
    unit = (
        "events as pictures of 8 bits"
        if facts["convention"] == "8-bit"
        else "a density in the units of the data, which may be negative"
    )
    paragraph(
        f"{facts['events']} events of {facts['data']}, {which}; {facts['draws']} of the steps each, from the {facts['start']} "
        f"prior; {unit}"
    )
    next_step(command("sample", Path(facts["run"])))
