"""Metrics: how far samples are from data."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the metrics."""
    here = "gendiff_plugins.metrics"
    return [
        Lazy("metric", "spectrum", f"{here}.spectrum:Spectrum", "error of the log power spectrum, by frequency band"),
        Lazy("metric", "moments", f"{here}.moments:SampleMoments", "error of brightness and contrast, by channel"),
    ]
