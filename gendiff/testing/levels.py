"""What a law of noise levels promises: a probability for every step, and the same steps for the same seed."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.component import component_class
from gendiff.diffusion import Diffusion
from gendiff.levels import Adaptation, AdaptiveLevels, Levels
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


@check(
    "levels",
    "where it follows losses, it gives shares of them, the same each time",
    "`follow(loss)`: numbers >= 0, one for each",
)
def following(levels: Levels) -> str:
    """Of losses that rise over the bins, of none, and of one bin alone."""
    if not isinstance(levels, AdaptiveLevels):
        return "it is fixed"
    N, yes = 50, torch.tensor(True)
    i = torch.arange(1, N + 1).repeat(200)
    for loss in (i / N, (i > 40).float(), 0.0 * i + 1):
        laws = [Adaptation(levels, N, torch.device("cpu")) for _ in range(2)]
        count = len(laws[0].p)
        with undisturbed():
            share = levels.follow(loss[:count].double())
            for law in laws:
                law.learn(i, loss, yes, lambda values: values)
        sound = isinstance(share, Tensor) and share.shape == (count,) and bool((share.isfinite() & (share >= 0)).all())
        require(
            sound,
            f"{count} finite numbers >= 0",
            f"{share.flatten()[:3].tolist()} ..." if isinstance(share, Tensor) else f"a {type(share).__name__}",
        )
        p = laws[0].probabilities
        fair = bool((p >= 0.999 * levels.floor / N).all()) and abs(float(p.sum()) - 1) < 1e-9
        require(fair, f"probabilities from floor/N = {levels.floor / N:.2g} that sum to 1", f"{p[:3].tolist()} ...")
        require(torch.equal(laws[0].p, laws[1].p), "the same law", "another")
    return f"no step is below {levels.floor / N:.2g}"


def _diffusion(N: int) -> Diffusion:
    identity = component_class("rotation", "identity").model_validate({})
    assert isinstance(identity, Rotation)
    return Diffusion(identity, SmoothScales(N, torch.full((1, 1, 1), 10.0, dtype=torch.float64)), (1, 3, 5))
