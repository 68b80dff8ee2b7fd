"""What the terminal is told of a training: what it is before the first step, what it will cost, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gendiff.command import again
from gendiff.machine.load import Load, cores
from gendiff_cli.console import amount, aside, counted, duration, note, paragraph, rate, result

if TYPE_CHECKING:
    import torch

    from gendiff.datasets.batches import Batch
    from gendiff.run.directory import Run
    from gendiff.training.trainer import Trainer

BUSY = 0.5  # of a core: what other processes may use before it is worth a note


def plan(trainer: Trainer, load: Load, memory: bool = False) -> dict[str, Any]:
    """What is trained, and by what, in numbers and words.

    Args:
        load: it has looked at this machine since the command began.
        memory: whether to try what memory a step takes too.

    Raises:
        GendiffError: where there is too little memory.

    """
    from gendiff.component import summary
    from gendiff.training.cost import first_batch, step_memory

    config, diffusion, objective = trainer.config, trainer.diffusion, trainer.config.objective
    end = diffusion.at(config.N).half_log_snr
    batch = first_batch(trainer)
    grid = getattr(config.sampler, "grid", None)
    return {
        "rotation": config.rotation.spec,
        "velocity": config.velocity.spec,
        "alike": diffusion.alike,
        "N": config.N,
        "terminal_log_snr": [round(2 * float(edge), 2) for edge in (end.min(), end.max())],
        "basis": config.basis.spec,
        "objective": objective.spec,
        "predicts": summary(type(objective)),
        "parametrization": str(objective.parametrization),
        "loss_of_one": objective.loss_of_one,
        "loss_of_nothing": _loss_of_nothing(trainer, batch) if batch else None,
        "sampler": config.sampler.spec,
        "evaluations": len(config.sampler.plan(diffusion)),
        "grid": grid and grid.spec,
        "model": config.model.spec,
        "parameters": trainer.size,
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
        "processes": trainer.world.size,
        **machine(trainer.device, load),
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
    process = f"{facts['rotation']} with velocity {facts['velocity']}, N = {facts['N']:,}"
    if facts["alike"]:
        process += ": all components at one speed, as in DDPM"
        process += "" if facts["parametrization"] == "eps" else ", whose network predicts ε (--objective eps)"
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
        "loss": _meaning(facts),
        "sampler": f"{facts['sampler']}: {counted(facts['evaluations'], 'evaluation')} of the network{grid}",
        "process": process,
        "basis": f"{facts['basis']}, in which mean and variance of the data are taken",
        "data": f"{facts['data']}, {length} of {'x'.join(map(str, facts['events']))}",
        "network": f"{facts['model']}, {facts['parameters']:,} parameters",
        **({"condition": _told(facts)} if facts["condition"] else {}),
        "training": f"{begin} of {facts['batch']:,}, {facts['precision']}, lr {facts['lr']:g}, on {place}",
        "threads": f"{facts['threads']}{several}: {facts['threads_because']}",
    }


def _told(facts: Mapping[str, Any]) -> str:
    names = "; ".join(f"{name}, {words}" for name, words in facts["condition"].items())
    share = facts["condition_dropout"]
    alone = (
        f"left out for {share:.0%} of the events, so that it can be guided" if share else "never left out: no guidance"
    )
    return f"{names}; {alone}"


def _meaning(facts: Mapping[str, Any]) -> str:
    of_one = f"1 is {facts['loss_of_one']}" if facts["loss_of_one"] else "1 means nothing by itself"
    nothing = facts["loss_of_nothing"]
    return of_one if nothing is None else f"{of_one}; on the first batch an output of 0 has {nothing:.3g}"


def remembered(memory: Mapping[str, Any] | None) -> str:
    """How much memory, and how that is known."""
    if memory is None:
        return "not known before the first step"
    return f"{'' if memory['measured'] else 'about '}{amount(memory['peak'])}: {memory['how']}"


def announce(facts: Mapping[str, Any]) -> None:
    """Say before the first step what is trained, and what memory that takes."""
    aside({**rows(facts), "memory": remembered(facts["memory"])})
    remark_load(facts)


def machine(device: torch.device, load: Load) -> dict[str, Any]:
    """What times are measured with: device, threads and why as many, and what other processes leave of the cores."""
    import torch

    from gendiff.machine import threads

    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "threads_because": threads.reason(),
        "cores": len(cores()),
        "cores_others_use": load.others(),
    }


def remark_load(facts: Mapping[str, Any]) -> None:
    """Say where other processes keep the cores busy on which the threads are to run."""
    others, own = facts["cores_others_use"], facts["cores"]
    if others is None or others < BUSY or facts["device"] != "cpu" or facts["threads"] + others < own + BUSY:
        return
    fewer = max(round(own - others), 1)
    what = f"other processes keep {others:.1f} of {counted(own, 'core')} busy: steps take longer than they would alone"
    more = f", and with {facts['threads']} threads much longer: OMP_NUM_THREADS={fewer} {again()}"
    note(what + (more if fewer < facts["threads"] else ""))


def forecast(trainer: Trainer, load: Load, json: bool) -> None:
    """Take some steps, and print what the run would cost; the trainer can train no run afterwards."""
    from gendiff.training.cost import Disk, most_memory, rehearse
    from gendiff_cli.console import busy, json_result

    facts, disk = plan(trainer, load), Disk.of(trainer)
    with busy("taking some steps, which are forgotten"):
        pace = rehearse(trainer)
    memory, seconds = asdict(most_memory(trainer)), pace.seconds(trainer)
    if json:
        cost = {"pace": asdict(pace), "seconds": seconds, "hours": seconds / 3600, "memory": memory}
        json_result({**facts, **cost, "disk": disk.json()})
        return
    previews = f", {counted(disk.previews, 'preview')} among it" if disk.previews else ""
    speed = f"{duration(pace.step)} a step, {rate(facts['batch'] / pace.step)}"
    lines = {
        **rows(facts),
        "terminal log snr": " to ".join(f"{edge:g}" for edge in dict.fromkeys(facts["terminal_log_snr"])),
        "time": f"{duration(seconds)}{previews}: {speed}, by {counted(pace.measured, 'step')}",
        "memory": remembered(memory),
        "disk": f"{amount(disk.total)} in the end, {amount(disk.peak)} on the way: {kept(disk.json())}",
    }
    for key, value in lines.items():
        paragraph(f"{key:18} {value}", indent=19)
    result("nothing was written")
    remark_load(facts)


def kept(disk: Mapping[str, int]) -> str:
    """What a run keeps, in words."""
    parts = [f"{counted(disk['checkpoints'], 'checkpoint')} of {amount(disk['checkpoint'])}"]
    if disk["previews"]:
        parts.append(f"{counted(disk['previews'], 'preview')} of {amount(disk['preview'])}")
    parts.append(f"{counted(disk['rows'], 'row')} of metrics, {amount(disk['rows'] * disk['row'])}")
    return ", ".join(parts)


class Clock:
    """How long a training took, from the moment that it was made."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.begin = time.perf_counter()
        self.first = trainer.step

    @property
    def facts(self) -> dict[str, Any]:
        """Steps, seconds and images a second, until now."""
        seconds, steps = time.perf_counter() - self.begin, self.trainer.step - self.first
        return {
            "steps_taken": steps,
            "seconds": seconds,
            "images_per_s": steps * self.trainer.settings.batch / max(seconds, 1e-9),
        }


def conclude(run: Run, trainer: Trainer, clock: Clock) -> dict[str, Any]:
    """Say what came of a training, and return it in numbers."""
    from gendiff.run import checkpoint

    facts, last, objective = clock.facts, run.last_training_row(), trainer.config.objective
    picture, saved = run.preview(trainer.step), checkpoint.directory(run.checkpoints, trainer.step)
    loss = last.get("loss")
    among = ", previews among it" if trainer.settings.sample_every else ""
    meaning = f", where 1 is {objective.loss_of_one}" if objective.loss_of_one else ""
    lines = {
        "done": f"{counted(facts['steps_taken'], 'step')} of {trainer.settings.batch:,} in {duration(facts['seconds'])}{among}, "
        f"{rate(facts['images_per_s'])}",
        "loss": f"{loss:.4f}{meaning}" if loss is not None else "none: every step of the last row was skipped",
    }
    lines |= {"samples": str(picture)} if picture.exists() else {}
    aside({**lines, "checkpoint": str(saved)})
    facts |= {"samples": str(picture) if picture.exists() else None, "checkpoint": str(saved)}
    return {**facts, "loss_of_one": objective.loss_of_one}
