"""A machine without a network: what it lacks is taken from wheels, and what no wheel has is named."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import zipfile

import away
import pytest


def write_wheel(folder, name, version="1.0", requires=(), tag="py3-none-any"):
    folder.mkdir(exist_ok=True)
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    file = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", "x = 1")
        archive.writestr(f"{name}/tests/test_x.py", "x = 1" * 1000)
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n")
    return file


@pytest.fixture
def has(monkeypatch):
    """What the machine has, by name: version."""
    versions = {"torch": "2.11.0"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(away.importlib.metadata, "version", version)
    return versions


def test_only_what_lacks_or_is_too_old_is_taken_with_what_it_needs_in_turn(tmp_path, has):
    has |= {"present": "1.0", "old": "0.9", "core": "2.0"}
    files = [
        write_wheel(tmp_path, "absent", requires=["core==3.0", "sometimes; extra == 'more'", "torch"]),
        write_wheel(tmp_path, "core", "3.0"),
        write_wheel(tmp_path, "old", "1.5"),
    ]
    for name in ("present", "torch", "unasked", "sometimes"):
        write_wheel(tmp_path, name, "9.0")
    write_wheel(tmp_path, "absent", "2.0", tag="cp27-cp27m-win32")  # of another Python
    wheels, missing = away.Wheels([tmp_path]).lacking(["absent", "present>=1", "old>=1", "torch>=2.9"])
    assert sorted(wheels) == sorted(files)
    assert missing == []


def test_what_no_wheel_has_is_named_with_the_way_to_bring_it(tmp_path, has):
    write_wheel(tmp_path, "absent", requires=["other_thing>=1"])
    wheels = away.Wheels([tmp_path])
    assert wheels.lacking(["absent>=2", "other-thing>=1.0"])[1] == ["absent>=2", "other-thing>=1.0"]
    assert wheels.lacking(["absent"])[1] == ["other_thing>=1"]
    text = away.told(["pydantic>=2.9", "tomli-w>=1.0"], [tmp_path])
    python = ".".join(platform.python_version_tuple()[:2])
    assert "missing here" in text
    assert f"--pack wheels --python {python}" in text
    assert f"--python-version {python} --platform manylinux_2_28_{platform.machine()}" in text
    assert "-d wheels pydantic==" in text  # the version of constraints.txt
    assert "tomli_w==" in text


def test_a_machine_that_lacks_something_is_told_before_anything_begins(tmp_path, has, monkeypatch):
    monkeypatch.setattr(away, "needs", lambda: ["torch>=2.9", "absent>=2"])
    with pytest.raises(SystemExit, match=r"missing here .*: absent>=2\n"):
        away.environment(tmp_path / "site", away.Wheels([]))
    has["torch"] = "2.8.0"
    with pytest.raises(SystemExit, match=r"has no torch>=2\.9: name the Python that has it, make gpu PYTHON="):
        away.environment(tmp_path / "site", away.Wheels([]))


def test_it_is_unpacked_beside_the_plugins_of_gendiff(tmp_path, has, monkeypatch):
    write_wheel(tmp_path, "absent")
    monkeypatch.setattr(away, "needs", lambda: ["absent"])
    monkeypatch.setattr(away, "is_installed", lambda name: False)
    site = tmp_path / "site"
    (site / "stale").mkdir(parents=True)
    environment = away.environment(site, away.Wheels([tmp_path]))
    assert (site / "absent.py").is_file()
    assert not (site / "stale").exists()
    places = environment["PYTHONPATH"].split(os.pathsep)
    assert {str(site), *(str(away.ROOT / part) for part in ("cli", "plugins"))} < set(places)
    (own,) = [one for one in importlib.metadata.distributions(path=[str(site)]) if one.metadata["Name"] == "gendiff"]
    installed = importlib.metadata.distribution("gendiff").entry_points
    here = {(point.group, point.name, point.value) for point in own.entry_points}
    assert here == {(one.group, one.name, one.value) for one in installed if one.group != "console_scripts"}


def test_all_that_gendiff_needs_is_known_and_nothing_that_torch_brings(monkeypatch):
    names = away.closure(away.needs())
    assert {"pydantic", "pydantic-core", "tomli-w", "pytorch-fid", "scipy", "numpy", "packaging", "pytest"} <= set(
        names
    )
    assert not {name for name in names if name.startswith(("torch", "nvidia", "triton"))}
    assert {"PIL", "torch", "tomli_w", "pytorch_fid"} <= set(away.modules())


def test_a_wheelhouse_that_is_too_large_is_packed_more_tightly(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(away.subprocess, "run", lambda line: type("Done", (), {"returncode": 0}))
    wheel = write_wheel(tmp_path, "large")
    size = wheel.stat().st_size / 2**20
    monkeypatch.setattr(away, "closure", lambda requirements: ["large"])
    monkeypatch.setattr(away, "TIGHT", 0)
    monkeypatch.setattr(away, "MOST", 0.9 * size)
    assert away.pack(tmp_path, "3.12") == 0
    with zipfile.ZipFile(wheel) as archive:
        assert sorted(archive.namelist()) == ["large-1.0.dist-info/METADATA", "large.py"]
    monkeypatch.setattr(away, "MOST", 0)
    assert away.pack(tmp_path, "3.12") == 1
    assert "MiB are too many" in capsys.readouterr().out


def test_wheels_are_found_in_the_checkout_and_beside_it_and_where_pip_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(away, "ROOT", tmp_path / "checkout")
    places = [tmp_path / "checkout" / "wheels", tmp_path / "wheelhouse", tmp_path / "mine"]
    for place in places:
        place.mkdir(parents=True)
    monkeypatch.setenv("PIP_FIND_LINKS", str(places[-1]))
    assert away.wheelhouses() == places
