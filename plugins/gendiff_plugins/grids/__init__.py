"""Grids: which steps a sampler evaluates the model at."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the grids."""
    here = "gendiff_plugins.grids"
    return [
        Lazy("grid", "uniform", f"{here}.spaced:Uniform", "equally spaced in i"),
        Lazy("grid", "lambda", f"{here}.spaced:Lambda", "equally spaced in log-SNR"),
        Lazy("grid", "karras", f"{here}.spaced:Karras", "equally spaced in (s/a)^(1/ρ)"),
        Lazy("grid", "arc-length", f"{here}.spaced:ArcLength", "equally spaced in how far the data move"),
        Lazy("grid", "explicit", f"{here}.explicit:Explicit", "the steps that are given"),
    ]
