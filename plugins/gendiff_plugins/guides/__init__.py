"""Guides: what steers a sample."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the guides."""
    here = "gendiff_plugins.guides"
    return [Lazy("guide", "cfg", f"{here}.classifier_free:ClassifierFree", "classifier-free guidance")]
