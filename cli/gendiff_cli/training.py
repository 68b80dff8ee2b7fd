"""What the terminal is told of a training: what it is before the first step, what it will cost, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gendiff.command import again
from gendiff.machine.load import BUSY, Load, cores
from gendiff_cli.console import amount, aside, counted, duration, note, paragraph, rate, result

if TYPE_CHECKING:
    import torch

    from gendiff.machine.jobs import Crew
    from gendiff.machine.threads import Threads
    from gendiff.run.directory import Run
    from gendiff.training.trainer import Trainer


def announce(facts: Mapping[str, Any]) -> None:
    """Say before the first step what is trained, and what memory that takes."""
    from gendiff.training.plan import remembered, rows

    aside({**rows(facts), "memory": remembered(facts["memory"])})
    remark_load(facts)


def machine(device: torch.device, load: Load, crew: Crew) -> dict[str, Any]:
    """What times are measured with: device, threads and why as many, and what other processes leave of the cores."""
    import torch

    from gendiff.machine.threads import chosen

    return {
        "device": str(device),
        "at_once": crew.at_once,
        "threads": torch.get_num_threads(),
        "threads_because": crew.words if crew.because else chosen(None, load).because,
        "cores": len(cores()),
        "cores_others_use": load.others(),
    }


def remark_load(facts: Mapping[str, Any]) -> None:
    """Say where other processes keep the cores busy on which the threads are to run."""
    others, own, all_threads = facts["cores_others_use"], facts["cores"], facts["threads"] * facts.get("at_once", 1)
    if others is None or others < BUSY or facts["device"] != "cpu" or all_threads + others < own + BUSY:
        return
    fewer = max(round(own - others), 1)
    what = f"other processes keep {others:.1f} of {counted(own, 'core')} busy: steps take longer than they would alone"
    more = f", and with {facts['threads']} threads much longer: {again()} --threads {fewer}"
    note(what + (more if fewer < facts["threads"] else ""))


def forecast(trainer: Trainer, load: Load, threads: Threads, json: bool) -> None:
    """Take some steps, and print what the run would cost; the trainer can train no run afterwards."""
    from gendiff.training.cost import Disk, most_memory, rehearse
    from gendiff.training.plan import plan, remembered, rows
    from gendiff_cli.console import busy, json_result

    facts, disk = plan(trainer, load, threads), Disk.of(trainer)
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
