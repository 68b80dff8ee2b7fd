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
import os
import platform
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import tomli_w

from gendiff.command import command, option, quoted
from gendiff.component import Component
from gendiff.data import Data, fingerprint_of
from gendiff.datasets.split import Split
from gendiff.datasets.tensors import TensorData
from gendiff.errors import ConfigError, DataError, GendiffError
from gendiff.plain import json_bytes, json_line
from gendiff.plugin.discovery import version
from gendiff.plugin.registry import Registry
from gendiff.run import card, checkpoint, history, speeds, stored
from gendiff.run.config import Config
from gendiff.run.layers import Layer, locate, overlaid, refuse_plugins, resolve
from gendiff.run.provenance import beginning_from, copy_plugin_files, given_in_python, providers
from gendiff.run.recall import PROCESS, recall
from gendiff.run.record import RECORD, RESTORE, is_copy, new_id, now, place, read, same_run
from gendiff.run.roll import LENGTH, roll
from gendiff.run.rows import METRICS, last_training_row, row_of
from gendiff.storage import reading, sealed
from gendiff.storage.files import Files
from gendiff.storage.folder import empty, inside, leaving_no_folder, numbered
from gendiff.storage.lock import locked

CONFIG = "config.toml"
ROLL = "data.roll"
EDITS = 5  # settings named in one message
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
        self.table = dict(table or config.table())  # as config.toml has it: ``config`` may hold stand-ins
        self.notes = list(notes)
        self.given = dict(given or {})  # model and data that were given in Python
        self.now = ""  # the fingerprint of its data, once they are opened
        self.is_new = False  # whether its directory was not there before

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(
        cls,
        config: Config,
        registry: Registry,
        out: Path | None = None,
        argv: Sequence[str] = (),
        lineage: Mapping[str, Any] | None = None,
    ) -> Run:
        """Make the directory ``out`` (default: the next number under ``runs/``) and write what defines the run.

        Nothing of it stays where that fails.

        Args:
            lineage: the run that it begins from: id, name, step, weights and hash.

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
                run._define(process, why, registry, argv, lineage)
            except BaseException:
                run.take_away()
                raise
        return run

    def _define(
        self, process: bytes, why: str, registry: Registry, argv: Sequence[str], lineage: Mapping[str, Any] | None
    ) -> None:
        """Write what defines the run."""
        config, path, parts = self.config, self.path, self.config.data.parts
        self._write_config()
        Files().replace(path / PROCESS, process)
        if parts:
            Files().replace(path / ROLL, roll(parts))
        self._write(
            {
                "id": new_id(path),
                **({"from": dict(lineage)} if lineage else {}),
                "place": place(path),
                "status": "created",
                "created": now(),
                "argv": list(argv),
                "host": socket.gethostname(),
                "python": platform.python_version(),
                "versions": {package: version(package) for package in PACKAGES},
                "providers": providers(config, registry),
                "plugin_files": copy_plugin_files(path / "plugins", registry, config),
                "process": {
                    "sha256": hashlib.sha256(process).hexdigest(),
                    **({"missing": why} if why else {}),
                    **({"learned": ", ".join(config.velocity.trained)} if config.velocity.trained else {}),
                },
                "data": {
                    "fingerprint": config.data.fingerprint,
                    "event_shape": list(config.data.event_shape),
                    "value_range": config.data.value_range,
                    **({"parts": len(parts)} if parts else {}),
                    **({"latent": latent.table()} if (latent := config.data.latent) else {}),
                    **_told(config),
                },
                **({"held_out": held_out} if (held_out := config.split.about) else {}),
                "predicts": config.objective.parametrization,
                "config": self.table,
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
        at: int | None = None,
    ) -> Run:
        """An existing run, with its process as it was trained.

        To sample, stored numbers stand in for data, and for a rotation, velocity or objective whose plugin is gone or gives other
        numbers now; `notes` says so. To train on, data and objective must be there.

        Args:
            steps: the number of optimiser steps, where it is to change.
            changes: other settings that are to change.
            given: ``model`` and ``data`` in place of those that the run was given in Python, and cannot store.
            at: the step of the checkpoint whose process is taken where speeds are learned; left out, the newest. To train on, it
                is that with which the run began.

        Raises:
            ConfigError: where ``path`` is not a run.
            DataError: where a file of it is damaged, or no file of a run.
            PluginError: where a component is missing that nothing can stand in for.

        """
        path = Path(path)
        refuse_no_run(path)
        table = cls.stored_table(path)
        run = cls(path, Config.model_construct(), table, given=_as_it_was(given, table))
        info = run.info
        run._look_for_edits(info, table, training)
        before = table.get("train", {}).get("steps")
        if steps is not None:
            table["train"] = {**table.get("train", {}), "steps": steps}
        origins = {"train.steps": "--steps"} if steps is not None else {}
        for change in changes:
            table = overlaid(table, change)
            origins |= dict.fromkeys(history.flat(change.table), change.origin)
        run.table = table
        layer = Layer(str(path / CONFIG), {**table, **run.given})
        try:
            result = recall(path, layer, info, training)
        except GendiffError as error:
            if error.where == layer.origin:  # of what is changed, who changed it is at fault
                error.where = ""
                locate(error, origins)
                error.where = error.where or layer.origin
            raise
        run.config, run.notes = result.config, [*run.notes, *result.notes]
        if info.get("process", {}).get("learned") and not training:
            run.config = speeds.newest(run.config, run.checkpoints, at)
        if steps not in (None, before) and run.config.train.decay != "constant":
            note = (
                f"the learning rate falls to step {steps} from here on, as of a run of that length; it fell to {before}"
            )
            run.notes = [*run.notes, note]
        elif isinstance(before, int) and steps is not None and steps < before:
            run.notes = [*run.notes, f"it ends at step {steps:,} from here on; {before:,} steps were planned"]
        if training:
            run.config.data.require()
        return run

    def having(self, config: Config) -> Run:
        """The same run with the configuration that it had at a checkpoint; itself where that is its own."""
        if config is self.config:
            return self
        run = copy(self)
        run.config = config
        return run

    def _look_for_edits(self, info: Mapping[str, Any], table: Mapping[str, Any], training: bool) -> None:
        """Note what somebody changed in config.toml; raises `ConfigError` where it is to be trained on."""
        edits = {key: pair for key, pair in history.edits(info, table).items() if key != history.LENGTH}
        if not edits:
            return
        values = [f"{key}: {history.said(then)} then, {history.said(now)} now" for key, (then, now) in edits.items()]
        if not training:
            self.notes.append(f"its {CONFIG} was edited since gendiff wrote it: {'; '.join(values[:EDITS])}")
            return
        raise ConfigError(
            f"'{self.path / CONFIG}' was edited since gendiff wrote it",
            where=option("--resume"),
            details=[*values[:EDITS], *([f"and {len(values) - EDITS} more"] if len(values) > EDITS else [])],
            fix=f"put these values back, and say what is to change with {option('--resume')}, or for a new run with "
            f"{option('--from')}: " + beginning_from(self.path, info.get("given", {}), "--config", self.path / CONFIG),
        )

    @staticmethod
    def stored_table(path: Path) -> dict[str, Any]:
        """What config.toml of the run at ``path`` says; raises `DataError` where it cannot be read.

        And `PluginError` where somebody wrote plugin files into it.
        """
        table = reading.toml_file(path / CONFIG)
        refuse_plugins(table.pop("plugins", []), path / CONFIG)
        table = history.completed(table)
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
        return self.path / METRICS

    @property
    def info(self) -> dict[str, Any]:
        """The content of run.json, what no terminal should obey written out; raises `DataError` where it describes no run."""
        return read(self.path)

    def roll(self) -> bytes:
        """Which files its data were when it began, as `gendiff.run.roll` has it; empty for data of no single files."""
        count = self.info["data"].get("parts")
        return sealed.read(self.path / ROLL, LENGTH * count) if isinstance(count, int) else b""

    def go_on(self, step: int, data: Mapping[str, Any] | None = None) -> list[str]:
        """Write what defines a run that goes on from ``step``: what is set otherwise from there on, and where it is.

        A copy of another run becomes a run of its own, with an id of its own. Returns what a user should know.

        Args:
            data: what `changed_data` says of them.

        """
        before, notes = self.stored_table(self.path), list[str]()
        info = history.settled(self.info, before)
        if any(change["step"] > step for change in info.get("changes", [])):
            notes.append(f"what was set otherwise later in '{self.path}' is so from step {step} on, where it goes on")
            info = history.going_back(info, step)
        if originals := self.originals(info):
            lineage = {"id": info["id"], "name": originals[0].name, "step": step, "weights": "all", "hash": ""}
            info |= {"id": new_id(self.path), "from": lineage}
            notes.append(f"'{self.path}' is a copy of '{originals[0]}': it goes on as a run of its own, {info['id']}")
        if data:
            info["data"] = {**info["data"], "fingerprint": data["fingerprint"]}
        changes = {**history.changed(before, self.table), **history.shortened(before, self.table)}
        if change := {**changes, **({"data": dict(data)} if data else {})}:
            info["changes"] = [*info.get("changes", []), {"step": step, "when": now(), **change}]
        # In this order: a crash in between leaves a change that was never made, and is known by that.
        self._write({**info, "config": self.table, "place": place(self.path)})
        self._write_config()
        return notes

    def originals(self, info: Mapping[str, Any] | None = None) -> list[Path]:
        """The run of which this is a copy, that lies beside it or where it was; none where this is no copy."""
        info = info or self.info
        if info.get("place", {}).get("inode") == self.path.stat().st_ino:
            return []
        others = same_run(self.path, info)
        return others if is_copy(self.path, info, others) else []

    def data(self) -> Data:
        """What this run was trained on; raises `DataError` where the data are gone, or not those that they were."""
        split, fingerprint = self.split(), self.info["data"]["fingerprint"]
        if self.now != fingerprint:
            raise DataError(
                f"the data of '{self.path}' are not those that it was trained on",
                details=[f"fingerprint then: {fingerprint}", f"fingerprint now: {self.now}"],
                fix="bring them back",
            )
        return split.training

    def split(self) -> Split:
        """Which events it is trained on, and which are held out, of its data as they are `now`; these are opened for it.

        Raises `DataError` where they are gone, or the held-out ones are not those that they were.
        """
        config = self.config
        if isinstance(config.data, stored.StoredData):
            keys = {"data": config.data.table(), **self.table, **self.given}
            table: dict[str, Any] = {key: keys[key] for key in ("data", "hold_out") if key in keys}
            config = resolve([Layer(str(self.path / CONFIG), table)]).config
            config = config.splitting_at(self.info.get("held_out", {}).get("below"))
        for data in (config.data, config.hold_out.data if config.hold_out else None):
            if data is not None:
                data.require()
        split, info = config.split, self.info
        before = info.get("held_out", {}).get("fingerprint")
        self.now = config.data.fingerprint
        theirs = split.held_out.fingerprint if split.held_out else None
        if before != theirs and self.now == info["data"]["fingerprint"]:
            raise DataError(
                f"the held-out events of '{self.path}' are not those that they were",
                details=[f"fingerprint then: {before}", f"fingerprint now: {theirs}"],
                fix="bring them back as they were",
            )
        return split

    def trained_on(self) -> str:
        """The fingerprint of the events that it sees again and again; empty where there are none, of data without an end."""
        try:
            training = self.split().training
        except GendiffError:  # they are gone
            return str(self.info["data"]["fingerprint"])
        return "" if training.length is None else training.fingerprint

    def _write_config(self) -> None:
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
            if row := row_of(line):
                yield row

    def last_training_row(self) -> dict[str, Any]:
        """The newest row of training, whose loss is None where all its steps were skipped; empty before there is one."""
        return last_training_row(self.path)

    def forget_after(self, step: int) -> None:
        """Drop rows and snapshots beyond ``step``: they belong to steps that will be done again."""
        for later in [step_of for step_of in checkpoint.steps(self.snapshots) if step_of > step]:
            Files().remove_tree(checkpoint.directory(self.snapshots, later))
        rows = [json_line(row) for row in self._rows() if row["step"] <= step]
        Files().replace(self.metrics, b"".join(rows))

    def write_card(self) -> None:
        """Write README.md: what was trained, on what, with what result, and how to sample."""
        card.write(self.path, self.config, self.info, self._rows())

    def retitle_card(self) -> None:
        """Let README.md have the name that the run has now: a folder may have been renamed since."""
        card.retitle(self.path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One trainer per run directory; the lock dies with its process, whatever kills it."""
        for name in (self.checkpoints, self.samples, self.evaluations, self.snapshots):
            inside(self.path, name)
        with locked(self.path, "trained", f"wait for it, stop it, or choose another {option('--out')}"):
            yield

    def _write(self, info: dict[str, Any]) -> None:
        Files().replace(self.path / RECORD, json_bytes(info))


def _told(config: Config) -> dict[str, Any]:
    """What the network is told of events besides, and a mark of what is said of each; nothing of a run without conditions."""
    conditions = config.conditions
    if not conditions:
        return {}
    tables = {name: condition.table() for name, condition in conditions.items()}
    return {"conditions": tables, "conditions_fingerprint": fingerprint_of(config.data, conditions)}


def refuse_no_run(path: Path) -> None:
    """Raise `ConfigError` where ``path`` is not a run."""
    if not os.path.lexists(path / CONFIG) or not os.path.lexists(path / RECORD):
        if run := next((above for above in path.parents if os.path.lexists(above / RECORD)), None):
            raise ConfigError(
                f"'{path}' is not a run directory, but lies in one",
                fix=f"give {quoted(run)}, or {quoted(f'{run}@STEP')} for a checkpoint",
            )
        raise ConfigError(
            f"'{path}' is not a run directory",
            details=["a run directory holds run.json and config.toml", *_nearby(path)],
            fix="give the directory that gendiff train made",
        )


def _as_it_was(given: Mapping[str, Component] | None, table: Mapping[str, Any]) -> dict[str, Component]:
    """What is given again in Python, its events mirrored where they were: the events themselves do not say it."""
    parts, before = dict(given or {}), table.get("data")
    if isinstance(data := parts.get("data"), TensorData) and isinstance(before, Mapping) and before.get("flip") is True:
        parts["data"] = data.model_copy(update={"flip": True})
    return parts


def _empty(out: Path) -> Path:
    if not (out / RECORD).is_file():
        return empty(out)
    with suppress(DataError):  # what cannot be read is no run to go on with
        given = read(out).get("given", {})
        return empty(out, given.get("resume") or command("train", "--resume", out))
    return empty(out)


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
