"""Preview: what a run shows of itself while it trains, a grid of samples and the metrics on them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from gendiff.data import Data
from gendiff.errors import reason
from gendiff.generation import NotFinite, draw_grid
from gendiff.observers import Observers
from gendiff.run import Run, numbers
from gendiff.training import Trainer


class Preview:
    """Draws ``samples/step-*.png`` and logs one row of metrics; a metric that fails is switched off for the run.

    Samples that are not finite are neither drawn nor measured: a warning counts them.
    """

    def __init__(self, run: Run, observers: Observers) -> None:
        self.run = run
        self.observers = observers
        self.metrics = list(run.config.train.metrics)

    def __call__(self, trainer: Trainer) -> None:
        settings, step = trainer.settings, trainer.step
        picture = self.run.samples / f"step-{step:08d}.png"
        try:
            events = draw_grid(trainer.averaged(), self.run, settings.preview, picture, settings.preview_images)
        except NotFinite as error:  # a run goes on, and stops by itself where its loss is not finite either
            warnings.warn(f"no samples are shown of step {step}: {error.what}", stacklevel=2)
            return
        self.observers.notify("gendiff_samples_ready", run=self.run.path, step=step, events=events, picture=picture)
        if measured := self._measured(events):
            row = {"step": step, "n": len(events), "metrics": measured}
            self.run.log(row)
            self.observers.notify(
                "gendiff_metrics_ready", run=self.run.path, step=step, values=numbers({"metrics": measured})
            )

    def _measured(self, samples: Tensor) -> dict[str, Any]:
        found = {}
        for metric in list(self.metrics):
            try:
                values = metric.measure(samples.clone(), reference(self.run.config.data, len(samples)))
                if not values or not all(math.isfinite(value) for value in values.values()):
                    raise ValueError(f"measured {values}")
                found[metric.name] = {name: float(value) for name, value in values.items()}
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a metric may raise anything; a run must not end for a number
                self.metrics.remove(metric)
                self.observers.failed(f"metric {metric.name}", reason(error))
        return found


def reference(data: Data, count: int) -> Tensor:
    """``count`` events of the data, equally spaced over a finite set, ``(count, *event)``."""
    spread = data.length / count if data.length else 1.0
    return torch.stack([data[int(k * spread)] for k in range(count)])
