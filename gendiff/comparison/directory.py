"""Directory of a comparison: everything that is done is kept where it can be found again.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from gendiff.command import command
from gendiff.comparison.look import Look, targets
from gendiff.comparison.measure import Measure, key_of, ruler_of
from gendiff.comparison.plan import FORMAT, Cell, Plan, slug
from gendiff.comparison.planned import Planned
from gendiff.errors import DataError
from gendiff.run.directory import Run
from gendiff.sampler import Sampler
from gendiff.storage.folder import inside
from gendiff.storage.lock import claimed, locked

PLAN = "plan.json"
PLANNED = Planned("comparison", PLAN, "plan", FORMAT, "compare", "comparisons", "another comparison")
FOLDERS = ("runs", "measures", "looks", "figures", "cache", "claims", "workers")


class Comparison:
    """A comparison directory. Use `Comparison.create` or `Comparison.open`."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan
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

    @contextmanager
    def working(self, alone: bool = True) -> Iterator[Callable[[], None]]:
        """Hold the directory inside the block; what it returns is to be called between pieces of work, and raises on request.

        Args:
            alone: whether this process is the one that writes the result; any number of others may share the work with it
                (`gendiff.comparison.engine.Engine.share`).

        Raises:
            Stopped: on a request to stop, wherever it comes; everything that is needed to go on is saved.
            Held: where another process holds it.

        """
        for name in FOLDERS:
            inside(self.path, self.path / name)
        with (
            locked(self.path, "worked on", "wait for it, stop it, or choose another --out") if alone else nullcontext(),
            PLANNED.stopping(self.path) as heed,
        ):
            yield heed

    def claim(self, cell: Cell, work: str) -> AbstractContextManager[None]:
        """Whoever does some work on a cell holds it, here and on all machines that share the directory."""
        return claimed(inside(self.path, self.path / "claims" / cell.name / work))

    def left(self) -> int:
        """How many pieces of work are missing, those among them that wait for a run to be trained."""
        shown, count = self.shown(), 0
        for cell in [cell for cell in self.plan.cells() if cell not in self._finished]:
            if not self.is_trained(cell):
                left = 1 + len(self.plan.samplers(cell.contender)) + (cell in shown)
            else:
                left = len(self.unmeasured(cell)) + (cell in shown and self.seen(cell, self.steps(shown[0])) is None)
            count += left
            if not left:
                self._finished.append(cell)
        return count

    # --- runs ----------------------------------------------------------------------------------------------------------

    def run(self, cell: Cell) -> Run:
        """The run of a cell, ready to be sampled from."""
        return Run.open(self.run_path(cell))

    def run_path(self, cell: Cell) -> Path:
        """Its directory."""
        return cell.contender.runs.get(cell.seed) or self.path / "runs" / cell.name

    def is_trained(self, cell: Cell) -> bool:
        """Whether its run is done, or was there before and is taken as it is."""
        path = self.run_path(cell)
        return bool(cell.contender.runs) or (
            (path / "run.json").is_file() and Run(path, cell.contender.config).info["status"] == "done"
        )

    # --- what was measured ---------------------------------------------------------------------------------------------

    def measured(self, cell: Cell, sampler: Sampler) -> Measure | None:
        """What was measured of a cell; None where it was not yet."""
        return Measure.load(self.measure_path(cell, sampler))

    def measure_path(self, cell: Cell, sampler: Sampler) -> Path:
        """The file of what is measured of a cell with a sampler."""
        mark = hashlib.sha256(sampler.spec.encode()).hexdigest()[:6]  # a name is cut where a spec is long
        return self.path / "measures" / cell.name / f"{slug(sampler.spec)}-{mark}.npz"

    def unmeasured(self, cell: Cell) -> list[Sampler]:
        """The samplers with which a cell is not measured yet, as it is."""
        run, ruler = self.run(cell), ruler_of(self.plan)

        def is_measured(sampler: Sampler) -> bool:
            key = ruler.key(run, sampler, cell.seed)
            return Measure.load(self.measure_path(cell, sampler), key) is not None

        return [sampler for sampler in self.plan.samplers(cell.contender) if not is_measured(sampler)]

    # --- what there is to see ------------------------------------------------------------------------------------------

    def shown(self) -> list[Cell]:
        """The cell of each arm that is shown to the eye: with the first seed that all arms have, or else each with its first."""
        cells = self.plan.cells()
        seeds = [[cell.seed for cell in cells if cell.place == place] for place in range(len(self.plan.contenders))]
        common = [seed for seed in seeds[0] if all(seed in of for of in seeds)]
        pairs = [(place, common[0] if common else of[0]) for place, of in enumerate(seeds)]
        return [cell for at in pairs for cell in cells if (cell.place, cell.seed) == at]

    def shown_sampler(self, cell: Cell) -> Sampler:
        """The sampler with which a cell is shown."""
        return self.plan.samplers(cell.contender)[-1]

    def steps(self, first: Cell) -> list[float]:
        """The steps i at which arms are looked at of which ``first`` is the first."""
        return list(targets(first.contender.diffusion, self.shown_sampler(first)))

    def seen(self, cell: Cell, steps: Sequence[float]) -> Look | None:
        """What was looked at of a cell, as it is; None where it was not yet."""
        return Look.load(*self.look_file(cell, steps))

    def look(self, cell: Cell, steps: Sequence[float]) -> Look:
        """What was looked at of a cell; raises `DataError` where that cannot be read back."""
        if (look := self.seen(cell, steps)) is None:
            path, again = self.look_file(cell, steps)[0], command("compare", "--resume", self.path)
            raise DataError(f"'{path}' was written and cannot be read back", fix=f"look after the disk, then: {again}")
        return look

    def look_file(self, cell: Cell, steps: Sequence[float]) -> tuple[Path, str]:
        """The file of what is looked at, and what it depends on."""
        sampler, reference = self.shown_sampler(cell), self.plan.reference
        key = key_of(self.run(cell), sampler, 0, cell.seed, (), reference, **self.plan.asking)
        return self.path / "looks" / f"{cell.name}.npz", f"{key} {list(steps)}"
