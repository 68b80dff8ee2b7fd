r"""Statistics: mean and covariance of rows of features, and their file.

For rows f_1..f_n in d dimensions

    μ = (1/n) Σ f_k ,    S = (1/(n-1)) Σ (f_k - μ)(f_k - μ)^T ,

all in float64. The distance needs S only through a factor F of r rows, ``S = F^T F``: for n <= d the centred rows themselves,
divided by sqrt(n - 1), so that S, whose rank is below n, is never formed; otherwise from the eigenvectors of S.

The file is that of pytorch-fid: an ``.npz`` with ``mu`` (d,) and ``sigma`` (d, d), which its command line reads, as this module
reads its files; ``n``, ``features`` and ``fingerprint`` say more where they are there. It is read without pickle.
"""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import DataError, reason
from gendiff.storage import reading
from gendiff.storage.arrays import Arrays, npz
from gendiff.storage.files import Files

HELD = ("mu", "sigma", "n", "features", "fingerprint")  # what is read of a file; pytorch-fid writes the first two
WIDEST = 2**14  # dimensions; the Inception network has 2048
LARGEST = 1e100  # of a value: of larger ones no square is finite, and no eigenvalue comes out
BLOCK = 256  # rows that are summed at once, at least: what is added rarely is added exactly


class Statistics:
    """Mean and covariance of n rows in d dimensions, float64 on the CPU.

    Args:
        n: how many rows; None where a file does not say.
        mean: μ, shape ``(d,)``.
        covariance: S, shape ``(d, d)``, divided by n - 1.
        factor: F, shape ``(r, d)``, ``F^T F = S``; one of the two is enough, the other one is computed when it is asked for.
        features: the spec of the features, if known.
        fingerprint: their fingerprint, if known.

    """

    def __init__(
        self,
        n: int | None,
        mean: Tensor,
        covariance: Tensor | None = None,
        factor: Tensor | None = None,
        *,
        features: str = "",
        fingerprint: str = "",
    ) -> None:
        if covariance is None and factor is None:
            raise ValueError("statistics need a covariance or a factor of it")
        self.n = n
        self.mean = mean
        self._covariance = covariance
        self._factor = factor
        self.features = features
        self.fingerprint = fingerprint

    @classmethod
    def of(cls, rows: Tensor, *, features: str = "", fingerprint: str = "") -> Statistics:
        """Those of ``(n, d)`` rows, n >= 2; raises `DataError` for fewer, and where they are not finite."""
        accumulator = Accumulator()
        accumulator.add(rows)
        return accumulator.statistics(features=features, fingerprint=fingerprint)

    @cached_property
    def covariance(self) -> Tensor:
        """S, shape ``(d, d)``."""
        if self._covariance is not None:
            return self._covariance
        covariance: Tensor = self.factor.T @ self.factor
        return covariance

    @cached_property
    def factor(self) -> Tensor:
        r"""F, shape ``(r, d)``, ``F^T F = S`` to rounding.

        From ``S = V diag(λ) V^T`` it is ``diag(sqrt λ) V^T``, eigenvalues below d ε λ_max left out: they are rounding errors,
        and their roots would not be small.
        """
        if self._factor is not None:
            return self._factor
        values, vectors = torch.linalg.eigh(self.covariance)
        noise = len(values) * torch.finfo(values.dtype).eps * values[-1]
        rank = int((values > noise).sum())
        if self.n is not None:
            rank = min(rank, self.n - 1)
        first = len(values) - rank  # ascending
        factor: Tensor = values[first:].sqrt()[:, None] * vectors[:, first:].T
        return factor

    def save(self, path: Path) -> None:
        """Write the file, whose name should end in ``.npz`` for pytorch-fid; an older one is replaced at once."""
        more: dict[str, Any] = {} if self.n is None else {"n": np.int64(self.n)}
        more |= {key: np.str_(text) for key in ("features", "fingerprint") if (text := getattr(self, key))}
        content = io.BytesIO()
        np.savez(content, mu=self.mean.numpy(), sigma=self.covariance.numpy(), **more)
        Files().replace(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read a file of `save` or of pytorch-fid; raises `DataError` where it is missing, damaged or something else."""
        try:
            with npz(path) as arrays:
                flaw = _shapes_flaw(arrays)
                values = {} if flaw else {key: arrays[key] for key in HELD if key in arrays}
        except Exception as error:  # zipfile, zlib and NumPy raise whatever they trip over
            missing = isinstance(error, FileNotFoundError)
            raise DataError(
                "no statistics file" if missing else "cannot read the statistics",
                where=str(path),
                details=[] if missing else [reason(error)],
                fix="give an .npz file with mu and sigma, as gendiff and pytorch-fid write it",
            ) from error
        if flaw := flaw or _flaw(values):
            raise DataError(
                f"not statistics of features: {flaw}",
                where=str(path),
                fix="give an .npz file with mu and sigma, as gendiff and pytorch-fid write it",
            )
        mean, covariance = (torch.from_numpy(np.asarray(values[key], dtype=np.float64)) for key in ("mu", "sigma"))
        return cls(
            int(values["n"]) if "n" in values else None,
            mean,
            covariance,
            features=str(values.get("features", "")),
            fingerprint=str(values.get("fingerprint", "")),
        )


def _shapes_flaw(arrays: Arrays) -> str:
    """Why these are no statistics, by what their headers say; empty where they may be."""
    headers = {key: arrays.header(key) for key in HELD if key in arrays}
    for key in ("mu", "sigma"):
        if key not in headers:
            return f"there is no '{key}'"
        if headers[key].dtype.kind != "f":
            return f"'{key}' holds {headers[key].dtype}, not real numbers"
    mu, sigma = headers["mu"].shape, headers["sigma"].shape
    if len(mu) != 1 or not 0 < mu[0] <= WIDEST or sigma != (mu[0], mu[0]):
        return f"'mu' of shape {mu} and 'sigma' of shape {sigma}"
    if "n" in headers and (headers["n"].shape or headers["n"].dtype.kind not in "iu"):
        return "'n' is no count of at least 2"
    texts = (headers[key] for key in ("features", "fingerprint") if key in headers)
    return "" if all(not text.shape and text.size <= reading.JSON for text in texts) else "its texts are too long"


def _flaw(arrays: dict[str, np.ndarray]) -> str:
    """Why these arrays are no statistics; empty where they are."""
    for key in ("mu", "sigma"):
        if not np.isfinite(arrays[key]).all():
            return f"'{key}' is not finite"
        if np.abs(arrays[key]).max() > LARGEST:
            return f"'{key}' holds values beyond {LARGEST:g}"
    sigma = arrays["sigma"]
    if np.abs(sigma - sigma.T).max() > 1e-4 * np.abs(sigma).max() or sigma.diagonal().min() < 0:
        return "'sigma' is no covariance"
    if "n" in arrays and arrays["n"] < 2:
        return "'n' is no count of at least 2"
    return ""


class Accumulator:
    """Gathers rows, a chunk at a time, into `Statistics`; how they are cut into chunks changes nothing, not even the last bit.

    Rows are kept until they fill a block of max(d, 256), which is summed about its own mean and merged with those before by
    the update of Chan, Golub, LeVeque 1983 (Algorithms for computing the sample variance, Am. Stat. 37(3)): no difference of
    large sums is ever taken. So up to d rows are all kept, as the factor needs them.
    """

    def __init__(self) -> None:
        self.n = 0  # rows so far, those waiting among them
        self._waiting: list[Tensor] = []
        self._sums: tuple[int, Tensor, Tensor] | None = None  # count, mean, scatter

    def add(self, rows: Tensor) -> None:
        """Add ``(n, d)`` rows of any real dtype, on any device; raises `DataError` where they are not finite."""
        rows = rows.detach().to(device="cpu", copy=True)  # the caller may go on to use its own
        if not bool(torch.isfinite(rows).all()):
            bad = int(torch.isfinite(rows).all(1).logical_not().nonzero()[0])
            raise DataError(
                f"the features of event {self.n + bad} are not finite",
                fix="look at that event: it may hold NaN or very large values",
            )
        self.n += len(rows)
        self._waiting.append(rows)
        block = max(rows.shape[1], BLOCK)
        if sum(map(len, self._waiting)) <= block:
            return
        *full, rest = torch.cat(self._waiting).split(block)
        for part in full:
            self._sums = _merge(self._sums, _scatter(part))
        self._waiting = [rest.clone()]

    def statistics(self, *, features: str = "", fingerprint: str = "") -> Statistics:
        """Those of all rows so far; raises `DataError` for fewer than two."""
        if self.n < 2:
            raise DataError(f"{self.n} events have no covariance", fix="give at least two")
        waiting = torch.cat(self._waiting)
        if self._sums is None and self.n <= waiting.shape[1]:
            rows = waiting.double()
            mean = rows.mean(0)
            return Statistics(
                self.n, mean, factor=(rows - mean) / (self.n - 1) ** 0.5, features=features, fingerprint=fingerprint
            )
        _, mean, scatter = _merge(self._sums, _scatter(waiting))
        return Statistics(self.n, mean, scatter / (self.n - 1), features=features, fingerprint=fingerprint)


def _scatter(rows: Tensor) -> tuple[int, Tensor, Tensor]:
    rows = rows.double()
    mean = rows.mean(0)
    deviations = rows - mean
    return len(rows), mean, deviations.T @ deviations


def _merge(one: tuple[int, Tensor, Tensor] | None, other: tuple[int, Tensor, Tensor]) -> tuple[int, Tensor, Tensor]:
    if one is None:
        return other
    (n, mean, scatter), (m, mean_m, scatter_m) = one, other
    shift = mean_m - mean
    total = scatter.add_(scatter_m).addr_(shift, shift, alpha=n * m / (n + m))
    return n + m, mean + shift * (m / (n + m)), total
