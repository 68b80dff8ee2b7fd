"""Held-out events in a run: never trained on, by one process or two, stopped or not; looked at, and what its numbers refer to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command import run as gendiff_command
from held import configured
from runs import ALONE, CPU, Killed, create, die_after, final, train

from gendiff.data import Data
from gendiff.errors import ConfigError, DataError
from gendiff.run import checkpoint
from gendiff.run.curve import Point, Side, curve, markdown, rise, verdict
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve
from gendiff.run.rows import numbers
from gendiff.training.continuation import changed_data
from gendiff.training.generalisation import generalisation
from gendiff.training.preview import Preview
from gendiff.training.trainer import Trainer

COUNT, OUT = 19, 9

pytestmark = pytest.mark.filterwarnings("default")  # notes of the command line


@pytest.fixture
def file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 8), dtype=np.uint8)
    np.save(tmp_path / "events.npy", pixels)
    return tmp_path / "events.npy"


def config(file, every=4, **train):
    hold_out = {"events": OUT, "every": every, "most": 6}
    return configured(Data(f"npy:path={file}"), hold_out, "dct", "blur", **{"batch": 5, **train})


def looks(run):
    return [row for row in run.rows() if "held_out" in row]


def keep_events(events):
    """Prepare a trainer that keeps every event it trains on."""

    def prepare(trainer):
        step = trainer.train_step

        def keeping(batch):
            events.extend(batch.x_0)
            step(batch)

        trainer.train_step = keeping

    return prepare


def test_a_run_that_is_killed_and_goes_on_never_trains_on_them_and_ends_as_if_it_had_not_been(file, tmp_path):
    whole, torn = (create(tmp_path / name, config(file)) for name in ("whole", "torn"))
    train(whole)
    events = []
    with pytest.raises(Killed):
        train(torn, report=die_after(9), prepare=keep_events(events))
    reopened = Run.open(torn.path, training=True)
    train(reopened, prepare=keep_events(events))
    held_out = reopened.config.held_out
    assert held_out.length == OUT
    assert len(events) >= 100
    assert not [1 for k in range(OUT) for x in events if torch.equal(held_out[k], x)]
    assert final(whole) == final(torn)
    assert looks(whole) == looks(torn)
    assert [row["step"] for row in looks(whole)] == [4, 8, 12, 16, 20]


def test_a_look_changes_nothing_of_the_run(file, tmp_path):
    often, never = (create(tmp_path / str(every), config(file, every)) for every in (1, 1000))
    train(often)
    train(never)
    assert final(often) == final(never)
    assert [row["step"] for row in looks(never)] == [20]  # the last step is looked at in any case
    assert looks(often)[-1] == looks(never)[-1]


def test_a_look_that_a_request_ended_is_taken_by_who_goes_on(file, tmp_path):
    run = create(tmp_path / "run", config(file, checkpoint_every=4))
    with pytest.raises(Killed):
        train(run, report=die_after(8))
    rows = [row for row in run.rows() if not (row["step"] == 8 and "held_out" in row)]
    run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    train(run)
    assert [row["step"] for row in looks(run)] == [4, 8, 12, 16, 20]


def test_both_sides_meet_the_same_noise_at_the_same_steps(file):
    trainer = Trainer(config(file), CPU, ALONE)
    sides = generalisation(trainer)
    assert {side: values["events"] for side, values in sides.items()} == {"held_out": 6, "training": 6}
    assert all(values["loss"] > 0 and values["error"] > 0 for values in sides.values())
    assert all(len(values["loss_bands"]) == 4 for values in sides.values())
    assert sides == generalisation(trainer)
    other = Trainer(config(file, seed=7), CPU, ALONE)  # other weights, and the same events and noise
    other.network.load_state_dict(trainer.network.state_dict())
    for name, weight in other.weights.ema.items():
        weight.copy_(trainer.weights.ema[name])
    assert generalisation(other) == sides


def test_the_averaged_weights_are_looked_at(file):
    trainer = Trainer(config(file), CPU, ALONE)
    before = generalisation(trainer)
    for weight in trainer.network.parameters():
        weight.data += 1
    assert generalisation(trainer) == before
    for weight in trainer.weights.ema.values():
        weight += 1
    assert generalisation(trainer) != before


def test_without_it_a_run_is_what_it_was(file, tmp_path):
    plain = configured(Data(f"npy:path={file}"), None, "dct", "blur", batch=5)
    assert plain.training is plain.data
    run = create(tmp_path / "run", plain)
    train(run)
    assert looks(run) == []
    assert "hold_out" not in run.table
    assert "held_out" not in run.info


def test_a_changed_split_is_noticed(file, tmp_path):
    run = create(tmp_path / "run", config(file))
    train(run)
    assert run.info["held_out"]["events"] == OUT
    other = {"data": run.table["data"], "hold_out": {"events": OUT, "seed": 1}}
    with pytest.raises(ConfigError, match=r"held-out events of .* are not those that they were"):
        changed_data(run, resolve([Layer("now", other)]).config)
    run.table = {**run.table, **other}
    opened = Run.open(run.path)
    opened.table = run.table
    with pytest.raises(DataError, match=r"held-out events of .* are not those that they were"):
        opened.split()


def test_data_of_a_run_are_its_training_events(file, tmp_path):
    run = Run.open(create(tmp_path / "run", config(file)).path)
    assert run.data().length == COUNT - OUT
    assert run.split().held_out.length == OUT


@pytest.mark.slow
def test_two_processes_hold_out_the_same_and_share_a_small_set(file, tmp_path):
    """A batch of 64 of 10 training events becomes one of 10, five each; weights are those of one process."""
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["train", "--data", str(file), "--hold-out", OUT, "--model", "mlp:width=4,depth=1", "--steps", 6]
    words += ["--set", "hold_out.every=3", "--set", "train.sample_every=0", "--set", "N=20", "--device", "cpu"]
    assert gendiff_command(*words, "--out", one).code == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "gendiff_cli", *map(str, words), "--out", str(two)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the batch of 64 is larger than the 10 events that there are: each step takes all") == 1
    runs = [Run.open(path, training=True) for path in (one, two)]
    assert runs[0].info["held_out"] == runs[1].info["held_out"]
    assert runs[1].config.train.batch == COUNT - OUT
    weights = [checkpoint.newest(run.checkpoints).tensors["model"] for run in runs]
    assert all(torch.allclose(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-6) for name in weights[0])
    for ours, theirs in zip(*map(looks, runs), strict=True):
        assert ours["held_out"]["loss"] == pytest.approx(theirs["held_out"]["loss"], rel=1e-4)


# --- what is said of it -------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_holds_out_and_compares_with_it(file, tmp_path):
    words = ["--model", "mlp:width=4,depth=1", "--steps", 6, "--set", "train.sample_every=0", "--set", "N=20"]
    done = gendiff_command("train", "--data", file, "--hold-out", OUT, *words, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert f"held out: {OUT} of {COUNT} events of npy:path=" in done.err
    assert re.search(r"step 6/6  held-out loss [\d.]+  training [\d.]+ at the same noise", done.err)
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"| held out | {OUT} of {COUNT} events" in card
    assert "| step | held-out loss | training events, same noise |" in card
    assert f"held out  {OUT} of {COUNT} events" in gendiff_command("runs", "show", tmp_path / "run").out
    facts = gendiff_command("evaluate", tmp_path / "run", "-n", 8, "--features", "pixels", "--json").json
    reference = facts["numbers"][0]["reference"]
    assert reference["n"] == OUT
    assert "held out" in reference["spec"]
    training = gendiff_command(
        *("evaluate", tmp_path / "run", "-n", 8, "--training", "--features", "pixels", "--neighbours", "--json")
    )
    assert training.json["numbers"][0]["reference"]["n"] == COUNT - OUT
    assert training.json["neighbours"][0]["others"]["n"] == OUT  # near is what these are, whatever the reference
    bound = [
        gendiff_command("process", "likelihood", tmp_path / "run", *more, "--json").json
        for more in ([], ["--training"])
    ]
    assert [(one["events"], one["held_out"]) for one in bound] == [(OUT, True), (COUNT - OUT, False)]


def test_too_few_are_no_reference(file, tmp_path):
    words = ["--model", "mlp:width=4,depth=1", "--steps", 1, "--set", "train.sample_every=0", "--set", "N=20"]
    assert gendiff_command("train", "--data", file, "--hold-out", 4, *words, "--out", tmp_path / "run").code == 0
    done = gendiff_command("evaluate", tmp_path / "run", "-n", 8, "--features", "pixels", "--json")
    assert "4 held-out events are too few to compare samples with, which takes 8" in " ".join(done.err.split())
    assert done.code == 0, done.err
    assert done.json["numbers"][0]["reference"]["n"] == COUNT - 4
    done = gendiff_command("evaluate", tmp_path / "run", "-n", 8, "--features", "pixels", "--held-out")
    assert (done.code, "4 events of reference are too few" in done.err) == (2, True)


def test_what_cannot_be_meant_is_refused(file, tmp_path):
    words = ["--model", "mlp:width=4,depth=1", "--steps", 1, "--set", "train.sample_every=0", "--set", "N=20"]
    assert gendiff_command("train", "--data", file, *words, "--out", tmp_path / "run").code == 0
    for command in (["evaluate", tmp_path / "run"], ["process", "likelihood", tmp_path / "run"]):
        done = gendiff_command(*command, "--held-out")
        assert (done.code, "nothing is held out of" in done.err) == (2, True)
        done = gendiff_command(*command, "--training", "--data", file)
        assert done.code == 2
        assert "from --training" in done.err


@pytest.mark.slow
def test_a_comparison_takes_them_as_reference(file, tmp_path):
    done = gendiff_command(
        *(
            "compare",
            "--arm",
            "identity",
            "--arm",
            "dct schedule=none",
            "--data",
            file,
            "--hold-out",
            OUT,
            "--seeds",
            1,
        ),
        *("--steps", 2, "--batch", 4, "--model", "mlp:width=4,depth=1", "--set", "N=20", "-n", 16),
        *("--features", "pixels", "--out", tmp_path / "out", "--json"),
    )
    assert done.code == 0, done.err
    assert done.json["reference"]["n"] == OUT
    assert "held out" in done.json["reference"]["spec"]


def test_arms_that_hold_out_other_events_are_not_compared(file, tmp_path):
    done = gendiff_command(
        *("compare", "--arm", "identity hold-out=8", "--arm", "dct hold-out=9", "--data", file, "--dry-run"),
        *("--model", "mlp:width=4,depth=1", "--batch", 4, "--features", "pixels"),
    )
    assert done.code == 2
    assert "the data of dct hold-out=9 is" in " ".join(done.err.split())


def test_a_run_that_learns_its_events_by_heart_is_known_and_one_that_does_not_is_not(tmp_path):
    """Events of pure noise share nothing but mean and variance: whatever more is learned of ten of them is wrong of others."""
    np.save(tmp_path / "noise.npy", np.random.default_rng(1).integers(0, 256, (20, 6, 8), dtype=np.uint8))
    hold_out = {"events": 10, "every": 20, "most": 10}
    given = {
        "N": 20,
        "model": "mlp:width=64,depth=1",
        "data": f"npy:path={tmp_path / 'noise.npy'}",
        "hold_out": hold_out,
    }
    steps = {"steps": 60, "batch": 10, "sample_every": 0, "ema": 0.9, "log_every": 60}
    for rate, learns in ((1e-2, True), (1e-6, False)):
        run = create(tmp_path / str(rate), resolve([Layer("t", {**given, "train": {**steps, "lr": rate}})]).config)
        train(run)
        points = curve(run.rows())
        since = rise(points)
        assert bool(since and since.is_overfitting) is learns
        assert ("overfitting; it was lowest at step" in verdict(points)) is learns
        assert ("On held-out events the network is worse than an output of 0" in verdict(points)) is learns


def test_a_row_holds_the_losses_of_events_and_those_of_an_output_of_0(file, tmp_path):
    run = create(tmp_path / "run", config(file))
    train(run)
    for row in looks(run):
        for side in (row["held_out"], row["training"]):
            assert len(side["by_event"]) == side["events"] == 6
            assert np.mean(side["by_event"]) == pytest.approx(side["loss"], rel=1e-5)
            assert np.std(side["by_event"], ddof=1) / 6**0.5 == pytest.approx(side["error"], rel=1e-5)
            assert side["gain"]["mean"] == pytest.approx(side["nothing"]["loss"] - side["loss"])
        assert row["held_out"]["nothing"] == looks(run)[0]["held_out"]["nothing"]
    told = numbers(looks(run)[0])
    assert "held_out.nothing.loss" in told
    assert not [name for name in told if "by_event" in name]


def test_of_many_events_a_row_holds_groups(file, monkeypatch):
    monkeypatch.setattr("gendiff.training.generalisation.MOST_KEPT", 4)
    side = generalisation(Trainer(config(file), CPU, ALONE))["held_out"]
    assert (side["events"], len(side["by_event"])) == (6, 4)


class TestCurve:
    def points(self, *losses):
        return [Point(k, loss, 0.01, 0.5 / (k + 1)) for k, loss in enumerate(losses)]

    def looks(self, held_out, training, nothing=1.0):
        """Looks with these losses of events, ``(T, n)``."""
        return [
            Point(
                100 * (k + 1),
                float(ours.mean()),
                float(ours.std(ddof=1) / len(ours) ** 0.5),
                float(theirs.mean()),
                *(
                    Side(tuple(one), (nothing, 0.1), (nothing - float(one.mean()), 0.01))
                    for one in map(np.array, (ours, theirs))
                ),
            )
            for k, (ours, theirs) in enumerate(zip(held_out, training, strict=True))
        ]

    def events(self, means, spread, seed=0, count=8):
        """Losses of events that differ by far more between each other than from look to look."""
        random = np.random.default_rng(seed)
        return (
            np.array(means)[:, None]
            + random.normal(0, 1, count)
            + random.normal(0, spread, (len(means), count)).cumsum(0)
        )

    def test_a_rise_far_below_the_error_of_the_loss_is_known_by_its_events(self):
        falling = self.events([0.82, 0.7, 0.66, 0.64, 0.63], 0.003, 1, 33)
        points = self.looks(self.events([1.16, 1.124, 1.135, 1.15, 1.16], 0.005), falling)
        since = rise(points)
        assert points[-1].error > 5 * since.by
        assert since.step == 200
        assert since.is_overfitting
        assert "overfitting; it was lowest at step 200, " in verdict(points)
        assert "train no further than step 200" in verdict(points)

    def test_a_rise_of_one_event_is_none(self):
        held_out = self.events([1.0, 1.0, 1.0, 1.0], 0.005)
        held_out[3, 2] += 0.5
        points = self.looks(held_out, self.events([0.9, 0.8, 0.7, 0.6], 0.003, 1))
        assert not rise(points).is_clear
        assert "which may be chance: no overfitting is seen" in verdict(points)

    def test_a_rise_that_training_events_share_is_not_overfitting(self):
        points = self.looks(self.events([0.9, 0.8, 1.0], 0.002), self.events([0.9, 0.8, 1.0], 0.002, 1, 30))
        assert rise(points).is_clear
        assert rise(points).is_shared
        assert "not overfitting, the network got worse" in verdict(points)

    @pytest.mark.parametrize("count", [5, 8, 40])
    def test_where_nothing_rises_one_of_twenty_is_said_to_at_most(self, count):
        alarms = [
            bool(
                (
                    since := rise(
                        self.looks(self.events([1.0] * 12, 0.01, seed, count), self.events([0.5] * 12, 0.01, seed + 1))
                    )
                )
                and since.is_clear
            )
            for seed in range(0, 400, 2)
        ]
        assert 0 < sum(alarms) <= 0.05 * 200 + 2 * (200 * 0.05 * 0.95) ** 0.5

    def test_of_few_events_nothing_is_said(self):
        points = self.looks(self.events([0.8, 1.0], 0.001, count=4), self.events([0.8, 0.5], 0.001, 1))
        assert rise(points) is None
        assert "of 4 events it cannot be told whether the rise since is chance" in verdict(points)
        assert "without the losses of its events it cannot be told" in verdict(self.points(0.9, 0.8, 0.9, 1.0))

    def test_the_lowest_look_and_a_first_one(self):
        assert "the lowest that it was: no overfitting is seen" in verdict(self.points(0.9, 0.8, 0.7))
        assert "one look is no curve" in verdict([Point(5, 0.5, 0.05, 0.48)])
        assert verdict([]) == ""

    def side(self, loss, nothing, error=0.02):
        return Side((), (nothing, error), (nothing - loss, error))

    def test_an_output_of_0_says_where_the_sides_stand(self):
        worse = Point(9, 1.16, 0.3, 0.6, self.side(1.16, 1.05), self.side(0.6, 1.0))
        assert "On held-out events the network is worse than an output of 0, which has 1.0500 there" in verdict([worse])
        strange = Point(9, 16.25, 0.3, 0.6, self.side(16.25, 16.4, 2.0), self.side(0.6, 1.0))
        assert "Held-out events are unlike those trained on: an output of 0 has 16.4000 on them, 1.0000" in verdict(
            [strange]
        )
        known = Point(9, 0.98, 0.3, 0.6, self.side(0.98, 1.05), self.side(0.6, 1.0))
        assert "below an output of 0 by 0.4 on events that it was trained on, and by 0.07 on held-out ones" in verdict(
            [known]
        )
        untrained = Point(9, 1.3, 0.3, 1.2, self.side(1.3, 1.05), self.side(1.2, 1.0))
        assert "On events of either side the network is worse" in verdict([untrained])
        alike = Point(9, 0.62, 0.3, 0.6, self.side(0.62, 1.05), self.side(0.6, 1.0))
        assert verdict([alike]).endswith("one look is no curve")

    def test_rows_without_a_finite_loss_are_left_out(self):
        side = {"loss": 0.5, "error": 0.1}
        rows = [{"step": 1, "loss": 3}, {"step": 2, "held_out": side, "training": {"loss": None}}]
        assert curve([*rows, {"step": 3, "held_out": side, "training": side}]) == [Point(3, 0.5, 0.1, 0.5)]

    def test_what_a_row_says_of_events_is_read_and_nonsense_is_not(self):
        side = {"loss": 0.5, "error": 0.1, "by_event": [0.4, 0.6], "nothing": {"loss": 1, "error": 0.2}}
        strange = {"loss": 0.5, "error": 0.1, "by_event": ["a"], "nothing": 3, "gain": {"mean": None}}
        (point,) = curve([{"step": 3, "held_out": side, "training": strange}])
        assert point.of_held_out == Side((0.4, 0.6), (1.0, 0.2))
        assert point.of_training == Side()

    def test_the_table_has_the_last_look(self):
        lines = markdown(self.points(*[0.5] * 30))
        assert len(lines) == 14
        assert lines[-1].startswith("| 29 |")


@pytest.mark.parametrize(("held", "count", "of"), [(8, 8, "held out"), (7, 8, "training")])
def test_metrics_of_previews_are_taken_with_what_is_held_out_where_that_is_enough(held, count, of):
    config = resolve([Layer("the test", {"data": "digits", "hold_out": held})]).config
    preview = Preview.__new__(Preview)
    preview.run = SimpleNamespace(config=config)
    assert preview._compared_with(count).which == of
