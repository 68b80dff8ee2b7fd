r"""Process: a rotation and a velocity under one name.

A generalized diffusion is chosen part by part (``--rotation dct --velocity blur``) or, where the parts only make sense together,
by the name of the pair (``--process blur-diffusion``). A process component adds nothing that the parts do not say: it is
replaced by them before anything else happens, and a run stores the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from gendiff.component import Component, abstractmethod
from gendiff.rotation import Rotation
from gendiff.velocity import Velocity


class Process(Component):
    """A named pair; an author gives `parts`."""

    kind: ClassVar[str] = "process"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    @abstractmethod
    def parts(self) -> tuple[Rotation, Velocity]:
        """The rotation U and the velocity B_i; both must be known by name, since a run stores their names."""
