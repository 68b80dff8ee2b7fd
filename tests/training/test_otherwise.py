"""Going on otherwise, and beginning from another run: what is recorded, exact, refused, and noticed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal

import pytest
import torch
from command import run
from runs import create, final, restored, rows, settings, train

import gendiff
from gendiff.errors import ConfigError, DataError, Stopped
from gendiff.run import checkpoint
from gendiff.run.directory import Run
from gendiff.run.layers import Layer
from gendiff.training.branch import Parent


def resumed(path, *options):
    done = run("train", "--resume", path, *options, "--device", "cpu")
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of 8 steps, of which 4 are done."""
    begun = create(
        tmp_path_factory.mktemp("stopped") / "run", settings(steps=8, log_every=1, checkpoint_every=2, keep=9)
    )
    train(begun, steps=4)
    return begun.path


@pytest.fixture
def path(stopped, tmp_path):
    """The same, moved to a place of its own."""
    path = tmp_path / "run"
    shutil.copytree(stopped, path)
    info = json.loads((path / "run.json").read_text())
    info["place"]["path"] = str(tmp_path / "before")  # where nothing is any more
    (path / "run.json").write_text(json.dumps(info))
    return path


class TestOtherwise:
    OPTIONS = ("--lr", 1e-4, "--batch", 2, "--checkpoint-every", 1, "--keep", 4)

    def test_it_is_recorded_where_it_began_and_shown(self, path):
        told = resumed(path, *self.OPTIONS)
        assert "from step 4 on: train.batch 4 -> 2, train.lr 0.001 -> 0.0001" in told.err
        (change,) = Run.open(path).info["changes"]
        assert change["step"] == 4
        assert change["set"] == {"train.batch": 2, "train.lr": 1e-4, "train.checkpoint_every": 1, "train.keep": 4}
        assert change["before"] == {"train.batch": 4, "train.lr": 1e-3, "train.checkpoint_every": 2, "train.keep": 9}
        assert len(checkpoint.steps(path / "checkpoints")) == 4
        assert [row["images"] for row in rows(Run.open(path))] == [4, 8, 12, 16, 18, 20, 22, 24]
        assert "from step 4 on: train.batch 4 -> 2" in run("runs", "show", path).out
        assert "from step 4 on: train.batch 4 -> 2" in run("runs", "diff", path, path).out
        assert "| changed | from step 4 on: " in (path / "README.md").read_text()

    def test_one_history_gives_the_same_bits_however_often_it_is_stopped(self, path, tmp_path):
        other = tmp_path / "away" / "other"
        other.parent.mkdir()
        shutil.copytree(path, other)
        resumed(path, *self.OPTIONS)
        resumed(other, *self.OPTIONS, "--steps", 5)
        resumed(other, "--steps", 7)
        resumed(other, "--steps", 8)
        assert final(Run.open(path)) == final(Run.open(other))
        assert rows(Run.open(path)) == rows(Run.open(other))

    def test_the_events_go_on_where_the_larger_batches_ended(self, path):
        before = restored(Run.open(path, training=True)).batches
        resumed(path, "--batch", 2)
        after = restored(Run.open(path, training=True)).batches
        assert after.origin == (8, 24)
        order = [before.data_index(step, position) for step in (5, 6) for position in range(4)]
        after.origin = (4, 16)
        assert [after.data_index(step, position) for step in range(5, 9) for position in range(2)] == order

    def test_what_is_as_before_is_not_recorded(self, path):
        resumed(path, "--lr", 1e-3, "--batch", 4, "--set", "train.keep=9")
        assert "changes" not in Run.open(path).info

    @pytest.mark.parametrize(
        "option", [("--rotation", "dct"), ("--seed", 3), ("--ema", 0), ("--preset", "paper-bedroom")]
    )
    def test_what_would_make_another_run_is_refused_with_the_command_that_makes_it(self, path, option):
        told = run("train", "--resume", path, *option)
        assert told.code == 2
        words = shlex.split(told.err.splitlines()[-1].partition("gendiff ")[2])
        assert words == ["train", "--from", str(path), *map(str, option)]

    def test_an_end_that_is_earlier_than_planned_is_said_and_recorded(self, path):
        told = resumed(path, "--steps", 6)
        assert "it ends at step 6 from here on; 8 steps were planned" in told.err
        line = "from step 4 on: it ends at step 6, of 8 that were planned"
        assert line in run("runs", "show", path).out
        assert line in (path / "README.md").read_text()
        resumed(path, "--steps", 9)  # later than it was to end now: none of its business
        assert len(Run.open(path).info["changes"]) == 1

    def test_how_often_one_looks_is_no_other_run(self, tmp_path):
        data = ("--data", "digits", "--hold-out", 8, "--model", "mlp:width=4,depth=1", "--set", "N=20")
        few = ("--steps", 2, "--batch", 4, "--set", "train.sample_every=0", "--set", "hold_out.most=8")
        assert run("train", *data, *few, "--out", tmp_path / "r").code == 0
        resumed(tmp_path / "r", "--set", "hold_out.every=3", "--steps", 7)
        opened = Run.open(tmp_path / "r")
        assert opened.info["changes"][0]["set"] == {"hold_out.every": 3}
        assert [row["step"] for row in opened.rows() if "held_out" in row] == [2, 3, 6, 7]
        refused = run("train", "--resume", tmp_path / "r", "--set", "hold_out.seed=3", "--steps", 9)
        assert refused.code == 2
        assert "would make another of it" in refused.err

    def test_a_run_that_is_stopped_shows_where_and_has_a_card(self, tmp_path):
        begun = create(tmp_path / "run", settings(steps=8, log_every=5, checkpoint_every=5))

        def stop(trainer):
            step = trainer.train_step

            def stopping(batch):
                step(batch)
                if trainer.step == 7:
                    os.kill(os.getpid(), signal.SIGTERM)

            trainer.train_step = stopping

        with pytest.raises(Stopped):
            train(begun, prepare=stop)
        facts = run("runs", "show", begun.path, "--json").json
        assert (facts["status"], facts["step"]) == ("stopped", 7)
        (listed,) = run("runs", "list", tmp_path, "--json").json["runs"]
        assert listed["step"] == 7
        card = (begun.path / "README.md").read_text()
        assert "(stopped)" in card
        assert "| training | 7 steps of" in card

    @pytest.mark.parametrize(
        ("option", "origin"),
        [
            (("--batch", 0), "--batch"),
            (("--lr", -1), "--lr"),
            (("--set", "train.grad_clip=-2"), "--set train.grad_clip"),
            (("--sampler", "ddim:steps=-3"), "--sampler"),
        ],
    )
    def test_a_value_that_cannot_be_is_of_who_gave_it(self, path, option, origin):
        refused = run("train", "--resume", path, *option, "--steps", 9)
        assert refused.code == 2
        assert f"(from {origin})" in refused.err
        assert "config.toml" not in refused.err

    def test_back_before_a_change_the_change_is_so_from_there_on(self, path):
        resumed(path, "--lr", 1e-4, "--steps", 5)
        for step in (4, 5):
            shutil.rmtree(checkpoint.directory(path / "checkpoints", step))
        told = resumed(path)
        assert "so from step 2 on" in told.err
        assert [change["step"] for change in Run.open(path).info["changes"]] == [2]

    def test_a_change_that_was_recorded_and_never_made_is_none(self, path, monkeypatch):
        """Killed between the two files."""
        config = (path / "config.toml").read_bytes()
        begun = Run.open(path, training=True, changes=[Layer.at("", "train.lr", 1e-4)])
        monkeypatch.setattr(Run, "_write_config", lambda run: None)
        begun.go_on(4)
        monkeypatch.undo()
        assert (path / "config.toml").read_bytes() == config
        assert len(Run.open(path).info["changes"]) == 1
        resumed(path)
        assert Run.open(path).info["changes"] == []

    def test_in_python(self, path):
        gendiff.resume(path, progress=False, lr=1e-4, device="cpu")
        assert Run.open(path).info["changes"][0]["set"] == {"train.lr": 1e-4}
        with pytest.raises(ConfigError, match="seed"):
            gendiff.resume(path, progress=False, seed=3)


class TestEdited:
    def edit(self, path, old, new):
        file = path / "config.toml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def test_it_is_noticed_with_what_differs_and_what_to_do(self, path):
        self.edit(path, "lr = 0.001", "lr = 0.5")
        told = run("train", "--resume", path)
        assert told.code == 2
        assert "was edited since gendiff wrote it" in told.err
        assert "train.lr: 0.001 then, 0.5 now" in told.err
        assert f"gendiff train --from {path} --config {path / 'config.toml'}" in told.err
        assert "its config.toml was edited" in run("runs", "show", path).err
        self.edit(path, "lr = 0.5", "lr = 0.001")
        resumed(path)

    def test_other_words_for_the_same_are_no_edit(self, path):
        self.edit(path, "lr = 0.001", "# slow\nlr = 1e-3")
        resumed(path)

    def test_an_older_run_that_did_not_record_it_goes_on(self, path):
        info = json.loads((path / "run.json").read_text())
        del info["config"], info["place"]
        (path / "run.json").write_text(json.dumps(info))
        self.edit(path, "lr = 0.001", "lr = 0.002")
        resumed(path)


class TestCopies:
    def test_one_that_goes_on_beside_its_original_gets_an_id_of_its_own(self, tmp_path, stopped):
        original = create(tmp_path / "a", settings(steps=4))
        train(original, steps=2)
        shutil.copytree(original.path, tmp_path / "b")
        shown = run("runs", "show", tmp_path / "b")
        assert f"it is a copy of '{original.path}'" in shown.err
        assert "have one id" in run("runs", "list", tmp_path).err
        assert "copy" not in resumed(original.path).err
        told = resumed(tmp_path / "b")
        assert f"'{tmp_path / 'b'}' is a copy of '{original.path}'" in told.err
        one, other = (Run.open(tmp_path / name).info for name in "ab")
        assert one["id"] == original.info["id"] != other["id"]
        assert (other["from"]["id"], other["from"]["step"]) == (one["id"], 2)
        assert "copy" not in run("runs", "show", tmp_path / "b").err

    def test_one_that_is_moved_and_renamed_stays_itself(self, tmp_path):
        original = create(tmp_path / "a", settings(steps=4))
        train(original, steps=2)
        identity = original.info["id"]
        original.path.rename(tmp_path / "c")
        assert "copy" not in resumed(tmp_path / "c").err
        assert Run.open(tmp_path / "c").info["id"] == identity
        assert (tmp_path / "c" / "README.md").read_text().startswith("# c\n")

    def test_numbered_runs_of_two_folders_have_two_ids(self, tmp_path, monkeypatch):
        ids = []
        for name in "ab":
            (tmp_path / name).mkdir()
            monkeypatch.chdir(tmp_path / name)
            ids.append(create(None, settings()).info["id"])
        assert ids[0].startswith("00001-digits-identity-s0-")
        assert ids[0] != ids[1]


class TestFrom:
    def begun(self, path, out, *options, source=""):
        done = run("train", "--from", f"{path}{source}", *options, "--out", out, "--device", "cpu")
        assert done.code == 0, done.err
        return done, Run.open(out)

    def state(self, run, step):
        return checkpoint.at(run.checkpoints, step).tensors

    def test_it_begins_with_all_that_fits_and_says_so(self, path, tmp_path):
        told, child = self.begun(path, tmp_path / "child", "--lr", 1e-4, "--steps", 2, source="@4")
        theirs, ours = self.state(Run.open(path), 4), self.state(child, 0)
        for group in ("model", "ema", "optimizer"):
            assert ours[group].keys() == theirs[group].keys()
            assert all(torch.equal(ours[group][name], theirs[group][name]) for name in ours[group])
        origin = child.info["from"]
        assert (origin["id"], origin["name"], origin["step"]) == (Run.open(path).info["id"], "run", 4)
        assert (origin["weights"], origin["not_taken"]) == ("raw", [])
        digest = checkpoint.weights_hash(checkpoint.directory(path / "checkpoints", 4), "model")
        assert origin["hash"] == digest
        assert f"at step 4: its raw weights {digest}" in told.err
        assert child.config.train.batch == 4  # a setting that was left out is the parent's
        assert child.config.train.lr == 1e-4

    def test_averaged_weights(self, path, tmp_path):
        _, child = self.begun(path, tmp_path / "child", "--from-averaged", "--steps", 1)
        theirs, ours = self.state(Run.open(path), 4), self.state(child, 0)
        assert all(torch.equal(ours["model"][name], theirs["ema"][name]) for name in ours["model"])
        assert child.info["from"]["weights"] == "averaged"

    def test_what_does_not_fit_begins_anew_and_is_said(self, path, tmp_path):
        told, child = self.begun(path, tmp_path / "child", "--set", "model.depth=2", "--rotation", "dct", "--steps", 3)
        origin = child.info["from"]
        assert origin["taken"] < origin["of"]
        assert origin["not_taken"]
        assert "not taken: '" in told.err
        assert final(child)[0] == 3
        fresh = create(tmp_path / "fresh", settings("mlp:width=16,depth=2", rotation="dct"))
        theirs, ours = self.state(Run.open(path), 4)["model"], self.state(child, 0)["model"]
        anew = restored(fresh).network.state_dict()
        for name, value in ours.items():
            fits = name in theirs and theirs[name].shape == value.shape
            assert torch.equal(value, theirs[name] if fits else anew[name]), name

    def test_it_needs_its_parent_no_more_and_is_exact(self, path, tmp_path):
        options = ("--set", "model.depth=2", "--steps", 6)
        _, one = self.begun(path, tmp_path / "one", *options)
        _, other = self.begun(path, tmp_path / "other", *options[:2], "--steps", 3)
        shutil.rmtree(path)
        for folder in list((other.checkpoints).iterdir()):
            if folder.name != "step-000000000000":
                shutil.rmtree(folder)
        resumed(other.path, "--steps", 6)
        assert final(one) == final(other)

    @pytest.mark.parametrize(
        ("source", "code", "what"),
        [("@3", 4, "no checkpoint of step 3"), ("@99999", 4, "steps: 4, 2"), ("/nothing", 2, "is not a run directory")],
    )
    def test_what_is_not_there_is_said(self, path, tmp_path, source, code, what):
        told = run("train", "--from", f"{path}{source}", "--out", tmp_path / "child")
        assert (told.code, what in told.err) == (code, True), told.err
        assert not (tmp_path / "child").exists()

    def test_where_nothing_fits_it_is_refused_and_nothing_is_left(self, path, tmp_path):
        told = run(
            "train",
            "--from",
            path,
            "--model",
            "unet:channels=12,multipliers=[1],attention=[],heads=1",
            "--out",
            tmp_path / "x",
        )
        assert (told.code, "none of the weights" in told.err) == (2, True), told.err
        assert not (tmp_path / "x").exists()

    def test_a_first_step_that_fails_leaves_nothing(self, path, tmp_path, monkeypatch):
        from gendiff.training.step import Step

        def fail(*arguments):
            raise RuntimeError("no")

        monkeypatch.setattr(Step, "__call__", fail)
        assert run("train", "--from", path, "--out", tmp_path / "child").code == 1
        assert not (tmp_path / "child").exists()

    def test_not_with_resume(self, path):
        assert run("train", "--from", path, "--resume", path).code == 2
        assert run("train", "--from-averaged").code == 2

    def test_in_python(self, path, tmp_path):
        child = gendiff.train(
            "digits", from_=f"{path}@2", steps=1, out=tmp_path / "child", progress=False, device="cpu"
        )
        assert child.run.info["from"]["step"] == 2
        assert child.config.model.spec == Run.open(path).config.model.spec
        assert (child.config.N, child.config.train.batch) == (20, 4)

    def test_a_name_with_an_at_sign_is_a_name(self, path, tmp_path):
        path.rename(tmp_path / "run@7")
        assert Parent.of(tmp_path / "run@7").checkpoint.step == 4
        assert Parent.of(f"{tmp_path / 'run@7'}@2").checkpoint.step == 2

    def test_a_damaged_checkpoint_is_not_begun_from(self, path):
        file = checkpoint.directory(path / "checkpoints", 4) / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        with pytest.raises(DataError):
            Parent.of(f"{path}@4")
        assert Parent.of(path).checkpoint.step == 2

    def test_the_difference_of_the_two_says_it(self, path, tmp_path):
        self.begun(path, tmp_path / "child", "--lr", 1e-4, "--steps", 1)
        assert f"{tmp_path / 'child'}, began from run, step 4" in run("runs", "diff", path, tmp_path / "child").out
        assert run("runs", "diff", path, tmp_path / "child", "--json").json["from"][1]["step"] == 4

    def test_the_tree_is_drawn(self, path, tmp_path):
        self.begun(path, tmp_path / "child", "--lr", 1e-4, "--steps", 1)
        self.begun(tmp_path / "child", tmp_path / "grandchild", "--objective", "eps", "--steps", 1)
        shown = run("runs", "show", tmp_path / "child").out.splitlines()
        at = shown.index("run")
        assert shown[at + 1] == "└─ child, from step 4: train.lr=0.0001  <- this run"
        assert shown[at + 2].startswith("   └─ grandchild, from step 1: objective.name=eps")
        assert [entry["depth"] for entry in run("runs", "show", path, "--json").json["tree"]] == [0, 1, 2]
        self.begun(path, tmp_path / "other", "--lr", 1e-5, "--steps", 1)
        shown = run("runs", "show", tmp_path / "child").out.splitlines()
        at = shown.index("run")
        assert [line[:8] for line in shown[at + 1 : at + 4]] == ["├─ child", "│  └─ gr", "└─ other"]
