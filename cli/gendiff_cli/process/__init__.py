"""``gendiff process``."""

from __future__ import annotations

import typer

from gendiff_cli.commands import announcing

COMMANDS = {
    "show": "Show when each frequency band is destroyed, how fast, what is left at N, and what is odd about a process.",
    "plot": "Draw what processes do to a picture and to each frequency, or the schedules that they follow.",
    "predict": "Predict the error of samples against the number of steps, in closed form, before any training.",
    "fit": "Choose parameters of a process for which the predicted error at a number of steps is smallest; "
    "write a configuration.",
    "explore": "Serve a page of this machine: sliders change a process, and its pictures, bands and errors follow at once.",
    "likelihood": "Bound the negative log-likelihood of a run's data, in bits per dimension, with its standard error.",
}

app = typer.Typer(no_args_is_help=True, cls=announcing("gendiff_cli.process", COMMANDS))


@app.callback()
def process() -> None:
    """What a process does, before any training; how likely a trained one makes its data."""
