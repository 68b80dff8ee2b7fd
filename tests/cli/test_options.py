"""Options: a command gets those that it names, and takes what was said with them as one argument."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import pytest
import typer
from gendiff_cli.commands import Command, _completed
from gendiff_cli.options import OPTIONS, Given, configured

from gendiff.plugin.registry import default_registry
from gendiff.run.layers import resolve
from gendiff.run.shorthand import KEYS

WHOLE = {"preset", "config", "set"}


def made(words, command):
    app = typer.Typer(add_completion=False)
    app.command(cls=Command)(configured(words)(command))
    return typer.main.get_command(app)


def call(command, *args):
    with command.make_context("command", list(args)) as context:
        return context.invoke(command.callback, **context.params)


def test_a_word_is_an_option_and_a_key_of_the_configuration():
    assert {word.replace("_", "-") for word in OPTIONS.keys() - WHOLE} == KEYS.keys()


def test_the_options_stand_where_given_stands_in_the_order_of_the_words():
    def command(
        context: typer.Context,
        before: int = 0,
        given: Given = Given({}),
        device: Annotated[str, typer.Option(help="own")] = "cpu",
        data: Annotated[str | None, typer.Option(help="own data")] = None,
        after: int = 0,
    ) -> None:
        """Do it."""

    options = {option.name: option for option in made("rotation data device lr set", command).params}
    assert list(options) == ["before", "rotation", "data", "device", "lr", "set", "after"]
    assert options["data"].help == "own data"
    assert options["rotation"].rich_help_panel == "Components"
    assert options["lr"].rich_help_panel == "Training"
    assert made("lr", command).help == "Do it."


def test_what_is_given_is_told_apart_from_what_is_not():
    heard = []

    def command(given: Given, data: str = "none") -> None:
        heard.append((given, data))

    words = "rotation data logger seed compile config set"
    call(made(words, command))
    call(made(words, command), "--seed", "0", "--data", "digits", "--set", "a=1", "--config", "x.toml")
    call(made(words, command), "--logger", "a", "--logger", "b", "--compile")
    assert heard[0] == (Given({}), "none")
    assert heard[1] == (Given({"seed": 0, "config": Path("x.toml"), "set": ["a=1"]}), "digits")
    assert heard[1][0].options == ["--seed", "--config", "--set"]
    assert heard[2] == (Given({"logger": ["a", "b"], "compile": True}), "none")


def test_flags_lie_above_assignments_those_above_the_file_and_that_above_the_preset(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[train]\nsteps = 2\nbatch = 2\nlr = 0.2\n")
    said = {"steps": 4, "set": ["train.steps=3", "train.batch=3"], "config": file, "preset": ["digits-demo"]}
    layers = Given(said).layers(default_registry())
    assert [layer.origin for layer in layers] == [
        "preset digits-demo", str(file), "--set train.steps", "--set train.batch", "--steps",
    ]  # fmt: skip
    train = resolve(layers).config.train
    assert (train.steps, train.batch, train.lr) == (4, 3, 0.2)


@pytest.mark.parametrize("order", [("schedule", "velocity"), ("velocity", "schedule")])
def test_a_component_comes_before_its_parameters_in_whatever_order_they_are_given(order):
    said = {
        "schedule": "log",
        "velocity": "blur",
        "sampler": "ddim",
        "grid": "karras",
        "size": "8x12",
        "data": "dead-leaves",
    }
    config = resolve(Given({**{word: said[word] for word in order}, **said}).layers(default_registry())).config
    assert config.velocity.schedule.name == "log"
    assert config.sampler.grid.name == "karras"
    assert config.data.event_shape[1:] == (8, 12)


@pytest.mark.parametrize(
    ("words", "complete"),
    [
        (["evaluate", "--k"], ["evaluate", "--k", "16"]),
        (["--k", "5", "run"], ["--k", "5", "run"]),
        (["--k", "run"], ["--k", "16", "run"]),
        (["--k", "--other"], ["--k", "16", "--other"]),
        (["--k", "-3"], ["--k", "-3"]),  # refused for what it is
        (["--k=5", "run"], ["--k=5", "run"]),
        (["--other", "--k"], ["--other", "--k", "16"]),
        (["--", "--k"], ["--", "--k"]),
    ],
)
def test_a_number_that_may_be_left_out_is_there(words, complete):
    option = SimpleNamespace(metavar="[K=16]", opts=["--k"])
    others = [SimpleNamespace(metavar="K", opts=["--other"]), SimpleNamespace(metavar=None, opts=["--flag"])]
    assert _completed(SimpleNamespace(params=[option, *others]), words) == complete
