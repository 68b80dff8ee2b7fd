"""Commands that gendiff suggests: what a shell makes of them, whatever files are called."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command import TINY, run

from gendiff import command
from gendiff.errors import ConfigError

NAMES = [
    "a b",
    "it's",
    '"',
    "$HOME",
    "`id`",
    "a;b",
    "a&b|c",
    "*",
    "~",
    "#x",
    "a\nb",
    "a\tb",
    "\x1b[31m",
    "ä",
    "-x",
    "\\",
    "!",
]
NAMES += ["a\n'b\\", "\u202egpj", os.fsdecode(b"\xff\xfe0"), "a=b", "(x)", "", "\x7f"]


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_gives_the_words_back(name):
    words = [name, f"--data=folder:path={name}"]
    text = command.quoted("printf", "%s\\0", *words)
    assert text.isprintable()
    given = subprocess.run(["bash", "-c", text], capture_output=True).stdout
    assert [os.fsdecode(word) for word in given.split(b"\0")[:-1]] == words


def test_a_path_cannot_be_taken_for_an_option():
    assert command.command("sample", Path("-x")) == "gendiff sample ./-x"
    assert command.command("sample", Path("-x/y"), "-n", 1) == "gendiff sample ./-x/y -n 1"
    assert command.command("sample", Path("/-x")) == "gendiff sample /-x"


def test_what_this_program_was_started_with_is_kept():
    with command.started(["--plugin", "my plugin.py", "-q", "train"]):
        assert command.again("--plugin", "b.py") == "gendiff --plugin b.py --plugin 'my plugin.py' -q train"
        command.keep(["--plugin", "my plugin.py", "--no-plugins"])
        assert command.command("sample", "r") == "gendiff --plugin 'my plugin.py' --no-plugins sample r"
        known = command.command("sample", "r", plugins=["my plugin.py", "b.py"])
        assert known == "gendiff --plugin 'my plugin.py' --no-plugins --plugin b.py sample r"
    assert command.command("sample", "r") == "gendiff sample r"
    assert command.again("-v") == "gendiff -v ..."


@pytest.mark.parametrize(
    ("name", "value", "typed", "called"),
    [
        ("--batch", 6, "--batch 6", "batch=6"),
        ("--batch", None, "--batch", "batch"),
        ("--hold-out", 0.1, "--hold-out 0.1", "hold_out=0.1"),
        ("--device", "cpu", "--device cpu", 'device="cpu"'),
        ("--out", "DIR", "--out DIR", "out=DIR"),
        ("--no-ema", None, "--no-ema", "ema=False"),
        ("--from", "RUN", "--from RUN", "from_=RUN"),
    ],
)
def test_an_option_is_a_keyword_in_python(name, value, typed, called):
    assert command.option(name, value) == called
    with command.started(["train"]):
        assert command.option(name, value) == typed


@pytest.mark.parametrize(
    ("key", "value", "typed", "called"),
    [
        ("train.keep", 1, "--set train.keep=1", "keep=1"),
        ("train.recompute", "true", "--set train.recompute=true", "recompute=True"),
        ("train.posthoc", "[0.05,0.1]", "--set 'train.posthoc=[0.05,0.1]'", "posthoc=[0.05,0.1]"),
        ("hold_out.by", "picture", "--set hold_out.by=picture", 'hold_out={..., "by": "picture"}'),
    ],
)
def test_a_setting_is_an_entry_in_python(key, value, typed, called):
    assert command.setting(key, value) == called
    with command.started(["train"]):
        assert command.setting(key, value) == typed


# --- where commands stand -----------------------------------------------------------------------------------------------

PLUGIN = "from gendiff import hookimpl\n@hookimpl\ndef gendiff_run_ended():\n    pass\n"
AWKWARD = ["my runs", "it's; $HOME", "-r", "a\nb"]


def next_words(err: str) -> list[str]:
    (line,) = [line for line in err.splitlines() if line.startswith("next: ")]
    return as_a_shell(line.removeprefix("next: "))


def as_a_shell(text: str) -> list[str]:
    given = subprocess.run(["bash", "-c", f"printf '%s\\0' {text}"], capture_output=True, text=True).stdout
    return given.split("\0")[:-1]


@pytest.mark.parametrize("name", AWKWARD)
def test_every_command_that_follows_a_run_can_be_pasted(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("a plugin.py").write_text(PLUGIN)
    given, path = ["--plugin", "a plugin.py", "--no-plugins"], f"./{name}" if name.startswith("-") else name
    trained = run(*given, "train", *TINY, "--out", name)
    assert next_words(trained.err) == ["gendiff", *given, "sample", path]
    again = run(*given, "train", *TINY, "--out", name)
    assert again.code == 2
    told = again.err.splitlines()[-1].partition("go on with it: ")[2]
    assert as_a_shell(told) == ["gendiff", *given, "train", "--resume", path]
    done = run("train", "--resume", path)
    assert done.code == 2
    assert as_a_shell(done.err.splitlines()[-1].partition(": ")[2]) == [
        "gendiff",
        "train",
        "--resume",
        path,
        "--steps",
        "6",
    ]
    assert len(done.err.splitlines()) == 2, "one line each, whatever the folder is called"
    drawn = run("sample", path, "-n", 1, "--steps", 1)
    assert next_words(drawn.err) == ["gendiff", "sample", path, "--trajectory", "--gif"]
    assert next_words(run("runs", "show", path).err) == ["gendiff", "evaluate", path]
    assert next_words(run("runs", "list", ".").err) == ["gendiff", "runs", "show", path]
    assert next_words(run("config", "show", path).err) == ["gendiff", "train", "--config", f"{path}/config.toml"]
    card = (tmp_path / name / "README.md").read_text()
    again = re.search("train it again: `(.*)`", card)
    assert again
    assert shlex.split(again[1]) == [
        "gendiff",
        "--plugin",
        "plugins/a plugin.py",
        "train",
        "--config",
        "config.toml",
    ]


@pytest.mark.parametrize("name", [*AWKWARD, "a,b", "a=b", "[x]"])
def test_data_that_were_prepared_can_be_trained_on(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    done = run("data", "prepare", "digits", "--n", 32, "--workers", 0, "--", name)
    assert done.code == 0, done.err
    words = next_words(done.err)
    assert words[:3] == ["gendiff", "train", "--data"]
    assert run(*words[1:], *TINY, "--dry-run").code == 0


@pytest.mark.slow
def test_a_process_that_was_looked_at_is_named_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("process show.py").write_text(PLUGIN)
    shown = run("--plugin", "process show.py", "process", "show", "--schedule", "log:f_max=0.3", "--rotation", "dct")
    options = ["--schedule", "log:f_max=0.3", "--rotation", "dct"]
    assert next_words(shown.err) == ["gendiff", "--plugin", "process show.py", "process", "plot", *options]


def test_an_error_is_one_line_for_each_of_its_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("sample", "a\nnext: rm -r x")
    assert done.err.startswith("error: 'a\\nnext: rm -r x' is not a run directory\n")
    assert len(done.err.splitlines()) == 3
    assert str(ConfigError("a", details=["b"], fix="c")) == "a\n  b\n  c"


# --- who may write where ------------------------------------------------------------------------------------------------

NOISY = f"""
import os, subprocess, sys
from gendiff import Lazy, Velocity, hookimpl
from gendiff.logger import Logger

def noise():
    os.write(1, b"noise of a library\\n")
    subprocess.run([{sys.executable!r}, "-Sc", "print('noise of a child')"])
    print("noise of print", file=sys.__stdout__, flush=True)

class Loud(Logger):
    "loud."
    name = "loud"
    def observer(self, run):
        noise()
        return object()

noise()

@hookimpl
def gendiff_components():
    noise()
    return [Loud]
"""


def started(code: str, **streams) -> subprocess.CompletedProcess[bytes]:
    """A program of its own: descriptors are those of a process."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys, os\nfrom gendiff_cli.app import main\n{code}"], **streams
    )


@pytest.mark.slow
def test_descriptor_one_is_out_of_reach_of_components(tmp_path):
    """At import, in hooks and while it trains; the second result follows in the same program, and stdout is given back."""
    (tmp_path / "loud.py").write_text(NOISY)
    words = ["gendiff", "--plugin", "loud.py", "train", *map(str, TINY), "--logger", "loud", "--out", "r", "--json"]
    code = f"""
sys.argv = {words!r}
try:
    main()
except SystemExit as done:
    assert not done.code
os.write(1, b"and after\\n")
print("and printed")
"""
    done = started(code, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    text, _, rest = done.stdout.decode().rpartition("}\n")
    assert '"status": "done"' in text
    assert text.startswith("{\n")
    assert rest == "and after\nand printed\n"
    assert done.stderr.count(b"noise of a library") == 3
    assert done.stderr.count(b"noise of a child") == 3


LATE = """
import atexit, ctypes, os, sys

sys.__stdout__.write("clamour that is kept back\\n")
ctypes.CDLL(None).printf(b"clamour of a library that is kept back\\n")

@atexit.register
def bye():
    os.system("echo clamour of a child at the end")
    print("clamour at the end")
"""


def test_descriptor_one_is_out_of_reach_when_the_program_ends(tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    words = "sys.argv = ['gendiff', '--plugin', 'late.py', 'config', 'show', '--json']; main()"
    done = started(words, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"clamour" not in done.stdout
    assert done.stdout.endswith(b"}\n")
    assert done.stderr.count(b"clamour") == 4


CLOSED = """
import subprocess
os.close(1)
sys.stdout = None
sys.argv = ["gendiff", "--plugin", "opens.py", "config", "show", "--json"]
main()
"""
OPENS = "import os\nfile = open('kept', 'wb')\nos.system('echo noise of a child')\n"


def test_a_closed_stdout_is_not_the_next_file_that_is_opened(tmp_path):
    (tmp_path / "opens.py").write_text(OPENS)
    done = started(CLOSED, cwd=tmp_path, stderr=subprocess.PIPE)
    assert (done.returncode, (tmp_path / "kept").read_bytes()) == (0, b""), done.stderr


def test_a_reader_that_has_seen_enough_and_a_full_disk():
    """Large results: what does not fit into a pipe, and what the disk does not take."""
    read, write = os.pipe()
    os.close(read)
    words = "sys.argv = ['gendiff', 'plugins', 'list', '--json']; main()"
    gone = started(words, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert gone.stderr == b""
    with Path("/dev/full").open("wb") as full:
        refused = started(words, stdout=full, stderr=subprocess.PIPE)
    assert (refused.returncode, refused.stderr) == (
        1,
        b"error: the disk refuses: No space left on device\n  make room\n",
    )


def test_a_terminal_is_seen_as_one(tmp_path):
    """Of its own width, though descriptor 1 is not it."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 47, 0, 0))
    words = "sys.argv = ['gendiff', 'plugins', 'list', '--kind', 'grid']; main()"
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")} | {
        "TERM": "xterm"
    }
    done = started(words, stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.PIPE, env=environment)
    shown = os.read(master, 1 << 16).decode()
    os.close(master), os.close(slave)
    assert done.returncode == 0, done.stderr
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()
    assert max(map(len, lines)) == 47
    assert "\x1b[1m" in shown


# --- nothing where something should be ----------------------------------------------------------------------------------

NOTHING = [
    (["train", "--out", ""], "--out"),
    (["train", "--out="], "--out"),
    (["train", "--config", ""], "--config"),
    (["train", "--resume", ""], "--resume"),
    (["train", "--data", ""], "--data"),
    (["sample", ""], "RUN[@STEP]"),
    (["sample", ".", "--out", ""], "--out"),
    (["evaluate", ""], "SOURCE"),
    (["evaluate", "digits", "--reference", ""], "--reference"),
    (["runs", "list", ""], "FOLDER"),
    (["runs", "show", ""], "RUN|FOLDER|PICTURE"),
    (["runs", "diff", ".", ""], "OTHER"),
    (["data", "info", ""], "SOURCE"),
    (["data", "prepare", "digits", ""], "DEST"),
    (["compare", "--resume", ""], "--resume"),
    (["process", "plot", "--picture", ""], "--picture"),
    (["plugins", "check", ""], "SUBJECT"),
    (["plugins", "new", "acme", "--into", ""], "--into"),
]


@pytest.mark.parametrize(
    ("words", "name"), NOTHING, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_variable_that_is_not_set_is_not_the_working_folder(tmp_path, monkeypatch, words, name):
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert (done.code, done.err.splitlines()[0]) == (2, f"error: {name} is given nothing")
    assert list(tmp_path.iterdir()) == []
