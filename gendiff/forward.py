r"""Forward: what a process does to events, seen before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendiff.blur import bands_of
from gendiff.diffusion import Diffusion


@dataclass(frozen=True)
class BandSNR:
    """The signal-to-noise ratio of frequency bands along a process.

    Args:
        steps: the steps i that are shown.
        edges: upper frequency ρ of each band, radians per pixel.
        decibel: ``10 log10(a_i²/s_i²)``, mean over the components of a band, ``(steps, bands)``; NaN where a band is empty.
        crossing: the first step at which a band's mean falls below 0 dB; None where it never does.

    """

    steps: list[int]
    edges: list[float]
    decibel: Tensor
    crossing: list[int | None]


def band_snr(diffusion: Diffusion, bands: int, moments: int) -> BandSNR:
    """The SNR of ``bands`` equal steps of the rotation's own frequency, at ``moments`` equally spaced steps from 1 to N."""
    rho = diffusion.rotation.frequencies(diffusion.event_shape)
    band = torch.broadcast_to(bands_of(rho, bands), diffusion.event_shape)[:1].flatten()
    member = torch.nn.functional.one_hot(band, bands).double()

    def means(i: int) -> Tensor:
        # One channel stands for all: rotations and scales treat them alike, released tiling aside.
        lam = torch.broadcast_to(diffusion.half_log_snr(i), diffusion.event_shape)[:1].flatten()
        return 20 * (lam @ member) / member.sum(0) / torch.log(torch.tensor(10.0, dtype=torch.float64))

    def crossing(of: int) -> int | None:
        low, high = 0, diffusion.N  # λ never rises: bisection
        if not means(high)[of] < 0:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if means(middle)[of] < 0 else (middle, high)
        return high

    steps = sorted({round(1 + k * (diffusion.N - 1) / max(moments - 1, 1)) for k in range(moments)})
    edges = [float(rho.max()) * (k + 1) / bands for k in range(bands)]
    return BandSNR(
        steps,
        edges,
        torch.stack([means(i) for i in steps]),
        [crossing(k) if (band == k).any() else None for k in range(bands)],
    )


def corrupted(diffusion: Diffusion, x_0: Tensor, eps: Tensor, steps: Sequence[int]) -> list[Tensor]:
    """``x_i`` at each step, ``(B, *event)`` each, with the same event-space noise throughout."""
    return [diffusion.q_sample(x_0, torch.full((len(x_0),), i), eps) for i in steps]
