"""Times and sizes as people say them, and remarks that are aligned."""

from __future__ import annotations

import io
import math

import gendiff_cli.console
import pytest
from gendiff_cli.console import Verbosity, amount, aside, counted, duration, fail, note, rate
from gendiff_cli.plugins import _print_card
from rich.console import Console

from gendiff.errors import ConfigError, DataError
from gendiff.testing import Line


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "less than 0.001 s"), (0.0012, "0.0012 s"), (0.134, "0.13 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"),
        (59.6, "1 min"), (61, "1 min 1 s"), (3500.4, "58 min 20 s"), (3599.6, "1 h"), (7500, "2 h 5 min"), (86399, "1 d"),
        (100_000, "1 d 4 h"), (40 * 86400, "40 d"), (math.inf, "unknown"), (math.nan, "unknown"),
    ],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "0.977 KiB"), (1024, "1 KiB"), (1536, "1.5 KiB"), (99.4 * 1024, "99.4 KiB"),
        (99.6 * 1024, "100 KiB"), (1023 * 1024, "0.999 MiB"), (2**20, "1 MiB"), (12 * 2**30, "12 GiB"),
        (3 * 2**40, "3 TiB"), (5000 * 2**40, "5000 TiB"),
    ],
)  # fmt: skip
def test_amounts(count, said):
    assert amount(count) == said


def test_counts_and_rates():
    assert [counted(count, "step") for count in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]
    assert [rate(speed) for speed in (0.517, 9.94, 9.96, 1234.5)] == [
        "0.52 images/s",
        "9.9 images/s",
        "10 images/s",
        "1,234 images/s",
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_remarks_are_aligned_and_fit_a_terminal(monkeypatch, width):
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, soft_wrap=True, highlight=False)
    monkeypatch.setattr(gendiff_cli.console, "err", lambda: screen)
    aside({"a": "one two [red] three " * 9, "longer": "four", "empty": ""})
    lines = [line.replace("\x1b[2m", "").replace("\x1b[0m", "") for line in screen.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert [line[:8] for line in lines] == ["a       ", *["        "] * (len(lines) - 3), "longer  ", "empty   "]
    assert " ".join(line[8:].strip() for line in lines[:-2]) == ("one two [red] three " * 9).strip()


def test_what_is_wrong_with_a_command_is_said_once_a_machine(monkeypatch, capsys):
    wrong, here, lost = ConfigError("wrong"), ConfigError("no GPU", where="--device"), DataError("lost")
    for rank, said in (
        ("0", "error: wrong\nerror: no GPU (from --device)\nerror: lost\n"),
        ("1", "error: no GPU (from --device)\nerror: lost\n"),
    ):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert [fail(error) for error in (wrong, here, lost)] == [2, 2, 4]
        assert capsys.readouterr().err == said


@pytest.mark.parametrize("width", [40, 80])
def test_a_note_breaks_between_words(monkeypatch, width):
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, soft_wrap=True, highlight=False)
    monkeypatch.setattr(gendiff_cli.console, "err", lambda: screen)
    note("it-is-said [red] of words " * 9)
    lines = [line.replace("\x1b[2m", "").replace("\x1b[0m", "") for line in screen.file.getvalue().splitlines()]
    assert len(lines) > 2
    assert max(map(len, lines)) <= width
    assert {line[:6] for line in lines} == {"note: ", "      "}
    assert " ".join(line[6:] for line in lines) == ("it-is-said [red] of words " * 9).strip()


@pytest.mark.parametrize("width", [60, 80])
def test_a_card_of_checks_breaks_between_words(monkeypatch, width):
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, soft_wrap=True, highlight=False)
    monkeypatch.setattr(gendiff_cli.console, "out", lambda: screen)
    line = Line("it takes events", False, "it fails at 1x8x8 " * 9, "no error " * 9, "`refusal`: why " * 9)
    _print_card("rotation", [line])
    assert max(map(len, screen.file.getvalue().splitlines())) <= width


def test_in_a_pipe_each_is_one_line_and_quiet_says_nothing(capsys):
    aside({"a": "word " * 100})
    assert capsys.readouterr().err == f"a  {'word ' * 99}word\n"
    Verbosity.level = -1
    try:
        aside({"a": "b"})
    finally:
        Verbosity.level = 0
    assert capsys.readouterr().err == ""
