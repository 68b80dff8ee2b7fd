"""gendiff as a library: what a researcher does with a tensor, a network of their own, and no command line."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from command import TINY
from command import run as command
from places import ROOT, docs_program
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gendiff
from gendiff import (
    Data,
    Diffusion,
    Moments,
    NetworkScore,
    Objective,
    Rotation,
    Sampler,
    Velocity,
    as_data,
    sample,
)
from gendiff.component import Component
from gendiff.datasets.pictures import eight_bits, read_event
from gendiff.errors import ArgumentError, ConfigError, DataError, GendiffError, Stopped
from gendiff.machine.threads import Threads, so_many
from gendiff.plugin.registry import default_registry
from gendiff.run.directory import Run

SHAPE = (1, 8, 8)
notebooks = docs_program("notebooks")


class Net(nn.Module):
    """A network of one's own: nothing of gendiff in it."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.inner = nn.Conv2d(1, width, 3, padding=1)
        self.drop = nn.Dropout(0.2)
        self.outer = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x, i):
        return self.outer(self.drop(torch.relu(self.inner(x) + i[:, None, None, None] / 20)))


def net(width: int = 4) -> Net:
    torch.manual_seed(5)
    return Net(width)


def events(n: int = 24) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(3)) * 2 - 1


SMALL = {"N": 20, "steps": 6, "batch": 4, "sample_every": 0, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A run of a foreign module on foreign events."""
    path = tmp_path_factory.mktemp("library") / "mine"
    gendiff.train(events(), model=net(), rotation="dct", velocity="blur:schedule=log", out=path, **SMALL)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A run of the command line."""
    path = tmp_path_factory.mktemp("library") / "digits"
    done = command("train", *TINY, "--rotation", "dct", "--set", "N=20", "--out", path, "--device", "cpu")
    assert done.code == 0, done.err
    return path


class TestComponents:
    def test_an_interface_called_with_a_spec_gives_the_component(self):
        for kind in (Rotation, Velocity, Sampler, Objective, Data):
            names = default_registry().names(kind.kind)
            for name in {"dct", "blur", "ddim", "eps", "digits"} & set(names):
                made = kind(name)
                assert isinstance(made, kind)
                assert made.name == name
                assert made == kind.model_validate(name) == kind({"name": name}) == kind(name=name)
                assert kind(made) is made
                assert eval(repr(made), vars(gendiff).copy() | {kind.__name__: kind}) == made

    def test_parameters_are_of_the_spec_or_keywords(self):
        assert Sampler("ddim:steps=20") == Sampler("ddim", steps=20) == Sampler({"name": "ddim"}, steps=20)
        assert Velocity("blur:schedule=log") == Velocity("blur", schedule="log")
        cls = type(Sampler("ddim"))
        assert cls(steps=20) == cls("ddim:steps=20") == Sampler("ddim:steps=20")

    @pytest.mark.parametrize(
        ("call", "what"),
        [
            (lambda: Rotation(), "which rotation?"),
            (lambda: Objective(), "which objective?"),
            (lambda: Sampler(steps=3), "which sampler?"),
            (lambda: Rotation("nope"), "unknown rotation 'nope'"),
            (lambda: Rotation(3), "Rotation(3) names no rotation"),
            (lambda: Rotation(None), "Rotation(None) names no rotation"),
            (lambda: Rotation("dct", "haar"), "names no rotation"),
            (lambda: Rotation(Rotation("dct"), scale=1), "names no rotation"),
            (lambda: Rotation(Data("digits")), "Data('digits') is no Rotation"),
            (lambda: type(Rotation("dct"))("haar"), "Rotation('haar') is no DCT"),
            (lambda: Sampler("ddim:steps=many"), "sampler 'ddim': steps = 'many'"),
        ],
    )
    def test_what_names_none_is_an_error_that_says_so(self, call, what):
        with pytest.raises(ConfigError) as caught:
            call()
        assert what in caught.value.what
        assert caught.value.fix or caught.value.details

    def test_a_class_that_lacks_a_method_is_named_by_python(self):
        class Half(Rotation):
            name = "half"

            def rotate(self, x):
                return x

        with pytest.raises(TypeError, match="unrotate"):
            Half()

    @pytest.mark.slow
    def test_type_checkers_know_what_is_made(self, tmp_path):
        source = tmp_path / "mine.py"
        source.write_text(
            "import gendiff\n"
            "from gendiff import Diffusion, Rotation, Sampler, Velocity\n"
            "reveal_type(Rotation('dct'))\n"
            "reveal_type(Sampler('ddim', steps=20).plan(Diffusion.of('dct', Velocity('blur'), (1, 8, 8))))\n"
            "reveal_type(gendiff.load('runs/x').sample(4, seed=1))\n"
            "Rotation('dct').rotat\n"
        )
        pytest.importorskip("mypy")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "mypy",
                "--config-file",
                Path(gendiff.__file__).parents[1] / "pyproject.toml",
                source,
            ],
            capture_output=True,
            text=True,
            cwd=Path(gendiff.__file__).parents[1],
            check=False,
        )
        lines = [line.partition(": ")[2] for line in done.stdout.splitlines()]
        assert 'note: Revealed type is "gendiff.rotation.Rotation"' in lines
        assert 'note: Revealed type is "tuple[gendiff.sampler.Update, ...]"' in lines
        assert 'note: Revealed type is "torch._tensor.Tensor"' in lines
        assert [line for line in lines if line.startswith("error")] == [
            'error: "Rotation" has no attribute "rotat"; maybe "rotate" or "unrotate"?  [attr-defined]'
        ]


class TestData:
    def test_a_tensor_an_array_and_a_data_set_are_the_same_data(self):
        x = events()
        sources = [x, x.numpy(), TensorDataset(x, torch.arange(len(x))), x.double(), list(x), [(event,) for event in x]]
        made = [as_data(source) for source in sources]
        for data in made:
            assert (data.length, len(data), data.event_shape, data.value_range) == (24, 24, SHAPE, (-1.0, 1.0))
            assert data[3].dtype == torch.float32
            assert torch.equal(data[3], x[3])
        assert len({data.fingerprint for data in made}) == 1
        assert as_data(x[:23]).fingerprint != as_data(x.flip(0)).fingerprint != made[0].fingerprint

    def test_one_value_changes_the_fingerprint(self):
        x = events()
        x[17, 0, 3, 4] += 1e-3
        assert as_data(x).fingerprint != as_data(events()).fingerprint

    def test_bytes_become_pictures(self):
        x = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
        data = as_data(x)
        assert data.value_range == (-1.0, 1.0)
        assert torch.equal(data[3], x[3].float() / 127.5 - 1)
        assert data.fingerprint == as_data(x.float() / 127.5 - 1).fingerprint

    def test_a_range_is_said(self):
        x = events() * 5
        with pytest.raises(ArgumentError, match=r"outside of \[-1, 1\]") as caught:
            as_data(x)
        assert "value_range" in caught.value.fix
        assert as_data(x, value_range=(-5, 5)).value_range == (-5, 5)
        assert as_data(x, value_range=None).value_range is None
        with pytest.raises(ArgumentError, match="outside") as caught:
            as_data((x.abs() * 50).round())
        assert "x / 127.5 - 1" in caught.value.fix

    def test_values_of_0_to_1_are_noted(self):
        with pytest.warns(UserWarning, match="2 \\* x - 1"):
            as_data(events().abs())

    def test_data_and_specs_stay_what_they_are(self):
        digits = Data("digits")
        assert as_data(digits) is digits
        assert as_data("digits") == digits

    @pytest.mark.parametrize(
        ("x", "what"),
        [
            (torch.zeros(9, 8), "x has the shape (9, 8)"),
            (torch.zeros(0, 1, 8, 8), "x has the shape (0, 1, 8, 8)"),
            (torch.zeros(4, 16, 16, 3, dtype=torch.uint8), "x has the shape (4, 16, 16, 3)"),
            (torch.zeros(4, 1, 8, 8, dtype=torch.int64), "is of type int64"),
            (np.zeros((4, 1, 8, 8), complex), "is of type complex128"),
            (np.array([[["a"]]]), "is an array of type <U1"),
            (iter([torch.zeros(1, 8, 8)]), "is no source of events"),
            (3, "a int is no source of events"),
            ([], "there is no event in x"),
            ([{"image": torch.zeros(1, 8, 8)}], "event 0 is a dict, no tensor"),
            ([torch.zeros(1, 8, 8), torch.zeros(1, 8, 9)], "event 1 has the shape (1, 8, 9), event 0 (1, 8, 8)"),
        ],
    )
    def test_what_are_no_events_is_said(self, x, what):
        with pytest.raises(ArgumentError) as caught:
            as_data(x)
        assert what in str(caught.value)
        assert caught.value.details

    def test_values_that_are_not_finite_are_counted(self):
        x = events()
        x[2, 0, 0, :3] = torch.nan
        with pytest.raises(DataError, match="3 of 1,536 values of x are not finite"):
            as_data(x)

    def test_a_data_set_that_never_gives_the_same_is_refused(self):
        class Random(torch.utils.data.Dataset):
            def __len__(self):
                return 3

            def __getitem__(self, index):
                return torch.rand(SHAPE)

        with pytest.raises(DataError, match="another event 0 each time"):
            as_data(Random())

    def test_moments_of_a_tensor(self):
        x, U = events(), Rotation("dct")
        moments = Moments.fit(x, U)
        assert moments == Moments.fit(as_data(x), U)
        assert torch.allclose(moments.mean, U.rotate(x.double()).mean(0))
        assert Moments.fit(3 * x, U).count == 24


class TestOwnLoop:
    def test_twelve_lines(self, tmp_path):
        x, network = events(), net()
        data, U, objective = as_data(x), Rotation("dct"), Objective("eps")
        diffusion = Diffusion.of(U, "blur:schedule=log", data.event_shape, N=20, moments=Moments.fit(data, U))
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-2)
        losses = []
        for _ in range(8):
            for x_0 in DataLoader(data, batch_size=8, shuffle=True):
                i, eps = torch.randint(1, diffusion.N + 1, (len(x_0),)), torch.randn_like(x_0)
                loss = objective.loss(network, diffusion, x_0, i, eps).per_event.mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        model = NetworkScore(network.eval(), diffusion, "eps")
        images = sample(diffusion, model, Sampler("ddim:steps=4"), n=5, seed=1)
        assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
        assert images.shape == (5, *SHAPE)
        gendiff.pictures.sheet(images).save(tmp_path / "grid.png")
        assert (tmp_path / "grid.png").stat().st_size > 100

    def test_an_event_of_a_seed_does_not_depend_on_how_many_there_are(self):
        diffusion = Diffusion.of("dct", "blur", SHAPE, N=20)
        model = NetworkScore(net().eval(), diffusion, "eps")
        for sampler in (Sampler("ddim:steps=4"), Sampler("ancestral")):
            many = sample(diffusion, model, sampler, n=19, seed=2)
            for n in (1, 3, 16, 17):
                assert torch.equal(sample(diffusion, model, sampler, n=n, seed=2), many[:n])
            assert not torch.equal(sample(diffusion, model, sampler, n=2, seed=3), many[:2])

    def test_who_watches_sees_what_was_asked_for(self):
        diffusion = Diffusion.of("dct", "blur", SHAPE, N=20)
        model, shapes = NetworkScore(net().eval(), diffusion, "eps"), []
        sample(diffusion, model, Sampler("ddim:steps=2"), n=18, watch=lambda look: shapes.append(len(look.x_bar)))
        assert shapes == [16, 16, 16, 2, 2, 2]

    def test_how_many_is_said_once(self):
        diffusion = Diffusion.of("dct", "blur", SHAPE, N=20)
        model, sampler = NetworkScore(net().eval(), diffusion, "eps"), Sampler("ddim:steps=2")
        noise, start = (lambda: torch.zeros(2, *SHAPE)), torch.zeros(2, *SHAPE)
        for more in ({}, {"n": 2, "noise": noise}, {"n": 2, "start": start}):
            with pytest.raises(ArgumentError, match="once how many"):
                sample(diffusion, model, sampler, **more)
        for n in (0, -1, 2.5, "3"):
            with pytest.raises(ArgumentError, match="n = "):
                sample(diffusion, model, sampler, n=n)
        assert sample(diffusion, model, Sampler("ancestral"), start=start).shape == start.shape


class TestLoad:
    def test_the_same_as_the_command_draws(self, digits, tmp_path):
        words = ("--n", 5, "--seed", 3, "--sampler", "ddim:steps=4", "--out", tmp_path / "out", "--device", "cpu")
        done = command("sample", digits, *words)
        assert done.code == 0, done.err
        drawn = torch.stack([read_event(tmp_path / "out" / "events", number) for number in range(5)])
        for path in (digits, str(digits)):
            loaded = gendiff.load(path, device="cpu")
            x = loaded.sample(5, sampler="ddim:steps=4", seed=3)
            assert torch.equal(eight_bits(x), drawn)
            assert torch.equal(loaded.sample(2, sampler=Sampler("ddim:steps=4"), seed=3), x[:2])
        by_hand = sample(loaded.diffusion, loaded.score, Sampler("ddim:steps=4"), n=5, seed=3)
        assert torch.equal(by_hand, x)

    def test_what_it_says(self, digits):
        loaded = gendiff.load(digits, device="cpu")
        assert loaded.step == 3
        assert loaded.config.rotation == Rotation("dct")
        assert loaded.data == Data("digits")
        assert (loaded.diffusion.N, loaded.diffusion.event_shape) == (20, SHAPE)
        assert loaded.weights == "ema"
        raw = gendiff.load(digits, ema=False, device="cpu")
        assert raw.weights == "model"
        assert not torch.equal(raw.sample(1), loaded.sample(1))
        assert Run.open(str(digits)).info == Run.open(digits).info

    def test_a_prediction_is_in_event_space(self, digits):
        loaded = gendiff.load(digits, device="cpu")
        x_0, eps = events(3), torch.randn(3, *SHAPE)
        for i in (1, 20, torch.tensor([1, 7, 20])):
            x_i = loaded.diffusion.q_sample(x_0, i, eps)
            belief = loaded.predict(x_i, i)
            again = loaded.diffusion.q_sample(belief.x_0, i, belief.eps)
            assert torch.allclose(again, x_i, atol=1e-5)
            assert not belief.x_0.requires_grad
        with pytest.raises(ArgumentError, match="step 0 is outside"):
            loaded.predict(x_i, 0)
        assert loaded.predict(x_i.requires_grad_(), 3).x_0.requires_grad

    def test_what_is_no_run(self, tmp_path, digits):
        with pytest.raises(ConfigError, match="is not a run directory"):
            gendiff.load(tmp_path)
        with pytest.raises(ConfigError, match="unknown sampler"):
            gendiff.load(digits).sample(2, sampler="nope")
        with pytest.raises(ArgumentError, match="n = 0"):
            gendiff.load(digits).sample(0)


class TestTrain:
    def test_three_lines(self, own):
        loaded = gendiff.load(own, model=net(), data=events(), device="cpu")
        assert loaded.step == 6
        assert loaded.sample(3).shape == (3, *SHAPE)
        assert torch.equal(loaded.data[2], events()[2])
        assert [row["step"] for row in loaded.run.rows()] == [6]

    def test_the_module_itself_stays_as_it_is(self, tmp_path):
        given, before = net(), net().state_dict()
        trained = gendiff.train(events(), model=given, out=tmp_path / "r", **SMALL)
        assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
        assert not torch.equal(trained.network.outer.bias, given.outer.bias)
        assert isinstance(trained.network, Net)

    def test_the_record_says_what_it_was_given(self, own):
        given = json.loads((own / "run.json").read_text())["given"]
        assert given["model"]["module"].endswith(":Net")
        assert given["model"]["parameters"] == sum(parameter.numel() for parameter in net().parameters())
        assert given["model"]["file"] == str(Path(__file__))
        assert len(given["model"]["sha256"]) == 64
        assert given["data"]["mark"] == as_data(events()).fingerprint
        assert given["open"] == f"gendiff.load({str(own)!r}, model=net, data=x)"
        assert given["open"] in (own / "README.md").read_text()

    def test_without_the_module_it_says_what_to_pass(self, own):
        with pytest.raises(ConfigError, match="the network was given in Python") as caught:
            gendiff.load(own)
        assert "gendiff.load(RUN, model=Net(...))" in caught.value.fix
        with pytest.raises(DataError, match="belongs to another network"):
            gendiff.load(own, model=net(width=5))
        with pytest.raises(ArgumentError, match="Net is a class"):
            gendiff.load(own, model=Net)

    def test_without_the_events_it_says_what_to_pass(self, own):
        loaded = gendiff.load(own, model=net(), device="cpu")
        with pytest.raises(DataError, match="these events were given in Python") as caught:
            _ = loaded.data
        assert "data=x" in caught.value.fix
        with pytest.raises(DataError, match="these events were given in Python"):
            gendiff.resume(own, model=net(), steps=8)
        with pytest.raises(DataError, match="not those"):
            _ = gendiff.load(own, model=net(), data=events(23)).data
        with pytest.raises(ConfigError, match="have changed"):
            gendiff.resume(own, model=net(), data=events(23), steps=8)

    @pytest.mark.parametrize(
        ("settings", "remedy"),
        [
            ({"hold_out": 40}, "hold_out=2"),
            ({"hold_out": 0}, "hold_out=0.1 is a tenth of the events"),
            ({"N": 10, "device": "cuda:7"}, 'device="cpu"'),
            ({"from_": "mine@5"}, "train with keep=N"),
            ({"out": "mine"}, "model=net, data=x)"),
        ],
    )
    def test_what_is_wrong_is_mended_with_keywords(self, own, monkeypatch, settings, remedy):
        monkeypatch.chdir(own.parent)
        with pytest.raises(GendiffError) as caught:
            gendiff.train(torch.zeros(20, 1, 6, 6), **{"model": "mlp:width=8,depth=1", **SMALL, **settings})
        assert remedy in caught.value.fix
        assert "--" not in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "remedy"),
        [({"seed": 3}, "gendiff.train(x, model=net, from_="), ({"data": events(23)}, "gendiff.resume(")],
    )
    def test_a_run_of_python_goes_on_in_python(self, own, change, remedy):
        with pytest.raises(ConfigError) as caught:
            gendiff.resume(own, model=net(), **{"data": events(), **change})
        assert remedy in caught.value.fix
        assert "--" not in str(caught.value)

    def test_weights_that_are_not_kept_are_chosen_with_keywords(self, own):
        with pytest.raises(ConfigError, match="no averaged weights") as caught:
            gendiff.load(own, model=net(), ema="0.3")
        assert "ema=False" in caught.value.fix
        assert "posthoc=[0.05,0.1]" in caught.value.fix

    def test_commands_hear_of_options_of_the_same(self, own, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert "--hold-out 179" in command("train", "--hold-out", 5000).err
        assert (
            f"gendiff.train(x, model=net, from_={str(own)!r}, ...)"
            in command("train", "--resume", own, "--seed", 3).err
        )

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            (("sample",), 2),
            (("evaluate",), 2),
            (("train", "--resume"), 4),
            (("runs", "show"), 0),
            (("runs", "list"), 0),
        ],
    )
    def test_commands_on_it(self, own, words, code):
        done = command(*words, own.parent if words[1:] == ("list",) else own)
        assert done.code == code, done.err
        if code:
            assert "given in Python" in done.err
            assert "Traceback" not in done.err

    def test_stopped_and_resumed_to_the_same_bits(self, tmp_path):
        words = {**SMALL, "steps": 9, "checkpoint_every": 4, "rotation": "dct"}
        whole = gendiff.train(events(), model=net(), out=tmp_path / "whole", **words)
        gendiff.train(events(), model=net(), out=tmp_path / "parts", **{**words, "steps": 5})
        torch.manual_seed(99)  # other initial weights, which a checkpoint replaces
        parts = gendiff.resume(tmp_path / "parts", model=Net(), data=events(), steps=9, progress=False, device="cpu")
        assert runs.final(whole.run) == runs.final(parts.run)
        assert torch.equal(whole.sample(2), parts.sample(2))

    def test_a_request_to_stop_says_how_to_go_on(self, tmp_path, monkeypatch):
        from gendiff.training import library

        made = library._trainer

        def interrupted(*words):
            trainer = made(*words)
            runs.asked_to_stop_in(3)(trainer)
            return trainer

        monkeypatch.setattr(library, "_trainer", interrupted)
        path = tmp_path / "r"
        with pytest.raises(Stopped) as caught:
            gendiff.train(events(), model=net(), out=path, **SMALL)
        assert caught.value.fix == f"go on: gendiff.resume({str(path)!r}, model=net, data=x)"
        monkeypatch.undo()
        assert gendiff.resume(path, model=net(), data=events(), progress=False, device="cpu").step == 6

    def test_threads_are_of_the_run_alone_and_in_its_record(self, tmp_path):
        run = gendiff.train(events(), model=net(), out=tmp_path / "r", threads=2, **SMALL).run
        assert (run.info["threads"], torch.get_num_threads()) == (2, 1)
        with pytest.raises(ArgumentError, match="threads = 0"):
            gendiff.resume(run.path, model=net(), data=events(), steps=8, progress=False, device="cpu", threads=0)
        gendiff.resume(run.path, model=net(), data=events(), steps=8, progress=False, device="cpu", threads=3)
        assert (json.loads((run.path / "run.json").read_text())["threads"], torch.get_num_threads()) == (3, 1)

    def test_where_others_keep_the_cores_busy_it_says_so(self, tmp_path, monkeypatch):
        busy = Threads(1, "other processes keep 1.9 of 2 cores busy")
        monkeypatch.setattr("gendiff.training.library.chosen", lambda *_: busy)
        with so_many(2), pytest.warns(UserWarning, match="1 of 2 threads: other processes keep 1.9 of 2 cores busy"):
            gendiff.train(events(), model=net(), out=tmp_path / "r", **SMALL)

    def test_previews_and_progress(self, tmp_path, capsys):
        words = {**SMALL, "progress": True, "sample_every": 3, "preview": "ddim:steps=2", "preview_images": 2}
        gendiff.train(events(), model=net(), out=tmp_path / "r", **words)
        assert len(list((tmp_path / "r" / "samples").glob("step-*.png"))) == 2
        told = capsys.readouterr()
        assert "step 6/6  loss" in told.err
        assert told.out == ""

    def test_it_says_what_the_command_says(self, tmp_path, capsys):
        settings = {**SMALL, "model": "mlp:width=8,depth=1", "hold_out": 20, "progress": True}
        trained = gendiff.train("digits", out=tmp_path / "a", **settings)
        said = capsys.readouterr().err.splitlines()
        words = ("--hold-out", 20, "--set", "N=20", "--device", "cpu", "--out", tmp_path / "b")
        done = command("train", *TINY, "--steps", 6, "--sampler", trained.config.sampler.spec, *words)
        assert done.code == 0, done.err
        theirs = [" ".join(line.split()) for line in done.err.splitlines()]
        for what in ("objective", "loss", "sampler", "process", "data", "network"):
            [line] = [" ".join(line.split()) for line in said if line.startswith(f"{what} ")]
            assert line.replace('objective="eps"', "--objective eps") in theirs
        assert any("1 is that of the best linear guess" in line for line in said)
        assert any(re.match(r"held out +20 of 1,797 events", line) for line in said)
        [point] = trained.curve
        assert any(f"held-out loss {point.held_out:.4f}  training {point.training:.4f}" in line for line in said)
        assert said[-1].startswith(f"held-out loss {point.held_out:.4f}")

    def test_it_is_silent_where_nobody_listens(self, tmp_path, capsys):
        trained = gendiff.train(events(), model=net(), hold_out=4, out=tmp_path / "r", **SMALL)
        assert capsys.readouterr().err == ""
        assert [point.step for point in trained.curve] == [6]

    def test_samples_are_not_clipped(self, own):
        images = gendiff.load(own, model=net()).sample(8, sampler="ddim:steps=5,clip=false")
        assert images.abs().max() > 1.01  # what a file cannot hold
        assert "clamp" in (ROOT / "docs" / "library.md").read_text()

    def test_settings_that_do_not_fit(self, tmp_path):
        with pytest.raises(ConfigError, match="no parameter 'stepz'"):
            gendiff.train(events(), model=net(), out=tmp_path / "r", stepz=3)
        with pytest.raises(ConfigError, match="unknown rotation") as caught:
            gendiff.train(events(), model=net(), rotation="nope", out=tmp_path / "r")
        assert caught.value.where == "gendiff.train"
        assert not (tmp_path / "r").exists()

    def test_a_network_that_fails_leaves_no_directory(self, tmp_path):
        class Broken(Net):
            def forward(self, x, i):
                return x, i

        with pytest.raises(GendiffError, match="returned a tuple"):
            gendiff.train(events(), model=Broken(), out=tmp_path / "r", **SMALL)
        assert not (tmp_path / "r").exists()


class TestNames:
    def test_they_are_listed_once_and_lead_somewhere(self):
        stub = ast.parse(Path(gendiff.__file__).with_suffix(".pyi").read_text())
        names = [alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
        assert sorted(names) == gendiff.__all__
        assert set(names) <= set(dir(gendiff))
        assert "Rotation" in dir(gendiff)
        for name in names:
            assert getattr(gendiff, name).__doc__, name
        with pytest.raises(AttributeError, match="no attribute 'nope'"):
            _ = gendiff.nope

    def test_importing_gendiff_does_not_import_torch(self):
        code = "import sys, gendiff; dir(gendiff); gendiff.Component; early = 'torch' in sys.modules; "
        code += "gendiff.pictures.sheet, gendiff.formula.exp; sys.exit(early)"  # modules are public names too
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_every_component_is_shown_as_it_is_written(self):
        for entry in default_registry().entries():
            cls = entry.load()
            # A mask needs one of two parameters, neither of which is required by itself.
            if not any(info.is_required() for info in cls.model_fields.values()) and entry.name != "mask":
                interface = next(
                    base for base in cls.__mro__ if base.kind and not base.name and base.__base__ is Component
                )
                assert repr(cls()) == str(cls()) == f"{interface.__name__}({entry.name!r})"

    def test_nothing_is_shown_by_its_address(self, digits):
        loaded = gendiff.load(digits, device="cpu")
        diffusion, x = loaded.diffusion, events(2)
        shown = [
            *(
                loaded,
                diffusion,
                diffusion.scales,
                diffusion.moments,
                diffusion.at(3),
                diffusion.at(torch.tensor([1, 2])),
            ),
            *(diffusion.kernel(2, 1), diffusion.posterior(2, 1), loaded.denoiser, loaded.score, loaded.run),
            *(loaded.config, as_data(x), loaded.predict(x, 3), loaded.score.predict(x, 3)),
            *Sampler("dpmpp-2m:steps=3").plan(diffusion),
        ]
        for thing in shown:
            text = repr(thing)
            assert type(thing).__name__ in text
            assert " at 0x" not in text
            assert "tensor(" not in text
        assert repr(shown[-2]) == "Update(2 -> 1: p x + q x_0 + q x_0')" or "->" in repr(shown[-2])
        assert (
            repr(diffusion)
            == "Diffusion(Rotation('dct'), BlurScales, events (1, 8, 8), N=20, Moments(of 1,797 events))"
        )


class TestNotebooks:
    """Cell by cell, in this process, with settings of seconds."""

    SETTINGS = {"STEPS": 2, "N": 60, "EVENTS": 4}

    @staticmethod
    def kinds(cell) -> list[str]:
        """What the outputs of a cell are."""
        return [kind for output in cell.get("outputs", ()) for kind in output.get("data", {"text": ""})]

    @pytest.mark.parametrize("name", ["first-blur-diffusion", "process-of-your-own"])
    def test_it_runs_and_leaves_what_it_shows(self, name, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        cells = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        kept = [self.kinds(cell) for cell in cells]

        def smaller(code):
            for setting, value in self.SETTINGS.items():
                code = re.sub(rf"(?m)^{setting} = \d+", f"{setting} = {value}", code)
            return re.sub(r'"unet:[^"]*"', '"mlp:width=8,depth=1"', code)

        names = notebooks.execute(cells, smaller)
        assert [self.kinds(cell) for cell in cells] == kept, "run `make notebooks`"
        assert sum("image/png" in kinds for kinds in kept) >= 5
        assert (names["STEPS"], names["N"], names["EVENTS"]) == (2, 60, 4)
        assert len(list((tmp_path / "runs").iterdir())) == 2

    @pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
    def test_it_is_a_notebook(self, path):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
        ids = [cell["id"] for cell in notebook["cells"]]
        assert len(set(ids)) == len(ids) > 10
        assert str(ROOT) not in path.read_text(encoding="utf-8")
        for cell in notebook["cells"]:
            for target in (
                re.findall(r"\]\(([^)#]+)", "".join(cell["source"])) if cell["cell_type"] == "markdown" else ()
            ):
                assert target.startswith("http") or (path.parent / target).exists(), target
