"""A new plugin as a complete package, whose tests pass: what ``gendiff plugins new`` writes.

The files below ``templates`` are the package, with places like ``$name`` to fill: ``package`` holds what every kind shares, the
other folders one working example each. What is said about the component in three places (summary, README, project description)
comes from the docstring of the example. Nothing is ever overwritten, and the folder appears whole or not at all. No torch is
imported, and no plugin of others.
"""

from __future__ import annotations

import ast
import builtins
import importlib.metadata
import importlib.util
import io
import json
import keyword
import re
import sys
import tempfile
import tokenize
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

from gendiff.errors import ConfigError, did_you_mean
from gendiff.plugin.hookspecs import API_VERSION
from gendiff.plugin.registry import Registry
from gendiff.storage.disk import unwritable

#: How a component of each kind is used, for its README.
COMMANDS = {
    "rotation": "gendiff train --rotation $name --schedule log",
    "schedule": "gendiff train --rotation dct --schedule $name",
    "noise": "gendiff train --noise $name",
    "velocity": "gendiff train --rotation dct --velocity $name",
    "colour": "gendiff train --rotation hartley --velocity coloured:colour=$name",
    "process": "gendiff train --process $name",
    "model": "gendiff train --model $name",
    "objective": "gendiff train --objective $name",
    "levels": "gendiff train --levels $name",
    "sampler": "gendiff train --sampler $name:steps=50",
    "grid": "gendiff train --sampler ddim:steps=20,grid=$name",
    "data": "gendiff train --data $name --size 16",
    "metric": "gendiff train --metric $name",
    "features": "gendiff evaluate gaussian-field:size=8 --data digits --n 500 --features $name",
    "logger": "gendiff train --logger $name",
    "guide": "gendiff sample RUN --guide $name",
    "operator": "gendiff restore RUN picture.png --operator $name --noise 0.05",
    "latent": "gendiff train --data digits --latent $name",
    "preset": "gendiff train --preset $name",
}
KINDS = tuple(COMMANDS)
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def create(name: str, kind: str, into: Path) -> Path:
    """Write the package ``name`` with a component of that kind into the folder ``into/name``; returns that folder.

    Raises `ConfigError` where the kind is unknown, where the name is malformed or taken, and where the folder holds something or
    cannot be written.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"unknown kind '{kind}'", where="--kind", details=[f"known: {', '.join(KINDS)}", did_you_mean(kind, KINDS)]
        )
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"'{name}' cannot be the name of a plugin",
            details=["allowed: small letters and digits in words joined by '-', beginning with a letter"],
            fix=f"write it like {_suggestion(name)}",
        )
    if clash := _clash(name, kind):
        raise ConfigError(
            f"a plugin cannot be called '{name}'", details=[clash], fix=f"choose another name, such as my-{name}"
        )
    folder, texts = into / name, package(name, kind)
    if folder.is_symlink() or (folder.exists() and not _is_empty(folder)):
        raise ConfigError(
            f"'{folder}' is there already",
            details=["nothing is ever overwritten"],
            fix="choose another name, or another folder to write it into",
        )
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=into) as staging:
            stage = Path(staging) / name
            for path, content in texts.items():
                (stage / path).parent.mkdir(parents=True, exist_ok=True)
                (stage / path).write_text(content, encoding="utf-8", newline="\n")
            stage.rename(folder)
    except OSError as error:
        size = sum(len(text.encode()) for text in texts.values())
        fix = "choose another folder to write it into"
        raise unwritable(error, folder, size=size, where="", fix=fix) from error
    return folder


def package(name: str, kind: str) -> dict[str, str]:
    """The text of every file by its path in the package."""
    module = _module(name)
    places = {
        "name": name,
        "package": module,
        "Class": _class(name),
        "kind": kind,
        "api_version": str(API_VERSION),
        "command": Template(COMMANDS[kind]).substitute(name=name),
    }
    if kind == "preset":
        source, init = f"{name}.toml", "preset/__init__.py"
        example = _filled("preset/preset.toml", places)
        about = _leading_comment(example)
        places["look"] = f"gendiff config show --preset {name}"
    else:
        source, init = f"{kind}.py", "package/__init__.py"
        example = _filled(f"{kind}/component.py", places)
        about = _docstring(example, places["Class"])
        places["look"] = f"gendiff plugins check {name}"
        places["conformance"] = _filled("package/conformance.py", places)
    summary = about.partition("\n")[0].removesuffix(".")
    places |= {"source": source, "about": about, "description": json.dumps(summary, ensure_ascii=False)}
    return {
        "pyproject.toml": _filled("package/pyproject.toml", places),
        "README.md": _filled("package/README.md", places),
        ".gitignore": _filled("package/gitignore", places),
        ".github/workflows/test.yml": _filled("package/test.yml", places),
        f"src/{module}/__init__.py": _filled(init, places),
        f"src/{module}/{source}": example,
        f"src/{module}/py.typed": "",
        f"tests/test_{module}.py": _filled(f"{kind}/tests.py", places),
    }


def _module(name: str) -> str:
    return name.replace("-", "_")


def _class(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))


def _filled(template: str, places: Mapping[str, str]) -> str:
    text = (files("gendiff_cli") / "templates" / f"{template}.in").read_text(encoding="utf-8")
    return Template(text).substitute(places)


def _docstring(code: str, name: str) -> str:
    """The docstring of the class of that name."""
    (definition,) = (node for node in ast.parse(code).body if isinstance(node, ast.ClassDef) and node.name == name)
    return ast.get_docstring(definition) or ""


def _leading_comment(toml: str) -> str:
    comment = toml.partition("\n\n")[0]
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in comment.splitlines())


def _suggestion(name: str) -> str:
    """The name as it might have been meant, where that can be seen."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name)
    words = re.sub(r"[^a-z0-9]+", "-", split.lower()).strip("-0123456789")
    return words if NAME.fullmatch(words) else "acme-sine"


def _clash(name: str, kind: str) -> str:
    """What else has this name, as a sentence; empty where it is free."""
    module = _module(name)
    for word in (module, _class(name)):
        if keyword.iskeyword(word) or hasattr(builtins, word):
            return f"its code would be called '{word}', which is a word of Python"
    if module in sys.stdlib_module_names:
        return f"'{module}' is a module of Python's standard library"
    if importlib.util.find_spec(module) is not None:
        return f"Python already finds a package '{module}' here, and installing yours would clash with it"
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        return f"a distribution '{name}' is installed, and installing yours would replace it"
    own = Registry(third_party=False)
    if name in (own.presets() if kind == "preset" else own.names(kind)):
        return f"gendiff has a {kind} of that name"
    if _class(name) in _words(package("a-name-that-nobody-takes", kind)):
        return f"its class would be called '{_class(name)}', and the example uses that word for something else"
    return ""


def _words(texts: Mapping[str, str]) -> set[str]:
    """Every identifier in the Python files."""
    code = [content for path, content in texts.items() if path.endswith(".py")]
    tokens = (token for content in code for token in tokenize.generate_tokens(io.StringIO(content).readline))
    return {token.string for token in tokens if token.type == tokenize.NAME}


def _is_empty(folder: Path) -> bool:
    try:
        return folder.is_dir() and not any(folder.iterdir())
    except OSError:
        return False  # what cannot be looked into is not ours
