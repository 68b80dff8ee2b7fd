"""Crew: what the command line says of threads and of how many pieces of work are done at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from gendiff.errors import ConfigError
from gendiff_cli.console import note

if TYPE_CHECKING:
    import torch

    from gendiff.machine.jobs import Crew
    from gendiff.machine.load import Load
    from gendiff.machine.threads import Threads
    from gendiff.machine.world import World

AUTO = "auto"


def _number(text: str, option: str) -> int | None:
    if text == AUTO:
        return None
    if text.isascii() and text.isdecimal() and int(text) > 0:
        return int(text)
    raise ConfigError(
        f"cannot read the number '{text}'", where=option, details=["allowed: auto, 1, 2, ..."], fix=f"write {option} 1"
    )


def threads_number(text: str) -> int | None:
    """What ``--threads`` says: a number, or None for auto; raises `ConfigError` for what is neither."""
    return _number(text, "--threads")


def at_once_number(text: str) -> int | None:
    """What ``--at-once`` says."""
    return _number(text, "--at-once")


ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        parser=threads_number,
        help="Threads that work on a tensor on a CPU. Default: auto, as many as there are free cores for.",
        metavar="N|auto",
    ),
]
AtOnceOption = Annotated[
    int | None,
    typer.Option(
        "--at-once",
        parser=at_once_number,
        help="How many processes share the work; changes speed and memory, not numbers. Default: auto, on a CPU as many as "
        "there are cores and memory for; on a GPU one.",
        metavar="N|auto",
    ),
]


def threads_of(
    asked: int | None, load: Load, world: World, before: int | None = None, deterministic: bool = False
) -> Threads:
    """How many threads this process has from here on, where it works alone.

    Args:
        asked: by ``--threads``.
        load: of the machine, looked at since the command began.
        world: on a GPU, or beside other processes, the load decides nothing.
        before: what a run that goes on had.
        deterministic: whether the load is to decide nothing anyway.

    """
    from gendiff.machine.threads import chosen

    fixed = deterministic or world.device.type != "cpu" or world.size > 1
    return chosen(asked, load, before, fixed).use()


def threads_for_drawing(asked: int | None, load: Load, world: World) -> None:
    """`threads_of`, said in one line where it is not what torch had."""
    import torch

    before = torch.get_num_threads()
    threads = threads_of(asked, load, world)
    if world.main and world.device.type == "cpu" and (asked is not None or threads.count != before):
        note(f"threads {threads.count}: {threads.because}")


def crew_of(
    count: int,
    at_once: int | None,
    threads: int | None,
    device: torch.device,
    what: str,
    memory: Callable[[], int] | None = None,
    sharing: bool = False,
    on_card: Callable[[], int] | None = None,
) -> Crew:
    """Who does ``count`` pieces of work, said in one line; this process has as many threads from here on.

    Args:
        count: how many pieces there are.
        at_once, threads: what the options of these names say.
        device: where all is computed.
        what: is done, for the line.
        memory: says how many bytes each takes, where nobody else looks whether there is room.
        sharing: whether processes that begin anew can share the work, as several on one GPU must.
        on_card: says how many bytes of a GPU each takes, where several are to share it unasked.

    Raises:
        ConfigError: where several at a time are at_once for and cannot be had.

    """
    import torch

    from gendiff.machine import jobs
    from gendiff.machine.threads import by_user

    if threads is not None:
        torch.set_num_threads(threads)
    if jobs.possible(device):
        given = torch.get_num_threads() if threads is not None or by_user() else None
        crew = jobs.crew(count, at_once, given)
        torch.set_num_threads(crew.threads)
        if memory and crew.at_once > 1 and at_once is None:
            crew = crew.within(memory())
        note(f"{what} {crew.words}")
        return crew
    if sharing and jobs.shared(device) and (at_once or on_card):
        crew = jobs.crew_on_card(count, at_once, torch.get_num_threads(), partial(jobs.free_on, device), on_card)
        note(f"{what} {crew.words}")
        return crew if crew.anew else jobs.ALONE
    if at_once is not None and at_once > 1:
        raise ConfigError(
            f"several at a time are for {'Linux' if sharing else 'a CPU, under Linux'}",
            where=f"--at-once {at_once}",
            details=[f"this is on {device}, where one after the other is done"],
            fix="leave it out, or give --device cpu",
        )
    return jobs.ALONE


def one_at_a_time(threads: int | None, device: torch.device) -> Crew:
    """This process alone, with as many threads as each of a crew would have: they decide the last bits of what is computed."""
    import torch

    from gendiff.machine import jobs
    from gendiff.machine.threads import by_user

    if threads is not None:
        torch.set_num_threads(threads)
    elif jobs.possible(device) and not by_user():
        torch.set_num_threads(1)
    return jobs.ALONE
