r"""Post-hoc averages: weights averaged over any length, made after training of two averages that were kept over time.

An average with a power-function profile,

    θ̂_γ(t) = ∫ p_γ(τ; t) θ(τ) dτ ,   p_γ(τ; t) = (γ + 1) τ^γ / t^(γ+1)   on [0, t] ,

weighs the steps of a run by a shape that grows with the run: its relative width σ, the standard deviation of p divided by t, is

    σ² = (γ + 1) / ((γ + 2)² (γ + 3)) ,

and it is tracked exactly by ``θ̂ <- β θ̂ + (1 - β) θ`` with ``β(t) = (1 - 1/t)^(γ+1)``: step τ then has the weight of p over
[τ-1, τ]. Of snapshots ``θ̂_γk(t_k)`` any other average is made, that whose profile is nearest in least squares:

    Σ_k x_k p_k ≈ p   with   A x = b ,   A_kl = <p_k, p_l> ,   b_k = <p_k, p> .

Reference: Karras, Aittala, Lehtinen, Hellsten, Aila, Laine 2024, Analyzing and Improving the Training Dynamics of Diffusion
Models, arXiv 2312.02696, Section 3 and Appendix C.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendiff.command import option, setting
from gendiff.errors import ConfigError, DataError
from gendiff.run import checkpoint

WIDEST = 0.288  # σ where γ is 0: the mean of all steps
FAR = 0.05  # relative error of a profile from which on it is said


@dataclass(frozen=True)
class Profile:
    """p_γ(τ; t): ``t`` > 0 in steps, the relative ``width`` σ in (0, 0.288]."""

    width: float
    t: float

    @property
    def gamma(self) -> float:
        """γ >= 0: the root of ``σ² (γ + 2)² (γ + 3) = γ + 1``."""
        return _gamma(self.width)

    def decay(self) -> float:
        """β(t), in [0, 1): what is kept of the average of the step before."""
        return float((1 - 1 / self.t) ** (self.gamma + 1))

    def product(self, other: Profile) -> float:
        """<p, q>, the integral of the product of two profiles, in 1/steps."""
        a, b, first = self.gamma + 1, other.gamma + 1, min(self.t, other.t)
        return float(a * b / (a + b - 1) * (first / self.t) ** a * (first / other.t) ** b / first)


@cache
def _gamma(width: float) -> float:
    k = width**-2
    return float(np.roots([1, 7, 16 - k, 12 - k]).real.max())


def coefficients(kept: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, float]:
    """x, float64: what of each profile to take for the one that is wanted; and how far off that is, ``|Σ x_k p_k - p|/|p|``."""
    A = np.array([[one.product(other) for other in kept] for one in kept])
    b = np.array([one.product(wanted) for one in kept])
    x = np.asarray(np.linalg.lstsq(A, b, rcond=None)[0])
    return x, math.sqrt(max(0.0, 1 - float(x @ b) / wanted.product(wanted)))


def average(folder: Path, width: float, step: int, problems: list[str] | None = None) -> dict[str, Tensor]:
    """The weights of a run averaged with the relative ``width`` up to its last snapshot that is not beyond ``step``, by name.

    Args:
        folder: where its snapshots are.
        problems: why damaged snapshots were passed over is appended.

    Raises:
        ConfigError: for a width that no power function has.
        DataError: where there are no snapshots, or all are damaged.

    """
    if not 0 < width <= WIDEST:
        raise ConfigError(
            f"no average has the relative width {width:g}",
            where=option("--ema"),
            details=[f"allowed: above 0, up to {WIDEST}, the mean of all steps"],
        )
    problems = [] if problems is None else problems
    kept: dict[Path, dict[str, Profile]] = {}
    for number in checkpoint.steps(folder):
        path = checkpoint.directory(folder, number)
        if 0 < number <= step:
            try:
                kept[path] = {group: Profile(_width(path, group), number) for group in checkpoint.load(path).tensors}
            except DataError as error:
                problems.append(error.what)
    if not kept:
        raise DataError(
            f"there are no snapshots up to step {step} in '{folder}', of which averages are made",
            details=problems[:5],
            fix="restore them from a copy"
            if problems
            else f"train with them: {setting('train.posthoc', '[0.05,0.1]')}",
        )
    profiles = [profile for groups in kept.values() for profile in groups.values()]
    x, off = coefficients(profiles, Profile(width, profiles[0].t))
    if off > FAR:
        warnings.warn(f"the average of width {width:g} is {off:.0%} off: it needs more snapshots", stacklevel=2)
    shares = iter(x)
    total: dict[str, Tensor] = {}
    for path, groups in kept.items():
        tensors = checkpoint.load(path).tensors
        for group in groups:
            _add(total, tensors[group], float(next(shares)), path)
    last = next(iter(checkpoint.load(next(iter(kept))).tensors.values()))
    weights = {name: value.to(last[name].dtype) for name, value in total.items()}
    if lost := [name for name, value in weights.items() if not bool(value.isfinite().all())]:
        raise DataError(f"the snapshots in '{folder}' hold values that are not finite", details=lost[:5])
    return weights


def digest(weights: Mapping[str, Tensor]) -> str:
    """The first 12 digits of the SHA-256 of named weights."""
    total = hashlib.sha256()
    for name, value in sorted(weights.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    return total.hexdigest()[:12]


def _add(total: dict[str, Tensor], weights: Mapping[str, Tensor], share: float, path: Path) -> None:
    """Add ``share`` of the weights, in float64; what is no floating point, such as a count, stays as the first has it."""
    if total and {name: value.shape for name, value in total.items()} != {n: v.shape for n, v in weights.items()}:
        raise DataError(f"the snapshot '{path}' is of another network than those after it")
    for name, value in weights.items():
        if value.is_floating_point():
            total[name] = total.get(name, torch.zeros((), dtype=torch.float64)) + share * value.double()
        else:
            total.setdefault(name, value)


def _width(path: Path, group: str) -> float:
    try:
        width = float(group.removeprefix("posthoc-"))
    except ValueError:
        width = 0.0
    if not 0 < width <= WIDEST:
        raise DataError(f"'{path / group}.safetensors' is no average with a relative width")
    return width
