"""What a named process promises: a rotation and a velocity that are known by name and fit each other."""

from __future__ import annotations

from gendiff.component import component_class
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.process import Process
from gendiff.testing.card import check, require
from gendiff.testing.probes import fitted, fitted_velocity
from gendiff.testing.steps import destroys, terminal

SHAPES = ((2, 5, 7), (1, 12), (1, 8, 8), (1, 16))  # one for whoever takes squares, signals or powers of two only
_PARTS = "`parts()`: it returns a rotation and a velocity"


@check("process", "its parts are known by name", _PARTS)
def parts(process: Process) -> str:
    """A run stores their names, not the process's."""
    rotation, velocity = process.parts()
    for part in (rotation, velocity):
        cls = component_class(part.kind, part.name)
        require(cls is type(part), f"{part.kind} '{part.name}' in the registry", f"{cls.__name__}")
    return f"{rotation.spec}, {velocity.spec}"


@check("process", "information is only ever destroyed, and the steps compose to the marginal", _PARTS)
def destroying(process: Process) -> str:
    """For pictures, signals or both."""
    rotation, velocity = process.parts()
    results, refusals = [], []
    for shape in SHAPES:
        try:
            ready = fitted(rotation, shape)
            scales = fitted_velocity(velocity, ready, shape).scales(ready, shape, 200)
        except ConfigError as error:
            refusals.append(error.what)
            continue
        Diffusion(ready, scales, shape)
        results.append(f"{destroys(scales, shape)}; {terminal(scales)}")
    require(bool(results), "pictures or signals that it takes", "; ".join(refusals))
    return results[0]
