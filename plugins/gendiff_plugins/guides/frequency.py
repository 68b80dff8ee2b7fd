"""Frequency-decoupled guidance, in the basis of the process."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.frequency import bands_of
from gendiff.guide import Scene, mixed
from gendiff.rotation import Rotation
from gendiff.score import Pivot, ScoreModel
from gendiff.shapes import EventShape, shown_shape
from gendiff_plugins.guides.contrast import FreeContrast


class Frequency(FreeContrast):
    r"""classifier-free guidance with a weight for each band of frequencies.

    ``free_k + weight_b(k) (conditional_k - free_k)`` of both entries of the belief, b(k) being the band of component k by its
    frequency ρ_k in the basis of the process, alike for each channel. Equal weights are `cfg`. The paper has two bands, by a
    Laplacian pyramid; here they are those of any basis, and their components move at speeds of their own. In a basis without
    frequencies (identity) they are those of the DCT, which is possible where all components move alike.

    It acts on a component where its noise level σ = s/a is in (sigma_min, sigma_max].

    Reference: Sadat et al. 2025, Guidance in the Frequency Domain Enables High-Fidelity Sampling at Low CFG Scales, arXiv
    2506.19713.
    """

    name = "frequency"

    weights: tuple[float, ...] = Field(
        (1.5, 3.0), min_length=1, description="of each band, the lowest first; 1 is the conditional model, 0 the other"
    )
    edges: tuple[float, ...] = Field(
        (), description="where the next band begins, in radians per pixel; left out, equal steps of ρ"
    )

    @field_validator("edges")
    @classmethod
    def _part(cls, edges: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        count = len(info.data.get("weights", ()))
        if edges and count and len(edges) != count - 1:
            raise ValueError(f"they part {len(edges) + 1} bands, and there are {count} weights")
        if any(not low < high for low, high in pairwise((0.0, *edges))):
            raise ValueError("the first must be above 0, and each above the one before")
        return edges

    @property
    def distinct(self) -> set[float]:
        return set(self.weights)

    def check(self, model: ScoreModel, scene: Scene) -> None:
        super().check(model, scene)
        _, rho = _basis(scene.diffusion)
        count = torch.bincount(self._bands(rho).flatten(), minlength=len(self.weights))
        if not count.all():
            empty = ", ".join(str(band) for band, size in enumerate(count.tolist()) if not size)
            raise ConfigError(
                f"guide 'frequency' has {len(count)} bands, and some hold no component: {empty}, counted from 0",
                details=[
                    f"events are {shown_shape(scene.diffusion.event_shape)}, and ρ goes from {rho.min():.3g} to {rho.max():.3g}"
                ],
                fix="give fewer weights, or other edges",
            )

    def mix(self, other: Pivot, own: Pivot, scene: Scene) -> Pivot:
        if len(self.distinct) == 1:
            return super().mix(other, own, scene)
        diffusion = scene.diffusion
        basis, _ = _basis(diffusion)
        weight = _weights(self, basis, diffusion.event_shape, own.x_0.device, own.x_0.dtype)
        if basis is diffusion.rotation:
            return mixed(other, own, weight)

        def weighed(difference: Tensor) -> Tensor:
            return diffusion.rotate(basis.unrotate(weight * basis.rotate(diffusion.unrotate(difference))))

        return Pivot(other.x_0 + weighed(own.x_0 - other.x_0), other.eps + weighed(own.eps - other.eps))

    def _bands(self, rho: Tensor) -> Tensor:
        """The band of each component, int64, in the shape of ρ."""
        if self.edges:
            return torch.bucketize(rho, torch.tensor(self.edges, dtype=rho.dtype), right=True)
        return bands_of(rho, len(self.weights))


def _basis(diffusion: Diffusion) -> tuple[Rotation, Tensor]:
    """In whose coordinates components have frequencies, and these, ρ; raises `ConfigError` where there is none such."""
    rho = _frequencies(diffusion.rotation, diffusion.event_shape)
    if rho is not None:
        return diffusion.rotation, rho
    if not diffusion.alike:
        raise ConfigError(
            f"rotation '{diffusion.rotation.name}' has no frequencies, and its components move at different speeds",
            fix="guide a run in a basis that has some, such as --rotation dct, or choose another guide: cfg",
        )
    dct = Rotation("dct")
    return dct, dct.frequencies(diffusion.event_shape)


@lru_cache(maxsize=16)
def _weights(
    guide: Frequency, basis: Rotation, event_shape: EventShape, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """The weight of each component, brought to the device once: that waits for all that the device has to do."""
    with torch.inference_mode(False):
        return torch.tensor(guide.weights)[guide._bands(basis.frequencies(event_shape))].to(device, dtype)


@lru_cache(maxsize=16)
def _frequencies(rotation: Rotation, event_shape: EventShape) -> Tensor | None:
    """ρ of each component, broadcasting to the event; None for a basis that knows no blur. It may take a rotation for each."""
    with torch.inference_mode(False):
        return rotation.frequencies(event_shape) if rotation.log_blur_spectrum(event_shape, 1.0).any() else None
