"""Brightness and contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from gendiff.metric import Metric

SURE = 4  # standard errors
GREY_LEVEL = 2 / 255
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Levels:
    """Brightness and contrast of each channel, float64 ``(C,)``, and their standard errors over events."""

    mean: Tensor
    contrast: Tensor
    mean_error: Tensor
    contrast_error: Tensor

    @classmethod
    def of(cls, events: Tensor) -> Self:
        """Those of ``(n, C, *spatial)`` events; the errors of a single one are 0, for nothing is known of them."""
        x = events.double().flatten(2)
        mean, contrast = x.mean((0, 2)), x.std((0, 2), correction=0)
        squares = (x - mean[:, None]).square().mean(2)
        root_n, correction = len(x) ** 0.5, min(1, len(x) - 1)
        return cls(
            mean,
            contrast,
            x.mean(2).std(0, correction=correction) / root_n,
            squares.std(0, correction=correction) / root_n / (2 * contrast.clamp_min(GREY_LEVEL)),
        )


class SampleMoments(Metric):
    """error of brightness and contrast, by channel.

    ``mean_c`` and ``contrast_c`` are the differences, samples minus reference, of the mean and the standard deviation over the
    values of channel c of all events; ``error`` is the largest of them in size.

    The alarm rings for samples that are dark or bright (the mean over all channels is off), tinted (one channel is, against the
    others) or pale or harsh (the contrast of a channel is), each by more than ``alarm`` of the contrast of the reference and by
    more than four standard errors.
    """

    name = "moments"

    alarm: float = Field(
        0.1, gt=0, description="how far off the alarm rings, as a share of the contrast of the reference"
    )

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        ours, theirs = Levels.of(samples), Levels.of(reference)
        numbers = {}
        for c in range(len(ours.mean)):
            numbers[f"mean_{c}"] = (ours.mean[c] - theirs.mean[c]).item()
            numbers[f"contrast_{c}"] = (ours.contrast[c] - theirs.contrast[c]).item()
        return {"error": max(map(abs, numbers.values()))} | numbers

    def alarms(self, samples: Tensor, reference: Tensor) -> list[str]:
        ours, theirs = Levels.of(samples), Levels.of(reference)
        unit = theirs.contrast.clamp_min(GREY_LEVEL)
        error = torch.hypot(ours.mean_error, theirs.mean_error) / unit
        shift = (ours.mean - theirs.mean) / unit
        excess = (ours.contrast - theirs.contrast) / unit
        excess_error = torch.hypot(ours.contrast_error, theirs.contrast_error) / unit
        rule = f"of the contrast of the reference (the alarm rings from {self.alarm:g})"
        texts = []
        if self._rings(shift.mean(), error.max()):
            word = "dark" if shift.mean() < 0 else "bright"
            texts.append(f"{word} samples: their mean is off by {shift.mean():+.2f} {rule}")
        tint = shift - shift.mean()
        c = int(tint.abs().argmax())
        if self._rings(tint[c], error.max()):
            channel = COLOURS[c] if len(tint) == len(COLOURS) else f"channel {c}"
            texts.append(f"tinted samples: {channel} is off by {tint[c]:+.2f}, against the other channels, {rule}")
        c = int(excess.abs().argmax())
        if self._rings(excess[c], excess_error[c]):
            word = "pale" if excess[c] < 0 else "harsh"
            texts.append(f"{word} samples: the contrast of channel {c} is off by {excess[c]:+.2f} {rule}")
        return texts

    def _rings(self, value: Tensor, error: Tensor) -> bool:
        return bool(value.abs() > self.alarm) and bool(value.abs() > SURE * error)
