"""Write the pages that follow from the code: ``python docs/generate.py`` (``make docs``); a test compares them."""

from __future__ import annotations

import functools
import inspect
import re
import types
from pathlib import Path
from typing import Any

import pluggy
import typer
from gendiff_cli.app import app

import gendiff
from gendiff.component import Component
from gendiff.plugin import hookspecs
from gendiff.plugin.hookspecs import LIFECYCLE
from gendiff.plugin.reference import described
from gendiff.plugin.registry import Registry

FOLDER = Path(__file__).parent
#: N of the processes that are shown at another number of steps than 1000: the authors' own for pictures of 32 pixels.
STEPS = {"cold": 50, "heat-dissipation": 200}
NOTE = "<!-- Written by docs/generate.py: change the code, then run `make docs`. -->"


def reference() -> str:
    """Every hook, interface and built-in component."""
    registry = Registry(third_party=False)
    lines = [
        "# Plugin reference",
        "",
        NOTE,
        "",
        "What a plugin may tell gendiff and hear from it, and every kind of component with its interface and its built-in",
        "members. `gendiff plugins info NAME` shows the same, for installed plugins too. How to write one:",
        "[tutorial](tutorial.md).",
        "",
        "## Hooks",
        "",
        "A hook is a function marked with `@hookimpl`, in the plugin's module or on an observer; it takes those of the",
        "arguments that it needs.",
        "",
    ]
    for name in ("gendiff_components", "gendiff_presets", *LIFECYCLE):
        lines += _function(name, getattr(hookspecs, name), "###")
    for kind in registry.kinds():
        classes = [entry.load() for entry in registry.entries(kind)]
        lines += ["", f"## {kind}", "", *_interfaces(classes)]
        for entry, component in zip(registry.entries(kind), classes, strict=True):
            lines += _component(entry.name, described(component))
    lines += [
        "",
        "## preset",
        "",
        "A TOML file, complete or partial; `gendiff config show --preset NAME` prints it.",
        "",
    ]
    for name, path in registry.presets().items():
        lines.append(f"* `{name}`: {path.read_text(encoding='utf-8').partition(chr(10))[0].removeprefix('# ')}")
    return "\n".join(lines) + "\n"


def _interfaces(classes: list[type[Component]]) -> list[str]:
    """The public classes that components of a kind are derived from, the most general first."""
    found: dict[type, None] = {}
    for component in classes:
        for base in reversed(component.__mro__):
            if issubclass(base, Component) and base.kind and not base.name and base.__module__.startswith("gendiff."):
                found[base] = None
    lines = []
    for base in found:
        text = inspect.cleandoc(base.__doc__ or "")
        lines += [
            f"`gendiff.{base.__name__}`" if _exported(base) else f"`{base.__module__}.{base.__name__}`",
            "",
            text,
            "",
        ]
        for name in sorted(getattr(base, "__abstractmethods__", ())):
            if not any(
                name in getattr(other, "__abstractmethods__", ()) for other in found if other in base.__mro__[1:]
            ):
                lines += _function(name, inspect.getattr_static(base, name), "####")
    return lines


def _exported(cls: type) -> bool:

    return cls.__name__ in gendiff.__all__


def _function(name: str, function: Any, heading: str) -> list[str]:
    if isinstance(function, property):
        kind = inspect.signature(function.fget).return_annotation
        return [f"{heading} `{name}: {kind}` (property)", "", inspect.cleandoc(function.__doc__ or ""), ""]
    function = getattr(function, "__func__", function)  # of a method of the class
    signature = re.sub(
        r"(?:gendiff|collections|torch|pathlib|typing)\.(?:\w+\.)*", "", str(inspect.signature(function))
    )
    signature = re.sub(r"\((?:self|cls)(?:, )?", "(", signature.replace("'", ""), count=1)
    return [f"{heading} `{name}{signature}`", "", _listed(inspect.cleandoc(function.__doc__ or "")), ""]


def _listed(text: str) -> str:
    """A docstring whose arguments are a Markdown list."""
    head, args, rest = text.partition("Args:\n")
    return head + re.sub(r"^    (\w[\w, ]*):", r"* `\1`:", rest, flags=re.MULTILINE) if args else text


def _component(name: str, facts: dict[str, Any]) -> list[str]:
    lines = [f"### `{name}`", "", facts["description"], ""]
    if facts["parameters"]:
        lines += ["| parameter | type | default | range | meaning |", "|---|---|---|---|---|"]
        for p in facts["parameters"]:
            cells = [f"`{p['name']}`", p["type"], f"`{p['default']}`", p["range"], p["description"]]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return lines + [line for text in facts["references"] for line in (text, "")]


def processes() -> str:
    """Every named process, each shown at the same picture."""
    registry = Registry(third_party=False)
    lines = [
        "# Processes",
        "",
        NOTE,
        "",
        "Every process that has a name: `gendiff train --process NAME`, and where there is a preset of that name,",
        "`--preset NAME` for its own objective and sampler too. Each is a rotation U and a pair of scales (a, s) per component,",
        "`x_i = U a U^T x_0 + U s U^T ε`; [notation.md](notation.md) has the symbols,",
        "[the reference](plugins/reference.md#process) the parameters.",
        "",
        "Strips: one picture of 32x32 pixels at nine equally spaced steps from 0 to N, x_i above and its signal alone below.",
        "Maps: the SNR `a²/s²` of each frequency ρ (upwards, from coarse to fine) over the steps i (to the right), blue where",
        "the signal prevails, red where noise does; the black line is where they are equal, the broken one where the signal of",
        "these data equals the noise. All at the defaults and with N = 1000,",
        f"but for {' and '.join(f'`{name}` with N = {steps}' for name, steps in STEPS.items())}. `make pictures` draws them.",
        "",
    ]
    for entry in registry.entries("process"):
        facts = described(entry.load())
        formula = re.search(r"``(.+?)``", facts["description"])
        said = [entry.summary[0].upper() + entry.summary[1:] + "."]
        said += [f"`{formula[1]}`"] if formula else []
        if entry.name in registry.presets():
            said.append(f"Preset: `--preset {entry.name}`.")
        said += map(_linked, facts["references"])
        shown = zip(("a picture on its way", "SNR of each frequency"), pictures_of(entry.name), strict=True)
        pictures = [f"![{entry.name}: {what}]({path.relative_to(FOLDER).as_posix()})" for what, path in shown]
        lines += [f"## {entry.name}", "", "  \n".join(said), "", *pictures, ""]
    return "\n".join(lines)


def pictures_of(name: str) -> tuple[Path, Path]:
    """Where the pictures of a process are: its strip, and its SNR; docs/draw.py draws them."""
    folder = FOLDER / "images" / "processes"
    return folder / f"strip-{name}.png", folder / f"snr-{name}.png"


def _linked(reference: str) -> str:
    """A reference whose arXiv number is a link."""
    return re.sub(
        r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", reference.removeprefix("Reference: ")
    )


def api() -> str:
    """Every public name of the library."""
    lines = [
        "# Names",
        "",
        NOTE,
        "",
        "What `import gendiff` gives, in alphabetical order. Parameters of components are in",
        "[the plugin reference](plugins/reference.md); how the names go together is in [library.md](library.md).",
        "",
    ]
    for name in sorted(gendiff.__all__, key=str.casefold):
        lines += _public(name, getattr(gendiff, name))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _public(name: str, thing: Any) -> list[str]:
    """A class with its public methods and properties, or a function; of a module what it says of itself."""
    if not isinstance(thing, type):
        if callable(thing) and not isinstance(thing, pluggy.HookimplMarker):
            return _function(name, thing, "##")
        return [f"## `{name}`", "", _listed(inspect.cleandoc(thing.__doc__ or "")), ""]
    lines = [f"## `{name}`", "", _listed(inspect.cleandoc(thing.__doc__ or "")), ""]
    for own, value in vars(thing).items():
        value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        value = property(value.func) if isinstance(value, functools.cached_property) else value
        if own.startswith("_") or own.startswith("model_") or not isinstance(value, property | types.FunctionType):
            continue
        if value.__doc__:
            lines += _function(own, value, "###")
    return lines


def commands() -> str:
    """Every command and its options."""
    lines = [
        "# Commands",
        "",
        NOTE,
        "",
        "Results go to stdout, everything else to stderr. `-h` shows the same as this page.",
        "",
        "Exit codes: 0 ok; 1 failed while running; 2 usage or configuration; 3 plugin missing or broken; 4 data or weights",
        "not available; 5 a check did not pass; 75 stopped on request after saving a resumable checkpoint; 130 Ctrl-C.",
        "",
    ]
    return "\n".join([*lines, *_command("gendiff", typer.main.get_command(app))]) + "\n"


def _command(path: str, command: Any) -> list[str]:
    command = getattr(command, "itself", command)
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    given = [p for p in command.params if p.param_type_name == "argument"]
    arguments = " ".join(p.metavar or p.name.upper() for p in given)
    lines = [f"## `{f'{path} {arguments}'.strip()}`", "", inspect.cleandoc(command.help or ""), ""]
    if options:
        lines += ["| option | meaning |", "|---|---|"]
        for option in options:
            names = ", ".join([*option.opts, *option.secondary_opts])
            told = option.default not in (None, False, True) and not callable(option.default)
            default = f" Default: `{option.default}`." if told else ""
            lines.append(f"| `{names}` | {(option.help or '').replace('|', chr(92) + '|')}{default} |")
        lines.append("")
    for name, sub in getattr(command, "commands", {}).items():
        lines += _command(f"{path} {name}", sub)
    return lines


PAGES = {
    FOLDER / "plugins" / "reference.md": reference,
    FOLDER / "processes.md": processes,
    FOLDER / "commands.md": commands,
    FOLDER / "api.md": api,
}

if __name__ == "__main__":
    for page, write in PAGES.items():
        page.parent.mkdir(exist_ok=True)
        page.write_text(write(), encoding="utf-8")
        print(page)
