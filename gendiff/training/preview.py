"""Preview: what a run shows of itself while it trains, a grid of samples and the metrics on them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gendiff.data import Data
from gendiff.denoiser import Denoiser
from gendiff.errors import reason
from gendiff.plugin.observers import Observers
from gendiff.run import checkpoint
from gendiff.run.directory import Run
from gendiff.run.generation import NotFinite, draw, save_sheet
from gendiff.run.made import origin
from gendiff.run.origin import Origin
from gendiff.run.rows import numbers
from gendiff.training.trainer import Trainer


class Preview:
    """Draws ``samples/step-*.png`` and logs one row of metrics; a metric that fails is switched off for the run.

    Samples that are not finite are neither drawn nor measured: a warning counts them.
    """

    def __init__(
        self, run: Run, observers: Observers, watch: Callable[[int, int, int], None] = lambda step, count, total: None
    ) -> None:
        """``watch`` hears the step, and how many evaluations of the network are done, of how many."""
        self.run = run
        self.observers = observers
        self.watch = watch
        self.metrics = list(run.config.train.metrics)

    def __call__(self, trainer: Trainer) -> None:
        settings, step = trainer.settings, trainer.step
        picture = self.run.preview(step)
        watch = partial(self.watch, step)
        try:
            denoiser = trainer.averaged()
            drawn = draw(denoiser, self.run, settings.preview, settings.preview_images, watch)
        except NotFinite as error:  # a run goes on, and stops by itself where its loss is not finite either
            warnings.warn(f"no samples are shown of step {step}: {error.what}", stacklevel=2)
            return
        events = self.run.config.data.pictures(drawn)
        values = self._measured(events)
        in_log = any(
            row["step"] == step and "metrics" in row for row in self.run.rows()
        )  # it was ended just after that
        if values and not in_log:
            self.run.log({"step": step, "n": len(events), "metrics": values})
        made_by = self._origin(trainer, denoiser)
        save_sheet(self.run, picture, events, made_by)  # last: a run that goes on draws what has no picture
        self.observers.notify("gendiff_samples_ready", run=self.run.path, step=step, events=events, picture=picture)
        if values:
            self.observers.notify(
                "gendiff_metrics_ready", run=self.run.path, step=step, values=numbers({"metrics": values})
            )

    def _origin(self, trainer: Trainer, denoiser: Denoiser) -> Origin:
        """What made this preview: the checkpoint of its step, which is saved by now."""
        settings, group = trainer.settings, next(iter(trainer.settings.averages), "model")
        digest = checkpoint.weights_hash(checkpoint.directory(self.run.checkpoints, trainer.step), group)
        weights = (trainer.step, group, digest)
        return origin(self.run, denoiser, settings.preview, weights, settings.seed, settings.preview_images)

    def _compared_with(self, count: int) -> Data:
        """What is held out, where there are that many events of it; else what is trained on."""
        config, held_out = self.run.config, self.run.config.held_out
        enough = held_out is not None and (held_out.length is None or held_out.length >= count)
        return held_out if held_out is not None and enough else config.training

    def _measured(self, samples: Tensor) -> dict[str, Any]:
        results = {}
        for metric in list(self.metrics):
            try:
                values = metric.measure(samples.clone(), reference(self._compared_with(len(samples)), len(samples)))
                if not values or not all(math.isfinite(value) for value in values.values()):
                    raise ValueError(f"measured {values}")
                results[metric.name] = {name: float(value) for name, value in values.items()}
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a metric may raise anything; a run must not end for a number
                self.metrics.remove(metric)
                self.observers.complain(f"metric {metric.name}", reason(error))
        return results


def reference(data: Data, count: int) -> Tensor:
    """``count`` events of the data as pictures, equally spaced over a finite set, ``(count, *picture)``."""
    data = data.shown
    spread = data.length / count if data.length else 1.0
    return torch.stack([data[int(k * spread)] for k in range(count)])
