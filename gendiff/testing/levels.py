"""What a law of noise levels promises: a probability for every step, and the same steps for the same seed."""

from __future__ import annotations

import torch

from gendiff.component import component_class
from gendiff.diffusion import Diffusion
from gendiff.levels import Levels
from gendiff.rotation import Rotation
from gendiff.testing.card import check, require
from gendiff.testing.probes import SmoothScales, undisturbed

_MASS = "`mass(diffusion)`: N finite numbers >= 0"


@check("levels", "it gives a probability for each step 1..N", _MASS)
def law(levels: Levels) -> str:
    """On processes of several lengths."""
    least = 1.0
    for N in (2, 23, 200):
        with undisturbed():
            p = levels.probabilities(_diffusion(N))
        require(abs(float(p.sum()) - 1) < 1e-12, "probabilities that sum to 1", f"{float(p.sum()):.3g}")
        least = min(least, float(p.min()))
    return f"the least is {least:.1e}"


@check("levels", "its draws follow it, and are the same each time", "`mass` is a function of the process alone")
def draws(levels: Levels) -> str:
    """Of 4,000 events, against the probabilities."""
    diffusion, batch = _diffusion(23), 100
    with undisturbed():
        one, other = levels.draws(diffusion, 0, batch), levels.draws(diffusion, 0, batch)
        i = torch.cat([one(step, position) for step in range(40) for position in range(batch)])
    require(bool(((i >= 1) & (i <= 23)).all()), "steps in 1..N", f"{int(i.min())} to {int(i.max())}")
    require(all(torch.equal(one(3, k), other(3, k)) for k in range(20)), "the same steps", "others")
    share = torch.bincount(i, minlength=24)[1:].double() / len(i)
    apart = float((share - levels.probabilities(diffusion)).abs().max())
    require(apart < 0.04, "shares like the probabilities", f"{apart:.3f} apart")
    return f"shares within {apart:.3f}"


def _diffusion(N: int) -> Diffusion:
    identity = component_class("rotation", "identity").model_validate({})
    assert isinstance(identity, Rotation)
    return Diffusion(identity, SmoothScales(N, torch.full((1, 1, 1), 10.0, dtype=torch.float64)), (1, 3, 5))
