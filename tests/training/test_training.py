"""Training: stop anywhere, by request or by kill, and go on to the same bits; two processes equal one; nothing bad is applied."""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from faults import DISK_ERRORS, Watched, failure
from killed import kill_and_resume, train_and_die_saving
from runs import (
    ALONE,
    CPU,
    UNET,
    Killed,
    arguments,
    asked_to_stop_in,
    command,
    create,
    die_after,
    exit_code,
    final,
    forked,
    grid,
    restored,
    rows,
    settings,
    train,
)

from gendiff import Diffusion, Objective, Sampler
from gendiff.datasets import pictures
from gendiff.datasets.batches import Batches
from gendiff.errors import ConfigError, DataError, GendiffError, Stopped
from gendiff.machine import stopping
from gendiff.objective import Loss
from gendiff.plugin.hookspecs import hookimpl
from gendiff.plugin.observers import Observers
from gendiff.run import checkpoint
from gendiff.run.directory import Run
from gendiff.run.generation import generate
from gendiff.run.rows import numbers
from gendiff.run.settings import TrainSettings
from gendiff.run.trained import TrainedModel
from gendiff.storage.files import to_become
from gendiff.training.continuation import check_disk, refuse_other_data
from gendiff.training.loop import fit
from gendiff.training.recipe import ema_decay, learning_rate
from gendiff.training.step import PATIENCE
from gendiff.training.trainer import Trainer
from gendiff.training.window import Window


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs by configuration, each trained once."""
    known = {}

    def run(config) -> Run:
        key = config.toml()
        if key not in known:
            torch.set_num_threads(1)
            known[key] = create(tmp_path_factory.mktemp("whole") / "run", config)
            train(known[key])
        return known[key]

    return run


def wait_for(condition, child=None):
    """Poll until ``condition`` holds; fails after a minute, or where the process that should bring it about has ended."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it did not happen within a minute"
        if child is not None:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the process ended first"
        time.sleep(0.002)


def logged(run_path: Path):
    metrics = run_path / "metrics.jsonl"
    return metrics.is_file() and metrics.read_text().count("\n") >= 3


DROPOUT = f"{UNET},dropout=0.3"
SETTINGS = {
    "mlp": settings(sample_every=10),
    "dropout": settings(DROPOUT, steps=12, checkpoint_every=4),
    "no average": settings(ema=0),
    "no warm-up, bf16": settings(warmup=0, precision="bf16"),
}


class TestExactResume:
    @pytest.mark.parametrize("cuts", [[7], [5], [1], [19], [4, 5, 6, 13], [2, 11, 17]], ids=str)
    def test_stopped_and_resumed(self, whole, tmp_path, cuts):
        """At a checkpoint, in the middle of a window of the log, at the first and last step, and resumed again."""
        config = SETTINGS["mlp"]
        run = create(tmp_path / "run", config)
        for cut in cuts:
            with pytest.raises(Stopped) as caught:
                train(run, prepare=asked_to_stop_in(cut))
            assert caught.value.exit_code == 75
            assert final(run)[0] == cut
        train(run)
        assert final(run) == final(whole(config))
        assert rows(run) == rows(whole(config))
        for step in (10, 20):
            assert grid(run, step).read_bytes() == grid(whole(config), step).read_bytes()

    @pytest.mark.parametrize("name", SETTINGS)
    def test_every_kind_of_run(self, whole, tmp_path, name):
        config = SETTINGS[name]
        run = create(tmp_path / "run", config)
        with pytest.raises(Stopped):
            train(run, prepare=asked_to_stop_in(7))
        train(run)
        assert final(run) == final(whole(config))
        assert rows(run) == rows(whole(config))
        assert ("ema" in checkpoint.newest(run.checkpoints).tensors) == (name != "no average")

    def test_paused_and_gone_on_with(self, whole, tmp_path):
        """A run that is taken to a step is saved there, and goes on as if it had never paused."""
        config = SETTINGS["mlp"]
        run = create(tmp_path / "run", config)
        for until in (7, 10, 10, 40):
            train(run, until=until)
            assert final(run)[0] == min(until, 20)
            assert run.info["status"] == ("done" if until > 20 else "stopped")
        assert final(run) == final(whole(config))
        assert rows(run) == rows(whole(config))
        assert grid(run, 10).read_bytes() == grid(whole(config), 10).read_bytes()

    @pytest.mark.parametrize("cut", [6, 13])
    def test_killed_and_resumed_from_the_last_checkpoint(self, whole, tmp_path, cut):
        """Steps beyond the checkpoint are done again, and their rows are not kept twice."""
        config = SETTINGS["mlp"]
        run = create(tmp_path / "run", config)
        with pytest.raises(Killed):
            train(run, report=die_after(cut))
        assert final(run)[0] == cut // 5 * 5
        train(run)
        assert final(run) == final(whole(config))
        assert rows(run) == rows(whole(config))

    def test_with_another_number_of_workers(self, whole, tmp_path):
        config = SETTINGS["mlp"]
        run = create(tmp_path / "run", config)
        with pytest.raises(Stopped):
            train(run, workers=1, prepare=asked_to_stop_in(8))
        train(run, workers=2)
        assert final(run) == final(whole(config))
        assert rows(run) == rows(whole(config))

    def test_across_epochs(self, whole, tmp_path):
        """1797 digits in batches of 700: the epoch ends inside step 3, and again in step 6."""
        config = settings(batch=700, steps=6, checkpoint_every=10)
        run = create(tmp_path / "run", config)
        for cut in (2, 3):
            with pytest.raises(Stopped):
                train(run, prepare=asked_to_stop_in(cut))
        train(run)
        assert final(run) == final(whole(config))

    def test_a_finished_run_can_be_made_longer(self, whole, tmp_path):
        run = create(tmp_path / "run", settings(steps=12))
        train(run)
        train(run, steps=20)
        longer = whole(settings(steps=20))
        assert final(run) == final(longer)
        assert rows(run) == rows(longer)

    def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(self, whole, tmp_path):
        config = SETTINGS["mlp"]
        run = create(tmp_path / "run", config)
        with pytest.raises(Stopped):
            train(run, prepare=asked_to_stop_in(13))
        (checkpoint.directory(run.checkpoints, 13) / "optimizer.safetensors").write_bytes(b"damaged")
        assert restored(run).step == 10
        train(run)
        assert final(run) == final(whole(config))
        assert rows(run) == rows(whole(config))

    def test_a_checkpoint_of_another_network_is_refused(self, tmp_path):
        run = create(tmp_path / "run", settings(steps=2))
        train(run)
        for other in (settings("mlp:width=32,depth=1"), settings("mlp:width=16,depth=2"), settings(UNET)):
            with pytest.raises(DataError, match="belongs to another network"):
                Trainer(other, CPU, ALONE).restore(checkpoint.newest(run.checkpoints))
        without = create(tmp_path / "without", settings(steps=2, ema=0))
        train(without)
        with pytest.raises(DataError, match=r"ema\.safetensors, the checkpoint of step"):
            Trainer(settings(), CPU, ALONE).restore(checkpoint.newest(without.checkpoints))

    def test_a_torn_last_line_is_dropped(self, whole, tmp_path):
        config = SETTINGS["mlp"]
        run = create(tmp_path / "run", config)
        with pytest.raises(Stopped):
            train(run, prepare=asked_to_stop_in(13))
        with run.metrics.open("a") as file:
            file.write('{"step": 15, "images": 60, "lo')
        assert [row["step"] for row in run.rows()] == [3, 6, 9, 12]
        train(run)
        assert rows(run) == rows(whole(config))

    def test_rows_are_on_the_disk_before_the_checkpoint(self, tmp_path, monkeypatch):
        synced = []
        fsync = os.fsync
        monkeypatch.setattr(
            os, "fsync", lambda fd: (synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), fsync(fd))
        )
        train(create(tmp_path / "run", settings(steps=3)))
        assert "metrics.jsonl" in synced[: synced.index("MANIFEST.json")]
        assert "config.toml" not in synced  # it is written under another name first
        assert {"config.toml", "run.json"} <= {to_become(name) for name in synced}


class TestStopRequests:
    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)], ids=str
    )
    def test_the_command_saves_and_goes_on(self, whole, tmp_path, number, code):
        run = Run(tmp_path / "run", settings(steps=10**6, log_every=1, checkpoint_every=10**6))
        child = command([*arguments(run.config, run.path), "--set", "train.workers=1"])
        wait_for(lambda: logged(run.path), child)
        os.killpg(child, number)  # as a terminal or a scheduler does: to the data workers too
        assert exit_code(child) == code
        assert run.info["status"] == "stopped"
        step = final(run)[0]
        assert len(rows(run)) == step
        assert (
            exit_code(command(["train", "--resume", str(run.path), "--steps", str(step + 4), "--device", "cpu"])) == 0
        )
        assert run.info["status"] == "done"
        other = create(tmp_path / "other", settings(steps=step + 4, log_every=1, checkpoint_every=10**6))
        train(other)
        assert final(run) == final(other)
        assert rows(run) == rows(other)

    def test_a_process_of_its_own(self, tmp_path):
        """Once without any fork: ``python -m gendiff_cli``."""
        run = Run(tmp_path / "run", settings(steps=10**6, log_every=1, checkpoint_every=10**6))
        process = subprocess.Popen(
            [sys.executable, "-m", "gendiff_cli", *arguments(run.config, run.path)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for(lambda: logged(run.path) or process.poll() is not None)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        step = final(run)[0]
        assert process.returncode == 75, err
        assert out == ""
        assert f"stopped at step {step} on SIGTERM; a checkpoint was saved" in err
        assert f"gendiff train --resume {run.path}" in err
        other = create(tmp_path / "other", settings(steps=step, log_every=1, checkpoint_every=10**6))
        train(other)
        assert final(run) == final(other)

    def test_the_second_signal_leaves_at_once(self, tmp_path, monkeypatch):
        monkeypatch.setattr(stopping, "TOGETHER", 0)
        run = create(tmp_path / "run", settings())
        reading, writing = os.pipe()

        def stuck(progress):
            os.write(writing, b".")
            while True:
                time.sleep(60)

        child = forked(lambda: train(run, report=stuck))
        assert select.select([reading], [], [], 60)[0]
        os.kill(child, signal.SIGTERM)
        os.kill(child, signal.SIGUSR1)
        assert exit_code(child) in (128 + signal.SIGTERM, 128 + signal.SIGUSR1)
        os.close(reading)
        os.close(writing)

    def test_handlers_are_put_back(self, tmp_path):
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        before = [signal.getsignal(number) for number in numbers]
        with pytest.raises(Stopped):
            train(create(tmp_path / "run", settings()), prepare=asked_to_stop_in(3))
        assert [signal.getsignal(number) for number in numbers] == before

    def test_a_request_at_the_last_step_finds_the_run_done(self, whole, tmp_path):
        run = create(tmp_path / "run", settings())
        train(run, prepare=asked_to_stop_in(20))
        assert run.info["status"] == "done"
        assert final(run) == final(whole(settings()))

    @pytest.mark.parametrize(("hook", "status"), [("started", "stopped"), ("ended", "done")])
    def test_a_request_before_the_first_step_or_after_the_last_leaves_a_true_record(self, tmp_path, hook, status):
        run = create(tmp_path / "run", settings())

        def ask(self):
            os.kill(os.getpid(), signal.SIGTERM)

        @stopping.interruptible()
        def work():
            fit(run, Trainer(run.config, CPU, ALONE), Observers([("asks", observer)]))
            stopping.heed()

        observer = type("Observer", (), {f"gendiff_run_{hook}": hookimpl(ask)})()
        with pytest.raises((Stopped, stopping.StopRequest)):
            work()
        assert run.info["status"] == status
        assert list(run.checkpoints.glob("step-*"))

    def test_before_the_last_preview_it_is_heard_and_the_preview_is_left_for_later(self, whole, tmp_path):
        run = create(tmp_path / "run", SETTINGS["mlp"])
        with pytest.raises(Stopped):
            train(run, prepare=asked_to_stop_in(20))
        assert final(run) == final(whole(SETTINGS["mlp"]))
        assert not grid(run, 20).exists()
        train(run)
        assert run.info["status"] == "done"
        assert grid(run, 20).read_bytes() == grid(whole(SETTINGS["mlp"]), 20).read_bytes()


class TestKill:
    def test_at_random_moments(self, whole, tmp_path):
        config = settings(UNET, steps=12, checkpoint_every=3)
        run = create(tmp_path / "run", config)
        kills = kill_and_resume(run, random.Random(5), at_least=3)
        assert kills >= 3
        assert final(run) == final(whole(config))
        assert rows(run) == rows(whole(config))

    def test_inside_a_save(self, whole, tmp_path):
        config = SETTINGS["mlp"]
        for operation in (3, 8, 9, 30, 41):
            run = create(tmp_path / str(operation), config)
            assert exit_code(forked(lambda run=run, operation=operation: train_and_die_saving(run, operation))) == -9
            train(run)
            assert final(run) == final(whole(config))
            assert rows(run) == rows(whole(config))

    def test_while_a_grid_is_drawn(self, whole, tmp_path, monkeypatch):
        """The steps before it are done again, and so is the grid."""
        config = SETTINGS["mlp"]
        run = create(tmp_path / "run", config)

        def die_drawing():
            monkeypatch.setattr("runs.draw_grid", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
            train(run)

        assert exit_code(forked(die_drawing)) == -9
        train(run)
        assert final(run) == final(whole(config))
        for step in (10, 20):
            assert grid(run, step).read_bytes() == grid(whole(config), step).read_bytes()


class TestLock:
    def test_a_second_trainer_is_refused_and_told_who_is_first(self, tmp_path):
        run = create(tmp_path / "run", settings())
        reading, writing = os.pipe()

        def hold():
            with run.lock():
                os.write(writing, b".")
                while True:
                    time.sleep(60)

        child = forked(hold)
        assert select.select([reading], [], [], 60)[0]
        with pytest.raises(GendiffError, match="is being trained by another process") as caught, run.lock():
            pass
        assert caught.value.exit_code == 1
        assert f"owner: process {child} on {socket.gethostname()} since 2" in str(caught.value)
        os.kill(child, signal.SIGKILL)
        assert exit_code(child) == -9
        assert f"process {child} " in (run.path / ".lock").read_text()
        with run.lock():  # the file is still there, its owner is not
            assert f"process {os.getpid()} " in (run.path / ".lock").read_text()
        os.close(reading)
        os.close(writing)

    def test_the_workers_of_a_killed_trainer_do_not_hold_it(self, tmp_path):
        run = create(tmp_path / "run", settings(steps=10**6, log_every=1, checkpoint_every=10**6))
        child = forked(lambda: train(run, workers=2))
        try:
            wait_for(lambda: logged(run.path), child)
            os.kill(child, signal.SIGKILL)
            assert exit_code(child) == -9
            with run.lock():
                pass
        finally:
            os.killpg(child, signal.SIGKILL)  # the workers, which would notice within seconds

    def test_the_command_says_so(self, tmp_path, capfd):
        run = create(tmp_path / "run", settings(steps=8))
        with pytest.raises(Stopped):
            train(run, prepare=asked_to_stop_in(4))
        with run.lock():
            assert exit_code(command(["train", "--resume", str(run.path), "--device", "cpu"])) == 1
        assert f"owner: process {os.getpid()}" in capfd.readouterr().err
        assert final(run)[0] == 4


TELL_THREADS = """
import atexit, os
from pathlib import Path

def tell():
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    Path(__file__).with_name(f"threads-{os.environ['RANK']}").write_text("\\n".join(names))

atexit.register(tell)
"""


def torchrun(*args: str) -> None:
    """``gendiff`` in two processes; what it says is shown where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "gendiff_cli", *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


class TestTwoProcesses:
    @pytest.fixture(scope="class")
    def pair(self, tmp_path_factory):
        """20 steps in two processes, and the same in one."""
        torch.set_num_threads(1)
        folder = tmp_path_factory.mktemp("pair")
        config = settings(batch=8, lr=1e-2, warmup=0)
        two = Run(folder / "two", config)
        (folder / "tell.py").write_text(TELL_THREADS)
        torchrun("--plugin", str(folder / "tell.py"), *arguments(config, two.path))
        one = create(folder / "one", config)
        train(one)
        return one, two

    def test_equal_one_at_the_same_global_batch(self, pair):
        one, two = (checkpoint.newest(run.checkpoints) for run in pair)
        initial = Trainer(pair[0].config, CPU, ALONE).checkpoint({})
        assert one.step == two.step == 20
        for group in ("model", "ema"):
            for name, tensor in one.tensors[group].items():
                other = two.tensors[group][name]
                assert torch.linalg.norm(other - tensor) <= 1e-5 * torch.linalg.norm(tensor)
                if group == "model":  # they have moved far more than that
                    assert torch.linalg.norm(tensor - initial.tensors[group][name]) > 1e-2 * torch.linalg.norm(tensor)

    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
    def test_end_without_threads_that_could_abort_them(self, pair):
        """A thread of gloo that asks for the lock of an interpreter at its end is SIGABRT, now and then."""
        for rank in (0, 1):
            threads = (pair[0].path.parent / f"threads-{rank}").read_text().splitlines()
            assert threads
            assert not [name for name in threads if "gloo" in name]

    def test_log_the_same_rows_once(self, pair):
        for ours, theirs in zip(*map(rows, pair), strict=True):
            assert ours.keys() == theirs.keys()
            for key in ("step", "images", "skipped", "lr"):
                assert ours[key] == theirs[key]
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
            assert ours["loss_bands"] == pytest.approx(theirs["loss_bands"], rel=1e-5)
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)

    @pytest.mark.slow
    def test_draw_the_same_pictures(self, pair, tmp_path):
        _, two = pair
        torchrun("sample", str(two.path), "-n", "9", "--sampler", "ancestral:steps=4", "--out", str(tmp_path / "two"))
        model = TrainedModel.load(two, CPU)
        (tmp_path / "one").mkdir()
        sampler = Sampler.model_validate("ancestral:steps=4")
        events = torch.cat(list(generate(model.denoiser, two, sampler, 0, range(9), 4)))
        for number, event in enumerate(events):
            pictures.save_event(tmp_path / "one", number, event)
        drawn = sorted(path.name for path in (tmp_path / "one").iterdir())
        assert len(drawn) == 9
        assert sorted(path.name for path in (tmp_path / "two" / "events").iterdir()) == drawn
        for name in drawn:
            number = int(name.partition(".")[0])
            ours, theirs = (
                pictures.read_event(folder, number) for folder in (tmp_path / "one", tmp_path / "two/events")
            )
            assert torch.equal(ours, theirs)


class Poisoned(Batches):
    """The second event of some steps is not a number, or cannot be read."""

    def poison(self, steps, value=math.nan):
        self.bad, self.value = set(steps), value
        return self

    def __getitem__(self, step):
        batch = super().__getitem__(step)
        if step in self.bad:
            if isinstance(self.value, Exception):
                raise self.value
            batch.x_0[1] = self.value
        return batch


def poisoned(steps, value=math.nan):
    """Prepare a trainer to meet bad data at some steps."""

    def prepare(trainer):
        config = trainer.config
        batches = Poisoned(config.data, config.N, config.train.seed, config.train.batch)
        trainer.batches = batches.poison(steps, value)

    return prepare


class TestNonFinite:
    def test_the_step_is_counted_and_not_applied(self, tmp_path):
        trainer = Trainer(settings(warmup=0), CPU, ALONE)
        poisoned([4, 5])(trainer)
        for step in range(1, 4):
            trainer.train_step(trainer.batches[step])
        before = trainer.checkpoint({})
        held = {group: {name: t.clone() for name, t in named.items()} for group, named in before.tensors.items()}
        for step in (4, 5):
            trainer.train_step(trainer.batches[step])
        after = trainer.checkpoint({})
        for group, named in held.items():
            for name, tensor in named.items():
                assert torch.equal(after.tensors[group][name], tensor)
        assert (trainer.step, trainer.window.steps, trainer.window.skipped, trainer.failures) == (5, 3, 2, 2)
        trainer.train_step(trainer.batches[6])
        assert (trainer.window.steps, trainer.window.skipped, trainer.failures) == (4, 2, 0)
        assert not torch.equal(trainer.network.state_dict()["output.weight"], held["model"]["output.weight"])

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_rows_stay_finite(self, tmp_path, value):
        run = create(tmp_path / "run", settings())
        train(run, prepare=poisoned([1, 2, 5, 10, 11, 12, 20], value))
        assert [row["skipped"] for row in rows(run)] == [2, 1, 0, 3, 0, 0, 1]
        for number, row in enumerate(rows(run)):
            values = [row["loss"], row["grad_norm"]]
            assert (row["loss_bands"] is None) == (number in (3, 6))  # of the last step, which was not applied
            values += row["loss_bands"] or []
            if number == 3:  # none of its steps was applied
                assert set(values) == {None}
                assert numbers(row) == {"images": 48.0, "skipped": 3.0, "lr": 1e-3 * 12 / 100}
            else:
                assert all(math.isfinite(value) and value > 0 for value in values)

    def test_a_row_is_the_mean_over_the_applied_steps(self, tmp_path):
        alone, both = (
            create(tmp_path / name, settings(steps=2, log_every=every)) for name, every in (("1", 1), ("2", 2))
        )
        for run in (alone, both):
            train(run, prepare=poisoned([1]))
        assert [row["skipped"] for row in rows(alone)] == [1, 0]
        assert (rows(both)[0]["skipped"], rows(both)[0]["loss"]) == (1, rows(alone)[1]["loss"])

    def test_a_finite_gradient_does_not_excuse_an_infinite_loss(self, monkeypatch):
        trainer = Trainer(settings(warmup=0), CPU, ALONE)
        before = {name: t.clone() for name, t in trainer.network.state_dict().items()}
        loss = Objective.loss

        def infinite(*args):
            found = loss(*args)
            return Loss(found.per_event + math.inf, found.error_bar)

        monkeypatch.setattr(Objective, "loss", infinite)
        trainer.train_step(trainer.batches[1])
        assert all(parameter.grad.isfinite().all() for parameter in trainer.network.parameters())
        assert trainer.window.skipped == 1
        assert all(torch.equal(t, before[name]) for name, t in trainer.network.state_dict().items())

    def test_five_in_a_row_stop_the_run_and_name_who_is_to_blame(self, tmp_path):
        assert PATIENCE == 5
        run = create(tmp_path / "run", settings())
        with pytest.raises(GendiffError, match="not finite in 5 steps in a row, up to step 12") as caught:
            train(run, prepare=poisoned(range(8, 13)))
        error = caught.value
        assert error.exit_code == 1
        bad = restored(run).batches[12]
        assert error.details[0] == f"non-finite loss: event {bad.index[1]} at i = {bad.i[1]}"
        assert error.details[1].endswith("0 is the lowest of 4: 0, 1, 2, 3")
        assert "a checkpoint was saved" in error.details[2]
        unharmed = create(tmp_path / "unharmed", settings(steps=7))
        train(unharmed)
        saved, expected = (checkpoint.newest(r.checkpoints) for r in (run, unharmed))
        assert saved.step == 12
        for group, named in expected.tensors.items():
            for name, tensor in named.items():
                assert torch.equal(saved.tensors[group][name], tensor)
        assert checkpoint.load(checkpoint.directory(run.checkpoints, 10)).step == 10

    def test_a_run_of_which_no_step_was_applied_has_not_trained(self, tmp_path):
        run = create(tmp_path / "run", settings(steps=4))
        with pytest.raises(GendiffError, match="not finite in 4 steps in a row, up to step 4"):
            train(run, prepare=poisoned(range(1, 5)))
        assert run.info["status"] == "failed"
        with pytest.raises(GendiffError, match="not finite in 4 steps in a row, up to step 4"):
            train(run)  # nothing is left to do, which does not make it done
        assert run.info["status"] == "failed"
        other = create(tmp_path / "other", settings(steps=4))
        train(other)
        with pytest.raises(GendiffError, match="not finite in 1 step in a row, up to step 5"):
            train(other, 5, prepare=poisoned([5]))
        assert checkpoint.newest(other.checkpoints).step == 5

    def test_one_step_that_was_applied_is_enough(self, tmp_path):
        run = create(tmp_path / "run", settings(steps=5))
        train(run, prepare=poisoned([2, 3, 4, 5]))
        assert run.info["status"] == "done"

    def test_four_in_a_row_across_a_stop_do_not_but_five_do(self, tmp_path):
        run = create(tmp_path / "run", settings())
        with pytest.raises(Stopped):
            train(run, prepare=lambda t: (poisoned(range(8, 12))(t), asked_to_stop_in(11)(t)))
        spare = tmp_path / "spare"
        shutil.copytree(run.path, spare)
        train(Run(spare, run.config))
        with pytest.raises(GendiffError, match="5 steps in a row, up to step 12"):
            train(run, prepare=poisoned([12]))

    def test_it_is_on_record_from_the_first_step(self, tmp_path):
        """No step was ever applied: the moments of the optimiser are 0, and yet there is a checkpoint."""
        run = create(tmp_path / "run", settings())
        with pytest.raises(GendiffError, match="up to step 5"):
            train(run, prepare=poisoned(range(1, 9)))
        assert not any(value.any() for value in checkpoint.newest(run.checkpoints).tensors["optimizer"].values())
        train(run)
        assert final(run)[0] == 20


class TestBadData:
    @pytest.mark.parametrize("step", [9, 11])
    def test_the_run_stops_with_a_checkpoint_of_the_step_before(self, whole, tmp_path, step):
        run = create(tmp_path / "run", SETTINGS["mlp"])
        error = DataError("file x.png is damaged", fix="mend it")
        with pytest.raises(DataError, match=r"file x\.png is damaged") as caught:
            train(run, prepare=poisoned([step], error))
        assert caught.value.exit_code == 4
        assert final(run)[0] == step - 1
        train(run)
        assert final(run) == final(whole(SETTINGS["mlp"]))
        assert rows(run) == rows(whole(SETTINGS["mlp"]))

    def test_no_worker_is_left_behind(self, tmp_path):
        run = create(tmp_path / "run", settings())
        with pytest.raises(DataError, match="damaged"):
            train(run, workers=2, prepare=poisoned([9], DataError("file x.png is damaged")))
        assert multiprocessing.active_children() == []
        with pytest.raises(Stopped):
            train(run, workers=2, prepare=asked_to_stop_in(12))
        assert multiprocessing.active_children() == []

    def test_a_grid_that_cannot_be_drawn_costs_no_step(self, tmp_path, monkeypatch):
        run = create(tmp_path / "run", SETTINGS["mlp"])

        def fail(*args):
            raise GendiffError("no ink")

        monkeypatch.setattr("runs.draw_grid", fail)
        with pytest.raises(GendiffError, match="no ink"):
            train(run)
        assert final(run)[0] == 10


class TestFailingDisk:
    @pytest.mark.parametrize(("number", "short"), DISK_ERRORS[:3])
    def test_a_run_that_cannot_save_goes_on_later(self, whole, tmp_path, monkeypatch, number, short):
        """The second checkpoint does not fit; the first one and the log of the run are what is left."""
        run = create(tmp_path / "run", SETTINGS["mlp"])
        seen = []
        with monkeypatch.context() as patch:

            def second_save(operation, path, content):
                if operation == "write" and "step-000000000010" in str(path):
                    seen.append(path)
                    if len(seen) == 2:
                        failure(number, short)(operation, path, content)

            patch.setattr(checkpoint, "Files", lambda: Watched(second_save))
            with pytest.raises(GendiffError, match=os.strerror(number)) as caught:
                train(run)
        assert caught.value.exit_code == 1
        assert f"in {run.checkpoints}: " in str(caught.value)
        assert "bytes needed" in str(caught.value)
        assert [path.name for path in run.checkpoints.iterdir()] == ["step-000000000005"]
        train(run)
        assert final(run) == final(whole(SETTINGS["mlp"]))
        assert rows(run) == rows(whole(SETTINGS["mlp"]))

    def test_too_little_room_is_said_before_the_first_step(self, tmp_path, monkeypatch):
        run = create(tmp_path / "run", settings(keep=3))
        trainer = restored(run)
        parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
        needed = 4 * parameters * 4 * 4  # float32; weights, two moments, the average; three kept and one staged
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, needed))
        check_disk(run.path, trainer)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, needed - 1))
        with pytest.raises(GendiffError, match="not enough room") as caught:
            check_disk(run.path, trainer)
        assert caught.value.exit_code == 1
        assert f"{needed:,} bytes needed for 4 checkpoints, {needed - 1:,} free" in str(caught.value)
        without = Trainer(settings(keep=3, ema=0), CPU, ALONE)
        check_disk(run.path, without)

    def test_a_resumed_run_needs_no_room_for_what_it_replaces(self, tmp_path, monkeypatch):
        run = create(tmp_path / "run", settings(steps=10))
        train(run)
        trainer = restored(run)
        size = sum(parameter.numel() * 16 for parameter in trainer.network.parameters())
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, size))
        check_disk(run.path, trainer)
        shutil.rmtree(run.checkpoints)
        with pytest.raises(GendiffError, match="not enough room"):
            check_disk(run.path, trainer)


class TestPureFunctionsOfTheStep:
    def test_learning_rate(self):
        config = TrainSettings(lr=2e-3, warmup=100)
        assert [learning_rate(config, step) for step in (1, 50, 100, 101, 10**6)] == [2e-5, 1e-3, 2e-3, 2e-3, 2e-3]
        assert learning_rate(TrainSettings(lr=2e-3, warmup=0), 1) == 2e-3

    def test_averaging_decay(self):
        config = TrainSettings(ema=0.99)
        assert [ema_decay(config.ema, step) for step in (1, 8, 890)] == [2 / 11, 0.5, 0.99]
        assert ema_decay(config.ema, 888) < 0.99
        assert ema_decay(config.ema, 10**9) == 0.99

    def test_the_optimiser_uses_it(self, tmp_path):
        """The first step of Adam moves every weight by the learning rate, up to its ε."""
        trainer = Trainer(settings(lr=1e-2, warmup=10, grad_clip=0), CPU, ALONE)
        before = trainer.network.state_dict()["output.bias"].clone()
        trainer.train_step(trainer.batches[1])
        moved = (trainer.network.state_dict()["output.bias"] - before).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), rtol=1e-3, atol=0)


class TestAverage:
    def test_it_follows_the_recursion(self):
        trainer = Trainer(settings(warmup=0, lr=1e-2, ema=0.6), CPU, ALONE)
        expected = {name: t.double().clone() for name, t in trainer.network.state_dict().items()}
        for step in range(1, 16):
            trainer.train_step(trainer.batches[step])
            decay = min(0.6, (1 + step) / (10 + step))
            for name, weight in trainer.network.state_dict().items():
                expected[name] = decay * expected[name] + (1 - decay) * weight.double()
        for name, value in expected.items():
            torch.testing.assert_close(trainer.weights.ema[name].double(), value, rtol=1e-5, atol=1e-6)
            assert not torch.equal(trainer.weights.ema[name], trainer.network.state_dict()[name])

    def test_buffers_that_count_are_left_as_they_are(self):
        trainer = Trainer(settings(warmup=0, lr=1e-2, ema=0.9), CPU, ALONE)
        trainer.network.register_buffer("counter", torch.tensor(7))
        trainer.weights.ema["counter"] = torch.tensor(5)
        trainer.train_step(trainer.batches[1])
        assert trainer.weights.ema["counter"] == 5

    def test_it_is_what_samples(self):
        trainer = Trainer(settings(warmup=0, lr=1e-2, ema=0.9), CPU, ALONE)
        for step in range(1, 6):
            trainer.train_step(trainer.batches[step])
        averaged = trainer.averaged()
        assert not averaged.training
        assert all(torch.equal(t, trainer.weights.ema[name]) for name, t in averaged.network.state_dict().items())
        without = Trainer(settings(ema=0), CPU, ALONE)
        weights = without.network.state_dict()
        assert all(torch.equal(t, weights[name]) for name, t in without.averaged().network.state_dict().items())


class TestGradients:
    def norm(self, trainer):
        return float(torch.linalg.norm(torch.cat([p.grad.flatten() for p in trainer.network.parameters()])))

    def test_clipping_clips(self):
        clipped, free = (Trainer(settings(grad_clip=clip), CPU, ALONE) for clip in (1e-3, 0))
        for trainer in (clipped, free):
            trainer.train_step(trainer.batches[1])
        assert self.norm(clipped) == pytest.approx(1e-3, rel=1e-3)
        assert self.norm(free) > 0.1
        assert clipped.window.grad_norm == pytest.approx(free.window.grad_norm, rel=1e-6)
        assert free.window.grad_norm == pytest.approx(self.norm(free), rel=1e-5)
        for one, other in zip(clipped.network.parameters(), free.network.parameters(), strict=True):
            torch.testing.assert_close(one.grad * self.norm(free) / 1e-3, other.grad, rtol=1e-2, atol=1e-5)

    def test_dropout_follows_the_step_not_the_global_generator(self):
        weights = []
        for seed in (1, 2):
            trainer = Trainer(settings(DROPOUT, warmup=0), CPU, ALONE)
            torch.manual_seed(seed)
            trainer.train_step(trainer.batches[1])
            torch.rand(seed)
            trainer.train_step(trainer.batches[2])
            weights.append(trainer.network.state_dict())
        assert all(torch.equal(t, weights[1][name]) for name, t in weights[0].items())

    def test_dropout_is_on_and_differs_between_steps(self):
        trainer = Trainer(settings(DROPOUT, warmup=0, lr=1e-2), CPU, ALONE)
        for step in range(1, 6):  # its blocks begin as zero
            trainer.train_step(trainer.batches[step])
        spare = copy.deepcopy(trainer.checkpoint({}))  # on a CPU it is made of the tensors that training goes on with
        losses = []
        for step in (5, 5, 6):
            trainer.restore(copy.deepcopy(spare))
            trainer.step = step
            before = trainer.window.loss
            trainer.train_step(trainer.batches[1])
            losses.append(trainer.window.loss - before)
        assert losses[0] == losses[1] != losses[2]

    def test_every_process_drops_others(self, monkeypatch):
        losses = []
        for rank in (0, 1):
            trainer = Trainer(settings(DROPOUT, warmup=0, lr=1e-2), CPU, ALONE)
            for step in range(1, 6):
                trainer.train_step(trainer.batches[step])
            trainer.world = replace(ALONE, rank=rank)
            before = trainer.window.loss
            trainer.train_step(trainer.batches[1])
            losses.append(trainer.window.loss - before)
        assert losses[0] != losses[1]


class TestRows:
    def test_means_are_those_of_the_steps_that_were_applied(self):
        means = Window(steps=2, loss=3.0, bands=[1.0, 2.0, 3.0, 4.0], grad_norm=5.0, skipped=3).means()
        assert (means["loss"], means["grad_norm"], means["skipped"]) == (1.5, 2.5, 3)
        assert means["loss_bands"] == [1.0, 2.0, 3.0, 4.0]  # those of the last step

    @pytest.mark.parametrize("rotation", ["identity", "dct", "haar"])
    def test_the_bands_of_a_loss_are_the_squared_errors_in_the_dct(self, rotation):
        """Over three channels and pictures that are not square, with SciPy's DCT: equal steps of ρ; of logged steps alone."""
        config = settings(
            data="gaussian-field:size=[6,9],channels=3", warmup=0, log_every=2, steps=4, rotation=rotation
        )
        trainer = Trainer(config, CPU, ALONE)
        ky, kx = np.meshgrid(np.arange(6) / 6, np.arange(9) / 9, indexing="ij")
        rho = np.hypot(ky, kx)
        band = np.minimum((rho / rho.max() * 4).astype(int), 3)
        for step in (1, 2):
            batch = trainer.batches[step]
            with torch.no_grad():
                loss = config.objective.loss(trainer.denoiser, trainer.diffusion, batch.x_0, batch.i, batch.eps)
            error = trainer.diffusion.unrotate(loss.error_bar).double().numpy()
            power = scipy.fft.dctn(error, norm="ortho", axes=(2, 3)) ** 2
            expected = [power[:, :, band == k].mean() for k in range(4)]
            trainer.train_step(batch)
            bands = trainer.window.means()["loss_bands"]
            assert bands == (pytest.approx(expected, rel=1e-4) if step == 2 else None)

    def test_a_run_builds_and_checks_its_process_once(self, monkeypatch, tmp_path):
        """Also one that shows two previews."""
        checks = []
        check = Diffusion._check
        monkeypatch.setattr(Diffusion, "_check", lambda self: checks.append(self) or check(self))
        run = create(tmp_path / "run", settings(steps=2, sample_every=1, preview_images=2))
        train(run)
        assert len(list(run.samples.glob("*.png"))) == 2
        assert len(checks) == 1

    def test_an_average_follows_the_weights_by_its_decay(self):
        trainer = Trainer(settings(warmup=0, ema=0.99), CPU, ALONE)
        for step in (1, 2):
            before = {name: t.double().clone() for name, t in trainer.weights.ema.items()}
            trainer.train_step(trainer.batches[step])
            decay = (1 + step) / (10 + step)
            for name, weight in trainer.network.state_dict().items():
                wanted = decay * before[name] + (1 - decay) * weight.double()
                torch.testing.assert_close(trainer.weights.ema[name].double(), wanted, rtol=1e-5, atol=1e-7)
        assert ema_decay(trainer.settings.ema, 1) == 2 / 11
        assert ema_decay(trainer.settings.ema, 10**6) == 0.99


def test_bf16_is_close_to_fp32(whole):
    half, full = (whole(settings(UNET, precision=precision, warmup=0)) for precision in ("bf16", "fp32"))
    assert final(half) != final(full)
    for one, other in zip(rows(half), rows(full), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.02)
    saved = checkpoint.newest(half.checkpoints)
    assert {t.dtype for named in saved.tensors.values() for t in named.values()} == {torch.float32}


def test_it_learns(tmp_path):
    run = create(
        tmp_path / "run", settings("mlp:width=64,depth=2", steps=120, batch=32, log_every=40, warmup=10, lr=1e-2)
    )
    train(run)
    losses = [row["loss"] for row in rows(run)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.85 < losses[0] - 0.05


class TestRun:
    def test_a_foreign_directory_is_left_alone(self, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / ".hidden").write_text("mine")
        (tmp_path / "file").write_text("mine")
        for name in ("mine", "file"):
            with pytest.raises(ConfigError, match="exists and is not empty") as caught:
                create(tmp_path / name, settings())
            assert caught.value.exit_code == 2
            assert caught.value.fix == "choose a new directory"
        assert [path.name for path in (tmp_path / "mine").iterdir()] == [".hidden"]
        assert (tmp_path / "mine" / ".hidden").read_text() == (tmp_path / "file").read_text() == "mine"

    def test_an_old_run_is_not_begun_again(self, tmp_path):
        run = create(tmp_path / "run", settings())
        before = (run.path / "run.json").read_bytes()
        with pytest.raises(ConfigError) as caught:
            create(run.path, settings())
        assert caught.value.fix == f"go on with it: gendiff train --resume {run.path}"
        assert (run.path / "run.json").read_bytes() == before

    def test_an_empty_directory_will_do(self, tmp_path):
        (tmp_path / "empty").mkdir()
        assert create(tmp_path / "empty", settings()).info["status"] == "created"

    def test_it_opens_as_it_was_made(self, tmp_path):
        run = create(tmp_path / "a" / "b" / "run", settings(DROPOUT, rotation="dct", seed=5, ema=0))
        opened = Run.open(run.path, training=True)
        assert opened.config.table() == run.config.table()
        assert opened.notes == []
        assert opened.info["id"].startswith("run-")
        opened.update(status="done")
        assert opened.info == {**run.info, "status": "done"}

    @pytest.mark.parametrize("missing", ["config.toml", "run.json", None])
    def test_what_is_no_run_is_said_to_be_none(self, tmp_path, missing):
        run = create(tmp_path / "run", settings())
        if missing:
            (run.path / missing).unlink()
        path = run.path if missing else tmp_path
        with pytest.raises(ConfigError, match="is not a run directory") as caught:
            Run.open(path)
        assert caught.value.exit_code == 2
        if missing is None:
            assert f"runs here: {run.path}" in str(caught.value)

    def test_changed_data_are_refused(self, tmp_path):
        run = create(tmp_path / "run", settings(data="gaussian-field:size=8,seed=1"))
        refuse_other_data(run, run.config)
        other = settings(data="gaussian-field:size=8,seed=2")
        with pytest.raises(ConfigError, match="have changed since it began") as caught:
            refuse_other_data(run, other)
        assert caught.value.exit_code == 2
        assert other.data.fingerprint in str(caught.value)
        assert run.config.data.fingerprint in str(caught.value)

    def test_no_usable_checkpoint_is_never_a_new_start(self, tmp_path, capfd):
        run = create(tmp_path / "run", settings(steps=5))
        train(run)
        (checkpoint.directory(run.checkpoints, 5) / "state.json").write_text("{}")
        metrics = run.metrics.read_bytes()
        assert exit_code(command(["train", "--resume", str(run.path), "--steps", "9", "--device", "cpu"])) == 4
        assert "no usable checkpoint" in capfd.readouterr().err
        assert run.metrics.read_bytes() == metrics
        assert [path.name for path in run.checkpoints.iterdir()] == ["step-000000000005"]

    def test_a_damaged_newest_checkpoint_is_said_once(self, tmp_path, capfd):
        run = create(tmp_path / "run", settings(steps=10))
        train(run)
        (checkpoint.directory(run.checkpoints, 10) / "state.json").write_text("{}")
        resume = ["train", "--resume", str(run.path), "--device", "cpu"]
        code = exit_code(forked(lambda: say(resume)))
        assert code == 0
        err = capfd.readouterr().err
        assert err.count("a damaged checkpoint was passed over") == 1
        assert final(run)[0] == 10

    def test_forgetting_keeps_every_digit(self, tmp_path):
        run = create(tmp_path / "run", settings())
        written = [{"step": step, "loss": 0.1 + step / 3, "tiny": 5e-324} for step in range(1, 9)]
        for row in written:
            run.log(row)
        run.forget_after(5)
        assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == written[:5]


def say(args):
    """The command without -q."""
    from gendiff_cli import app

    sys.argv = ["gendiff", *args]
    app.main()
