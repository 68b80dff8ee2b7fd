"""``gendiff plugins``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command, quoted
from gendiff.errors import CheckError, ConfigError, GendiffError, PluginError, did_you_mean
from gendiff.plugin import discovery
from gendiff.plugin.discovery import Provider
from gendiff.plugin.hookspecs import LIFECYCLE
from gendiff.plugin.registry import Entry, Problem, Registry
from gendiff_cli import scaffold
from gendiff_cli.commands import Group
from gendiff_cli.console import json_result, next_step, paragraph, result, table
from gendiff_cli.options import JsonOption, complete_from

if TYPE_CHECKING:
    from gendiff.component import Component
    from gendiff.testing import Line

app = typer.Typer(cls=Group, no_args_is_help=True)


def _known_kinds(registry: Registry) -> set[str]:
    return {*registry.kinds(), *(["preset"] if registry.presets() else [])}


def _known_names(registry: Registry) -> set[str]:
    components = {entry.name for entry in registry.entries()}
    return components | registry.presets().keys() | {provider.distribution for provider in registry.providers}


def _check_kind(registry: Registry, kind: str | None) -> None:
    """Raise `ConfigError` where somebody asks for a kind that is none."""
    kinds = _known_kinds(registry)
    if kind is not None and kind not in kinds:
        raise ConfigError(
            f"unknown kind '{kind}'",
            where="--kind",
            details=[f"known: {', '.join(sorted(kinds))}", did_you_mean(kind, kinds)],
        )


KindOption = Annotated[
    str | None, typer.Option(help="Only one kind, such as schedule.", autocompletion=complete_from(_known_kinds))
]


@app.callback()
def plugins() -> None:
    """What is installed, its health, and plugins of your own."""


@app.command("list")
def list_(context: typer.Context, kind: KindOption = None, json: JsonOption = False) -> None:
    """List every component with its provider, and every plugin that is broken, blocked or misbehaves."""
    registry: Registry = context.obj
    _check_kind(registry, kind)
    problems = registry.health()
    components = [_row(entry, problems) for entry in registry.entries(kind)]
    presets = [_preset_row(registry, name) for name in registry.presets() if kind in (None, "preset")]
    rows = [*components, *presets]
    if json:
        json_result(
            {"components": components, "presets": presets, "problems": [_problem_row(problem) for problem in problems]}
        )
        return
    foreign = any(row["provider"].split()[0] != discovery.BUILT_IN for row in rows)
    unwell = any(row["status"] != "ok" for row in rows)
    # No provider where all come with gendiff, no status where all is well.
    columns = ["kind", "name", "summary", *(["provider"] if foreign else []), *(["status"] if unwell else [])]
    table([column.replace("summary", "what it is") for column in columns], [[row[c] for c in columns] for row in rows])
    for problem in problems:
        result(_told(problem))
    example = next((row["name"] for row in rows if row["status"] == "ok"), "quartic") if kind else "quartic"
    next_step(command("plugins", "info", example, *(["--kind", kind] if kind else [])))


@app.command()
def info(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="A component, a preset, a distribution or a plugin file.", autocompletion=complete_from(_known_names)
        ),
    ],
    kind: KindOption = None,
    json: JsonOption = False,
) -> None:
    """Show a component's parameters with types, ranges and defaults, its formula, its references and its health."""
    registry: Registry = context.obj
    providers = _named(registry, name)
    _check_kind(registry, kind)  # a file may bring one
    problems = registry.health()
    components = [_facts(entry, problems) for entry in _entries(registry, name, kind, providers)]
    components += [
        {**_preset_row(registry, preset), "path": str(path), "content": path.read_text(encoding="utf-8")}
        for preset, path in registry.presets().items()
        if (preset == name or registry.preset_provider(preset) in providers) and kind in (None, "preset")
    ]
    sentences = {f"{facts['kind']} '{facts['name']}': {facts['reason']}" for facts in components if "reason" in facts}
    problems = [problem for problem in problems if problem.provider in providers and problem.why not in sentences]
    listens = _listens(registry, providers)
    if not components and not problems and not listens:
        raise _unknown(registry, name, kind)
    if json:
        json_result({"components": components, "listens": listens, "problems": [_problem_row(p) for p in problems]})
        return
    for facts in components:
        _print(facts)
    for problem in problems:
        result(_told(problem))
    for provider, hooks in listens.items():
        result(f"{provider} listens to {', '.join(hooks)}")
    if components:
        first = components[0]
        files = [first["origin"]] if first.get("sha256") else []
        checking = ["plugins", "check", first["name"], "--kind", first["kind"]]
        words = ["train", "--preset", first["name"]] if first["kind"] == "preset" else checking
        next_step(command(*words, plugins=files))


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the package and of its component, such as acme-sine.")],
    kind: Annotated[
        str,
        typer.Option(
            help=f"What it provides: {', '.join(scaffold.KINDS)}.",
            autocompletion=complete_from(lambda registry: scaffold.KINDS),
        ),
    ] = "schedule",
    into: Annotated[Path, typer.Option(help="Folder to make the package in.")] = Path(),
    json: JsonOption = False,
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
    next_step(quoted("cd", folder))
    next_step("pip install -e '.[test]' && pytest")
    next_step(command("plugins", "check", name))


@app.command()
def check(
    context: typer.Context,
    subject: Annotated[
        str,
        typer.Argument(
            help="A component (also as a spec, 'log:f_max=0.3'), a plugin file or a distribution.",
            autocompletion=complete_from(_known_names),
        ),
    ],
    kind: KindOption = None,
    json: JsonOption = False,
) -> None:
    """Check what a component promises, mathematically: exit code 5 where something does not hold."""
    registry: Registry = context.obj
    file, _, parameters = subject.partition(":") if ".py:" in subject else (subject, "", "")
    providers = _named(registry, file)
    _check_kind(registry, kind)  # a file may bring one
    subjects = list(_subjects(registry, f"{file}:{parameters}" if parameters else subject, kind, providers))
    unready = [one for _, one, _ in subjects if isinstance(one, ConfigError)]
    if unready and len(unready) == len(subjects):
        raise unready[0]  # nothing can be checked without what a user has to give
    cards = [_card(title, one, entry) for title, one, entry in subjects]
    problems = [problem for problem in registry.health() if problem.provider in providers]
    unfit = [problem for problem in problems if problem.status != "warning"]
    listens = _listens(registry, providers)
    if not cards and not unfit and not listens:
        raise _unknown(registry, subject, kind)
    failures = sum(not line.passed for _, lines in cards for line in lines)
    if json:
        json_result(
            {
                "passed": not failures and not unfit,
                "problems": [_problem_row(problem) for problem in problems],
                "listens": listens,
                "components": [
                    {"component": title, "checks": [vars(line) for line in lines]} for title, lines in cards
                ],
            }
        )
    else:
        for problem in problems:
            result(_told(problem))
        for title, lines in cards:
            _print_card(title, lines)
        for provider, hooks in listens.items():
            result(f"{provider} listens to {', '.join(hooks)}")
    if failures or unfit:
        count = f"{failures} of {sum(len(lines) for _, lines in cards)} checks do not hold"
        raise CheckError(
            count if failures else f"'{subject}' is {unfit[0].status}", details=[problem.why for problem in unfit[:3]]
        )
    kinds = {"rotation", "schedule", "noise", "velocity", "process"}
    viewable = [one for _, one, _ in subjects if not isinstance(one, Path | GendiffError) and one.kind in kinds]
    if viewable:
        owner = registry.provider(viewable[0])
        files = [owner.origin] if owner and owner.sha256 else []
        basis = [] if viewable[0].kind in ("rotation", "process") else ["--rotation", "dct"]
        next_step(command("process", "show", *basis, f"--{viewable[0].kind}", viewable[0].spec, plugins=files))


# --- finding ----------------------------------------------------------------------------------------------------------


def _named(registry: Registry, name: str) -> list[Provider]:
    """The plugins that a name means: of a file, which is loaded if it was not yet, of a distribution or an entry point."""
    path = Path(name)
    if path.suffix == ".py" or ("/" in name and path.is_file()):
        return [registry.add(discovery.file(path, "the command line"))]
    return [provider for provider in registry.providers if name in provider.names]


def _entries(registry: Registry, name: str, kind: str | None, providers: list[Provider]) -> list[Entry]:
    """The components of that name or of those plugins."""
    entries = [entry for entry in registry.entries(kind) if entry.provider in providers or entry.name == name]
    return entries or registry.composed(name, kind)


def _subjects(
    registry: Registry, subject: str, kind: str | None, providers: list[Provider]
) -> Iterable[tuple[str, Component | Path | GendiffError, Entry | None]]:
    """What is to be checked, what to call it, and what announces it."""
    from gendiff.component import parse_spec

    spec = parse_spec(subject)
    name = spec.pop("name")
    for entry in _entries(registry, name, kind, providers):
        title = f"{entry.kind} '{entry.name}' of {entry.provider}"
        try:
            yield title, entry.load().model_validate(spec), entry
        except PluginError as error:
            yield title, error, entry
        except ConfigError as error:
            if name == entry.name or spec:
                raise  # the parameters are the user's
            yield title, error, entry
    for preset, path in registry.presets().items():
        owner = registry.preset_provider(preset)
        if (owner in providers or preset == name) and kind in (None, "preset"):
            yield f"preset '{preset}' of {owner}", path, None


def _listens(registry: Registry, providers: list[Provider]) -> dict[str, list[str]]:
    """The lifecycle hooks that plugins take, by plugin."""
    observers = dict(registry.observers())
    return {
        str(provider): [hook for hook in LIFECYCLE if hasattr(observers[name], hook)]
        for provider in providers
        if (name := f"{provider} ({provider.origin})") in observers
    }


def _unknown(registry: Registry, name: str, kind: str | None) -> ConfigError:
    names = {*registry.presets(), *(entry.name for entry in registry.entries(kind))}
    names |= {provider.distribution for provider in registry.providers} - {Path(name).name}
    if Path(name).is_file():
        return ConfigError(
            f"'{name}' provides nothing" + (f" of kind '{kind}'" if kind else ""),
            fix="announce a component with @hookimpl def gendiff_components()",
        )
    return ConfigError(
        f"nothing is called '{name}'" + (f" among the components of kind '{kind}'" if kind else ""),
        details=[did_you_mean(name, names), *(f"{p.status}: {p.provider}: {p.why}" for p in registry.problems[:5])],
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
    return {
        "kind": "preset",
        "name": name,
        "summary": registry.preset_summary(name),
        "provider": str(registry.preset_provider(name)),
        "status": "ok",
    }


def _problem_row(problem: Problem) -> dict[str, str]:
    provider = problem.provider
    return {"provider": str(provider), "origin": provider.origin, "status": problem.status, "reason": problem.why}


def _told(problem: Problem) -> str:
    return f"{problem.status}: {problem.provider} ({problem.provider.origin}): {problem.why}"


def _facts(entry: Entry, problems: list[Problem]) -> dict[str, Any]:
    from gendiff.plugin.reference import described

    facts = {
        **_row(entry, problems),
        "origin": entry.provider.origin,
        **({"sha256": entry.provider.sha256} if entry.provider.sha256 else {}),
    }
    try:
        return {**facts, **described(entry.load())}
    except PluginError as error:
        return {**facts, "status": "broken", "reason": error.details[0], "description": entry.summary}


def _print(facts: dict[str, Any]) -> None:
    result(f"{facts['kind']} {facts['name']}  ({facts['provider']}: {facts.get('origin', facts.get('path'))})")
    if facts["status"] != "ok":
        result(f"  {facts['status']}: {facts['reason']}")
    for line in facts.get("description", facts.get("content", "")).splitlines():
        result(f"  {line}".rstrip())
    if parameters := facts.get("parameters"):
        result("")
        rows = [(f"  {p['name']}", p["type"], p["default"], p["range"], p["description"]) for p in parameters]
        table(["  parameter", "type", "default", "range", "meaning"], rows)
    for reference in facts.get("references", ()):
        result(f"\n  {reference}")
    result("")


def _card(title: str, subject: Component | Path | GendiffError, entry: Entry | None) -> tuple[str, list[Line]]:
    from gendiff.testing import Line, score
    from gendiff.testing.announcement import announcement

    if isinstance(subject, ConfigError):  # a parameter that only a user can give
        return f"{title} is not checked: {subject.what}", []
    if isinstance(subject, GendiffError):
        what = "; ".join([subject.what, *subject.details])
        return title, [Line("it can be made", False, what, "a component", subject.fix)]
    return title, [*score(subject), *(announcement(entry) if entry else [])]


def _print_card(title: str, lines: list[Line]) -> None:
    result(f"{title}: {sum(line.passed for line in lines)} of {len(lines)} hold" if lines else title)
    for line in lines:
        paragraph(f"  {'ok  ' if line.passed else 'FAIL'}  {line.title}: {line.seen}", indent=8)
        if not line.passed:
            paragraph(f"        expected: {line.expected}", indent=18)
            if line.look:
                paragraph(f"        look at:  {line.look}", indent=18)
