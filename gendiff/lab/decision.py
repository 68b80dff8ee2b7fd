r"""Decision: what a prediction allows to be decided, and whether the difference between processes is worth a training.

Held against trained networks (docs/results.md), the predicted error ranks what is measured where it is larger than what two sets
of real events differ by: a rank correlation of 0.91 for the objective ``wiener``. Below that the network decides, and no
prediction ranks it. So with R the squared distance of as many real events as would be drawn,

* a difference between processes is worth a training where it is larger than R at the number of evaluations that is asked for;
* where it is not, the largest smaller number at which it is, is the column to decide by, for those who want so few;
* a sampler that is exact for the Gaussian of the data has the same error whatever the number of evaluations: what is left of it
  is the prior's, and it decides nothing.

Not covered by what was measured: ``eps`` on processes whose a vanishes, which the prediction flatters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONSTANT = 1e-3  # relative differences up to here between numbers of evaluations are none
ZERO = 1e-9  # of the variance of the data: errors up to here are rounding


@dataclass(frozen=True)
class Decision:
    """What is to be decided, by what.

    Args:
        asked: the number of evaluations that it is about.
        column: the number of evaluations to decide by; None where none decides.
        gap: the largest difference between processes there; at ``asked`` where there is no column.
        worth: whether the difference at ``asked`` is worth a training; None where the prediction cannot tell.
        text: all of this in a sentence.

    """

    asked: int
    column: int | None
    gap: float
    worth: bool | None
    text: str


@dataclass(frozen=True)
class Floor:
    """What real events differ by: the squared distance of n from m of them."""

    value: float
    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.value:.3g}, {self.n} of them against {self.m}"


def is_exact(errors: Sequence[float], variance: float) -> bool:
    """Whether the errors at several numbers of evaluations are one: the sampler is exact, and the prior is what is left."""
    return len(errors) > 1 and max(errors) - min(errors) <= CONSTANT * max(errors) + ZERO * variance


def decide(
    errors: Mapping[str, Mapping[int, float]], asked: int, floor: Floor | None, sampler: str, data: str, exact: bool
) -> Decision:
    """What predicted errors decide.

    Args:
        errors: of each process, by number of evaluations, ``asked`` among them.
        asked: the number of evaluations that samples would be drawn with, one of those.
        floor: what real events differ by; None where they are not here.
        sampler, data: what they are called.
        exact: whether the sampler is exact for the Gaussian of the data in every process.

    """
    head = f"for {data}, with {sampler} at {asked} evaluations"

    def of(count: int) -> tuple[float, str, str]:
        there = {label: values[count] for label, values in errors.items() if count in values}
        best, worst = min(there, key=lambda label: there[label]), max(there, key=lambda label: there[label])
        return there[worst] - there[best], best, worst

    gap, best, worst = of(asked)
    if exact:
        text = (
            f"{head}: it is exact for data like these whatever the number of evaluations, so it decides nothing between "
            "processes: what differs is the work of the network, which a training alone shows"
        )
        return Decision(asked, None, gap, None, text)
    if floor is None:
        text = f"{head}: the data are not here, so nobody can say what real events differ by, nor what decides"
        return Decision(asked, None, gap, None, text)
    differ = f"what real events differ by ({floor})"
    largest = max(values[asked] for values in errors.values())
    if len(errors) == 1:
        below = largest <= floor.value
        side, more = ("below", "would not be seen") if below else ("above", "or another sampler would be seen")
        text = f"{head}: the error of {worst} is {side} {differ}: more evaluations {more}"
        return Decision(asked, None if below else asked, 0.0, None, text)
    if gap > floor.value:
        text = f"{head}: decide by the column {asked}: {worst} is {gap:.3g} behind {best}, beyond {differ}: worth a training"
        return Decision(asked, asked, gap, True, text)
    which = "every error is" if largest <= floor.value else "the difference between processes is"
    text = (
        f"{head}: {which} below {differ}, where the network decides: not worth a training for what steps and prior cost"
    )
    fewer = sorted({count for values in errors.values() for count in values if count < asked}, reverse=True)
    column = next((count for count in fewer if of(count)[0] > floor.value), None)
    if column is None:
        return Decision(asked, None, gap, False, text + (", with fewer evaluations neither" if fewer else ""))
    gap, best, worst = of(column)
    text += f"; with few evaluations decide by the column {column}: there {worst} is {gap:.3g} behind {best}"
    return Decision(asked, column, gap, False, text)
