"""``gendiff process``."""

from __future__ import annotations

import typer

from gendiff_cli.process.plot import plot
from gendiff_cli.process.show import show

app = typer.Typer(no_args_is_help=True, help="What a process does, before any training.")


@app.callback()
def process() -> None:
    """What a process does, before any training."""


app.command()(show)
app.command()(plot)
