"""Energy of bands of frequency, block by block."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from gendiff.dct import dct
from gendiff.errors import ConfigError
from gendiff.features import Features
from gendiff.frequency import bands_of, dct_frequency, radius

LEVEL = 1 / 127.5  # one of 256 grey levels: what is finer, rounding makes too
AXES = (1, 2, 3)  # that can be averaged over cells


class Bands(Features):
    """energy of fine detail in every part of a picture: sees grain.

    Each axis is covered by blocks of p samples, spread evenly, which overlap where p does not divide it; each block has its own
    DCT-II. Of band b of a block the energy e is the mean square of the coefficients whose ρ lies in b, equal steps of ρ, as in
    the metric ``spectrum``. A row holds ``log(1 + e/e_1)/2`` for each channel and each band from ``lowest`` on, averaged over
    ``cells`` parts of every axis; e_1 is the energy of one grey level of 8 bits. By default that is the upper half of the
    frequencies, 96 numbers for colour pictures.

    Grain is a little energy where there should be none. The logarithm sees it in a flat block, whatever the energy of edges
    elsewhere, which a power spectrum adds it to; blocks without detail, flat ones, are exactly 0. Blind to signs, and so to what
    the detail shows: give it beside other features. With ``lowest=0`` blur and contrast are seen too.
    """

    name = "bands"

    size: int = Field(8, ge=2, le=64, description="p, the side of a block in samples")
    bands: int = Field(4, ge=1, le=32, description="frequency bands of a block")
    lowest: int = Field(2, ge=0, le=31, description="the first band that counts; 0 is the lowest frequency")
    cells: int = Field(4, ge=1, le=64, description="parts of each axis over which logarithms are averaged, at most")

    def extract(self, events: Tensor) -> Tensor:
        axes = events.ndim - 2
        if axes not in AXES:
            raise ConfigError(f"features 'bands' cannot take events of {axes} axes", fix="use dct")
        x, counts = events.float(), []
        for axis in range(2, 2 + axes):
            places = self._places(events.shape[axis]).to(x.device)
            x = x.index_select(axis, places.flatten())
            counts.append(len(places))
        sizes = [n // count for n, count in zip(x.shape[2:], counts, strict=True)]
        band = bands_of(radius([dct_frequency(p) for p in sizes]), self.bands).flatten()
        kept = [b for b in band.unique().tolist() if b >= self.lowest]
        if not kept:
            raise ConfigError(
                f"features 'bands': no frequency of {'x'.join(map(str, events.shape[2:]))} lies in band {self.lowest} or above",
                details=[f"blocks of {'x'.join(map(str, sizes))} have bands 0 to {int(band.max())}"],
                fix="choose a lower `lowest`, or larger blocks",
            )
        n, channels = x.shape[:2]
        # (n, C, blocks, p, blocks, p) -> (n, C, *blocks, *p)
        x = x.reshape(n, channels, *(part for pair in zip(counts, sizes, strict=True) for part in pair))
        x = x.permute(0, 1, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2))
        energy = dct(x.reshape(n, -1, *sizes)).square().flatten(2)
        of_band = torch.stack([energy[..., band == b].mean(-1) for b in kept], 1)  # (n, bands, C x blocks)
        log = (of_band / LEVEL**2).log1p() / 2
        cells = [min(self.cells, count) for count in counts]
        return interpolate(log.reshape(n, -1, *counts), size=cells, mode="area").flatten(1)

    def _places(self, n: int) -> Tensor:
        """Which samples of an axis of n are in which block: ``(blocks, p)``."""
        p = min(self.size, n)
        starts = torch.linspace(0, n - p, -(-n // p), dtype=torch.float64).round().long()
        return starts[:, None] + torch.arange(p)

    @property
    def fingerprint(self) -> str:
        return f"bands/1 size={self.size} bands={self.bands} lowest={self.lowest} cells={self.cells}"
