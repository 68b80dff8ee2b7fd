"""Several averages at once, and any that is made of snapshots after training."""

from __future__ import annotations

import pytest
import torch
from runs import ALONE, CPU, UNET, asked_to_stop_in, create, digest, final, rows, settings, train
from tape import Tape

from gendiff.errors import ConfigError, Stopped
from gendiff.plugin.observers import Observers
from gendiff.run import checkpoint
from gendiff.run.layers import Layer, resolve
from gendiff.run.origin import Origin
from gendiff.run.settings import TrainSettings
from gendiff.run.trained import TrainedModel
from gendiff.training.preview import Preview
from gendiff.training.recipe import decays
from gendiff.training.trainer import Trainer

SEVERAL = {"ema": (0.9, 0.5), "posthoc": (0.05, 0.1), "snapshot_every": 2, "warmup": 0, "lr": 1e-2}


def snapshots(run):
    return {
        step: digest(checkpoint.load(checkpoint.directory(run.snapshots, step)))
        for step in checkpoint.steps(run.snapshots)
    }


def distance(one, other):
    return float(torch.cat([(one[name] - other[name]).flatten() for name in one]).norm())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = create(tmp_path_factory.mktemp("several") / "run", settings(UNET, **SEVERAL))
    train(run)
    return run


def test_each_is_the_average_that_it_would_be_alone(run, tmp_path):
    saved = checkpoint.newest(run.checkpoints).tensors
    assert set(saved) == {"model", "optimizer", "ema-0.9", "ema-0.5", "posthoc-0.05", "posthoc-0.1"}
    for decay in (0.9, 0.5):
        alone = create(tmp_path / str(decay), settings(UNET, **{**SEVERAL, "ema": decay, "posthoc": ()}))
        train(alone)
        single = checkpoint.newest(alone.checkpoints).tensors
        assert set(single) == {"model", "optimizer", "ema"}
        for name, value in single["ema"].items():
            assert torch.equal(saved[f"ema-{decay}"][name], value)
        assert not alone.snapshots.exists()


def test_previews_are_drawn_by_the_first_of_them(tmp_path):
    run = create(tmp_path / "run", settings(UNET, **SEVERAL, steps=2, checkpoint_every=2, sample_every=2))
    train(run)
    trainer = Trainer(run.config, CPU, ALONE)
    trainer.restore(checkpoint.newest(run.checkpoints))
    Preview(run, Observers())(trainer)
    made_by = Origin.of(run.preview(2))
    assert made_by.facts["weights"]["decay"] == 0.9


def test_the_decays_of_a_step():
    config = TrainSettings(ema=(0.9, 0.5), posthoc=(0.05, 0.1))
    assert decays(config, 1) == [2 / 11, 2 / 11, 0, 0]
    early, late = decays(config, 100), decays(config, 10**4)
    assert early[:2] == late[:2] == [0.9, 0.5]
    assert late[2:] == pytest.approx([(1 - 1e-4) ** 17.97, (1 - 1e-4) ** 7.94], abs=1e-6)
    assert decays(TrainSettings(ema=0), 5) == []


def test_a_run_that_is_stopped_and_recorded_keeps_all_of_them(run, tmp_path, monkeypatch):
    other = create(tmp_path / "other", settings(UNET, **SEVERAL))
    monkeypatch.setattr("gendiff.training.capture.recorder_for", lambda device: Tape())
    with pytest.raises(Stopped):
        train(other, prepare=asked_to_stop_in(8))  # where there is a snapshot too
    train(other)
    assert final(other) == final(run)
    assert rows(other) == rows(run)
    assert snapshots(other) == snapshots(run)
    assert sorted(snapshots(run)) == list(range(2, 21, 2))


def test_snapshots_of_steps_that_are_done_again_are_made_again(tmp_path):
    run = create(tmp_path / "run", settings(**SEVERAL))
    train(run, 7)
    assert checkpoint.steps(run.snapshots) == [7, 6, 4, 2]
    run.forget_after(5)
    assert checkpoint.steps(run.snapshots) == [4, 2]


def test_the_first_is_sampled_and_any_is_chosen(run):
    saved = checkpoint.newest(run.checkpoints).tensors
    for ema, group in ((True, "ema-0.9"), (False, "model"), ("0.5", "ema-0.5"), ("0.90", "ema-0.9")):
        model = TrainedModel.load(run, CPU, ema)
        assert model.weights == group
        assert all(torch.equal(value, saved[group][name]) for name, value in model.network.state_dict().items())
    trainer = Trainer(run.config, CPU, ALONE)
    trainer.restore(checkpoint.newest(run.checkpoints))
    for name, value in trainer.averaged().network.state_dict().items():
        assert torch.equal(value, saved["ema-0.9"][name])


def test_an_average_made_after_training_is_the_one_that_was_tracked(tmp_path):
    """Two widths were kept in one run; a third was tracked in another that did the same steps."""
    few, more = (
        create(tmp_path / str(len(widths)), settings(steps=64, **{**SEVERAL, "posthoc": widths}))
        for widths in ((0.05, 0.1), (0.05, 0.1, 0.15, 0.07))
    )
    for one in (few, more):
        train(one)
    saved = checkpoint.newest(more.checkpoints).tensors
    apart = distance(saved["posthoc-0.05"], saved["posthoc-0.1"])
    for width in (0.07, 0.15):
        made = TrainedModel.load(few, CPU, f"posthoc:{width}")
        assert made.weights == f"posthoc-{width}"
        assert distance(made.network.state_dict(), saved[f"posthoc-{width}"]) < 0.03 * apart
    again = TrainedModel.load(few, CPU, "posthoc:0.15")
    assert again.weights_hash == made.weights_hash
    assert again.weights_hash != TrainedModel.load(few, CPU, "posthoc:0.07").weights_hash


@pytest.mark.parametrize(
    ("ema", "said"),
    [
        ("0.7", "it has: 0.9, 0.5, posthoc:WIDTH"),
        ("fast", "it has: 0.9"),
        ("posthoc:", "the width ''"),
        ("posthoc:2", "width 2"),
    ],
)
def test_an_average_that_is_not_there_is_refused(run, ema, said):
    with pytest.raises(ConfigError) as caught:
        TrainedModel.load(run, CPU, ema)
    assert said in str(caught.value)
    assert caught.value.where == "ema"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ema": [0.9, 0.9]}, "several decays differ"),
        ({"ema": [0.9, 0]}, "none is 0"),
        ({"ema": 1.0}, "less than 1"),
        ({"ema": [0.9, 1.5]}, "less than 1"),
        ({"posthoc": [0.1]}, "of two widths or more"),
        ({"posthoc": [0.1, 0.5]}, "less than or equal to 0.28"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, said):
    with pytest.raises(ConfigError) as caught:
        resolve([Layer("the test", {"train": change})])
    assert said in str(caught.value)


def test_a_single_decay_in_a_list_is_named_after_it():
    assert TrainSettings(ema=(0.99,)).averages == {"ema-0.99": 0.99}
    assert TrainSettings(ema=0.99).averages == {"ema": 0.99}
    assert TrainSettings(ema=0.99, posthoc=(0.05, 0.1)).averaging == "EMA 0.99, post-hoc 0.05, 0.1"
    assert TrainSettings(ema=0).averaging == "EMA 0"
    assert [TrainSettings(steps=steps).snapshot_period for steps in (1, 32, 33, 2000)] == [1, 1, 2, 63]
