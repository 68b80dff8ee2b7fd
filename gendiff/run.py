"""Run: a directory that says what was done and can go on.

runs/00012-digits-dct-log-s0/
run.json             id, status, times, arguments, versions, host, who provided each component
config.toml          every value; trains the same run again
process.safetensors  the process in numbers: samples are drawn with them, whatever becomes of its plugins
plugins/             copies of the plugin files that were loaded
metrics.jsonl        one object a line
checkpoints/    samples/    eval/    README.md

Opening a run executes nothing that lies in it: the copies are for the reader, and for ``--plugin``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from gendiff import stored
from gendiff.command import command, quoted
from gendiff.component import Component, Settings
from gendiff.config import Config, Layer, resolve
from gendiff.data import Data
from gendiff.discovery import version
from gendiff.errors import ConfigError, DataError, GendiffError
from gendiff.recall import PROCESS, recall
from gendiff.registry import Registry
from gendiff.storage.files import Files
from gendiff.storage.folder import empty, numbered
from gendiff.storage.lock import locked

PACKAGES = ("gendiff", "torch", "numpy", "pydantic", "pluggy", "safetensors", "pillow", "einops")


class Run:
    """A run directory. Use `Run.create` or `Run.open`."""

    def __init__(
        self, path: Path, config: Config, table: Mapping[str, Any] | None = None, notes: Iterable[str] = ()
    ) -> None:
        self.path = path
        self.config = config
        self.table = table or config.table()  # as config.toml has it: ``config`` may hold stand-ins
        self.notes = list(notes)

    @classmethod
    def create(cls, config: Config, registry: Registry, out: Path | None = None, argv: Sequence[str] = ()) -> Run:
        """Make the directory ``out`` (default: the next number under ``runs/``) and write what defines the run.

        Raises:
            ConfigError: where ``out`` exists and is not empty.

        """
        config = config.fitted()
        diffusion = config.diffusion()
        try:
            process, why = stored.dump(diffusion, config.velocity), ""
        except GendiffError as error:  # too large: then the run needs its plugins
            process, why = stored.dump(diffusion, config.velocity, whole=False), str(error)
        path = _numbered(config) if out is None else _empty(out)
        run = cls(path, config)
        run.save_config()
        Files().replace(path / PROCESS, process)
        run._write(
            {
                "id": path.name if out is None else f"{path.name}-{os.urandom(4).hex()}",
                "status": "created",
                "created": now(),
                "argv": list(argv),
                "host": socket.gethostname(),
                "python": platform.python_version(),
                "versions": {package: version(package) for package in PACKAGES},
                "providers": _providers(config, registry),
                "plugin_files": _copy_plugin_files(path / "plugins", registry),
                "process": {"sha256": hashlib.sha256(process).hexdigest(), **({"missing": why} if why else {})},
                "data": {
                    "fingerprint": config.data.fingerprint,
                    "event_shape": list(config.data.event_shape),
                    "value_range": config.data.value_range,
                },
                "predicts": config.objective.parametrization,
            }
        )
        return run

    @classmethod
    def open(cls, path: Path, training: bool = False, steps: int | None = None) -> Run:
        """An existing run, with its process as it was trained.

        To sample, stored numbers stand in for data, and for a rotation, velocity or objective whose plugin is gone or gives other
        numbers now; `notes` says so. To train on, data and objective must be there.

        Args:
            steps: the number of optimiser steps, where it is to change.

        Raises:
            ConfigError: where ``path`` is not a run.
            PluginError: where a component is missing that nothing can stand in for.

        """
        if not (path / "config.toml").is_file() or not (path / "run.json").is_file():
            raise ConfigError(
                f"'{path}' is not a run directory",
                details=["a run directory holds run.json and config.toml", *_nearby(path)],
                fix="give the directory that gendiff train made",
            )
        layer = Layer.from_file(path / "config.toml")
        table = dict(layer.table)
        if steps is not None:
            table["train"] = {**table.get("train", {}), "steps": steps}
        run = cls(path, Config.model_construct(), table)
        recalled = recall(path, Layer(layer.origin, table), run.info, training)
        run.config, run.notes = recalled.config, recalled.notes
        return run

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints live."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Where pictures live."""
        return self.path / "samples"

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
        """The content of run.json."""
        try:
            value = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"'{self.path / 'run.json'}' is not valid JSON: {error!s:.200}") from error
        tables = ("versions", "data", "process", "providers", "plugin_files", "switched_off")
        if (
            not isinstance(value, dict)
            or not {"id", "status", "versions", "data"} <= value.keys()
            or not all(isinstance(value.get(key, {}), dict) for key in tables)
        ):
            raise ConfigError(
                f"'{self.path / 'run.json'}' does not describe a run", fix="restore it, or start a new run"
            )
        return value

    def data(self) -> Data:
        """The data of this run; raises `DataError` where they are gone, or not those that it was trained on."""
        data, known = self.config.data, self.info["data"]["fingerprint"]
        if isinstance(data, stored.StoredData):
            layer = Layer(str(self.path / "config.toml"), {"data": self.table.get("data", data.table())})
            data = resolve([layer]).config.data
        if data.fingerprint != known:
            raise DataError(
                f"the data of '{self.path}' are not those that it was trained on",
                details=[f"fingerprint then: {known}", f"fingerprint now: {data.fingerprint}"],
                fix="bring them back",
            )
        return data

    def save_config(self) -> None:
        """Write config.toml; a crash leaves the old or the new file."""
        Files().replace(self.path / "config.toml", tomli_w.dumps(dict(self.table)).encode())

    def update(self, **values: Any) -> None:
        """Change entries of run.json; a crash leaves the old or the new file."""
        self._write({**self.info, **values})

    def switch_off(self, name: str, why: str) -> None:
        """Record in run.json that an observer or metric failed and takes no further part."""
        self.update(switched_off={**self.info.get("switched_off", {}), name: why})

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl, to the disk: a checkpoint must not outlive the rows before it."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, of training and of metrics; a line torn by a crash is left out."""
        rows = []
        if self.metrics.is_file():
            for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    rows.append(row)
        return rows

    def last_training_row(self) -> dict[str, Any]:
        """The newest row that holds a loss; empty before there is one."""
        return next((row for row in reversed(self.rows()) if "loss" in row), {})

    def forget_after(self, step: int) -> None:
        """Drop rows beyond ``step``: they belong to steps that will be done again."""
        kept = [json.dumps(row, allow_nan=False) + "\n" for row in self.rows() if row["step"] <= step]
        Files().replace(self.metrics, "".join(kept).encode())

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
            f"A generalized diffusion trained with gendiff {info['versions']['gendiff']} ({info['status']}).",
            "",
            "| part | value |",
            "|---|---|",
            *(
                f"| {kind} | `{getattr(config, kind).spec}` |"
                for kind in ("rotation", "velocity", "objective", "model", "data")
            ),
            f"| steps of the process | {config.N} |",
            f"| events | {tuple(info['data']['event_shape'])}, fingerprint `{info['data']['fingerprint']}` |",
            f"| training | {last.get('step', 0)} steps of {config.train.batch} events, Adam {config.train.lr:g}, "
            f"EMA {config.train.ema:g}, {config.train.precision}, seed {config.train.seed} |",
            f"| last loss | {last.get('loss', float('nan')):.4f} |",
            "",
            f"Sample from it: `gendiff sample RUN`. Train it again: `{again}`.",
            "",
        ]
        (self.path / "README.md").write_text("\n".join(lines), encoding="utf-8")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One trainer per run directory; the lock dies with its process, whatever kills it."""
        with locked(self.path, "trained", "wait for it, stop it, or choose another --out"):
            yield

    def _write(self, info: dict[str, Any]) -> None:
        Files().replace(self.path / "run.json", json.dumps(info, indent=1).encode())


def _components(settings: Settings) -> Iterator[Component]:
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Component):
                yield part
            if isinstance(part, Settings):
                yield from _components(part)


def _providers(config: Config, registry: Registry) -> dict[str, dict[str, Any]]:
    """Who provides each component of ``config``."""
    found = {}
    for component in _components(config):
        provider = registry.provider(component)
        if provider is not None:
            found[f"{component.kind} {component.name}"] = {
                "plugin": str(provider),
                "distribution": provider.distribution,
                "version": provider.version,
                "origin": provider.origin,
                "built_in": provider.built_in,
            }
    return found


def _copy_plugin_files(folder: Path, registry: Registry) -> dict[str, dict[str, str]]:
    """Copy the plugin files that were loaded; returns where each came from, its hash and its copy."""
    copies = {}
    for provider in registry.providers:
        if provider.sha256:
            content = Path(provider.origin).read_bytes()
            Files().make_directory(folder)
            name = provider.distribution
            if (folder / name).exists():  # two files may have the same name
                name = f"{provider.sha256[:12]}-{name}"
            Files().replace(folder / name, content)
            copies[name] = {
                "plugin": str(provider),
                "given": provider.origin,
                "origin": str(Path(provider.origin).resolve()),
                "sha256": provider.sha256,
                "copy": f"plugins/{name}",
            }
            if hashlib.sha256(content).hexdigest() != provider.sha256:
                raise GendiffError(
                    f"'{provider.origin}' changed while it was used as a plugin",
                    fix="start again, with the file at rest",
                )
    return copies


def _empty(out: Path) -> Path:
    return empty(out, command("train", "--resume", out) if (out / "run.json").is_file() else "")


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
    runs = sorted(child for child in root.iterdir() if (child / "run.json").is_file()) if root.is_dir() else []
    return [f"runs here: {', '.join(str(run) for run in runs[-5:])}"] if runs else []


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The measurements of a row of metrics.jsonl under flat names: ``loss``, ``loss_bands.0``, ``spectrum.error``."""
    found: dict[str, float] = {}
    for key, value in row.items():
        parts = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else None
        if parts is not None:
            found.update(
                {f"{key}.{name}": number for name, number in numbers({str(k): v for k, v in parts.items()}).items()}
            )
        elif key != "step" and isinstance(value, int | float):
            found[key] = float(value)
    return found


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
