"""Engine: trains what is missing, draws and measures, and keeps everything where it can be found again.

comparisons/00001-digits/
plan.json            what is compared; the comparison goes on with nothing else
runs/2-dct-s0/       one run directory for each arm and seed
measures/2-dct-s0/   what was measured, one file for each sampler
looks/2-dct-s0.npz   trajectories and losses of each arm, with its first seed
compare.json  report.html  figures/

Each file is written whole or not at all, and what is there is not done again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch

from gendiff.command import command
from gendiff.comparison.look import Look, look, targets
from gendiff.comparison.measure import Measure, key_of, measure, rehearse
from gendiff.comparison.plan import FORMAT, Cell, Plan, slug
from gendiff.errors import ConfigError, DataError, Stopped
from gendiff.evaluation.measuring import see
from gendiff.machine.jobs import ALONE, Crew, Job, memory_of, together
from gendiff.machine.stopping import StopRequest, interruptible, stop_requests, stopped
from gendiff.machine.threads import so_many
from gendiff.machine.world import World
from gendiff.plugin.blame import named
from gendiff.plugin.registry import Registry
from gendiff.run import checkpoint
from gendiff.run.directory import Run
from gendiff.run.generation import NotFinite
from gendiff.run.network import build_denoiser
from gendiff.run.record import now
from gendiff.run.trained import TrainedModel
from gendiff.sampler import CHUNK, Sampler, Snapshot
from gendiff.storage import sealed
from gendiff.storage.cache import Cache
from gendiff.storage.disk import unwritable
from gendiff.storage.files import Files, to_become
from gendiff.storage.folder import ELSEWHERE, check_empty, empty, inside, leaving_no_folder, numbered
from gendiff.storage.lock import locked
from gendiff.training.branch import begin
from gendiff.training.continuation import check_disk, refuse_other_data
from gendiff.training.cost import evaluation_seconds
from gendiff.training.loop import fit
from gendiff.training.trainer import Trainer

PLAN = "plan.json"
FOLDERS = ("runs", "measures", "looks", "figures", "cache")


class Listener(Protocol):
    """Who hears how far a comparison is."""

    def working(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A piece of work of so many parts begins; what it returns is told how many are done now."""

    def train(self, what: str, run: Run, trainer: Trainer) -> None:
        """Train a run, before whoever wants to watch; ``what`` says which it is, and of how many."""

    def together(self) -> AbstractContextManager[Callable[[int, Any], None]]:
        """Several pieces of work at a time begin; what it returns hears what was said of each, which is known by a number."""

    def apart(self, say: Callable[[Any], None]) -> Listener:
        """A listener for the process of one of them: what it hears, it says to the one that is `together`."""


class Silent:
    """A listener that says nothing."""

    @contextmanager
    def working(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Say nothing."""
        yield lambda count: None

    def train(self, what: str, run: Run, trainer: Trainer) -> None:
        """Train it, and say nothing."""
        fit(run, trainer)

    @contextmanager
    def together(self) -> Iterator[Callable[[int, Any], None]]:
        """Say nothing."""
        yield lambda number, said: None

    def apart(self, say: Callable[[Any], None]) -> Listener:
        """Say nothing."""
        return self


class Comparison:
    """A comparison directory. Use `Comparison.create` or `Comparison.open`."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        self._memory: dict[tuple[str, int], int] = {}

    @classmethod
    def create(cls, plan: Plan, out: Path | None = None, argv: Sequence[str] = ()) -> Comparison:
        """Make the directory ``out`` (default: the next number under ``comparisons/``), or go on with it where it is the same.

        Raises:
            ConfigError: where ``out`` holds something else.

        """
        if out is not None and (comparison := cls.held(plan, out)):
            return comparison
        if out is not None:
            for leftover in _staged(out):
                leftover.unlink()
        with leaving_no_folder(out or Path("comparisons")):
            path = numbered(Path("comparisons"), plan.baseline.config.data.name) if out is None else empty(out)
            about = sealed.sealed({"format": FORMAT, "created": now(), "argv": list(argv), "plan": plan.table()})
            try:
                Files().replace(path / PLAN, about)
            except OSError as error:
                if out is None:
                    with suppress(OSError):
                        path.rmdir()
                raise unwritable(error, path / PLAN, size=len(about), fix=ELSEWHERE) from error
        return cls(path, plan)

    @classmethod
    def held(cls, plan: Plan, out: Path) -> Comparison | None:
        """The comparison of this plan in ``out``; None where there is room for it. Raises as `create` does, and makes nothing."""
        if not os.path.lexists(out / PLAN):
            if not (leftovers := _staged(out)) or len(leftovers) < len(list(out.iterdir())):
                check_empty(out)
            return None
        comparison = cls.open(out)
        if comparison.plan.table() != plan.table():
            keys = [key for key, value in plan.table().items() if comparison.plan.table()[key] != value]
            raise ConfigError(
                f"'{out}' holds another comparison",
                where="--out",
                details=[f"it differs in: {', '.join(keys)}"],
                fix=f"choose a new directory, or go on with the old one: {command('compare', '--resume', out)}",
            )
        return comparison

    @classmethod
    def open(cls, path: Path) -> Comparison:
        """A comparison that exists; raises `ConfigError` where ``path`` is none, `DataError` where its plan is damaged."""
        if not os.path.lexists(path / PLAN):
            raise ConfigError(
                f"'{path}' is not a comparison directory",
                details=[f"a comparison directory holds {PLAN}"],
                fix="give the directory that gendiff compare made",
            )
        table = _about(path)
        if table.get("format") != FORMAT:
            raise ConfigError(f"'{path}' has format {table.get('format')!r:.20}; this gendiff reads format {FORMAT}")
        return cls(path, Plan.of_table(table.get("plan", {}), str(path / PLAN)))

    @cached_property
    def about(self) -> dict[str, Any]:
        """The content of plan.json: the plan, when and by which command it was made."""
        return _about(self.path)

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
    def working(self) -> Iterator[Callable[[], None]]:
        """Hold the directory inside the block; what it returns is to be called between pieces of work, and raises on request.

        Raises:
            Stopped: on a request to stop, wherever it comes; everything that is needed to go on is saved.
            GendiffError: where another process holds it.

        """
        for name in FOLDERS:
            inside(self.path, self.path / name)
        with (
            locked(self.path, "worked on", "wait for it, stop it, or choose another --out"),
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

    def _each(
        self,
        pieces: Sequence[tuple[str, Callable[[Listener], None], Cell]],
        trial: Callable[[torch.device, Cell], None],
        device: torch.device,
        registry: Registry,
        listener: Listener,
        heed: Callable[[], None],
        crew: Crew,
    ) -> None:
        """Do pieces of work: what each is, how it is done, and for which cell; ``trial`` takes as much memory and little time."""
        if crew.at_once == 1 or len(pieces) < 2:
            with so_many(crew.threads) if crew.at_once > 1 else nullcontext():
                for _, work, _ in pieces:
                    work(listener)
                    heed()
            return

        def apart(work: Callable[[Listener], None], say: Callable[[Any], None]) -> None:
            try:
                work(listener.apart(say))
            except Exception as error:
                raise named(error, registry.entries()) from error

        memory = [self._memory_of(trial, device, cell) for *_, cell in pieces]
        jobs = [Job(what, partial(apart, work), most) for (what, work, _), most in zip(pieces, memory, strict=True)]
        with listener.together() as heard:
            together(jobs, crew, heard)

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
        run, plan = self.run(cell), self.plan

        def is_measured(sampler: Sampler) -> bool:
            key = key_of(run, sampler, plan.n, cell.seed, plan.instruments, plan.reference)
            return Measure.load(self._measure_path(cell, sampler), key) is not None

        return [sampler for sampler in plan.samplers(cell.contender) if not is_measured(sampler)]

    def _stopped(self, number: int) -> Stopped:
        return stopped("the comparison", number, "what was reached is saved", command("compare", "--resume", self.path))

    def _train(self, cell: Cell, what: str, registry: Registry, device: torch.device, listener: Listener) -> None:
        path = self.run_path(cell)
        if not (path / "run.json").is_file():
            if os.path.lexists(path):
                Files().remove_tree(path)  # killed while it was made: run.json comes last
            Run.create(cell.contender.with_seed(cell.seed), registry, path, self.about["argv"])
        run = Run.open(inside(self.path, path), training=True)
        if run.info["status"] == "done":
            return
        refuse_other_data(run, run.config)
        trainer = Trainer(run.config, device, World(0, 1, device))
        if any(run.checkpoints.glob("step-*")):
            trainer.restore(checkpoint.newest(run.checkpoints))
        elif lineage := begin(trainer, None, run.config.model)[0]:
            run.update(**{"from": lineage})
        with run.lock():
            check_disk(run.path, trainer)
            run.forget_after(trainer.step)
            listener.train(what, run, trainer)

    def _measure(
        self, cell: Cell, sampler: Sampler, device: torch.device, heed: Callable[[], None], listener: Listener
    ) -> None:
        run, path, plan = self.run(cell), self._measure_path(cell, sampler), self.plan
        key = key_of(run, sampler, plan.n, cell.seed, plan.instruments, self.plan.reference, **plan.asking)
        if Measure.load(path, key):
            return
        blocks = inside(self.path, path.with_name(f"{path.stem}.{key}"))
        model = TrainedModel.load(run, device, **self.plan.asking)
        evaluations = cell.contender.evaluations(sampler)
        with listener.working(
            f"{cell.contender.label}, seed {cell.seed}: {sampler.spec}", plan.n * evaluations
        ) as advance:

            def watch(snapshot: Snapshot) -> None:
                heed()
                if snapshot.pivot is not None:
                    advance(len(snapshot.x_bar))

            try:
                result = measure(
                    model,
                    sampler,
                    plan.n,
                    cell.seed,
                    plan.instruments,
                    self.plan.reference,
                    blocks,
                    Cache(self.path / "cache"),
                    watch,
                    lambda count: advance(count * evaluations),
                    "" if plan.data.length is None else run.info["data"]["fingerprint"],
                )
            except NotFinite as error:
                error.where = f"{cell.contender.label}, seed {cell.seed}"
                raise
        result.save(path, key)
        for old in path.parent.glob(f"{path.stem}.*/"):  # of weights or settings that are no more
            Files().remove_tree(old)

    def _look(
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


def _staged(out: Path) -> list[Path]:
    """All that there is where a comparison was killed while it was made."""
    return [path for path in out.iterdir() if to_become(path.name) == PLAN] if out.is_dir() else []


def _about(path: Path) -> dict[str, Any]:
    content = sealed.read(path / PLAN)
    return sealed.check_seal(path / PLAN, content, sealed.parsed(path / PLAN, content))
