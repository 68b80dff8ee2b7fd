"""Data: where events come from."""

from gendiff.component import Component, Lazy
from gendiff.hookspecs import hookimpl


@hookimpl
def gendiff_components() -> list[type[Component] | Lazy]:
    """Announce the built-in data."""
    here = "gendiff_plugins.data"
    return [
        Lazy("data", "digits", f"{here}.digits:Digits", "1797 handwritten digits, 8x8 grey, part of the package"),
        Lazy("data", "dead-leaves", f"{here}.dead_leaves:DeadLeaves", "endless scenes of occluding disks, near 1/f²"),
        Lazy("data", "gaussian-field", f"{here}.gaussian_field:GaussianField", "endless fields with an exact spectrum"),
        Lazy("data", "folder", f"{here}.folder:Folder", "the image files below a folder, resized to one size"),
    ]
