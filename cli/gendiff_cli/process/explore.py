"""``gendiff process explore``."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gendiff.errors import ConfigError, DataError
from gendiff_cli.console import busy, note, out, result
from gendiff_cli.opening import load_model, open_run
from gendiff_cli.options import DeviceOption, EmaOption, Given, RawOption, chosen_weights, configured
from gendiff_cli.process.subject import ArmOption, subjects

if TYPE_CHECKING:
    from gendiff.plugin.registry import Registry
    from gendiff.run.trained import TrainedModel
    from gendiff_cli.explorer.explorer import Explorer

HOST = "127.0.0.1"  # nobody else reaches the page
PORT, TRIED = 8642, 20  # ports from here on are tried where none is asked for
SIDES = 2
FIRST = "dct schedule=log"  # what is shown where nobody names a process


@configured("arms process rotation schedule velocity noise objective data size latent preset config set")
def explore(
    context: typer.Context,
    given: Given,
    run: Annotated[
        Path | None,
        typer.Argument(help="A run, whose trained network is watched on its way back too.", metavar="RUN[@STEP]"),
    ] = None,
    arms: ArmOption = None,
    picture: Annotated[Path | None, typer.Option(help="Your own picture, resized to the events of --data.")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"Of the page; 0 takes any. Default: {PORT}, or the next that is free."),
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    ema: EmaOption = None,
    no_ema: RawOption = False,
    device: DeviceOption = None,
) -> None:
    """Serve a page of this machine: sliders change a process, and its pictures, bands and errors follow at once.

    It shows a picture on its way to noise, λ by frequency band, when each band of the data is lost, and the predicted error of
    samples, of two processes side by side, and gives the command and the file that train them. Ctrl-C ends it.
    """
    from gendiff.extra import extra

    if len(arms or ()) + (run is not None) > SIDES:
        raise ConfigError(
            "more processes are named than the page has sides",
            where="--arm",
            details=["it shows two: a run and an arm, or two arms"],
            fix="leave some out",
        )
    if run is None and (ema is not None or no_ema or device is not None):
        named = "--device" if device else "--ema" if ema else "--no-ema"
        raise ConfigError("no run is named, and only a run has a network", where=named, fix="name the run: RUN")
    extra(
        "nicegui", "process explore", name="explore", otherwise="look at one process by commands: gendiff process show"
    )
    with listening(port) as listener, busy("measuring the data"):
        model = None if run is None else _model(run, chosen_weights(ema, no_ema), device)
        explorer = explorer_of(context.obj, given, arms or [], None if model is None else model.run.path, picture)
        address = f"http://{HOST}:{listener.getsockname()[1]}"
        _announce(address, browser)
        _serve(explorer, model, listener)


def explorer_of(
    registry: Registry, given: Given, arms: Sequence[str], run: Path | None = None, picture: Path | None = None
) -> Explorer:
    """What the page shows first: a run, the arms, the process that is given, or a blur diffusion; beside one, standard diffusion.

    Raises `GendiffError` where it cannot be shown: for a process that is none, data that are not here, a picture that is none.
    """
    from gendiff.comparison.arm import parse_arms
    from gendiff_cli.explorer.choice import PARTS, Base, Choice
    from gendiff_cli.explorer.explorer import CLASSIC, SIDES, Explorer

    texts = [*([shlex.quote(str(run))] if run else []), *arms]
    if not texts and not {*PARTS, "preset", "config", "set"} & given.values.keys():
        texts = [FIRST]
    processes = subjects(registry, texts or None, given)
    runs = [arm.run for arm in parse_arms(texts)] if texts else [None]
    choices = [Choice.of(subject, path) for subject, path in zip(processes, runs, strict=True)]
    if len(choices) < len(SIDES):
        choices.append(Choice.of(processes[0]).named(CLASSIC))
    base = Base.of(registry, given)
    if (place := next((k for k, path in enumerate(runs) if path is not None), None)) is not None:
        if (data := processes[place].data) is None:
            raise DataError(
                f"the data of '{runs[place]}' are not here, and the page shows what becomes of them",
                fix="bring them back, or look at its process alone: gendiff process show --arm RUN",
            )
        base = base.with_data(data.spec)
    explorer = Explorer(registry, base, dict(zip(SIDES, choices, strict=True)), picture)
    for side in SIDES:
        explorer.subject(side)
        explorer.pictures(side)
    return explorer


@contextmanager
def listening(port: int | None) -> Iterator[socket.socket]:
    """A socket at a port of this machine alone; without one that is asked for, at the first that is free.

    Raises `ConfigError` where the port that is asked for is taken.
    """
    ports = range(PORT, PORT + TRIED) if port is None else [port]
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for one in ports:
            try:
                listener.bind((HOST, one))
                listener.listen()
            except OSError as error:
                if one == ports[-1]:
                    raise ConfigError(
                        f"cannot serve at port {one}: {error.strerror}",
                        where="--port",
                        details=[f"ports {ports[0]} to {one} were tried"] if port is None else [],
                        fix="give another one, or 0 for any that is free: --port 0",
                    ) from error
            else:
                break
        yield listener


def _model(run: Path, ema: bool | str, device: str | None) -> TrainedModel:
    from gendiff.machine.world import choose_device

    return load_model(run, open_run(run), choose_device(device), ema)


def _announce(address: str, browser: bool) -> None:
    result(address)
    out().file.flush()  # whoever reads it through a pipe waits for it
    note("the page is served to this machine alone; Ctrl-C ends it")
    if browser:
        import webbrowser

        webbrowser.open(address)


def _serve(explorer: Explorer, model: TrainedModel | None, listener: socket.socket) -> None:
    from gendiff_cli.explorer.reverse import Reverse
    from gendiff_cli.explorer.server import serve

    serve(explorer, None if model is None else Reverse(model), listener)
