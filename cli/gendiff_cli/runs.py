"""``gendiff runs``."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from operator import ge, gt, le, lt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError, GendiffError, did_you_mean
from gendiff_cli.commands import Group
from gendiff_cli.console import json_result, next_step, note, paragraph, result, room, shown, table
from gendiff_cli.numbers import asked, list_evaluations, stored_evaluations
from gendiff_cli.options import JsonOption, RunArgument

if TYPE_CHECKING:
    from gendiff.evaluation.number import Number
    from gendiff.run.summary import Summary

app = typer.Typer(cls=Group, no_args_is_help=True)
#: What a list shows of a run, in this order; on a narrow terminal the first of `SPARED` are left out.
COLUMNS = ("name", "status", "step", "loss", "number", "data", "objective", "process", "size", "created")
SPARED = ("created", "size", "objective", "data", "process")
#: Settings in which runs of one tree are not told apart: how far they go, where they are kept, who watches them.
WATCHING = (
    "train.steps",
    "train.keep",
    "train.checkpoint_every",
    "train.log_every",
    "train.sample_every",
    "train.preview",
)
ORDERS = {"<=": le, ">=": ge, "<": lt, ">": gt}
OPERATORS = ("!=", *ORDERS, "=")


@app.callback()
def runs() -> None:
    """What was trained."""


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(help="Folder that holds runs.")] = Path("runs"),
    sort: Annotated[
        str | None, typer.Option(help="Order by a column, or by a setting such as train.lr.", metavar="KEY")
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="The largest or latest first.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Only runs for which this holds: status=done, 'loss<0.5', rotation=dct, 'data=cifar*'; may be given again.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the runs in a folder: how far each is, its last loss and evaluation, what it trains on, its size on disk."""
    if not folder.is_dir():
        raise ConfigError(f"no folder '{folder}'", fix="train something first: gendiff train")
    entries = _entries(folder, tell=True)
    for condition in where or ():
        entries = _holding(entries, condition)
    if sort is not None:
        _known(entries, sort, "--sort")
        with_value = [entry for entry in entries if entry.value(sort) is not None]
        with_value.sort(key=lambda entry: _order(entry.value(sort)), reverse=reverse)
        entries = [*with_value, *(entry for entry in entries if entry.value(sort) is None)]
    elif reverse:
        entries.reverse()
    if json:
        json_result({"runs": [entry.facts for entry in entries]})
        return
    rows = [entry.cells for entry in entries]
    columns = _fitting(rows)
    table(columns, [[row[COLUMNS.index(column)] for column in columns] for row in rows])
    if entries:
        next_step(command("runs", "show", Path(entries[-1].facts["run"])))


@dataclass(frozen=True)
class Entry:
    """A run in a list."""

    summary: Summary
    number: Number | None

    @property
    def facts(self) -> dict[str, Any]:
        """What a list says of it."""
        one = self.summary
        return {
            "run": str(one.path),
            "name": one.path.name,
            "id": one.info["id"],
            "status": one.info["status"],
            "step": one.step,
            "loss": one.loss,
            "number": {"name": self.number.name, "value": self.number.value} if self.number else None,
            "data": one.name_of("data"),
            "objective": one.name_of("objective"),
            "process": one.process,
            "size": one.size,
            "created": one.info.get("created"),
            "ended": one.info.get("ended"),
            "from": one.info.get("from"),
        }

    @property
    def cells(self) -> list[str]:
        """The same as a table shows it, a cell for each of `COLUMNS`."""
        facts = self.facts
        number = f"{self.number.name} {self.number.value:.4g}" if self.number else "-"
        shown_as = {
            "name": facts["run"],
            "step": f"{facts['step']:,}",
            "loss": shown(facts["loss"]),
            "number": number,
            "size": _bytes(facts["size"]),
            "created": (facts["created"] or "-")[:16].replace("T", " "),
        }
        return [shown_as.get(column, facts[column]) for column in COLUMNS]

    def value(self, key: str) -> Any:
        """The value of a column or of a setting; None where it has none."""
        if key == "number":
            return self.number.value if self.number else None
        return self.facts[key] if key in self.facts else self.summary.settings.get(key)


def _entries(folder: Path, tell: bool = False) -> list[Entry]:
    """The runs in a folder; notes say which are left out, and which are copies of each other."""
    from gendiff.run.summary import Summary

    entries, names = list[Entry](), dict[str, str]()
    for path in _children(folder):
        try:
            if not _is_run(path):
                continue
            summary = Summary.of(path)
            evaluations = stored_evaluations(path)
            entries.append(Entry(summary, evaluations[-1][1].numbers[0] if evaluations else None))
        except (GendiffError, OSError) as error:
            if tell:
                note(f"left out: {error.what if isinstance(error, GendiffError) else error}")
            continue
        other = names.setdefault(summary.info["id"], path.name)
        if tell and other != path.name:
            note(f"'{path.name}' and '{other}' have one id: one is a copy, and gets its own when it goes on")
    return entries


def _holding(entries: list[Entry], condition: str) -> list[Entry]:
    """The entries for which a condition holds."""
    places = [(condition.find(operator), -len(operator), operator) for operator in OPERATORS if operator in condition]
    if not places or not min(places)[0]:
        raise ConfigError(
            f"cannot read the condition '{condition}'",
            where="--where",
            details=["a column or a setting, one of = != < <= > >=, and a value"],
            fix="write --where status=done, --where 'loss<0.5' or --where 'data=cifar*'",
        )
    operator = min(places)[2]
    key, _, text = (part.strip() for part in condition.partition(operator))
    _known(entries, key, "--where")
    return [entry for entry in entries if _holds(entry.value(key), operator, text)]


def _holds(value: Any, operator: str, text: str) -> bool:
    number = _number(text)
    if operator in ("=", "!="):
        is_number = type(value) in (int, float) and number is not None
        word = str(value).lower() if isinstance(value, bool) else str(value)
        equal = value == number if is_number else value is not None and fnmatchcase(word, text)
        return equal == (operator == "=")
    if type(value) in (int, float) and number is not None:
        pair: tuple[Any, Any] = (value, number)
    elif isinstance(value, str):
        pair = (value, text)
    else:
        return False
    return bool(ORDERS[operator](*pair))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _known(entries: list[Entry], key: str, where: str) -> None:
    """Raise `ConfigError` for a key that is no column, and no setting of any of these runs."""
    names = {*COLUMNS, "run", "id", "ended"}
    settings = {name for entry in entries for name in entry.summary.settings}
    if entries and key not in names | settings:
        raise ConfigError(
            f"no run has a '{key}'",
            where=where,
            details=[f"columns: {', '.join(COLUMNS)}; and every setting, such as train.lr", did_you_mean(key, names | settings)],
        )  # fmt: skip


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers before texts."""
    return (True, str(value)) if not isinstance(value, int | float) else (False, value)


def _fitting(rows: list[list[str]]) -> list[str]:
    """The columns for which a terminal has room; in a pipe, all."""
    columns = list(COLUMNS)
    widths = {column: max([len(column), *(len(row[k]) for row in rows)]) for k, column in enumerate(COLUMNS)}
    for column in SPARED:
        if room(1) >= sum(widths[name] + 1 for name in columns):
            break
        columns.remove(column)
    return columns


def _bytes(size: float) -> str:
    """A size on disk as a reader is told of it."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, {"B": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"


@app.command()
def show(
    subject: Annotated[
        Path, typer.Argument(help="Run directory, folder of samples, or a picture.", metavar="RUN|FOLDER|PICTURE")
    ],
    json: JsonOption = False,
) -> None:
    """Show what a run is made of and where it came from; of a folder of samples or a picture, what made it."""
    if subject.is_dir() and (subject / "config.toml").exists():
        _show_run(subject, json)
    elif subject.is_file() or (subject.is_dir() and _holds_samples(subject)):
        _show_origin(subject, json)
    else:
        _show_run(subject, json)  # which says what it is not


def _holds_samples(folder: Path) -> bool:
    """Whether a folder is one of samples, or of their pictures."""
    from gendiff.run.origin import FILE

    return (
        any(
            name == FILE or name.lower().endswith((".png", ".gif")) for name in (path.name for path in folder.iterdir())
        )
        or (folder.parent / FILE).exists()
    )


def _show_origin(path: Path, json: bool) -> None:
    """Say what made a folder of samples or a picture."""
    from gendiff.run.origin import Origin

    facts = dict(Origin.of(path).facts)
    if json:
        json_result({"file": str(path), **facts})
        return
    weights, sampler, process = facts["weights"], facts["sampler"], facts["process"]
    length = f"width {weights['width']}" if "width" in weights else f"decay {weights.get('decay')}"
    kind = f"averaged, {length}" if weights.get("kind") == "averaged" else "raw"
    what = f"image {facts['image']}" if "image" in facts else f"{facts.get('n')} images"
    lines = {
        "run": f"{facts['run'].get('name')}, id {facts['run'].get('id')}",
        "weights": f"of step {facts['step']:,}, {kind}, {weights.get('hash')}",
        "process": f"{_component(process.get('rotation'))}, {_component(process.get('velocity'))}, N = {process.get('N')}, "
        f"{process.get('sha256')}",
        "objective": _component(facts["objective"]),
        "model": _component(facts["model"]),
        "data": facts.get("data"),
        "sampler": f"{sampler.get('spec')}, {asked(sampler.get('evaluations'))}, grid {sampler.get('grid') or '-'}, "
        f"prior {sampler.get('prior')}",
        "drawn": f"{what} of seed {facts['seed']}, {facts['precision']}, on {facts['device']}",
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "plugins": "; ".join(f"{what}: {who}" for what, who in facts["plugins"].items()) or None,
    }
    for key, value in lines.items():
        if value is not None:
            paragraph(f"{key:9} {value}", indent=10)
    next_step(facts["command"])


def _component(part: Any) -> str:
    """A component with all its parameters, as a reader is told of it."""
    if not isinstance(part, dict):
        return str(part)
    inside = ", ".join(f"{key}={_component(value)}" for key, value in sorted(part.items()) if key != "name")
    return f"{part.get('name', '-')}({inside})" if inside else str(part.get("name", "-"))


def _show_run(run: Path, json: bool) -> None:
    from gendiff.run import history
    from gendiff.run.curve import curve, rise, verdict
    from gendiff.run.directory import Run
    from gendiff.run.summary import Summary

    opened_run = Run.open(run)
    summary, info = Summary.of(run), opened_run.info
    evaluations = stored_evaluations(run)
    points = curve(opened_run.rows()) if info.get("held_out") else []
    entry = Entry(summary, evaluations[-1][1].numbers[0] if evaluations else None)
    providers, relatives = info.get("providers", {}), _relatives(summary)
    notes = list(opened_run.notes)
    if originals := opened_run.originals(info):
        notes.append(f"it is a copy of '{originals[0]}', with the same id until it goes on: train --resume")
    since = rise(points) if points else None
    judged = {"verdict": verdict(points), "rise": since and {**asdict(since), "overfitting": since.is_overfitting}}
    facts = {
        **entry.facts,
        "host": info.get("host"),
        "versions": info["versions"],
        "data": info["data"],
        **({"held_out": {**info["held_out"], **judged}} if info.get("held_out") else {}),
        "providers": providers,
        "plugin_files": info.get("plugin_files", {}),
        "switched_off": info.get("switched_off", {}),
        "changes": info.get("changes", []),
        "tree": [{"depth": depth, "run": str(one.path), "this": this} for depth, one, this in relatives],
        "evaluations": [{"file": str(file), **evaluation.json()} for file, evaluation in evaluations],
        "notes": notes,
    }
    if json:
        json_result(facts)
        return
    for key in ("run", "id", "status", "step", "loss", "process", "objective", "created", "ended", "host"):
        if facts.get(key) is not None or (key == "loss" and summary.step):
            result(f"{key:9} {shown(facts[key]) if key == 'loss' else facts[key]}")
    result(f"size      {_bytes(summary.size)} on disk")
    result(f"data      {tuple(info['data']['event_shape'])}, fingerprint {info['data']['fingerprint']}")
    if held_out := info.get("held_out"):
        words = held_out["words"].removeprefix("held out: ")
        paragraph(f"held out  {words}, fingerprint {held_out['fingerprint']}", indent=10)
        if points:
            paragraph(f"          {verdict(points)}", indent=10)
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    paragraph(f"versions  {versions}", indent=10)
    for k, line in enumerate(history.lines(info)):
        paragraph(f"{'' if k else 'changed':9} {line}", indent=10)
    _show_tree(summary, relatives)
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
    for text in notes:
        note(text)
    next_step(command("sample" if evaluations else "evaluate", run))


def _relatives(run: Summary) -> list[tuple[int, Summary, bool]]:
    """The tree of the run among those of its folder; empty where it is alone."""
    from gendiff.run.summary import tree

    folder = Path(os.path.abspath(run.path)).parent  # noqa: PTH100  # links as they are
    try:
        others = [entry.summary for entry in _entries(folder) if not entry.summary.path.samefile(run.path)]
    except (GendiffError, OSError):
        others = []
    rows = tree(run, others)
    return rows if len(rows) > 1 else []


def _show_tree(run: Summary, relatives: list[tuple[int, Summary, bool]]) -> None:
    """Say where a run came from, and draw its tree."""
    from gendiff.run.history import differences, said

    origin = run.info.get("from")
    if origin:
        left = len(origin.get("not_taken", ())) if isinstance(origin.get("not_taken"), list) else 0
        rest = f", {left} tensors begun anew" if left else ""
        weights = f"{origin['weights']} weights {origin['hash']}".strip()
        result(f"from      {origin['name']}, step {origin['step']:,}, {weights}{rest}")
    if not relatives:
        return
    result("")
    line: dict[int, Summary] = {}
    rails = [True] * (max(depth for depth, _, _ in relatives) + 1)  # whether more children follow at a depth
    lines = list[str]()
    for depth, _, _ in reversed(relatives):
        ends = rails[depth]
        rails[depth:] = [False, *[True] * (len(rails) - depth - 1)]
        before = "".join("   " if rails[k] else "│  " for k in range(1, depth))
        lines.append(f"{before}{'└─ ' if ends else '├─ '}" if depth else "")
    for (depth, one, this), start in zip(relatives, reversed(lines), strict=True):
        line[depth] = one
        text = f"{start}{one.path.name}"
        if depth:
            keys = [key for key in differences(line[depth - 1].table, one.table) if not key.startswith(WATCHING)]
            values = [f"{key}={said(one.settings.get(key))}" for key in keys[:4]]
            text += (
                f", from step {one.info.get('from', {}).get('step', 0):,}: {', '.join(values) or 'the same settings'}"
            )
            text += " ..." * (len(keys) > 4)
        paragraph(f"{text}{'  <- this run' * this}", indent=3 * depth + 3)


@app.command()
def diff(
    one: RunArgument,
    other: Annotated[Path, typer.Argument(help="Run directory.", metavar="OTHER")],
    json: JsonOption = False,
) -> None:
    """Show in which settings two runs differ."""
    from gendiff.run import history, record

    keys = history.differences(_config(one), _config(other))
    infos = [record.read(path) for path in (one, other)]
    changes, origins = [history.lines(info) for info in infos], [info.get("from") for info in infos]
    if json:
        told: dict[str, Any] = {"changes": changes} if any(changes) else {}
        told |= {"from": origins} if any(origins) else {}
        json_result({key: list(pair) for key, pair in keys.items()} | told)
        return
    table(["name", str(one), str(other)], [(key, *map(_cell, pair)) for key, pair in keys.items()])
    if not keys:
        result("the same configuration")
    for path, info in zip((one, other), infos, strict=True):
        if origin := info.get("from"):
            result(f"{path}, began from {origin['name']}, step {origin['step']:,}")
    for path, lines in zip((one, other), changes, strict=True):
        for line in lines:
            result(f"{path}, {line}")


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


def _config(path: Path) -> dict[str, Any]:
    from gendiff.run.directory import Run

    if not os.path.lexists(path / "config.toml"):
        raise ConfigError(
            f"'{path}' is not a run directory: there is no config.toml", fix="list runs: gendiff runs list"
        )
    return Run.stored_table(path)


def _cell(value: Any) -> str:
    return shown(value) if value is None or value != value else str(value)
