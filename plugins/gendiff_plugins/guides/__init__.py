"""Guides: what steers a sample."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the guides."""
    here = "gendiff_plugins.guides"
    return [
        Lazy("guide", "cfg", f"{here}.classifier_free:ClassifierFree", "classifier-free guidance"),
        Lazy(
            "guide",
            "autoguidance",
            f"{here}.autoguidance:Autoguidance",
            "away from what a weaker network of the same kind believes",
        ),
        Lazy(
            "guide",
            "frequency",
            f"{here}.frequency:Frequency",
            "classifier-free guidance with a weight for each band of frequencies",
        ),
    ]
