"""Loggers: where else a run is written down, besides metrics.jsonl."""

from gendiff.component import Component, Lazy
from gendiff.plugin.hookspecs import hookimpl


@hookimpl
def gendiff_components() -> list[type[Component] | Lazy]:
    """Announce the loggers."""
    here = "gendiff_plugins.loggers"
    return [
        Lazy(
            "logger",
            "tensorboard",
            f"{here}.tensorboard:TensorBoard",
            "event files for TensorBoard in the run directory",
        ),
        Lazy("logger", "wandb", f"{here}.weights_and_biases:WeightsAndBiases", "a run of Weights & Biases"),
    ]
