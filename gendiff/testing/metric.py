"""What a metric promises: finite numbers that are best where the two sets are the same."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from gendiff.errors import ConfigError
from gendiff.metric import Metric
from gendiff.testing.card import check, require
from gendiff.testing.probes import SmoothNoise, noise, undisturbed

SHAPES = ((3, 12, 16), (1, 24))


@check(
    "metric", "it measures finite numbers, headline first, for pictures and signals", "`measure(samples, reference)`"
)
def finite(metric: Metric) -> str:
    """Of sets of different sizes too."""
    numbers = {}
    for x in _taken(metric, 24):
        numbers = metric.measure(x[:10], x[10:])
        require(isinstance(numbers, dict) and bool(numbers), "numbers by name", repr(numbers)[:80])
        for name, value in numbers.items():
            finite = isinstance(value, int | float) and math.isfinite(value)
            require(finite, "finite numbers", f"{name} = {value!r}")
    return ", ".join(f"{name} {value:.3g}" for name, value in list(numbers.items())[:3])


@check("metric", "it is best where the two sets are the same", "the order of the numbers, or `larger_is_better`")
def best(metric: Metric) -> str:
    """Its first number, against samples that are too strong and bright, too weak and dark, and noisy."""
    sign = -1 if metric.larger_is_better else 1
    for x in _taken(metric, 16):
        variants = (2 * x + 0.5, x / 2 - 0.5, x + noise(tuple(x.shape), 5).float())
        same, *others = (next(iter(metric.measure(samples, x).values())) for samples in (x, *variants))
        text = f"{same:.4g}, and {', '.join(f'{other:.4g}' for other in others)}"
        worse = [sign * (other - same) for other in others]
        require(min(worse) >= 0, "no better number for a distorted set than for the same set", text)
        require(max(worse) > 0, "a worse number for a set that is too strong, too weak or noisy", text)
    return f"{same:.3g} for the same set, {', '.join(f'{other:.3g}' for other in others)} for distorted ones"


@check(
    "metric",
    "it depends on the sets alone, and changes neither",
    "random numbers without a seed, or in-place operations",
)
def pure(metric: Metric) -> str:
    """Whatever their order."""
    for events in _taken(metric, 20):
        x, y = events[:12], events[8:]
        copies = x.clone(), y.clone()
        with undisturbed():
            first, second = metric.measure(x, y), metric.measure(x, y)
        require(torch.equal(x, copies[0]) and torch.equal(y, copies[1]), "the events as they were", "they changed")
        require(first == second, "the same numbers each time", "others")
        for numbers in (metric.measure(x.flip(0), y), metric.measure(x, y.flip(0))):
            for name, value in numbers.items():
                close = math.isclose(value, first[name], rel_tol=1e-3, abs_tol=1e-6)
                require(close, "the same numbers in any order", f"{name}: {value:.6g} and {first[name]:.6g}")
    return "the same each time and in any order"


@check("metric", "its alarms are lines of text, and silent where the two sets are the same", "`alarms`")
def alarms(metric: Metric) -> str:
    """Neither set is changed."""
    count = 0
    for x in _taken(metric, 16):
        for samples in (x, 2 * x + 0.5, x / 2 - 0.5):
            copies = samples.clone(), x.clone()
            with undisturbed():
                texts = metric.alarms(samples, x)
            require(
                torch.equal(samples, copies[0]) and torch.equal(x, copies[1]), "the events as they were", "they changed"
            )
            lines = isinstance(texts, list) and all(isinstance(text, str) and text.isprintable() for text in texts)
            require(lines, "a list of single lines", repr(texts)[:80])
            require(samples is not x or not texts, "no alarm for the same set", repr(texts)[:80])
            count += len(texts)
    return f"{count} for sets that are too strong and bright, or too weak and dark"


def _taken(metric: Metric, count: int) -> Iterator[torch.Tensor]:
    """That many events of each shape that it takes; it may refuse one with a `ConfigError`."""
    refusals = []
    for shape in SHAPES:
        x = _events(shape, count)
        try:
            metric.measure(x.clone(), x.clone())
        except ConfigError as error:
            refusals.append(error.what)
            continue
        yield x
    require(len(refusals) < len(SHAPES), "pictures or signals that it takes", "; ".join(refusals))


def _events(shape: tuple[int, ...], count: int) -> torch.Tensor:
    data = SmoothNoise(shape=shape)
    return torch.stack([data[index] for index in range(count)])
