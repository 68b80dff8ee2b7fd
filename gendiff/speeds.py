r"""Speeds: what the speeds of components are learned by, besides the network.

Scales may depend on tensors (`Velocity.trained`) through which a gradient flows, at a network that is what it is just then. Two
losses, each the mean over components:

* ``bound``: the variational bound of the chain (`gendiff.bound`), in nats. With a scalar schedule and many steps it depends on
  the ends of the schedule alone (Kingma et al. 2021, arXiv 2107.00630): all that could be learned is a smaller variance of its
  estimate. With speeds of their own components take a path through the space of their noise levels; along another path a network
  is asked other things, and what it gets wrong there is all that a bound can gain or lose, for with the exact score every path
  gives the likelihood itself.
* ``trajectory``: how far the n evaluations of a sampler lead from where many would, from the same x̄_N: the error that it makes
  with this network, squared. For Gaussian data, diagonal in U, with their exact score and the matched prior its mean is, in
  the limit of many fine steps, the predicted error of `gendiff.lab.prediction`, which ``process fit`` makes small: there the fine
  steps lead to a draw of the data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.bound import byte_decoder, continuous_decoder, prior_term, step_term
from gendiff.diffusion import Diffusion
from gendiff.sampler import Sampler, sample
from gendiff.score import ScoreModel


def stratified(probability: Tensor, count: int, u: Tensor) -> tuple[Tensor, Tensor]:
    """``count`` steps 2..N, int64, of a `proposal`, one in each of equal parts of it, and the inverse probability of each.

    ``u`` in [0, 1) shifts all of them alike.
    """
    places = (torch.arange(count, dtype=torch.float64) + u.double()) / count
    drawn = torch.searchsorted(probability.cumsum(0), places).clamp_max(len(probability) - 1)
    return drawn + 2, 1 / probability[drawn]


def bound_loss(
    diffusion: Diffusion,
    model: ScoreModel,
    x_0: Tensor,
    eps: Tensor,
    i: Tensor,
    weight: Tensor,
    *,
    eight_bit: bool,
    matched: bool = False,
) -> Tensor:
    """The bound in nats per component, ``(B,)``, of each event at one of the steps 2..N; its mean has no bias.

    Args:
        x_0, eps: events and event-space noise, ``(B, *event)``.
        i, weight: the step of each event, ``(B,)``, and the inverse of the probability with which it was drawn.
        eight_bit: whether events in [-1, 1] count as bytes.
        matched: whether x_N of the chain is that of the data's moments; see `Diffusion.prior`.

    """
    x_bar_0 = diffusion.rotate(x_0)
    steps = weight * step_term(diffusion, model, x_bar_0, diffusion.rotate(eps), i)
    decoder = byte_decoder if eight_bit else continuous_decoder
    nats = prior_term(diffusion, x_bar_0.double(), matched) + steps + decoder(diffusion, model, x_0, eps)
    return nats / x_0[0].numel()


def trajectory_loss(diffusion: Diffusion, model: ScoreModel, sampler: Sampler, fine: Sampler, x_bar: Tensor) -> Tensor:
    """The mean squared distance over components, ``(B,)``, of what two samplers make of ``x̄_N``, ``(B, *event)``.

    ``fine`` takes more steps than ``sampler``; no gradient goes through it: where it leads counts as true.
    """
    start, dtype = x_bar.detach(), x_bar.dtype
    truth = sample(diffusion, model, fine, start=start, dtype=dtype, graph=False)
    ended = sample(diffusion, model, sampler, start=start, dtype=dtype, graph=True)
    return (ended - truth).square().flatten(1).mean(1)
