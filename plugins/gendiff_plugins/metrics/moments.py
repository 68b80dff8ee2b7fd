"""Brightness and contrast."""

from __future__ import annotations

from torch import Tensor

from gendiff.metric import Metric


class Moments(Metric):
    """error of brightness and contrast, by channel.

    The alarm for dark, pale or tinted samples: ``mean_c`` and ``contrast_c`` are the differences, samples minus reference, of the
    mean and the standard deviation over the values of channel c of all events; ``error`` is the largest of them in size.
    """

    name = "moments"

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        found = {}
        for c in range(samples.shape[1]):
            ours, theirs = samples[:, c].double(), reference[:, c].double()
            found[f"mean_{c}"] = (ours.mean() - theirs.mean()).item()
            found[f"contrast_{c}"] = (ours.std(correction=0) - theirs.std(correction=0)).item()
        return {"error": max(map(abs, found.values()))} | found
