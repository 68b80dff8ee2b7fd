"""Processes: a rotation and a velocity under one name."""

from gendiff.component import Component, Lazy
from gendiff.hookspecs import hookimpl


@hookimpl
def gendiff_components() -> list[type[Component] | Lazy]:
    """Announce the named processes."""
    here = "gendiff_plugins.processes.paper"
    return [
        Lazy("process", "ddpm", f"{here}:DDPM", "standard diffusion: no rotation, one speed"),
        Lazy(
            "process", "blur-diffusion", f"{here}:BlurDiffusion", "blur and noise in the DCT basis, fine detail first"
        ),
    ]
