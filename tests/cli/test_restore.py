"""Pictures restored, gone on from, inverted and interpolated through the command, and what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from command import TINY, run
from PIL import Image

import gendiff
from gendiff.datasets import pictures
from gendiff.operator import Operator, simulated
from gendiff.run.origin import Origin


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    path = tmp_path_factory.mktemp("restored")
    assert run("train", *TINY, "--rotation", "dct", "--schedule", "log", "--out", path / "r").code == 0
    model = gendiff.load(path / "r")
    for k in range(3):
        pictures.save(path / f"{k}.png", pictures.image(model.data[k]))
    return path


@pytest.fixture(autouse=True)
def _there(here, monkeypatch):
    monkeypatch.chdir(here)


@pytest.fixture
def model(here):
    return gendiff.load(here / "r")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "events").iterdir())}


BLUR = ("--operator", "blur:sigma=1", "--sampler", "ddim:steps=3")


class TestRestore:
    def test_pictures_a_sheet_and_numbers_are_written(self, tmp_path):
        out = tmp_path / "o"
        done = run(
            "restore", "r", "0.png", "1.png", *BLUR, "--noise", 0.05, "--simulate", "--n", 2, "--out", out, "--json"
        )
        assert done.code == 0, done.err
        assert {path.name for path in out.iterdir()} == {
            "events", "measured", "clean", "sheet.png", "restoration.json", "sample.json",
        }  # fmt: skip
        assert len(files(out)) == 4
        facts = done.json
        assert (facts["operator"], facts["noise"], facts["method"]) == ("blur", 0.05, "pigdm")
        assert len(facts["numbers"]) == 2
        assert all(row["psnr_of_mean"] >= row["psnr"] - 1e-9 for row in facts["numbers"])
        assert len(facts["spectrum"]["error"]) == 8
        assert json.loads((out / "restoration.json").read_text())["numbers"] == facts["numbers"]
        origin = Origin.of(out).facts
        assert origin["restoration"]["pictures"] == ["0.png", "1.png"]
        assert origin["command"].startswith("gendiff restore r@")
        one = Origin.of(out / "events" / "000003.png").facts
        assert (one["picture"], one["draw"]) == ("1.png", 1)
        with Image.open(out / "sheet.png") as sheet:
            assert sheet.size == (4 * 50 + 2, 2 * 50 + 2)  # measured, two draws, clean

    def test_a_guide_that_asks_another_checkpoint(self, tmp_path):
        """It has the same other models as one that guides samples."""
        weaker = ("--guide", "autoguidance:weaker=@last:raw,weight=2")
        done = run("restore", "r", "0.png", *BLUR, "--noise", 0.05, *weaker, "--out", tmp_path / "o")
        assert done.code == 0, done.err

    @pytest.mark.parametrize("method", ["pigdm", "ddrm", "dps"])
    def test_a_batch_is_the_same_picture_by_picture(self, tmp_path, method):
        more = (*BLUR, "--noise", 0.1, "--simulate", "--method", method, "--n", 2)
        assert run("restore", "r", "0.png", "1.png", "2.png", *more, "--batch", 4, "--out", tmp_path / "all").code == 0
        assert run("restore", "r", "1.png", *more, "--out", tmp_path / "one").code == 0
        together, alone = files(tmp_path / "all"), files(tmp_path / "one")
        for k in range(2):
            pair = [pictures.read_event(tmp_path / place / "events", n) for place, n in (("all", 2 + k), ("one", k))]
            assert torch.equal(*pair)
        assert len(together) == 6
        assert len(alone) == 2

    def test_it_is_what_python_draws(self, tmp_path, model):
        assert (
            run(
                "restore", "r", "0.png", "1.png", *BLUR, "--noise", 0.1, "--method", "ddrm", "--out", tmp_path / "o"
            ).code
            == 0
        )
        y = torch.stack([pictures.read_event(tmp_path / "o" / "measured", k) for k in range(2)])
        x = model.restore(y, "blur:sigma=1", 0.1, "ddrm", sampler="ddim:steps=3")
        for k in range(2):
            seen = pictures.read_event(tmp_path / "o" / "events", k)
            assert float((seen - x[k].clamp(-1, 1)).abs().max()) <= 1 / 255 + 1e-6

    def test_the_same_again_replaces_its_folder_in_the_run(self):
        first = run("restore", "r", "0.png", *BLUR, "--noise", 0.1, "--json")
        again = run("restore", "r", "0.png", *BLUR, "--noise", 0.1, "--json")
        other = run("restore", "r", "1.png", *BLUR, "--noise", 0.1, "--json")
        assert first.json["folder"] == again.json["folder"] != other.json["folder"]

    def test_pictures_of_8_bits_are_never_exact(self, tmp_path):
        done = run("restore", "r", "0.png", *BLUR, "--out", tmp_path / "o", "--json")
        assert "pictures of 8 bits are rounded" in done.err
        assert done.json["noise"] == pytest.approx(2 / 255 / 12**0.5)

    def test_arrays_are_taken_too(self, tmp_path, model):
        y = simulated(Operator("downsample"), model.data[0][None], 0.0)
        np.save(tmp_path / "y.npy", y[0].numpy())
        more = ("--operator", "downsample", "--sampler", "ddim:steps=2", "--method", "replacement:resample=1")
        done = run("restore", "r", tmp_path / "y.npy", *more, "--out", tmp_path / "o", "--json")
        assert done.code == 0, done.err
        assert done.json["noise"] == 0
        assert "rounded" not in done.err

    @pytest.mark.parametrize(
        ("words", "code", "says"),
        [
            (("0.png", "--operator", "downsample"), 2, "1x8x8 values"),
            (("0.png", "--operator", "downsample:factor=3", "--simulate"), 2, "divides every side: 2, 4, 8"),
            (("0.png", "--operator", "grey"), 2, "three"),
            (("0.png", "--operator", "mask:rectangle=[6,6,4,4]"), 2, "inside of 8x8"),
            (("0.png", "--operator", "mask:path=wide.png"), 2, "has 8x9 pixels"),
            (("0.png", "--operator", "mask:path=none.png"), 4, "none.png"),
            (("wide.png", "--operator", "identity"), 2, "1x8x9 values"),
            (("colour.png", "--operator", "identity"), 2, "give a grey picture"),
            (("text.png", "--operator", "identity"), 4, "cannot be read"),
            (("none.png", "--operator", "identity"), 4, "there is no 'none.png'"),
            (
                ("0.png", "--operator", "mask:rectangle=[0,0,2,2]", "--method", "ddrm"),
                2,
                "can: pigdm, dps, replacement",
            ),
            (("0.png", "--operator", "blur", "--method", "replacement"), 2, "leaves nothing whole"),
            (("0.png", "--operator", "blur", "--method", "cfg"), 2, "restores nothing"),
            (("0.png", "--operator", "blurr"), 2, "did you mean 'blur'"),
            (("0.png", "--operator", "blur", "--condition", "label=3"), 2, "no condition 'label'"),
            (("0.png", "--operator", "blur", "--noise", "-1"), 2, "--noise"),
            (("0.png", "--operator", "blur", "--steps", "1001"), 2, "choose between 1 and N = 1000"),
        ],
    )
    def test_what_cannot_be_is_refused_and_nothing_written(self, tmp_path, here, words, code, says):
        Image.new("L", (9, 8), 255).save("wide.png")
        Image.new("RGB", (8, 8), (200, 10, 10)).save("colour.png")
        Path("text.png").write_text("no picture")
        before = set(here.rglob("*"))
        done = run("restore", "r", *words, "--out", tmp_path / "o")
        assert done.code == code, done.err
        assert says in done.err.replace("\n", " ")
        assert len(done.err.splitlines()) < 9
        assert not (tmp_path / "o").exists()
        assert set(here.rglob("*")) == before

    def test_nothing_is_written_over(self, tmp_path):
        (tmp_path / "mine.txt").write_text("mine")
        done = run("restore", "r", "0.png", *BLUR, "--out", tmp_path)
        assert done.code == 2
        assert "not empty" in done.err
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


class TestInPython:
    def test_of_a_pair_of_functions(self, model):
        W = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
        x = torch.stack([model.data[k] for k in range(2)])
        y = x.flatten(1) @ W.T
        pair = (lambda x: x.flatten(1) @ W.T.to(x), lambda y: (y @ W.to(y)).reshape(-1, 1, 8, 8))
        drawn = [model.restore(y, A, 0.1, sampler="ddim:steps=3") for A in (pair, pair[0])]
        torch.testing.assert_close(*drawn)
        assert float((drawn[0].flatten(1) @ W.T - y).norm() / y.norm()) < 0.7

    def test_each_draw_has_a_place(self, model):
        y = torch.stack([model.data[k] for k in range(3)])
        x = model.restore(y, "identity", 0.5, "ddrm", n=2, sampler="ddim:steps=3")
        assert x.shape == (3, 2, 1, 8, 8)
        one = model.restore(y[2:], "identity", 0.5, "ddrm", n=2, sampler="ddim:steps=3")
        assert torch.equal(one[0], x[2])
        assert not torch.equal(x[0, 0], x[0, 1])

    def test_a_method_restores(self, model):
        with pytest.raises(gendiff.errors.ConfigError, match="restores nothing"):
            model.restore(torch.zeros(1, 1, 8, 8), "identity", 0.1, "cfg")


class TestGoingOn:
    def test_from_a_picture(self, tmp_path, model):
        more = ("--n", 4, "--sampler", "ddim:steps=10", "--from", "0.png", "--from", "1.png", "--strength", 0.3)
        done = run("sample", "r", *more, "--out", tmp_path / "o", "--json", "--trajectory")
        assert done.code == 0, done.err
        assert done.json["evaluations"] == 3
        x = torch.stack([pictures.eight_bits(model.data[k]) for k in range(2)])
        drawn = model.sample(4, "ddim:steps=10", source=x, strength=0.3)
        seen = torch.stack([pictures.read_event(tmp_path / "o" / "events", k) for k in range(4)])
        assert float((seen - drawn.clamp(-1, 1)).abs().max()) <= 1 / 255 + 1e-6
        assert (
            "--from 0.png --from 1.png --strength 0.3"
            in Origin.of(tmp_path / "o" / "events" / "000001.png").facts["command"]
        )
        assert torch.equal(model.sample(2, "ddim:steps=10", source=x[1:], strength=0.3), drawn[1::2])

    def test_little_noise_leaves_the_picture(self, model):
        x = model.data[0][None]
        near, far = (model.sample(1, "ddim:steps=20", source=x, strength=share) for share in (0.05, 1.0))
        assert float((near - x).square().mean()) < float((far - x).square().mean())

    @pytest.mark.parametrize(
        ("words", "code", "says"),
        [
            (("--strength", "0.5"), 2, "--from PICTURE"),
            (("--from", "0.png", "--strength", "0"), 2, "above 0"),
            (("--from", "0.png", "--strength", "1.5"), 2, "up to 1"),
            (("--from", "none.png"), 4, "none.png"),
        ],
    )
    def test_what_cannot_be_is_refused(self, tmp_path, words, code, says):
        done = run("sample", "r", *words, "--out", tmp_path / "o")
        assert done.code == code
        assert says in done.err
        assert not (tmp_path / "o").exists()


class TestPath:
    @pytest.mark.parametrize("words", [["invert", "r", "0.png"], ["interpolate", "r", "0.png", "1.png", "--n", 3]])
    @pytest.mark.parametrize("asking", [[], ["--no-ema"], ["--precision", "bf16"]])
    def test_the_recorded_command_makes_the_same_again(self, tmp_path, words, asking):
        assert run(*words, *asking, "--steps", 4, "--out", tmp_path / "o").code == 0
        command = Origin.of(tmp_path / "o").facts["command"]
        assert f" {words[0]} r@3 " in command
        assert run(*shlex.split(command)[1:], "--out", tmp_path / "again").code == 0
        assert files(tmp_path / "again") == files(tmp_path / "o")

    def test_what_is_inverted_comes_back(self, tmp_path, model):
        done = run("invert", "r", "0.png", "1.png", "--out", tmp_path / "o", "--json")
        assert done.code == 0, done.err
        x = torch.stack([pictures.eight_bits(model.data[k]) for k in range(2)])
        noise = torch.from_numpy(np.load(tmp_path / "o" / "noise.npy"))
        steps = done.json["steps"]
        torch.testing.assert_close(noise, model.invert(x, steps))
        back = model.lead_back(noise, steps)
        errors = (back - x).square().flatten(1).mean(1).sqrt().tolist()
        assert [row["round_trip"] for row in done.json["numbers"]] == pytest.approx(errors, rel=1e-4)
        assert max(errors) < 0.3
        assert {path.name for path in (tmp_path / "o").iterdir()} == {
            "events", "noise.npy", "sheet.png", "inversion.json", "sample.json",
        }  # fmt: skip

    def test_from_one_to_the_other(self, tmp_path, model):
        done = run("interpolate", "r", "0.png", "1.png", "--n", 5, "--out", tmp_path / "o", "--json")
        assert done.code == 0, done.err
        assert len(files(tmp_path / "o")) == 5
        ends = model.lead_back(model.invert(torch.stack([model.data[k] for k in range(2)]), 30), 30)
        drawn = model.interpolate(model.data[0], model.data[1], 3, 30)
        torch.testing.assert_close(drawn[[0, 2]], ends, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("along", ["spherical", "variance", "linear"])
    def test_between_two_points(self, along):
        from gendiff.run.between import between

        ends = torch.randn(2, 1, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y = between(ends, 5, along)
        torch.testing.assert_close(y[[0, 4]], ends)
        size = float(y[2].std())
        assert size == pytest.approx(0.7 if along == "linear" else 1, rel=0.05)

    def test_a_picture_of_another_size_is_refused(self, tmp_path):
        Image.new("L", (9, 8)).save(tmp_path / "wide.png")
        for words in (("invert", "r", tmp_path / "wide.png"), ("interpolate", "r", "0.png", tmp_path / "wide.png")):
            done = run(*words, "--out", tmp_path / "o")
            assert done.code == 2
            assert "1x8x9" in done.err
            assert not (tmp_path / "o").exists()
