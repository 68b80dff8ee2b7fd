"""``gendiff evaluate --neighbours``: samples beside the training events that are nearest to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gendiff.errors import ConfigError
from gendiff_cli.measured import MOST_REFERENCE

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from gendiff.evaluation.event_set import EventSet, KnownStatistics, Seen
    from gendiff.evaluation.number import Evaluation
    from gendiff.features import Features
    from gendiff.metric import Metric
    from gendiff.run.trained import TrainedModel
    from gendiff.storage.cache import Cache

MOST_SHOWN = 96  # samples in one picture
GRAIN = 1 / 255  # half a grey level: what 8 bits round
PIXELS = "pixels"  # the space that is always among the spaces


@dataclass(frozen=True)
class Search:
    """What is looked for, and where.

    Args:
        shown: how many samples are drawn.
        training: the events that are looked through, 50 000 at most.
        origin: what people call one of them, by its number.
        others: events that were not trained on, of the reference or held out of the run; None where there are none.
        spaces: in which distances are taken.
        instruments: these, and all that measure besides.

    """

    shown: int
    training: EventSet
    origin: Callable[[int], str]
    others: EventSet | None
    spaces: Sequence[Features]
    instruments: Sequence[Features | Metric]

    @classmethod
    def of(
        cls,
        shown: int,
        model: TrainedModel | None,
        reference: EventSet | KnownStatistics | None,
        instruments: Sequence[Features | Metric],
        source: str,
        out: Path | None,
    ) -> Search:
        """What follows from the command line: the events of the run, or those of the reference for samples from elsewhere.

        Raises:
            ConfigError: where there are no events to look through, or there is no place for the picture.
            DataError: where the data of the run are gone, or not as they were.

        """
        from gendiff.evaluation.event_set import EventSet
        from gendiff.features import Features

        events = reference if isinstance(reference, EventSet) else None
        if model is None and events is None:
            raise ConfigError(
                "the nearest training event is looked for among events, and there are none",
                where="--neighbours",
                fix="give them: --data SPEC, or --reference with a folder of pictures",
            )
        if model is None and out is None:
            raise ConfigError(
                f"'{source}' is no run, in which there would be a place for the picture",
                where="--neighbours",
                fix="say where the numbers go: --out numbers.json; the picture lies beside them",
            )
        pixels = Features.model_validate(PIXELS)
        features = [one for one in instruments if isinstance(one, Features)]
        spaces = [pixels, *(one for one in features if one != pixels)]
        everything = [*instruments, *(one for one in spaces if one not in features)]
        if model is None:
            assert events is not None
            return cls(shown, events, "event {}".format, None, spaces, everything)
        training, origin = _trained_on(model)
        known = events is None or events.about.fingerprint == training.about.fingerprint
        return cls(shown, training, origin, _held_out(model) if known else events, spaces, everything)

    def done(
        self, evaluation: Evaluation, samples: Seen, device: torch.device, cache: Cache | None
    ) -> tuple[Evaluation, Figure]:
        """The evaluation with what is found, and the picture; ``samples`` are seen with the `instruments`."""
        from gendiff.evaluation.figure import beside
        from gendiff.evaluation.measuring import with_neighbours
        from gendiff.evaluation.neighbours import neighbours
        from gendiff.features import Features

        of = dict(zip(_features(self.instruments, Features), samples.rows, strict=True))
        rows = [of[space] for space in self.spaces]
        near = neighbours(
            rows,
            self.spaces,
            self.training,
            self.others,
            shown=self.shown,
            origin=self.origin,
            device=device,
            cache=cache,
            grain=GRAIN if len(samples.event_shape) == 3 else 0.0,
        )
        pictures = rows[0][[close.sample for close in near[0].closest]].reshape(-1, *samples.event_shape)
        events = [_at(self.training, [close.event for close in one.closest]) for one in near]
        return with_neighbours(evaluation, near, samples.about), beside(near, pictures, events)


def _features(instruments: Sequence[Features | Metric], kind: type[Features]) -> list[Features]:
    return [one for one in instruments if isinstance(one, kind)]


def _at(events: EventSet, numbers: Sequence[int]) -> Tensor:
    import torch

    return torch.cat([some.cpu() for some in events.at(numbers)])


def _trained_on(model: TrainedModel) -> tuple[EventSet, Callable[[int], str]]:
    """The events that a run was trained on, and what people call each: of an endless source the first of them."""
    from gendiff.evaluation.event_set import EventSet, spread

    data = model.run.data()
    total = data.length or model.step * model.run.config.train.batch
    count = min(total, MOST_REFERENCE)
    places = spread(count, data.length) if data.length else list(range(count))
    return EventSet.of_data(data, count), lambda k: data.origin(places[k])


def _held_out(model: TrainedModel) -> EventSet | None:
    """What is held out of a run; None where that is nothing, or too few to say anything."""
    from gendiff.evaluation.event_set import EventSet
    from gendiff.evaluation.measuring import FEWEST

    data = model.run.split().held_out
    if data is None or (data.length is not None and data.length < FEWEST):
        return None
    return EventSet.of_data(data, min(data.length or MOST_REFERENCE, MOST_REFERENCE))


def picture_of(file: Path) -> Path:
    """Where the picture lies whose numbers are in a file: beside it."""
    return file.with_suffix(".png")


def save_picture(figure: Figure, file: Path) -> None:
    """Write the picture beside the numbers; an older one is replaced at once."""
    from gendiff.evaluation.figure import save

    save(figure, picture_of(file))
