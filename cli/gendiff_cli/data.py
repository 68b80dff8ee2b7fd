"""``gendiff data``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from gendiff.registry import Registry
from gendiff_cli.console import json_result, next_step, out

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
        fields = entry.load().model_fields
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
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "what it is", "parameters"):
        table.add_column(column, overflow="fold")
    for source in sources:
        table.add_row(source["name"], source["summary"], ", ".join(source["parameters"]) or "none")
    out.print(table, soft_wrap=False)
    next_step("gendiff train --data dead-leaves --size 32")
