"""Plugins that mean no good, each a file of a few lines: whatever one raises, prints, claims or changes stays its own affair."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
from pathlib import Path

import pytest
import torch
from command import TINY, run

from gendiff.plugin.import_guard import process_state

FILE = '''
{top}
import sys, asyncio, pytest
from gendiff import BlurSchedule, Lazy, hookimpl

class Own(BlurSchedule):
    """{summary}"""
    name = {name!r}
    {parameter}
    def f(self, i, N):
        {f}
        return 0 * i + 0.1

@hookimpl
def gendiff_components():
    return [{announced}]
'''
TRY = ("train", "--dry-run", *TINY, "--rotation", "dct", "--schedule")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENDIFF_PLUGINS", raising=False)
    yield tmp_path
    for module in [name for name in sys.modules if name.startswith("gendiff_plugin_")]:
        del sys.modules[module]


def write(
    name: str = "own", f="pass", top="", summary="own.", parameter="", announced="Own", file: str = "own.py"
) -> str:
    """A plugin file with one schedule."""
    places = {"f": f, "top": top, "summary": summary, "parameter": parameter, "announced": announced}
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(FILE.format(name=name, **places))
    return file


def problems(*files: str) -> list[dict]:
    named = [option for file in files for option in ("--plugin", file)]
    listed = run(*named, "plugins", "list", "--json")
    assert listed.code == 0, listed.err
    return listed.json["problems"]


def problems_of(file: str) -> list[dict]:
    """Of a file of which nothing can be used: given with --plugin it is an error."""
    refused = run("-q", "--plugin", file, "plugins", "list")
    assert (refused.code, refused.out) == (3, "")
    told = run("plugins", "info", file, "--json").json["problems"]
    assert all(problem["reason"][:100] in refused.err for problem in told)
    return told


# --- what it raises -----------------------------------------------------------------------------------------------------

ENDS = {
    "exit": ("sys.exit(0)", "SystemExit: 0"),
    "cancelled": ("raise asyncio.CancelledError('no')", "CancelledError: no"),
    "closed": ("raise GeneratorExit('no')", "GeneratorExit: no"),
    "skipped": ("pytest.skip('no', allow_module_level=True)", "Skipped: no"),
    "its own": ("raise type('End', (BaseException,), {{}})('no')", "End: no"),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_ends_other_programs_at_import_breaks_only_the_plugin(end):
    raised, told = ENDS[end]
    (problem,) = problems_of(write(top=f"import sys, asyncio, pytest\n{raised}".replace("{{}}", "{}")))
    assert (problem["status"], told in problem["reason"]) == ("broken", True)


@pytest.mark.parametrize("end", ENDS)
def test_what_ends_other_programs_in_use_is_an_error_of_the_component(end):
    raised, told = ENDS[end]
    done = run("--plugin", write(f=raised.replace("{{}}", "{}")), *TRY, "own")
    assert done.code == 3, done.err
    assert done.err.startswith("error: schedule 'own' of own.py failed: ")
    assert told.replace("SystemExit: 0", "sys.exit(0)") in done.err
    line = 1 + Path("own.py").read_text().splitlines().index(f"        {raised.replace('{{}}', '{}')}")
    assert end == "skipped" or f"(own.py, line {line})" in done.err
    checked = run("plugins", "check", "own.py")
    assert (checked.code, told in checked.out) == (5, True)


@pytest.mark.parametrize("end", ENDS)
def test_an_observer_that_would_end_the_program_is_switched_off(end):
    raised, told = ENDS[end]
    source = "import sys, asyncio, pytest\nfrom gendiff import hookimpl\n@hookimpl\ndef gendiff_step(step):\n"
    Path("watch.py").write_text(f"{source}    {raised.replace('{{}}', '{}')}\n")
    done = run("--plugin", "watch.py", "train", *TINY, "--out", "r")
    assert done.code == 0, done.err
    assert told in json.loads(Path("r/run.json").read_text())["switched_off"]["watch.py (watch.py)"]


def test_a_default_that_the_class_itself_refuses_is_the_fault_of_the_plugin():
    file = write(parameter="f_max: float = 'much'")
    done = run("--plugin", file, *TRY, "own")
    assert (done.code, "its own default is refused: f_max = 'much'" in done.err) == (3, True)
    assert "own.py" in done.err
    assert run("--plugin", file, *TRY, "own:f_max=0.2").code == 0
    assert run("--plugin", file, *TRY, "own:f_max=more").code == 2
    checked = run("plugins", "check", file)
    assert (checked.code, "its own default is refused" in checked.out) == (5, True)


# --- what it prints -----------------------------------------------------------------------------------------------------


def test_what_a_component_prints_in_use_does_not_spoil_results():
    file = write(f="print('LOUD')")
    shown = run("--plugin", file, *TRY, "own", "--json")
    assert shown.json["velocity"] == "blur:schedule=own"
    trained = run("--plugin", file, "train", "--rotation", "dct", "--schedule", "own", *TINY, "--out", "r")
    assert (trained.code, trained.out) == (0, "r\n")
    assert run("plugins", "check", file, "--json").json["passed"]
    assert "LOUD" in shown.err, "it is not lost"


def test_a_plugin_may_close_what_it_took_for_stdout():
    assert problems(write(top="import sys\nprint('LOUD')\nsys.stdout.close()")) == []
    assert run("--plugin", "own.py", *TRY, "own").code == 0


def test_a_terminal_obeys_nothing_that_a_plugin_says():
    evil = "\x1b[31mred\x1b]0;title\x07\x9b1m"
    commands = [["plugins", "list"], ["plugins", "info", "own"], ["plugins", "check", "own"], [*TRY, "own"]]
    for file in (write(summary=evil), write(f=f"raise ValueError({evil!r})", file="raises.py")):
        for command in commands:
            done = run("--plugin", file, *command)
            assert not set("\x1b\x07\x9b") & set(done.out + done.err), command


def test_long_texts_are_cut():
    (problem,) = problems_of(write(top="raise ValueError('x' * 10**6)"))
    assert len(problem["reason"]) < 1000
    file = write(summary="x" * 10**6)
    assert len(run("--plugin", file, "plugins", "list").out) < 100_000
    write("lazy", announced="Lazy('schedule', 'lazy', 'a:B', 'many\\n' * 10**5)", file="lazy.py")
    listed = run("--plugin", "lazy.py", "plugins", "list", "--json").json
    (summary,) = [entry["summary"] for entry in listed["components"] if entry["name"] == "lazy"]
    assert summary.startswith("many many")
    assert len(summary) < 300


# --- what it claims -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a b", "a\nb", "a\x1b[31m", "../../a", "a:b", "a=b", "a,b", "-a", ".a", " ", "a" * 101]
)
@pytest.mark.parametrize("how", ["class", "lazy", "preset"])
def test_a_name_that_cannot_be_typed_is_refused(name, how):
    if how == "preset":
        Path("own.toml").write_text("N = 3\n")
        source = f"return {{{name!r}: pathlib.Path('own.toml')}}"
        Path("own.py").write_text(
            f"import pathlib\nfrom gendiff import hookimpl\n@hookimpl\ndef gendiff_presets():\n    {source}\n"
        )
    else:
        write(name, announced="Own" if how == "class" else f"Lazy('schedule', {name!r}, 'a:B')")
    (problem,) = problems("own.py")
    assert (problem["status"], "is no name to type" in problem["reason"]) == ("broken", True)
    listed = run("--plugin", "own.py", "plugins", "list", "--json").json
    assert name not in {entry["name"] for entry in listed["components"] + listed["presets"]}


@pytest.mark.parametrize("kind", ["plugin", "logger"])
def test_a_hook_that_wraps_nothing_is_refused(kind):
    """pluggy calls wrappers around others; who only listens has nothing around it, and would never be run."""
    hook = "@hookimpl(wrapper=True)\n{0}def gendiff_step(self):\n{0}    yield\n"
    if kind == "plugin":
        Path("own.py").write_text("from gendiff import hookimpl\n" + hook.format("").replace("self", ""))
        (problem,) = problems_of("own.py")
        assert "gendiff_step is a wrapper" in problem["reason"]
        return
    watcher = "class W:\n    " + hook.format("    ")
    source = "class Own(Logger):\n    'own.'\n    name = 'own'\n    def observer(self, run):\n        return W()\n"
    announced = "@hookimpl\ndef gendiff_components():\n    return [Own]\n"
    Path("own.py").write_text(
        f"from gendiff import hookimpl\nfrom gendiff.logger import Logger\n{watcher}\n{source}\n{announced}"
    )
    done = run("--plugin", "own.py", "train", *TINY, "--logger", "own", "--out", "r")
    assert (done.code, "gendiff_step is a wrapper" in done.err) == (0, True), done.err


# --- what it changes ----------------------------------------------------------------------------------------------------

CHANGES = {
    "the working directory": "os.chdir('/')",
    "the signal handlers": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "the root logger": "logging.basicConfig(level=0, force=True)",
    "the random state": "random.seed(1)",
    "torch's default dtype": "torch.set_default_dtype(torch.float64)",
    "torch's gradient mode": "torch.set_grad_enabled(False)",
    "torch's default device": "torch.set_default_device('meta')",
    "torch's number of threads": "torch.set_num_threads(3)",
    "torch's random state": "torch.manual_seed(1)",
}


@pytest.fixture
def kept():
    """What a test changes for all others, if gendiff does not put it back."""
    handlers = list(logging.root.handlers), logging.root.level
    before = Path.cwd(), signal.getsignal(signal.SIGTERM), random.getstate(), torch.get_num_threads()
    yield
    os.chdir(before[0])
    signal.signal(signal.SIGTERM, before[1])
    random.setstate(before[2])
    torch.set_num_threads(before[3])
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_default_device(None)
    logging.root.handlers[:], logging.root.level = handlers


def test_every_part_of_the_process_is_tried():
    assert CHANGES.keys() == process_state().keys()


@pytest.mark.parametrize("what", CHANGES)
def test_what_an_import_changes_is_put_back_and_told(kept, what):
    before = process_state()
    (problem,) = problems(write(top=f"import os, signal, logging, random, torch\n{CHANGES[what]}"))
    assert process_state()[what] == before[what]
    assert problem["status"] == "warning"
    assert problem["reason"] == f"its import changed {what} of the whole process, which was undone"


# --- how it is named ----------------------------------------------------------------------------------------------------


def test_one_file_named_in_several_ways_is_one_plugin(monkeypatch, tmp_path):
    counted = "import pathlib\nwith open(pathlib.Path(__file__).with_name('times'), 'a') as file:\n    file.write('x')"
    write(top=counted, file="sub/own.py")
    Path("link.py").symlink_to("sub/own.py")
    Path("c.toml").write_text('plugins = ["sub/own.py"]\nrotation = "dct"\n[velocity]\nschedule = "own"\n')
    monkeypatch.setenv("GENDIFF_PLUGINS", str(tmp_path / "sub" / "own.py"))
    for command in (
        ["plugins", "check", "sub/own.py"],
        ["plugins", "info", "sub/../sub/own.py"],
        ["--plugin", "./sub/own.py", "plugins", "check", "own"],
        ["config", "show", "--config", "c.toml"],  # whose file GENDIFF_PLUGINS has let in
    ):
        Path("sub/times").write_text("")
        done = run(*command)
        assert done.code == 0, done.out + done.err
        assert "already provided" not in done.out + done.err
        assert Path("sub/times").read_text() == "x", "executed more than once"


def test_two_files_of_one_name_are_told_apart():
    one, two, copy = write("one"), write("two", file="sub/own.py"), write("one", file="copy/own.py")
    assert problems(one, two) == []
    (problem,) = problems(one, two, copy)
    assert problem["origin"] == "copy/own.py"
    assert problem["reason"] == "schedule 'one' is already provided by own.py (own.py)"


# --- what info and check say of it ---------------------------------------------------------------------------------------


def test_info_says_why_a_plugin_is_broken_or_blocked():
    broken = write(top="1 / 0", file="broken.py")
    done = run("plugins", "info", broken, "--json")
    assert (done.code, done.json["components"]) == (0, [])
    (problem,) = done.json["problems"]
    assert (problem["status"], "ZeroDivisionError" in problem["reason"]) == ("broken", True)
    assert "broken: broken.py (broken.py): ZeroDivisionError" in run("plugins", "info", broken).out
    blocked = run("--plugin", write(), "--block", "own.py", "plugins", "info", "own.py")
    assert (blocked.code, blocked.out) == (0, "blocked: own.py (own.py): --block own.py\n")


def test_info_shows_the_health_of_each_component():
    file = write(announced="Own, Lazy('schedule', 'lost', 'nowhere:X', 'lost')")
    found = {facts["name"]: facts for facts in run("plugins", "info", file, "--json").json["components"]}
    assert {name: facts["status"] for name, facts in found.items()} == {"own": "ok", "lost": "broken"}
    assert found["lost"]["reason"] == "ModuleNotFoundError: No module named 'nowhere'"
    shown = run("--plugin", file, "plugins", "info", "lost")
    assert (shown.code, shown.out.count("ModuleNotFoundError")) == (0, 1)


def test_info_shows_who_listens():
    Path("watch.py").write_text("from gendiff import hookimpl\n@hookimpl\ndef gendiff_step():\n    pass\n")
    assert run("plugins", "info", "watch.py").out == "watch.py listens to gendiff_step\n"
    assert run("plugins", "check", "watch.py", "--json").json["listens"] == {"watch.py": ["gendiff_step"]}


def test_what_was_not_checked_has_not_passed():
    blocked = run("--plugin", write(), "--block", "own.py", "plugins", "check", "own.py", "--json")
    assert (blocked.code, blocked.json["passed"]) == (5, False)
    open_ = write("open", parameter="f_max: float", file="open.py")
    assert (run("plugins", "check", open_).code, run("plugins", "check", f"{open_}:f_max=0.1").code) == (2, 0)
    assert run("plugins", "check", f"{write()}:f_mix=0.1").code == 2, "a parameter that it does not have"


# --- completion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("gendiff train --schedule qua", ["quadratic", "quartic"]),
        ("gendiff train --preset digits", ["digits-demo"]),
        ("gendiff plugins list --kind sa", ["sampler"]),
        ("gendiff plugins new acme --kind me", ["metric"]),
        ("gendiff plugins info random-o", ["random-orthogonal"]),
        ("gendiff plugins check gendif", ["gendiff"]),
    ],
)
def test_names_are_completed(line, completed, monkeypatch):
    words = line.split()
    for name, value in {"GENDIFF_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": len(words) - 1}.items():
        monkeypatch.setenv(f"_{name}" if name.startswith("G") else name, str(value))
    done = run()
    assert (done.code, done.out.split()) == (0, completed)
