"""Networks that come in: imported, begun from, and made by a file of the user's."""

from __future__ import annotations

import gc
import json
import shutil

import pytest
import safetensors.torch
import torch
from command import run
from foreign import pipeline, unet
from torch import nn

import gendiff
from gendiff.run.directory import Run
from gendiff.run.module import TorchModule

TINY = ("--batch", 4, "--set", "train.sample_every=0", "--device", "cpu")
NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x, i):
        return self.layers(x)

class Mixing(Net):
    def __init__(self):
        super().__init__(1, 2)

    def forward(self, x, i):
        return self.layers(x) + x.mean()

class Other(Net):
    def __init__(self):
        super().__init__(1, 2)

    def forward(self, x):
        return self.layers(x)

def make(event_shape, width=3):
    return Net(event_shape[0], width)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline of diffusers, told of ten classes."""
    return pipeline(tmp_path_factory.mktemp("pipeline") / "a", unet(num_class_embeds=10))


@pytest.fixture(scope="module")
def came(folder, tmp_path_factory):
    """A run that was imported from it, which is gone since."""
    place = tmp_path_factory.mktemp("imported")
    gone = shutil.copytree(folder, place / "gone")
    done = run("import", f"diffusers:{gone}", "--out", place / "run")
    assert done.code == 0, done.err
    assert "145 of 145 tensors" in done.err
    shutil.rmtree(gone)
    return place / "run"


class TestImport:
    def test_it_is_a_run_of_no_step_with_the_given_weights(self, came, folder):
        (checkpoint,) = (came / "checkpoints").iterdir()
        theirs = unet(num_class_embeds=10).state_dict()
        for group in ("model", "ema-0.999" if (checkpoint / "ema-0.999.safetensors").exists() else "ema"):
            ours = safetensors.torch.load_file(checkpoint / f"{group}.safetensors")
            rows = ours.pop("inner.class_embedding.weight")
            assert torch.equal(rows[:10], theirs["class_embedding.weight"])
            assert all(torch.equal(value, theirs[name.removeprefix("inner.")]) for name, value in ours.items())
        info = Run.open(came).info
        assert (info["status"], info["from"]["step"], info["from"]["not_taken"]) == ("imported", 0, [])
        assert info["config"]["N"] == 20
        assert info["config"]["condition"] == ["label"]

    def test_it_is_sampled_and_measured_where_the_folder_is_gone(self, came):
        done = run("sample", came, "--n", 2, "--condition", "label=3", "--sampler", "ddim:steps=2", "--device", "cpu")
        assert done.code == 0, done.err
        assert "another process" not in done.err
        done = run(
            "evaluate", came, "--n", 8, "--data", "digits", "--features", "pixels", "--sampler", "ddim:steps=2",
            "--device", "cpu",
        )  # fmt: skip
        assert done.code == 0, done.err

    def test_training_needs_events(self, came):
        done = run("train", "--resume", came, "--steps", 2)
        assert done.code == 4
        assert "are not here" in done.err
        assert "--data SPEC" in done.err

    def test_a_run_begins_from_it(self, came, tmp_path):
        done = run(
            "train", "--from", came, "--data", "digits", "--rotation", "dct", "--schedule", "quartic", "--steps", 2,
            "--out", tmp_path / "next", *TINY,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert "145 of 145 tensors" in done.err

    def test_with_data_it_goes_on(self, folder, tmp_path):
        done = run("import", f"diffusers:{folder}", "--data", "digits", "--out", tmp_path / "run")
        assert done.code == 0, done.err
        done = run("train", "--resume", tmp_path / "run", "--steps", 2, *TINY[:2], "--device", "cpu")
        assert done.code == 0, done.err

    @pytest.mark.parametrize(
        ("model", "code", "what"),
        [
            ("diffusers:nowhere", 4, "there is no 'nowhere'"),
            ("unet:channels=8", 2, "names no pretrained model"),
            ("difusers:a", 2, "models that come with weights: adm, diffusers, edm"),
        ],
    )
    def test_what_is_none(self, model, code, what, tmp_path):
        done = run("import", model, "--out", tmp_path / "run")
        assert (done.code, what in done.err) == (code, True), done.err
        assert not (tmp_path / "run").exists()


class TestLoad:
    def test_a_pretrained_model_is_opened_as_it_is(self, came, folder, tmp_path, monkeypatch):
        """It draws what the run draws that it was imported into, and its folder goes when nobody holds it."""
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        model = gendiff.load(f"diffusers:{folder}", device="cpu")
        images = model.sample(2, sampler="ddim:steps=2", seed=4)
        assert torch.equal(images, gendiff.load(came, device="cpu").sample(2, sampler="ddim:steps=2", seed=4))
        (place,) = tmp_path.iterdir()
        assert not (place / "run/checkpoints").exists()
        del model
        gc.collect()
        assert not list(tmp_path.iterdir())

    def test_it_has_a_network_of_its_own(self, folder):
        with pytest.raises(gendiff.GendiffError, match="has a network of its own"):
            gendiff.load(f"diffusers:{folder}", model=nn.Identity())

    def test_nothing_is_left_where_it_cannot_be_opened(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        broken = shutil.copytree(folder, tmp_path / "broken")
        weights = broken / "unet/diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
        with pytest.raises(gendiff.GendiffError, match="cannot read the weights"):
            gendiff.load(f"diffusers:{broken}")
        assert list(tmp_path.iterdir()) == [broken]


class TestFrom:
    def test_a_folder_with_what_is_not_taken(self, folder, tmp_path):
        done = run(
            "train", "--from", f"diffusers:{folder}", "--data", "digits", "--rotation", "dct", "--schedule", "quartic",
            "--steps", 2, "--out", tmp_path / "run", *TINY,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert "not taken: 'inner.class_embedding.weight' is not in this network" in done.err
        config = Run.open(tmp_path / "run").config
        assert (config.N, config.rotation.name, config.velocity.schedule.name) == (20, "dct", "quartic")
        assert config.velocity.noise.beta_max == 0.3
        assert (tmp_path / "run/checkpoints/step-000000000000").exists()

    def test_as_a_model_all_must_fit(self, folder, tmp_path):
        done = run("train", "--model", f"diffusers:path={folder}", "--steps", 2, "--out", tmp_path / "run", *TINY)
        assert done.code == 2
        assert "not all of the weights" in done.err
        assert not (tmp_path / "run").exists()

    def test_averages_of_weights_of_one_kind(self, folder):
        done = run("train", "--from", f"diffusers:{folder}", "--from-averaged", "--steps", 2)
        assert done.code == 2
        assert "weights of one kind" in done.err


class TestFile:
    @pytest.fixture
    def file(self, tmp_path):
        file = tmp_path / "net.py"
        file.write_text(NETWORK)
        return file

    def test_a_run_of_it_opens_by_its_copy_alone(self, file, tmp_path):
        done = run(
            "train", "--model", f"module:path={file}:make,arguments={{width=5}}", "--steps", 12, "--out",
            tmp_path / "run", *TINY,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert "a Net, is called with (x, i)" in done.err
        assert f"{5 * 10 + 5 * 9 + 1} parameters" in done.err
        copy = tmp_path / "run/plugins/net.py"
        assert copy.read_text() == NETWORK
        file.write_text("raise SystemExit('never')")
        sample = ("sample", tmp_path / "run", "--n", 2, "--sampler", "ddim:steps=2", "--device", "cpu")
        done = run(*sample)
        assert done.code == 3
        assert "never executes code" in done.err
        done = run("--plugin", copy, *sample)
        assert done.code == 0, done.err

    def test_a_configuration_executes_nothing(self, file, tmp_path):
        mark = tmp_path / "mark"
        file.write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n{NETWORK}")
        config = tmp_path / "config.toml"
        config.write_text(f"[model]\nname = 'module'\npath = '{file}:make'\n")
        done = run("train", "--config", config, "--steps", 2, "--out", tmp_path / "run", *TINY)
        assert done.code == 3
        assert f"--plugin {file}" in done.err
        assert not mark.exists()
        done = run("--plugin", file, "train", "--config", config, "--steps", 2, "--out", tmp_path / "run", *TINY)
        assert done.code == 0, done.err
        assert mark.exists()

    @pytest.mark.parametrize(
        ("function", "code", "what"),
        [
            ("Mixing", 3, "depends on the other events of its batch"),
            ("Other", 3, "neither with (x, i) nor with (x, i, condition)"),
            ("mak", 3, "did you mean 'make'?"),
            ("make,arguments={depth=2}", 2, "cannot be called"),
            ("make,arguments=4", 2, "cannot read the arguments"),
        ],
    )
    def test_what_is_wrong_with_it(self, file, tmp_path, function, code, what):
        done = run(
            "train", "--model", f"module:path={file}:{function}", "--steps", 12, "--out", tmp_path / "run", *TINY
        )
        assert (done.code, what in done.err) == (code, True), done.err
        assert not (tmp_path / "run").exists()

    def test_its_spec_gives_it_again(self, file):
        given = gendiff.Model(f"module:path={file}:make,arguments={{width=5}}")
        assert gendiff.Model(given.spec) == given
        assert gendiff.Model(given.table()) == given

    @pytest.mark.parametrize("path", ["net.py", ":make", "net.py:a b"])
    def test_a_path_without_file_and_function(self, path):
        done = run("train", "--model", f"module:path={path}", "--steps", 2)
        assert done.code in (2, 3)
        assert len(done.err.splitlines()) < 8


class Idle(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.layer, self.idle = nn.Conv2d(1, 1, 1), nn.Linear(2, 2)
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()

    def forward(self, x, i):
        return self.norm(self.layer(x))


def test_a_module_in_python_is_looked_at(tmp_path, capsys):
    given = {"steps": 12, "batch": 4, "sample_every": 0, "device": "cpu"}
    gendiff.train("digits", model=Idle(norm=True), out=tmp_path / "run", **given)
    said = capsys.readouterr().err
    assert "is called with (x, i)" in said
    assert "not used: idle.weight, idle.bias" in said
    assert "in training, what the network says of an event depends on the others" in said
    assert isinstance(Run.open(tmp_path / "run").config.model, TorchModule)
    assert json.loads((tmp_path / "run/run.json").read_text())["given"]["model"]["name"] == "python-module"
