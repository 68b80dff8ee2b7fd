"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from gendiff.errors import ConfigError
from gendiff.logger import Logger
from gendiff.plugin.hookspecs import hookimpl
from gendiff.storage.folder import inside
from gendiff.storage.reading import json_file


class WeightsAndBiases(Logger):
    """a run of Weights & Biases.

    Numbers and sample grids by step, with the configuration; a resumed run goes on in the same place. Who you are comes from
    ``wandb login``; ``mode=offline`` writes to the run directory only, to be sent later with ``wandb sync``.
    """

    name = "wandb"

    project: str = Field("gendiff", description="project that the run is filed under")
    mode: Literal["online", "offline"] = Field(
        "online", description="send while the run goes on, or write to the disk only"
    )
    images: bool = Field(True, description="also log the sample grids")

    def ready(self) -> None:
        if find_spec("wandb") is None:
            raise ConfigError(
                "logger 'wandb' needs the library wandb, which is not installed",
                fix="pip install wandb, or leave --logger wandb out",
                subject="train.loggers",
            )
        import wandb

        if self.mode == "online" and not wandb.login(prompt=False):
            raise ConfigError(
                "logger 'wandb' does not know who you are",
                details=["mode 'online' sends the run while it goes on, and needs an account"],
                fix="log in with `wandb login`, or write to the disk only: --logger wandb:mode=offline",
                subject="train.loggers",
            )

    def rehearsal(self) -> Logger:
        return self.model_copy(update={"mode": "offline"})

    def observer(self, run: Path) -> object:
        return _Observer(self)


class _Observer:
    def __init__(self, settings: WeightsAndBiases) -> None:
        self.settings = settings
        self.session: Any = None

    @hookimpl
    def gendiff_run_started(self, run: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self.session = wandb.init(
            project=self.settings.project,
            name=run.name,
            id=str(json_file(run / "run.json")["id"]),
            resume="allow",
            mode=self.settings.mode,
            dir=str(inside(run, run / "wandb").parent),
            config=dict(config),
        )

    @hookimpl
    def gendiff_metrics_ready(self, step: int, values: Mapping[str, float]) -> None:
        self.session.log({name.replace(".", "/"): value for name, value in values.items()}, step=step)

    @hookimpl
    def gendiff_samples_ready(self, step: int, picture: Path) -> None:
        import wandb

        if self.settings.images:
            self.session.log({"samples": wandb.Image(str(picture))}, step=step)

    @hookimpl
    def gendiff_run_ended(self, status: str) -> None:
        self.session.finish(exit_code=0 if status == "done" else 1)
