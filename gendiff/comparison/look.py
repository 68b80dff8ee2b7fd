r"""Look: what an arm does, for the eye: its trajectories, and where its network fails.

**Trajectories.** Forward, ``x_i = U a_i U^T x_0 + U s_i U^T ε`` of the same data with the same ε in every arm; reverse, what the
sampler visits from the same noise, and the x̂_0 it believes in. Forward is shown at the same steps i in every arm, those of the
baseline's sampler; reverse at the nearest steps that the arm's own sampler visits.

**Losses.** The squared error of ε̂ in the coordinates of the arm, by frequency band and step, over data events and noise that all
arms share. What no component-wise estimator can do better is known in closed form: with data of mean m and variance c per
component, the best affine estimate of ε from ``x̄_i`` has the mean squared error

    a² c / v ,     v = a² c + s² ,

which is the optimum for Gaussian data that are diagonal in these coordinates. Error minus this floor is what the network is to
blame for, where it is positive; where it is negative the network uses what is beyond variances. m and c are those of the events
that the loss is taken over; the affine estimate is computed on the same draws, so that their luck cancels. A process that
treats all components alike has no coordinates of its own: it is shown in those of the DCT.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendiff.data import Data
from gendiff.dct import dct
from gendiff.denoiser import NetworkScore
from gendiff.diffusion import Diffusion
from gendiff.frequency import dct_frequency, radius
from gendiff.run.generation import generate
from gendiff.run.trained import TrainedModel
from gendiff.sampler import Sampler, Snapshot
from gendiff.storage.arrays import npz
from gendiff.storage.files import Files
from gendiff.streams import ImageNoise, stream

SHOWN = 25  # steps of a trajectory that are shown, at most
ROWS = 4  # events of it
LEVELS = 20  # steps at which the loss is taken
EVENTS = 256  # events over which it is taken
BANDS = 8  # frequency bands, equal steps of ρ from 0 to sqrt(axes) π


@dataclass(frozen=True)
class Look:
    """What is kept of an arm.

    Args:
        steps: the steps i that are shown, from N to 0, ``(M,)``, float64 where one of them is real.
        visited: the steps at which the sampler is shown in their place, ``(M,)``, float64 where one of them is real.
        forward, reverse, belief: x_i of data, x_i of the sampler and the x̂_0 it was made from, each ``(M, rows, *event)``; at
            step N nothing is believed yet, and 0 stands there.
        levels: the steps i of the losses, int64 ``(L,)``.
        loss, floor: mean squared error of ε̂ and its closed form, ``(L, bands)`` float64, NaN where a band is empty.

    """

    steps: Tensor
    visited: Tensor
    forward: Tensor
    reverse: Tensor
    belief: Tensor
    levels: Tensor
    loss: Tensor
    floor: Tensor

    @property
    def shown(self) -> tuple[list[float], list[float]]:
        """``steps`` and ``visited`` as a reader sees them: real ones to a tenth."""
        steps, visited = (
            [int(step) if step == int(step) else round(step, 1) for step in each.tolist()]
            for each in (self.steps, self.visited)
        )
        return steps, visited

    @property
    def excess(self) -> list[list[float | None]]:
        """Loss minus floor, ``[level][band]``; None where a band is empty."""
        return [[None if math.isnan(value) else value for value in row] for row in (self.loss - self.floor).tolist()]

    def save(self, path: Path, key: str) -> None:
        """Write one file; ``key`` says what it depends on."""
        content = io.BytesIO()
        np.savez(content, key=np.str_(key), **{field.name: getattr(self, field.name).numpy() for field in fields(self)})
        Files().make_directory(path.parent)
        Files().replace(path, content.getvalue())

    @classmethod
    def load(cls, path: Path, key: str) -> Look | None:
        """Read it back; None where it is missing, damaged, or depends on something else than ``key``."""
        try:
            with npz(path) as arrays:
                if arrays.text("key") != key:
                    return None
                view = cls(**{field.name: torch.from_numpy(arrays[field.name]) for field in fields(cls)})
                return view if view._fits() else None
        except Exception:  # it is looked at again; zipfile, zlib and NumPy raise whatever they trip over
            return None

    def _fits(self) -> bool:
        """Whether the shapes are those that there are: it was read from a file."""
        M, L = len(self.steps), len(self.levels)
        pictures = self.forward.shape == self.reverse.shape == self.belief.shape and self.forward.ndim > 2
        lengths = self.steps.shape == self.visited.shape == (M,) == self.forward.shape[:1] and self.levels.ndim == 1
        return pictures and lengths and M > 0 and self.loss.shape == self.floor.shape == (L, BANDS)


def largest_excess(looks: Sequence[Look]) -> float:
    """The largest of them in size, in any arm."""
    return max((abs(value) for look in looks for row in look.excess for value in row if value is not None), default=0.0)


def frequencies(power: Sequence[float]) -> list[float]:
    """The upper end of each band of a spectrum, as a fraction of the largest frequency."""
    return [(k + 1) / len(power) for k in range(len(power))]


def look(
    model: TrainedModel, sampler: Sampler, targets: Sequence[float], data: Data, seed: int, heed: Callable[[], None]
) -> Look:
    """Look at a trained arm.

    Args:
        targets: the steps i <= N that are wanted, N first.
        data: whose events are shown and taken the loss over.
        heed: called between two evaluations of the network; may raise to stop.

    """
    with torch.no_grad():
        trajectories = _trajectories(model, sampler, targets, data, seed, heed)
        return Look(*trajectories, *_losses(model, data, seed, heed))


def targets(diffusion: Diffusion, sampler: Sampler, count: int = SHOWN) -> list[float]:
    """At most ``count`` of the steps that a sampler visits, about equally spaced in i, N and 0 among them."""
    steps = _visited(diffusion, sampler)
    points = [diffusion.N * k / max(count - 1, 1) for k in range(count)]
    return sorted({min(steps, key=lambda j: abs(j - i)) for i in points}, reverse=True)


def _visited(diffusion: Diffusion, sampler: Sampler) -> list[float]:
    """The steps at which a sampler is, N first and 0 last; those to which it goes up again are not shown."""
    return [diffusion.N, *(update.j for update in sampler.plan(diffusion) if update.j <= update.i)]


def _events(data: Data, count: int) -> Tensor:
    count = count if data.length is None else min(count, data.length)
    return torch.stack([data[k] for k in data.spread(count)])


def _trajectories(
    model: TrainedModel,
    sampler: Sampler,
    target_steps: Sequence[float],
    data: Data,
    seed: int,
    heed: Callable[[], None],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    diffusion = model.denoiser.diffusion
    device = next(model.denoiser.parameters()).device
    visited_steps, target_steps = _visited(diffusion, sampler), [min(i, diffusion.N) for i in target_steps]
    steps = [min(visited_steps, key=lambda j: abs(j - i)) for i in target_steps]
    x_0 = _events(data, ROWS).to(device)
    # The first noise of image k makes its prior; the same one destroys event k, so that both ends meet.
    eps = ImageNoise(seed, range(len(x_0)), diffusion.event_shape, device)()
    destroyed = (diffusion.q_sample(x_0, i, eps) for i in target_steps)
    forward = [model.pictures(x).cpu() for x in destroyed]
    views: dict[float, tuple[Tensor, Tensor]] = {}

    def watch(snapshot: Snapshot) -> None:
        heed()
        if (j := snapshot.j) in steps:
            x = diffusion.unrotate(snapshot.x_bar)
            belief = torch.zeros_like(x) if snapshot.pivot is None else diffusion.unrotate(snapshot.pivot.x_0)
            views[j] = (model.pictures(x).cpu(), model.pictures(belief).cpu())

    for _ in generate(model.denoiser, model.run, sampler, seed, range(len(x_0)), len(x_0), watch):
        pass
    reverse, belief = (torch.stack([views[i][k] for i in steps]).float() for k in (0, 1))
    return torch.tensor(target_steps), torch.tensor(steps), torch.stack(forward).float(), reverse, belief


def _losses(model: TrainedModel, data: Data, seed: int, heed: Callable[[], None]) -> tuple[Tensor, Tensor, Tensor]:
    diffusion, shape = model.denoiser.diffusion, model.denoiser.diffusion.event_shape
    device = next(model.denoiser.parameters()).device
    score = NetworkScore(model.denoiser, diffusion, model.run.config.objective.parametrization)
    rho, turn = _coordinates(diffusion)
    spectrum = torch.broadcast_to(rho, shape).flatten()
    band = (spectrum / (math.pi * math.sqrt(len(shape) - 1)) * BANDS).long().clamp(0, BANDS - 1).cpu()
    x_0 = _events(data, EVENTS)
    eps = torch.stack([torch.randn(shape, generator=stream(seed, "loss by band", k)) for k in range(len(x_0))])
    coordinates = torch.cat([turn(diffusion.rotate(part.to(device))).cpu() for part in x_0.split(64)]).double()
    m, c = coordinates.mean(0).to(device), coordinates.var(0, correction=0).to(device)
    levels = list(dict.fromkeys(1 + k * (diffusion.N - 1) // (LEVELS - 1) for k in range(LEVELS)))
    losses, floors = [], []
    for i in levels:
        at = diffusion.at(i, torch.float64)
        a, s = at.a, at.s
        v = a**2 * c + s**2
        above = torch.zeros(shape, dtype=torch.float64, device=device)
        for clean, noise in zip(x_0.split(64), eps.split(64), strict=True):
            heed()
            eps_bar = diffusion.rotate(noise.to(device))
            x_bar = a.float() * diffusion.rotate(clean.to(device)) + s.float() * eps_bar
            error = turn(score.predict(x_bar, i).eps - eps_bar).double()
            # Minus what the best affine estimate does on the same draws, whose mean is the floor: their luck cancels.
            affine = s / v * (turn(x_bar).double() - a * m) - turn(eps_bar).double()
            above += (error**2 - affine**2).sum(0)
        floor = _by_band(torch.broadcast_to(a**2 * c / v, shape).cpu(), band)
        losses.append(floor + _by_band(above.cpu() / len(x_0), band))
        floors.append(floor)
    return torch.tensor(levels), torch.stack(losses), torch.stack(floors)


def _coordinates(diffusion: Diffusion) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The frequency of each component, and the map from rotated coordinates to those in which losses are shown."""
    if not diffusion.alike:
        return diffusion.rotation.frequencies(diffusion.event_shape), lambda x_bar: x_bar
    per_axis = [dct_frequency(n) for n in diffusion.event_shape[1:]]
    return radius(per_axis)[None], lambda x_bar: dct(diffusion.unrotate(x_bar))


def _by_band(values: Tensor, band: Tensor) -> Tensor:
    """Means over the components of each band, NaN for an empty one."""
    total = torch.zeros(BANDS, dtype=torch.float64).index_add(0, band, values.double().flatten())
    return total / torch.bincount(band, minlength=BANDS)
