"""``gendiff push``."""

from __future__ import annotations

from typing import Annotated

import typer

from gendiff_cli.console import json_result, note, result
from gendiff_cli.export import Format, chosen_model
from gendiff_cli.options import (
    CheckpointArgument,
    EmaOption,
    Given,
    JsonOption,
    RawOption,
    StepsOption,
    configured,
)


@configured("sampler grid prior")
def push(
    run: CheckpointArgument,
    repository: Annotated[str, typer.Argument(help="NAME or OWNER/NAME.", metavar="REPO")],
    given: Given,
    to: Annotated[Format, typer.Option(help="As what it is exported.")] = Format.DIFFUSERS,
    private: Annotated[bool, typer.Option("--private", help="Where the repository is made, only for you.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go; needs no network.")] = False,
    steps: StepsOption = None,
    ema: EmaOption = None,
    no_ema: RawOption = False,
    json: JsonOption = False,
) -> None:
    """Export a trained network to the Hub of Hugging Face, with its model card."""
    from gendiff.quantities import amount
    from gendiff.run.exporting.hub import push as send

    model, sampler = chosen_model(run, given, steps, ema, no_ema)
    pushed = send(model, repository, to.value, sampler, private=private, dry=dry_run)
    if json:
        json_result({"url": pushed.url or None, "files": pushed.files, "card": pushed.card})
        return
    for name, size in pushed.files.items():
        note(f"{amount(size):>10}  {name}")
    result(pushed.url or pushed.card.rstrip())
    if dry_run:
        note(f"nothing went to '{repository}': {len(pushed.files)} files would, with this card")
