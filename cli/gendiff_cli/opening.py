"""Opening: how every command opens a run, and what it says of one that is not quite as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiff_cli.console import note

if TYPE_CHECKING:
    import torch

    from gendiff.run.directory import Run
    from gendiff.run.layers import Layer
    from gendiff.run.trained import TrainedModel
    from gendiff_cli.options import Precision


def is_run(source: str) -> bool:
    """Whether this is the directory of a run, or such a one and a step: ``RUN@STEP``."""
    from gendiff.run.checkpoint import named

    return (named(source)[0] / "run.json").is_file()


def open_run(
    path: Path, training: bool = False, steps: int | None = None, changes: Iterable[Layer] = (), label: str = ""
) -> Run:
    """The run of ``RUN``, or ``RUN@STEP`` where it is not trained on, its notes said; see `gendiff.Run.open`.

    ``label`` tells it from other runs of one command.
    """
    from gendiff.run.checkpoint import named
    from gendiff.run.directory import Run

    folder, at = (path, None) if training else named(path)
    run = Run.open(folder, training, steps, changes, at=at)
    for text in run.notes:
        note(label + text)
    return run


def load_model(
    source: str | Path,
    run: Run,
    device: torch.device,
    ema: bool | str,
    precision: Precision | None = None,
    compiled: bool = False,
) -> TrainedModel:
    """The network of the run that was opened of ``source``, ``RUN`` or ``RUN@STEP``.

    Its weights are those that `TrainedModel.load` takes ``ema`` for, in float32 where no precision is asked for.
    """
    from gendiff.run.checkpoint import named
    from gendiff.run.trained import TrainedModel

    step = named(source)[1]
    with passing_over() as problems:
        return TrainedModel.load(
            run,
            device,
            ema,
            problems,
            precision=precision.value if precision else "fp32",
            compiled=compiled,
            step=step,
        )


def asking(precision: Precision | None, compiled: bool, device: str | None) -> dict[str, Any]:
    """How the networks of a comparison are asked: ``auto`` is what its device computes well, and is so where it goes on."""
    from gendiff.machine.arithmetic import chosen
    from gendiff.machine.world import choose_device

    known = "fp32" if precision is None else chosen(precision.value, choose_device(device))
    return {"precision": known, "compiled": compiled}


@contextmanager
def passing_over() -> Iterator[list[str]]:
    """A list for the damaged checkpoints that are passed over inside the block, which are said behind it."""
    problems: list[str] = []
    yield problems
    for problem in problems:
        note(f"a damaged checkpoint was passed over: {problem}")
