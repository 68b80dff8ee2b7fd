"""The DCT of blocks."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from gendiff.dct import dct_matrix
from gendiff.frequency import dct_frequency
from gendiff.rotation import SeparableRotation


class BlockDCT(SeparableRotation):
    """orthonormal DCT-II of blocks, as in JPEG.

    Every spatial axis is cut from its beginning into blocks of p samples, and each block has its own DCT-II,
    ``u_k(m) = c_k cos(πk(m + 1/2)/p)``; where n is no multiple of p, the last block is shorter. A coefficient stays in the
    place of its block, index k at sample k of it, with ω = πk/p: all blocks have the same frequencies, and so the same speeds. A
    blur reaches over the borders of blocks, so D is what a component keeps of its own energy, ``u_k^T W u_k``.

    DCTdiff halves the chroma channels before; here they keep their size, and are told apart by the rotation
    ``ycbcr+block-dct``.

    Reference: Ning et al. 2024, DCTdiff: Intriguing Properties of Image Generative Modeling in the DCT Space, arXiv 2412.15032.
    """

    name = "block-dct"
    size: int = Field(8, ge=1, le=4096, description="p, the side of a block in samples")

    def matrix(self, n: int) -> Tensor:
        U: Tensor = torch.block_diag(*(dct_matrix(p) for p in self._blocks(n)))
        return U

    def axis_frequency(self, n: int) -> Tensor:
        return torch.cat([dct_frequency(p) for p in self._blocks(n)])

    def _blocks(self, n: int) -> list[int]:
        return [min(self.size, n - start) for start in range(0, n, self.size)]
