"""Crew: what the command line says of threads and of how many pieces of work are done at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gendiff.errors import ConfigError
from gendiff_cli.console import note

if TYPE_CHECKING:
    import torch

    from gendiff.machine.jobs import Crew

AUTO = "auto"
ThreadsOption = Annotated[
    str,
    typer.Option(
        "--threads",
        help="Threads that work on a tensor on a CPU; auto: one for each core that other processes leave free.",
        metavar="N|auto",
    ),
]
AtOnceOption = Annotated[
    str,
    typer.Option(
        "--at-once",
        help="How many pieces of work at a time on a CPU, each in a process of its own; changes speed and memory, not numbers. "
        "auto: as many as there are cores, and memory.",
        metavar="N|auto",
    ),
]


def number(text: str, option: str) -> int | None:
    """The number that an option gives; None for auto. Raises `ConfigError` for what is neither."""
    if text == AUTO:
        return None
    if text.isascii() and text.isdecimal() and int(text) > 0:
        return int(text)
    raise ConfigError(
        f"cannot read the number '{text}'", where=option, details=["allowed: auto, 1, 2, ..."], fix=f"write {option} 1"
    )


def crew_of(count: int, at_once: str, threads: str, device: torch.device, what: str) -> Crew:
    """Who does ``count`` pieces of work, said in one line; this process has as many threads from here on.

    Raises:
        ConfigError: where several at a time are asked for and cannot be had.

    """
    import torch

    from gendiff.machine import jobs
    from gendiff.machine.threads import by_user

    asked, own = number(at_once, "--at-once"), number(threads, "--threads")
    if own is not None:
        torch.set_num_threads(own)
    if jobs.possible(device):
        given = torch.get_num_threads() if own is not None or by_user() else None
        crew = jobs.crew(count, asked, given)
        torch.set_num_threads(crew.threads)
        note(f"{what} {crew.words}")
        return crew
    if asked is not None and asked > 1:
        raise ConfigError(
            "several at a time are for a CPU, under Linux",
            where=f"--at-once {asked}",
            details=[f"this is on {device}, where one after the other is done"],
            fix="leave it out, or give --device cpu",
        )
    return jobs.ALONE
