"""``gendiff plugins``."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff import discovery
from gendiff.discovery import Provider
from gendiff.errors import CheckError, ConfigError, GendiffError, PluginError, did_you_mean
from gendiff.hookspecs import LIFECYCLE
from gendiff.registry import Entry, Problem, Registry
from gendiff_cli import scaffold
from gendiff_cli.console import json_result, next_step, result, table

if TYPE_CHECKING:
    from gendiff.component import Component
    from gendiff.testing import Line

app = typer.Typer(no_args_is_help=True, help="What is installed, its health, and plugins of your own.")

KindOption = Annotated[str | None, typer.Option(help="Only one kind, such as schedule.")]


@app.callback()
def plugins() -> None:
    """What is installed, its health, and plugins of your own."""


@app.command("list")
def list_(
    context: typer.Context,
    kind: KindOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List every component with its provider, and every plugin that is broken, blocked or misbehaves."""
    registry: Registry = context.obj
    known = {*registry.kinds(), *(["preset"] if registry.presets() else [])}
    if kind is not None and kind not in known:
        raise ConfigError(
            f"unknown kind '{kind}'",
            where="--kind",
            details=[f"known: {', '.join(sorted(known))}", did_you_mean(kind, known)],
        )
    problems = registry.health()
    components = [_row(entry, problems) for entry in registry.entries(kind)]
    presets = [_preset_row(registry, name) for name in registry.presets() if kind in (None, "preset")]
    rows = [*components, *presets]
    if json:
        json_result(
            {
                "components": components,
                "presets": presets,
                "problems": [
                    {"provider": str(p.provider), "origin": p.provider.origin, "status": p.status, "reason": p.why}
                    for p in problems
                ],
            }
        )
        return
    foreign = any(row["provider"].split()[0] != discovery.BUILT_IN for row in rows)
    unwell = any(row["status"] != "ok" for row in rows)
    # No provider where all come with gendiff, no status where all is well.
    columns = ["kind", "name", "summary", *(["provider"] if foreign else []), *(["status"] if unwell else [])]
    table([column.replace("summary", "what it is") for column in columns], [[row[c] for c in columns] for row in rows])
    for problem in problems:
        result(f"{problem.status}: {problem.provider} ({problem.provider.origin}): {problem.why}")
    next_step("gendiff plugins info quartic")


@app.command()
def info(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A component, a preset, a distribution or a plugin file.")],
    kind: KindOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show a component's parameters with types, ranges and defaults, its formula and its references."""
    registry: Registry = context.obj
    found = [_facts(entry) for entry in _entries(registry, name, kind)]
    found += [
        {**_preset_row(registry, preset), "path": str(path), "content": path.read_text(encoding="utf-8")}
        for preset, path in registry.presets().items()
        if preset == name and kind in (None, "preset")
    ]
    if not found:
        raise _unknown(registry, name, kind)
    if json:
        json_result({"components": found})
        return
    for facts in found:
        _print(facts)
    first = found[0]
    given = f" --plugin {first['origin']}" if first.get("sha256") else ""
    if first["kind"] == "preset":
        next_step(f"gendiff train --preset {first['name']}")
    else:
        next_step(f"gendiff{given} plugins check {first['name']} --kind {first['kind']}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the package and of its component, such as acme-sine.")],
    kind: Annotated[str, typer.Option(help=f"What it provides: {', '.join(scaffold.KINDS)}.")] = "schedule",
    into: Annotated[Path, typer.Option(help="Folder to make the package in.")] = Path(),
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Write a complete package for a plugin of your own, with tests that pass; nothing is downloaded."""
    folder = scaffold.create(name, kind, into)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if json:
        json_result({"folder": str(folder), "kind": kind, "files": files})
    else:
        result(str(folder))
        for file in files:
            result(f"  {file}")
    next_step(f"cd {folder}")
    next_step("pip install -e '.[test]' && pytest")
    next_step(f"gendiff plugins check {name}")


@app.command()
def check(
    context: typer.Context,
    subject: Annotated[
        str, typer.Argument(help="A component (also as a spec, 'log:f_max=0.3'), a plugin file or a distribution.")
    ],
    kind: KindOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Check what a component promises, mathematically: exit code 5 where something does not hold."""
    registry: Registry = context.obj
    file, _, parameters = subject.partition(":") if ".py:" in subject else (subject, "", "")
    provider = _load_file(registry, file)
    wanted = f"{file}:{parameters}" if provider else subject
    subjects = list(_subjects(registry, wanted, kind, provider))
    cards = [_card(title, made) for title, made in subjects]
    problems = [
        p
        for p in registry.health()
        if provider in (p.provider, None) and file in (*p.provider.names, p.provider.origin)
    ]
    if not cards and not problems and not (provider and _listens(registry, provider)):
        raise _unknown(registry, subject, kind)
    failed = sum(not line.passed for _, lines in cards for line in lines)
    broken = [problem for problem in problems if problem.status == "broken"]
    if json:
        json_result(
            {
                "passed": not failed and not broken,
                "problems": [{"status": problem.status, "reason": problem.why} for problem in problems],
                "components": [
                    {"component": title, "checks": [vars(line) for line in lines]} for title, lines in cards
                ],
            }
        )
    else:
        for problem in problems:
            result(f"{problem.status}: {problem.provider}: {problem.why}")
        for title, lines in cards:
            _print_card(title, lines)
        if provider and (hooks := _listens(registry, provider)):
            result(f"{provider} listens to {', '.join(hooks)}")
    if failed or broken:
        count = f"{failed} of {sum(len(lines) for _, lines in cards)} checks do not hold"
        raise CheckError(count if failed else f"'{subject}' is broken", details=[p.why for p in broken[:3]])
    kinds = {"rotation", "schedule", "noise", "velocity", "process"}
    shown = [made for _, made in subjects if not isinstance(made, Path | GendiffError) and made.kind in kinds]
    if shown:
        owner = registry.provider(shown[0])
        given = f" --plugin {owner.origin}" if owner and owner.sha256 else ""
        basis = "" if shown[0].kind in ("rotation", "process") else " --rotation dct"
        next_step(f"gendiff{given} process show{basis} --{shown[0].kind} {shlex.quote(shown[0].spec)}")


# --- finding ----------------------------------------------------------------------------------------------------------


def _entries(registry: Registry, name: str, kind: str | None) -> list[Entry]:
    """The components of that name, of that distribution, or in that file."""
    provider = _load_file(registry, name)
    return [
        entry
        for entry in registry.entries(kind)
        if (entry.provider == provider if provider else name in (entry.name, entry.provider.distribution))
    ]


def _load_file(registry: Registry, subject: str) -> Provider | None:
    """The provider of a plugin file, which is loaded if it was not yet."""
    path = Path(subject)
    if path.suffix != ".py" and not ("/" in subject and path.is_file()):
        return None
    plugin = discovery.file(path, "the command line")
    registry.add(plugin)
    return plugin.provider


def _subjects(
    registry: Registry, subject: str, kind: str | None, provider: Provider | None
) -> Iterable[tuple[str, Component | Path | GendiffError]]:
    """What is to be checked, and what to call it."""
    from gendiff.component import parse_spec

    spec = parse_spec(subject)
    name = spec.pop("name")
    if provider is not None:
        entries = [entry for entry in registry.entries(kind) if entry.provider == provider]
    else:
        entries = [entry for entry in registry.entries(kind) if name in (entry.name, entry.provider.distribution)]
    for entry in entries:
        title = f"{entry.kind} '{entry.name}' of {entry.provider}"
        try:
            yield title, entry.load().model_validate(spec)
        except PluginError as error:
            yield title, error
        except ConfigError as error:
            if name == entry.name:
                raise  # it was asked for: its parameters are the user's to give
            yield title, error
    for preset, path in registry.presets().items():
        owner = registry.preset_provider(preset)
        wanted = owner == provider if provider else subject in (preset, owner.distribution)
        if wanted and kind in (None, "preset"):
            yield f"preset '{preset}' of {owner}", path


def _listens(registry: Registry, provider: Provider) -> list[str]:
    """The lifecycle hooks that a plugin takes."""
    plugins = [plugin for name, plugin in registry.observers() if name == f"{provider} ({provider.origin})"]
    return [hook for plugin in plugins for hook in LIFECYCLE if hasattr(plugin, hook)]


def _unknown(registry: Registry, name: str, kind: str | None) -> ConfigError:
    known = {*registry.presets(), *(entry.name for entry in registry.entries(kind))}
    known |= {provider.distribution for provider in registry.providers} - {Path(name).name}
    if Path(name).is_file():
        return ConfigError(
            f"'{name}' provides nothing" + (f" of kind '{kind}'" if kind else ""),
            fix="announce a component with @hookimpl def gendiff_components()",
        )
    return ConfigError(
        f"nothing is called '{name}'" + (f" among the components of kind '{kind}'" if kind else ""),
        details=[did_you_mean(name, known), *(f"{p.status}: {p.provider}: {p.why}" for p in registry.problems[:5])],
        fix="give a component, a distribution or a plugin file; list all: gendiff plugins list",
    )


# --- showing ----------------------------------------------------------------------------------------------------------


def _row(entry: Entry, problems: list[Problem]) -> dict[str, Any]:
    label = f"{entry.kind} '{entry.name}':"
    status = "broken" if any(p.provider == entry.provider and p.why.startswith(label) for p in problems) else "ok"
    return {
        "kind": entry.kind,
        "name": entry.name,
        "summary": entry.summary,
        "provider": str(entry.provider),
        "status": status,
    }


def _preset_row(registry: Registry, name: str) -> dict[str, Any]:
    first = registry.presets()[name].read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return {
        "kind": "preset",
        "name": name,
        "summary": first,
        "provider": str(registry.preset_provider(name)),
        "status": "ok",
    }


def _facts(entry: Entry) -> dict[str, Any]:
    from gendiff.reference import described

    return {
        "kind": entry.kind,
        "name": entry.name,
        "provider": str(entry.provider),
        "origin": entry.provider.origin,
        **({"sha256": entry.provider.sha256} if entry.provider.sha256 else {}),
        **described(entry.load()),
    }


def _print(facts: dict[str, Any]) -> None:
    result(f"{facts['kind']} {facts['name']}  ({facts['provider']}: {facts.get('origin', facts.get('path'))})")
    for line in facts.get("description", facts.get("content", "")).splitlines():
        result(f"  {line}".rstrip())
    if parameters := facts.get("parameters"):
        result("")
        rows = [(f"  {p['name']}", p["type"], p["default"], p["range"], p["description"]) for p in parameters]
        table(["  parameter", "type", "default", "range", "meaning"], rows)
    for reference in facts.get("references", ()):
        result(f"\n  {reference}")
    result("")


def _card(title: str, subject: Component | Path | GendiffError) -> tuple[str, list[Line]]:
    from gendiff.testing import Line, score

    if isinstance(subject, ConfigError):  # a parameter that only a user can give
        return title, [Line("not checked", True, f"{subject.what}: check it by name, as a spec")]
    if isinstance(subject, GendiffError):
        return title, [Line("it can be loaded", False, "; ".join(subject.details), "a component class", "its import")]
    return title, list(score(subject))


def _print_card(title: str, lines: list[Line]) -> None:
    result(f"{title}: {sum(line.passed for line in lines)} of {len(lines)} hold")
    for line in lines:
        result(f"  {'ok  ' if line.passed else 'FAIL'}  {line.title}: {line.seen}")
        if not line.passed:
            result(f"        expected: {line.expected}")
            if line.look:
                result(f"        look at:  {line.look}")
