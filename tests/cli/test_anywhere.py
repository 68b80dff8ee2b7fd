"""Options of gendiff itself mean the same wherever they stand in a line, and help says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from command import run
from gendiff_cli.app import app
from gendiff_cli.commands import EVERYWHERE, Announced, options_first

from gendiff.errors import ConfigError

ROOT = typer.main.get_command(app)
OWN = """
from gendiff import BlurSchedule, hookimpl

class Mine(BlurSchedule):
    "f(i) = f_max."
    name = "mine"
    def f(self, i, N):
        return 0.1 * i / N

@hookimpl
def gendiff_components():
    return [Mine]
"""


def commands(command=ROOT, path=()):
    """Every command, by its words."""
    command = command.itself if isinstance(command, Announced) else command
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, (*path, name))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my plugin.py").write_text(OWN)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "same"),
    [
        (["train", "-q"], ["-q", "train"]),
        (["runs", "-v", "list", "-q"], ["-v", "-q", "runs", "list"]),
        (["train", "--plugin", "x.py", "--steps", "3"], ["--plugin", "x.py", "train", "--steps", "3"]),
        (["train", "--plugin=x.py", "--block=a"], ["--plugin=x.py", "--block=a", "train"]),
        (["--plugin", "a", "train", "--plugin", "b"], ["--plugin", "a", "--plugin", "b", "train"]),
        (["data", "info", "--", "-q"], ["data", "info", "--", "-q"]),
        (["train", "--block", "-q"], ["--block", "-q", "train"]),
        (["sample", "r", "--no-plugins", "-n", "3"], ["--no-plugins", "sample", "r", "-n", "3"]),
    ],
)
def test_they_are_read_as_if_they_stood_first(line, same):
    assert options_first(ROOT.params, line) == same
    assert options_first(ROOT.params, same) == same


@pytest.mark.parametrize("option", ["--plugin", "--block"])
def test_one_without_its_value_does_not_take_the_command_for_it(option):
    with pytest.raises(ConfigError, match=f"{option} is given nothing"):
        options_first(ROOT.params, ["train", option])


def test_no_command_has_an_option_of_its_own_that_is_called_like_one_of_these():
    own = {name for parameter in ROOT.params for name in parameter.opts}
    assert {"-q", "-v", "--plugin", "--no-plugins", "--block", "--version"} <= own
    for path, command in commands():
        if path:
            assert not own & {name for parameter in command.params for name in parameter.opts}, path


def test_a_plugin_after_the_command_is_there_and_in_the_next_command(here):
    for line in (
        ("config", "show", "--rotation", "dct", "--schedule", "mine", "--plugin", "my plugin.py"),
        ("config", "--plugin", "my plugin.py", "show", "--rotation", "dct", "--schedule", "mine"),
        ("--plugin", "my plugin.py", "config", "show", "--rotation", "dct", "--schedule", "mine"),
    ):
        done = run(*line)
        assert done.code == 0, done.err
        assert 'name = "mine"' in done.out
        assert done.err == "next: gendiff --plugin 'my plugin.py' train --rotation dct --schedule mine\n"
    shown = run(
        "process", "--plugin", "my plugin.py", "show", "--rotation", "dct", "--schedule", "mine", "-q", "--json"
    )
    assert (shown.code, shown.err) == (0, "")


def test_quiet_verbose_and_blocked_after_the_command(here):
    assert run("plugins", "list", "-q").err == ""
    assert run("plugins", "list").err.startswith("next: ")
    assert "Traceback" in run("train", "--schedule", "lgo", "-v").err
    blocked = run("train", "--data", "digits", "--block", "data", "--dry-run")
    assert "unknown data 'digits'" in blocked.err
    assert run("runs", "list", "--version").out.startswith("gendiff ")


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_help_says_that_they_are_taken(path):
    told = " ".join(run(*path, "-h").out.split())
    if not path:
        assert "These options are taken before a command and after it." in told
    elif not hasattr(dict(commands())[path], "commands"):
        assert EVERYWHERE in told


@pytest.mark.parametrize("path", [path for path, command in commands() if hasattr(command, "commands")], ids=" ".join)
def test_a_name_that_is_nearly_that_of_a_command_is_answered_with_it(path):
    for name in dict(commands())[path].commands:
        wrong = run(*path, name[:-1] + "xq"[name.endswith("x")])
        assert (wrong.code, wrong.out) == (2, "")
        head, known, near, fix = wrong.err.splitlines()
        assert re.fullmatch(r"error: unknown command '\w+'", head)
        assert name in known.removeprefix("  known: ").split(", ")
        assert near.startswith("  did you mean '")
        assert fix == f"  list all: {' '.join(('gendiff', *path))} -h"
