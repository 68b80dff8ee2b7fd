"""The principal components of the data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from pydantic import Field
from torch import Tensor

from gendiff.blur import LOG_FLOOR, laplacian_matrix, symmetric_blur_matrix
from gendiff.data import Data
from gendiff.dct import apply_per_axis, dct_matrix
from gendiff.errors import ConfigError
from gendiff.frequency import dct_frequency, radius
from gendiff.precision import full_precision
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape, in_full, spatial

MOST_SAMPLES = 4096  # of a tile: its basis is a dense matrix of that side
TIE_BREAK = 1e-8  # of the norm of the covariance
CHUNK = 2**22  # samples of data held at a time

Tile = tuple[int, ...]


class KLT(Rotation):
    """principal components of patches of the data (Karhunen-Loève).

    A picture is cut from the top left into tiles of p x p pixels, a signal into tiles of p samples; where a side is no
    multiple of p, the last tiles are smaller. Tiles of one shape share one basis, the eigenvectors of

        C + 1e-8 |C| S ,    C = covariance of the tiles about their mean, |C| its Frobenius norm,

    pooled over positions, channels and events. S is a smooth covariance: DCT-II eigenvectors, in order of frequency, with
    the equally spaced eigenvalues 1, 1 - 1/d, ..., 1/d. It decides what the data leave open: equal variances, and directions
    in which nothing varies, which so come out smooth and in order of frequency. Components of variances v and w are turned
    towards each other by no more than about 1e-8 |C|/|v - w|.

    A coefficient stays in the place of its tile: row by row, descending variance. Sign: the first entry larger than 1e-8 in
    size is positive. It looks at as many events, k, as hold ``tiles`` whole tiles, over all channels: of n > k at number
    floor(i n/k), i = 0, 1, ...; of endless data at the first. It belongs to the height and width that it was fitted to; the
    number of channels is free. Tiles of more than 4096 samples are refused.

    Reference: Jain 1989, Fundamentals of Digital Image Processing, Section 5.11.
    """

    name = "klt"
    patch: int = Field(8, ge=0, description="side of a tile in pixels; 0: one tile, the whole picture")
    tiles: int = Field(20_000, ge=1, description="how many tiles of the data it looks at")

    def fit(self, data: Data) -> dict[str, Tensor]:
        """The basis of each shape of tile, ``(d, d)`` float64 with columns u_k, and the spatial sizes they belong to."""
        sizes = spatial(data.event_shape)
        regions = list(self._regions(sizes))
        for tile, _ in regions:
            if prod(tile) > MOST_SAMPLES:
                raise ConfigError(
                    f"rotation 'klt' cannot take tiles of {_text(tile)}",
                    details=[f"a tile has at most {MOST_SAMPLES} samples: its basis is a dense matrix of that side"],
                    fix=f"choose patch between 1 and {int(MOST_SAMPLES ** (1 / len(tile)) + 1e-9)}",
                    subject="rotation.patch",
                )
        covariances = {tile: Covariance.of_nothing(prod(tile)) for tile, _ in regions}
        indices, at_a_time = self._indices(data), max(CHUNK // prod(data.event_shape), 1)
        for start in range(0, len(indices), at_a_time):
            x = torch.stack([data[index] for index in indices[start : start + at_a_time]]).double()
            for tile, region in regions:
                covariances[tile] += Covariance.of(cut(x[region], tile).flatten(0, -2))
        bases = {_key(tile): principal_components(covariance, tile) for tile, covariance in covariances.items()}
        return {"sizes": torch.tensor(sizes), **bases}

    def rotate(self, x: Tensor) -> Tensor:
        return self._apply(x, transpose=False)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return self._apply(x_bar, transpose=True)

    def log_blur_spectrum(self, event_shape: EventShape, sigma: float) -> Tensor:
        blurs = [symmetric_blur_matrix(n, sigma) for n in spatial(event_shape)]
        D = self._quadratic_forms(spatial(event_shape), [blurs])
        return D.clamp(0, 1).log().clamp_min(LOG_FLOOR)  # rounding may leave [0, 1]

    def frequencies(self, event_shape: EventShape) -> Tensor:
        sizes = spatial(event_shape)
        eyes = [torch.eye(n, dtype=torch.float64) for n in sizes]
        terms = [[*eyes[:k], laplacian_matrix(n), *eyes[k + 1 :]] for k, n in enumerate(sizes)]
        return self._quadratic_forms(sizes, terms).clamp_min(0).sqrt()

    def _quadratic_forms(self, sizes: tuple[int, ...], terms: list[list[Tensor]]) -> Tensor:
        """``u_k^T M u_k``, ``(1, *sizes)``, M the sum over terms of a product over axes: only the tile of k matters."""
        self._require(sizes)
        forms = torch.empty(1, *sizes, dtype=torch.float64)
        for tile, region in self._regions(sizes):
            u = self.learned[_key(tile)].T.reshape(-1, 1, *tile)
            corners = [range(part.start, part.stop, p) for part, p in zip(region[2:], tile, strict=True)]
            for corner in itertools.product(*corners):
                place = [slice(first, first + p) for first, p in zip(corner, tile, strict=True)]
                within = [[M[part, part] for M, part in zip(term, place, strict=True)] for term in terms]
                form = torch.stack([(u * apply_per_axis(u, matrices)).flatten(1).sum(1) for matrices in within])
                forms[(slice(0, 1), *place)] = form.sum(0).reshape(1, *tile)
        return forms

    def _require(self, sizes: tuple[int, ...]) -> None:
        if (own := tuple(self.learned["sizes"].tolist())) != sizes:
            raise ConfigError(
                f"rotation 'klt' was fitted to events of {_text(own)}, these are {_text(sizes)}",
                fix="fit it to the data it is used with",
            )

    def _apply(self, x: Tensor, transpose: bool) -> Tensor:
        x = in_full(x)
        sizes = tuple(x.shape[2:])
        self._require(sizes)
        y = torch.empty_like(x)
        with full_precision(x.device):
            for tile, region in self._regions(sizes):
                U = _cast_basis(self, tile, x.dtype, x.device)
                y[region] = join(cut(x[region], tile) @ (U.T if transpose else U), tile)
        return y

    def _regions(self, sizes: tuple[int, ...]) -> Iterator[tuple[Tile, tuple[slice, ...]]]:
        """The shapes of tiles, and where in ``(B, C, *spatial)`` the tiles of each shape lie side by side."""
        per_axis = []
        for n in sizes:
            p = min(self.patch, n) or n
            whole = n - n % p
            per_axis.append([(p, slice(0, whole)), *([(n % p, slice(whole, n))] if n % p else [])])
        for combination in itertools.product(*per_axis):
            yield tuple(p for p, _ in combination), (slice(None), slice(None), *(part for _, part in combination))

    def _indices(self, data: Data) -> Sequence[int]:
        per_event = data.event_shape[0] * prod(n // (min(self.patch, n) or n) for n in spatial(data.event_shape))
        return data.spread(-(-self.tiles // per_event))


@lru_cache(maxsize=16)
def _cast_basis(rotation: KLT, tile: Tile, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The basis of one shape of tile where and how it is used."""
    with torch.inference_mode(False):  # what is first used while sampling may later meet autograd
        basis: Tensor = rotation.learned[_key(tile)].to(device=device, dtype=dtype)
        return basis


def cut(x: Tensor, tile: Tile) -> Tensor:
    """``(B, C, *spatial) -> (B, C, *tiles, d)``: the d samples of each tile, row by row."""
    k = len(tile)
    sides = [side for n, p in zip(x.shape[2:], tile, strict=True) for side in (n // p, p)]
    return x.reshape(*x.shape[:2], *sides).movedim(list(range(3, 3 + 2 * k, 2)), list(range(-k, 0))).flatten(-k)


def join(y: Tensor, tile: Tile) -> Tensor:
    """The inverse of `cut`."""
    k = len(tile)
    tiles = y.shape[2:-1]
    y = y.unflatten(-1, tile).movedim(list(range(-k, 0)), list(range(3, 3 + 2 * k, 2)))
    return y.reshape(*y.shape[:2], *(n * p for n, p in zip(tiles, tile, strict=True)))


@dataclass(frozen=True)
class Covariance:
    """Count, mean ``(d,)`` and scatter ``(d, d)`` of vectors; sums are exact where nothing varies (Chan et al. 1983)."""

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of_nothing(cls, d: int) -> Covariance:
        return cls(0, torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64))

    @classmethod
    def of(cls, vectors: Tensor) -> Covariance:
        """Of the rows of ``(count, d)`` float64."""
        mean = vectors.mean(0)
        deviations = vectors - mean
        return cls(len(vectors), mean, deviations.T @ deviations)

    def __add__(self, other: Covariance) -> Covariance:
        count = self.count + other.count
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(shift, shift) * (self.count * other.count / count)
        return Covariance(count, self.mean + shift * (other.count / count), scatter)

    @property
    def matrix(self) -> Tensor:
        """C, ``(d, d)``."""
        return self.scatter / self.count


def principal_components(covariance: Covariance, tile: Tile) -> Tensor:
    """Eigenvectors as columns, descending, of C and a little of the smooth S."""
    C = covariance.matrix
    scale = torch.linalg.matrix_norm(C).item()
    _, vectors = torch.linalg.eigh(C + (TIE_BREAK * scale if scale > 0 else 1.0) * smooth_covariance(tile))
    U: Tensor = vectors.flip(1)  # eigh is ascending
    first = (U.abs() > 1e-8).int().argmax(0)
    return (U * U.gather(0, first[None]).sign()).contiguous()


def smooth_covariance(tile: Tile) -> Tensor:
    """S, ``(d, d)``: DCT-II eigenvectors, with the eigenvalues 1, 1 - 1/d, ..., 1/d in order of frequency."""
    U = torch.ones(1, 1, dtype=torch.float64)
    for n in tile:
        U = torch.kron(U, dct_matrix(n))
    rho = radius([dct_frequency(n) for n in tile]).flatten()
    order = rho.round(decimals=9).argsort(stable=True)
    values = torch.empty_like(rho)
    values[order] = 1 - torch.arange(len(rho), dtype=torch.float64) / len(rho)
    return (U * values) @ U.T


def _text(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def _key(tile: Tile) -> str:
    return f"basis_{_text(tile)}"
