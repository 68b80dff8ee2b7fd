"""``gendiff runs``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError, GendiffError, printable
from gendiff_cli.commands import Group
from gendiff_cli.console import json_result, next_step, note, result, shown, table
from gendiff_cli.numbers import list_evaluations, stored_evaluations
from gendiff_cli.options import JsonOption, RunArgument

LONGEST = 100  # characters of a name that a file may hold anything for

app = typer.Typer(cls=Group, no_args_is_help=True)


@app.callback()
def runs() -> None:
    """What was trained."""


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(help="Folder that holds runs.")] = Path("runs"), json: JsonOption = False
) -> None:
    """List the runs in a folder, with their status and last loss."""
    if not folder.is_dir():
        raise ConfigError(f"no folder '{folder}'", fix="train something first: gendiff train")
    summaries = []
    for path in _children(folder):
        try:
            if _is_run(path):
                summaries.append(_summary(path))
        except (GendiffError, OSError) as error:
            note(f"left out: {error.what if isinstance(error, GendiffError) else error}")
    if json:
        json_result({"runs": summaries})
        return
    rows = [
        (r["run"], r["status"], f"{r['step']:,}", shown(r["loss"]), r["process"], r["created"] or "-")
        for r in summaries
    ]
    table(["name", "status", "step", "loss", "process", "created"], rows)
    if summaries:
        next_step(command("runs", "show", Path(summaries[-1]["run"])))


@app.command()
def show(run: RunArgument, json: JsonOption = False) -> None:
    """Show what a run is made of, who provided each part, and whether that part is still here."""
    from gendiff.run.curve import curve, verdict
    from gendiff.run.directory import Run

    opened_run = Run.open(run)
    info, summary = opened_run.info, _summary(run)
    providers, evaluations = info.get("providers", {}), stored_evaluations(run)
    points = curve(opened_run.rows()) if info.get("held_out") else []
    facts = {
        **summary,
        "id": info["id"],
        "host": info.get("host"),
        "versions": info["versions"],
        "data": info["data"],
        **({"held_out": {**info["held_out"], "verdict": verdict(points)}} if info.get("held_out") else {}),
        "providers": providers,
        "plugin_files": info.get("plugin_files", {}),
        "switched_off": info.get("switched_off", {}),
        "evaluations": [{"file": str(file), **evaluation.json()} for file, evaluation in evaluations],
        "notes": opened_run.notes,
    }
    if json:
        json_result(facts)
        return
    for key in ("run", "id", "status", "step", "loss", "process", "created", "ended", "host"):
        if facts.get(key) is not None or (key == "loss" and summary["step"]):
            result(f"{key:9} {shown(facts[key]) if key == 'loss' else facts[key]}")
    result(f"data      {tuple(info['data']['event_shape'])}, fingerprint {info['data']['fingerprint']}")
    if held_out := info.get("held_out"):
        result(f"held out  {held_out['words'].removeprefix('held out: ')}, fingerprint {held_out['fingerprint']}")
        if points:
            result(f"          {verdict(points)}")
    result(f"versions  {', '.join(f'{name} {version}' for name, version in info['versions'].items())}")
    result("")
    rows = [(*what.partition(" ")[::2], who["plugin"], who["origin"]) for what, who in providers.items()]
    table(["kind", "name", "provided by", "from"], rows)
    for name, file in facts["plugin_files"].items():
        result(
            f"plugin file {name}: copied to {run / file['copy']}, SHA-256 {file['sha256'][:12]}, from {file['origin']}"
        )
    for name, why in facts["switched_off"].items():
        result(f"switched off: {name}: {why}")
    if evaluations:
        result("")
        list_evaluations(evaluations)
    for text in opened_run.notes:
        note(text)
    next_step(command("sample" if evaluations else "evaluate", run))


@app.command()
def diff(
    one: RunArgument,
    other: Annotated[Path, typer.Argument(help="Run directory.", metavar="OTHER")],
    json: JsonOption = False,
) -> None:
    """Show in which settings two runs differ."""
    tables = [_flat(_config(path)) for path in (one, other)]
    keys = [key for key in dict.fromkeys([*tables[0], *tables[1]]) if tables[0].get(key) != tables[1].get(key)]
    if json:
        json_result({key: [table.get(key) for table in tables] for key in keys})
        return
    table(["name", str(one), str(other)], [(key, *(_cell(t.get(key)) for t in tables)) for key in keys])
    if not keys:
        result("the same configuration")


def _children(folder: Path) -> list[Path]:
    """What may be runs; raises `ConfigError` where the folder cannot be looked into."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError(
            f"cannot list the folder '{folder}': {error.strerror}", fix="check its permissions"
        ) from error


def _is_run(path: Path) -> bool:
    """Whether there is a run.json in it, of whatever kind; raises `OSError` where that cannot be known."""
    try:
        os.lstat(path / "run.json")
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _summary(path: Path) -> dict[str, Any]:
    from gendiff.run.config import Config
    from gendiff.run.directory import Run

    run = Run(path, Config.model_construct(), _config(path))
    info, last = run.info, run.last_training_row()
    velocity, loss = run.table.get("velocity", {}), last.get("loss")
    parts = [_name(run.table.get("rotation")), _name(velocity)]
    parts += [_name(velocity["schedule"])] if isinstance(velocity, dict) and "schedule" in velocity else []
    return {
        "run": str(path),
        "status": info["status"],
        "step": last.get("step", 0),
        "loss": loss if type(loss) in (int, float) else None,
        "process": " ".join(filter(None, parts)),
        "created": info.get("created"),
        "ended": info.get("ended"),
    }


def _config(path: Path) -> dict[str, Any]:
    from gendiff.run.directory import Run

    if not os.path.lexists(path / "config.toml"):
        raise ConfigError(
            f"'{path}' is not a run directory: there is no config.toml", fix="list runs: gendiff runs list"
        )
    return Run.stored_table(path)


def _name(spec: Any) -> str:
    name = str(spec.get("name", "")) if isinstance(spec, dict) else str(spec or "")
    return printable(name if len(name) <= LONGEST else f"{name[:LONGEST]} ...")


def _cell(value: Any) -> str:
    return shown(value) if value is None or value != value else str(value)


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
