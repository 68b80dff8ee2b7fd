"""Rotations: the bases in which a corruption can be diagonal."""

from gendiff.component import Component, Lazy
from gendiff.hookspecs import hookimpl


@hookimpl
def gendiff_components() -> list[type[Component] | Lazy]:
    """Announce the rotations."""
    here = "gendiff_plugins.rotations"
    return [
        Lazy("rotation", "identity", f"{here}.identity:Identity", "pixels themselves: U = I, D = 1"),
        Lazy("rotation", "dct", f"{here}.dct:DCT", "orthonormal DCT-II of every spatial axis"),
        Lazy(
            "rotation",
            "blur-eigen",
            f"{here}.blur_eigen:BlurEigen",
            "the paper's basis: eigenvectors of a zero-padded blur",
        ),
    ]
