"""Velocities: how fast each component is corrupted."""

from gendiff.component import Component, Lazy
from gendiff.hookspecs import hookimpl


@hookimpl
def gendiff_components() -> list[type[Component] | Lazy]:
    """Announce the velocities."""
    here = "gendiff_plugins.velocities"
    return [
        Lazy("velocity", "blur", f"{here}.blur:Blur", "blur and noise: B_i = I - (1 - β_i) D^{2 f(i)}"),
        Lazy("velocity", "isotropic", f"{here}.isotropic:Isotropic", "noise alone: B_i = β_i I, DDPM in any basis"),
        Lazy(
            "velocity",
            "fine-to-coarse",
            f"{here}.fine_to_coarse:FineToCoarse",
            "the paper's control: B_i = I - (1 - β_i) (I - D)^{2 f(i)}",
        ),
    ]
