"""Laws that follow the losses of their run."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from gendiff.levels import AdaptiveLevels


class Importance(AdaptiveLevels):
    """in proportion to the loss, as it goes.

    ``p_i = (1 - floor) L_b/Σ + floor/N`` with L_b the mean loss in the bin b of the step i, as the objective weighs it: the mean
    over the last events there, an exponential average over steps of training. Each loss is divided by N p_i, so that what is
    minimised stays what it is (``unbiased=false`` does not), and is about as large at every step: less variance. The events of a
    batch are spread evenly over the law. What is known of the losses is kept with each checkpoint.

    Reference: Kingma, Gao 2023, Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation, arXiv 2303.00848,
    App. F: the adaptive noise schedule, in bins of i.
    """

    name = "importance"

    unbiased: bool = Field(True, description="divide each loss by N p_i, so that the law changes its variance alone")

    def follow(self, loss: Tensor) -> Tensor:
        return loss.clamp_min(0)
