"""docs/networks.md: its network of one's own trains, and what it says of diffusers is what is read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command import run
from foreign import pipeline, unet

import gendiff

PAGE = (Path(__file__).parents[2] / "docs/networks.md").read_text()
SMALL = ("--steps", "12", "--batch", "4", "--set", "train.sample_every=0", "--device", "cpu")


def commands():
    return [
        line.removeprefix("gendiff ")
        for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("gendiff ") and "edm" not in line and "adm:" not in line  # whose files no test has
    ]


@pytest.mark.slow
def test_its_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline(tmp_path / "DIR", unet(), num_train_timesteps=50)
    load, network = re.findall(r"```py(?:thon)?\n(.*?)```", PAGE, re.DOTALL)
    Path("net.py").write_text(network)
    assert len(eval(load, {"gendiff": gendiff})) == 16
    done = []
    for number, line in enumerate(commands()):
        words = shlex.split(line.replace("pictures/", "digits"))
        if words[0] == "train":
            words += [*SMALL, "--out", f"runs/{number}"]
        if "plugins/net.py" in line:
            words = shlex.split(line.replace("runs/mine", f"runs/{number - 1}"))
        if "sample" in words:
            words += ["--n", "2", "--device", "cpu"]
        if words[0] == "evaluate":
            words += ["--n", "8", "--features", "pixels", "--sampler", "ddim:steps=2", "--device", "cpu"]
        result = run(*words)
        assert result.code == 0, f"{line}\n{result.err}"
        done.append(line)
    assert len(done) == 8
