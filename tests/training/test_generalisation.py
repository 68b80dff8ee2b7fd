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
from gendiff.run.curve import Point, curve, markdown, verdict
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve
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
    for name, weight in other.ema.items():
        weight.copy_(trainer.ema[name])
    assert generalisation(other) == sides


def test_the_averaged_weights_are_looked_at(file):
    trainer = Trainer(config(file), CPU, ALONE)
    before = generalisation(trainer)
    for weight in trainer.network.parameters():
        weight.data += 1
    assert generalisation(trainer) == before
    for weight in trainer.ema.values():
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
    training = gendiff_command("evaluate", tmp_path / "run", "-n", 8, "--training", "--features", "pixels", "--json")
    assert training.json["numbers"][0]["reference"]["n"] == COUNT - OUT
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


class TestCurve:
    def points(self, *losses):
        return [Point(k, loss, 0.01, 0.5 / (k + 1)) for k, loss in enumerate(losses)]

    def test_overfitting_is_said(self):
        assert "lowest at step 1, 0.8000, and rose by 25%: overfitting" in verdict(self.points(0.9, 0.8, 0.9, 1.0))
        assert "not rising" in verdict(self.points(0.9, 0.8, 0.7))
        assert "no overfitting is seen" in verdict([Point(5, 0.5, 0.05, 0.48)])
        assert verdict([]) == ""

    def test_rows_without_a_finite_loss_are_left_out(self):
        side = {"loss": 0.5, "error": 0.1}
        rows = [{"step": 1, "loss": 3}, {"step": 2, "held_out": side, "training": {"loss": None}}]
        assert curve([*rows, {"step": 3, "held_out": side, "training": side}]) == [Point(3, 0.5, 0.1, 0.5)]

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
