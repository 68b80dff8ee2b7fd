r"""Descent: learned speeds for which the predicted error is smallest, by its gradient.

The law of what a sampler draws from Gaussian data follows from its plan (`gendiff.lab.recursion`), and is differentiable in the
scales. Where a velocity has tensors that are learned (`Velocity.trained`), Adam follows the gradient of the logarithm of the
error in all of them at once, and the best that it met is kept: the closed form of what ``train.speeds.loss=trajectory`` does with
a network.

For a deterministic first-order sampler (DDIM) and independent components the optimum is known: from step to step each component
turns by the same angle, ``θ = atan2(s, a sqrt(c))``, since a step by Δθ leaves ``cos Δθ`` of its standard deviation.
"""

from __future__ import annotations

import torch

from gendiff.diffusion import Diffusion
from gendiff.errors import GendiffError
from gendiff.lab.fitting import Fit
from gendiff.lab.recursion import Gaussian, NetworkError, law
from gendiff.machine.threads import one_thread
from gendiff.run.config import Config
from gendiff.sampler import Sampler

EVALUATIONS = 200  # of the error and its gradient
RATE = 0.1  # of Adam, at the start; it falls to 0 in a straight line


@one_thread()
def descend(
    config: Config,
    sampler: Sampler,
    target: Gaussian | None,
    evaluations: int = EVALUATIONS,
    wrong: NetworkError | None = None,
) -> Fit:
    """Choose what the velocity learns so that ``sampler`` has the smallest error; arguments as of `gendiff.lab.fitting.fit`.

    Raises:
        ConfigError: where the sampler cannot sample the process.
        GendiffError: where the error is not finite.

    """
    config = config.fitted()
    velocity, start = config.velocity, config.diffusion()
    data = target or Gaussian.of(start.moments, start.event_shape)
    free = {name: velocity.learned[name].double().clone().requires_grad_() for name in velocity.trained}

    def process() -> Diffusion:
        scales = velocity.with_learned({**velocity.learned, **free}).scales(
            config.rotation, start.event_shape, config.N
        )
        return start.scaled(scales)

    adam = torch.optim.Adam(free.values(), RATE)
    fall = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, evaluations)
    best, errors = {name: value.detach().clone() for name, value in free.items()}, list[float]()
    for _ in range(evaluations):
        error = law(process(), sampler, data, wrong).distance(data).sum()
        errors.append(float(error.detach()))
        if errors[-1] <= min(errors):
            best = {name: value.detach().clone() for name, value in free.items()}
        adam.zero_grad()
        error.log().backward()
        if not all(value.grad is not None and bool(value.grad.isfinite().all()) for value in free.values()):
            break
        adam.step()
        fall.step()
    after = min(errors)
    if not after < float("inf"):
        raise GendiffError("the predicted error is not finite", fix="choose another sampler, or more steps")
    table = velocity.table_at(best)
    chosen = type(velocity).model_validate({key: value for key, value in table.items() if key != "name"})
    chosen = chosen.with_learned({**velocity.learned, **best})
    return Fit(config.velocity_of(chosen).model_copy(update={"sampler": sampler}), {}, errors[0], after, len(errors))
