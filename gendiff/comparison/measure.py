"""Measure: what is measured on the samples of one run with one sampler, and how it is kept.

Samples are drawn in blocks that lie on the disk until all are measured, so that hours of drawing survive an interruption. What is
kept for good is small: the numbers with their conditions, the power spectrum, and the first samples for the eye.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendiff.comparison.plan import LEVEL, Plan
from gendiff.dct import dct
from gendiff.evaluation.event_set import EventSet
from gendiff.evaluation.measuring import drawn, evaluate
from gendiff.evaluation.number import Evaluation, Number
from gendiff.features import Features
from gendiff.metric import Metric
from gendiff.plain import json_text, json_value
from gendiff.run import checkpoint
from gendiff.run.directory import Run
from gendiff.run.trained import TrainedModel
from gendiff.sampler import Sampler, Snapshot
from gendiff.storage import reading
from gendiff.storage.arrays import HEADER, npy, npz
from gendiff.storage.cache import Cache
from gendiff.storage.files import Files

BLOCK = 256  # samples that are drawn and kept together
FIRST = 64  # samples that are kept for the eye
REHEARSED = 16  # events of a rehearsal
REPLICATES = 20  # subsets of each interval by sampling


@dataclass(frozen=True)
class Measure:
    """What is kept.

    Args:
        evaluation: the numbers.
        power: mean power of each DCT component of the samples, float64, in the shape of the event.
        first: the first samples, ``(<= 64, *event)`` float32.

    """

    evaluation: Evaluation
    power: Tensor
    first: Tensor

    def save(self, path: Path, key: str) -> None:
        """Write one file; ``key`` says what it depends on."""
        content = io.BytesIO()
        np.savez(
            content,
            key=np.str_(key),
            evaluation=np.str_(json_text(self.evaluation.json())),
            power=self.power.numpy(),
            first=self.first.numpy(),
        )
        Files().make_directory(path.parent)
        Files().replace(path, content.getvalue())

    @classmethod
    def load(cls, path: Path, key: str | None = None) -> Measure | None:
        """Read it back; None where it is missing, damaged, or depends on something else than ``key``."""
        try:
            with npz(path) as arrays:
                if key is not None and arrays.text("key") != key:
                    return None
                evaluation = Evaluation.of_json(json_value(arrays.text("evaluation")))
                power, first = torch.from_numpy(arrays["power"]), torch.from_numpy(arrays["first"])
        except Exception:  # it is measured again; zipfile, zlib and NumPy raise whatever they trip over
            return None
        fits = evaluation.numbers and len(first) and first.shape[1:] == power.shape
        return cls(evaluation, power, first) if fits else None


@dataclass(frozen=True)
class Ruler:
    """What runs are measured with, the same for all that are held against each other.

    Args:
        n: samples of each run.
        instruments: what samples and reference are compared by.
        reference: what samples are compared with.
        asking: how networks are asked, as `TrainedModel.load` takes it.

    """

    n: int
    instruments: Sequence[Features | Metric]
    reference: EventSet
    asking: Mapping[str, Any]

    def key(self, run: Run, sampler: Sampler, seed: int) -> str:
        """What a measure of a run, as it is, depends on."""
        return key_of(run, sampler, self.n, seed, self.instruments, self.reference, **self.asking)

    def rehearse(self, device: torch.device) -> list[Number]:
        """What numbers there will be, by measuring a few events of the reference against themselves.

        What would fail after hours fails here: raises `ConfigError` for events that an instrument does not take, `DataError`
        where it needs a file that is not there.
        """
        count = min(REHEARSED, self.reference.n)
        few = torch.cat([events.cpu() for events in self.reference.at(range(count))])
        events = EventSet.of_tensor(few, self.reference.about.spec)
        return list(evaluate(events, events, self.instruments, replicates=2, device=device).numbers)


def key_of(
    run: Run,
    sampler: Sampler,
    n: int,
    seed: int,
    instruments: Sequence[Features | Metric],
    reference: EventSet,
    precision: str = "fp32",
    compiled: bool = False,
) -> str:
    """What a measure depends on, as one hash: the weights, how they are asked, sampler, samples, instruments, reference."""
    asking = {"precision": precision, "compiled": compiled}
    dependencies = {
        "weights": _weights(run),
        "sampler": sampler.table(),
        "n": n,
        "seed": seed,
        "instruments": [[one.table(), getattr(one, "fingerprint", "")] for one in instruments],
        "reference": [reference.about.fingerprint, reference.n],
        **(asking if asking != {"precision": "fp32", "compiled": False} else {}),
    }
    return hashlib.sha256(json.dumps(dependencies, sort_keys=True).encode()).hexdigest()[:16]


def _weights(run: Run) -> Any:
    """The step of the newest checkpoint and the hash of its manifest, which holds those of the weights."""
    newest = max(run.checkpoints.glob("step-*"), default=run.checkpoints)
    manifest = newest / checkpoint.MANIFEST
    return [
        newest.name,
        hashlib.sha256(reading.content(manifest, reading.JSON)).hexdigest() if manifest.is_file() else "",
    ]


def measure(
    model: TrainedModel,
    sampler: Sampler,
    n: int,
    seed: int,
    instruments: Sequence[Features | Metric],
    reference: EventSet,
    blocks: Path,
    cache: Cache,
    watch: Callable[[Snapshot], None],
    skip: Callable[[int], None] = lambda count: None,
    trained_on: str = "",
) -> Measure:
    """Draw ``n`` samples and measure them.

    Args:
        blocks: a directory for samples that are drawn and not yet measured; it is gone afterwards.
        cache: where rows of the reference are kept.
        watch: sees every step of the sampler, and may raise to stop.
        skip: hears of samples that were there already.
        trained_on: as of `gendiff.evaluation.measuring.evaluate`.

    """
    device = next(model.denoiser.parameters()).device
    samples, drawing = drawn(model, sampler, n, seed, BLOCK, watch=watch)
    store = _Kept(samples, blocks, skip)
    evaluation = evaluate(
        replace(samples, at=store.at),
        reference,
        instruments,
        replicates=REPLICATES,
        level=LEVEL,
        device=device,
        cache=cache,
        drawing=drawing,
        trained_on=trained_on,
    )
    shutil.rmtree(blocks, ignore_errors=True)
    return Measure(evaluation, store.power / n, store.first)


def ruler_of(plan: Plan) -> Ruler:
    """With what the runs of a comparison are measured."""
    return Ruler(plan.n, plan.instruments, plan.reference, plan.asking)


def rehearse(plan: Plan, device: torch.device) -> list[str]:
    """The names of the numbers that there will be; raises as `Ruler.rehearse`."""
    return [number.name for number in ruler_of(plan).rehearse(device)]


class _Kept:
    """Samples in blocks that are kept on the disk, and what is gathered from each block on the way."""

    def __init__(self, samples: EventSet, folder: Path, skip: Callable[[int], None]) -> None:
        self.samples = samples
        self.folder = folder
        self.skip = skip
        self.power = torch.zeros(0, dtype=torch.float64)
        self.first = torch.empty(0)
        self._gathered_blocks: set[int] = set()
        Files().make_directory(folder)

    def at(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        """As `EventSet.at`."""
        for block, group in groupby(numbers, key=lambda number: number // BLOCK):
            events = self._block(block)
            yield events[[number - block * BLOCK for number in group]]

    def _block(self, block: int) -> Tensor:
        path = self.folder / f"{block:06d}.npy"
        numbers = range(block * BLOCK, min((block + 1) * BLOCK, self.samples.n))
        events = _read(path, (len(numbers), *self.samples.event_shape))
        if events is None:
            events = torch.cat([part.cpu() for part in self.samples.at(numbers)])
            content = io.BytesIO()
            np.save(content, events.numpy(), allow_pickle=False)
            Files().replace(path, content.getvalue())
        elif block not in self._gathered_blocks:
            self.skip(len(events))
        if block not in self._gathered_blocks:
            self._gathered_blocks.add(block)
            power = dct(events).double().square().sum(0)
            self.power = self.power + power if len(self.power) else power
            self.first = torch.cat([self.first, events])[:FIRST] if len(self.first) else events[:FIRST]
        return events


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """A block of this shape; None where there is none that is whole."""
    try:
        values = npy(path, most=math.prod(shape) * 4 + HEADER)
    except (OSError, ValueError):
        return None
    return torch.from_numpy(values) if values.shape == shape and values.dtype == np.float32 else None
