"""Stopping: at once where nothing can be lost, between two pieces of work elsewhere; the checkpoint comes before the preview."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import closing, suppress
from types import SimpleNamespace

import pytest
import torch
from command import TINY, run
from PIL import Image
from runs import CPU, create, exit_code, forked, grid, restored, settings, train

from gendiff.command import started
from gendiff.comparison.directory import Comparison
from gendiff.datasets import packing
from gendiff.datasets.packed import JOURNAL
from gendiff.datasets.packing import pack
from gendiff.errors import GendiffError, Stopped
from gendiff.machine import stopping
from gendiff.machine.stopping import STOP_SIGNALS, StopRequest, heed, interruptible, stop_requests, stopped
from gendiff.machine.workers import begin_data_process, in_order
from gendiff.plugin import import_guard as process_state
from gendiff.plugin.observers import Observers
from gendiff.run import checkpoint
from gendiff.run.generation import generate
from gendiff.run.trained import TrainedModel
from gendiff.training.loop import fit
from gendiff.training.preview import Preview

NAMES = ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"]


class TestBlocks:
    def test_these_are_requests(self):
        assert [number.name for number in STOP_SIGNALS] == NAMES

    @pytest.mark.parametrize("number", STOP_SIGNALS, ids=str)
    def test_an_interruptible_block_ends_where_it_is(self, number):
        with pytest.raises(StopRequest) as caught, interruptible():
            asked(number)()
        assert caught.value.number == number
        assert stopped("here", number).exit_code == (130 if number == signal.SIGINT else 75)

    def test_the_innermost_block_decides(self):
        with stop_requests() as requests:
            with interruptible(), stop_requests() as inner:
                signal.raise_signal(signal.SIGHUP)
                heed()
                assert inner == requests == [signal.SIGHUP]
            with pytest.raises(StopRequest), interruptible():
                raise AssertionError("one was waiting")

    def test_a_request_that_others_swallow_is_heard_again(self):
        with pytest.raises(StopRequest), interruptible():
            self.swallowed()

    @staticmethod
    def swallowed():
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        heed()

    def test_nothing_that_catches_errors_holds_it_up(self):
        assert not issubclass(StopRequest, Exception)

    def test_what_is_ignored_stays_ignored(self):
        """As nohup leaves it."""
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with interruptible():
                signal.raise_signal(signal.SIGHUP)
                assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_handlers_are_put_back_and_requests_forgotten(self):
        before = [signal.getsignal(number) for number in STOP_SIGNALS]
        with pytest.raises(StopRequest), interruptible():
            signal.raise_signal(signal.SIGUSR1)
        assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
        with stop_requests() as requests:
            assert requests == []

    @pytest.mark.parametrize("block", [stop_requests, interruptible])
    def test_signals_of_one_act_are_one_request(self, monkeypatch, block):
        """As those of ``timeout``, of a service manager, and of a closed terminal."""
        calls = []

        def companions(seconds):
            calls.append(seconds)
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                signal.raise_signal(number)

        monkeypatch.setattr(stopping.time, "sleep", companions)
        monkeypatch.setattr(os, "_exit", lambda code: calls.append(f"left with {code}"))
        with suppress(StopRequest), block() as requests:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)  # however late
            assert requests == [signal.SIGTERM]
        assert calls == [stopping.TOGETHER]

    def test_the_second_leaves_at_once(self, monkeypatch):
        monkeypatch.setattr(stopping, "TOGETHER", 0)

        def twice():
            with stop_requests():
                signal.raise_signal(signal.SIGHUP)
                signal.raise_signal(signal.SIGTERM)
                raise AssertionError("it went on")

        assert exit_code(forked(twice)) == 128 + signal.SIGTERM

    def test_another_thread_may_have_a_block(self):
        entered = []

        def work():
            with interruptible():
                entered.append(True)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert entered == [True]

    def test_all_lists_of_signals_are_one(self, monkeypatch):
        """A plugin that changes any of these is noticed, and a data process outlives all of them."""
        for number in STOP_SIGNALS:
            before = process_state.process_state()
            was = signal.signal(number, lambda *arguments: None)
            assert process_state.restore(before) == ["the signal handlers"]
            assert signal.getsignal(number) is was
        changed = {}
        monkeypatch.setattr(signal, "signal", changed.__setitem__)
        monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
        begin_data_process(os.getpid(), 0)
        assert set(changed) == set(STOP_SIGNALS)
        assert [number for number in changed if changed[number] is not signal.SIG_IGN] == [signal.SIGTERM]


def asked(number=signal.SIGTERM):
    """What is called in place of work in the middle of which a request comes; the work must not go on."""

    def work(*arguments, **options):
        signal.raise_signal(number)
        raise AssertionError("it went on")

    return work


def pixels(path):
    """What a picture shows: the text in it names its run."""
    with Image.open(path) as picture:
        return picture.size, picture.tobytes()


class TestPreview:
    """Runs of 4 steps with a preview of each second one, the checkpoints of which have no other reason."""

    CONFIG = {"steps": 4, "sample_every": 2, "checkpoint_every": 100}

    @pytest.fixture
    def whole(self, tmp_path):
        run = create(tmp_path / "whole", settings(**self.CONFIG))
        train(run)
        return run

    @pytest.mark.parametrize("number", STOP_SIGNALS, ids=str)
    def test_a_request_ends_it_between_two_evaluations(self, whole, tmp_path, monkeypatch, number):
        run, calls = create(tmp_path / "run", settings(**self.CONFIG)), []

        def slow(denoiser, *arguments):
            forward = denoiser.forward

            def asked_in_the_second(*inputs):
                calls.append(1)
                if len(calls) == 2:
                    signal.raise_signal(number)
                return forward(*inputs)

            denoiser.forward = asked_in_the_second
            return draw_grid(denoiser, *arguments)

        import runs

        draw_grid = runs.draw_grid
        with monkeypatch.context() as patch:
            patch.setattr(runs, "draw_grid", slow)
            with pytest.raises(Stopped, match="stopped at step 2 on") as caught:
                train(run)
        assert caught.value.exit_code == (130 if number == signal.SIGINT else 75)
        assert len(calls) == 2
        assert checkpoint.steps(run.checkpoints) == [2]
        assert not run.samples.exists()
        train(run)
        for step in (2, 4):
            assert pixels(grid(run, step)) == pixels(grid(whole, step))

    def test_the_checkpoint_comes_first(self, tmp_path, monkeypatch):
        run, steps = create(tmp_path / "run", settings(**self.CONFIG)), []
        monkeypatch.setattr("runs.draw_grid", lambda *arguments: steps.append(checkpoint.steps(run.checkpoints)[0]))
        train(run)
        assert steps == [2, 4]

    def test_what_has_no_picture_is_drawn_first_when_the_run_goes_on(self, whole, tmp_path):
        """The one that is missing, and no other; the end of the run too."""
        drawn = grid(whole, 2).read_bytes(), grid(whole, 4).read_bytes()
        for step in (2, 4):
            grid(whole, step).unlink()
        train(whole)
        assert not grid(whole, 2).exists()
        assert grid(whole, 4).read_bytes() == drawn[1]

    def test_the_command_draws_what_a_finished_run_lacks(self, whole):
        drawn = pixels(grid(whole, 4))
        assert run("train", "--resume", whole.path, "--device", "cpu").code == 2
        grid(whole, 4).unlink()
        assert run("train", "--resume", whole.path, "--device", "cpu").code == 0
        assert pixels(grid(whole, 4)) == drawn
        assert run("train", "--resume", whole.path, "--device", "cpu").code == 2

    def test_one_that_fails_costs_no_step(self, tmp_path, monkeypatch):
        run = create(tmp_path / "run", settings(**self.CONFIG))

        def fail(*arguments):
            raise GendiffError("no ink")

        monkeypatch.setattr("runs.draw_grid", fail)
        with pytest.raises(GendiffError, match="no ink"):
            train(run)
        assert checkpoint.steps(run.checkpoints) == [2]

    def test_metrics_are_measured_under_it_and_logged_once(self, tmp_path):
        """The row may be there and the picture not."""
        config = settings(**self.CONFIG, metrics=["spectrum:bands=2"])
        whole, run = (create(tmp_path / name, config) for name in ("whole", "run"))
        for one in (whole, run):
            fit(one, restored(one), preview=Preview(one, Observers()))
        measured = [row for row in whole.rows() if "metrics" in row]
        assert [row["step"] for row in measured] == [2, 4]
        grid(run, 4).unlink()
        fit(run, restored(run), preview=Preview(run, Observers()))
        assert [row for row in run.rows() if "metrics" in row] == measured
        assert pixels(grid(run, 4)) == pixels(grid(whole, 4))

    def test_while_a_metric_measures(self, tmp_path, monkeypatch):
        config = settings(**self.CONFIG, metrics=["spectrum:bands=2"])
        run = create(tmp_path / "run", config)
        monkeypatch.setattr(type(config.train.metrics[0]), "measure", asked())
        with pytest.raises(Stopped, match="stopped at step 2 on SIGTERM; a checkpoint was saved"):
            fit(run, restored(run), preview=Preview(run, Observers()))
        assert run.info["status"] == "stopped"
        assert run.info.get("switched_off", {}) == {}

    def test_it_says_how_far_it_is(self, tmp_path):
        run, heard = create(tmp_path / "run", settings(**self.CONFIG, preview_images=40)), []
        watch = lambda step, done, total: heard.append((step, done, total))  # noqa: E731
        fit(run, restored(run), preview=Preview(run, Observers(), watch))
        evaluations = 3 * 3  # ddim of 3 steps on 40 images, 16 at a time
        assert heard == [(step, done, evaluations) for step in (2, 4) for done in range(evaluations + 1)]

    @pytest.mark.parametrize("seconds", [0.0, 4.0])
    def test_a_log_file_has_a_line_of_a_long_one_now_and_then(self, tmp_path, monkeypatch, seconds):
        from gendiff_cli import progress

        clock = [0.0]

        def tick():
            clock[0] += seconds
            return clock[0]

        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=tick))
        told = run(
            *("train", *TINY[:4], "--set", "train.preview=ddim:steps=8", "--set", "N=20", "--steps", 2),
            *("--out", tmp_path / "run"),
        )
        assert told.code == 0, told.err
        lines = [line for line in told.err.splitlines() if line.startswith("preview of step 2: ")]
        assert lines == (
            [] if not seconds else ["preview of step 2: 3/8 evaluations", "preview of step 2: 6/8 evaluations"]
        )


class TestFirstCompile:
    """Stands in for a compiler that takes minutes: what the network does when it is called first."""

    def prepare(self, monkeypatch, step):
        from gendiff.machine.stopping import _blocks

        compiled = []

        def slow(network):
            def forward(*inputs):
                compiled.append(1)
                if len(compiled) == step:
                    signal.raise_signal(signal.SIGTERM)
                    assert not _blocks[-1], "it went on"
                return network(*inputs)

            class Compiled(torch.nn.Module):
                def __init__(self):
                    super().__init__()
                    self.inside = network

                def forward(self, *inputs):
                    return forward(*inputs)

            return Compiled()

        monkeypatch.setattr(torch, "compile", slow)
        return compiled

    def test_before_the_first_step(self, tmp_path, monkeypatch):
        config = settings(steps=4, compile=True)
        plain = create(tmp_path / "plain", settings(steps=4))
        train(plain)
        run = create(tmp_path / "run", config)
        with monkeypatch.context() as patch:
            self.prepare(patch, 1)
            with pytest.raises(Stopped, match="stopped at step 0 on SIGTERM; a checkpoint was saved"):
                train(run)
        assert checkpoint.steps(run.checkpoints) == [0]
        self.prepare(monkeypatch, 0)
        train(run)
        ours, theirs = (checkpoint.newest(one.checkpoints).tensors["model"] for one in (run, plain))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    def test_of_a_run_that_goes_on(self, tmp_path, monkeypatch):
        run = create(tmp_path / "run", settings(steps=2, compile=True))
        self.prepare(monkeypatch, 0)
        train(run)
        self.prepare(monkeypatch, 1)
        with pytest.raises(Stopped, match="stopped at step 2 on SIGTERM"):
            train(run, steps=9)
        assert checkpoint.steps(run.checkpoints) == [2]

    def test_later_steps_are_finished(self, tmp_path, monkeypatch):
        run = create(tmp_path / "run", settings(steps=9, compile=True))
        self.prepare(monkeypatch, 3)
        with pytest.raises(Stopped, match="stopped at step 3 on SIGTERM"):
            train(run)
        assert checkpoint.steps(run.checkpoints) == [3]


class TestElsewhere:
    @pytest.fixture(scope="class")
    def trained(self, tmp_path_factory):
        torch.set_num_threads(1)
        run = create(tmp_path_factory.mktemp("trained") / "run", settings(steps=2))
        train(run)
        return run

    def test_between_two_evaluations_of_a_chain(self, trained):
        """Whatever has swallowed the first hearing of it."""
        model, evaluations = TrainedModel.load(trained, CPU), []

        def watch(moment):
            evaluations.append(moment.number)
            if moment.number == 2:
                with suppress(BaseException):
                    signal.raise_signal(signal.SIGTERM)

        with pytest.raises(StopRequest), interruptible():
            list(generate(model.denoiser, trained, trained.config.sampler, 0, range(3), 3, watch))
        assert evaluations == [0, 1, 2]

    @pytest.mark.parametrize("number", STOP_SIGNALS, ids=str)
    @pytest.mark.parametrize("command", ["sample", "evaluate"])
    def test_a_command_that_draws(self, trained, tmp_path, monkeypatch, command, number):
        monkeypatch.setattr("gendiff.run.generation.sample", asked(number))
        alone = ("--at-once", 1) if command == "evaluate" else ()  # others than this process hear of no signal
        told = run(command, trained.path, "--n", 16, "--steps", 2, "--device", "cpu", *alone)
        assert told.code == (130 if number == signal.SIGINT else 75)
        assert told.err.splitlines()[-1].startswith(f"stopped on {number.name}; every file that was written is whole")
        assert told.out == ""

    def test_while_data_are_measured_for_a_new_run_that_leaves_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setattr("gendiff.moments._sweep", asked())
        monkeypatch.setenv("GENDIFF_CACHE", str(tmp_path / "cache"))
        assert run("train", *TINY, "--data", "gaussian-field:size=6", "--out", tmp_path / "run").code == 75
        assert not (tmp_path / "run").exists()

    def test_while_a_comparison_measures(self, tmp_path, monkeypatch):
        from plans import TWO, plan_of

        comparison = Comparison.create(plan_of(*TWO), tmp_path / "c")
        with pytest.raises(Stopped, match="the comparison on SIGHUP") as caught, comparison.working():
            asked(signal.SIGHUP)()
        assert f"gendiff compare --resume {comparison.path}" in caught.value.fix

    @pytest.mark.parametrize("workers", [0, 1])
    def test_while_an_event_is_waited_for(self, workers):
        with (
            pytest.raises(StopRequest),
            interruptible(),
            closing(in_order(Asking(os.getpid()), range(9), workers)) as outcomes,
        ):
            list(outcomes)

    def test_while_an_event_is_packed(self, tmp_path, monkeypatch):
        from made import Made

        monkeypatch.setattr(packing, "CHUNK", 2)
        read = Made.__getitem__

        def asking(data, index):
            if index == 5:
                asked()()
            return read(data, index)

        with monkeypatch.context() as patch:
            patch.setattr(Made, "__getitem__", asking)
            with pytest.raises(Stopped, match="at event 4 of"):
                pack(Made(), tmp_path / "set", workers=0)
        assert json.loads((tmp_path / "set" / JOURNAL).read_text())["read"] == 4
        pack(Made(), tmp_path / "set", workers=0)


class Asking:
    """Work in the middle of which the owner is asked to stop."""

    def __init__(self, owner):
        self.owner = owner

    def __call__(self, item):
        if item == 1:
            os.kill(self.owner, signal.SIGTERM)
            threading.Event().wait(20)
        return item


def test_time_that_is_over_before_anything_is_kept_says_how_to_go_on():
    """The same command again."""
    with (
        started(["reproduce", "twin"]),
        pytest.raises(Stopped) as caught,
        stopping.within(1e-3),
        stopping.interruptible(),
    ):
        time.sleep(30)
    assert caught.value.exit_code == 75
    assert caught.value.fix == "go on: gendiff reproduce twin"
