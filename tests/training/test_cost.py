"""Cost: what is said of memory, time and disk before a run is what it takes, and asking changes nothing."""

from __future__ import annotations

import math
import tomllib
from types import SimpleNamespace

import pytest
import torch
from command import run
from runs import ALONE, CPU, MLP, UNET, create, digest, settings
from torch import nn

from gendiff.machine.memory import resident
from gendiff.run.directory import Run
from gendiff.training import cost
from gendiff.training.cost import Disk, Pace, rehearse, step_memory
from gendiff.training.loop import fit
from gendiff.training.preview import Preview
from gendiff.training.trainer import Trainer


def trainer(model=MLP, **train):
    return Trainer(settings(model, **train), CPU, ALONE)


def test_asking_for_memory_leaves_a_trainer_as_it_was():
    """Weights, buffers, moments and the stream of dropout: the run is the same to the bit."""
    config = settings(f"{UNET[:-1]}1,dropout=0.3", batch=4)
    asked, other = Trainer(config, CPU, ALONE), Trainer(config, CPU, ALONE)
    before = torch.get_rng_state()
    assert step_memory(asked).peak > 0
    assert torch.equal(torch.get_rng_state(), before)
    for one in (asked, other):
        for step in (1, 2):
            one.train_step(one.batches[step])
        assert step_memory(one)
    assert digest(asked.checkpoint({})) == digest(other.checkpoint({}))


def test_memory_grows_with_the_batch_by_what_an_event_keeps():
    """Of an MLP of one hidden layer that can be counted by hand: what backward needs of one event, and no weight."""
    peaks = {}
    for batch in (4, 8, 1024):
        one = trainer(batch=batch)
        begin = resident()
        peaks[batch] = step_memory(one).peak - begin
    event = (peaks[1024] - peaks[4]) / 1020
    assert 4 * 64 * 4 <= event <= 16 * 64 * 4  # several tensors of 64 numbers, of 4 bytes each
    weights = 4 * trainer().weights.size
    assert peaks[4] == pytest.approx(3 * weights + 4 * event, abs=2**20)  # gradients and moments; memory moves by pages


def test_once_adam_holds_its_moments_they_are_not_counted_again(monkeypatch):
    monkeypatch.setattr(cost, "resident", lambda: 0)
    one = trainer()
    before = step_memory(one).peak
    one.train_step(one.batches[1])
    assert before - step_memory(one).peak == 2 * 4 * one.weights.size


def test_a_network_that_cannot_be_tried_is_said_at_its_first_step_not_before():
    class Broken(nn.Module):
        def forward(self, x, i):
            raise SystemExit(3)

    one = trainer()
    one.network = Broken()
    assert step_memory(one) is None


def test_data_that_cannot_be_read_are_said_at_the_first_step(monkeypatch):
    one = trainer()
    monkeypatch.setattr(type(one.batches), "__getitem__", lambda *_: (_ for _ in ()).throw(SystemExit(3)))
    assert cost.first_batch(one) is None
    assert step_memory(one) is None


def test_a_network_that_is_copied_is_not_the_one_that_counts():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.calls = 0
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x, i):
            self.calls += 1
            self.seen += 1
            return self.weight * x

    one = trainer()
    one.network = Counting()
    assert step_memory(one)
    assert (one.network.calls, float(one.network.seen), one.network.weight.grad) == (0, 0.0, None)


def test_a_shortage_of_memory_is_said_before_anything_is_made(monkeypatch):
    def refuse(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(cost, "_kept", refuse)
    with pytest.raises(Exception, match="a step on 4 events with a network of ") as told:
        step_memory(trainer())
    assert "--batch" in told.value.fix


@pytest.mark.parametrize(
    ("model", "train"),
    [
        (MLP, {"steps": 20, "checkpoint_every": 5, "sample_every": 0}),
        (MLP, {"steps": 7, "checkpoint_every": 1000, "sample_every": 3, "keep": 5, "ema": 0, "log_every": 1}),
        (UNET, {"steps": 6, "checkpoint_every": 4, "sample_every": 6, "keep": 1}),
    ],
)
def test_what_a_run_will_keep_is_what_it_keeps(tmp_path, model, train):
    config = settings(model, **train)
    path = create(tmp_path / "r", config)
    one = Trainer(config, CPU, ALONE)
    disk = Disk.of(one)
    with path.lock():
        fit(path, one, preview=lambda t: Preview(path, _nobody())(t))
    path.write_card()
    checkpoints = sorted(path.checkpoints.iterdir())
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in checkpoints]
    assert len(checkpoints) == disk.checkpoints
    assert all(size == pytest.approx(disk.checkpoint, abs=700) for size in sizes)
    assert len(list(path.samples.iterdir())) == disk.previews if path.samples.is_dir() else disk.previews == 0
    assert len(path.rows()) == disk.rows
    all_files = sum(file.stat().st_size for file in path.path.rglob("*") if file.is_file())
    assert disk.total == pytest.approx(all_files, rel=0.05, abs=6000)
    assert disk.peak == disk.total + disk.checkpoint


def _nobody():
    from gendiff.plugin.observers import Observers

    return Observers()


def test_what_is_left_of_a_run_is_counted_from_where_it_stands():
    one = trainer(steps=20, sample_every=5, log_every=3)
    whole = Disk.of(one)
    one.first_step = one.step = 10
    rest = Disk.of(one)
    assert (whole.previews, rest.previews) == (4, 2)
    assert (whole.rows, rest.rows) == (7, 4)


def test_a_rehearsal_takes_steps_and_its_sum_has_previews_and_the_first_step(monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    one = trainer(steps=100, sample_every=40)
    pace = rehearse(one)
    assert one.step == 2 + pace.measured == 2 + cost.LEAST
    assert pace.step > 0
    assert pace.evaluation > 0
    assert Pace(7.0, 2.0, 3, 0.5).seconds(one) == 7 + 100 * 2 + 3 * 3 * 0.5  # after 40, 80, 100: ddim with 3 steps
    one.first_step = 60
    assert Pace(7.0, 2.0, 3, 0.5).seconds(one) == 7 + 40 * 2 + 2 * 3 * 0.5
    assert rehearse(trainer(sample_every=0)).evaluation == 0


def test_slow_steps_are_taken_twice_and_no_more(monkeypatch):
    moments = iter(range(0, 10_000, 6))
    own = SimpleNamespace(perf_counter=lambda: float(next(moments)))  # others read the clock in a step too
    monkeypatch.setattr(cost, "time", own)
    one = trainer(sample_every=0)
    assert rehearse(one) == Pace(0.0, 6.0, 1, 0.0)
    assert one.step == 2


class TestCommand:
    SMALL = ("--model", MLP, "--batch", 4, "--steps", 30, "--set", "train.sample_every=0")

    def test_a_dry_run_says_hours_memory_and_bytes(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        facts = run("train", *self.SMALL, "--dry-run", "--json").json
        assert list(tmp_path.iterdir()) == []
        assert facts["hours"] == facts["seconds"] / 3600 > 0
        assert facts["memory"]["peak"] > 2**20
        assert facts["memory"]["measured"]
        done = run("train", *self.SMALL, "--out", "r", "--json").json
        files = sum(file.stat().st_size for file in (tmp_path / "r").rglob("*") if file.is_file())
        assert facts["disk"]["total"] == pytest.approx(files, rel=0.1)
        same = facts.keys() & done["start"].keys() - {"cores_others_use", "memory"}
        assert len(same) > 20
        assert all(facts[key] == done["start"][key] for key in same)

    def test_a_dry_run_of_a_run_that_goes_on_is_of_the_rest_and_changes_nothing(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert run("train", *self.SMALL, "--out", "r").code == 0
        before = {file: file.read_bytes() for file in (tmp_path / "r").rglob("*") if file.is_file()}
        told = run("train", "--resume", "r", "--steps", 50, "--dry-run").out
        assert "training           steps 31 to 50 of 4" in told
        assert {file: file.read_bytes() for file in (tmp_path / "r").rglob("*") if file.is_file()} == before

    def test_what_is_trained_stands_before_the_first_step_and_what_came_of_it_at_the_end(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        done = run("train", *self.SMALL, "--objective", "eps", "--out", "r", "--set", "train.sample_every=30")
        lines = done.err.splitlines()
        start = next(k for k, line in enumerate(lines) if line.startswith("step "))
        said = dict(line.split(maxsplit=1) for line in lines[:start] if not line.startswith("note: "))
        assert said["objective"] == "eps: predict ε, weight 1 (the paper's eq. 18)"
        assert said["loss"].startswith(
            "1 is that of an output of 0, which knows nothing of the noise; on the first batch"
        )
        assert said["sampler"].startswith(
            "trig:steps=50,solver=ab2: 50 evaluations of the network on the grid arc-length"
        )
        assert said["process"] == "identity with velocity blur, N = 1,000: all components at one speed, as in DDPM"
        assert said["training"] == "30 steps of 4, fp32, lr 0.001, on cpu"
        assert said["memory"].startswith("about ")
        assert any(reason in said["threads"] for reason in ("this process may use", "=", "as torch was told"))
        columns = {len(line) - len(line.split(maxsplit=1)[1]) for line in lines[:start] if not line.startswith("note")}
        assert len(columns) == 1  # aligned
        timed = [line for line in lines if line.startswith("time  about ")]
        assert len(timed) == 1
        assert "for the 20 steps to come" in timed[0]
        assert lines.index(timed[0]) > start
        end = dict(line.split(maxsplit=1) for line in lines[-5:])
        assert end["done"].startswith("30 steps of 4 in ")
        last = Run.open(tmp_path / "r").last_training_row()["loss"]
        assert end["loss"] == f"{last:.4f}, where 1 is that of an output of 0, which knows nothing of the noise"
        assert end["samples"] == "r/samples/step-00000030.png"
        assert end["checkpoint"] == "r/checkpoints/step-000000000030"
        assert end["next:"] == "gendiff sample r"
        assert run("train", *self.SMALL, "--out", "q", "-q").err == ""

    def test_the_end_is_in_the_json(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        facts = run("train", *self.SMALL, "--out", "r", "--json").json
        assert (facts["steps_taken"], facts["samples"]) == (30, None)
        assert facts["checkpoint"] == "r/checkpoints/step-000000000030"
        assert facts["images_per_s"] == pytest.approx(120 / facts["seconds"])
        assert math.isfinite(facts["start"]["memory"]["peak"])
        assert facts["start"]["loss_of_nothing"] == pytest.approx(1, abs=0.5)
        on = run("train", "--resume", "r", "--steps", 34, "--json").json
        assert (on["steps_taken"], on["start"]["from_step"]) == (4, 30)
        assert tomllib.loads((tmp_path / "r" / "config.toml").read_text())["train"]["steps"] == 34
