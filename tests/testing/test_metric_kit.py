"""What the kit asks of a metric: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import math
import os

import torch
from flaws import Fails, assert_found, broken, each, titles
from torch import Tensor

from gendiff.errors import ConfigError
from gendiff.metric import Metric

fails = Fails()

ALARMS = "its alarms are lines of text, and silent where the two sets are the same"


FINITE, BEST = (
    "it measures finite numbers, headline first, for pictures and signals",
    "it is best where the two sets are the same",
)


PURE = "it depends on the sets alone, and changes neither"


class Distance(Metric):
    """the distance between means and spreads, for others to change."""

    name = "mutant"

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"distance": (samples.mean() - reference.mean()).abs().item() + self.spread(samples, reference)}

    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return (samples.std() - reference.std()).abs().item()


@fails(FINITE, "expected finite numbers; seen: distance = nan")
class NaNDistance(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return math.nan


@fails(FINITE, r"expected finite numbers; seen: distance = tensor\(")
class TensorDistance(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"distance": samples.mean() - reference.mean()}  # type: ignore[dict-item]


@fails(FINITE, "expected numbers by name; seen: 0.0")
class NoNames(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return 0.0  # type: ignore[return-value]


@fails(FINITE, "expected pictures or signals that it takes; seen: never")
class MeasuresNothing(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        raise ConfigError("never")


@fails(FINITE, "seen: RuntimeError: .*size")
class EqualCounts(Distance):
    """cannot compare sets of different sizes."""

    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return float((samples.std(0) - reference.std(0)).abs().mean() + 0 * (samples - reference).mean())


@fails(BEST, "no better number for a distorted set than for the same set; seen: -0, and -")
class WrongWay(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"likeness": -super().measure(samples, reference)["distance"]}


@fails(BEST, "no better number for a distorted set than for the same set; seen: ")
class SamplesAlone(Distance):
    """never looks at the reference."""

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"contrast": samples.std().item()}


@fails(BEST, "a worse number for a set that is too strong, too weak or noisy; seen: 1, and 1, 1, 1")
class Constant(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"one": 1.0}


@fails(ALARMS, r"expected no alarm for the same set; seen: \['too much'\]")
class AlwaysAlarmed(Distance):
    def alarms(self, samples: Tensor, reference: Tensor) -> list[str]:
        return ["too much"]


@fails(ALARMS, r"expected a list of single lines; seen: \['too\\nmuch'\]")
class TwoLines(Distance):
    def alarms(self, samples: Tensor, reference: Tensor) -> list[str]:
        return ["too\nmuch"] if samples.std() > 1.5 * reference.std() else []


@fails(ALARMS, "expected a list of single lines; seen: 'too much'")
class OneAlarm(Distance):
    def alarms(self, samples: Tensor, reference: Tensor) -> list[str]:
        return "too much" if samples.std() > 1.5 * reference.std() else []


@fails(ALARMS, "expected the events as they were; seen: they changed")
class AlarmsInPlace(Distance):
    def alarms(self, samples: Tensor, reference: Tensor) -> list[str]:
        samples -= samples.mean()
        return []


@fails(PURE, "left alone; seen: those of torch are not")
class RandomDistance(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return torch.rand(()).item()


@fails(PURE, "left alone; seen: those of torch are not")
class SeedsMetric(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        torch.manual_seed(0)
        return super().spread(samples, reference)


@fails(PURE, "the same numbers each time; seen: others")
class UrandomDistance(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return float(int.from_bytes(os.urandom(4), "little"))


@fails(PURE, "expected the events as they were; seen: they changed")
class InPlaceDistance(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        samples -= samples.mean()
        reference -= reference.mean()
        return {"distance": self.spread(samples, reference)}


@fails(PURE, r"the same numbers in any order; seen: distance: \d")
class Paired(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        n = min(len(samples), len(reference))
        return (samples[:n] - reference[:n]).square().mean().item()


@fails(PURE, "the same numbers in any order; seen: distance")
class FirstOfReference(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return (samples.std() - reference[:5].std()).abs().item()


# --- what is only unusual passes ----------------------------------------------------------------------------------------


class Likeness(Distance):
    """larger is better."""

    name = "likeness"
    larger_is_better = True

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"likeness": math.exp(-super().measure(samples, reference)["distance"])}


class ColourOnly(Distance):
    """takes colour pictures only."""

    name = "colour-only"

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        if samples.ndim != 4 or samples.shape[1] != 3:
            raise ConfigError("colour pictures only", fix="give three channels")
        return super().measure(samples, reference)


class Structure(Distance):
    """blind to brightness and contrast."""

    name = "structure"

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        ours, theirs = ((x - x.mean()) / x.std() for x in (samples.double(), reference.double()))
        steps = [float((x[..., 1:] - x[..., :-1]).square().mean()) for x in (ours, theirs)]
        return {"distance": round(abs(steps[0] - steps[1]), 9)}


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("metric") <= fails.titles


@each(Distance)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(Likeness, ColourOnly, Structure)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []
