"""Progress: what is seen of several pieces of work that are done at the same time."""

from __future__ import annotations

import io

import pytest
from gendiff_cli import console, progress
from gendiff_cli.progress import Board, DistantBars, Lines
from rich.console import Console

from gendiff.plugin.registry import default_registry


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of so many columns shows at last."""

    def show(width):
        file = io.StringIO()
        shown = Console(file=file, force_terminal=True, width=width, highlight=False, soft_wrap=True, color_system=None)
        for module in (console, progress):
            monkeypatch.setattr(module, "err", lambda: shown)
        monkeypatch.setattr(progress, "REFRESH", -1.0)
        return file

    return show


@pytest.mark.parametrize("width", [80, 120])
def test_each_training_has_a_bar_and_lines_stand_above_them(terminal, width):
    file = terminal(width)
    board = Board()
    for number, name in enumerate(["identity, seed 0 (run 1 of 4)", "dct, seed 0 (run 2 of 4)"]):
        board.heard(number, ("train", name, 0, 40, False))
        board.heard(number, ("gendiff_step", 20 + number, 0.5, 100.0))
    board.heard(0, ("line", "note: something"))
    board.heard(0, ("drawn", 20, 0, 50))
    board.heard(0, ("drawn", 20, 50, 50))
    assert file.getvalue().count("note: something") == 1
    last = file.getvalue().rpartition("identity, seed 0")[2]
    assert "20/40 loss 0.5000 100 images/s" in last
    assert "21/40" in last
    board.heard(0, ("trained",))
    board.heard(1, ("trained",))
    board.stop()
    assert not board.trainings


def test_each_measuring_has_a_bar_while_it_lasts(terminal):
    file = terminal(80)
    board = Board()
    for number in (0, 1):
        board.heard(number, ("work", f"arm {number}", 10))
        board.heard(number, ("advance", 5))
    assert "arm 0" in file.getvalue()
    assert "arm 1" in file.getvalue()
    board.heard(0, ("advance", 5))
    assert list(board.works) == [1]
    board.stop()


def test_one_may_be_trained_while_another_is_measured(terminal):
    """In either order: workers who take what is free do not wait for each other."""
    file = terminal(100)
    board = Board()
    board.heard(0, ("work", "arm 0", 10))
    board.heard(1, ("train", "arm 1", 0, 40, True))
    board.heard(1, ("gendiff_step", 20, 0.5, 100.0))
    board.heard(0, ("advance", 5))
    last = file.getvalue().rpartition("arm 0")[2]
    assert "5/10" in last
    assert "20/40 loss 0.5000 held out - 100 images/s" in last
    board.heard(1, ("trained",))
    board.heard(1, ("work", "arm 1", 10))
    board.heard(0, ("advance", 5))
    board.heard(0, ("train", "arm 2", 0, 40, True))
    assert list(board.works) == [1]
    assert list(board.trainings) == [0]
    board.stop()


def test_what_a_process_prints_is_said_in_whole_lines():
    said = []
    lines = Lines(said.append)
    lines.write("a")
    lines.write("b\nc\nd")
    assert said == [("line", "ab"), ("line", "c")]


def test_what_the_process_of_a_piece_of_work_notes_goes_to_the_other(terminal):
    terminal(80)
    said = []
    bars = DistantBars(default_registry(), said.append)
    console.note("careful")
    assert said == [("line", "note: careful")]
    with bars.working("drawing", 8) as advance:
        advance(3)
    assert said[1:] == [("work", "drawing", 8), ("advance", 3)]
