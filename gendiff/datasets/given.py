"""Given: events that a user names by their files, one each: pictures as they are, without resizing, and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendiff.datasets.images import ENDINGS, eight_bit, event_of, hushed, located, missing, opened, reason
from gendiff.errors import ConfigError, DataError
from gendiff.shapes import EventShape, shown_shape
from gendiff.storage.arrays import npy


def events_of(paths: Sequence[Path], shape: EventShape, what: str) -> Tensor:
    """The events in these files, ``(n, *shape)``; ``what`` they should be, for errors.

    Raises:
        ConfigError: where one has another size, or other channels.
        DataError: where one is not there, or cannot be read.

    """
    return torch.stack([event_of_file(path, shape, what) for path in paths])


def event_of_file(path: Path, shape: EventShape, what: str) -> Tensor:
    """The event in a file, ``shape``: of a picture v/127.5 - 1, of a ``.npy`` file the numbers themselves."""
    place = located(path)
    if not place.exists():
        error = missing(path, "a picture, or an array in a .npy file")
        error.subject = ""
        raise error
    try:
        event = torch.from_numpy(npy(place)).float() if place.suffix == ".npy" else _picture(place)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"'{path}' cannot be read", details=[reason(error), f"pictures are {', '.join(sorted(ENDINGS))}"]
        ) from error
    if tuple(event.shape) != shape:
        channels = event.ndim == len(shape) and event.shape[1:] == shape[1:]
        raise ConfigError(
            f"'{path}' has {shown_shape(event.shape)} values, and {what} has {shown_shape(shape)}",
            details=["channels x height x width; pictures are taken as they are, without resizing"],
            fix=f"give a {'grey' if shape[0] == 1 else 'colour'} picture"
            if channels and shape[0] in (1, 3)
            else f"bring it to {shown_shape(shape[1:])} first, or choose a run of its size",
        )
    if not event.isfinite().all():
        raise DataError(f"'{path}' holds values that are not finite")
    return event


def _picture(path: Path) -> Tensor:
    with hushed(), opened(path) as picture:
        image = eight_bit(picture)
        grey = image.mode in ("1", "L", "LA")
        return event_of(np.array(image.convert("L" if grey else "RGB")))
