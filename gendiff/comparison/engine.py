"""Engine: trains what is missing of a comparison, draws, measures and looks: alone, by a crew, or beside other processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gendiff.command import keep, kept, started, words
from gendiff.comparison.directory import Comparison
from gendiff.comparison.listener import Listener
from gendiff.comparison.look import Look, look
from gendiff.comparison.measure import rehearse, ruler_of
from gendiff.comparison.plan import Cell
from gendiff.comparison.work import Work
from gendiff.evaluation.measuring import see
from gendiff.machine.determinism import prepare
from gendiff.machine.jobs import ALONE, Crew, Job, memory_of, together
from gendiff.machine.threads import so_many
from gendiff.machine.world import World
from gendiff.names import set_default_resolver
from gendiff.plugin.blame import named
from gendiff.plugin.registry import Registry
from gendiff.run.network import build_denoiser
from gendiff.run.trained import TrainedModel
from gendiff.sampler import CHUNK, Sampler
from gendiff.storage.cache import Cache
from gendiff.storage.lock import Held
from gendiff.training.cost import evaluation_seconds
from gendiff.training.trainer import Trainer

WAIT = 5.0  # seconds between two looks at what others do
SOON = 0.5  # the same, of those on this machine

#: A piece of work: what it is, what does it, and for which cell.
Piece = tuple[str, Callable[[Listener], None], Cell]


@dataclass(frozen=True)
class Engine:
    """Who works on a comparison, and by what means.

    Args:
        comparison: its directory, which is held meanwhile (`Comparison.working`).
        registry: the plugins.
        device: where all is computed.
        listener: hears how far it is.
        heed: is called between pieces of work, and raises to stop: what `Comparison.working` gives.
        crew: who does the pieces: it changes how fast that is, and no bit but by its threads.

    """

    comparison: Comparison
    registry: Registry
    device: torch.device
    listener: Listener
    heed: Callable[[], None]
    crew: Crew = ALONE
    _memory: dict[tuple[str, int], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def finish(self) -> None:
        """Train and measure whatever is missing."""
        self._by_workers()
        cells = self.comparison.plan.cells()
        self._train_missing(cells)
        missing = [(cell, sampler) for cell in cells for sampler in self.comparison.unmeasured(cell)]
        if self._copies.at_once > 1 and len(missing) > 1:
            self._see_reference()
        self._each(
            [(cell.title, partial(self._measure, cell, sampler), cell) for cell, sampler in missing], self._ask_once
        )

    def train(self, cells: Sequence[Cell]) -> None:
        """Train those of the cells that are not finished."""
        self._by_workers(cells, False)
        self._train_missing(cells)

    def looks(self, cells: Sequence[Cell] | None = None) -> list[Look]:
        """What there is to see of the cells, those of `Comparison.shown` by default, computed where it is missing."""
        cells = self.comparison.shown() if cells is None else cells
        if not cells:
            return []
        self._by_workers(cells, False)
        steps = self.comparison.steps(cells[0])
        self._each(
            [
                (f"looking at {cell.contender.label}", partial(self._look, cell, steps), cell)
                for cell in cells
                if self.comparison.seen(cell, steps) is None
            ],
            self._ask_once,
        )
        return [self.comparison.look(cell, steps) for cell in cells]

    def share(self, wait: float = WAIT, cells: Sequence[Cell] | None = None, drawing: bool = True) -> None:
        """Take part in the work, beside any number of processes that see the directory: do what none of them does.

        A piece of work is the training of a run, what is measured of it with a sampler, or what there is to see of it. One that
        a killed process held is free again. It ends when nothing is missing, and waits where others do all that is.

        Args:
            wait: seconds between two looks at what others do.
            cells, drawing: as of `missing`.

        """
        if any(contender.config.train.deterministic for contender in self.comparison.plan.contenders):
            prepare(self.device)  # what is measured may come before what is trained, and would begin with the GPU
        while pieces := self.missing(cells, drawing):
            done = 0
            for work in pieces:
                done += _is_done(work, self.listener)
                self.heed()
            if not done:
                time.sleep(wait)

    def missing(self, cells: Sequence[Cell] | None = None, drawing: bool = True) -> list[Callable[[Listener], None]]:
        """What can be done now of what is missing, each piece as what does it; none where all is done.

        Args:
            cells: the runs that are needed; all of them where nothing is said.
            drawing: whether samples of them are drawn and measured.

        """
        pieces, comparison = list[Callable[[Listener], None]](), self.comparison
        shown = comparison.shown()
        for cell in comparison.plan.cells() if cells is None else cells:
            if not comparison.is_trained(cell):
                pieces.append(partial(self._train, cell, cell.title))
                continue
            if drawing:
                pieces += [partial(self._measure, cell, sampler) for sampler in comparison.unmeasured(cell)]
            if cell in shown and comparison.seen(cell, steps := comparison.steps(shown[0])) is None:
                pieces.append(partial(self._look, cell, steps))
        return pieces

    # --- who does the pieces -------------------------------------------------------------------------------------------

    @property
    def _copies(self) -> Crew:
        """The crew of copies of this process; of workers that begin anew, who are done then, this process alone."""
        return ALONE if self.crew.anew else self.crew

    def _by_workers(self, cells: Sequence[Cell] | None = None, drawing: bool = True) -> None:
        """Let workers that begin anew `share` what is `missing`, where the crew is of such."""
        if not self.crew.anew or (count := min(self.crew.at_once, len(self.missing(cells, drawing)))) < 2:
            return
        if drawing:
            self._see_reference()
        names = None if cells is None else [cell.name for cell in cells]
        path, said, options = self.comparison.path, words(), kept()
        worker = _Worker(path, names, drawing, self.registry, self.device, self.listener, said, options)
        jobs = [Job(f"worker {number}", worker) for number in range(1, count + 1)]
        with self.listener.together() as heard:
            together(jobs, self.crew, heard)

    def _each(self, pieces: Sequence[Piece], trial: Callable[[Cell], None]) -> None:
        """Do pieces of work, of which each takes as much memory as ``trial`` for its cell, which takes little time.

        Those that somebody else does are waited for: they come to the same there, or are done here where that one ends before.
        """
        while pieces := self._once(pieces, trial):
            with self.listener.working(f"{pieces[0][0]}: others work on it, and are waited for", 1):
                time.sleep(WAIT)
            self.heed()

    def _once(self, pieces: Sequence[Piece], trial: Callable[[Cell], None]) -> list[Piece]:
        """Do those of the pieces that nobody else does; returns the others."""
        crew = self._copies
        if crew.at_once == 1 or len(pieces) < 2:
            held = list[Piece]()
            with so_many(crew.threads) if crew.at_once > 1 else nullcontext():
                for piece in pieces:
                    if not _is_done(piece[1], self.listener):
                        held.append(piece)
                    self.heed()
            return held

        def apart(work: Callable[[Listener], None], say: Callable[[Any], None]) -> bool:
            try:
                return _is_done(work, self.listener.apart(say))
            except Exception as error:
                raise named(error, self.registry.entries()) from error

        memory = [self._memory_of(trial, cell) for *_, cell in pieces]
        jobs = [Job(what, partial(apart, work), most) for (what, work, _), most in zip(pieces, memory, strict=True)]
        with self.listener.together() as heard:
            outcomes = together(jobs, crew, heard)
        return [piece for piece, done in zip(pieces, outcomes, strict=True) if not done]

    def _memory_of(self, trial: Callable[[Cell], None], cell: Cell) -> int:
        """The bytes that a piece of work for an arm takes at most; it is found out once."""
        of = (trial.__name__, cell.place)
        if of not in self._memory:
            self._memory[of] = memory_of(partial(trial, cell))
        return self._memory[of]

    # --- the pieces ----------------------------------------------------------------------------------------------------

    def _train_missing(self, cells: Sequence[Cell]) -> None:
        own = [cell for cell in cells if not cell.contender.runs]
        titles = [f"{cell.title} (run {number} of {len(own)})" for number, cell in enumerate(own, 1)]
        self._each(
            [
                (title, partial(self._train, cell, title), cell)
                for title, cell in zip(titles, own, strict=True)
                if not self.comparison.is_trained(cell)
            ],
            self._step_once,
        )

    def _train(self, cell: Cell, what: str, listener: Listener) -> None:
        with self.comparison.claim(cell, "train"):
            self._work(listener).trained(self.comparison.run_path(cell), cell.contender.with_seed(cell.seed), what)

    def _measure(self, cell: Cell, sampler: Sampler, listener: Listener) -> None:
        path, run = self.comparison.measure_path(cell, sampler), self.comparison.run(cell)
        with self.comparison.claim(cell, path.stem):
            ruler = ruler_of(self.comparison.plan)
            self._work(listener).measured(path, run, sampler, cell.seed, ruler, cell.title)

    def _look(self, cell: Cell, steps: Sequence[float], listener: Listener) -> None:
        comparison, plan = self.comparison, self.comparison.plan
        with comparison.claim(cell, "look"):
            if comparison.seen(cell, steps) is not None:
                return
            with listener.working(f"looking at {cell.contender.label}", 1) as advance:
                model = TrainedModel.load(comparison.run(cell), self.device, **plan.asking)
                view = look(model, comparison.shown_sampler(cell), steps, plan.data, cell.seed, self.heed)
                advance(1)
            view.save(*comparison.look_file(cell, steps))

    def _work(self, listener: Listener) -> Work:
        argv = self.comparison.about["argv"]
        return Work(self.comparison.path, argv, self.registry, self.device, listener, self.heed)

    def _see_reference(self) -> None:
        """Look at what samples are compared with, once for all who measure."""
        plan = self.comparison.plan
        see(plan.reference, plan.instruments, self.device, Cache(self.comparison.path / "cache"))

    def _step_once(self, cell: Cell) -> None:
        trainer = Trainer(cell.contender.with_seed(cell.seed), self.device, World(0, 1, self.device))
        trainer.train_step(trainer.batches[1])

    def _ask_once(self, cell: Cell) -> None:
        config = cell.contender.config
        evaluation_seconds(build_denoiser(config, self.device), config, CHUNK[self.device.type])
        rehearse(self.comparison.plan, self.device)


@dataclass(frozen=True)
class _Worker:
    """What a worker does in a process that knows nothing but this: `Engine.share`.

    Args:
        path: of the comparison.
        names: of the cells that are needed; None for all of them.
        drawing: as of `Engine.missing`.
        registry, device, listener: as of `Engine`.
        said, options: what the program was started with (`gendiff.command`).

    """

    path: Path
    names: Sequence[str] | None
    drawing: bool
    registry: Registry
    device: torch.device
    listener: Listener
    said: Sequence[str]
    options: Sequence[str]

    def __call__(self, say: Callable[[Any], None]) -> None:
        """Do it."""
        set_default_resolver(self.registry.component_class)
        with started(self.said):
            keep(self.options)
            listener = self.listener.apart(say)
            comparison = Comparison.open(self.path)
            cells = [cell for cell in comparison.plan.cells() if self.names is None or cell.name in self.names]
            try:
                with comparison.working(alone=False) as heed:
                    Engine(comparison, self.registry, self.device, listener, heed).share(SOON, cells, self.drawing)
            except Exception as error:
                raise named(error, self.registry.entries()) from error


def _is_done(work: Callable[[Listener], None], listener: Listener) -> bool:
    """Do a piece of work, unless somebody else does; returns whether it is done here."""
    try:
        work(listener)
    except Held:
        return False
    return True
