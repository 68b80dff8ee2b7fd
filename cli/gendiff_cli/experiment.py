"""Experiment: how ``gendiff reproduce`` is to make what it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiff_cli.crew import crew_of
from gendiff_cli.measured import chosen_instruments
from gendiff_cli.options import Given
from gendiff_cli.remarks import remark_overruled
from gendiff_cli.training import machine

if TYPE_CHECKING:
    import torch

    from gendiff.features import Features
    from gendiff.machine.jobs import Crew
    from gendiff.machine.load import Load
    from gendiff.metric import Metric
    from gendiff.plugin.registry import Registry
    from gendiff.run.layers import Layer


@dataclass(frozen=True)
class Experiment:
    """How much is done, on what, and where it is kept.

    Args:
        registry: the plugins.
        scale: its name.
        given: what the command line says of the configuration.
        seeds, steps, n, features: what is not to be as the scale has it.
        weights: of the features Inception.
        asked: how networks are asked, as a `gendiff.comparison.plan.Plan` takes it.
        device, threads, at_once: what the options of these names say.
        load: of the machine, looked at since the command began.
        folder: where all is kept; what is there is not done again.
        dry_run: whether it is only said what it costs.
        json: whether results are plain values.

    """

    registry: Registry
    scale: str
    given: Given
    seeds: int | None
    steps: int | None
    n: int | None
    features: str | None
    weights: Path | None
    asked: Mapping[str, Any]
    device: str | None
    threads: int | None
    at_once: int | None
    load: Load
    folder: Path
    dry_run: bool
    json: bool

    def layers(self, preset: str) -> list[Layer]:
        """The settings that all arms share: this preset, and over it what was given."""
        from gendiff.run.layers import resolve

        own = {"preset": [preset], **({} if self.steps is None else {"steps": self.steps})}
        layers = Given({**self.given.values, **own}).layers(self.registry)
        remark_overruled(resolve(layers))
        return layers

    def instruments(self, features: str, *more: str) -> list[Features | Metric]:
        """What samples are measured by: the features that were given, or else those of the scale, and more."""
        return chosen_instruments([self.features or features, *more], None, self.weights, (), None)

    def crew(self, count: int, device: torch.device, on_card: Callable[[], int] | None = None) -> Crew:
        """Who trains and measures so many runs; ``on_card`` as of `crew_of`."""
        what = "runs are trained and measured"
        return crew_of(count, self.at_once, self.threads, device, what, sharing=True, on_card=on_card)

    def machine(self, device: torch.device, crew: Crew) -> dict[str, Any]:
        """What times are measured with."""
        return machine(device, self.load, crew)
