"""Run: a directory that says what was done and can go on.

runs/00012-digits-dct-log-s0/
run.json        id, status, times, arguments, versions, host, who provided each component
config.toml     every value; trains the same run again
metrics.jsonl   one object a line
checkpoints/    samples/    README.md
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gendiff.component import Component, Settings
from gendiff.config import Config, Layer, resolve
from gendiff.errors import ConfigError, GendiffError
from gendiff.files import Files
from gendiff.registry import Registry

_NUMBERED = re.compile(r"(\d{5})-.*")
PACKAGES = ("gendiff", "torch", "numpy", "pydantic", "pluggy", "safetensors", "pillow", "einops")


class Run:
    """A run directory. Use `Run.create` or `Run.open`."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config

    @classmethod
    def create(cls, config: Config, registry: Registry, out: Path | None = None, argv: Sequence[str] = ()) -> Run:
        """Make the directory ``out`` (default: the next number under ``runs/``) and write what defines the run.

        Raises:
            ConfigError: where ``out`` exists and is not empty.

        """
        path = _numbered(config) if out is None else _empty(out)
        run = cls(path, config)
        run.save_config()
        run._write(
            {
                "id": path.name if out is None else f"{path.name}-{os.urandom(4).hex()}",
                "status": "created",
                "created": now(),
                "argv": list(argv),
                "host": socket.gethostname(),
                "python": platform.python_version(),
                "versions": {package: version(package) for package in PACKAGES},
                "providers": {
                    f"{component.kind} {component.name}": str(registry.provider(component))
                    for component in _components(config)
                },
                "data": {"fingerprint": config.data.fingerprint, "event_shape": list(config.data.event_shape)},
            }
        )
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """An existing run; raises `ConfigError` where ``path`` is not one."""
        if not (path / "config.toml").is_file() or not (path / "run.json").is_file():
            raise ConfigError(
                f"'{path}' is not a run directory",
                details=["a run directory holds run.json and config.toml", *_nearby(path)],
                fix="give the directory that gendiff train made",
            )
        return cls(path, resolve([Layer.from_file(path / "config.toml")]).config)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints live."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Where pictures live."""
        return self.path / "samples"

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
        if not isinstance(value, dict) or not {"id", "status", "versions", "data"} <= value.keys():
            raise ConfigError(
                f"'{self.path / 'run.json'}' does not describe a run", fix="restore it, or start a new run"
            )
        return value

    def save_config(self) -> None:
        """Write config.toml; a crash leaves the old or the new file."""
        Files().replace(self.path / "config.toml", self.config.toml().encode())

    def update(self, **values: Any) -> None:
        """Change entries of run.json; a crash leaves the old or the new file."""
        self._write({**self.info, **values})

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl, to the disk: a checkpoint must not outlive the rows before it."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a line torn by a crash is left out."""
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

    def forget_after(self, step: int) -> None:
        """Drop rows beyond ``step``: they belong to steps that will be done again."""
        kept = [json.dumps(row, allow_nan=False) + "\n" for row in self.rows() if row["step"] <= step]
        Files().replace(self.metrics, "".join(kept).encode())

    def write_card(self) -> None:
        """Write README.md: what was trained, on what, with what result, and how to sample."""
        info, config = self.info, self.config
        last = self.rows()[-1] if self.rows() else {}
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
            "Sample from it: `gendiff sample RUN`. Train it again: `gendiff train --config RUN/config.toml`.",
            "",
        ]
        (self.path / "README.md").write_text("\n".join(lines), encoding="utf-8")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One trainer per run directory; the lock dies with its process, whatever kills it."""
        with (self.path / ".lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise GendiffError(
                    f"'{self.path}' is being trained by another process",
                    details=[f"owner: {file.read().strip() or 'unknown'}"],
                    fix="wait for it, stop it, or choose another --out",
                ) from error
            os.register_at_fork(after_in_child=file.close)  # a data worker must not hold the lock of a killed trainer
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {now()}")
            file.flush()
            yield

    def _write(self, info: dict[str, Any]) -> None:
        Files().replace(self.path / "run.json", json.dumps(info, indent=1).encode())


def _components(settings: Settings) -> Iterator[Component]:
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        if isinstance(value, Component):
            yield value
        if isinstance(value, Settings):
            yield from _components(value)


def _empty(out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        own = (out / "run.json").is_file()
        raise ConfigError(
            f"'{out}' exists and is not empty",
            where="--out",
            details=["gendiff never writes into a directory that holds something else"],
            fix=f"go on with it: gendiff train --resume {out}" if own else "choose a new directory",
        )
    try:
        Files().make_directory(out)
    except OSError as error:
        raise ConfigError(f"cannot make the directory '{out}': {error.strerror}", where="--out") from error
    return out


def _numbered(config: Config) -> Path:
    """The next free ``runs/NNNNN-data-rotation-schedule-sSEED``; safe when two runs start at once."""
    root = Path("runs")
    root.mkdir(exist_ok=True)
    name = "-".join([config.data.name, *_process_words(config), f"s{config.train.seed}"])
    while True:
        taken = [int(match[1]) for path in root.iterdir() if (match := _NUMBERED.fullmatch(path.name))]
        path = root / f"{max(taken, default=0) + 1:05d}-{name}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        Files().sync_directory(root)
        return path


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


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
