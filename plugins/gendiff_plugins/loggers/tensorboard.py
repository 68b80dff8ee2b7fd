"""TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from gendiff.errors import ConfigError
from gendiff.logger import Logger
from gendiff.plugin.hookspecs import hookimpl
from gendiff.storage.folder import inside


class TensorBoard(Logger):
    """event files for TensorBoard in the run directory.

    Numbers and sample grids by step, and the configuration as text. Look at them: ``tensorboard --logdir runs``.
    """

    name = "tensorboard"

    images: bool = Field(True, description="also write the sample grids")

    def ready(self) -> None:
        if find_spec("tensorboard") is None:
            raise ConfigError(
                "logger 'tensorboard' needs the library tensorboard, which is not installed",
                fix="pip install tensorboard, or leave --logger tensorboard out",
                subject="train.loggers",
            )

    def observer(self, run: Path) -> object:
        return _Observer(inside(run, run / "tensorboard"), self.images)


class _Observer:
    def __init__(self, folder: Path, images: bool) -> None:
        self.folder = folder
        self.images = images

    @hookimpl
    def gendiff_run_started(self, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=step + 1)  # later steps will be done again
        self.writer.add_text("config", f"```\n{json.dumps(config, indent=1, default=str)}\n```", step)

    @hookimpl
    def gendiff_metrics_ready(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name.replace(".", "/"), value, step)

    @hookimpl
    def gendiff_samples_ready(self, step: int, picture: Path) -> None:
        if self.images:
            self.writer.add_image("samples", np.asarray(Image.open(picture).convert("RGB")), step, dataformats="HWC")

    @hookimpl
    def gendiff_run_ended(self) -> None:
        self.writer.close()
