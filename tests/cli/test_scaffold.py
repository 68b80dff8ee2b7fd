"""``gendiff plugins new``: a package of every kind that works as it is written, and errors that say what is allowed."""

from __future__ import annotations

import configparser
import csv
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from string import Template
from zipfile import ZipFile

import pytest
from command import run
from gendiff_cli import scaffold
from gendiff_cli.scaffold import COMMANDS, KINDS, create
from PIL import Image
from places import ROOT

from gendiff.errors import ConfigError, GendiffError
from gendiff.plugin.registry import default_registry

MODULES = {kind: f"acme_{kind}" for kind in KINDS}


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> dict[str, Path]:
    """A package of every kind, below one folder."""
    into = tmp_path_factory.mktemp("packages")
    return {kind: create(f"acme-{kind}", kind, into) for kind in KINDS}


def sources(packages) -> list[str]:
    return [str(folder / "src") for folder in packages.values()]


def python(*arguments: object, cwd: Path, path: list[str] = [], code: int = 0, **variables: str) -> str:  # noqa: B006  # not changed
    """What ``python *arguments`` prints, with more folders to import from; it must end with that code."""
    known = os.environ | variables | {"OMP_NUM_THREADS": "1"}
    known["PYTHONPATH"] = os.pathsep.join(filter(None, [*path, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=known, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def importable(packages, monkeypatch) -> list[str]:
    """Options that load all of them; what is imported is forgotten after the test."""
    for kind, folder in packages.items():
        monkeypatch.syspath_prepend(folder / "src")
        for module in (MODULES[kind], f"{MODULES[kind]}.{kind}"):
            monkeypatch.setitem(sys.modules, module, None)
            monkeypatch.delitem(sys.modules, module)
    inits = (folder / "src" / MODULES[kind] / "__init__.py" for kind, folder in packages.items())
    return [option for path in inits for option in ("--plugin", str(path))]


# --- what is written ----------------------------------------------------------------------------------------------------


def test_there_is_an_example_of_every_kind():
    assert set(KINDS) == {*default_registry().kinds(), "preset"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_files(packages, kind):
    folder, module = packages[kind], MODULES[kind]
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {
        ".github/workflows/test.yml",
        ".gitignore",
        "README.md",
        "pyproject.toml",
        f"src/{module}/__init__.py",
        f"src/{module}/acme-preset.toml" if kind == "preset" else f"src/{module}/{kind}.py",
        f"src/{module}/py.typed",
        f"tests/test_{module}.py",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_project_says_of_itself(packages, kind):
    folder, name = packages[kind], f"acme-{kind}"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == name
    assert project["dependencies"] == ["gendiff"]
    assert project["entry-points"] == {"gendiff": {name: MODULES[kind]}}
    readme, init = ((folder / path).read_text() for path in ("README.md", f"src/{MODULES[kind]}/__init__.py"))
    assert project["description"] in readme
    assert "Reference: " in readme
    assert "gendiff_api_version = 1\n" in init
    if kind != "preset":
        assert project["description"] in init
    workflow = (folder / ".github/workflows/test.yml").read_text()
    assert "${{ matrix.python }}" in workflow
    assert (
        "Change"
        in (folder / "src" / MODULES[kind] / ("acme-preset.toml" if kind == "preset" else f"{kind}.py")).read_text()
    )


@pytest.mark.parametrize("name", ["z9", "a-1", "long-name-of-many-words"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_name_gives_python_and_toml_that_can_be_read(name, kind):
    for path, content in scaffold.package(name, kind).items():
        assert "$" not in content.replace("${{", "").replace(']*$"', ""), path
        if path.endswith(".py"):
            compile(content, path, "exec", dont_inherit=True)
        elif path.endswith(".toml"):
            tomllib.loads(content)


@pytest.mark.slow
def test_style_and_types(packages, pytestconfig):
    into = packages["model"].parent
    python("-m", "ruff", "check", "--no-cache", into, cwd=into)
    options = ["--config-file=", "--strict", "--explicit-package-bases", "--follow-imports=silent"]
    options.append(f"--cache-dir={pytestconfig.cache.mkdir('mypy')}")  # gendiff's own types are the same each time
    own = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "cli")]
    # Written for an installed gendiff; here its source stands in.
    python("-m", "mypy", *options, *sources(packages), cwd=into, MYPYPATH=os.pathsep.join(own + sources(packages)))


def test_writing_and_announcing_import_no_torch(packages, tmp_path):
    code = f"""
import importlib, sys
from pathlib import Path
from gendiff_cli import scaffold
scaffold.create("sine", "schedule", Path("."))
for module in {[*MODULES.values()]}:
    plugin = importlib.import_module(module)
    assert plugin.gendiff_presets() if module == "acme_preset" else plugin.gendiff_components()
assert "torch" not in sys.modules
"""
    python("-c", code, cwd=tmp_path, path=sources(packages))


# --- what it does -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_their_tests_pass_as_they_are_written(packages):
    into = packages["model"].parent
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    tests = [folder / "tests" for folder in packages.values()]
    python("-m", "pytest", *options, *tests, cwd=into, path=sources(packages))


#: Another formula for each kind: what to write in place of what.
CHANGES = {
    "rotation": [("return math.sqrt(2 / n) * (angle.cos() if self.wave == \"cos\" else angle.sin())",
                  "return (math.sqrt(2 / n) * (angle.cos() if self.wave == \"cos\" else angle.sin())).flip(1)")],
    "schedule": [("torch.sin(torch.pi * i / (2 * N)) ** 2", "(i / N) ** 3")],
    "noise": [("torch.exp(-self.depth * (i / N) ** self.power)", "1 / (1 + self.depth * (i / N) ** self.power)")],
    "velocity": [("torch.where(passed, 0.0, log_D)", "torch.where(passed, log_D, 0.0)")],
    "process": [('"name": "log"', '"name": "quartic"')],
    "model": [("return h + residual", "return (h + residual) / 2**0.5")],
    "objective": [("torch.minimum(a**2, self.gamma * s**2)", "(a * s) ** self.gamma")],
    "sampler": [("order = 2", "order = 1"), ("b=there.s + w, past=(Past(b=-w),)", "b=there.s")],
    "grid": [("(k / n) ** self.power", "torch.sin(torch.pi * k / (2 * n)) ** self.power")],
    "data": [("return torch.cos(2 * math.pi * along / wavelength + phase)",
              "return torch.tanh(2 * torch.cos(2 * math.pi * along / wavelength + phase))")],
    "metric": [("mean = rms(x.mean(0) - y.mean(0))", "mean = 3 * rms(x.mean(0) - y.mean(0))")],
    "features": [("x.square().mean(axes).sqrt()", "x.abs().amax(axes)")],
    "logger": [("[step, name, value] for", "[step, name.upper(), value] for")],
    "guide": [("1 + 2 * (self.weight - 1) * (1 - t)", "1 + (self.weight - 1) * (1 - t) ** 2")],
    "operator": [("return x[..., :: self.every]", "return 2 * x[..., :: self.every]"),
                 ("x[..., :: self.every] = y", "x[..., :: self.every] = 2 * y")],
    "latent": [("avg_pool2d(pictures.float(), self.factor) * self.scale",
                "avg_pool2d(pictures.float(), self.factor) * (self.scale + 1)")],
    "preset": [("f_max = 0.3", "f_max = 0.5")],
}  # fmt: skip


@pytest.mark.slow
def test_another_formula_breaks_only_tests_that_are_marked_for_it(tmp_path):
    """And these say what they are. (A network is no formula: none of its tests asks which one it is.)"""
    folders = {kind: create(f"acme-{kind}", kind, tmp_path) for kind in KINDS}
    for kind, folder in folders.items():
        file = folder / "src" / MODULES[kind] / ("acme-preset.toml" if kind == "preset" else f"{kind}.py")
        text = file.read_text()
        for old, new in CHANGES[kind]:
            assert text.count(old) == 1, (kind, old)
            text = text.replace(old, new)
        file.write_text(text)
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--tb=line", "-rf"]
    tests = [folder / "tests" for folder in folders.values()]
    path = sources(folders)
    python("-m", "pytest", *options, "-m", "not gendiff_formula", *tests, cwd=tmp_path, path=path)
    said = python(
        "-m", "pytest", *options, "--tb=short", "-m", "gendiff_formula", *tests, cwd=tmp_path, path=path, code=1
    )
    failed = {kind for kind in KINDS if f"/test_acme_{kind}.py::" in said.partition("short test summary")[2]}
    assert failed == set(KINDS) - {"model"}
    assert said.count("If you have changed the formula, change or delete it") == said.count("\nFAILED ")


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_of_the_readme(packages, importable, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = Template(COMMANDS[kind]).substitute(name=f"acme-{kind}")
    assert f"\n{command}\n" in (packages[kind] / "README.md").read_text()
    if " RUN " in command:  # what a reader has of their own
        told = ["--set", 'condition=["label"]', "--model", "mlp:width=8,depth=1", "--steps", "1", "--out", "RUN"]
        assert run("train", *told).code == 0
        Image.new("L", (4, 8)).save("picture.png")
    done = run(*importable, *shlex.split(command)[1:], *(["--dry-run"] if command.startswith("gendiff train") else []))
    assert done.code == 0, done.err


def test_a_run_made_of_them(importable, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = ["rotation", "schedule", "noise", "velocity", "objective", "sampler", "metric", "logger"]
    named = [option for kind in parts for option in (f"--{kind}", f"acme-{kind}")]
    settings = {"N": 20, "train.preview": "acme-sampler:steps=4", "train.sample_every": 2, "train.log_every": 1}
    assigned = [option for key, value in settings.items() for option in ("--set", f"{key}={value}")]
    done = run(
        *importable, "train", *named, *assigned, "--model", "acme-model:width=8,depth=2", "--data", "acme-data",
        "--size", "9x12", "--steps", 2, "--batch", 3, "--out", "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "switched off" not in done.err
    with Path("run/acme-logger.csv").open() as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {"loss", "metrics.acme-metric.distance"} <= names
    drawn = run(*importable, "sample", "run", "--n", 2)
    assert drawn.code == 0, drawn.err


def test_it_installs_from_a_wheel(packages, tmp_path):
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, packages["preset"], cwd=tmp_path)
    (wheel,) = tmp_path.glob("acme_preset-0.1.0-*.whl")
    with ZipFile(wheel) as archive:
        points = configparser.ConfigParser()
        points.read_string(archive.read("acme_preset-0.1.0.dist-info/entry_points.txt").decode())
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert dict(points["gendiff"]) == {"acme-preset": "acme_preset"}
    assert packed == {"acme_preset/__init__.py", "acme_preset/acme-preset.toml", "acme_preset/py.typed"}


# --- what is refused ----------------------------------------------------------------------------------------------------


def refused(name, kind, into) -> ConfigError:
    """The error; nothing may have been written."""
    before = sorted(into.rglob("*")) if into.is_dir() else []
    with pytest.raises(ConfigError) as caught:
        create(name, kind, into)
    assert (sorted(into.rglob("*")) if into.is_dir() else []) == before
    assert caught.value.details or caught.value.fix
    return caught.value


def test_an_unknown_kind(tmp_path):
    error = refused("acme-sine", "shedule", tmp_path)
    assert error.what == "unknown kind 'shedule'"
    assert error.details == (f"known: {', '.join(KINDS)}", "did you mean 'schedule'?")


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("AcmeSine", "acme-sine"),
        ("acme_sine", "acme-sine"),
        ("Acme Sine!", "acme-sine"),
        ("-acme--sine-", "acme-sine"),
        ("../sine", "sine"),
        ("2sine", "sine"),
        ("sine\n", "sine"),
        ("", "acme-sine"),
        ("ﬁne", "ne"),
        ("…", "acme-sine"),
    ],
)
def test_a_name_that_is_none(tmp_path, name, better):
    error = refused(name, "schedule", tmp_path)
    assert error.what == f"'{name}' cannot be the name of a plugin"
    assert "small letters and digits" in error.details[0]
    assert error.fix == f"write it like {better}"


@pytest.mark.parametrize(
    ("name", "kind", "because"),
    [
        ("class", "schedule", "'class', which is a word of Python"),
        ("none", "velocity", "'None', which is a word of Python"),
        ("print", "data", "'print', which is a word of Python"),
        ("value-error", "data", "'ValueError', which is a word of Python"),
        ("json", "metric", "'json' is a module of Python's standard library"),
        ("gendiff", "model", "Python already finds a package 'gendiff' here"),
        ("torch", "model", "Python already finds a package 'torch' here"),
        ("gendiff-plugins", "model", "Python already finds a package 'gendiff_plugins' here"),
        ("pillow", "data", "a distribution 'pillow' is installed"),
        ("quartic", "schedule", "gendiff has a schedule of that name"),
        ("digits-demo", "preset", "gendiff has a preset of that name"),
        ("blur-schedule", "schedule", "'BlurSchedule', and the example uses that word"),
        ("tensor", "noise", "'Tensor', and the example uses that word"),
        ("lazy", "noise", "'Lazy', and the example uses that word"),
    ],
)
def test_a_name_that_is_taken(tmp_path, name, kind, because):
    error = refused(name, kind, tmp_path)
    assert error.what == f"a plugin cannot be called '{name}'"
    assert because in error.details[0]
    assert error.fix == f"choose another name, such as my-{name}"


def test_a_folder_that_holds_something(tmp_path):
    mine = tmp_path / "acme-sine" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("work of weeks")
    error = refused("acme-sine", "schedule", tmp_path)
    assert error.what == f"'{mine.parent}' is there already"
    assert "nothing is ever overwritten" in error.details
    assert mine.read_text() == "work of weeks"
    mine.unlink()
    assert create("acme-sine", "schedule", tmp_path) == mine.parent
    assert (mine.parent / "pyproject.toml").is_file()
    refused("acme-sine", "schedule", tmp_path)


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["file", "link"])
def test_a_folder_that_is_none(tmp_path, make):
    make(tmp_path / "acme-sine")
    assert "is there already" in refused("acme-sine", "schedule", tmp_path).what


def test_it_makes_the_folder_to_write_into(tmp_path):
    assert create("acme-sine", "schedule", tmp_path / "a" / "b").parent == tmp_path / "a" / "b"


def test_a_folder_that_cannot_be_written_into(tmp_path):
    (tmp_path / "file").touch()
    error = refused("acme-sine", "schedule", tmp_path / "file")
    assert error.what.startswith(f"cannot write '{tmp_path / 'file' / 'acme-sine'}': ")
    assert error.fix == "choose another folder to write it into"


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path, monkeypatch):
    write, written = Path.write_text, []

    def full(path, *arguments, **options):
        written.append(path)
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(GendiffError, match="No space left on device") as caught:
        create("acme-sine", "schedule", tmp_path)
    assert "bytes needed" in caught.value.details[0]
