"""Opening: a run is opened in one way, and what is odd about it is said."""

from __future__ import annotations

import pytest
from gendiff_cli.opening import is_run, open_run, passing_over

from gendiff.run.directory import Run


def test_the_notes_of_a_run_are_said_once_with_its_label(tmp_path, monkeypatch, capsys):
    run = Run.__new__(Run)
    run.notes = ["its data are not here", "its plugin is gone"]
    asked = []
    monkeypatch.setattr(Run, "open", lambda *given, at=None: asked.append(given) or run)
    assert open_run(tmp_path, training=True, steps=3, label="a: ") is run
    assert asked == [(tmp_path, True, 3, ())]
    assert capsys.readouterr().err == "note: a: its data are not here\nnote: a: its plugin is gone\n"


def test_damaged_checkpoints_are_said_where_another_one_did(capsys):
    with passing_over() as problems:
        problems += ["step 4", "step 3"]
        assert capsys.readouterr().err == ""
    said = "note: a damaged checkpoint was passed over: step"
    assert capsys.readouterr().err == f"{said} 4\n{said} 3\n"
    with pytest.raises(ValueError, match="none is left"), passing_over() as problems:
        _fail(problems)
    assert capsys.readouterr().err == ""  # the error has them


def _fail(problems):
    problems.append("step 4")
    raise ValueError("none is left")


def test_a_folder_with_a_record_is_a_run(tmp_path):
    assert not is_run(str(tmp_path))
    (tmp_path / "run.json").touch()
    assert is_run(str(tmp_path))
