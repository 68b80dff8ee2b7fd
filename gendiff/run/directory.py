"""Run: a directory that says what was done and can go on.

runs/00012-digits-dct-log-s0/
run.json             id, status, times, arguments, versions, host, who provided each component
config.toml          every value; trains the same run again
data.roll            for data of single files: which they were, as far as needed to tell that some are gone
process.safetensors  the process in numbers: samples are drawn with them, whatever becomes of its plugins
plugins/             copies of the plugin files that were loaded
metrics.jsonl        one object a line
checkpoints/    samples/    eval/    README.md

Opening a run executes nothing that lies in it: the copies are for the reader, and for ``--plugin``. Each file is looked
at before it is read. Nothing is written through a link, unless ``GENDIFF_FOLLOW_LINKS=1`` says that folders which are links are
your own.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import tomli_w

from gendiff.command import command, quoted
from gendiff.component import Component
from gendiff.data import Data
from gendiff.datasets.tensors import TensorData
from gendiff.errors import ConfigError, DataError, GendiffError, printable, shown
from gendiff.plain import json_bytes, json_line, json_object
from gendiff.plugin.discovery import version
from gendiff.plugin.registry import Registry
from gendiff.run import checkpoint, stored
from gendiff.run.config import Config, Layer, overlaid, refuse_plugins, resolve
from gendiff.run.recall import PROCESS, recall
from gendiff.run.record import RECORD, copy_plugin_files, flaw, given_in_python, now, providers
from gendiff.run.roll import LENGTH, roll
from gendiff.storage import reading, sealed
from gendiff.storage.files import Files
from gendiff.storage.folder import empty, inside, leaving_no_folder, numbered
from gendiff.storage.lock import locked

CONFIG, CARD = "config.toml", "README.md"
RESTORE = "restore it from a copy, or start a new run"
ROLL = "data.roll"
PACKAGES = ("gendiff", "torch", "numpy", "pydantic", "pluggy", "safetensors", "pillow", "einops")


class Run:
    """A run directory. Use `Run.create` or `Run.open`."""

    def __init__(
        self,
        path: Path,
        config: Config,
        table: Mapping[str, Any] | None = None,
        notes: Iterable[str] = (),
        given: Mapping[str, Component] | None = None,
    ) -> None:
        self.path = path
        self.config = config
        self.table = table or config.table()  # as config.toml has it: ``config`` may hold stand-ins
        self.notes = list(notes)
        self.given = dict(given or {})  # model and data that were given in Python
        self.is_new = False  # whether its directory was not there before

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(cls, config: Config, registry: Registry, out: Path | None = None, argv: Sequence[str] = ()) -> Run:
        """Make the directory ``out`` (default: the next number under ``runs/``) and write what defines the run.

        Nothing of it stays where that fails.

        Raises:
            ConfigError: where ``out`` exists and is not empty.

        """
        config = config.fitted()
        diffusion = config.diffusion()
        try:
            process, why = stored.dump(diffusion, config.velocity, config.rotation), ""
        except GendiffError as error:  # too large: then the run needs its plugins
            process, why = stored.dump(diffusion, config.velocity, config.rotation, whole=False), str(error)
        is_new = out is None or not out.exists()
        with leaving_no_folder(out or Path("runs")):
            path = _numbered(config) if out is None else _empty(out)
            run = cls(path, config)
            run.is_new = is_new
            try:
                run._define(
                    process, why, registry, argv, f"{printable(path.name)}-{os.urandom(4).hex()}" if out else path.name
                )
            except BaseException:
                run.take_away()
                raise
        return run

    def _define(self, process: bytes, why: str, registry: Registry, argv: Sequence[str], identity: str) -> None:
        """Write what defines the run."""
        config, path, parts = self.config, self.path, self.config.data.parts
        self.save_config()
        Files().replace(path / PROCESS, process)
        if parts:
            Files().replace(path / ROLL, roll(parts))
        self._write(
            {
                "id": identity,
                "status": "created",
                "created": now(),
                "argv": list(argv),
                "host": socket.gethostname(),
                "python": platform.python_version(),
                "versions": {package: version(package) for package in PACKAGES},
                "providers": providers(config, registry),
                "plugin_files": copy_plugin_files(path / "plugins", registry),
                "process": {"sha256": hashlib.sha256(process).hexdigest(), **({"missing": why} if why else {})},
                "data": {
                    "fingerprint": config.data.fingerprint,
                    "event_shape": list(config.data.event_shape),
                    "value_range": config.data.value_range,
                    **({"parts": len(parts)} if parts else {}),
                },
                "predicts": config.objective.parametrization,
                **({"given": given} if (given := given_in_python(config, path)) else {}),
            }
        )

    def take_away(self) -> None:
        """Remove a run that has just been made and came to nothing: the command that made it can be given again."""
        with suppress(OSError):
            for child in self.path.iterdir():
                if child.is_dir() and not child.is_symlink():
                    shutil.rmtree(child, ignore_errors=True)
                else:
                    child.unlink(missing_ok=True)
            if self.is_new:
                self.path.rmdir()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        training: bool = False,
        steps: int | None = None,
        changes: Iterable[Layer] = (),
        given: Mapping[str, Component] | None = None,
    ) -> Run:
        """An existing run, with its process as it was trained.

        To sample, stored numbers stand in for data, and for a rotation, velocity or objective whose plugin is gone or gives other
        numbers now; `notes` says so. To train on, data and objective must be there.

        Args:
            steps: the number of optimiser steps, where it is to change.
            changes: other settings that are to change.
            given: ``model`` and ``data`` in place of those that the run was given in Python, and cannot store.

        Raises:
            ConfigError: where ``path`` is not a run.
            DataError: where a file of it is damaged, or no file of a run.
            PluginError: where a component is missing that nothing can stand in for.

        """
        path = Path(path)
        if not os.path.lexists(path / CONFIG) or not os.path.lexists(path / RECORD):
            raise ConfigError(
                f"'{path}' is not a run directory",
                details=["a run directory holds run.json and config.toml", *_nearby(path)],
                fix="give the directory that gendiff train made",
            )
        table = cls.stored_table(path)
        before = table.get("train", {}).get("steps")
        if steps is not None:
            table["train"] = {**table.get("train", {}), "steps": steps}
        for change in changes:
            table = overlaid(table, change)
        run = cls(path, Config.model_construct(), table, given=_as_it_was(given, table))
        result = recall(path, Layer(str(path / CONFIG), {**table, **run.given}), run.info, training)
        run.config, run.notes = result.config, result.notes
        if steps not in (None, before) and run.config.train.decay != "constant":
            note = (
                f"the learning rate falls to step {steps} from here on, as of a run of that length; it fell to {before}"
            )
            run.notes = [*run.notes, note]
        if training and isinstance(run.config.data, TensorData):
            run.config.data.require()
        return run

    @staticmethod
    def stored_table(path: Path) -> dict[str, Any]:
        """What config.toml of the run at ``path`` says; raises `DataError` where it cannot be read.

        And `PluginError` where somebody wrote plugin files into it.
        """
        table = reading.toml_file(path / CONFIG)
        refuse_plugins(table.pop("plugins", []), path / CONFIG)
        if isinstance(objective := table.get("objective"), dict):
            objective.setdefault("basis", "process")  # there was no other before it was said
        if not isinstance(table.get("train", {}), dict):
            raise DataError(f"'{path / CONFIG}' does not configure a run: 'train' is no table", fix=RESTORE)
        return table

    @property
    def in_python(self) -> dict[str, Any]:
        """Model and data that were given in Python, and how the run is opened again; empty where there are none."""
        return given_in_python(self.config, self.path)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints live."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Where pictures live."""
        return self.path / "samples"

    @property
    def snapshots(self) -> Path:
        """Where averages are kept of which others are made after training (`gendiff.run.posthoc`)."""
        return self.path / "snapshots"

    def preview(self, step: int) -> Path:
        """The picture of the preview of a step: there once it is whole."""
        return self.samples / f"step-{step:08d}.png"

    @property
    def evaluations(self) -> Path:
        """Where evaluations live, a JSON file for each (`gendiff.evaluation.number`)."""
        return self.path / "eval"

    @property
    def metrics(self) -> Path:
        """The file of measurements, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def info(self) -> dict[str, Any]:
        """The content of run.json, what no terminal should obey written out; raises `DataError` where it describes no run."""
        value = shown(reading.json_file(self.path / RECORD))
        if why := flaw(value):
            raise DataError(f"'{self.path / RECORD}' does not describe a run: {why:.200}", fix=RESTORE)
        return dict(value)

    def roll(self) -> bytes:
        """Which files its data were when it began, as `gendiff.run.roll` has it; empty for data of no single files."""
        count = self.info["data"].get("parts")
        return sealed.read(self.path / ROLL, LENGTH * count) if isinstance(count, int) else b""

    def record(self, step: int, settings: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Write into run.json what is not as before from ``step`` on: settings, and what `changed_data` found."""
        info = self.info
        change = {"step": step, "when": now(), **({"set": dict(settings)} if settings else {})}
        if data:
            change["data"] = dict(data)
            info["data"] = {**info["data"], "fingerprint": data["fingerprint"]}
        self._write({**info, "changes": [*info.get("changes", []), change]})

    def data(self) -> Data:
        """The data of this run; raises `DataError` where they are gone, or not those that it was trained on."""
        data, fingerprint = self.config.data, self.info["data"]["fingerprint"]
        if isinstance(data, stored.StoredData):
            table = self.given.get("data") or self.table.get("data", data.table())
            layer = Layer(str(self.path / CONFIG), {"data": table})
            data = resolve([layer]).config.data
        if isinstance(data, TensorData):
            data.require()
        if data.fingerprint != fingerprint:
            raise DataError(
                f"the data of '{self.path}' are not those that it was trained on",
                details=[f"fingerprint then: {fingerprint}", f"fingerprint now: {data.fingerprint}"],
                fix="bring them back",
            )
        return data

    def save_config(self) -> None:
        """Write config.toml; a crash leaves the old or the new file."""
        Files().replace(self.path / CONFIG, tomli_w.dumps(dict(self.table)).encode())

    def update(self, **values: Any) -> None:
        """Change entries of run.json; a crash leaves the old or the new file."""
        self._write({**self.info, **values})

    def switch_off(self, name: str, why: str) -> None:
        """Record in run.json that an observer or metric failed and takes no further part."""
        self.update(switched_off={**self.info.get("switched_off", {}), name: why})

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl, to the disk: a checkpoint must not outlive the rows before it."""
        Files().add(self.metrics, json_line(row))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, of training and of metrics; a line torn by a crash is left out.

        Raises `DataError` where it is no file of rows.
        """
        return list(self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        if not os.path.lexists(self.metrics):
            return
        for line in reading.rows(self.metrics):
            try:
                row = json_object(line, lenient=True)
            except ValueError:
                continue
            if type(row.get("step")) is int and row["step"] >= 0:
                yield row

    def last_training_row(self) -> dict[str, Any]:
        """The newest row of training, whose loss is None where all its steps were skipped; empty before there is one."""
        newest: dict[str, Any] = {}
        for row in self._rows():
            newest = row if "loss" in row else newest
        return newest

    def forget_after(self, step: int) -> None:
        """Drop rows and snapshots beyond ``step``: they belong to steps that will be done again."""
        for later in [step_of for step_of in checkpoint.steps(self.snapshots) if step_of > step]:
            Files().remove_tree(checkpoint.directory(self.snapshots, later))
        rows = [json_line(row) for row in self._rows() if row["step"] <= step]
        Files().replace(self.metrics, b"".join(rows))

    def write_card(self) -> None:
        """Write README.md: what was trained, on what, with what result, and how to sample."""
        info, config = self.info, self.config
        last = self.last_training_row()
        copies = [f"RUN/{file['copy']}" for file in info.get("plugin_files", {}).values()]
        plugins = [word for copy in copies for word in ("--plugin", copy)]
        again = quoted("gendiff", *plugins, "train", "--config", "RUN/config.toml")
        lines = [
            f"# {info['id']}",
            "",
            f"A generalized diffusion trained with gendiff {info['versions'].get('gendiff', '-')} ({info['status']}).",
            "",
            "| part | value |",
            "|---|---|",
            *(
                f"| {kind} | `{getattr(config, kind).spec}` |"
                for kind in ("rotation", "velocity", "objective", "model", "data")
            ),
            f"| steps of the process | {config.N} |",
            f"| events | {config.data.event_shape}, fingerprint `{info['data']['fingerprint']}` |",
            f"| training | {last.get('step', 0)} steps of {config.train.batch} events, {config.train.optimization}, "
            f"{config.train.averaging}, {info.get('precision', config.train.precision)}, seed {config.train.seed} |",
            f"| last loss | {'-' if last.get('loss') is None else format(last['loss'], '.4f')} |",
            "",
            f"Open it in Python: `{given.get('open')}`; go on: `{given.get('resume')}`."
            if (given := info.get("given"))
            else f"Sample from it: `gendiff sample RUN`. Train it again: `{again}`.",
            "",
        ]
        Files().replace(self.path / CARD, "\n".join(map(printable, lines)).encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One trainer per run directory; the lock dies with its process, whatever kills it."""
        for name in (self.checkpoints, self.samples, self.evaluations, self.snapshots):
            inside(self.path, name)
        with locked(self.path, "trained", "wait for it, stop it, or choose another --out"):
            yield

    def _write(self, info: dict[str, Any]) -> None:
        Files().replace(self.path / RECORD, json_bytes(info))


def _as_it_was(given: Mapping[str, Component] | None, table: Mapping[str, Any]) -> dict[str, Component]:
    """What is given again in Python, its events mirrored where they were: the events themselves do not say it."""
    parts, before = dict(given or {}), table.get("data")
    if isinstance(data := parts.get("data"), TensorData) and isinstance(before, Mapping) and before.get("flip") is True:
        parts["data"] = data.model_copy(update={"flip": True})
    return parts


def _empty(out: Path) -> Path:
    return empty(out, command("train", "--resume", out) if (out / RECORD).is_file() else "")


def _numbered(config: Config) -> Path:
    """The next free ``runs/NNNNN-data-rotation-schedule-sSEED``."""
    return numbered(Path("runs"), "-".join([config.data.name, *_process_words(config), f"s{config.train.seed}"]))


def _process_words(config: Config) -> list[str]:
    """What tells this process from others: the rotation, and velocity and schedule where they are a choice."""
    default = Config.model_fields["velocity"].default
    words = [config.rotation.name, *([config.velocity.name] if config.velocity.name != default else [])]
    schedule = getattr(config.velocity, "schedule", None)
    return [*words, schedule.name] if schedule and config.rotation.name != "identity" else words


def _nearby(path: Path) -> list[str]:
    root = path if path.is_dir() else Path("runs")
    runs = sorted(child for child in root.iterdir() if (child / RECORD).is_file()) if root.is_dir() else []
    return [f"runs here: {', '.join(str(run) for run in runs[-5:])}"] if runs else []


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The measurements of a row of metrics.jsonl under flat names: ``loss``, ``loss_bands.0``, ``spectrum.error``.

    What could not be measured, such as the loss of steps that were all skipped, is left out.
    """
    values: dict[str, float] = {}
    for key, value in row.items():
        parts = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else None
        if parts is not None:
            values.update(
                {f"{key}.{name}": number for name, number in numbers({str(k): v for k, v in parts.items()}).items()}
            )
        elif key != "step" and isinstance(value, int | float) and math.isfinite(value):
            values[key] = float(value)
    return values
