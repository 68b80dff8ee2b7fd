"""Engine: trains what is missing, draws and measures, and keeps everything where it can be found again.

comparisons/00001-digits/
plan.json            what is compared; the comparison goes on with nothing else
runs/2-dct-s0/       one run directory for each arm and seed
measures/2-dct-s0/   what was measured, one file for each sampler
looks/2-dct-s0.npz   trajectories and losses of each arm, with its first seed
claims/               who works on what
compare.json  report.html  figures/

Each file is written whole or not at all, and what is there is not done again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from gendiff.command import command, keep, kept, started, words
from gendiff.comparison.look import Look, look, targets
from gendiff.comparison.measure import Measure, key_of, rehearse, ruler_of
from gendiff.comparison.plan import FORMAT, Cell, Plan, slug
from gendiff.comparison.planned import Planned
from gendiff.comparison.work import Listener, measured, trained
from gendiff.comparison.work import Silent as Silent
from gendiff.errors import DataError, Stopped
from gendiff.evaluation.measuring import see
from gendiff.machine.determinism import prepare
from gendiff.machine.jobs import ALONE, Crew, Job, memory_of, together
from gendiff.machine.stopping import StopRequest, interruptible, stop_requests, stopped
from gendiff.machine.threads import so_many
from gendiff.machine.world import World
from gendiff.names import set_default_resolver
from gendiff.plugin.blame import named
from gendiff.plugin.registry import Registry
from gendiff.run.directory import Run
from gendiff.run.network import build_denoiser
from gendiff.run.trained import TrainedModel
from gendiff.sampler import CHUNK, Sampler
from gendiff.storage.cache import Cache
from gendiff.storage.folder import inside
from gendiff.storage.lock import Held, claimed, locked
from gendiff.training.cost import evaluation_seconds
from gendiff.training.trainer import Trainer

PLAN = "plan.json"
PLANNED = Planned("comparison", PLAN, "plan", FORMAT, "compare", "comparisons", "another comparison")
FOLDERS = ("runs", "measures", "looks", "figures", "cache", "claims", "workers")


WAIT = 5.0  # seconds between two looks at what others do
SOON = 0.5  # the same, of those on this machine

#: A piece of work: what it is, what does it, and for which cell.
Piece = tuple[str, Callable[[Listener], None], Cell]


class Comparison:
    """A comparison directory. Use `Comparison.create` or `Comparison.open`."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        self._memory: dict[tuple[str, int], int] = {}
        self._finished: list[Cell] = []

    @classmethod
    def create(cls, plan: Plan, out: Path | None = None, argv: Sequence[str] = ()) -> Comparison:
        """Make the directory ``out`` (default: the next number under ``comparisons/``), or go on with it where it is the same.

        Raises:
            ConfigError: where ``out`` holds something else.

        """
        if out is not None and (comparison := cls.held(plan, out)):
            return comparison
        return cls(PLANNED.make(out, plan.baseline.config.data.name, plan.table(), argv), plan)

    @classmethod
    def held(cls, plan: Plan, out: Path) -> Comparison | None:
        """The comparison of this plan in ``out``; None where there is room for it. Raises as `create` does, and makes nothing."""
        if not PLANNED.is_made(out):
            return None
        comparison = cls.open(out)
        PLANNED.refuse_another(out, plan.table(), comparison.plan.table())
        return comparison

    @classmethod
    def open(cls, path: Path) -> Comparison:
        """A comparison that exists; raises `ConfigError` where ``path`` is none, `DataError` where its plan is damaged."""
        return cls(path, Plan.of_table(PLANNED.plan(path), str(path / PLAN)))

    @cached_property
    def about(self) -> dict[str, Any]:
        """The content of plan.json: the plan, when and by which command it was made."""
        return PLANNED.about(self.path)

    def run(self, cell: Cell) -> Run:
        """The run of a cell, ready to be sampled from."""
        return Run.open(self.run_path(cell))

    def run_path(self, cell: Cell) -> Path:
        """Its directory."""
        return cell.contender.runs.get(cell.seed) or self.path / "runs" / cell.name

    def shown(self) -> list[Cell]:
        """The cell of each arm that is shown to the eye: with the first seed that all arms have, or else each with its first."""
        cells = self.plan.cells()
        seeds = [[cell.seed for cell in cells if cell.place == place] for place in range(len(self.plan.contenders))]
        common = [seed for seed in seeds[0] if all(seed in of for of in seeds)]
        pairs = [(place, common[0] if common else of[0]) for place, of in enumerate(seeds)]
        return [cell for at in pairs for cell in cells if (cell.place, cell.seed) == at]

    def looks(
        self,
        registry: Registry,
        device: torch.device,
        listener: Listener,
        heed: Callable[[], None],
        crew: Crew = ALONE,
        cells: Sequence[Cell] | None = None,
    ) -> list[Look]:
        """What there is to see of the cells, those of `shown` by default, computed by a crew where it is missing."""
        cells = self.shown() if cells is None else cells
        if not cells:
            return []
        crew = self._by_workers(registry, device, listener, heed, crew, cells, False)
        steps = targets(cells[0].contender.diffusion, self._shown_sampler(cells[0]))
        self._each(
            [
                (f"looking at {cell.contender.label}", partial(self._look, cell, steps, device, heed), cell)
                for cell in cells
                if self._seen(cell, steps) is None
            ],
            self._ask_once,
            device,
            registry,
            listener,
            heed,
            crew,
        )
        return [self._seen(cell, steps) or self._unreadable(cell, steps) for cell in cells]

    def measured(self, cell: Cell, sampler: Sampler) -> Measure | None:
        """What was measured of a cell; None where it was not yet."""
        return Measure.load(self._measure_path(cell, sampler))

    # --- work --------------------------------------------------------------------------------------------------------

    @contextmanager
    def working(self, alone: bool = True) -> Iterator[Callable[[], None]]:
        """Hold the directory inside the block; what it returns is to be called between pieces of work, and raises on request.

        Args:
            alone: whether this process is the one that writes the result; any number of others may `share` the work with it.

        Raises:
            Stopped: on a request to stop, wherever it comes; everything that is needed to go on is saved.
            Held: where another process holds it.

        """
        for name in FOLDERS:
            inside(self.path, self.path / name)
        with (
            locked(self.path, "worked on", "wait for it, stop it, or choose another --out") if alone else nullcontext(),
            stop_requests() as requests,
        ):
            # Every file is written whole or not at all: work may end anywhere.

            def heed() -> None:
                if requests:
                    raise self._stopped(requests[0])

            try:
                with interruptible():
                    yield heed
            except (Stopped, StopRequest) as stop:  # that of a run says how to go on with that run alone
                raise self._stopped(requests[0]) from stop

    def finish(
        self,
        registry: Registry,
        device: torch.device,
        listener: Listener,
        heed: Callable[[], None],
        crew: Crew = ALONE,
    ) -> None:
        """Train and measure whatever is missing, by a crew: it changes how fast that is, and no bit but by its threads."""
        crew = self._by_workers(registry, device, listener, heed, crew)
        self.train(self.plan.cells(), registry, device, listener, heed, crew)
        missing = [(cell, sampler) for cell in self.plan.cells() for sampler in self._unmeasured(cell)]
        if crew.at_once > 1 and len(missing) > 1:
            see(self.plan.reference, self.plan.instruments, device, Cache(self.path / "cache"))  # once, for all of them
        self._each(
            [
                (
                    f"{cell.contender.label}, seed {cell.seed}",
                    partial(self._measure, cell, sampler, device, heed),
                    cell,
                )
                for cell, sampler in missing
            ],
            self._ask_once,
            device,
            registry,
            listener,
            heed,
            crew,
        )

    def train(
        self,
        cells: Sequence[Cell],
        registry: Registry,
        device: torch.device,
        listener: Listener,
        heed: Callable[[], None],
        crew: Crew = ALONE,
    ) -> None:
        """Train those of the cells that are not finished."""
        crew = self._by_workers(registry, device, listener, heed, crew, cells, False)
        own = [cell for cell in cells if not cell.contender.runs]
        self._each(
            [
                (
                    what := f"{cell.contender.label}, seed {cell.seed} (run {number} of {len(own)})",
                    partial(self._train, cell, what, registry, device),
                    cell,
                )
                for number, cell in enumerate(own, 1)
                if not self.is_trained(cell)
            ],
            self._step_once,
            device,
            registry,
            listener,
            heed,
            crew,
        )

    def share(
        self,
        registry: Registry,
        device: torch.device,
        listener: Listener,
        heed: Callable[[], None],
        wait: float = WAIT,
        cells: Sequence[Cell] | None = None,
        drawing: bool = True,
    ) -> None:
        """Take part in the work, beside any number of processes that see the directory: do what none of them does.

        A piece of work is the training of a run, what is measured of it with a sampler, or what there is to see of it. One that
        a killed process held is free again. It ends when nothing is missing, and waits where others do all that is.

        Args:
            wait: seconds between two looks at what others do.
            cells, drawing: as of `missing`.

        """
        if any(contender.config.train.deterministic for contender in self.plan.contenders):
            prepare(device)  # what is measured may come before what is trained, and would begin with the GPU
        while pieces := self.missing(registry, device, heed, cells, drawing):
            done = 0
            for work in pieces:
                done += _is_done(work, listener)
                heed()
            if not done:
                time.sleep(wait)

    def missing(
        self,
        registry: Registry,
        device: torch.device,
        heed: Callable[[], None],
        cells: Sequence[Cell] | None = None,
        drawing: bool = True,
    ) -> list[Callable[[Listener], None]]:
        """What can be done now of what is missing, each piece as what does it; none where all is done.

        Args:
            cells: the runs that are needed; all of them where nothing is said.
            drawing: whether samples of them are drawn and measured.

        """
        pieces = list[Callable[[Listener], None]]()
        shown = self.shown()
        for cell in self.plan.cells() if cells is None else cells:
            if not cell.contender.runs and not self.is_trained(cell):
                what = f"{cell.contender.label}, seed {cell.seed}"
                pieces.append(partial(self._train, cell, what, registry, device))
                continue
            if drawing:
                pieces += [partial(self._measure, cell, sampler, device, heed) for sampler in self._unmeasured(cell)]
            if cell in shown and self._seen(cell, steps := self._steps()) is None:
                pieces.append(partial(self._look, cell, steps, device, heed))
        return pieces

    def _by_workers(
        self,
        registry: Registry,
        device: torch.device,
        listener: Listener,
        heed: Callable[[], None],
        crew: Crew,
        cells: Sequence[Cell] | None = None,
        drawing: bool = True,
    ) -> Crew:
        """Let workers that begin anew `share` what is missing, where the crew is of such; returns who does the rest: nobody else.

        What is missing, by ``cells`` and ``drawing``, is that of `missing`.
        """
        if not crew.anew:
            return crew
        count = min(crew.at_once, len(self.missing(registry, device, heed, cells, drawing)))
        if count > 1:
            if drawing:  # once, for all of them
                see(self.plan.reference, self.plan.instruments, device, Cache(self.path / "cache"))
            names = None if cells is None else [cell.name for cell in cells]
            work = partial(_taking_part, self.path, names, drawing, registry, device, listener, words(), kept())
            jobs = [Job(f"worker {number}", work) for number in range(1, count + 1)]
            with listener.together() as heard:
                together(jobs, crew, heard)
        return ALONE

    def left(self) -> int:
        """How many pieces of work are missing, those among them that wait for a run to be trained."""
        shown, count = self.shown(), 0
        for cell in [cell for cell in self.plan.cells() if cell not in self._finished]:
            if not cell.contender.runs and not self.is_trained(cell):
                left = 1 + len(self.plan.samplers(cell.contender)) + (cell in shown)
            else:
                left = len(self._unmeasured(cell)) + (cell in shown and self._seen(cell, self._steps()) is None)
            count += left
            if not left:
                self._finished.append(cell)
        return count

    def _steps(self) -> list[float]:
        """Those at which all arms are looked at."""
        first = self.shown()[0]
        return list(targets(first.contender.diffusion, self._shown_sampler(first)))

    def _each(
        self,
        pieces: Sequence[Piece],
        trial: Callable[[torch.device, Cell], None],
        device: torch.device,
        registry: Registry,
        listener: Listener,
        heed: Callable[[], None],
        crew: Crew,
    ) -> None:
        """Do pieces of work: what each is, how it is done, and for which cell; ``trial`` takes as much memory and little time.

        Those that somebody else does are waited for: they come to the same there, or are done here where that one ends before.
        """
        while pieces := self._once(pieces, trial, device, registry, listener, heed, crew):
            with listener.working(f"{pieces[0][0]}: others work on it, and are waited for", 1):
                time.sleep(WAIT)
            heed()

    def _once(
        self,
        pieces: Sequence[Piece],
        trial: Callable[[torch.device, Cell], None],
        device: torch.device,
        registry: Registry,
        listener: Listener,
        heed: Callable[[], None],
        crew: Crew,
    ) -> list[Piece]:
        """Do those of the pieces that nobody else does; returns the others."""
        if crew.at_once == 1 or len(pieces) < 2:
            held = list[Piece]()
            with so_many(crew.threads) if crew.at_once > 1 else nullcontext():
                for piece in pieces:
                    if not _is_done(piece[1], listener):
                        held.append(piece)
                    heed()
            return held

        def apart(work: Callable[[Listener], None], say: Callable[[Any], None]) -> bool:
            try:
                return _is_done(work, listener.apart(say))
            except Exception as error:
                raise named(error, registry.entries()) from error

        memory = [self._memory_of(trial, device, cell) for *_, cell in pieces]
        jobs = [Job(what, partial(apart, work), most) for (what, work, _), most in zip(pieces, memory, strict=True)]
        with listener.together() as heard:
            outcomes = together(jobs, crew, heard)
        return [piece for piece, done in zip(pieces, outcomes, strict=True) if not done]

    def _memory_of(self, trial: Callable[[torch.device, Cell], None], device: torch.device, cell: Cell) -> int:
        """The bytes that a piece of work for an arm takes at most; it is found out once."""
        of = (trial.__name__, cell.place)
        if of not in self._memory:
            self._memory[of] = memory_of(partial(trial, device, cell))
        return self._memory[of]

    def _step_once(self, device: torch.device, cell: Cell) -> None:
        trainer = Trainer(cell.contender.with_seed(cell.seed), device, World(0, 1, device))
        trainer.train_step(trainer.batches[1])

    def _ask_once(self, device: torch.device, cell: Cell) -> None:
        config = cell.contender.config
        evaluation_seconds(build_denoiser(config, device), config, CHUNK[device.type])
        rehearse(self.plan, device)

    def is_trained(self, cell: Cell) -> bool:
        """Whether its run is done."""
        path = self.run_path(cell)
        return (path / "run.json").is_file() and Run(path, cell.contender.config).info["status"] == "done"

    def _unmeasured(self, cell: Cell) -> list[Sampler]:
        """The samplers with which a cell is not measured yet, as it is."""
        run, ruler = self.run(cell), ruler_of(self.plan)

        def is_measured(sampler: Sampler) -> bool:
            key = ruler.key(run, sampler, cell.seed)
            return Measure.load(self._measure_path(cell, sampler), key) is not None

        return [sampler for sampler in self.plan.samplers(cell.contender) if not is_measured(sampler)]

    def _stopped(self, number: int) -> Stopped:
        return stopped("the comparison", number, "what was reached is saved", command("compare", "--resume", self.path))

    def _train(self, cell: Cell, what: str, registry: Registry, device: torch.device, listener: Listener) -> None:
        with self._claim(cell, "train"):
            config = cell.contender.with_seed(cell.seed)
            trained(self.path, self.run_path(cell), config, self.about["argv"], what, registry, device, listener)

    def _measure(
        self, cell: Cell, sampler: Sampler, device: torch.device, heed: Callable[[], None], listener: Listener
    ) -> None:
        what = f"{cell.contender.label}, seed {cell.seed}"
        path, run = self._measure_path(cell, sampler), self.run(cell)
        with self._claim(cell, path.stem):
            measured(self.path, path, run, sampler, cell.seed, ruler_of(self.plan), what, device, listener, heed)

    def _claim(self, cell: Cell, work: str) -> AbstractContextManager[None]:
        """Whoever does some work on a cell holds it, here and on all machines that share the directory."""
        return claimed(inside(self.path, self.path / "claims" / cell.name / work))

    def _look(
        self, cell: Cell, steps: Sequence[float], device: torch.device, heed: Callable[[], None], listener: Listener
    ) -> None:
        with self._claim(cell, "look"):
            if self._seen(cell, steps) is None:
                self._see(cell, steps, device, heed, listener)

    def _see(
        self, cell: Cell, steps: Sequence[float], device: torch.device, heed: Callable[[], None], listener: Listener
    ) -> None:
        with listener.working(f"looking at {cell.contender.label}", 1) as advance:
            model = TrainedModel.load(self.run(cell), device, **self.plan.asking)
            view = look(model, self._shown_sampler(cell), steps, self.plan.data, cell.seed, heed)
            advance(1)
        view.save(*self._look_path(cell, steps))

    def _seen(self, cell: Cell, steps: Sequence[float]) -> Look | None:
        """What was looked at of a cell, as it is; None where it was not yet."""
        return Look.load(*self._look_path(cell, steps))

    def _unreadable(self, cell: Cell, steps: Sequence[float]) -> NoReturn:
        path = self._look_path(cell, steps)[0]
        again = command("compare", "--resume", self.path)
        raise DataError(f"'{path}' was written and cannot be read back", fix=f"look after the disk, then: {again}")

    def _look_path(self, cell: Cell, steps: Sequence[float]) -> tuple[Path, str]:
        """The file, and what it depends on."""
        key = key_of(
            self.run(cell),
            self._shown_sampler(cell),
            0,
            cell.seed,
            (),
            self.plan.reference,
            **self.plan.asking,
        )
        return self.path / "looks" / f"{cell.name}.npz", f"{key} {list(steps)}"

    def _shown_sampler(self, cell: Cell) -> Sampler:
        return self.plan.samplers(cell.contender)[-1]

    def _measure_path(self, cell: Cell, sampler: Sampler) -> Path:
        mark = hashlib.sha256(sampler.spec.encode()).hexdigest()[:6]  # a name is cut where a spec is long
        return self.path / "measures" / cell.name / f"{slug(sampler.spec)}-{mark}.npz"


def _taking_part(
    path: Path,
    names: Sequence[str] | None,
    drawing: bool,
    registry: Registry,
    device: torch.device,
    listener: Listener,
    said: Sequence[str],
    options: Sequence[str],
    say: Callable[[Any], None],
) -> None:
    """What a worker does in a process that knows nothing: `Comparison.share`.

    Args:
        names: of the cells that are needed.
        said, options: what the program was started with (`gendiff.command`).

    """
    set_default_resolver(registry.component_class)
    with started(said):
        keep(options)
        listener = listener.apart(say)
        comparison = Comparison.open(path)
        cells = None if names is None else [cell for cell in comparison.plan.cells() if cell.name in names]
        try:
            with comparison.working(alone=False) as heed:
                comparison.share(registry, device, listener, heed, SOON, cells, drawing)
        except Exception as error:
            raise named(error, registry.entries()) from error


def _is_done(work: Callable[[Listener], None], listener: Listener) -> bool:
    """Do a piece of work, unless somebody else does; returns whether it is done here."""
    try:
        work(listener)
    except Held:
        return False
    return True
