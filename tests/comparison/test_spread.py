"""A comparison that several workers share: none does what another does, and one that dies gives its work back."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import TINY, run
from compared import PAIR, done
from plans import TWO, plan_of
from runs import CPU, exit_code, forked

from gendiff.comparison import engine as engine_module
from gendiff.comparison import fleet as fleet_module
from gendiff.comparison import report
from gendiff.comparison.directory import Comparison
from gendiff.comparison.engine import Engine
from gendiff.comparison.fleet import PATIENCE, Fleet, Worker
from gendiff.comparison.listener import Silent
from gendiff.errors import ConfigError, GendiffError, PluginError
from gendiff.machine.jobs import ALONE
from gendiff.plugin.registry import default_registry
from gendiff.run.directory import Run
from gendiff.storage.lock import Held, claimed
from gendiff.training.trainer import Trainer


def share(path: Path, heed=lambda: None, wait: float = 0.05) -> None:
    comparison = Comparison.open(path)
    with comparison.working(alone=False) as asked:

        def both() -> None:
            asked()
            heed()

        Engine(comparison, default_registry(), CPU, Silent(), both).share(wait)


def pids(path: Path) -> set[int]:
    return {Run.open(run).info["pid"] for run in (path / "runs").iterdir()}


def test_two_workers_come_to_the_same_bits(plan, alone, tmp_path):
    Comparison.create(plan, tmp_path / "c", ["compare"])
    child = forked(lambda: share(tmp_path / "c"))
    share(tmp_path / "c")
    assert exit_code(child) == 0
    assert pids(tmp_path / "c") == {os.getpid(), child}
    assert Comparison.open(tmp_path / "c").left() == 0
    assert done(tmp_path / "c", plan, ALONE) == alone


def test_a_worker_that_is_killed_gives_its_work_back(plan, alone, tmp_path):
    """In the middle of a training: another one goes on with it from its checkpoint."""

    def die():
        train_step = Trainer.train_step

        def step(trainer, batch):
            train_step(trainer, batch)
            if trainer.step == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        Trainer.train_step = step
        share(tmp_path / "c")

    comparison = Comparison.create(plan, tmp_path / "c", ["compare"])
    before = comparison.left()
    assert exit_code(forked(die)) == -signal.SIGKILL
    assert comparison.left() == before == 4 * (1 + 2) + 2
    share(tmp_path / "c")
    assert comparison.left() == 0
    assert done(tmp_path / "c", plan, ALONE) == alone


@pytest.mark.slow
def test_what_somebody_works_on_is_left_to_them(plan, tmp_path, monkeypatch):
    """All else is done, and then it is waited for."""

    def wait(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_module, "time", SimpleNamespace(sleep=wait))
    comparison = Comparison.create(plan, tmp_path / "c", ["compare"])
    first = comparison.plan.cells()[0]
    with claimed(tmp_path / "c" / "claims" / first.name / "train"):
        pieces = Engine(comparison, default_registry(), CPU, Silent(), lambda: None).missing()
        with pytest.raises(Held, match="is being worked on by another process") as held:
            pieces[0](Silent())
        assert f"process {os.getpid()} on " in str(held.value)
        with pytest.raises(KeyboardInterrupt):
            share(tmp_path / "c")
    assert not comparison.run_path(first).exists()
    assert comparison.left() == 1 + 2 + 1  # this run alone is to be trained, measured twice, and looked at
    share(tmp_path / "c")
    assert comparison.left() == 0


@pytest.mark.slow
@pytest.mark.parametrize("crew", [ALONE, PAIR], ids=["one at a time", "two at a time"])
def test_others_may_join_one_that_is_worked_on(plan, alone, tmp_path, monkeypatch, crew):
    """Whoever works on the whole waits for what they have, and says so."""
    monkeypatch.setattr(engine_module, "WAIT", 0.05)
    monkeypatch.setattr(engine_module, "memory_of", lambda work: 0)
    waited = []
    monkeypatch.setattr(
        Silent, "working", lambda self, what, total: waited.append(what) or nullcontext(lambda count: None)
    )
    comparison = Comparison.create(plan, tmp_path / "c", ["compare"])
    folder, held = tmp_path / "c" / "claims" / comparison.plan.cells()[0].name / "train", os.pipe()

    def hold():
        with claimed(folder):
            os.write(held[1], b".")
            for _ in iter(lambda: len(list((tmp_path / "c" / "runs").glob("*/checkpoints/step-*4"))), 3):
                time.sleep(0.01)  # until all other runs are trained
        share(tmp_path / "c")

    child = forked(hold)
    os.read(held[0], 1)
    assert done(tmp_path / "c", plan, crew) == alone
    assert exit_code(child) == 0
    assert any("others work on it" in what for what in waited)


class Job:
    """A job of an engine that does what a test says: running (None), its exit code, or killed."""

    def __init__(self, number: int, outcome, folder: Path) -> None:
        self.job_id, self.outcome, self.cancelled = str(number), outcome, False
        self.paths = SimpleNamespace(stderr=folder / f"{number}.err")

    def done(self) -> bool:
        return self.outcome is not None or self.cancelled

    def result(self) -> int:
        if self.outcome == "killed":
            raise RuntimeError("no result")
        return self.outcome

    def cancel(self, check: bool = True) -> None:
        self.cancelled = True


@pytest.fixture
def engine(monkeypatch, tmp_path):
    """A submitit whose jobs have these outcomes, in their order, and then run for ever; what was submitted."""

    def make(*outcomes) -> list[Job]:
        jobs, to_come = list[Job](), iter(outcomes)

        class AutoExecutor:
            cluster = "slurm"

            def __init__(self, folder, cluster):
                assert cluster in (None, "slurm", "local")

            def update_parameters(self, **parameters):
                if "slurm_partitoin" in parameters:
                    raise NameError("Unknown argument 'slurm_partitoin'")

            def submit(self, worker):
                jobs.append(Job(len(jobs), next(to_come, None), tmp_path))
                return jobs[-1]

        monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=AutoExecutor))
        return jobs

    return make


def fleet(tmp_path, count=2, **parameters) -> Fleet:
    return Fleet(tmp_path / "workers", Worker(lambda words: 0, []), count, parameters)


class TestFleet:
    def test_one_that_dies_is_replaced_and_all_end_when_nothing_is_left(self, engine, tmp_path):
        jobs, said, counts = engine("killed", None, 75), [], []
        left = iter([5, 5, 4, 3, 3, 0])
        fleet(tmp_path).finish(lambda: next(left), lambda: None, counts.append, said.append, wait=0)
        assert [job.outcome for job in jobs] == ["killed", None, 75, None]
        assert all(job.done() for job in jobs)
        assert said == ["worker 0 has ended; another takes its place", "worker 2 has ended; another takes its place"]
        assert sum(counts) == 5

    def test_there_are_no_more_than_there_is_work(self, engine, tmp_path):
        jobs, left = engine(), iter([1, 1, 0])
        fleet(tmp_path, count=5).finish(lambda: next(left), lambda: None, wait=0)
        assert len(jobs) == 1

    def test_deaths_without_any_work_done_are_no_accident(self, engine, tmp_path):
        jobs = engine(*["killed"] * 20)
        (tmp_path / "5.err").write_text("first\nlast words\n")
        with pytest.raises(GendiffError, match=f"{PATIENCE * 2} workers died one after the other") as caught:
            fleet(tmp_path).finish(lambda: 4, lambda: None, wait=0)
        assert len(jobs) == PATIENCE * 2
        assert "last words" in str(caught.value)

    def test_the_error_of_one_is_that_of_all(self, engine, tmp_path):
        jobs = engine(None, 4)
        (tmp_path / "1.err").write_text("training\nerror: the data are gone\n  put them back\n")
        with pytest.raises(GendiffError, match="worker 1 failed with exit code 4") as caught:
            fleet(tmp_path).finish(lambda: 4, lambda: None, wait=0)
        assert caught.value.exit_code == 4
        assert caught.value.details == ("error: the data are gone", "put them back")
        assert all(job.done() for job in jobs)

    def test_a_request_to_stop_stops_them(self, engine, tmp_path):
        jobs, asked = engine(), iter([None, KeyboardInterrupt])

        def heed():
            if error := next(asked):
                raise error

        with pytest.raises(KeyboardInterrupt):
            fleet(tmp_path).finish(lambda: 4, heed, wait=0)
        assert [job.cancelled for job in jobs] == [True, True]

    def test_parameters_that_there_are_not(self, engine, tmp_path):
        engine()
        with pytest.raises(ConfigError, match="Unknown argument 'slurm_partitoin'") as refused:
            fleet(tmp_path, slurm_partitoin="gpu")
        assert refused.value.where == "--worker"

    def test_nothing_that_lay_there_is_read(self, engine, tmp_path):
        engine()
        folders = {fleet(tmp_path).folder for _ in range(3)}
        assert len(folders) == 3
        assert all(not list(folder.iterdir()) for folder in folders)

    def test_without_the_library_the_way_is_said(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "submitit", None)
        with pytest.raises(PluginError, match="--workers needs the library submitit") as missing:
            fleet(tmp_path)
        assert (
            missing.value.fix == "pip install 'gendiff[slurm]', or start workers yourself: gendiff compare --join DIR"
        )


def test_a_preempted_worker_saves_first_and_then_lets_its_job_be_queued_again():
    heard = []
    before = {number: signal.signal(number, lambda *_: heard.append("queued")) for number in (signal.SIGUSR2,)}
    before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda *_: heard.append("saved"))

    def work(words):
        signal.raise_signal(signal.SIGUSR2)
        return 75

    try:
        assert Worker(work, [])() == 75
        assert heard == ["saved", "queued"]
        heard.clear()
        Worker(lambda words: 0, [])()
        assert heard == []
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class TestCommand:
    ARMS = ("--arm", "identity", "--arm", "dct", "--seeds", 1, *TINY, "--n", 16, "--features", "pixels", "--nfe", 4)

    @pytest.fixture(autouse=True)
    def here(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setattr(
            report, "write", lambda comparison, *_: [comparison.path / name for name in ("json", "html")]
        )

    @pytest.fixture
    def in_place(self, monkeypatch):
        """A fleet whose one worker does its work at once, in this process."""

        class InPlace(Fleet):
            cluster = "local"

            def __init__(self, folder, worker, count, parameters):
                self.worker, self.folder = worker, folder
                words.append((worker.words, count, parameters))

            def finish(self, left, heed, done, say):
                child = forked(lambda: os._exit(self.worker()))
                assert exit_code(child) == 0
                assert left() == 0

        words = []
        monkeypatch.setattr(fleet_module, "Fleet", InPlace)
        return words

    @pytest.mark.slow  # half a minute; claims are tested in forked processes above
    def test_workers_do_it_and_the_result_is_the_same(self, in_place):
        alone = run("compare", *self.ARMS, "--out", "a", "--json")
        spread = run("compare", *self.ARMS, "--out", "b", "--json", "--workers", 1, "--worker", "slurm_partition=gpu")
        assert spread.code == alone.code == 0, spread.err
        assert [arm["numbers"] for arm in spread.json["arms"]] == [arm["numbers"] for arm in alone.json["arms"]]
        assert spread.json["reproduce"]["threads"] == alone.json["reproduce"]["threads"]
        ((words, count, parameters),) = in_place
        assert words == ["compare", "--join", str(Path("b").absolute()), "--threads", "1"]
        assert (count, parameters) == (1, {"slurm_partition": "gpu"})
        assert "note: 1 worker (local), whose logs are in b/workers" in spread.err
        assert os.getpid() not in pids(Path("b"))

    def test_a_worker_by_hand(self):
        assert run("compare", *self.ARMS, "--out", "c", "--dry-run").code == 0
        Comparison.create(plan_of(*TWO, seeds=(0,)), Path("c"), ["compare"])
        joined = run("compare", "--join", "c")
        assert joined.code == 0, joined.err
        assert joined.out == "nothing is left to do in c\n"
        assert "next: gendiff compare --resume c" in joined.err
        assert not Path("c/compare.json").exists()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--join", "c", "--n", 32), "--n would change it (from --join)"),
            (("--join", "nowhere"), "'nowhere' is not a comparison directory"),
            ((*ARMS, "--worker", "gpus_per_node=1"), "--worker says what workers get, and there are none"),
            ((*ARMS, "--workers", 2, "--worker", "gpus"), "cannot read 'gpus' (from --worker)"),
            ((*ARMS, "--workers", 2, "--at-once", 2), "each worker does one piece of work at a time"),
        ],
    )
    def test_what_makes_no_sense(self, words, said):
        refused = run("compare", *words)
        assert refused.code == 2
        assert said in refused.err


@pytest.mark.slow
def test_two_local_workers_of_submitit_one_of_them_killed(plan, alone, tmp_path):
    """Whole processes, started by the engine: one is killed while it trains, and the result is the same to the bit."""
    from gendiff_cli.worker import work

    comparison = Comparison.create(plan, tmp_path / "c", ["compare"])
    words = ["compare", "--join", str(tmp_path / "c"), "--threads", "1"]
    workers = Fleet(tmp_path / "c" / "workers", Worker(work, words), 2, {"cluster": "local"})
    killed, said = [], []

    def heed():
        owners = [file.read_text() for file in (tmp_path / "c" / "claims").glob("*/train/.lock")]
        if owners and not killed:
            killed.append(int(owners[0].split()[1]))
            os.kill(killed[0], signal.SIGKILL)

    with comparison.working():
        workers.finish(comparison.left, heed, say=said.append, wait=0.05)
    assert said
    assert killed
    assert not pids(tmp_path / "c") & {os.getpid(), *killed}
    assert done(tmp_path / "c", plan, ALONE) == alone
