"""The values themselves."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from gendiff.errors import ConfigError
from gendiff.features import Features


class Pixels(Features):
    """the values themselves.

    ``downsample`` averages over blocks of that many samples along each axis (of an axis that is no multiple, over nearly equal
    parts that may share a sample). All positions count alike: good for small, centred pictures such as digits.
    """

    name = "pixels"

    downsample: int = Field(1, ge=1, description="side of the blocks that are averaged; 1: none")

    def extract(self, events: Tensor) -> Tensor:
        x = events.float()
        if self.downsample > 1:
            if x.ndim not in (3, 4, 5):
                raise ConfigError(
                    f"features 'pixels' cannot average events of {x.ndim - 2} axes", fix="use downsample=1"
                )
            x = interpolate(x, size=[-(-n // self.downsample) for n in x.shape[2:]], mode="area")
        return x.flatten(1).clone()  # not a view of the events

    @property
    def fingerprint(self) -> str:
        return f"pixels/1 downsample={self.downsample}"
