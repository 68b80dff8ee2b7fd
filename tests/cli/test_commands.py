"""Commands: help and completion are light, and the list of commands says what each says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module

import pytest
import typer
from command import run
from gendiff_cli.app import app
from gendiff_cli.commands import Announced, Command, _without_markdown

HEAVY = {"torch", "numpy", "pydantic", "pydantic_core", "markdown_it", "rich.markdown", "pygments"}
IMPORTED = f"""
import sys
from gendiff_cli.app import main
try:
    main()
finally:
    print(*({HEAVY} | {{"rich.console", "gendiff.plugin.registry"}}) & sys.modules.keys(), file=sys.stderr)
"""


def announced(command):
    """All commands that are imported when they are called."""
    for sub in getattr(command, "commands", {}).values():
        if isinstance(sub, Announced):
            yield sub
            yield from announced(sub.itself)


COMMANDS = list(announced(typer.main.get_command(app)))


@pytest.mark.parametrize(
    ("line", "shell", "told", "needed"),
    [
        (["--help"], {}, "Measure how far samples", {"rich.console"}),
        (["train", "--help"], {}, "--rotation", {"rich.console"}),
        (["process", "predict", "-h"], {}, "--network-error", {"rich.console"}),
        ([], {"COMP_WORDS": "gendiff process predict --rotation hada"}, "hadamard\n", {"gendiff.plugin.registry"}),
        ([], {"COMP_WORDS": "gendiff sample run --n 3 --s"}, "--sampler\n--steps\n--seed\n", set()),
    ],
    ids=["help", "command", "subcommand", "name", "option"],
)
def test_help_and_completion_import_next_to_nothing(line, shell, told, needed):
    """What they need is named too: all of it would else be nothing."""
    words = shell.get("COMP_WORDS", "").split()
    asked = {"_GENDIFF_COMPLETE": "complete_bash", "COMP_CWORD": str(len(words) - 1)} if shell else {}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *line],
        capture_output=True,
        text=True,
        env={**os.environ, **shell, **asked},
        check=True,
    )
    assert told in done.stdout
    assert set(done.stderr.split()) == needed


def test_pydantic_never_looks_for_plugins_of_its_own():
    code = (
        "import os, gendiff, sys; assert 'pydantic' not in sys.modules; print(os.environ['PYDANTIC_DISABLE_PLUGINS'])"
    )
    clean = {name: value for name, value in os.environ.items() if name != "PYDANTIC_DISABLE_PLUGINS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=True)
    assert done.stdout == "__all__\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.module)
def test_the_list_says_of_a_command_what_it_says_of_itself(command):
    assert command.help == command.itself.help.partition("\n\n")[0].replace("\n", " ")
    assert not hasattr(command.itself, "commands") or command.itself.no_args_is_help


def test_all_commands_are_announced_and_hold_to_the_same():
    assert {command.name for command in COMMANDS} >= {"train", "predict", "config"}
    assert len(COMMANDS) == 24
    for command in COMMANDS:
        for own in getattr(command.itself, "commands", {"": command.itself}).values():
            assert isinstance(own, Announced | Command)


def test_a_parameter_that_is_not_given_is_nothing():
    """And one that is given is converted, with its callback; typer's own way of nothing."""
    heard = []

    def command(
        many: list[str] | None = typer.Option(None),
        number: int | None = typer.Option(None, callback=lambda value: heard.append(value) or value),
        count: int = typer.Option(3),
    ) -> None:
        heard.append((many, number, count))

    def made(args):
        own = typer.Typer(add_completion=False)
        own.command(cls=Command)(command)
        context = typer.main.get_command(own).make_context("command", args)
        with context:
            context.command.callback(**context.params)
        return heard

    assert made([]) == [None, (None, None, 3)]
    heard.clear()
    assert made(["--many", "a", "--number", "2", "--count", "4"]) == [2, (["a"], 2, 4)]


def test_markdown_is_there_again_after_help():
    before = sys.modules.pop("rich.markdown", None)
    try:
        with _without_markdown():
            stand_in = import_module("rich.markdown").Markdown
        markdown = import_module("rich.markdown").Markdown
    finally:
        sys.modules |= {"rich.markdown": before} if before else {}
    assert markdown is not stand_in
    assert markdown("*a*").parsed


def test_a_help_breaks_its_lines_where_the_terminal_ends(monkeypatch):
    """Not where the source does."""
    monkeypatch.setenv("COLUMNS", "200")
    assert "the predicted error of samples, of two processes" in run("process", "explore", "--help").out
