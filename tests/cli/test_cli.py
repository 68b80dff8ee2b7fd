"""The command line: what a researcher types, right and wrong, and what comes back."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import gendiff_cli.app
import gendiff_cli.console
import numpy as np
import pytest
from command import TINY, run
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from gendiff.plugin.registry import default_registry

COMMANDS = [
    (),
    ("train",),
    ("sample",),
    ("plugins",),
    ("plugins", "list"),
    ("data",),
    ("data", "list"),
    ("config",),
    ("config", "show"),
]
GENDIFF = [sys.executable, "-m", "gendiff_cli"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A trained run; tests that write into it take a copy."""
    path = tmp_path_factory.mktemp("trained") / "r"
    assert run("train", *TINY, "--rotation", "dct", "--schedule", "log", "--out", path).code == 0
    return path


@pytest.fixture
def here(tmp_path, monkeypatch, trained):
    """An empty working folder with a trained run ``r``, and the material of mistakes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "r")
    Path("no-checkpoint").mkdir()
    for name in ("run.json", "config.toml", "process.safetensors"):
        shutil.copy(trained / name, "no-checkpoint")
    for folder in ("empty", "foreign", "texts", "bad"):
        Path(folder).mkdir()
    for file in ("foreign/keep", "texts/a.txt", "bad/x.png", "file"):
        Path(file).write_text("hello")
    return tmp_path


def tree(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} | {
        str(path.relative_to(folder)): None for path in folder.rglob("*") if path.is_dir()
    }


# --- mistakes ---------------------------------------------------------------------------------------------------------

LIST = "list all: gendiff plugins list --kind "
MISTAKES = [
    # names
    *(
        (f"train --{kind} lgoq", 2, f"unknown {kind} 'lgoq' (from --{kind})", "known: ", LIST + kind)
        for kind in ("rotation", "schedule", "velocity", "noise", "objective", "model", "data", "sampler")
    ),
    ("train --schedule lgo",
     2, "unknown schedule 'lgo' (from --schedule)\n  known: cubic, linear, log, none, quadratic, quartic, triangular\n"
     "  did you mean 'log'?\n  " + LIST + "schedule\n"),
    ("train --rotation DCT", 2, "unknown rotation 'DCT' (from --rotation)", "did you mean 'dct'?"),
    ("train --preset papr-church", 2, "unknown preset 'papr-church' (from --preset)", "did you mean 'paper-church'?"),
    ("plugins list --kind schedul", 2, "unknown kind 'schedul' (from --kind)", "did you mean 'schedule'?"),
    ("trian", 2, "unknown command 'trian'\n  known: train, import, sample,", "did you mean 'train'?\n  list all: gendiff -h\n"),
    ("runs lst", 2, "unknown command 'lst'\n  known: list,", "did you mean 'list'?\n  list all: gendiff runs -h\n"),
    ("train --sise 3",
     2, "unknown option '--sise'\n  did you mean '--size'?\n  see what it takes: gendiff train -h\n"),
    ("train --qiet", 2, "unknown option '--qiet'\n  did you mean '--quiet'?"),
    ("train -x", 2, "unknown option '-x'\n  see what it takes: gendiff train -h\n"),
    ("train --steps", 2, "option '--steps' requires an argument\n  see what it takes: gendiff train -h\n"),
    ("train --plugin", 2, "--plugin is given nothing\n  give it a value"),
    ("train x", 2, "'x' is one word too many", "usage: gendiff train [OPTIONS]\n"),
    ("plugins new a --kind schedul", 2, "unknown kind 'schedul' (from --kind)", "did you mean 'schedule'?"),
    ("plugins info dct --kind rotatoin", 2, "unknown kind 'rotatoin' (from --kind)", "did you mean 'rotation'?"),
    ("plugins check dct --kind rotatoin", 2, "unknown kind 'rotatoin' (from --kind)", "did you mean 'rotation'?"),
    # specs
    ("train --schedule log:f_max", 2, "cannot read 'f_max' in the spec 'log:f_max' (from --schedule)", "name:key=value"),
    ("train --schedule log:0.3", 2, "cannot read '0.3' in the spec 'log:0.3' (from --schedule)", "name:key=value"),
    ("train --schedule ''", 2, "--schedule is given nothing"),
    ("train --schedule log:f_max=-1", 2, "schedule 'log': f_max = -1", "greater than or equal to 0 (from --schedule)",
     "f_max: largest f"),
    ("train --schedule log:f_max=abc", 2, "f_max = 'abc'", "(from --schedule)"),
    ("train --schedule log:f_min=0.5", 2, "f_min = 0.5 is above f_max = 0.14 (from --schedule)"),
    ("train --sampler ddim:stps=3", 2, "sampler 'ddim' has no parameter 'stps' (from --sampler)", "did you mean 'steps'?"),
    ("train --schedule log:f_mx=1", 2, "its parameters: f_max, f_min", "did you mean 'f_max'?"),
    # numbers
    ("train --steps 0", 2, "steps = 0", "(from --steps)", "steps: optimiser steps"),
    ("train --batch 0", 2, "batch = 0", "(from --batch)"),
    ("train --lr -1", 2, "lr = -1.0", "greater than 0 (from --lr)", "lr: learning rate"),
    ("train --lr nan", 2, "lr = nan", "finite number (from --lr)"),
    ("train --lr inf", 2, "lr = inf", "finite number (from --lr)"),
    ("train --ema 1.5", 2, "ema = 1.5", "less than 1 (from --ema)"),
    ("train --seed -1", 2, "seed = -1", "(from --seed)"),
    ("train --precision fp64", 2, "precision = 'fp64'", "'fp32' or 'bf16' (from --precision)"),
    ("train --steps abc", 2, "'abc' is no number (from --steps)", "allowed: a whole number"),
    ("train --set train.steps=abc", 2, "steps = 'abc'", "(from --set train.steps)"),
    ("train --set foo", 2, "cannot read 'foo' (from --set)", "--set section.key=value"),
    ("train --set train.stpes=3", 2, "section 'train' has no parameter 'stpes' (from --set train.stpes)",
     "did you mean 'steps'?"),
    # things that do not fit together
    ("train --model unet:attention=[8]", 2, "attention at 1/8 resolution, which no level has (from --model)",
     "levels of this network: 1/1, 1/2"),
    ("train --data dead-leaves --size 30 --model unet:multipliers=[1,2,2]",
     2, "needs sizes divisible by 4, not 30 (from --model)", "28 or 32"),
    ("train --velocity isotropic --schedule log",
     2, "velocity 'isotropic' has no parameter 'schedule' (from --schedule)", "its parameters: noise"),
    ("train --velocity fine-to-coarse", 2, "cannot be used with rotation 'identity' (from --velocity)", "--rotation dct"),
    ("train --size abc", 2, "cannot read the size 'abc' (from --size)", "32x48"),
    ("train --size 32", 2, "data 'digits' has no parameter 'size' (from --size)", "its parameters: flip", "leave it out"),
    ("train --data dead-leaves --size 3", 2, "data 'dead-leaves'", "(from --size)"),
    # data
    ("train --data folder", 2, "data 'folder' needs 'path' (from --data)", "write --data folder:path=..."),
    ("train --data folder:path=empty", 4, "the folder is empty", "allowed: "),
    ("train --data folder:path=missing", 4, "there is no folder 'missing'"),
    ("train --data folder:path=texts", 4, "no image files among the 1 files", ".txt (1)"),
    ("train --data folder:path=bad", 4, "x.png: not an image of a known format"),
    ("train --data folder:path=file", 4, "'file' is a file, not a folder"),
    # files and folders
    ("train --out foreign", 2, "'foreign' exists and is not empty (from --out)", "choose a new directory"),
    ("train --out r", 2, "(from --out)", "gendiff train --resume r"),
    ("train --out file", 2, "'file' ", "(from --out)"),
    ("train --out file/x", 2, "cannot make the directory 'file/x'", "(from --out)"),
    ("train --out /proc/nothing/x", 2, "cannot make the directory '/proc/nothing/x'", "(from --out)"),
    ("train --config missing.toml", 2, "cannot read the configuration 'missing.toml': No such file"),
    ("train --config empty", 2, "cannot read the configuration 'empty': not a regular file"),
    ("train --config bad/x.png", 2, "'bad/x.png' is not valid TOML", "gendiff config show"),
    # resuming
    ("compare --resume r --precision bf16", 2, "--precision would change it", "(from --resume)"),
    ("compare --resume r --compile", 2, "--compile would change it", "(from --resume)"),
    ("reproduce figure4 --precision bf16", 2, "--precision would have no effect", "(from --precision)"),
    ("train --resume foreign", 2, "'foreign' is not a run directory", "run.json and config.toml"),
    ("train --resume missing", 2, "'missing' is not a run directory"),
    ("train --resume r --seed 1", 2, "--seed would make another of it (from --resume)", "train --from r --seed 1"),
    ("train --resume r --out x --set a=b", 2, "--set a, --out would make another of it", "train --from r --set a=b --out x"),
    ("train --from missing", 2, "'missing' is not a run directory"),
    ("train --from r@2", 4, "no checkpoint of step 2", "steps: 3"),
    ("train --resume r", 2, "'r' has already reached step 3 (from --resume)", "gendiff train --resume r --steps 6"),
    ("train --resume no-checkpoint", 4, "no usable checkpoint"),
    # devices
    ("train --device cuda:99", 2, "device 'cuda:99' is not there (from --device)", "--device cpu"),
    ("train --device nonsense", 2, "unknown device 'nonsense' (from --device)", "known: cpu, cuda, cuda:K"),
    ("train --device mps", 2, "device 'mps' is not supported (from --device)"),
    # sampling
    ("sample", 2, "missing argument 'RUN[@STEP]'\n  usage: gendiff sample [OPTIONS] ", "gendiff sample -h"),
    ("sample foreign", 2, "'foreign' is not a run directory"),
    ("sample file", 2, "'file' is not a run directory"),
    ("sample no-checkpoint", 4, "no usable checkpoint"),
    ("sample r --steps 0", 2, "'0' is not allowed (from --steps)", "greater than or equal to 1"),
    ("sample r --n 0", 2, "'0' is not allowed (from --n)", "greater than or equal to 1"),
    ("sample r --steps 1001", 2, "1001 sampling steps", "between 1 and N = 1000"),
    ("sample r --sampler reverse-diffusion --steps 10",
     2, "sampler 'reverse-diffusion' has no parameter 'steps' (from --steps)", "leave it out"),
    ("sample r --sampler reverse-diffusion --grid lambda",
     2, "sampler 'reverse-diffusion' has no parameter 'grid' (from --grid)", "leave it out"),
    ("sample r --grid lmbda", 2, "unknown grid 'lmbda' (from --grid)", "did you mean 'lambda'?"),
    ("sample r --prior mached", 2, "prior = 'mached'", "(from --prior)"),
    ("sample r --sampler ddim:stps=3", 2, "sampler 'ddim' has no parameter 'stps' (from --sampler)", "did you mean 'steps'?"),
    ("sample r --sampler lgo", 2, "unknown sampler 'lgo' (from --sampler)"),
    ("sample r --out foreign", 2, "'foreign' exists and is not empty (from --out)"),
    ("sample r --out file --steps 2", 2, "'file' is a file (from --out)"),
    ("sample r --out /proc/nothing/x --steps 2", 2, "cannot make the directory '/proc/nothing/x'", "(from --out)"),
    ("config show foreign", 2, "'foreign' is not a run directory"),
    ("--plugin missing.py plugins list", 3, "no plugin file 'missing.py': No such file or directory (from --plugin)"),
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[0])
def test_a_mistake_is_explained_on_one_screen_and_leaves_nothing_behind(here, mistake):
    line, code, *said = mistake
    before = tree(here)
    done = run(*shlex.split(line))
    assert done.code == code, done.err
    assert done.out == ""
    for words in said:
        assert words in done.err
    assert len(done.err.splitlines()) <= 12
    assert "Traceback" not in done.err
    assert tree(here) == before
    assert done.err.startswith("error: ")
    for quiet in (run("-q", *shlex.split(line)), run(*shlex.split(line), "-q")):
        assert quiet.err == done.err or line.endswith(("--steps", "--plugin"))  # they take -q for their value
    traced = run("-v", *shlex.split(line)).err
    assert traced.endswith(done.err)
    assert "Traceback (most recent call last)" in traced


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (RuntimeError("boom"), 1, "error: gendiff failed: RuntimeError: boom"),
        (MemoryError(), 1, "error: out of memory\n  it asks for more than this machine has"),
        (OSError(28, "No space left on device", "/x"), 1, "error: cannot write '/x': No space left on device\n  "),
        (OSError(5, "Input/output error", "/x"), 1, "error: cannot use '/x': Input/output error"),
        (RecursionError("deep"), 1, "error: gendiff failed: RecursionError: deep"),
    ],
)
def test_what_nobody_foresaw_is_one_line(monkeypatch, raised, code, said):
    def fail(*_):
        raise raised

    monkeypatch.setattr("gendiff_cli.plugins.table", fail)
    done = run("plugins", "list")
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err


# --- damaged runs -----------------------------------------------------------------------------------------------------


def damaged(content, rng):
    """One of the ways in which a file goes wrong."""
    at, way = rng.randrange(len(content)), rng.randrange(6)
    if way == 0:
        return content[:at]
    if way == 1:
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    if way == 2:
        return content[:at] + rng.randbytes(8) + content[at:]
    if way == 3:
        return content[:at] + rng.choice([b"[" * 5000, b"{" * 5000, b"9" * 5000, b'"' * 99]) + content[at:]
    if way == 4:
        lines = content.splitlines(keepends=True)
        rng.shuffle(lines)
        return b"".join(lines)
    return rng.choice([b"", b"null", b"[]", b"{}", b"\xff\xfe", b"\0" * 64, content * 300])


@pytest.mark.parametrize("file", ["config.toml", "run.json", "process.safetensors"])
@pytest.mark.parametrize("part", range(5))
def test_a_damaged_run_is_an_error_and_no_more(here, file, part):
    rng = random.Random(f"{file} {part}")
    whole = Path("r", file).read_bytes()
    for _ in range(10):
        broken = damaged(whole, rng)
        Path("r", file).write_bytes(broken)
        for line in (("config", "show", "r"), ("train", "--resume", "r", "--dry-run", "--steps", 4)):
            done = run(*line)
            assert done.code in (0, 1, 2, 3, 4), broken
            assert "Traceback" not in done.err
            said = done.err.splitlines()[int(done.err.startswith("note: ")) :]  # a note that the process is another one
            assert done.code == 0 or said[0].startswith("error: "), done.err
            assert len(done.err) < 6000
            Path("r", file).write_bytes(broken)


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_makes_a_numbered_run_with_all_that_defines_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ("train", *TINY, "--rotation", "dct", "--schedule", "log", "--set", "train.sample_every=2",
            "--set", "train.preview.steps=2", "--set", "train.log_every=2")  # fmt: skip
    done = run(*line)
    path = Path("runs/00001-digits-dct-log-s0")
    assert (done.code, done.out) == (0, f"{path}\n")
    assert f"next: gendiff sample {path}\n" in done.err
    assert "step 3/3  loss " in done.err

    info = json.loads((path / "run.json").read_text())
    assert re.fullmatch(rf"{path.name}-[0-9a-f]{{8}}", info["id"])
    assert info["status"] == "done"
    assert info["created"] <= info["ended"]
    assert info["argv"] == [str(word) for word in line]
    assert {"gendiff", "torch", "numpy"} <= info["versions"].keys()
    assert {"rotation dct", "velocity blur", "schedule log", "noise linear", "model mlp", "data digits"} <= info[
        "providers"
    ].keys()
    assert info["data"]["event_shape"] == [1, 8, 8]
    rows = [json.loads(row) for row in (path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["images"]) for row in rows] == [(2, 8), (3, 12)]
    assert {"loss", "loss_bands", "lr", "grad_norm", "images_per_s"} <= rows[0].keys()
    assert sorted(picture.name for picture in (path / "samples").iterdir()) == [
        "step-00000002.png",
        "step-00000003.png",
    ]
    assert sorted(child.name for child in (path / "checkpoints").iterdir()) == [
        "step-000000000002",  # before the preview of that step
        "step-000000000003",
    ]
    card = (path / "README.md").read_text()
    assert "| rotation | `dct` |" in card
    assert "3 steps of 4 events" in card

    again = run("train", "--config", path / "config.toml", "--seed", 7, "-h")
    assert again.code == 0
    again = run("train", "--config", path / "config.toml", "--seed", 7)
    assert again.out == "runs/00002-digits-dct-log-s7\n"
    config = [tomllib.loads(Path(run_, "config.toml").read_text()) for run_ in (str(path), again.out.strip())]
    assert config[0]["train"].pop("seed") + 7 == config[1]["train"].pop("seed")
    assert config[0] == config[1]


def test_a_dry_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("train", *TINY, "--rotation", "dct", "--dry-run")
    assert done.code == 0
    assert "nothing was written" in done.out
    assert re.search(r"^training +3 steps of 4, fp32", done.out, re.M)
    assert list(tmp_path.iterdir()) == []
    assert run("train", *TINY, "--dry-run", "--json").json["events"] == [1, 8, 8]


def test_an_empty_directory_may_be_given_and_a_run_goes_on(here):
    assert run("train", *TINY, "--out", "empty").out == "empty\n"
    done = run("train", "--resume", "empty", "--steps", 5, "--json")
    assert (done.code, done.json["steps"], done.json["status"]) == (0, 5, "done")


def test_a_schedule_without_effect_is_remarked(here):
    said = run("train", *TINY, "--schedule", "log", "--dry-run").err
    assert "schedule 'log' has no effect" in said
    assert "no effect" not in run("train", *TINY, "--dry-run").err


def test_how_speeds_are_learned_is_remarked_where_none_are(here):
    chosen = ("--set", "train.speeds.loss=trajectory", "--dry-run")
    said = run("train", *TINY, *chosen).err
    assert "velocity 'blur' learns no speeds: train.speeds has no effect" in said
    assert "no effect" not in run("train", *TINY, "--dry-run").err
    learned = ("--rotation", "dct", "--velocity", "coloured:velocity='learned:bands=3,parts=4'")
    assert "no effect" not in run("train", *TINY, *learned, *chosen).err


# --- what is written where --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        ("train", *TINY),
        ("train", *TINY, "--dry-run"),
        ("sample", "r", "--steps", 2, "-n", 2),
        ("plugins", "list"),
        ("data", "list"),
        ("config", "show"),
        ("config", "show", "r"),
        ("config", "show", "--presets"),
    ],
    ids=lambda line: " ".join(word for word in map(str, line) if word.isalpha() or word.startswith("--p")),
)
def test_results_go_to_stdout_and_the_rest_to_stderr(here, line):
    plain, as_json, quiet = run(*line), run(*line, "--json"), run("-q", *line)
    assert (plain.code, as_json.code, quiet.code) == (0, 0, 0)
    assert isinstance(as_json.json, dict)
    assert quiet.err == ""
    assert quiet.out
    assert "\x1b" not in plain.out + plain.err
    assert "--dry-run" in line or plain.err.splitlines()[-1].startswith("next: gendiff ")
    assert "next:" not in plain.out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("columns", ["40", "100"])
def test_help_is_everywhere_and_fits(command, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERMINAL_WIDTH", columns)
    short, long = run(*command, "-h"), run(*command, "--help")
    assert (short.code, short.out) == (0, long.out)
    assert short.out.lstrip().startswith(" ".join(("Usage: gendiff", *command)))
    assert max(map(cell_len, short.out.splitlines())) <= int(columns)


@pytest.mark.parametrize("line", [("plugins", "list"), ("data", "list"), ("config", "show", "--presets")], ids=" ".join)
def test_a_narrow_terminal_keeps_names_whole_and_a_pipe_keeps_lines_whole(line, monkeypatch):
    names = default_registry().presets() if "--presets" in line else default_registry().names("data")
    screen = Console(file=io.StringIO(), force_terminal=True, width=40, soft_wrap=True)
    monkeypatch.setattr(gendiff_cli.console, "out", lambda: screen)
    assert run(*line).code == 0
    shown = re.sub(r"\x1b\[[\d;]*m", "", screen.file.getvalue())
    assert all(re.search(rf"(^|\s){name}\s", shown, re.M) for name in names)
    assert max(map(cell_len, shown.splitlines())) <= 40
    monkeypatch.undo()
    piped = run(*line).out.splitlines()
    assert all(sum(bool(re.search(rf"(^|\s){name}\s", row)) for row in piped) >= 1 for name in names)
    assert not any(row.startswith(" ") for row in piped)


def test_a_reader_that_leaves_is_no_error(here):
    for line in ("config show --json", "plugins list"):
        with subprocess.Popen(
            [*GENDIFF, *line.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            process.stdout.close()
            err = process.stderr.read()
        assert "Traceback" not in err
        assert "Exception ignored" not in err
        assert process.returncode in (0, 1)


def test_colours_are_for_terminals_that_want_them():
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "40"}
    done = subprocess.run(
        [*GENDIFF, "train", "--schedule", "lgo"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown schedule 'lgo' (from --schedule)\n")
    assert "\x1b" not in done.stderr


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--preset", "digits-demo", "--rotation", "dct", "--schedule", "log:f_max=0.6"),
        (
            "--data",
            "folder:path='a, [b] \"c\" é\\n'",
            "--size",
            "32x48",
            "--set",
            "train.workers=2",
            "--sampler",
            "ddim:steps=5",
        ),
    ],
)
def test_a_shown_configuration_can_be_read_again(tmp_path, options):
    shown = run("config", "show", *options)
    (tmp_path / "again.toml").write_text(shown.out)
    assert (
        run("config", "show", "--config", tmp_path / "again.toml", "--json").json["config"]
        == run("config", "show", *options, "--json").json["config"]
    )
    assert ("# --rotation" in shown.out) == ("--rotation" in options)


def test_a_shown_configuration_names_origins(tmp_path):
    shown = run("config", "show", "--preset", "digits-demo", "--schedule", "log:f_max=0.6", "--set", "train.lr=1").out
    for line in (
        'name = "log"  # --schedule',
        "f_max = 0.6  # --schedule",
        "f_min = 0.0",
        "lr = 1.0  # --set train.lr",
        "steps = 1300  # preset digits-demo",
        "keep = 2",
    ):
        assert line in shown.splitlines()


def test_the_configuration_of_a_run_is_shown_with_its_path(trained):
    shown = run("config", "show", trained)
    assert f'name = "log"  # {trained}' in shown.out
    assert shown.err.endswith(f"next: gendiff train --config {trained}/config.toml\n")
    other = run("config", "show", "--schedule", "log:f_max=0.6", "--set", "train.lr=1")
    assert other.err == "next: gendiff train --schedule log:f_max=0.6 --set train.lr=1\n"


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_samples_are_pictures_a_grid_and_views_of_the_way(here):
    done = run("sample", "r", "-n", 3, "--sampler", "ddim:steps=4", "--trajectory", "--gif", "--json")
    assert done.code == 0
    facts = done.json
    folder = Path(facts["folder"])
    assert folder == Path("r/samples/step-00000003-ema-ddim-steps-4-seed0-n3")
    assert (facts["n"], facts["evaluations"], facts["step"], facts["weights"]) == (3, 4, 3, "ema")
    assert re.fullmatch("[0-9a-f]{12}", facts["weights_hash"])
    files = sorted(path.name for path in folder.iterdir())
    assert files == [
        "events",
        "grid.png",
        "sample.json",
        "trajectory.gif",
        "trajectory.png",
    ]  # so other tools find events alone
    events = sorted(Path(facts["events"]).iterdir())
    assert [path.relative_to(folder).as_posix() for path in events] == [f"events/00000{k}.png" for k in range(3)]
    for name in [*(name for name in files[1:] if name != "sample.json"), *events]:
        with Image.open(name if name in events else folder / name) as picture:
            picture.load()
            assert getattr(picture, "n_frames", 1) > 1 or not str(name).endswith("gif")
    raw = run("sample", "r", "-n", 3, "--sampler", "ddim:steps=4", "--no-ema", "--out", "mine", "--json").json
    assert (raw["weights"], raw["folder"]) == ("model", "mine")
    assert raw["weights_hash"] != facts["weights_hash"]


def test_an_image_does_not_depend_on_how_many_are_drawn(here):
    for out, n, batch in (("few", 3, 64), ("many", 9, 2)):
        assert run("sample", "r", "-n", n, "--batch", batch, "--steps", 3, "--seed", 5, "--out", out).code == 0
    for name in ("000000.png", "000001.png", "000002.png"):
        assert Path("few/events", name).read_bytes() == Path("many/events", name).read_bytes()
    assert run("sample", "r", "-n", 3, "--steps", 3, "--seed", 6, "--out", "other").code == 0
    assert Path("few/grid.png").read_bytes() != Path("other/grid.png").read_bytes()


def test_signals_are_sampled_as_arrays(here):
    data = ("--data", "gaussian-field:size=[24]", "--rotation", "dct", "--schedule", "log:f_max=0.6")
    assert run("train", *TINY, *data, "--out", "signal").code == 0
    folder = Path(run("sample", "signal", "-n", 2, "--steps", 3, "--trajectory", "--json").json["folder"])
    arrays = sorted(folder.glob("events/*.npy"))
    assert len(arrays) == 2
    assert np.load(arrays[0], allow_pickle=False).shape == (1, 24)
    for name in ("grid.png", "trajectory.png"):
        with Image.open(folder / name) as picture:
            picture.load()
