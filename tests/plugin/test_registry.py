"""The registry: what is announced is true, and a broken plugin breaks only itself."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command import TINY, run
from places import ROOT
from pydantic_core import PydanticUndefined

from gendiff.component import Component, Settings, summary
from gendiff.errors import ConfigError, PluginError
from gendiff.plugin.registry import Registry, default_registry
from gendiff.run.config import Config
from gendiff.run.settings import TrainSettings

ENTRIES = default_registry().entries()
SINE = '''
import torch
from gendiff import BlurSchedule, hookimpl

class Sine(BlurSchedule):
    """f(i) = f_max sin^2(pi i / 2N)."""
    name = "sine"
    f_max: float = 0.14
    def f(self, i, N):
        return self.f_max * torch.sin(torch.pi * i / (2 * N)) ** 2

@hookimpl
def gendiff_components():
    return [Sine]
'''
LAZY = """
from gendiff import Lazy, hookimpl
@hookimpl
def gendiff_components():
    return [Lazy("schedule", "sine", {target!r}, "a sine")]
"""


# --- what gendiff ships -----------------------------------------------------------------------------------------------


def test_nothing_installed_is_broken():
    assert default_registry().health() == []


@pytest.mark.parametrize("code", ["--help", "plugins list --json", "-q plugins list --kind schedule"])
def test_listing_does_not_import_torch(code):
    script = f"""
import sys
sys.argv = ["gendiff", *{code.split()!r}]
from gendiff_cli.app import main
try:
    main()
finally:
    print("torch imported:", "torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "torch imported: False" in done.stderr


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_an_announcement_agrees_with_its_class(entry):
    cls = entry.load()
    assert isinstance(entry.target, str), "a built-in plugin is listed without its module"
    assert (cls.kind, cls.name) == (entry.kind, entry.name)
    assert entry.summary == summary(cls) != ""
    assert cls.__doc__


@pytest.mark.parametrize(
    "cls", [entry.load() for entry in ENTRIES] + [Config, TrainSettings], ids=lambda cls: cls.__name__
)
def test_every_parameter_is_described(cls):
    for name, info in cls.model_fields.items():
        inherited = any(
            name in vars(base).get("__annotations__", {})
            for base in cls.__mro__[1:]
            if not base.__module__.startswith("gendiff_plugins")
        )
        assert info.description or inherited, f"{cls.kind} '{cls.name}': {name}"


def test_the_installed_entry_points_are_those_of_the_source():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["gendiff"]
    installed = {
        p.name: p.value for p in importlib.metadata.distribution("gendiff").entry_points if p.group == "gendiff"
    }
    assert installed == wanted, "the installation is stale: run pip install -e . again"


def test_every_kind_of_component_in_a_configuration_is_known():
    def kinds(cls):
        for info in cls.model_fields.values():
            if isinstance(info.annotation, type) and issubclass(info.annotation, Settings):
                yield from [info.annotation.kind] * bool(info.annotation.kind)
                yield from kinds(info.annotation)
                if issubclass(info.annotation, Component) and info.default is not PydanticUndefined:
                    yield from kinds(
                        default_registry().component_class(info.annotation.kind, info.default.partition(":")[0])
                    )

    several = {"metric", "logger", "levels"}  # lists of components in the training settings, and what may be left out
    named = {"process", "features"}  # replaced by its parts before there is a configuration; not of a run
    named |= {"guide", "operator"}  # of what is drawn
    named |= {"latent"}  # a part of the data
    named |= {"colour"}  # a part of one velocity
    assert set(kinds(Config)) | several | named == {entry.kind for entry in ENTRIES}


# --- plugin files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a plugin file, in the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(source, name="my_schedule.py"):
        (tmp_path / name).write_text(source)
        return name

    yield write
    for module in [name for name in sys.modules if name.startswith("gendiff_plugin_")]:
        del sys.modules[module]


def test_a_schedule_in_one_file_trains_and_samples(plugin):
    file = plugin(SINE)
    done = run("--plugin", file, "train", "--rotation", "dct", "--schedule", "sine:f_max=0.2", *TINY, "--out", "r")
    assert (done.code, done.out) == (0, "r\n")
    assert 'name = "sine"\nf_max = 0.2' in Path("r/config.toml").read_text()
    info = json.loads(Path("r/run.json").read_text())
    assert info["providers"]["schedule sine"]["plugin"] == "my_schedule.py"
    (copied,) = info["plugin_files"].values()
    assert (Path("r") / copied["copy"]).read_text() == SINE
    assert hashlib.sha256(SINE.encode()).hexdigest() == copied["sha256"]
    assert run("--plugin", file, "sample", "r", "--steps", 2, "-n", 1).code == 0
    listed = run("--plugin", file, "plugins", "list", "--kind", "schedule").out
    assert any(
        line.split() == ["schedule", "sine", "f(i)", "=", "f_max", "sin^2(pi", "i", "/", "2N)", "my_schedule.py"]
        for line in listed.splitlines()
    )
    assert "gendiff --plugin plugins/my_schedule.py train --config config.toml" in Path("r/README.md").read_text()
    gone = run("train", "--config", "r/config.toml", "--dry-run")
    assert (gone.code, "unknown schedule 'sine' (from r/config.toml)" in gone.err) == (2, True)


#: Files of which nothing can be used, and the reason with the line where there is one.
UNUSABLE = {
    "import error": ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name' (my_sched"),
    "syntax error": ("def f(:\n", "SyntaxError: invalid syntax (my_schedule.py, line 1)"),
    "no text": ("x = '\0'", "SyntaxError"),
    "exit": ("\nraise SystemExit(7)", "SystemExit: 7 (my_schedule.py, line 2)"),
    "misspelt hook": (SINE.replace("def gendiff_components", "def gendiff_component"), "'gendiff_component' in plugin"),
    "where a misspelt hook is": (SINE.replace("def gendiff_components", "def gendiff_component"), "(my_schedule.py, line 12)"),
    "wrong arguments": (SINE.replace("components()", "components(registry)"), "registry"),
    "raises": (SINE.replace("return [Sine]", "raise ValueError('oh\\nno')"), "ValueError: oh no (my_schedule.py, line 14)"),
    "junk": (SINE.replace("[Sine]", "3"), "TypeError: 'int' object is not iterable"),
    "no annotation": (SINE.replace(": float", ""), "non-annotated attribute was detected: `f_max = 0.14`"),
    "another version": ("gendiff_api_version = 99\n" + SINE, "it needs version 99 of gendiff's plugin interface"),
}  # fmt: skip

#: Files of which a part cannot be used.
BROKEN = {
    "no component": (SINE.replace("[Sine]", "[3]"), "3 is not a component class", 2),
    "no name": (SINE.replace('name = "sine"', ""), "has no kind and name", 2),
    "a name that is no text": (SINE.replace('name = "sine"', "name = 3"), "has no kind and name", 2),
    "a method missing": (SINE.replace("def f(", "def g("), "lacks f", 2),
    "an announced name that is no text": (LAZY.format(target="a:B").replace('"sine"', "3"), "has no kind and name", 2),
    "missing module": (LAZY.format(target="nothing:Sine"), "schedule 'sine': ModuleNotFoundError: No module named 'nothing'", 3),
    "missing attribute": (LAZY.format(target="gendiff.schedule:Sine"), "has no attribute 'Sine'", 3),
    "no class": (LAZY.format(target="gendiff.schedule:torch"), "gendiff.schedule:torch is not a component class", 3),
    "no colon": (LAZY.format(target="gendiff.schedule"), "AttributeError", 3),
    "another name": (LAZY.format(target="gendiff_plugins.schedules.paper:Log"), "says it is schedule 'log'", 3),
    "abstract": (LAZY.format(target="gendiff.schedule:BlurSchedule"), "has no kind and name", 3),
}  # fmt: skip


@pytest.mark.parametrize("fault", UNUSABLE)
def test_a_plugin_file_that_was_asked_for_and_cannot_be_used_is_an_error(plugin, fault, monkeypatch):
    source, reason = UNUSABLE[fault]
    file = plugin(source)
    for command in (["-q", "--plugin", file, "config", "show"], ["--plugin", file, "plugins", "list"]):
        done = run(*command)
        assert (done.code, done.out) == (3, "")
        assert done.err.startswith("error: the plugin file 'my_schedule.py' cannot be used (from --plugin)\n")
        assert reason in done.err
        assert "Traceback" not in done.err
    monkeypatch.setenv("GENDIFF_PLUGINS", file)
    named = run("config", "show")
    assert (named.code, reason in named.err, "(from GENDIFF_PLUGINS)" in named.err) == (3, True, True)
    assert run("--no-plugins", "config", "show").code == 0
    monkeypatch.delenv("GENDIFF_PLUGINS")
    assert run("--plugin", file, "--block", file, "config", "show").code == 0
    told = run("plugins", "info", file, "--json")
    assert (told.code, [problem["provider"] for problem in told.json["problems"]]) == (0, ["my_schedule.py"])
    assert run("plugins", "check", file).code == 5


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_breaks_only_itself(plugin, fault):
    source, reason, code = BROKEN[fault]
    file = plugin(source)
    listed = run("--plugin", file, "plugins", "list")
    assert listed.code == 0
    (broken,) = [line for line in listed.out.splitlines() if line.startswith("broken: ")]
    assert broken.startswith("broken: my_schedule.py (my_schedule.py): ")
    assert reason in broken
    as_json = run("--plugin", file, "plugins", "list", "--json").json
    assert [problem["provider"] for problem in as_json["problems"]] == ["my_schedule.py"]
    assert len([entry for entry in as_json["components"] if entry["provider"] != "my_schedule.py"]) == len(ENTRIES)

    assert run("--plugin", file, "config", "show", "--schedule", "log").code == 0
    assert run("--plugin", file, "data", "list").code == 0
    used = run("--plugin", file, "train", "--rotation", "dct", "--schedule", "sine", *TINY)
    assert used.code == code
    assert "schedule 'sine'" in used.err
    assert "my_schedule.py" in used.err
    assert "(from --schedule)" in used.err
    assert "Traceback" not in used.err
    assert not Path("runs").exists()


def test_a_data_plugin_that_cannot_be_loaded_does_not_stop_the_list(plugin):
    file = plugin(LAZY.format(target="nothing:X").replace('"schedule"', '"data"'))
    listed = run("--plugin", file, "data", "list", "--json")
    assert listed.code == 0
    assert [source["name"] for source in listed.json["data"]] == default_registry().names("data")
    assert "data 'sine' of my_schedule.py cannot be loaded" in listed.err


def test_a_name_that_is_taken_stays_with_its_first_provider(plugin):
    file = plugin(SINE.replace('"sine"', '"log"'))
    listed = run("--plugin", file, "plugins", "list").out
    assert "broken: my_schedule.py (my_schedule.py): schedule 'log' is already provided by gendiff" in listed
    assert Registry([Path(file)]).component_class("schedule", "log").__module__ == "gendiff_plugins.schedules.paper"


@pytest.mark.parametrize("where", ["at import", "in the hook", "when followed"])
def test_what_a_plugin_prints_does_not_spoil_results(plugin, where, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    shout = "print('LOOK AT ME')\n"
    source = {
        "at import": shout + SINE,
        "in the hook": SINE.replace("    return [Sine]", f"    {shout}    return [Sine]"),
        "when followed": LAZY.format(target="loud_plugin:Sine"),
    }[where]
    plugin(shout + SINE, "loud_plugin.py")
    file = plugin(source)
    shown = run("--plugin", file, "config", "show", "--rotation", "dct", "--schedule", "sine", "--json")
    assert (shown.code, shown.json["config"]["velocity"]["schedule"]["name"]) == (0, "sine")
    sys.modules.pop("loud_plugin", None)
    if where != "when followed":
        assert "it printed at import: 'LOOK AT ME'" in run("--plugin", file, "plugins", "list").out


def test_a_plugin_file_may_postpone_its_annotations(plugin):
    source = "from __future__ import annotations\nfrom typing import Literal\n" + SINE
    file = plugin(source.replace("f_max: float = 0.14", 'f_max: float = 0.14\n    mode: Literal["a", "b"] = "a"'))
    assert run("--plugin", file, "config", "show", "--rotation", "dct", "--schedule", "sine:mode=b").code == 0
    assert "should be 'a' or 'b'" in run("--plugin", file, "config", "show", "--schedule", "sine:mode=c").err


def test_a_class_without_a_docstring_does_not_borrow_one(plugin):
    file = plugin(SINE.replace('"""f(i) = f_max sin^2(pi i / 2N)."""', ""))
    (entry,) = [e for e in Registry([Path(file)]).entries("schedule") if e.name == "sine"]
    assert entry.summary == ""


@pytest.mark.parametrize("path", ["missing.py", "."])
def test_a_plugin_file_that_is_not_there_is_an_error(path):
    done = run("--plugin", path, "plugins", "list")
    assert (done.code, f"no plugin file '{path}'" in done.err) == (3, True)


def test_a_plugin_file_of_another_kind_is_named(plugin):
    file = plugin("hello", "notes.txt")
    done = run("--plugin", file, "plugins", "list")
    assert (done.code, "notes.txt is not a Python file" in done.err) == (3, True)


def test_only_a_regular_file_is_read_as_a_plugin(plugin):
    os.mkfifo("pipe.py")
    plugin("", "large.py")
    os.truncate("large.py", 1 << 40)
    for file in ("pipe.py", "/dev/zero", "large.py"):
        done = run("--plugin", file, "config", "show")
        assert (done.code, done.err.startswith("error: no plugin file '")) == (3, True), done.err


# --- installed distributions ------------------------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes a distribution that offers entry points of the group gendiff, as pip would install it."""

    def make(name, version, source, points=None, metadata=True):
        module = name.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        if metadata:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[gendiff]\n{points or f'main = {module}'}\n")
        modules.append(module)

    modules = []
    monkeypatch.syspath_prepend(tmp_path)
    yield make
    for module in modules:
        sys.modules.pop(module, None)


def test_installed_plugins_are_found_with_their_version_and_can_be_left_out(install):
    install("gendiff-acme", "1.2", SINE)
    install("gendiff-zeta", "0.3", SINE.replace('"sine"', '"wave"'))  # its entry point has the same name
    listed = {
        entry["name"]: entry for entry in run("plugins", "list", "--kind", "schedule", "--json").json["components"]
    }
    assert listed["sine"]["provider"] == "gendiff-acme 1.2"
    assert listed["wave"]["provider"] == "gendiff-zeta 0.3"
    assert listed["log"]["provider"].startswith("gendiff ")
    assert "gendiff-acme 1.2" in run("plugins", "list").out
    assert "| sine (gendiff-acme 1.2), wave (gendiff-zeta 0.3)" in run("train", "--schedule", "lgo").err
    assert run("config", "show", "--schedule", "sine").code == 0

    without = run("--no-plugins", "plugins", "list", "--json").json["components"]
    assert {entry["provider"].split()[0] for entry in without} == {"gendiff"}
    assert run("--no-plugins", "config", "show", "--schedule", "sine").code == 2


def test_a_broken_distribution_is_named(install):
    install("gendiff-acme", "1.2", "1/0")
    install("gendiff-junk", "1.0", "THINGS = {}", points="things = gendiff_junk:THINGS\ngone = gendiff_junk:gone")
    broken = [line for line in run("plugins", "list").out.splitlines() if line.startswith("broken")]
    assert any(
        "gendiff-acme 1.2 (main = gendiff_acme): ZeroDivisionError: division by zero (gendiff_acme.py, line 1)" in line
        for line in broken
    )
    assert any("gendiff-junk 1.0 (gone = gendiff_junk:gone): AttributeError" in line for line in broken)
    assert run("config", "show").code == 0
    assert "broken plugin: gendiff-acme 1.2" in run("config", "show", "--schedule", "acme").err


@pytest.mark.parametrize("points", ["main", "= x", "main = not a module", "a = b = c"])
@pytest.mark.parametrize("metadata", [True, False])
def test_a_damaged_installation_does_not_stop_gendiff(install, points, metadata):
    install("gendiff-acme", "1.2", SINE, points, metadata)
    listed = run("plugins", "list")
    assert listed.code == 0
    assert "broken: " in listed.out
    assert len(Registry().entries()) == len(ENTRIES)


DAMAGE = {
    "no METADATA": ({}, "it has no METADATA"),
    "an empty one": ({"METADATA": b""}, "it has no METADATA"),
    "no name": ({"METADATA": b"Metadata-Version: 2.1\n\n# a page\n"}, "its METADATA does not say its name"),
    "METADATA that are no text": ({"METADATA": b"Name: \xff\xfe"}, "its METADATA: UnicodeDecodeError"),
    "entry points that are no text": (
        {"entry_points.txt": b"[console_scripts]\nx = \xff"},
        "its entry_points.txt: Unicode",
    ),
    "a line that says nothing": ({"entry_points.txt": b"[console_scripts]\nsomething\n"}, "its entry_points.txt: "),
    "no section": ({"entry_points.txt": b"a = b\n[pydantic]\nx\n"}, "its entry_points.txt: "),
}


def damaged(site: Path, fault: str) -> Path:
    folder = site / "acme_widgets-1.0.dist-info"
    folder.mkdir(parents=True)
    files = DAMAGE[fault][0]
    whole = (
        {"METADATA": b"Metadata-Version: 2.1\nName: acme-widgets\nVersion: 1.0\n"}
        if "entry_points.txt" in files
        else {}
    )
    for name, content in {**whole, **files}.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_distribution_with_damaged_metadata_is_named(tmp_path, monkeypatch, fault):
    """Also one that has nothing to do with gendiff: nobody can know."""
    folder = damaged(tmp_path / "site", fault)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "1")
    shown = run("config", "show", "--schedule", "log")
    assert shown.code == 0
    assert f"note: the installed distribution {folder} is damaged: {DAMAGE[fault][1]}" in shown.err
    assert run("-q", "config", "show").err == ""
    assert f"broken: acme_widgets-1.0.dist-info ({folder}): {DAMAGE[fault][1]}" in run("plugins", "list").out
    assert "acme" not in run("--no-plugins", "config", "show").err


@pytest.fixture
def impatient():
    """What waits for ever fails."""

    def give_up(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", ["METADATA", "PKG-INFO", "entry_points.txt"])
@pytest.mark.parametrize("kind", ["pipe", "endless", "huge"])
def test_metadata_are_looked_at_before_they_are_read(tmp_path, monkeypatch, impatient, name, kind):
    folder = tmp_path / "site" / "acme_widgets-1.0.dist-info"
    folder.mkdir(parents=True)
    if name == "entry_points.txt":
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-widgets\nVersion: 1.0\n")
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "endless":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).touch()
        os.truncate(folder / name, 2**40)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "1")
    monkeypatch.delenv("TORCH_DEVICE_BACKEND_AUTOLOAD")
    why = "it has 1,099,511,627,776 bytes" if kind == "huge" else "not a regular file"
    assert f"broken: acme_widgets-1.0.dist-info ({folder}): its {name}: {why}" in run("plugins", "list").out
    assert os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"


def test_a_distribution_whose_metadata_are_one_pipe(tmp_path, monkeypatch, impatient):
    (tmp_path / "site").mkdir()
    os.mkfifo(tmp_path / "site" / "acme_widgets-1.0.egg-info")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert "its metadata: not a regular file" in run("plugins", "list").out


def test_a_preset_is_looked_at_before_it_is_read(tmp_path, impatient):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "huge.toml").touch()
    os.truncate(tmp_path / "huge.toml", 2**40)
    (tmp_path / "p.py").write_text(
        "import gendiff.plugin.hookspecs as h\n\n\n@h.hookimpl\ndef gendiff_presets():\n"
        f"    return {{'pipe': {str(tmp_path / 'pipe.toml')!r}, 'huge': {str(tmp_path / 'huge.toml')!r}}}\n"
    )
    registry = Registry([tmp_path / "p.py"])
    assert {"pipe", "huge"}.isdisjoint(registry.presets())
    assert [("not a regular file" in p.why, "1,099,511,627,776 bytes" in p.why) for p in registry.problems] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize("argv", [("--plugin", ""), ("--block", ""), ("--plugin=",)])
def test_an_option_before_the_command_is_given_something(argv):
    done = run(*argv, "plugins", "list")
    assert (done.code, f"{argv[0].strip('=')} is given nothing" in done.err) == (2, True)


def test_damaged_metadata_stop_no_import(tmp_path):
    """pydantic and torch read the entry points of everything installed, whatever they want there."""
    folder = damaged(tmp_path / "site", "entry points that are no text")
    path = os.pathsep.join([str(folder.parent), *sys.path])
    code = (
        "from gendiff_cli.app import main; import sys\n"
        "sys.argv = ['gendiff', 'process', 'show', '--json', '--data', 'digits']; main()"
    )
    clean = {name: value for name, value in os.environ.items() if name != "PYDANTIC_DISABLE_PLUGINS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert "is damaged: its entry_points.txt: UnicodeDecodeError" in done.stderr


# --- in Python --------------------------------------------------------------------------------------------------------


def test_a_registry_raises_what_it_says():
    registry = default_registry()
    with pytest.raises(ConfigError, match="unknown schedule 'lgo'"):
        registry.component_class("schedule", "lgo")
    with pytest.raises(ConfigError, match="did you mean 'digits-demo'"):
        registry.preset("digit-demo")
    with pytest.raises(PluginError, match="no plugin file"):
        Registry([Path("missing.py")])
    assert registry.names("schedule") == sorted(registry.names("schedule"))
