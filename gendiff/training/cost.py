"""Cost: what a training takes of memory, time and disk, said before it is begun.

Memory that a step needs can be known at once (`step_memory`), by a step of a copy of the network that is forgotten: a trainer is
left as it was. Time is known only by taking steps (`rehearse`), and a trainer that has taken them is of no more use. What is kept
on the disk is counted (`Disk.of`).
"""

from __future__ import annotations

import copy
import io
import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gendiff.datasets import pictures
from gendiff.datasets.batches import Batch
from gendiff.denoiser import Denoiser
from gendiff.errors import GendiffError
from gendiff.machine.memory import most_resident, out_of_memory, resident, shortage
from gendiff.plain import json_line
from gendiff.run import stored
from gendiff.run.config import Config
from gendiff.run.network import score_of
from gendiff.run.roll import roll
from gendiff.run.settings import TrainSettings
from gendiff.training.agenda import is_shown
from gendiff.training.bands import BANDS
from gendiff.training.loop import default_workers
from gendiff.training.preview import reference
from gendiff.training.trainer import Trainer

FEW = 2  # events by which the memory of a batch is known, where it is counted; one alone has no spread to normalize by
SECONDS = 1.0  # that a rehearsal measures for, once it is warm
MOST, LEAST = 50, 2  # steps that it measures
SLOW = 10.0  # seconds after which two steps are enough
RECORD = 6000  # bytes of run.json, config.toml and README.md, about


@dataclass(frozen=True)
class Memory:
    """The most memory that training holds, in bytes, how that is known, and whether it was measured in the very steps."""

    peak: int
    how: str
    measured: bool = False


@dataclass(frozen=True)
class Pace:
    """How fast a trainer is.

    Args:
        first: seconds of the first step, in which a network is compiled, and a GPU finds out how to compute it.
        step: seconds of one step, the median of ``measured`` of them after that.
        evaluation: seconds in which a network is evaluated once for the images of a preview.

    """

    first: float
    step: float
    measured: int
    evaluation: float

    def seconds(self, trainer: Trainer) -> float:
        """To train from where the trainer began to the end, previews included."""
        settings, begin = trainer.settings, trainer.first_step
        previews = sum(1 for _ in _shown(settings, begin)) if settings.sample_every else 0
        evaluations = len(settings.preview.plan(trainer.diffusion))
        return self.first + (settings.steps - begin) * self.step + previews * evaluations * self.evaluation


@dataclass(frozen=True)
class Disk:
    """What a run keeps on the disk, in bytes.

    Args:
        checkpoint: each of ``checkpoints``.
        preview: each of ``previews``, about.
        row: each of ``rows`` of metrics.jsonl, about.
        record: what defines the run: configuration, process, and the roll of its data.

    """

    checkpoint: int
    checkpoints: int
    preview: int
    previews: int
    row: int
    rows: int
    record: int

    @property
    def total(self) -> int:
        """All of it, when the run is done."""
        kept = self.checkpoint * self.checkpoints + self.preview * self.previews
        return kept + self.row * self.rows + self.record

    @property
    def peak(self) -> int:
        """The most that it takes on the way: a checkpoint is whole before the oldest goes."""
        return self.total + self.checkpoint

    def json(self) -> dict[str, int]:
        """All numbers by name."""
        return {**asdict(self), "total": self.total, "peak": self.peak}

    @classmethod
    def of(cls, trainer: Trainer) -> Disk:
        """What the run of a trainer will keep, from where it stands."""
        config, settings, begin = trainer.config, trainer.settings, trainer.first_step
        previews = list(_shown(settings, begin)) if settings.sample_every else []
        saved = {*range(settings.checkpoint_every, settings.steps + 1, settings.checkpoint_every), *previews}
        saved = {step for step in {*saved, settings.steps} if step > begin}
        rows = (
            settings.steps // settings.log_every
            - begin // settings.log_every
            + bool(settings.steps % settings.log_every)
        )
        measured = len(previews) if settings.metrics else 0
        parts = config.data.parts
        try:
            process = len(stored.dump(trainer.diffusion, config.velocity, config.rotation))
        except GendiffError:  # too large to be kept whole
            process = len(stored.dump(trainer.diffusion, config.velocity, config.rotation, whole=False))
        return cls(
            checkpoint=_checkpoint(trainer),
            checkpoints=min(settings.keep, len(saved)),
            preview=_preview(trainer) if previews else 0,
            previews=len(previews),
            row=_row(trainer),
            rows=rows + measured,
            record=process + (len(roll(parts)) if parts else 0) + RECORD,
        )


def first_batch(trainer: Trainer) -> Batch | None:
    """What the next step of a trainer is taken on; None where it cannot be had, of which the step itself says better why."""
    try:
        return trainer.batches[trainer.step + 1]
    except (Exception, SystemExit):  # data of somebody else's may raise anything
        return None


def step_memory(trainer: Trainer, batch: Batch | None = None) -> Memory | None:
    """The most memory that the steps of a trainer will hold, which is left as it was; None where a step cannot be tried.

    On a GPU the whole batch is computed, forward and back, and the device says what it gave. On a CPU, what a few events keep for
    the way back is counted, and taken for as many as there are.

    Args:
        batch: that of its next step, where it is at hand.

    Raises:
        GendiffError: where there is too little.

    """
    if (batch := batch or first_batch(trainer)) is None:
        return None
    device, share, held = trainer.device, len(trainer.batches.positions), resident()
    weights = _bytes(trainer.network.parameters())
    later = 0 if trainer.weights.optimizer.state else 2 * weights  # what Adam will hold from the first step on
    devices = [device] if device.type == "cuda" else []
    with _only_memory(trainer), torch.random.fork_rng(devices):
        network = copy.deepcopy(trainer.network)  # one of somebody else's may change when it is asked
        denoiser = Denoiser(network, trainer.diffusion, trainer.denoiser.frequency_features)
        denoiser.autocast = trainer.denoiser.autocast
        if devices:
            torch.cuda.reset_peak_memory_stats(device)
            _there_and_back(trainer, denoiser, batch.to(device))
            peak = torch.cuda.max_memory_allocated(device) - weights + later  # without the copy of the network
            del denoiser, network
            torch.cuda.empty_cache()  # it was given to this stream, and steps are taken on another
            return Memory(peak, f"by one step on {device}, as torch counts it")
        few = min(FEW, share)
        kept = _kept(trainer, denoiser, batch.first(few))
        way_back = math.ceil(kept * share / few)
        return Memory(
            held + weights + later + way_back, "what is held now, and what a step keeps for its way back, counted"
        )
    return None


def rehearse(trainer: Trainer) -> Pace:
    """How fast a trainer is, by real steps on its data; it has taken them afterwards, and can train no run any more."""
    settings, device = trainer.settings, trainer.device
    workers = default_workers(device) if settings.workers is None else settings.workers
    begin = trainer.step
    loader = trainer.batches.loader(begin + 1, begin + 2 + MOST, workers, device)
    seconds = list[float]()
    with closing(loader):
        for batch_number in range(2 + MOST):
            before = time.perf_counter()
            trainer.train_step(next(loader))
            _wait(device)
            seconds.append(time.perf_counter() - before)
            enough = batch_number >= 1 + LEAST and sum(seconds[2:]) >= SECONDS
            slow = batch_number >= 1 and sum(seconds) >= SLOW  # a step that takes long is the same the next time
            if trainer.world.any(enough or slow):
                break
    warm = sorted(seconds[2:] or seconds[1:])
    median = warm[len(warm) // 2]
    evaluation = 0.0
    if settings.sample_every:
        evaluation = evaluation_seconds(trainer.averaged(), trainer.config, settings.preview_images)
    return Pace(max(seconds[0] - median, 0.0), median, len(warm), evaluation)


def most_memory(trainer: Trainer) -> Memory:
    """The most memory that a trainer has held, which has taken steps."""
    if trainer.device.type == "cuda":
        return Memory(
            torch.cuda.max_memory_allocated(trainer.device), f"the most on {trainer.device}, as torch counts it", True
        )
    return Memory(most_resident(), "the most that this process held", True)


@torch.no_grad()
def evaluation_seconds(denoiser: Denoiser, config: Config, count: int) -> float:
    """Seconds in which a network is evaluated once for ``count`` events, once it is warm."""
    model = score_of(denoiser.eval(), denoiser.diffusion, config)
    device = next(denoiser.parameters()).device
    x, seconds = torch.zeros(count, *config.data.event_shape, device=device), list[float]()
    for _ in range(4):
        _wait(device)
        before = time.perf_counter()
        model.predict(x, config.N)
        _wait(device)
        seconds.append(time.perf_counter() - before)
    return sorted(seconds[1:])[1]


def _there_and_back(trainer: Trainer, denoiser: Denoiser, batch: Batch) -> None:
    denoiser.train()
    loss = trainer.config.objective.loss(denoiser, trainer.diffusion, batch.x_0, batch.i, batch.eps, batch.condition)
    loss.per_event.mean().backward()


def _kept(trainer: Trainer, denoiser: Denoiser, batch: Batch) -> int:
    """Bytes that a pass keeps for the way back, weights aside: each storage once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in denoiser.network.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _there_and_back(trainer, denoiser, batch)
    return sum(storages.values())


@contextmanager
def _only_memory(trainer: Trainer) -> Iterator[None]:
    """What fails inside the block for want of memory is raised; all else the first step will say better."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if demand := shortage(error):
            raise out_of_memory(demand, *trainer.too_large) from error


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _shown(settings: TrainSettings, begin: int) -> Iterator[int]:
    """The steps after ``begin`` of which there is a preview."""
    every = settings.sample_every
    steps = {*range(every, settings.steps + 1, every), settings.steps}
    return (step for step in sorted(steps) if step > begin and is_shown(settings, step))


def _checkpoint(trainer: Trainer) -> int:
    """Bytes of a checkpoint: weights, two moments of each parameter, the average, and their names."""
    state = trainer.network.state_dict()
    moments = {
        f"{name}.{entry}": parameter if entry != "step" else torch.zeros(())
        for name, parameter in trainer.network.named_parameters()
        if parameter.requires_grad
        for entry in ("exp_avg", "exp_avg_sq", "step")
    }
    groups = [state, moments, *trainer.weights.averages.values()]
    facts = 900 + 200 * len(groups)  # state.json and MANIFEST.json
    return facts + sum(_bytes(group.values()) + _header(group) for group in groups)


def _header(tensors: dict[str, Tensor]) -> int:
    """Bytes of what safetensors writes before the numbers."""
    place, entries = 0, dict[str, Any]()
    for name, tensor in tensors.items():
        end = place + _bytes([tensor])
        entries[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    length = len(json.dumps(entries, separators=(",", ":")))
    return 8 + -(-length // 8) * 8


def _preview(trainer: Trainer) -> int:
    """Bytes of the picture of a preview, by the same picture of the data."""
    content = io.BytesIO()
    pictures.sheet(reference(trainer.config.data, trainer.settings.preview_images)).save(content, "PNG")
    return content.tell()


def _row(trainer: Trainer) -> int:
    """Bytes of a row of metrics.jsonl."""
    third, steps = 1 / 3, trainer.settings.steps
    row = {"step": steps, "images": steps * trainer.settings.batch, "loss": third, "loss_bands": [third] * BANDS}
    return len(json_line({**row, "grad_norm": third, "skipped": 0, "lr": trainer.settings.lr, "images_per_s": 100.1}))
