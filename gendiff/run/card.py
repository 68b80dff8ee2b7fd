"""Card: README.md of a run, which says what was trained, on what, with what result, and how to sample."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gendiff.command import quoted
from gendiff.errors import DataError, printable
from gendiff.run import history
from gendiff.run.config import Config
from gendiff.run.curve import curve, markdown, verdict
from gendiff.run.rows import last_training_row
from gendiff.run.summary import is_ddpm, reached
from gendiff.storage import reading
from gendiff.storage.files import Files

CARD = "README.md"
MOST = 2**20  # bytes of a card that are read


def write(path: Path, config: Config, info: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the card of a run.

    Args:
        info: what its run.json says.
        rows: of its metrics.jsonl.

    """
    last = last_training_row(path)
    plugins = [word for file in info.get("plugin_files", {}).values() for word in ("--plugin", file["copy"])]
    sample, again = (
        quoted("gendiff", *plugins, *words) for words in (("sample", "."), ("train", "--config", "config.toml"))
    )
    ddpm = ", all components at one speed, as in DDPM" if is_ddpm(config.rotation.name, config.velocity.name) else ""
    lines = [
        _title(path),
        "",
        f"A generalized diffusion trained with gendiff {info['versions'].get('gendiff', '-')} ({info['status']}).",
        "",
        "| part | value |",
        "|---|---|",
        *(
            f"| {kind} | `{getattr(config, kind).spec}`{ddpm * (kind == 'velocity')} |"
            for kind in ("rotation", "velocity", "objective", "model", "data")
        ),
        *(
            [f"| begun from | {origin['name']} (`{origin['id']}`), step {origin['step']} |"]
            if (origin := info.get("from"))
            else []
        ),
        *(f"| changed | {line} |" for line in history.lines(info)),
        f"| steps of the process | {config.N} |",
        f"| events | {config.data.event_shape}, fingerprint `{info['data']['fingerprint']}` |",
        f"| training | {reached(path, last)} steps of {config.train.batch} events, {config.train.optimization}, "
        f"{config.train.averaging}, {info.get('precision', config.train.precision)}, seed {config.train.seed} |",
        f"| last loss | {'-' if last.get('loss') is None else format(last['loss'], '.4f')} |",
        *_held_out(info, rows),
        "",
        f"Open it in Python: `{given.get('open')}`; go on: `{given.get('resume')}`."
        if (given := info.get("given"))
        else f"In this folder, sample from it: `{sample}`; train it again: `{again}`.",
        "",
    ]
    Files().replace(path / CARD, "\n".join(map(printable, lines)).encode())


def retitle(path: Path) -> None:
    """Let the card have the name that its folder has now."""
    card, title = path / CARD, _title(path)
    try:
        first, _, rest = reading.content(card, MOST).decode().partition("\n")
    except (OSError, ValueError, DataError):
        return  # gone, or not what gendiff wrote
    if first.startswith("# ") and first != title:
        Files().replace(card, f"{title}\n{rest}".encode())


def _title(path: Path) -> str:
    return f"# {printable(os.path.basename(os.path.abspath(path)))}"  # noqa: PTH100, PTH119  # also of "."


def _held_out(info: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is held out, and the losses of both sides."""
    if not (held_out := info.get("held_out")):
        return []
    of, points = held_out["words"].removeprefix("held out: "), curve(rows)
    lines = [f"| held out | {of}, fingerprint `{held_out['fingerprint']}` |"]
    return [*lines, "", f"{verdict(points)}.", "", *markdown(points)] if points else lines
