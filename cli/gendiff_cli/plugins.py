"""``gendiff plugins``."""

from __future__ import annotations

from typing import Annotated

import typer

from gendiff.errors import ConfigError, did_you_mean
from gendiff.registry import Registry
from gendiff_cli.console import json_result, next_step, result, table

app = typer.Typer(no_args_is_help=True, help="What is installed, and its health.")


@app.callback()
def plugins() -> None:
    """What is installed, and its health."""


@app.command("list")
def list_(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(help="Only one kind, such as schedule.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List every component with its provider, and every plugin that could not be loaded."""
    registry: Registry = context.obj
    kinds = sorted({entry.kind for entry in registry.entries()})
    if kind is not None and kind not in kinds:
        raise ConfigError(
            f"unknown kind '{kind}'", where="--kind", details=[f"known: {', '.join(kinds)}", did_you_mean(kind, kinds)]
        )
    entries, problems = registry.entries(kind), registry.health()
    if json:
        json_result(
            {
                "components": [
                    {"kind": e.kind, "name": e.name, "summary": e.summary, "provider": str(e.provider)} for e in entries
                ],
                "problems": [
                    {"provider": str(p.provider), "origin": p.provider.origin, "reason": p.reason} for p in problems
                ],
            }
        )
        return
    columns = ["kind", "name", "what it is", "provider"]
    shown = len(columns) - all(entry.provider.built_in for entry in entries)  # no provider where all come with gendiff
    table(columns[:shown], [(e.kind, e.name, e.summary, str(e.provider))[:shown] for e in entries])
    for problem in problems:
        result(f"broken: {problem.provider} ({problem.provider.origin}): {problem.reason}")
    next_step("gendiff train --rotation dct --schedule log")
