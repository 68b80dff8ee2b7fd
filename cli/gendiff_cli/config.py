"""``gendiff config``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command, words
from gendiff.errors import DataError
from gendiff_cli.commands import Group
from gendiff_cli.console import json_result, next_step, result, table
from gendiff_cli.options import Given, JsonOption, configured
from gendiff_cli.remarks import remark_overruled

if TYPE_CHECKING:
    from gendiff.plugin.registry import Registry

app = typer.Typer(cls=Group, no_args_is_help=True)


@app.callback()
def config() -> None:
    """The resolved configuration, and where each value comes from."""


@app.command()
@configured(
    "process rotation schedule velocity noise objective model data size latent sampler logger metric preset config set"
)
def show(
    context: typer.Context,
    given: Given,
    run: Annotated[
        Path | None, typer.Argument(help="A run, whose configuration to start from.", metavar="[RUN]")
    ] = None,
    presets: Annotated[bool, typer.Option("--presets", help="List the presets instead.")] = False,
    json: JsonOption = False,
) -> None:
    """Print the configuration that train would use, as TOML that --config takes; comments give each value's origin."""
    registry: Registry = context.obj
    if presets:
        _list_presets(registry, json)
        return
    from gendiff.run.layers import Layer, resolve

    layers = given.layers(registry)
    if run is not None:
        from gendiff.run.directory import Run

        layers.insert(0, Layer(str(run), Run.open(run).table))
    settings = resolve(layers)
    with suppress(DataError):  # a configuration can be looked at where its data are not
        remark_overruled(settings)
    if json:
        json_result({"config": settings.config.table(), "origins": settings.origins})
        return
    for line in _commented(settings.config.toml(), settings.origins):
        result(line)
    typed = words()
    options = typed[typed.index("show") + 1 :]
    next_step(command("train", *(("--config", run / "config.toml") if run else options)))


def _list_presets(registry: Registry, json: bool) -> None:
    presets = registry.presets()
    if json:
        json_result({"presets": {name: path.read_text(encoding="utf-8") for name, path in presets.items()}})
        return
    table(["name", "what it is"], [(name, registry.preset_summary(name)) for name in presets])
    next_step("gendiff config show --preset digits-demo")


def _commented(toml: str, origins: dict[str, Any]) -> list[str]:
    """The TOML with ``# origin`` behind every value that is not a default."""
    lines, table = [], ""
    for line in toml.splitlines():
        if line.startswith("["):
            table = line.strip("[]") + "."
        key = line.partition(" = ")[0]
        origin = origins.get(table + key)
        lines.append(f"{line}  # {origin}" if origin and " = " in line else line)
    return lines
