"""Study: settings searched over by Optuna; each trial is a run, measured on its way and given up early where that is bad.

studies/00001-digits/
study.json           what is searched, and by which number; the study goes on with nothing else
journal.log          Optuna's database, a line for each thing that happened
trials/00007/        one folder for each trial: runs/s0, one for each seed, and what was measured of them
tune.json  report.html

The database is Optuna's journal and not SQLite, whose locks do not hold between the machines that share a disk (NFS). Any number
of processes may work on one study: each holds the folder of its trial, and a trial whose process was killed is free again and
goes on where its run was saved. What trial k tries follows from the seed, k and the trials that were finished before, so that one
process comes to the same study however often it is interrupted.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gendiff.command import command
from gendiff.comparison.listener import Listener
from gendiff.comparison.measure import Measure
from gendiff.comparison.plan import Contender
from gendiff.comparison.planned import Planned
from gendiff.comparison.search import StudyPlan
from gendiff.comparison.space import Dimension, words
from gendiff.comparison.work import Work
from gendiff.errors import DataError, GendiffError, Stopped
from gendiff.extra import extra
from gendiff.plugin.registry import Registry
from gendiff.run.directory import Run
from gendiff.storage.files import Elsewhere, Files, in_place
from gendiff.storage.folder import inside
from gendiff.storage.lock import Held, claimed, locked
from gendiff.streams import stream

FORMAT = 1  # of study.json and tune.json
STUDY, JOURNAL = "study.json", "journal.log"
PLANNED = Planned("study", STUDY, "study", FORMAT, "tune", "studies", "a study of other settings")
NAME = "gendiff"  # of the study in Optuna's database
WANTED = "trials"  # under which the database has how many trials are to be
TRIALS = 20  # where nobody has said how many
FAILED = 3  # trials in a row from the first on, after which it is the study that fails


class Study:
    """A study directory. Use `Study.create` or `Study.open`."""

    def __init__(self, path: Path, plan: StudyPlan) -> None:
        self.path = path
        self.plan = plan

    @classmethod
    def create(cls, plan: StudyPlan, out: Path | None = None, argv: Sequence[str] = ()) -> Study:
        """Make the directory ``out`` (default: the next number under ``studies/``), or go on with it where it is the same.

        Raises:
            ConfigError: where ``out`` holds something else.

        """
        if out is not None and (study := cls.held(plan, out)):
            return study
        return cls(PLANNED.make(out, plan.base.config.data.name, plan.table(), argv), plan)

    @classmethod
    def held(cls, plan: StudyPlan, out: Path) -> Study | None:
        """The study of this plan in ``out``; None where there is room for it. Raises as `create` does, and makes nothing."""
        if not PLANNED.is_made(out):
            return None
        study = cls.open(out)
        own, other = plan.table(), study.plan.table()
        PLANNED.refuse_another(out, own, other, _differences(own, other))
        return study

    @classmethod
    def open(cls, path: Path) -> Study:
        """A study that exists; raises `ConfigError` where ``path`` is none, `DataError` where what it says is damaged."""
        return cls(path, StudyPlan.of_table(PLANNED.plan(path), str(path / STUDY)))

    @cached_property
    def about(self) -> dict[str, Any]:
        """The content of study.json: the plan, when and by which command it was made."""
        return PLANNED.about(self.path)

    @cached_property
    def optuna(self) -> Any:
        """The study in Optuna's database, which is made where it is missing."""
        optuna, file = library(), inside(self.path, self.path / JOURNAL)
        Files().make_directory(inside(self.path, self.path / "trials"))
        try:
            if os.path.lexists(file):
                _mend(file)
            with locked(self.path / "trials", "asked", "try again", wait=True):
                return optuna.create_study(
                    storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file))),
                    study_name=NAME,
                    direction="maximize" if self.plan.better == "higher" else "minimize",
                    pruner=self._pruner(optuna),
                    load_if_exists=True,
                )
        except (ValueError, KeyError, TypeError, AttributeError, Elsewhere) as error:
            raise DataError(
                f"'{file}' is no database of a study: {error!s:.200}", fix="restore it from a copy, or make a new study"
            ) from error

    @contextmanager
    def working(self) -> Iterator[Callable[[], None]]:
        """Work on the study inside the block; what it returns is to be called between pieces of work, and raises on request.

        Raises:
            Stopped: on a request to stop, wherever it comes; everything that is needed to go on is saved.

        """
        inside(self.path, self.path / "cache")
        with PLANNED.stopping(self.path) as heed:
            yield heed

    def wanted(self, trials: int | None) -> int:
        """How many trials there are to be in all: ``trials``, or as many as the study was asked for last."""
        last = self.optuna.user_attrs.get(WANTED)
        return trials or (last if isinstance(last, int) and last > 0 else TRIALS)

    def search(
        self,
        trials: int,
        registry: Registry,
        device: torch.device,
        listener: Listener,
        heed: Callable[[], None],
        finished: Callable[[Mapping[str, Any]], None] = lambda trial: None,
    ) -> None:
        """Try until there are so many trials, those of before and those of other processes among them.

        The database keeps the number, for who goes on without one (`wanted`).

        Args:
            finished: hears of each trial that this process has finished, as `facts` has it.

        Raises:
            GendiffError: what the first trials failed of, where no other has come to anything.

        """
        study, work = self.optuna, Work(self.path, self.about["argv"], registry, device, listener, heed)
        if study.user_attrs.get(WANTED) != trials:
            study.set_user_attr(WANTED, trials)
        while True:
            heed()
            with self._taken(trials) as trial:
                if trial is None:
                    return
                error = self._attempt(trial, work)
            finished(self._facts_of(study.get_trials(deepcopy=False)[trial.number]))
            if error:
                self._give_up(error)

    def facts(self) -> dict[str, Any]:
        """Everything that was found, as plain values: what tune.json holds (docs/tune.md describes each field)."""
        trials = [self._facts_of(one) for one in self.optuna.get_trials(deepcopy=False)]
        complete = [one for one in trials if one["state"] == "complete"]
        ranked = sorted(complete, key=lambda one: -one["value"] if self.plan.better == "higher" else one["value"])
        plan = self.plan.table()
        about = self.plan.ruler.reference.about
        return {
            "format": FORMAT,
            "created": self.about["created"],
            "path": str(self.path),
            "number": self.plan.by,
            **{key: plan[key] for key in ("better", "n", "seeds", "checks", "search", "prune", "search_seed", "over")},
            "reference": {"spec": about.spec, "fingerprint": about.fingerprint, "n": self.plan.ruler.reference.n},
            "features": self.plan.features[0].spec,
            "best": {**ranked[0], **self._ways_on(ranked)} if ranked else None,
            "trials": trials,
            "importance": self._importance(complete),
            "reproduce": {"command": self.about["argv"], "plan": plan},
        }

    def measured(self, number: int) -> Measure | None:
        """What was measured of a trial at its end, with its first seed; None where it is not there."""
        return Measure.load(self._measure_path(number, self.plan.seeds[0], self.plan.checks))

    # --- one trial -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _taken(self, trials: int) -> Iterator[Any]:
        """A trial that is this process's own in the block: one that a killed process held, or a new one; None at the end."""
        with ExitStack() as stack:
            with locked(self.path / "trials", "asked", "try again", wait=True):
                trial = self._free(stack) or self._new(trials, stack)
            yield trial

    def _free(self, stack: ExitStack) -> Any:
        optuna = library()
        for frozen in self.optuna.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            with suppress(Held):
                stack.enter_context(claimed(self._folder(frozen.number)))
                return optuna.trial.Trial(self.optuna, frozen._trial_id)
        return None

    def _new(self, trials: int, stack: ExitStack) -> Any:
        if len(self.optuna.get_trials(deepcopy=False)) >= trials:
            return None
        trial = self.optuna.ask()
        stack.enter_context(claimed(self._folder(trial.number)))
        self._values(trial)
        return trial

    def _values(self, trial: Any) -> dict[str, Any]:
        """What a trial sets: what the database says, or what follows from the seed, its number, and the trials before it."""
        self.optuna.sampler = self._sampler(library(), trial.number)
        return {one.key: _suggested(trial, one) for one in self.plan.dimensions}

    def _attempt(self, trial: Any, work: Work) -> GendiffError | None:
        """Train and measure a trial from where it was left, and tell how it ended; returns what it failed of, if it did."""
        state, values = library().trial.TrialState, self._values(trial)
        try:
            contender = self.plan.contender(values)
            reports = dict(self.optuna.get_trials(deepcopy=False)[trial.number].intermediate_values)
            for check in range(len(reports) or 1, self.plan.checks + 1):
                if check not in reports:
                    work.heed()
                    numbers = self._reached(trial.number, contender, check, work)
                    trial.set_user_attr("numbers", numbers)
                    trial.report(self._value(numbers), check)
                if check < self.plan.checks and trial.should_prune():
                    self.optuna.tell(trial, state=state.PRUNED)
                    return None
            self.optuna.tell(trial, self._value(trial.user_attrs["numbers"]))
        except (Stopped, Held):
            raise
        except GendiffError as error:
            if error.exit_code not in (1, 2):
                raise  # it is not of the trial
            trial.set_user_attr("failure", error.what)
            # As one that was given up it tells the search to stay away; settings that cannot be tell it nothing.
            self.optuna.tell(trial, state=state.FAIL if error.exit_code == 2 else state.PRUNED)
            return error
        return None

    def _reached(self, number: int, contender: Contender, check: int, work: Work) -> dict[str, float]:
        """The numbers of a trial at one of its checks, means over its seeds."""
        folder, steps = self._folder(number), contender.config.train.steps
        until = math.ceil(steps * check / self.plan.checks)
        numbers = dict[str, list[float]]()
        for seed in self.plan.seeds:
            seeded = f", seed {seed}" if len(self.plan.seeds) > 1 else ""
            what = f"trial {number}{seeded}, check {check} of {self.plan.checks}"
            run = work.trained(folder / "runs" / f"s{seed}", contender.with_seed(seed), what, until)
            path, sampler = self._measure_path(number, seed, check), contender.config.sampler
            measure = work.measured(path, Run.open(run.path), sampler, seed, self.plan.ruler, what)
            for one in measure.evaluation.numbers:
                numbers.setdefault(one.name, []).append(one.value)
        return {name: sum(values) / len(values) for name, values in numbers.items()}

    def _value(self, numbers: Mapping[str, float]) -> float:
        """What is searched for: the number that decides, or how far it is from 0 where it should be there."""
        value = numbers[self.plan.by] if self.plan.better else abs(numbers[self.plan.by])
        if not math.isfinite(value):
            raise GendiffError(f"{self.plan.by} is {value}")
        return value

    def _give_up(self, error: GendiffError) -> None:
        """Raise the error of the last trial where the first ones have all failed: it is not of their values then."""
        ended = [one for one in self.optuna.get_trials(deepcopy=False) if one.state.is_finished()]
        if len(ended) == FAILED and all("failure" in one.user_attrs for one in ended):
            error.details = (*error.details, f"the first {FAILED} trials failed, this one the last")
            raise error

    def _facts_of(self, frozen: Any) -> dict[str, Any]:
        """One trial, as plain values."""
        failure = frozen.user_attrs.get("failure", "")
        state = frozen.state.name.lower()
        folder = self._folder(frozen.number)
        reports = [value for _, value in sorted(frozen.intermediate_values.items())]
        return {
            "trial": frozen.number,
            "state": "failed" if failure or state == "fail" else state,
            "value": (reports[-1] if reports else None) if frozen.value is None or failure else frozen.value,
            "checks": reports,
            "parameters": dict(frozen.params),
            "text": words(frozen.params),
            "numbers": frozen.user_attrs.get("numbers", {}),
            "failure": failure,
            "runs": [str(folder / "runs" / f"s{seed}") for seed in self.plan.seeds],
        }

    def _measure_path(self, number: int, seed: int, check: int) -> Path:
        return self._folder(number) / "measures" / f"s{seed}-{check}.npz"

    def _folder(self, number: int) -> Path:
        return inside(self.path, self.path / "trials" / f"{number:05d}")

    # --- what Optuna is told -------------------------------------------------------------------------------------------

    def _sampler(self, optuna: Any, number: int) -> Any:
        """What chooses the values of a trial, with a seed that follows from that of the study and the number of the trial."""
        seed = int(torch.randint(2**31 - 1, (), generator=stream(self.plan.search_seed, "search", number)))
        samplers = optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.plan.search == "tpe":
                return samplers.TPESampler(seed=seed, constant_liar=True)  # others may be trying at the same time
            return {"gp": samplers.GPSampler, "random": samplers.RandomSampler}[self.plan.search](seed=seed)

    def _pruner(self, optuna: Any) -> Any:
        pruners = optuna.pruners
        return {
            "median": lambda: pruners.MedianPruner(n_startup_trials=5),
            "halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
            "none": pruners.NopPruner,
        }[self.plan.prune]()

    def _importance(self, complete: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """How much each setting matters to being among the better trials (PED-ANOVA), in parts of 1; empty of a few trials."""
        if len(complete) < 10 or len(self.plan.dimensions) < 2:
            return {}
        optuna = library()
        with warnings.catch_warnings(), suppress(ValueError, RuntimeError):
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return dict(optuna.importance.get_param_importances(self.optuna, evaluator=evaluator))
        return {}

    def _ways_on(self, ranked: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """The configuration of the best trial, the command that trains it, and the one that holds it against the next ones."""
        config = Path(ranked[0]["runs"][0]) / "config.toml"
        seeds = ",".join(str(max(self.plan.seeds) + 1 + k) for k in range(3))
        arms = [word for one in ranked[:3] for word in ("--arm", f"{one['text']} label=trial-{one['trial']}")]
        against = command("compare", "--config", config, *arms, "--seeds", seeds) if len(ranked) > 1 else ""
        return {"config": str(config), "train": command("train", "--config", config), "compare": against}


def library() -> Any:
    """Optuna; raises `PluginError` where it is not installed."""
    optuna = extra("optuna", "a study", name="tune")
    optuna.logging.set_verbosity(logging.ERROR)
    return optuna


def _suggested(trial: Any, one: Dimension) -> Any:
    if one.choices:
        return trial.suggest_categorical(one.key, list(one.choices))
    if one.whole:
        return trial.suggest_int(one.key, one.low, one.high, step=one.step or 1, log=one.log)
    return trial.suggest_float(one.key, one.low, one.high, step=one.step, log=one.log)


def _mend(file: Path) -> None:
    """Cut off the line that a crash left unfinished: what is added after it could not be read."""
    lock = library().storages.journal.JournalFileSymlinkLock(str(file))
    lock.acquire()
    try:
        with in_place(file) as journal:
            content = journal.read()
            journal.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _differences(own: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What is searched here and there, where that is it."""
    if own["over"] == other["over"]:
        return []
    return [f"searched here: {'; '.join(own['over'])}", f"searched there: {'; '.join(other['over'])}"]
