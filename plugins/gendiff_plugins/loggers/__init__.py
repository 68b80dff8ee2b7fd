"""Loggers: where else a run is written down, besides metrics.jsonl."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
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
