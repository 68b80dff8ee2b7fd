r"""Metric: numbers that say how far samples are from data.

A metric compares two sets of events of the same shape and returns named numbers. What it returns depends on how many events
there are: numbers of different n must never be compared, so whoever reports one reports n.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from gendiff.component import Component, abstractmethod


class Metric(Component):
    """A comparison of samples with data; an author gives `measure`."""

    kind: ClassVar[str] = "metric"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    #: Whether the first of its numbers is better when larger.
    larger_is_better: ClassVar[bool] = False

    @abstractmethod
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        """Finite numbers by name, the headline first.

        Args:
            samples, reference: events, each ``(n, *event)`` float32 on the CPU; n may differ. Neither is changed.

        Raises:
            ConfigError: for events that it does not take.

        """

    def alarms(self, samples: Tensor, reference: Tensor) -> list[str]:
        """Warnings about the samples, one line each, by a rule that the class states; none unless an author gives some.

        Args:
            samples, reference: as for `measure`.

        """
        return []
