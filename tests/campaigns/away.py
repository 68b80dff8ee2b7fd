"""Away: gendiff on a machine without a network, from a checkout, its own torch, and a wheelhouse beside the checkout.

What the machine has is left as it is. What it lacks, or has in a version that is too old, is unpacked from wheels into a folder
that only the parts of a campaign see. Where a wheel is missing for that, it is said which, and how it is fetched:

    pip download --only-binary=:all: --no-deps --python-version 3.12 ... -d wheels pydantic==2.14.3

gendiff itself is not installed either: what an installation says of it, its plugins, is written beside them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MOST = 60  # MiB of a wheelhouse
TIGHT = 1  # MiB of a wheel that is worth packing more tightly
TESTS = ("pytest>=8.2", "packaging")  # what campaigns need beside gendiff
#: Never carried, nor what they need: torch is the machine's own, and torchvision must fit it.
ITS_OWN = ("torch", "torchvision")
MODULES = {"pillow": "PIL"}  # by distribution, where the two have different names
GLIBC = ("_2_28", "_2_27", "_2_17", "2014")  # manylinux tags


def needs() -> list[str]:
    """The requirements of gendiff, torch among them, and of the campaigns."""
    return [*_project()["dependencies"], *TESTS]


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def module(distribution: str) -> str:
    """What is imported of a distribution."""
    return MODULES.get(distribution, distribution.replace("-", "_"))


def wheelhouses() -> list[Path]:
    """Where wheels are looked for: in the checkout, beside it, and where pip is told to."""
    told = map(Path, os.environ.get("PIP_FIND_LINKS", "").split())
    places = [place / name for place in (ROOT, ROOT.parent) for name in ("wheels", "wheelhouse")]
    return [place for place in (*places, *told) if place.is_dir()]


def modules() -> list[str]:
    """What must be importable."""
    return [module(_name(one)) for one in needs()]


@dataclass
class Wheels:
    """Those of some folders that this Python can use, by distribution, the newest of each."""

    folders: Sequence[Path]
    files: dict[str, Path] = field(default_factory=dict)
    borrows: bool = False  # whether this process itself has packaging from a wheel

    def __post_init__(self) -> None:
        self.import_packaging()
        from packaging.tags import sys_tags
        from packaging.utils import InvalidWheelFilename, parse_wheel_filename

        own, versions = set(sys_tags()), dict[str, Any]()
        for file in sorted(file for folder in self.folders for file in folder.glob("*.whl")):
            try:
                name, version, _, tags = parse_wheel_filename(file.name)
            except InvalidWheelFilename:
                continue
            if tags & own and (name not in versions or versions[name] < version):
                self.files[name], versions[name] = file, version

    def import_packaging(self) -> None:
        """Make sure of packaging, which knows versions and tags; raises `SystemExit` where it is neither here nor carried."""
        if importlib.util.find_spec("packaging"):
            return
        carried = sorted(file for folder in self.folders for file in folder.glob("packaging-*.whl"))
        if not carried:
            raise SystemExit(told(["packaging"]))
        sys.path.append(str(carried[-1]))  # a wheel of Python alone can be imported as it is
        self.borrows = True

    def lacking(self, requirements: Iterable[str]) -> tuple[list[Path], list[str]]:
        """The wheels that make up for what is not here, and the requirements for which there is none."""
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name

        queue, taken, missing = [Requirement(one) for one in requirements], dict[str, Path](), dict[str, str]()
        direct = len(queue)
        for place, requirement in enumerate(queue):  # which grows meanwhile
            name = canonicalize_name(requirement.name)
            ours = name not in ITS_OWN or place < direct
            here = is_here(requirement) and not (self.borrows and name == "packaging")
            if name in taken or name in missing or not ours or not _applies(requirement) or here:
                continue
            file = None if name in ITS_OWN else self.files.get(name)
            if file is None or not requirement.specifier.contains(_version(file), prereleases=True):
                missing[name] = str(requirement)
                continue
            taken[name] = file
            queue += map(Requirement, _metadata(file).get_all("Requires-Dist", []))
        return list(taken.values()), list(missing.values())


def _applies(requirement: Any) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _metadata(wheel: Path) -> Any:
    import email.parser

    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode("utf-8"), headersonly=True)


def _version(wheel: Path) -> Any:
    from packaging.utils import parse_wheel_filename

    return parse_wheel_filename(wheel.name)[1]


def is_here(requirement: Any) -> bool:
    """Whether this Python has what is required: by its record, or, of what was never installed, by being importable."""
    from packaging.utils import canonicalize_name

    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return importlib.util.find_spec(module(canonicalize_name(requirement.name))) is not None
    return bool(requirement.specifier.contains(version, prereleases=True))


def environment(site: Path, wheels: Wheels) -> dict[str, str]:
    """The environment in which gendiff can be imported, its plugins are there, and what the machine lacks is in ``site``.

    Raises:
        SystemExit: where neither the machine nor the wheels have something, and says what and how to bring it.

    """
    carried, missing = wheels.lacking(needs())
    if own := [one for one in missing if _name(one) in ITS_OWN]:
        raise SystemExit(f"{sys.executable} has no {own[0]}: name the Python that has it, make gpu PYTHON=...")
    if missing:
        raise SystemExit(told(missing, wheels.folders))
    shutil.rmtree(site, ignore_errors=True)
    for wheel in carried:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    if carried:
        print(f"not on this machine, and taken from wheels: {', '.join(sorted(map(_named, carried)))}", flush=True)
    if not importlib.util.find_spec("gendiff") or not is_installed("gendiff"):
        write_entry_points(site)
    places = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "cli"), str(site), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}


def _named(wheel: Path) -> str:
    return " ".join(wheel.name.split("-")[:2])


def is_installed(name: str) -> bool:
    """Whether there is a distribution of that name."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def write_entry_points(site: Path) -> None:
    """What an installation says of gendiff: that it is there, and which plugins it has."""
    folder = site / "gendiff-0.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: gendiff\nVersion: 0\n", encoding="utf-8")
    lines = []
    for group, points in _project()["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {module}" for name, module in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- bringing it --------------------------------------------------------------------------------------------------------


def told(missing: Sequence[str], folders: Sequence[Path] = ()) -> str:
    """What is missing on this machine, and how to bring it."""
    names, python = list(map(_name, missing)), ".".join(platform.python_version_tuple()[:2])
    by_pip = " ".join(pip(pinned(names), Path("wheels"), python, platform.machine()))
    lines = [
        f"missing here ({sys.executable}, Python {platform.python_version()}): {', '.join(missing)}",
        f"wheels were looked for in {', '.join(map(str, folders)) or 'no folder: wheels/ is not here, nor beside the checkout'}",
        "",
        "on a machine with a network, in the checkout and its environment, .venv, for all that may be missing:",
        "",
        f"    .venv/bin/python tests/campaigns/gpu.py --pack wheels --python {python}",
        "",
        "or for this alone, again until nothing is missing:",
        "",
        f"    python -m {by_pip}",
        "",
        "then copy wheels/ into the checkout here, or beside it",
    ]
    return "\n".join(lines)


def _name(requirement: str) -> str:
    """The name in a requirement, as packaging writes it."""
    for place, character in enumerate(requirement):
        if not (character.isalnum() or character in "-_."):
            requirement = requirement[:place]
            break
    return requirement.lower().replace("_", "-").replace(".", "-")


def pinned(names: Iterable[str]) -> list[str]:
    """Distributions in the versions of constraints.txt, where it names them."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    versions = {_name(line): line.strip() for line in lines if "==" in line}
    return [versions.get(name, name) for name in names]


def pip(words: Sequence[str], folder: Path, python: str, machine: str = "x86_64") -> list[str]:
    """The words of pip that fetch wheels for another machine, which has that version of Python."""
    line = ["pip", "download", "--only-binary=:all:", "--no-deps", "--implementation", "cp", "--python-version", python]
    for tag in GLIBC:
        line += ["--platform", f"manylinux{tag}_{machine}"]
    return [*line, "-d", str(folder), *words]


def closure(requirements: Iterable[str]) -> list[str]:
    """The distributions that these come to, as they are installed here, but for what is the other machine's own."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    queue, names = [Requirement(one) for one in requirements], list[str]()
    while queue:
        requirement = queue.pop(0)
        name = canonicalize_name(requirement.name)
        if name in names or name in ITS_OWN or not _applies(requirement):
            continue
        names.append(name)
        try:
            queue += map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit(f"{name} is not installed: pack with the Python of .venv, which make fills") from None
    return names


def pack(folder: Path, python: str, names: Sequence[str] = ()) -> int:
    """Fetch the wheels that another machine may lack: of some distributions, or all.

    Returns 1 where they are more than a wheelhouse may hold, or pip's exit code where it fails.
    """
    chosen = closure(names or needs())
    done = subprocess.run([sys.executable, "-m", *pip([*pinned(chosen), "-q"], folder, python)])
    if done.returncode:
        return done.returncode
    if size_of(folder) > MOST:
        print(f"{size_of(folder):.0f} MiB are too many: the large ones are packed more tightly (minutes)", flush=True)
        for wheel in folder.glob("*.whl"):
            if wheel.stat().st_size > TIGHT * 2**20:
                tighten(wheel)
    print(f"{folder}: {len(chosen)} wheels for Python {python}; {size_of(folder):.1f} MiB in all, of at most {MOST}")
    return int(size_of(folder) > MOST)


def size_of(folder: Path) -> float:
    """MiB of its wheels."""
    return sum(file.stat().st_size for file in folder.glob("*.whl")) / 2**20


def tighten(wheel: Path) -> None:
    """Pack a wheel anew, by LZMA and without its tests: for `environment`, and for nobody who checks its record."""
    temporary = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(temporary, "w") as tight:
        for name in archive.namelist():
            if "tests" not in name.split("/")[:-1]:
                tight.writestr(name, archive.read(name), zipfile.ZIP_LZMA)
    temporary.replace(wheel)
