"""Failure: what is said of a run whose steps are not applied any more, because losses or gradients are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gendiff.data import Data
from gendiff.errors import GendiffError
from gendiff.training.bands import BANDS, Bands
from gendiff.training.step import Failed


def gave_up(failures: int, step: int, details: Sequence[str], saved: bool) -> GendiffError:
    """What to raise where that many steps up to ``step`` were skipped, and no more are tried; ``saved``: with a checkpoint."""
    return GendiffError(
        f"the loss or its gradient was not finite in {failures} step{'s' * (failures > 1)} in a row, up to step {step}",
        details=[*details, f"none of these steps was applied{'; a checkpoint was saved' if saved else ''}"],
        fix="start a new run with a lower --lr, or with --precision fp32",
    )


def culprits(failed: Failed, data: Data, bands: Bands) -> list[str]:
    """Which events and bands were not finite in the last step that was not applied, a line each."""
    events = zip(failed.index.tolist(), failed.i.tolist(), failed.per_event.tolist(), strict=True)
    of_events = [f"{data.origin(index)} at i = {i}" for index, i, value in events if not math.isfinite(value)]
    of_bands = [str(band) for band, value in enumerate(bands.means(failed.error_bar)) if not math.isfinite(value)]
    return [
        f"non-finite loss: {', '.join(of_events[:5])}" if of_events else "every loss is finite: the gradient overflows",
        f"frequency bands affected, 0 is the lowest of {BANDS}: {', '.join(of_bands)}" if of_bands else "",
    ]
