"""``gendiff process``."""

from __future__ import annotations

import typer

from gendiff_cli.process.fit import fit
from gendiff_cli.process.likelihood import likelihood
from gendiff_cli.process.plot import plot
from gendiff_cli.process.predict import predict
from gendiff_cli.process.show import show

app = typer.Typer(
    no_args_is_help=True, help="What a process does, before any training; how likely a trained one makes its data."
)


@app.callback()
def process() -> None:
    """What a process does, before any training; how likely a trained one makes its data."""


app.command()(show)
app.command()(plot)
app.command()(predict)
app.command()(fit)
app.command()(likelihood)
