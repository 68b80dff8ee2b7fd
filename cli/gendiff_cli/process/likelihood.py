"""``gendiff process likelihood``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError, GendiffError
from gendiff.quantities import counted
from gendiff_cli.console import busy, json_result, next_step, paragraph, progress, result
from gendiff_cli.measured import events_of
from gendiff_cli.opening import load_model, open_run
from gendiff_cli.options import (
    DeviceOption,
    EmaOption,
    Given,
    HeldOutOption,
    JsonOption,
    RawOption,
    chosen_weights,
    configured,
    spec_option,
)
from gendiff_cli.process.predict import Covariance, CovarianceOption, gaussian
from gendiff_cli.process.subject import again, subjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gendiff.data import Data
    from gendiff.diffusion import Diffusion
    from gendiff.lab.likelihood import Bound, FlowLikelihood
    from gendiff.lab.recursion import Gaussian
    from gendiff.plugin.registry import Registry
    from gendiff.run.directory import Run
    from gendiff.run.trained import TrainedModel
    from gendiff.score import ScoreModel


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


@dataclass(frozen=True)
class Asked:
    """A model whose likelihood is asked for, and of which events.

    Args:
        facts: who it is, for ``--json``.
        law: that of the data as a Gaussian, where ``model`` is the optimal model of it; None of a run.
        held_out: whether the events are none that it was trained on.

    """

    diffusion: Diffusion
    model: ScoreModel
    source: Data
    indices: Sequence[int]
    prior: Prior
    facts: dict[str, Any]
    law: Gaussian | None = None
    held_out: bool = True


@configured("process rotation schedule velocity noise data size latent preset config set")
def likelihood(
    context: typer.Context,
    given: Given,
    run: Annotated[
        Path | None,
        typer.Argument(
            help="Run directory, with its newest checkpoint or that of a step. Left out: the best model of the data as a "
            "Gaussian, of the process that is given.",
            metavar="RUN[@STEP]",
        ),
    ] = None,
    events: Annotated[int, typer.Option(min=2, help="How many events are looked at.")] = 256,
    draws: Annotated[int, typer.Option(min=1, help="Steps that each event draws.")] = 8,
    data: Annotated[
        str | None,
        spec_option("data", "Data, or a path; of a run such as it was not trained on. Default: the run's own."),
    ] = None,
    held_out: HeldOutOption = None,
    prior: Annotated[
        Prior | None,
        typer.Option(
            help="Start of the chain: standard, N(0, s_N²), or matched, with the moments that the data have at N. Default: the "
            "one from which the run samples; matched where that is data, which has no density, and without a run."
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
    covariance: CovarianceOption = Covariance.AUTO,
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
    Without a run it is that of the best model of the data as a Gaussian, before any training: what a network has to beat. Its
    density has a closed form, which ``--method ode`` says too.
    """
    from gendiff.flow import Tolerance
    from gendiff.lab.likelihood import bound, flow_likelihood
    from gendiff.machine.world import join
    from gendiff.sampler import Clamped

    with join(device) as world:
        if run is None:
            _refuse_of_runs(held_out, ema, no_ema)
            if data is not None:
                given = Given({**given.values, "data": data})
            asked = _of_gaussian(context.obj, given, covariance, events, prior, world.device)
        else:
            _refuse_of_processes(run, given, covariance)
            run_model = load_model(run, open_run(run), world.device, chosen_weights(ema, no_ema))
            asked = _of_run(run, run_model, _data(run_model.run, data, held_out), data, held_out, events, prior)
        eight_bit = asked.source.value_range == (-1.0, 1.0)
        common: dict[str, Any] = {
            "eight_bit": eight_bit,
            "matched": asked.prior is Prior.MATCHED,
            "seed": seed,
            "chunk": batch,
        }
        with progress() as bar:
            task = bar.add_task("events", total=len(asked.indices))
            watch = partial(_advance, bar, task)
            if method is Method.ODE:
                flow = flow_likelihood(
                    asked.diffusion,
                    asked.model,
                    asked.source.__getitem__ if asked.law is None else lambda index: asked.source[index].double(),
                    asked.indices,
                    law=asked.law,
                    trace=trace.value,
                    probes=probes,
                    tolerance=Tolerance(rtol, rtol),
                    watch=watch,
                    **common,
                )
            else:
                model = Clamped(asked.model, asked.diffusion)
                estimate = bound(
                    asked.diffusion, model, asked.source.__getitem__, asked.indices, draws=draws, watch=watch, **common
                )
    facts = {
        "method": method.value,
        "convention": "8-bit" if eight_bit else "continuous",
        "start": asked.prior.value,
        "data": asked.source.spec,
        "seed": seed,
        "held_out": asked.held_out,
        **asked.facts,
    }
    following = command("sample", run) if run else again("process likelihood", "train", _OWN, ("--no-ema",))
    if method is Method.ODE:
        facts |= {"trace": trace.value, "probes": probes if trace is Trace.HUTCHINSON else None, "rtol": rtol}
        _report_flow(flow, facts, json, following)
    else:
        _report(estimate, facts, json, following)


#: Options that a training has no use for, or takes otherwise.
_OWN = {
    "--events", "--draws", "--prior", "--method", "--trace", "--probes", "--rtol", "--covariance", "--seed", "--batch"
}  # fmt: skip


def _advance(bar: Any, task: Any, count: int) -> None:
    bar.update(task, completed=count)


def _refuse_of_runs(held_out: bool | None, ema: str | None, no_ema: bool) -> None:
    """Raise `ConfigError` for what only a run has."""
    options = {
        "--held-out": held_out is True,
        "--training": held_out is False,
        "--ema": ema is not None,
        "--no-ema": no_ema,
    }
    for option, said in options.items():
        if said:
            raise ConfigError(
                f"{option} is of a run, and none is named", where=option, fix="name one, or leave the option out"
            )


def _refuse_of_processes(run: Path, given: Given, covariance: Covariance) -> None:
    """Raise `ConfigError` for what a run says itself."""
    said = [*given.options, *(["--covariance"] if covariance is not Covariance.AUTO else [])]
    if said:
        raise ConfigError(
            f"the run '{run}' says itself what its process is",
            where=said[0],
            fix=f"leave out {', '.join(said)}; or leave out the run, for the best model of the data as a Gaussian",
        )


def _of_run(
    path: Path,
    run_model: TrainedModel,
    source: Data,
    data: str | None,
    held_out: bool | None,
    events: int,
    prior: Prior | None,
) -> Asked:
    """The network of a run, as a score model."""
    from gendiff.datasets.split import UNSEEN
    from gendiff.denoiser import NetworkScore

    diffusion = run_model.denoiser.diffusion
    if source.event_shape != diffusion.event_shape:
        raise ConfigError(
            f"the run has events of shape {diffusion.event_shape}, the data {source.event_shape}",
            where="--data",
            fix="give data of the same shape",
        )
    endless = source.length is None
    indices = range(UNSEEN, UNSEEN + events) if endless and held_out is not False else source.spread(events)
    if prior is None:
        prior = Prior.STANDARD if run_model.run.config.sampler.prior == "standard" else Prior.MATCHED
    trained_on = run_model.run.info["data"]["fingerprint"] if data else run_model.run.split().training.fingerprint
    seen = source.fingerprint == trained_on and not (endless and held_out is not False)
    parametrization = run_model.run.config.objective.parametrization
    network = NetworkScore(run_model.denoiser, diffusion, parametrization, source.value_range)
    facts = {
        "run": str(path),
        "weights": run_model.weights,
        "weights_hash": run_model.weights_hash,
        "step": run_model.step,
    }
    return Asked(diffusion, network, source, _enough(indices), prior, facts, held_out=not seen)


def _of_gaussian(
    registry: Registry, given: Given, covariance: Covariance, events: int, prior: Prior | None, device: Any
) -> Asked:
    """The best model of the data as a Gaussian, of the process that is given."""
    from gendiff.gaussian import DenseGaussianScore, GaussianScore

    (subject,) = subjects(registry, None, given)
    with busy("measuring the data"):
        law, dense = gaussian(subject, covariance)
        diffusion = (subject.diffusion if dense else subject.as_planned).to(device)
    shape = diffusion.event_shape
    mean = law.mean.reshape(shape)
    model: ScoreModel = (
        DenseGaussianScore(diffusion, mean, law.covariance[0])
        if dense
        else GaussianScore(diffusion, mean, law.variance)
    )
    source = subject.data
    assert source is not None  # none is a run
    model.value_range = source.value_range
    facts = {
        "process": subject.label,
        "covariance": "dense" if dense else "diagonal",
        "basis": None if dense else diffusion.rotation.spec,
    }
    indices = _enough(source.spread(events))
    return Asked(diffusion, model, source, indices, prior or Prior.MATCHED, facts, law, held_out=False)


def _enough(indices: Sequence[int]) -> Sequence[int]:
    if len(indices) < 2:
        raise ConfigError(f"the data hold {len(indices)} events", where="--data", fix="give at least two")
    return indices


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


def _report_flow(flow: FlowLikelihood, facts: dict[str, Any], json: bool, following: str) -> None:
    numbers: dict[str, Any] = {
        "bits_per_dimension": flow.total.bits,
        "standard_error": flow.total.error,
        "evaluations": flow.evaluations,
        "events": flow.events,
    }
    if flow.closed and flow.off:
        numbers |= {"closed_form": flow.closed.bits, "off": flow.off.bits, "off_error": flow.off.error}
    if json:
        json_result({**facts, **numbers})
        return
    result(f"{flow.total.bits:.3f} ± {flow.total.error:.3f} bits per dimension")
    if flow.closed and flow.off:
        off = f"{flow.off.bits:+.1e} ± {flow.off.error:.1e}"
        result(f"{flow.closed.bits:.3f}         in closed form; the ODE is off by {off}")
    unit = (
        "bytes made continuous by uniform noise, which makes it a bound"
        if facts["convention"] == "8-bit"
        else "a density in the units of the data, which may be negative"
    )
    way = "exact trace" if facts["probes"] is None else f"{counted(facts['probes'], 'probe')} of the trace"
    paragraph(
        f"{flow.events} events of {facts['data']}, {_model(facts)}by the probability-flow ODE from step 1 to the "
        f"{facts['start']} prior, {flow.evaluations} evaluations of the {'network' if 'run' in facts else 'model'}; {way}; {unit}"
    )
    next_step(following)


def _model(facts: dict[str, Any]) -> str:
    """What stands in the place of a network."""
    if "run" in facts:
        return ""
    how = f"independent in {facts['basis']}" if facts["basis"] else "with the covariance that the data have"
    return f"the best model of them as a Gaussian, {how}, "


def _report(estimate: Bound, facts: dict[str, Any], json: bool, following: str) -> None:
    parts = {name: vars(getattr(estimate, name)) for name in ("prior", "steps", "decoder")}
    total = estimate.total
    if json:
        numbers = {"bits_per_dimension": total.bits, "standard_error": total.error, **parts}
        json_result({**facts, **numbers, "events": estimate.events, "draws": estimate.draws})
        return
    result(f"at most {total.bits:.3f} ± {total.error:.3f} bits per dimension")
    for name, meaning in (
        ("prior", "KL at step N"),
        ("steps", "sum over the steps 2..N"),
        ("decoder", "step 1 to the data"),
    ):
        part = parts[name]
        result(f"  {name:8} {part['bits']:8.4f} ± {part['error']:.4f}  {meaning}")
    which = "data it was not trained on" if facts["held_out"] else "the data it was trained on"
    which = which if "run" in facts else _model(facts).removesuffix(", ")
    unit = (
        "events as pictures of 8 bits"
        if facts["convention"] == "8-bit"
        else "a density in the units of the data, which may be negative"
    )
    paragraph(
        f"{estimate.events} events of {facts['data']}, {which}; {estimate.draws} of the steps each, from the {facts['start']} "
        f"prior; {unit}"
    )
    next_step(following)
