"""``gendiff data``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gendiff.errors import PluginError
from gendiff.registry import Registry
from gendiff_cli.console import json_result, next_step, note, table

app = typer.Typer(no_args_is_help=True, help="Sources of events.")


@app.callback()
def data() -> None:
    """Sources of events."""


@app.command("list")
def list_(context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the data sources and their parameters."""
    registry: Registry = context.obj
    sources: list[dict[str, Any]] = []
    for entry in registry.entries("data"):
        try:
            fields = entry.load().model_fields
        except PluginError as error:
            note(f"left out: {error.what}: {error.details[0]}")
            continue
        sources.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "provider": str(entry.provider),
                "parameters": {name: info.description or "" for name, info in fields.items()},
            }
        )
    if json:
        json_result({"data": sources})
        return
    rows = [(source["name"], source["summary"], ", ".join(source["parameters"]) or "none") for source in sources]
    table(["name", "what it is", "parameters"], rows)
    next_step("gendiff train --data dead-leaves --size 32")
