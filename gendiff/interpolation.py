r"""Interpolation: what a table over the steps 0..N says at a real step.

Between two steps stands the cubic of Hermite through both, with slopes of the fourth order in the spacing, and no steeper
than three times the secants beside them (Fritsch and Carlson 1980): what falls from step to step falls between them, so
that a component whose λ never rises at whole steps never rises at real ones. At a whole step it is the entry itself, to the
bit; a table that is linear in i stays linear. Which curve is drawn between two steps is a choice, and a harmless one: the
law of x̄_i at the steps does not depend on it.

What jumps has no value in between. Where an entry is infinite (``log s_0 = -inf``: no noise at 0, and at once a finite amount at
step 1) there is no continuous limit from there to the next step, and nan says so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

REACH = 2  # entries beyond the two that a real step lies between


def between(entries: Callable[[Tensor], Tensor], i: Tensor, N: int) -> Tensor:
    """The value at steps ``i``, ``(B,)``, whole or real, of what ``entries`` gives at whole ones, ``(B, ...)``.

    nan at a real step next to an entry that is infinite. Differentiable in ``i``.
    """
    if not i.dtype.is_floating_point:
        return entries(i)
    place = i.detach().floor().clamp(0, N - 1).long()
    offsets = torch.arange(-REACH, REACH + 2, device=i.device)
    steps = place[:, None] + offsets
    inside = (steps >= 0) & (steps <= N)
    table = entries(steps.clamp(0, N).flatten()).unflatten(0, (len(i), len(offsets)))
    axes = [1] * (table.ndim - 2)
    known = inside.reshape(*inside.shape, *axes) & (table.abs() < torch.inf)
    g = list(table.unbind(1))
    left, right = g[REACH], g[REACH + 1]
    _fill(g, list(known.unbind(1)))
    slope_left, slope_right = (_slope(g[k - 2 : k + 3]) for k in (REACH, REACH + 1))
    u = (i - place).reshape(-1, *axes)
    w, rise = 1 - u, right - left
    # From the nearer end, so that the entries themselves come out to the bit.
    bend = slope_left + slope_right - 2 * rise
    from_left = left + u * (slope_left + u * (rise - slope_left - bend + u * bend))
    from_right = right - w * (slope_right + w * (rise - slope_right - bend + w * bend))
    value = torch.where(u <= 0.5, from_left, from_right)
    value = torch.where((u == 0) & (left.abs() == torch.inf), left, value)
    return torch.where((u == 1) & (right.abs() == torch.inf), right, value)


def _fill(g: list[Tensor], known: list[Tensor]) -> None:
    """Put parabolas, or lines, in the place of the entries that are not there."""
    far_left, far_right = 0, len(g) - 1
    l, r = REACH, REACH + 1  # left and right
    straight = 2 * g[r] - g[l]
    g[r + 1] = torch.where(
        known[r + 1], g[r + 1], torch.where(known[l - 1], 3 * g[r] - 3 * g[l] + g[l - 1].nan_to_num(neginf=0), straight)
    )
    g[far_right] = torch.where(known[far_right] & known[r + 1], g[far_right], 3 * g[r + 1] - 3 * g[r] + g[l])
    g[l - 1] = torch.where(known[l - 1], g[l - 1], 3 * g[l] - 3 * g[r] + g[r + 1])
    g[far_left] = torch.where(known[far_left] & known[l - 1], g[far_left], 3 * g[l - 1] - 3 * g[l] + g[r])


def _slope(g: list[Tensor]) -> Tensor:
    """Of five entries, at the middle one: of the fourth order, and kept where a monotone curve can have it."""
    slope = (g[0] - 8 * g[1] + 8 * g[3] - g[4]) / 12
    before, after = g[2] - g[1], g[3] - g[2]
    limit = 3 * torch.minimum(before.abs(), after.abs())
    kept = torch.where(before * after > 0, slope.sign() * torch.minimum(slope.abs(), limit), 0.0)
    return torch.where(kept * before >= 0, kept, 0.0)
