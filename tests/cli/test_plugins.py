"""`gendiff plugins info|new|check`; `list` is in test_registry."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import run

from gendiff.plugin.registry import default_registry
from gendiff.testing import checks

SINE = '''
import torch
from gendiff import BlurSchedule, hookimpl

class Sine(BlurSchedule):
    """f(i) = f_max sin^2(pi i / 2N).

    Reference: nobody 2026.
    """
    name = "sine"
    f_max: float = 0.14
    def f(self, i, N):
        return self.f_max * torch.sin(torch.pi * i / (2 * N)) ** 2

@hookimpl
def gendiff_components():
    return [Sine]
'''
WRONG = SINE.replace("torch.sin(torch.pi * i / (2 * N)) ** 2", "torch.cos(torch.pi * i / N)")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sine.py").write_text(SINE)
    (tmp_path / "wrong.py").write_text(WRONG)
    yield tmp_path
    for module in [name for name in sys.modules if name.startswith("gendiff_plugin_")]:
        del sys.modules[module]


class TestInfo:
    @pytest.mark.parametrize("entry", default_registry().entries(), ids=lambda entry: f"{entry.kind}-{entry.name}")
    def test_every_component_shows_its_parameters(self, entry):
        done = run("plugins", "info", entry.name, "--kind", entry.kind)
        assert done.code == 0
        (found,) = run("plugins", "info", entry.name, "--kind", entry.kind, "--json").json["components"]
        assert [p["name"] for p in found["parameters"]] == list(entry.load().model_fields)
        for parameter in found["parameters"]:
            assert parameter["name"] in done.out
            assert parameter["type"] in done.out
            assert parameter["description"]
            assert "annotat" not in parameter["type"]
        assert found["description"].startswith(entry.summary)
        assert done.err.startswith(f"next: gendiff plugins check {entry.name} --kind {entry.kind}")

    def test_types_ranges_defaults_and_references(self):
        several = run("plugins", "info", "blur", "--json").json["components"]
        (found,) = (one for one in several if one["kind"] == "velocity")
        assert found["parameters"] == [
            {"name": "noise", "type": "noise", "default": "linear", "range": "", "description": "noise schedule β_i"},
            {"name": "schedule", "type": "schedule", "default": "quartic", "range": "", "description": "blur schedule f(i)"},
            {"name": "sigma", "type": "number", "default": "0.4", "range": "≥ 0.01, ≤ 100",
             "description": "std σ of the elementary blur, pixels"},
        ]  # fmt: skip
        assert found["references"] == ["Reference: Lee, Chung, Kim, Ye 2022, arXiv 2207.11192, eq. 12-14."]

    @pytest.mark.parametrize("kind", ["sampler", "grid", "preset"])
    def test_a_list_of_a_kind_leads_to_one_of_it(self, kind):
        done = run("plugins", "list", "--kind", kind)
        line = done.err.splitlines()[-1].removeprefix("next: gendiff ")
        assert line.endswith(f"--kind {kind}")
        assert run(*line.split()).code == 0

    def test_a_name_of_several_kinds_shows_all_of_them(self):
        found = run("plugins", "info", "linear", "--json").json["components"]
        assert [entry["kind"] for entry in found] == ["noise", "schedule"]

    def test_a_preset_shows_its_content(self):
        done = run("plugins", "info", "digits-demo")
        assert done.code == 0
        assert "[train]" in done.out
        assert "next: gendiff train --preset digits-demo" in done.err

    def test_a_file_shows_its_hash(self):
        (found,) = run("plugins", "info", "sine.py", "--json").json["components"]
        assert (found["name"], len(found["sha256"])) == ("sine", 64)
        assert found["references"] == ["Reference: nobody 2026."]
        assert run("--plugin", "sine.py", "plugins", "info", "sine").code == 0

    @pytest.mark.parametrize("name", ["quatric", "missing.py"])
    def test_what_is_not_there_is_an_error(self, name):
        done = run("plugins", "info", name)
        assert done.code in (2, 3)
        assert name in done.err.splitlines()[0]


class TestCheck:
    def test_a_sound_file_passes_and_says_what_to_do_next(self):
        done = run("plugins", "check", "sine.py")
        assert done.code == 0, done.err
        assert done.out.splitlines()[0] == "schedule 'sine' of sine.py: 9 of 9 hold"
        assert "next: gendiff --plugin sine.py process show --rotation dct --schedule sine" in done.err

    def test_an_unsound_one_is_exit_5_with_what_was_expected_and_seen(self):
        done = run("plugins", "check", "wrong.py")
        assert done.code == 5
        assert "FAIL  f(i) is finite and never negative, for every N" in done.out
        assert "expected: " in done.out
        assert "look at:  `f(i, N)`" in done.out
        assert "do not hold" in done.err
        assert "Traceback" not in done.err

    def test_json_is_one_object_whatever_the_outcome(self):
        for file, code in (("sine.py", 0), ("wrong.py", 5)):
            done = run("plugins", "check", file, "--json")
            assert done.code == code
            assert done.json["passed"] is (code == 0)
            (card,) = done.json["components"]
            assert {"title", "passed", "seen", "expected", "look"} == card["checks"][0].keys()
            assert all(line["passed"] for line in card["checks"]) is (code == 0)

    def test_a_spec_is_checked_with_its_parameters(self):
        done = run("plugins", "check", "log:f_max=0.3", "--kind", "schedule", "--json")
        (card,) = done.json["components"]
        assert any("0.3" in line["seen"] for line in card["checks"])
        assert run("plugins", "check", "log:f_max=-1").code == 2

    def test_a_name_of_several_kinds_is_checked_as_each(self):
        cards = run("plugins", "check", "linear", "--json").json["components"]
        assert [card["component"].split()[0] for card in cards] == ["noise", "schedule"]

    def test_a_preset_is_checked(self):
        assert run("plugins", "check", "digits-demo").code == 0

    def test_a_broken_file_is_exit_5_with_the_reason(self):
        Path("broken.py").write_text("1/0\n")
        done = run("plugins", "check", "broken.py")
        assert (done.code, "ZeroDivisionError" in done.out) == (5, True)
        Path("empty.py").write_text("")
        assert run("plugins", "check", "empty.py").code != 0

    @pytest.mark.parametrize(("announced", "same"), [("f(i) = f_max sin^2(pi i / 2N)", True), ("f(i) = f_max", False)])
    def test_the_summary_in_lists_is_compared_with_the_docstring(self, here, monkeypatch, announced, same):
        (here / "acme_summary.py").write_text(SINE.partition("@hookimpl")[0])
        (here / "lazy.py").write_text(
            "from gendiff import Lazy, hookimpl\n\n@hookimpl\ndef gendiff_components():\n"
            f"    return [Lazy('schedule', 'sine', 'acme_summary:Sine', '{announced}')]\n"
        )
        monkeypatch.syspath_prepend(here)
        done = run("plugins", "check", "lazy.py", "--json")
        monkeypatch.delitem(sys.modules, "acme_summary")
        assert done.code == (0 if same else 5)
        (line,) = [one for one in done.json["components"][0]["checks"] if "summary in lists" in one["title"]]
        assert line["passed"] is same
        if not same:
            assert line["seen"] == "'f(i) = f_max' in lists"
            assert line["expected"] == "'f(i) = f_max sin^2(pi i / 2N)', as its docstring says"
            assert (
                line["look"] == 'the summary in Lazy("schedule", "sine", ...), and the docstring of acme_summary:Sine'
            )

    def test_what_is_not_there_is_an_error(self):
        assert run("plugins", "check", "sinus").code == 2
        assert run("plugins", "check", "no/such.py").code == 3


class TestNew:
    def test_it_prints_the_next_three_commands(self):
        done = run("plugins", "new", "acme-sine", "--kind", "schedule")
        assert done.code == 0
        assert done.out.splitlines()[0] == "acme-sine"
        assert [line.removeprefix("next: ") for line in done.err.splitlines()] == [
            "cd acme-sine",
            "pip install -e '.[test]' && pytest",
            "gendiff plugins check acme-sine",
        ]
        files = run("plugins", "new", "acme-cosine", "--json").json["files"]
        assert "pyproject.toml" in files
        assert all(Path("acme-cosine", file).is_file() for file in files)

    def test_nothing_is_overwritten(self):
        assert run("plugins", "new", "acme-sine").code == 0
        again = run("plugins", "new", "acme-sine")
        assert again.code == 2
        assert "acme-sine" in again.err

    def test_it_does_not_import_torch(self):
        script = (
            "import sys; sys.argv = ['gendiff', 'plugins', 'new', 'acme-sine']\n"
            "from gendiff_cli.app import main\n"
            "try: main()\n"
            "except SystemExit as done: assert not done.code\n"
            "import gendiff_cli.doctor\n"
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_check_knows_what_the_kit_knows():
    component = default_registry().component_class("schedule", "log").model_validate({})
    (card,) = json.loads(run("plugins", "check", "log", "--json").out)["components"]
    *titles, last = [line["title"] for line in card["checks"]]
    assert titles == [str(check) for check in checks(component)]
    assert "summary in lists" in last
