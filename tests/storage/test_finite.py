"""Nothing false: weights, samples and measures that are not finite are said, and never stand for a result."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import shutil
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from command import TINY, run
from gendiff_cli import console
from gendiff_cli.progress import ProgressBar
from rich.console import Console
from runs import ALONE, CPU, create, restored, settings, train

from gendiff import Features, Sampler
from gendiff.datasets import pictures
from gendiff.errors import DataError, GendiffError
from gendiff.evaluation.event_set import EventSet, _key, go_through
from gendiff.evaluation.measuring import evaluate
from gendiff.evaluation.number import Events
from gendiff.plain import json_text
from gendiff.run import checkpoint
from gendiff.run.directory import Run
from gendiff.run.generation import NotFinite, draw_grid, generate
from gendiff.run.network import build_denoiser, check_weights
from gendiff.run.trained import TrainedModel
from gendiff.storage.cache import Cache
from gendiff.training.trainer import Trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "r"
    options = ("--set", "train.checkpoint_every=2", "--set", "train.ema=0.9", "--schedule", "log", "--rotation", "dct")
    assert run("train", *TINY, *options, "--steps", 4, "--out", path).code == 0
    return path


@pytest.fixture
def here(tmp_path, monkeypatch, trained):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "r")
    return tmp_path


def spoil(path: Path, step: int, change, *groups: str, entry: str = "") -> None:
    """Save the checkpoint of ``step`` again, sealed as any other, with the first tensor of these groups changed.

    ``entry``: the first whose name ends so.
    """
    folder = checkpoint.directory(path / "checkpoints", step)
    saved = checkpoint.load(folder)
    tensors = {group: dict(named) for group, named in saved.tensors.items()}
    for group in groups:
        names = (name for name, tensor in sorted(tensors[group].items()) if tensor.numel() > 1 or entry == "step")
        name = next(name for name in names if name.endswith(entry))
        tensors[group][name] = change(tensors[group][name].clone())
    shutil.rmtree(folder)
    checkpoint.save(path / "checkpoints", checkpoint.Checkpoint(step, tensors, saved.state, saved.about), keep=9)


def with_one(value: float):
    def change(tensor):
        tensor.view(-1)[0] = value
        return tensor

    return change


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


READERS = [
    ("sample", "r", "--n", 2, "--steps", 2),
    ("evaluate", "r", "--n", 8, "--steps", 2, "--reference-n", 16),
    ("process", "likelihood", "r", "--events", 4, "--draws", 1),
    ("train", "--resume", "r", "--steps", 6),
]


class TestWeights:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
    def test_that_are_not_finite_are_refused_by_whoever_uses_them(self, command, value, here):
        spoil(here / "r", 4, with_one(value), "model", "ema")
        before = tree(here)
        done = run(*command)
        assert done.code == 4
        assert done.out == ""
        assert "the checkpoint of step 4 holds values that are not finite" in done.err
        assert "ema.safetensors: 1 of" in done.err
        assert "the checkpoint of step 2 is finite" in done.err
        assert "and the checkpoint of step 2 is used" in done.err
        assert {name for name in tree(here) if ".lock" not in name} == {name for name in before if ".lock" not in name}
        shutil.move("r/checkpoints/step-000000000004", "elsewhere")  # what it says works
        assert run(*command).code == 0

    def test_only_those_that_are_used_matter(self, here):
        spoil(here / "r", 4, with_one(math.nan), "ema")
        done = run("sample", "r", "--n", 1, "--steps", 1)
        assert done.code == 4
        assert "its raw weights, without averaging, are finite (--no-ema)" in done.err
        assert run("sample", "r", "--n", 1, "--steps", 1, "--no-ema").code == 0

    def test_no_earlier_checkpoint_is_promised_where_there_is_none(self, here):
        for step in (2, 4):
            spoil(here / "r", step, with_one(math.nan), "model", "ema")
        done = run("sample", "r", "--n", 1, "--steps", 1)
        assert done.code == 4
        assert "is finite" not in done.err
        assert "train again" in done.err

    def test_an_overflow_of_the_second_moment_is_no_reason_and_nan_is(self, here):
        spoil(here / "r", 4, with_one(math.inf), "optimizer", entry="exp_avg_sq")
        assert run("train", "--resume", "r", "--steps", 5).code == 0
        spoil(here / "r", 5, with_one(math.nan), "optimizer", entry="exp_avg_sq")
        done = run("train", "--resume", "r", "--steps", 6)
        assert (done.code, "optimizer.safetensors: 1 of" in done.err) == (4, True)

    @pytest.mark.parametrize(
        ("entry", "value"),
        [
            ("exp_avg", math.inf),
            ("exp_avg", -math.inf),
            ("step", math.inf),
            ("step", math.nan),
            ("step", -1),
            ("exp_avg_sq", -1),
        ],
    )
    def test_all_else_of_an_optimiser_is_finite_and_no_count_is_below_0(self, entry, value, here):
        spoil(here / "r", 4, with_one(value), "optimizer", entry=entry)
        done = run("train", "--resume", "r", "--steps", 5)
        assert (done.code, f".{entry}'" in done.err, "optimizer.safetensors" in done.err) == (4, True, True)
        folder = checkpoint.directory(here / "r" / "checkpoints", 4)
        with pytest.raises(DataError, match=f"no usable state of the optimiser: '.*{entry}' holds values"):
            Trainer(Run.open(here / "r", training=True).config, CPU, ALONE).restore(checkpoint.load(folder))

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
    @pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
    def test_that_are_no_floating_point_numbers_are_refused(self, command, dtype, here):
        spoil(here / "r", 4, lambda tensor: tensor.to(dtype), "model", "ema")
        done = run(*command)
        assert done.code == 4
        assert done.out == ""
        assert f"values of {str(dtype).removeprefix('torch.')}, not of float32" in done.err
        assert ".safetensors" in done.err
        assert "step" in done.err

    def test_half_precision_may_stand_for_single_and_a_count_stays_a_count(self):
        norm = torch.nn.BatchNorm1d(3).state_dict()
        check_weights(norm, {name: t.half() if t.is_floating_point() else t for name, t in norm.items()})
        with pytest.raises(DataError, match="num_batches_tracked' holds 1 values of float32, not of int64"):
            check_weights(norm, {name: t.float() for name, t in norm.items()})

    def test_every_difference_of_another_network_is_named(self):
        own = {"a": torch.zeros(2), "b": torch.zeros(3)}
        with pytest.raises(DataError, match="another network") as caught:
            check_weights(own, {"b": torch.zeros(4), "c": torch.zeros(1)}, "the file")
        assert caught.value.details == ("'b' is of shape (4,), not (3,)", "missing: 'a'", "not of this network: 'c'")
        assert caught.value.where == "the file"


@pytest.fixture
def spoiled_images(monkeypatch):
    """The images whose numbers are in the list hold a NaN, as if a sampler had made it."""
    import gendiff.run.generation as generation

    lost: list[int] = []
    noise, original = generation.ImageNoise, generation.sample
    drawn: list[list[int]] = []

    class Noted(noise):
        def __init__(self, seed, images, *rest):
            drawn.append(list(images))
            super().__init__(seed, images, *rest)

    def sample(*args, **options):
        events = original(*args, **options)
        for place, image in enumerate(drawn[-1]):
            if image in lost:
                events[place] = math.nan
        return events

    monkeypatch.setattr(generation, "ImageNoise", Noted)
    monkeypatch.setattr(generation, "sample", sample)
    return lost


class TestSamples:
    def test_those_that_are_not_finite_are_named_and_nothing_is_left(self, here, spoiled_images):
        spoiled_images += [3, 18]
        done = run("sample", "r", "--n", 20, "--steps", 2)
        assert done.code == 1
        assert done.out == ""
        assert "2 of 20 samples hold values that are not finite" in done.err
        assert "samples 3, 18 of seed 0" in done.err
        assert not list(Path("r").glob("samples/*"))
        assert not list(Path("r").glob("samples/.*"))
        given = run("sample", "r", "--n", 20, "--steps", 2, "--out", "mine")
        assert (given.code, Path("mine").exists()) == (1, False)

    def test_what_was_drawn_before_stays(self, here, spoiled_images):
        folder = Path(run("sample", "r", "--n", 2, "--steps", 2, "--json").json["folder"])
        before = tree(folder)
        spoiled_images.append(1)
        assert run("sample", "r", "--n", 2, "--steps", 2).code == 1
        assert tree(folder) == before

    def test_no_more_are_drawn_where_all_are_lost(self, spoiled_images, tmp_path):
        spoiled_images += range(1000)
        config = settings()
        denoiser = build_denoiser(config, CPU).eval()
        with pytest.raises(NotFinite, match="16 of the first 16 samples"):
            list(generate(denoiser, Run(tmp_path, config), Sampler.model_validate("ddim:steps=2"), 0, range(1000), 64))

    @pytest.mark.parametrize("batch", [1, 7, 64])
    def test_what_is_yielded_is_finite_and_what_is_said_does_not_depend_on_the_batch(
        self, batch, spoiled_images, tmp_path
    ):
        spoiled_images += [0, 21, 40]
        config = settings()
        denoiser, yielded = build_denoiser(config, CPU).eval(), list[torch.Tensor]()
        events = generate(denoiser, Run(tmp_path, config), Sampler.model_validate("ddim:steps=1"), 0, range(41), batch)
        with pytest.raises(NotFinite, match="3 of 41 samples hold") as caught:
            yielded.extend(events)
        assert not yielded
        assert "samples 0, 21, 40 of" in str(caught.value)

    def test_drawing_does_not_go_on_for_hours_where_one_is_lost(self, spoiled_images, tmp_path):
        spoiled_images += [3, 100, 5000]
        config = settings()
        denoiser = build_denoiser(config, CPU).eval()
        with pytest.raises(NotFinite, match="2 of the first 256 samples"):
            list(generate(denoiser, Run(tmp_path, config), Sampler.model_validate("ddim:steps=1"), 0, range(9999), 64))

    def test_no_distance_is_measured(self, here, spoiled_images):
        spoiled_images.append(5)
        done = run("evaluate", "r", "--n", 8, "--steps", 2, "--reference-n", 16)
        assert (done.code, done.out) == (1, "")
        assert "samples 5 of seed 0" in done.err
        assert not list(Path("r").glob("eval/*"))

    def test_no_grid_is_drawn_and_training_goes_on(self, spoiled_images, tmp_path):
        spoiled_images.append(0)
        config = settings()
        denoiser = build_denoiser(config, CPU).eval()
        with pytest.raises(NotFinite):
            draw_grid(denoiser, Run(tmp_path, config), Sampler.model_validate("ddim:steps=2"), tmp_path / "grid.png", 4)
        assert not (tmp_path / "grid.png").exists()
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            done = run("train", *TINY[:-4], "--steps", 2, "--set", "train.preview_images=4", "--out", tmp_path / "r")
        assert done.code == 0
        assert "no samples are shown of step 2: 1 of 4 samples hold values that are not finite" in done.err
        assert not list(tmp_path.glob("r/samples/*"))

    def test_finite_weights_that_overflow(self, here):
        spoil(here / "r", 4, lambda tensor: tensor * 0 + 3e38, "model", "ema")
        done = run("sample", "r", "--n", 2, "--steps", 2)
        assert (done.code, done.out) == (1, "")
        assert "2 of 2 samples hold values that are not finite" in done.err
        assert run("evaluate", "r", "--n", 8, "--steps", 2, "--reference-n", 16).code == 1

    @pytest.mark.parametrize("shape", [(1, 3, 4), (3, 3, 4), (2, 5)])
    def test_no_picture_is_made_of_them(self, shape):
        event = torch.zeros(shape)
        event.view(-1)[0] = math.inf
        with pytest.raises(GendiffError, match="values of a picture are not finite"):
            pictures.image(event)


def test_a_trained_model_is_checked_where_it_is_loaded(tmp_path):
    run_ = create(tmp_path / "r", settings(steps=4, checkpoint_every=2))
    train(run_)
    spoil(run_.path, 4, with_one(math.nan), "model")
    assert TrainedModel.load(run_, CPU).step == 4  # by the averaged weights
    for reader in (lambda: TrainedModel.load(run_, CPU, ema=False), lambda: restored(run_)):
        with pytest.raises(DataError, match="not finite") as caught:
            reader()
        assert caught.value.where.endswith("step-000000000004")


class Odd(Features):
    """Rows that are not finite where an event is all ones; elsewhere so large that their squares overflow."""

    name = "odd"

    @property
    def fingerprint(self):
        return "odd/1"

    def extract(self, x):
        rows = x.flatten(1)[:, :3].clone()
        rows[(x.flatten(1) == 1).all(1)] = math.nan
        return rows


class Huge(Odd):
    name = "huge"

    def extract(self, x):
        return x.flatten(1)[:, :3] * 1e38


def events(count: int = 40) -> torch.Tensor:
    return torch.rand(count, 1, 4, 5, generator=torch.Generator().manual_seed(1)) * 1.5 - 1


class TestMeasures:
    def test_events_that_are_not_finite_are_counted_and_named(self):
        bad = events()
        bad[7, 0, 1, 1], bad[33] = math.nan, math.inf
        for samples, reference in ((bad, events()), (events(), bad)):
            sets = (EventSet.of_tensor(samples, "samples"), EventSet.of_tensor(reference, "reference"))
            with pytest.raises(DataError, match="2 of 40 events hold values that are not finite") as caught:
                evaluate(*sets, [Features.model_validate("pixels")])
            assert "events 7, 33" in str(caught.value)
            assert caught.value.where == ("samples" if samples is bad else "reference")

    def test_features_that_are_not_finite(self):
        odd = events()
        odd[18] = 1
        sets = (EventSet.of_tensor(odd, "samples"), EventSet.of_tensor(events(), "reference"))
        with pytest.raises(GendiffError, match="the features of 1 of 16 events are not finite") as caught:
            evaluate(*sets, [Odd()])
        assert caught.value.exit_code == 1
        assert "events 18 of samples" in str(caught.value)
        assert caught.value.where == "odd"

    def test_a_distance_that_overflows_is_no_number(self):
        class Larger(Huge):
            name = "larger"

            def extract(self, x):
                return x.flatten(1)[:, :3].double() * 1e300

        sets = (EventSet.of_tensor(events(), "samples"), EventSet.of_tensor(events() / 2, "reference"))
        kept = evaluate(*sets, [Huge()], kernel=False, manifold=False)
        assert all(math.isfinite(number.value) for number in kept.numbers)
        with pytest.raises(GendiffError, match=r"is no number|not finite"):
            evaluate(*sets, [Huge()], manifold=False)  # its kernel takes the third power twice over
        with pytest.raises(GendiffError, match="not finite"):
            evaluate(*sets, [Larger()])

    def test_rows_that_were_kept_and_are_not_finite_are_computed_again(self, tmp_path):
        cache, one = Cache(tmp_path), Features.model_validate("pixels")
        of = EventSet(Events("x", "x/1", 40), (1, 4, 5), EventSet.of_tensor(events(), "x").at)
        good = go_through(of, [one], CPU, cache=cache).rows[0]
        bad = good.clone()
        bad[1] = math.nan  # and not among those that are computed again to compare
        cache.write(_key(of.about, one), {"rows": bad})
        assert torch.equal(go_through(of, [one], CPU, cache=cache).rows[0], good)

    def test_a_folder_of_arrays_with_nan(self, tmp_path):
        (tmp_path / "s").mkdir()
        signals = torch.randn(12, 1, 24, generator=torch.Generator().manual_seed(2)).numpy()
        signals[4, 0, 3] = math.nan
        for k, signal in enumerate(signals):
            np.save(tmp_path / f"s/{k:06d}.npy", signal)
        done = run("evaluate", tmp_path / "s", "--data", "gaussian-field:size=[24]", "--reference-n", 16)
        assert (done.code, done.out) == (4, "")
        assert "1 of 12 events hold values that are not finite" in done.err
        assert "events 4" in done.err

    def test_a_bound_that_is_not_finite_is_none(self, here):
        spoil(here / "r", 4, lambda tensor: tensor * 0 + 3e38, "model", "ema")
        done = run("process", "likelihood", "r", "--events", 4, "--draws", 1)
        assert (done.code, done.out) == (1, "")
        assert "the bound is not finite for 4 of 4 events" in done.err


class TestPredictions:
    @pytest.fixture
    def nan(self, monkeypatch):
        """Predicted errors are NaN for so many evaluations and fewer."""
        import gendiff.lab.prediction as prediction

        most, predict = [5], prediction.predict

        def spoiled(*args, **options):
            found = predict(*args, **options)
            return found if found.evaluations > most[0] else dataclasses.replace(found, total=math.nan)

        monkeypatch.setattr(prediction, "predict", spoiled)
        return most

    COMMAND = ("process", "predict", "--data", "digits", "--sampler", "ddim", "--steps", "5,10")

    def test_a_number_that_is_missing_has_a_name_and_is_null(self, nan):
        done = run(*self.COMMAND, "--json")
        assert done.code == 0
        few, many = strict(done.out)["predictions"]
        assert few["error"] is None
        assert many["error"] > 0
        assert "5 steps: the predicted error is not finite" in done.err
        assert "null in the JSON" in done.err
        table = run(*self.COMMAND).out
        assert "nan" not in table
        assert "-" in table

    def test_none_at_all_is_an_error(self, nan):
        nan[0] = 99
        done = run(*self.COMMAND, "--json")
        assert (done.code, done.out) == (1, "")
        assert "no predicted error is finite" in done.err

    @pytest.mark.slow
    def test_a_fit_to_nothing_finite_writes_nothing(self, monkeypatch, tmp_path):
        import gendiff.lab.fitting as fitting

        law = fitting.law

        def spoiled(*args):
            found = law(*args)
            return dataclasses.replace(found, mean=found.mean * math.nan)

        monkeypatch.setattr(fitting, "law", spoiled)
        monkeypatch.setattr(fitting, "EVALUATIONS", 8)
        out = tmp_path / "fitted.toml"
        done = run("process", "fit", "--data", "digits", "--vary", "f_max=0.1:0.3", "--rotation", "dct", "--out", out)
        assert (done.code, done.out, out.exists()) == (1, "", False)
        assert "no parameters were found for which the predicted error is finite" in done.err


def strict(text: str):
    """What a reader of JSON sees that takes no NaN."""

    def refuse(constant):
        raise AssertionError(f"not JSON: {constant}")

    return json.loads(text, parse_constant=refuse)


class TestJSON:
    VALUE: ClassVar = {"a": math.nan, "b": [1.5, -math.inf, (math.inf, "NaN")], "c": {"d": None, "e": True}}
    PLAIN: ClassVar = {"a": None, "b": [1.5, None, [None, "NaN"]], "c": {"d": None, "e": True}}

    def test_numbers_that_are_not_finite_are_null(self):
        assert strict(json_text(self.VALUE)) == self.PLAIN
        assert strict(json_text(self.VALUE, indent=1)) == self.PLAIN
        with pytest.raises(TypeError):
            json_text({"a": object()})

    @pytest.mark.parametrize("terminal", [False, True])
    def test_on_stdout_too_and_a_note_says_so(self, terminal, monkeypatch, capsys):
        text = io.StringIO()
        screen = Console(file=text, force_terminal=terminal, no_color=True, width=80)
        monkeypatch.setattr(console, "out", lambda: screen)
        console.json_result(self.VALUE)
        console.json_result({"a": (1.0,)})
        plain = re.sub("\x1b[^m]*m", "", text.getvalue())
        place = plain.index("\n{") + 1
        assert strict(plain[:place]) == self.PLAIN
        assert strict(plain[place:]) == {"a": [1.0]}
        assert capsys.readouterr().err.count("null in the JSON") == 1

    def test_in_the_files_of_a_run(self, tmp_path):
        made = create(tmp_path / "r", settings())
        made.log({"step": 1, "loss": math.nan, "loss_bands": [1.0, math.inf]})
        made.log({"step": 2, "loss": None})
        made.update(odd=math.inf)
        made.forget_after(2)
        rows = [strict(line) for line in made.metrics.read_text().splitlines()]
        assert rows == [{"step": 1, "loss": None, "loss_bands": [1.0, None]}, {"step": 2, "loss": None}]
        assert strict((tmp_path / "r/run.json").read_text())["odd"] is None
        made.write_card()
        assert "| last loss | - |" in (tmp_path / "r/README.md").read_text()


class TestRunsShowNoLoss:
    @pytest.mark.parametrize(
        "row", ['{"step": 4, "loss": null}', '{"step": 4, "loss": NaN}', '{"step": 4, "loss": Infinity}']
    )
    def test_where_there_is_none(self, here, row):
        Path("r/metrics.jsonl").write_text(row + "\n")
        listed = run("runs", "list", ".")
        assert re.search(r"done +4 +- +- +digits", listed.out)
        assert strict(run("runs", "list", ".", "--json").out)["runs"][0]["loss"] is None
        assert re.search(r"^loss +-$", run("runs", "show", "r").out, re.MULTILINE)
        assert strict(run("runs", "show", "r", "--json").out)["loss"] is None

    def test_nor_while_it_trains(self, capsys):
        bar = ProgressBar("r", 0, 2)
        for loss in (None, math.nan):
            bar.gendiff_step(2, loss, 1.0)
        assert capsys.readouterr().err.count("step 2/2  loss -  1 images/s") == 2
