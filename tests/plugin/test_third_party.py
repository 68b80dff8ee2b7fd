"""Other people's plugins, built and installed as they would be: a broken one breaks only itself, and runs outlive them all."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from command import TINY, Result, run
from distributions import PREFIX, Project, forget, gendiff, install, uninstall, wheels

from gendiff.machine.world import join
from gendiff.names import resolving_with
from gendiff.plugin import hookspecs
from gendiff.plugin.registry import Registry
from gendiff.run import checkpoint
from gendiff.run.directory import Run
from gendiff.run.generation import generate
from gendiff.run.trained import TrainedModel

SINE = "self.f_max * torch.sin(torch.pi * i / (2 * N)) ** 2"


def schedule(name: str, formula: str = SINE, parameter: str = "f_max: float = 0.14", top: str = "") -> str:
    """The source of a plugin with one schedule."""
    return f'''{top}
import torch
from gendiff import BlurSchedule, hookimpl

class Own(BlurSchedule):
    """a schedule of its own."""
    name = "{name}"
    {parameter}
    def f(self, i, N):
        return {formula}

@hookimpl
def gendiff_components():
    return [Own]
'''


def lazy(kind: str, name: str, target: str) -> str:
    """The source of a plugin that announces one component of another module."""
    return f"""
from gendiff import Lazy, hookimpl

@hookimpl
def gendiff_components():
    return [Lazy("{kind}", "{name}", "{target}", "a schedule of its own")]
"""


MARK = "import os, pathlib\npathlib.Path(os.environ['ACME_MARKER']).touch()\n"
SKEWED = '''
import torch
from gendiff import SeparableRotation, hookimpl

class Skewed(SeparableRotation):
    """no rotation at all."""
    name = "skewed"
    def matrix(self, n):
        return torch.eye(n, dtype=torch.float64) + 0.1

@hookimpl
def gendiff_components():
    return [Skewed]
'''

#: Everything that can be wrong, installed at once.
PROJECTS = [
    Project("acme-import-error", "import nothing_of_that_name\n"),
    Project("acme-exit", "raise SystemExit(7)\n", version="1.1"),
    Project("acme-misspelt", schedule("misspelt").replace("def gendiff_components", "def gendiff_component")),
    Project("acme-future", "gendiff_api_version = 99\n" + schedule("future"), version="99.0"),
    Project("acme-taken", schedule("log", "0 * i + 1")),
    Project("acme-first", schedule("wave", "0 * i + 0.1")),
    Project("acme-second", schedule("wave", "0 * i + 0.2"), version="2.0"),
    Project("acme-left", schedule("left"), points={"shared": "acme_left"}),
    Project("acme-right", schedule("right"), points={"shared": "acme_right"}, version="0.2"),
    Project("acme-skewed", SKEWED),
    Project("acme-nan", schedule("nan", "torch.where(i > 3, torch.nan, 0.1)")),
    Project("acme-negative", schedule("negative", "0.1 - 0.2 * (i == 5)")),
    Project("acme-loud", schedule("loud", top="print('LOOK AT ME')")),
    Project(
        "acme-meddler",
        schedule(
            "meddler",
            top="import os, torch\nos.chdir(os.path.dirname(__file__))\ntorch.set_default_dtype(torch.float64)",
        ),
    ),
    Project(
        "acme-healthy",
        lazy("schedule", "healthy", "acme_healthy.own:Own"),
        version="3.1",
        others={"own.py": schedule("healthy")},
    ),
]
#: What `plugins list` says of them: status and reason. The others look well until their numbers are asked for.
REASONS = {
    "acme-import-error 1.0": ("broken", "ModuleNotFoundError: No module named 'nothing_of_that_name' (__init__.py, line 1)"),
    "acme-exit 1.1": ("broken", "SystemExit: 7 (__init__.py, line 1)"),
    "acme-misspelt 1.0": ("broken", "gendiff_component"),
    "acme-future 99.0": ("broken", "it needs version 99 of gendiff's plugin interface, this gendiff has 1"),
    "acme-taken 1.0": ("broken", "schedule 'log' is already provided by gendiff"),
    "acme-second 2.0": ("broken", "schedule 'wave' is already provided by acme-first 1.0"),
    "acme-loud 1.0": ("warning", "it printed at import: 'LOOK AT ME'"),
    "acme-meddler 1.0": ("warning", "its import changed the working directory, torch's default dtype of the whole process"),
}  # fmt: skip
MARKER = Project("acme-marker", schedule("marker", top=MARK), points={"mark": "acme_marker"})


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    """A folder with all of `PROJECTS` installed."""
    target = tmp_path_factory.mktemp("everything")
    install(target, wheels(PROJECTS, tmp_path_factory.mktemp("wheels")))
    return target


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Each test works in its own folder; whatever plugins changed is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENDIFF_PLUGINS", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an upgrade within a second must not find the old bytecode
    forget()
    yield
    forget()
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def use(monkeypatch):
    """Makes the distributions of a folder visible to this process."""

    def visible(site: Path) -> None:
        monkeypatch.syspath_prepend(site)
        forget()

    return visible


def one_screen(done, code: int, *said: str) -> None:
    """An error that a user can act on."""
    err = done.err if isinstance(done, Result) else done.stderr
    assert (done.code if isinstance(done, Result) else done.returncode) == code, err
    assert err.startswith(("error: ", "note: ")), err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 24
    for text in said:
        assert text in err, err


def rows(path: Path | str) -> list[dict]:
    """metrics.jsonl, without the speed."""
    lines = (Path(path) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "images_per_s"} for line in lines]


def info(path: Path | str) -> dict:
    return json.loads((Path(path) / "run.json").read_text())


# --- all of them at once --------------------------------------------------------------------------------------------------


def test_the_list_names_each_broken_one(everything, tmp_path):
    done = gendiff("plugins", "list", "--json", site=everything, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    found = {problem["provider"]: problem for problem in report["problems"]}
    assert found.keys() == REASONS.keys()
    assert len(report["problems"]) == len(REASONS), "one line each"
    for provider, (status, reason) in REASONS.items():
        assert found[provider]["status"] == status
        assert reason in found[provider]["reason"]
        name = provider.split()[0]
        assert found[provider]["origin"] == f"{name} = {name.replace('-', '_')}"
    theirs = {entry["name"]: entry for entry in report["components"] if entry["provider"].startswith("acme-")}
    assert {name: entry["provider"] for name, entry in theirs.items()} == {
        "wave": "acme-first 1.0",
        "left": "acme-left 1.0",
        "right": "acme-right 0.2",
        "skewed": "acme-skewed 1.0",
        "nan": "acme-nan 1.0",
        "negative": "acme-negative 1.0",
        "loud": "acme-loud 1.0",
        "meddler": "acme-meddler 1.0",
        "healthy": "acme-healthy 3.1",
    }
    plain = gendiff("plugins", "list", site=everything, cwd=tmp_path)
    assert plain.returncode == 0
    for provider, (status, reason) in REASONS.items():
        (line,) = [line for line in plain.stdout.splitlines() if line.startswith(f"{status}: {provider} (")]
        assert reason in line
    assert "Traceback" not in done.stderr + plain.stderr


@pytest.mark.slow
def test_what_is_built_in_works_beside_them(everything, tmp_path):
    """The real command, where the meddler has changed the working directory and torch's default dtype."""
    shown = gendiff("config", "show", "--json", site=everything, cwd=tmp_path)
    assert (shown.returncode, json.loads(shown.stdout)["config"]["rotation"]["name"]) == (0, "identity")
    options = ("--rotation", "dct", "--schedule", "log", *TINY, "--set", "N=20")
    trained = gendiff("train", *options, "--out", "r", "--json", site=everything, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["run"] == "r"
    assert (tmp_path / "r" / "config.toml").is_file(), "a plugin changed where relative paths lead"
    assert info(tmp_path / "r")["providers"]["schedule log"]["distribution"] == "gendiff"
    drawn = gendiff("sample", "r", "-n", 2, "--steps", 2, "--json", site=everything, cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / json.loads(drawn.stdout)["grid"]).is_file()


def test_they_do_not_change_the_numbers_of_what_is_built_in(everything, tmp_path, use):
    options = ("--rotation", "dct", "--schedule", "log", *TINY, "--set", "N=20", "--set", "train.log_every=1")
    assert run("train", *options, "--out", tmp_path / "alone").code == 0
    use(everything)
    assert run("train", *options, "--out", tmp_path / "beside").code == 0
    assert rows(tmp_path / "beside") == rows(tmp_path / "alone")
    digests = [
        checkpoint.weights_hash(checkpoint.directory(tmp_path / name / "checkpoints", 3), "ema")
        for name in ("alone", "beside")
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ["healthy", "left", "right", "wave", "loud", "log"])
def test_the_healthy_parts_of_all_work(everything, tmp_path, use, name):
    use(everything)
    command = ["train", "--rotation", "dct", "--schedule", name, *TINY, "--set", "N=20"]
    done = run(*command, "--out", tmp_path / "r", "--json")
    assert done.code == 0, done.err
    assert done.json["status"] == "done"
    provider = next(who for what, who in info(tmp_path / "r")["providers"].items() if what == f"schedule {name}")
    owner = {"wave": "acme-first", "log": "gendiff"}.get(name, f"acme-{name}")
    assert (provider["distribution"], provider["built_in"]) == (owner, name == "log")
    assert provider["version"]
    assert run("plugins", "check", name, "--kind", "schedule").code == 0


@pytest.mark.parametrize("name", ["misspelt", "future", "anything"])
def test_a_name_that_no_plugin_gave_is_unknown_and_the_broken_ones_are_told(everything, tmp_path, use, name):
    use(everything)
    done = run("train", "--rotation", "dct", "--schedule", name, *TINY, "--out", tmp_path / "r")
    one_screen(done, 2, f"unknown schedule '{name}' (from --schedule)")
    for provider, (status, _) in REASONS.items():
        assert status == "warning" or f"broken plugin: {provider}" in done.err, f"{provider} is not told:\n{done.err}"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--rotation", "skewed", "not orthogonal"),
        ("--schedule", "nan", "f(4) = nan"),
        ("--schedule", "negative", "f(5) = -0.1"),
    ],
)
def test_asking_for_a_broken_one_is_an_error(everything, tmp_path, use, option, name, said):
    use(everything)
    rotation = ("--rotation", "dct") if option == "--schedule" else ()
    done = run("train", *rotation, option, name, *TINY, "--out", tmp_path / "r")
    one_screen(done, 3, f"{option[2:]} '{name}'", said, f"(from {option})")
    assert f"acme-{name} 1.0" in done.err, f"the provider is not told:\n{done.err}"
    assert not (tmp_path / "r").exists()


def test_a_rotation_that_stretches_is_refused_before_there_is_a_run():
    """One without a matrix to look at: it would train a wrong process."""
    source = MIRROR.replace("2 * (flat", "1.5 * (flat").replace("acme-mirror", "stretched")
    write("mine.py", source)
    done = run("--plugin", "mine.py", "train", "--rotation", "stretched", *TINY, "--set", "N=20", "--out", "r")
    one_screen(done, 3, "rotation 'stretched'", "not orthogonal", "(from --rotation)")
    assert not Path("r").exists()


@pytest.mark.parametrize(
    ("name", "expected", "seen"),
    [
        ("skewed", "no error", "max |U^T U - I|"),
        ("nan", "no error", "f(4) = nan"),
        ("negative", "no error", "f(5) = -0.1"),
    ],
)
def test_the_check_says_what_was_expected_and_seen(everything, use, name, expected, seen):
    use(everything)
    done = run("plugins", "check", name)
    one_screen(done, 5, "checks do not hold")
    assert f"'{name}' of acme-{name} 1.0" in done.out
    assert f"expected: {expected}" in done.out
    assert seen in done.out
    as_json = run("plugins", "check", f"acme-{name}", "--json")
    (card,) = as_json.json["components"]
    failed = [line for line in card["checks"] if not line["passed"]]
    assert as_json.code == 5
    assert not as_json.json["passed"]
    assert all(line["expected"] and line["seen"] for line in failed)


def test_other_commands_work_beside_them(everything, use):
    use(everything)
    for command in (["data", "list"], ["config", "show", "--presets"], ["plugins", "info", "quartic"], ["--version"]):
        assert run(*command).code == 0, command
    assert run("plugins", "info", "acme-healthy", "--json").json["components"][0]["name"] == "healthy"
    one_screen(run("plugins", "check", "acme-exit"), 5, "'acme-exit' is broken", "SystemExit: 7")


# --- what is not wanted is not imported ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def marker_site(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("marker")
    install(target, wheels([MARKER], tmp_path_factory.mktemp("wheels")))
    return target


@pytest.fixture
def marker(marker_site, tmp_path, monkeypatch, use) -> Path:
    """A file that exists once the installed plugin was imported."""
    use(marker_site)
    monkeypatch.setenv("ACME_MARKER", str(tmp_path / "marker"))
    return tmp_path / "marker"


def test_it_is_imported_where_nothing_is_said(marker):
    assert run("plugins", "list").code == 0
    assert marker.exists()


@pytest.mark.parametrize("name", ["acme-marker", "mark", "acme-marker/mark"])
def test_a_blocked_plugin_is_never_imported(marker, name):
    listed = run("--block", name, "plugins", "list")
    assert listed.code == 0
    assert f"blocked: acme-marker 1.0 (mark = acme_marker): --block {name}" in listed.out
    asked = run("--block", name, "config", "show", "--schedule", "marker")
    one_screen(asked, 2, "unknown schedule 'marker'", "blocked plugin: acme-marker 1.0")
    assert not marker.exists()
    assert not [module for module in sys.modules if module.startswith(PREFIX)]


def test_without_plugins_nothing_is_imported(marker):
    assert "acme" not in run("--no-plugins", "plugins", "list").out
    one_screen(run("--no-plugins", "config", "show", "--schedule", "marker"), 2, "unknown schedule 'marker'")
    assert not marker.exists()


def test_block_of_a_name_that_is_not_there_imports_nothing(marker):
    one_screen(
        run("--block", "acme-marken", "plugins", "list"),
        2,
        "no plugin is called 'acme-marken' (from --block)",
        "did you mean 'acme-marker'?",
    )
    assert not marker.exists()


def test_blocking_goes_by_distribution_or_by_entry_point(everything, use):
    use(everything)
    listed = run("--block", "acme-left/shared", "--block", "acme-meddler", "plugins", "list", "--json").json
    names = {entry["name"] for entry in listed["components"]}
    assert "right" in names
    assert not {"left", "meddler"} & names
    both = {entry["name"] for entry in run("--block", "shared", "plugins", "list", "--json").json["components"]}
    assert not {"left", "right"} & both


def test_block_takes_effect_in_the_real_command(marker_site, tmp_path):
    mark = tmp_path / "marker"
    for options in (["--block", "acme-marker"], ["--no-plugins"]):
        done = gendiff(*options, "plugins", "list", "--json", site=marker_site, cwd=tmp_path, ACME_MARKER=str(mark))
        assert done.returncode == 0, done.stderr
        assert not mark.exists()
    assert json.loads(done.stdout)["problems"] == []


# --- plugin files -----------------------------------------------------------------------------------------------------------


def write(path: Path | str, source: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(source, encoding="utf-8")
    return Path(path)


def test_the_environment_names_plugin_files(tmp_path, monkeypatch):
    one, two = write("one.py", schedule("one")), write("elsewhere/two.py", schedule("two"))
    monkeypatch.setenv("GENDIFF_PLUGINS", os.pathsep.join([str(one), "", str(two)]))
    listed = {e["name"]: e["provider"] for e in run("plugins", "list", "--json").json["components"]}
    assert (listed["one"], listed["two"]) == ("one.py", "two.py")
    assert run("config", "show", "--schedule", "two").code == 0
    assert run("--no-plugins", "config", "show", "--schedule", "two").code == 2
    monkeypatch.setenv("GENDIFF_PLUGINS", "missing.py")
    one_screen(run("plugins", "list"), 3, "no plugin file 'missing.py'", "GENDIFF_PLUGINS")


@pytest.mark.parametrize("how", ["--plugin", "GENDIFF_PLUGINS"])
def test_a_file_can_be_blocked_however_it_was_named(tmp_path, monkeypatch, how):
    monkeypatch.setenv("ACME_MARKER", str(tmp_path / "marker"))
    write("mine.py", schedule("mine", top=MARK))
    options, command = ["--block", "mine.py"], ["config", "show"]
    if how == "--plugin":
        options += ["--plugin", "mine.py"]
    else:
        monkeypatch.setenv("GENDIFF_PLUGINS", "mine.py")
    done = run(*options, *command)
    assert done.code == 0, done.err
    assert not (tmp_path / "marker").exists()


NAMING = {
    "config show": ["config", "show", "--config", "deep in/c.toml"],
    "train": ["train", "--dry-run", *TINY, "--config", "deep in/c.toml"],
    "process show": ["process", "show", "--config", "deep in/c.toml"],
    "compare": ["compare", "--arm", "dct", "--arm", "identity", "--dry-run", "--config", "deep in/c.toml"],
}


@pytest.mark.parametrize("command", NAMING)
def test_a_configuration_that_names_plugin_files_runs_none(tmp_path, monkeypatch, command):
    monkeypatch.setenv("ACME_MARKER", str(tmp_path / "marker"))
    source = schedule("mine", top=MARK)
    write("deep in/files/mine.py", source)
    write("deep in/c.toml", 'plugins = ["files/mine.py"]\nrotation = "dct"\n[velocity]\nschedule = "mine"\n')
    digest = hashlib.sha256(source.encode()).hexdigest()
    whole = shlex.join(["gendiff", "--plugin", "deep in/files/mine.py", *map(str, NAMING[command])])
    for options in ([], ["-q"], ["--no-plugins"], ["--block", "mine.py"]):
        done = run(*options, *NAMING[command])
        named = "'deep in/c.toml' needs the plugin file 'deep in/files/mine.py', and a configuration never runs code"
        one_screen(done, 3, named, f"SHA-256 of deep in/files/mine.py: {digest}")
        assert options or done.err.splitlines()[-1] == f"  give it yourself: {whole}"
        assert not (tmp_path / "marker").exists()
    write("another name.py", source)  # what it holds is what counts
    done = run("--plugin", "another name.py", *NAMING[command])
    assert done.code == 0, done.err
    write("deep in/files/mine.py", source + "# changed since\n")
    assert run("--plugin", "another name.py", *NAMING[command]).code == 3


def test_a_run_that_a_configuration_with_plugins_made_names_the_plugin_again(tmp_path):
    write("mine.py", component("objective", "mine"))
    write("c.toml", 'plugins = ["mine.py"]\nobjective = "mine"\n')
    done = run("--plugin", "mine.py", "train", "--config", "c.toml", *TINY, "--out", "r")
    assert done.code == 0, done.err
    assert done.err.splitlines()[-1] == "next: gendiff --plugin mine.py sample r"
    assert "plugins" not in (Path("r") / "config.toml").read_text().split("\n[")[0]
    assert "gendiff --plugin plugins/mine.py train --config config.toml" in (Path("r") / "README.md").read_text()
    forget()
    refused = run("train", "--resume", "r", "--steps", 5)
    one_screen(refused, 3, "gendiff --plugin r/plugins/mine.py train --resume r --steps 5")


@pytest.mark.parametrize("value", ['"mine.py"', "[3]", "{ a = 1 }", "true", "[[]]", '[""]'])
@pytest.mark.parametrize("options", [[], ["--no-plugins"]])
def test_a_list_of_plugins_of_another_type_is_an_error(value, options):
    write("mine.py", schedule("mine"))
    write("c.toml", f"plugins = {value}\n")
    one_screen(
        run(*options, "config", "show", "--config", "c.toml"), 2, "'plugins' must be a list of paths (from c.toml)"
    )


@pytest.mark.parametrize("name", ["mine.py", "/dev/zero", ".", "a\\u0000b"])
def test_a_listed_plugin_file_that_is_none_is_an_error(name):
    write("c.toml", f'plugins = ["{name}"]\n')
    one_screen(run("config", "show", "--config", "c.toml"), 3, "no plugin file '", "(from c.toml)")


@pytest.mark.parametrize("which", ["preset", "arm"])
def test_a_preset_runs_no_file_either(tmp_path, monkeypatch, which):
    monkeypatch.setenv("ACME_MARKER", str(tmp_path / "marker"))
    write("evil.py", MARK)
    write("own.toml", '# own\nplugins = ["evil.py"]\n')
    write("given.py", "from pathlib import Path\nfrom gendiff import hookimpl\n@hookimpl\ndef gendiff_presets():\n"
          "    return {'own': Path(__file__).with_name('own.toml')}\n")  # fmt: skip
    arms = ["compare", "--arm", "preset=own", "--arm", "dct", "--dry-run"]
    done = run("--plugin", "given.py", *(["config", "show", "--preset", "own"] if which == "preset" else arms))
    one_screen(done, 3, "needs the plugin file")
    assert not (tmp_path / "marker").exists()


JUNK = {
    "a preset that is not there": "from pathlib import Path\n"
    "{hook}def gendiff_presets():\n    return {{'own': Path('nowhere.toml')}}",
    "a preset that is no text": "from pathlib import Path\nimport sys\n"
    "{hook}def gendiff_presets():\n    return {{'own': Path(sys.executable)}}",
    "a preset that is no path": "{hook}def gendiff_presets():\n    return {{'own': 3}}",
    "a preset whose name is no text": "from pathlib import Path\n{hook}def gendiff_presets():\n    return {{3: Path(__file__)}}",
    "a summary that is no text": "from gendiff import Lazy\n"
    "{hook}def gendiff_components():\n    return [Lazy('schedule', 'own', 'a:B', 3)]",
    "a target that is no text": "from gendiff import Lazy\n"
    "{hook}def gendiff_components():\n    return [Lazy('schedule', 'own', 3)]",
    "a component that cannot be shown": "class Mute:\n    def __repr__(self):\n        raise ValueError\n"
    "{hook}def gendiff_components():\n    return [Mute()]",
}


@pytest.mark.parametrize("fault", JUNK)
def test_an_announcement_that_makes_no_sense_breaks_only_itself(fault):
    """By a file, which is loaded as an installed plugin is."""
    file = write("junk.py", JUNK[fault].format(hook="from gendiff import hookimpl\n@hookimpl\n"))
    for command in (
        ["config", "show"],
        ["config", "show", "--presets"],
        ["data", "list"],
        ["plugins", "list", "--json"],
    ):
        done = run("--plugin", file, *command)
        assert done.code == 0, f"{command}: {done.err}"
    assert [problem["provider"] for problem in done.json["problems"]] == ["junk.py"]
    assert "broken: junk.py" in run("--plugin", file, "plugins", "list").out


# --- observers ---------------------------------------------------------------------------------------------------------------

WATCHED = (
    *("--model", "mlp:width=8,depth=1", "--batch", 4, "--steps", 4, "--metric", "moments", "--set", "N=20"),
    *("--set", "train.log_every=1", "--set", "train.sample_every=2", "--set", "train.checkpoint_every=2"),
    *("--set", "train.preview.steps=2", "--set", "train.preview_images=2"),
)


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory) -> list[dict]:
    """The rows of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("unwatched") / "r"
    assert run("train", *WATCHED, "--out", folder).code == 0
    found = rows(folder)
    assert [row["step"] for row in found] == [1, 2, 2, 3, 4, 4]
    return found


def undisturbed(done: Result, unwatched: list[dict], off: str, *said: str) -> None:
    """The run at ``r`` ended well, and said of ``off`` that it is switched off."""
    assert (done.code, done.out) == (0, "r\n"), done.err
    assert "Traceback" not in done.err
    (name,) = info("r")["switched_off"]
    assert name.startswith(off)
    for text in said:
        assert text in info("r")["switched_off"][name]
        assert text in done.err
    assert done.err.count("switched off") == 1
    assert done.err.count(off) == 1, "said more than once"
    assert rows("r") == unwatched
    assert info("r")["status"] == "done"
    assert (Path("r") / "checkpoints" / "step-000000004").exists() or checkpoint.newest(Path("r/checkpoints")).step == 4
    assert len(list(Path("r/samples").glob("*.png"))) == 2


@pytest.mark.parametrize("error", ["RuntimeError('oh')", "SystemExit(3)"])
@pytest.mark.parametrize("hook", hookspecs.LIFECYCLE)
def test_an_observer_that_raises_is_switched_off(unwatched, hook, error):
    others = "".join(
        f"@hookimpl\ndef {other}():\n    print('SEEN')\n" for other in hookspecs.LIFECYCLE if other != hook
    )
    source = f"from gendiff import hookimpl\n{others}\n@hookimpl\ndef {hook}():\n    raise {error}\n"
    write("watcher.py", source)
    done = run("--plugin", "watcher.py", "train", *WATCHED, "--out", "r")
    why = error.replace("('", ": ").replace("(", ": ").rstrip("')")
    undisturbed(done, unwatched, "watcher.py (watcher.py)", f"{hook}: {why}")


def test_two_observers_that_fail_do_not_hide_each_other(unwatched):
    for name in ("one.py", "two.py"):
        write(name, "from gendiff import hookimpl\n@hookimpl\ndef gendiff_step(step):\n    1 / (step - 2)\n")
    write(
        "three.py",
        "from gendiff import hookimpl\n@hookimpl\ndef gendiff_step(run, step):\n    (run / f'seen-{step}').touch()\n",
    )
    files = [option for name in ("one.py", "two.py", "three.py") for option in ("--plugin", name)]
    done = run(*files, "train", *WATCHED, "--out", "r")
    assert done.code == 0
    assert {name.split()[0] for name in info("r")["switched_off"]} == {"one.py", "two.py"}
    assert done.err.count("switched off") == 2
    assert len(list(Path("r").glob("seen-*"))) == 4
    assert rows("r") == unwatched


def test_an_observer_cannot_change_what_it_is_told(unwatched):
    source = """
from gendiff import hookimpl

@hookimpl
def gendiff_run_started(config):
    config["train"]["lr"] = 1.0
    config.clear()

@hookimpl
def gendiff_metrics_ready(values):
    values.clear()

@hookimpl
def gendiff_samples_ready(events):
    events.zero_()
"""
    write("watcher.py", source)
    told = "from gendiff import hookimpl\nimport json\nheard = []\n@hookimpl\ndef gendiff_metrics_ready(run, values):\n"
    told += "    heard.append(dict(values))\n    (run / 'heard.json').write_text(json.dumps(heard))\n"
    write("second.py", told)
    done = run("--plugin", "watcher.py", "--plugin", "second.py", "train", *WATCHED, "--out", "r")
    assert done.code == 0, done.err
    assert rows("r") == unwatched
    heard = json.loads(Path("r/heard.json").read_text())
    assert all(heard), "one observer emptied what another one was told"


LOGGER = '''
from gendiff import hookimpl
from gendiff.logger import Logger

class Watcher:
    @hookimpl
    def {hook}(self):
        {body}

class Own(Logger):
    """a logger of its own."""
    name = "own"
    def observer(self, run):
        {make}

@hookimpl
def gendiff_components():
    return [Own]
'''
LOGGERS = {
    "its observer cannot be made": ("gendiff_step", "pass", "raise OSError('no socket')", "OSError: no socket"),
    "making it exits": ("gendiff_step", "pass", "raise SystemExit('licence')", "SystemExit: licence"),
    "a misspelt hook": ("gendiff_stepp", "pass", "return Watcher()", "gendiff_stepp"),
    "a hook raises": ("gendiff_step", "1 / 0", "return Watcher()", "gendiff_step: ZeroDivisionError"),
    "the end raises": ("gendiff_run_ended", "1 / 0", "return Watcher()", "gendiff_run_ended: ZeroDivisionError"),
}


@pytest.mark.parametrize("fault", LOGGERS)
def test_a_logger_that_fails_is_switched_off(unwatched, fault):
    hook, body, make, reason = LOGGERS[fault]
    write("mine.py", LOGGER.format(hook=hook, body=body, make=make))
    done = run("--plugin", "mine.py", "train", *WATCHED, "--logger", "own", "--out", "r")
    undisturbed(done, unwatched, "logger own", reason)


METRIC = '''
from gendiff import hookimpl
from gendiff.metric import Metric

class Own(Metric):
    """a metric of its own."""
    name = "own"
    def measure(self, samples, reference):
        samples.zero_()
        {body}

@hookimpl
def gendiff_components():
    return [Own]
'''


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('oh')", "RuntimeError: oh"),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("return {'error': float('nan')}", "nan"),
        ("return {'error': float('inf')}", "inf"),
        ("return {}", "{}"),
        ("return 3.0", "float"),
        ("return {'error': 'good'}", "TypeError"),
    ],
)
def test_a_metric_that_fails_is_switched_off(unwatched, body, reason):
    write("mine.py", METRIC.format(body=body))
    done = run("--plugin", "mine.py", "train", *WATCHED, "--metric", "own", "--out", "r")
    undisturbed(done, unwatched, "metric own", reason)


# --- components that fail while they are used ----------------------------------------------------------------------------

ARMED = """
armed = []

def use():
    if armed:
        raise {error}

from gendiff import hookimpl

@hookimpl
def gendiff_step(step):
    if step == {at}:
        armed.append(step)
"""
FAILING = {
    "model": '''
from torch import nn
from gendiff import Model
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(__import__("torch").ones(()))
    def forward(self, x, i):
        use()
        return self.factor * x
class Own(Model):
    """a model of its own."""
    name = "own"
    def build(self, event_shape):
        return Net()
''',
    "objective": '''
from gendiff import Objective, Parametrization
class Own(Objective):
    """an objective of its own."""
    name = "own"
    parametrization = Parametrization.EPS
    def weight(self, at):
        use()
        return at.s / at.s
''',
    "data": '''
import torch
from gendiff import Data
class Own(Data):
    """data of their own."""
    name = "own"
    @property
    def event_shape(self):
        return (1, 8, 8)
    @property
    def length(self):
        return 32
    def __getitem__(self, index):
        use()
        return torch.full((1, 8, 8), index / 32)
    @property
    def fingerprint(self):
        return "own"
''',
}
ANNOUNCE = "\n@hookimpl\ndef gendiff_components():\n    return [Own]\n"


@pytest.mark.parametrize("error", ["RuntimeError('oh')", "OSError(5, 'oh')", "SystemExit('oh')"])
@pytest.mark.parametrize("kind", FAILING)
def test_a_component_that_fails_in_the_middle_leaves_a_checkpoint(kind, error):
    write("mine.py", ARMED.format(error=error, at=3) + FAILING[kind] + ANNOUNCE)
    done = run("--plugin", "mine.py", "train", *TINY, "--set", "N=20", f"--{kind}", "own", "--steps", 6, "--out", "r")
    assert checkpoint.newest(Path("r/checkpoints")).step == 3
    assert info("r")["status"] == "failed"
    *_, last = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert done.code == 3, last
    assert f"{kind} 'own' of mine.py" in last
    assert "oh" in last
    assert "Traceback" not in done.err


def test_a_schedule_is_not_asked_again_while_a_run_trains():
    """The process of a run is made once: a schedule that would fail from the first step on is not heard of, at no sample grid."""
    source = schedule("own", "use() or 0 * i + 0.1", top=ARMED.format(error="RuntimeError('oh')", at=1))
    write("mine.py", source)
    options = (*TINY, "--set", "N=20", "--set", "train.sample_every=2", "--set", "train.preview.steps=2", "--steps", 5)
    done = run("--plugin", "mine.py", "train", "--rotation", "dct", "--schedule", "own", *options, "--out", "r")
    assert done.code == 0, done.err
    assert info("r")["status"] == "done"
    assert checkpoint.newest(Path("r/checkpoints")).step == 5


def test_an_installed_model_is_named_when_another_of_its_modules_fails(leaving, use):
    use(leaving)
    done = run("train", *TINY, "--set", "N=20", "--model", "acme-net:explode=true", "--out", "r")
    assert done.code == 3, done.err
    assert "model 'acme-net' of acme-net 1.0 failed: RuntimeError: oh" in done.err


# --- loggers of gendiff -------------------------------------------------------------------------------------------------


def test_tensorboard_holds_the_numbers_of_a_run_and_of_its_resumption(unwatched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = run("train", *WATCHED, "--logger", "tensorboard", "--out", "r")
    assert done.code == 0, done.err
    assert rows("r") == unwatched
    assert "switched_off" not in info("r")
    assert list(Path("r/tensorboard").glob("events.out.tfevents.*"))
    assert run("train", "--resume", "r", "--steps", 5).code == 0

    events = EventAccumulator("r/tensorboard")
    events.Reload()
    logged = {row["step"]: row["loss"] for row in rows("r") if "loss" in row}
    seen = {event.step: event.value for event in events.Scalars("loss")}
    assert seen == pytest.approx(logged, rel=1e-6)
    assert list(seen) == [1, 2, 3, 4, 5]
    assert {"loss_bands/0", "lr", "metrics/moments/error"} <= set(events.Tags()["scalars"])
    assert [image.step for image in events.Images("samples")] == [2, 4, 5]


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_logger_whose_library_is_missing_says_so_before_there_is_a_run(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    for out in ([], ["--out", "r"]):
        done = run("train", *TINY, "--logger", name, *out)
        one_screen(done, 2, f"logger '{name}' needs the library {name}", "(from --logger)", f"pip install {name}")
    assert not Path("runs").exists()
    assert not Path("r").exists()


# What gendiff asks of wandb; the real one is optional, and tests must not depend on it.
FAKE_WANDB = """
import json, pathlib
def Image(path):
    assert pathlib.Path(path).is_file()
    return "image"
class Session:
    def __init__(self, **options):
        self.folder = pathlib.Path(options["dir"]) / "wandb"
        self.folder.mkdir()
        self.told = {"options": options, "rows": []}
    def log(self, values, step):
        self.told["rows"].append({**values, "step": step})
    def finish(self, exit_code):
        (self.folder / "told.json").write_text(json.dumps(self.told | {"exit_code": exit_code}))
def init(**options):
    return Session(**options)
"""


@pytest.mark.parametrize("library", ["fake", *(["real"] if importlib.util.find_spec("wandb") else [])])
def test_wandb_writes_below_the_run(library, tmp_path):
    site = tmp_path / "site"
    if library == "fake":
        write(site / "wandb.py", FAKE_WANDB)
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "WANDB_CACHE_DIR": str(tmp_path / "c")}
    home |= {
        "WANDB_CONFIG_DIR": str(tmp_path / "w"),
        "WANDB_DATA_DIR": str(tmp_path / "d"),
        "WANDB_ERROR_REPORTING": "false",
    }
    command = ["train", *WATCHED, "--logger", "wandb:mode=offline", "--out", "r", "--json"]
    done = gendiff(*command, site=site, cwd=tmp_path, **home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "done"
    assert "switched_off" not in info("r"), info("r")["switched_off"]
    if library == "real":
        assert list(Path("r/wandb").glob("offline-run-*/*.wandb"))
        assert not Path("wandb").exists()
        return
    told = json.loads(Path("r/wandb/told.json").read_text())
    assert told["exit_code"] == 0
    assert told["options"]["mode"] == "offline"
    assert told["options"]["id"] == info("r")["id"]
    losses = {row["step"]: row["loss"] for row in told["rows"] if "loss" in row}
    assert losses == {row["step"]: row["loss"] for row in rows("r") if "loss" in row}
    assert [row["step"] for row in told["rows"] if "samples" in row] == [2, 4]


# --- runs outlive plugins ------------------------------------------------------------------------------------------------

TURN = '''
import torch
from gendiff import SeparableRotation, hookimpl

class Turn(SeparableRotation):
    """some orthogonal matrix."""
    name = "acme-turn"
    angle: float = 0.3
    def matrix(self, n):
        k = torch.arange(n, dtype=torch.float64)
        return torch.linalg.qr(torch.eye(n, dtype=torch.float64) + self.angle * torch.cos(k[:, None] * (k + 1)))[0]

@hookimpl
def gendiff_components():
    return [Turn]
'''
MIRROR = '''
import torch
from gendiff import Rotation, hookimpl

class Mirror(Rotation):
    """a reflection of all samples of a channel at once, of no axis alone."""
    name = "acme-mirror"
    def rotate(self, x):
        x = x if x.dtype == torch.float64 else x.float()
        flat = x.flatten(2)
        v = torch.sin(torch.arange(flat.shape[-1], dtype=torch.float64, device=x.device) + 1)
        v = (v / v.norm()).to(x.dtype)
        return (flat - 2 * (flat @ v)[..., None] * v).reshape(x.shape)
    def unrotate(self, x_bar):
        return self.rotate(x_bar)

@hookimpl
def gendiff_components():
    return [Mirror]
'''
EXPLODE = '''
import torch
from gendiff import Scales, Velocity, hookimpl

class Exploding(Scales):
    """the signal stays, the noise grows: not variance-preserving."""
    def __init__(self, log_s):
        self.table = log_s
        self.N = len(log_s) - 1
    def log_a(self, i):
        return torch.zeros_like(self.log_s(i))
    def log_s(self, i):
        return self.table[i].reshape(-1, 1, 1, 1)
    @property
    def device(self):
        return self.table.device
    def to(self, device):
        return Exploding(self.table.to(device))

class Explode(Velocity):
    """noise that grows geometrically."""
    name = "acme-explode"
    largest: float = 10.0
    def scales(self, rotation, event_shape, N):
        i = torch.arange(N + 1, dtype=torch.float64)
        sigma = 0.01 * (self.largest / 0.01) ** (i / N) * (i > 0)
        return Exploding(sigma.log())

@hookimpl
def gendiff_components():
    return [Explode]
'''
NET = '''
from gendiff import Model, hookimpl

class Net(Model):
    """a network of its own, in another module."""
    name = "acme-net"
    explode: bool = False
    def build(self, event_shape):
        from acme_net.network import Network
        return Network(self.explode)

@hookimpl
def gendiff_components():
    return [Net]
'''
NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self, explode):
        super().__init__()
        self.explode = explode
        self.factor = nn.Parameter(torch.ones(()))
    def forward(self, x, i):
        if self.explode:
            raise RuntimeError("oh")
        return self.factor * x
"""


def component(kind: str, name: str) -> str:
    """One of `FAILING`, which does not fail, under another name."""
    body = FAILING[kind].replace('name = "own"', f'name = "{name}"').replace("use()", "pass")
    return "from gendiff import hookimpl\n" + body + ANNOUNCE


LEAVING = [
    Project("acme-sine", schedule("acme-sine")),
    Project("acme-turn", TURN),
    Project("acme-mirror", MIRROR),
    Project("acme-explode", EXPLODE),
    Project("acme-dots", component("data", "acme-dots")),
    Project("acme-aim", component("objective", "acme-aim").replace("Parametrization.EPS", "Parametrization.V")),
    Project("acme-net", NET, others={"network.py": NETWORK}),
]
#: Versions of acme-sine that came later.
LATER = {
    "another formula": Project("acme-sine", schedule("acme-sine", f"2 * {SINE}"), version="2.0"),
    "another parameter": Project(
        "acme-sine", schedule("acme-sine", SINE.replace("f_max", "top"), "top: float = 0.14"), version="2.1"
    ),
    "no longer that name": Project("acme-sine", schedule("acme-cosine"), version="2.2"),
    "no longer importable": Project("acme-sine", "raise SystemExit(1)\n", version="2.3"),
    "nonsense": Project("acme-sine", schedule("acme-sine", "i * torch.nan"), version="2.4"),
}
#: What a run uses, and how it says so.
USES = {
    "acme-sine": ("--rotation", "dct", "--schedule", "acme-sine:f_max=0.2"),
    "acme-turn": ("--rotation", "acme-turn:angle=0.4"),
    "acme-mirror": ("--rotation", "acme-mirror"),
    "acme-explode": ("--rotation", "dct", "--velocity", "acme-explode:largest=8", "--sampler", "ddim:steps=5"),
    "acme-dots": ("--data", "acme-dots"),
    "acme-aim": ("--objective", "acme-aim"),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("shelf")
    install(target, wheels(LEAVING, tmp_path_factory.mktemp("wheels")))
    return target


@pytest.fixture(scope="module")
def later(tmp_path_factory) -> dict[str, Path]:
    """The wheels of `LATER`."""
    return dict(zip(LATER, wheels(LATER.values(), tmp_path_factory.mktemp("later")), strict=True))


@pytest.fixture
def leaving(shelf, tmp_path) -> Path:
    """`LEAVING` as pip installed it, to be taken from."""
    return Path(shutil.copytree(shelf, tmp_path / "site"))


SMALL = (*TINY, "--set", "N=20", "--set", "train.log_every=1", "--sampler", "ddim:steps=5")


def pictures(path: Path | str, number: int) -> dict[str, bytes]:
    """What ``gendiff sample`` draws into a new folder."""
    folder = Path(f"pictures-{number}")
    done = run("sample", path, "-n", 3, "--seed", 5, "--out", folder)
    assert done.code == 0, done.err
    return {file.name: file.read_bytes() for file in sorted(folder.rglob("*.*"))}


def drawn(path: Path | str) -> torch.Tensor:
    """Three images of a run in full precision."""
    with resolving_with(Registry().component_class), join("cpu") as world:
        opened = Run.open(Path(path))
        model = TrainedModel.load(opened, world.device)
        return torch.cat(list(generate(model.denoiser, opened, opened.config.sampler, 5, range(3), 3)))


@pytest.mark.parametrize("name", USES)
def test_images_are_the_same_when_a_plugin_is_gone(leaving, use, name):
    use(leaving)
    trained = run("train", *SMALL, *USES[name], "--out", "r")
    assert trained.code == 0, trained.err
    kind = next(what for what, who in info("r")["providers"].items() if who["distribution"] == name).split()[0]
    assert "note" not in run("sample", "r", "-n", 1, "--out", "before").err
    exact, events = pictures("r", 1), drawn("r")
    uninstall(leaving, name)
    assert run("config", "show", f"--{kind}", name).code == 2, "it is still there"

    done = run("sample", "r", "-n", 1, "--out", "after")
    assert done.code == 0, done.err
    if kind in ("schedule", "rotation", "velocity", "objective"):
        assert done.err.count("the numbers stored with the run are used") == 1, done.err
        assert name in done.err
    if name == "acme-mirror":
        assert (drawn("r") - events).abs().max() < 1e-4
    else:
        assert torch.equal(drawn("r"), events)
        assert pictures("r", 2) == exact


@pytest.mark.parametrize("name", ["acme-sine", "acme-turn", "acme-mirror", "acme-explode"])
def test_training_goes_on_when_a_plugin_is_gone(leaving, use, name):
    use(leaving)
    assert run("train", *SMALL, *USES[name], "--out", "r").code == 0
    shutil.copytree("r", "kept")
    assert run("train", "--resume", "kept", "--steps", 6).code == 0
    before = Path("r/config.toml").read_text()
    uninstall(leaving, name)
    resumed = run("train", "--resume", "r", "--steps", 6)
    assert resumed.code == 0, resumed.err
    assert name in resumed.err
    assert "the numbers stored with the run are used" in resumed.err
    assert [row["step"] for row in rows("r")] == [1, 2, 3, 4, 5, 6]
    close = pytest.approx if name == "acme-mirror" else lambda value: value
    assert [row["loss"] for row in rows("r")] == close([row["loss"] for row in rows("kept")])
    assert Path("r/config.toml").read_text() == before.replace("steps = 3\n", "steps = 6\n"), (
        "the run forgot its plugin"
    )
    assert info("r")["providers"] == info("kept")["providers"]


@pytest.mark.slow  # in this process: below
def test_in_a_new_process_without_the_plugin_the_real_command_samples(leaving, tmp_path):
    command = ["train", *SMALL, *USES["acme-sine"], "--out", "r"]
    assert gendiff(*command, site=leaving, cwd=tmp_path).returncode == 0
    draw = ["sample", "r", "-n", 2, "--json", "--out"]
    with_it = gendiff(*draw, "one", site=leaving, cwd=tmp_path)
    uninstall(leaving, "acme-sine")
    without = gendiff(*draw, "two", site=leaving, cwd=tmp_path)
    assert (with_it.returncode, without.returncode) == (0, 0), without.stderr
    assert "schedule 'acme-sine'" in without.stderr
    assert "acme-sine 1.0" in without.stderr
    for image in ("events/000000.png", "events/000001.png", "grid.png"):
        assert (tmp_path / "one" / image).read_bytes() == (tmp_path / "two" / image).read_bytes()


def test_all_of_them_gone_at_once(leaving, use):
    use(leaving)
    both = ("--rotation", "acme-turn", "--schedule", "acme-sine", "--data", "acme-dots", "--objective", "acme-aim")
    assert run("train", *SMALL, *both, "--out", "r").code == 0
    events = drawn("r")
    for name in ("acme-turn", "acme-sine", "acme-dots", "acme-aim"):
        uninstall(leaving, name)
    assert torch.equal(drawn("r"), events)
    shown = run("runs", "show", "r")
    assert shown.code == 0, shown.err
    resumed = run("train", "--resume", "r", "--steps", 6)
    one_screen(resumed, 3, "pip install acme-dots==1.0", "pip install acme-aim==1.0")


@pytest.mark.parametrize("change", LATER)
def test_a_later_version_does_not_change_a_run(leaving, later, use, change):
    use(leaving)
    assert run("train", *SMALL, *USES["acme-sine"], "--out", "r").code == 0
    shutil.copytree("r", "kept")
    events = drawn("r")
    assert run("train", "--resume", "kept", "--steps", 5).code == 0
    uninstall(leaving, "acme-sine")  # an upgrade; pip's own leaves the old metadata in a folder of --target
    install(leaving, [later[change]])
    listed = run("plugins", "list").out
    assert f"acme-sine {LATER[change].version}" in listed
    done = run("sample", "r", "-n", 1)
    assert done.code == 0, done.err
    (said,) = [line for line in done.err.splitlines() if "the numbers stored with the run are used" in line]
    assert said.startswith("note: ")
    assert torch.equal(drawn("r"), events)
    resumed = run("train", "--resume", "r", "--steps", 5)
    assert resumed.code == 0, resumed.err
    assert "the numbers stored with the run are used" in resumed.err
    assert rows("r") == rows("kept")


def test_a_model_that_is_gone_says_how_to_get_it_back(leaving, shelf, use):
    use(leaving)
    options = [*SMALL, "--model", "acme-net"]
    assert run("train", *options, "--out", "r").code == 0
    events = drawn("r")
    uninstall(leaving, "acme-net")
    for command in (["sample", "r"], ["train", "--resume", "r", "--steps", 5], ["config", "show", "r"]):
        one_screen(run(*command), 3, "model 'acme-net'", "it came from acme-net 1.0", "pip install acme-net==1.0")
    use(shelf)
    assert torch.equal(drawn("r"), events), "and back again"


def test_a_sampler_that_is_gone_is_replaced_with_a_note():
    sampler = """
from gendiff import hookimpl
from gendiff.grid import GridSampler
from gendiff_plugins.samplers.ddim import plan

class Own(GridSampler):
    \"\"\"a sampler of its own.\"\"\"
    name = "own"
    def updates(self, diffusion):
        return plan(diffusion, self.descent(diffusion), 0.0)

@hookimpl
def gendiff_components():
    return [Own]
"""
    write("mine.py", sampler)
    assert run("--plugin", "mine.py", "train", *SMALL, "--sampler", "own:steps=2", "--out", "r").code == 0
    assert run("--plugin", "mine.py", "sample", "r", "-n", 1).code == 0
    done = run("sample", "r", "-n", 1)
    assert done.code == 0, done.err
    assert (
        "note: its sampler cannot be made: unknown sampler 'own' (it came from mine.py): trig:steps=20,solver=ab2 stands in"
        in done.err
    )
    other = run("sample", "r", "-n", 1, "--sampler", "ddim:steps=2")
    assert other.code == 0, other.err


# --- a run directory is data -----------------------------------------------------------------------------------------------


def test_a_plugin_file_is_kept_with_its_hash_and_never_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("ACME_MARKER", str(tmp_path / "marker"))
    own = {"mine.py": schedule("mine"), "other/mine.py": component("objective", "theirs")}
    for path, source in own.items():
        write(path, source)
    files = [option for path in own for option in ("--plugin", path)]
    command = [
        *files,
        "train",
        *SMALL,
        "--rotation",
        "dct",
        "--schedule",
        "mine",
        "--objective",
        "theirs",
        "--out",
        "r",
    ]
    assert run(*command).code == 0
    kept = info("r")["plugin_files"].values()
    contents = {file["sha256"]: (Path("r") / file["copy"]).read_text() for file in kept}
    assert contents == {hashlib.sha256(source.encode()).hexdigest(): source for source in own.values()}
    assert {file["origin"] for file in kept} == {str(tmp_path / path) for path in own}
    forget()
    events = drawn("r")

    for copy in (tmp_path / "r" / "plugins").iterdir():
        copy.write_text(MARK + copy.read_text())
    for option in (["runs", "show", "r"], ["sample", "r", "-n", 1], ["runs", "list", "."]):
        assert run(*option).code == 0, option
    assert run("config", "show", "r").code in (2, 3), "what train would use is not there"
    assert torch.equal(drawn("r"), events)
    one_screen(run("train", "--resume", "r", "--steps", 5), 3, "gendiff --plugin r/plugins/")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("where", ["config.toml", "run.json", "both"])
def test_what_a_run_says_of_plugins_executes_nothing(tmp_path, monkeypatch, where):
    monkeypatch.setenv("ACME_MARKER", str(tmp_path / "marker"))
    write("mine.py", schedule("mine"))
    assert (
        run("--plugin", "mine.py", "train", *SMALL, "--schedule", "mine", "--rotation", "dct", "--out", "r").code == 0
    )
    forget()
    copy = write("r/plugins/mine.py", MARK + schedule("mine"))
    if where != "run.json":
        toml = Path("r/config.toml")
        toml.write_text(f'plugins = ["plugins/mine.py", "{copy.resolve()}"]\n' + toml.read_text())
    if where != "config.toml":
        told = info("r")
        told["plugin_files"]["mine.py"] |= {
            "origin": str(copy.resolve()),
            "sha256": hashlib.sha256(copy.read_bytes()).hexdigest(),
        }
        told["plugins"] = [str(copy.resolve())]
        Path("r/run.json").write_text(json.dumps(told))
    for command in (
        ["sample", "r", "-n", 1],
        ["train", "--resume", "r", "--steps", 5],
        ["runs", "show", "r"],
        ["config", "show", "r"],
    ):
        done = run(*command)
        assert done.code in (0, 2, 3), done.err
        assert "Traceback" not in done.err
        if where == "run.json" and command[0] != "config":
            assert done.code == 0, done.err
    assert not (tmp_path / "marker").exists()
    assert not [module for module in sys.modules if module.startswith("gendiff_plugin_")]
