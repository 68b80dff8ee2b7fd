"""Plan: what a training is before its first step, in numbers and in lines: process, loss, sampler, network, cost of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gendiff.command import option
from gendiff.component import summary
from gendiff.datasets.batches import Batch
from gendiff.machine.load import Load, cores
from gendiff.machine.threads import Threads
from gendiff.quantities import amount, counted
from gendiff.training.cost import first_batch, step_memory
from gendiff.training.trainer import Trainer


def plan(trainer: Trainer, load: Load, threads: Threads, memory: bool = False) -> dict[str, Any]:
    """What is trained, and by what, in numbers and words.

    Args:
        load: it has looked at this machine since the command began.
        threads: those of this process.
        memory: whether to try what memory a step takes too.

    Raises:
        GendiffError: where there is too little memory.

    """
    config, diffusion, objective = trainer.config, trainer.diffusion, trainer.config.objective
    end = diffusion.at(config.N).half_log_snr
    batch = first_batch(trainer)
    grid = getattr(config.sampler, "grid", None)
    return {
        "rotation": config.rotation.spec,
        "velocity": config.velocity.spec,
        "process": f"{config.rotation.brief} with velocity {config.velocity.brief}",
        "alike": diffusion.alike and not config.velocity.trained,
        "speeds": config.train.speeds.words if config.velocity.trained else None,
        "N": config.N,
        "terminal_log_snr": [round(2 * float(edge), 2) for edge in (end.min(), end.max())],
        "basis": config.basis.spec,
        "objective": objective.spec,
        "levels": config.train.levels.spec if config.train.levels else "uniform",
        "continuous": config.train.continuous,
        "predicts": summary(type(objective)),
        "parametrization": str(objective.parametrization),
        "loss_of_one": objective.loss_of_one,
        "loss_of_nothing": _loss_of_nothing(trainer, batch) if batch else None,
        "sampler": config.sampler.spec,
        "evaluations": config.sampler.evaluations(diffusion),
        "grid": grid and grid.spec,
        "model": config.model.spec,
        "parameters": trainer.weights.size,
        "data": config.data.spec,
        "events": list(config.data.event_shape),
        "length": config.data.length,
        "condition": {name: one.words for name, one in config.conditions.items()},
        "condition_dropout": config.train.condition_dropout,
        "hold_out": config.split.words.removeprefix("held out: ") or None,
        "from_step": trainer.step,
        "steps": config.train.steps,
        "batch": config.train.batch,
        "precision": trainer.precision,
        "lr": config.train.lr,
        "device": str(trainer.device),
        "processes": trainer.world.size,
        "threads": threads.count,
        "threads_because": threads.because,
        "cores": len(cores()),
        "cores_others_use": load.others(),
        "memory": (estimate := step_memory(trainer, batch) if memory and batch else None) and asdict(estimate),
    }


def _loss_of_nothing(trainer: Trainer, batch: Batch) -> float | None:
    """None where it cannot be had: the first step says better why."""
    batch = batch.to(trainer.device)
    try:
        return trainer.config.objective.loss_of_nothing(trainer.diffusion, batch.x_0, batch.i, batch.eps)
    except (Exception, SystemExit):  # an objective may raise anything
        return None


def rows(facts: Mapping[str, Any]) -> dict[str, str]:
    """A `plan` in lines, by what each is about."""
    grid = f" on the grid {facts['grid']}" if facts["grid"] else ""
    process = f"{facts['process']}, N = {facts['N']:,}"
    if facts["alike"]:
        process += ": all components at one speed, as in DDPM"
        process += (
            "" if facts["parametrization"] == "eps" else f", whose network predicts ε ({option('--objective', 'eps')})"
        )
    length = "endless" if facts["length"] is None else counted(facts["length"], "event")
    begin = (
        f"steps {facts['from_step'] + 1:,} to {facts['steps']:,}"
        if facts["from_step"]
        else counted(facts["steps"], "step")
    )
    several = f" in each of {facts['processes']} processes" if facts["processes"] > 1 else ""
    place = facts["device"] + (f" in {facts['processes']} processes" if facts["processes"] > 1 else "")
    return {
        "objective": f"{facts['objective']}: {facts['predicts']}",
        **_levels(facts),
        "loss": _meaning(facts),
        "sampler": f"{facts['sampler']}: {_asked(facts['evaluations'])} of the network{grid}",
        "process": process,
        **({"speeds": facts["speeds"]} if facts["speeds"] else {}),
        "basis": f"{facts['basis']}, in which mean and variance of the data are taken",
        "data": f"{facts['data']}, {length} of {'x'.join(map(str, facts['events']))}",
        "network": f"{facts['model']}, {facts['parameters']:,} parameters",
        **({"condition": _told(facts)} if facts["condition"] else {}),
        "training": f"{begin} of {facts['batch']:,}, {facts['precision']}, lr {facts['lr']:g}, on {place}",
        "threads": f"{facts['threads']}{several}: {facts['threads_because']}",
    }


def _levels(facts: Mapping[str, Any]) -> dict[str, str]:
    """The law of i, where it is another than that of every whole step alike."""
    if facts["levels"] == "uniform" and not facts["continuous"]:
        return {}
    real = ", real in [1, N]" if facts["continuous"] else ""
    return {"levels": f"{facts['levels']}: the law of i in training{real}"}


def _told(facts: Mapping[str, Any]) -> str:
    names = "; ".join(f"{name}, {words}" for name, words in facts["condition"].items())
    share = facts["condition_dropout"]
    alone = (
        f"left out for {share:.0%} of the events, so that it can be guided" if share else "never left out: no guidance"
    )
    return f"{names}; {alone}"


def _asked(evaluations: int | None) -> str:
    return "as many evaluations as it chooses" if evaluations is None else counted(evaluations, "evaluation")


def _meaning(facts: Mapping[str, Any]) -> str:
    of_one = f"1 is {facts['loss_of_one']}" if facts["loss_of_one"] else "1 means nothing by itself"
    nothing = facts["loss_of_nothing"]
    return of_one if nothing is None else f"{of_one}; on the first batch an output of 0 has {nothing:.3g}"


def remembered(memory: Mapping[str, Any] | None) -> str:
    """How much memory, and how that is known."""
    if memory is None:
        return "not known before the first step"
    return f"{'' if memory['measured'] else 'about '}{amount(memory['peak'])}: {memory['how']}"
