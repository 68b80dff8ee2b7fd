"""Operators: what a measurement sees of an event."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the operators."""
    here = "gendiff_plugins.operators"
    return [Lazy("operator", "identity", f"{here}.pixels:Identity", "all of the event: denoising")]
