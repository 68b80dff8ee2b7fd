"""What a user is told of a value that an option does not take: the value, what is allowed, and what to write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gendiff.errors import ConfigError, did_you_mean

#: What pydantic says of numbers: what a user is told that is allowed, and one that is.
NUMBERS = {"a valid integer": ("a whole number", 10), "a valid number": ("a number", 0.1)}
#: What an option takes whose own name is no noun.
NOUNS = {"to": "format"}
#: What may be named by a word alone.
KINDS = ("data", "process", "rotation", "velocity", "schedule", "noise", "model", "objective", "sampler", "preset")


def refused(error: Any, words: Sequence[str]) -> ConfigError:
    """The same error in four parts; ``error`` is typer's ``BadParameter`` of an option, ``words`` the command line."""
    is_option = error.param.param_type_name == "option"
    option = max(error.param.opts, key=len) if is_option else str(error.param.name)
    rule, _, _ = re.sub("^(Input should be |Value error, )", "", error.message).partition(", unable to parse")
    if choice := re.fullmatch("'(.*)' is not one of (.*?)\\.?", rule):
        known = re.findall("'(.*?)'", choice[2])
        details = [f"known: {', '.join(known)}", did_you_mean(choice[1], known)]
        return ConfigError(f"unknown {_noun(option)} '{choice[1]}'", where=option if is_option else "", details=details)
    if number := NUMBERS.get(rule):
        kind, example = number
        typed = " ".join(map(repr, _given(error.param.opts, words)))
        fix = f"write it in digits, such as {option} {example}"
        return ConfigError(f"{typed} is no number", where=option, details=[f"allowed: {kind}"], fix=fix)
    if limit := re.fullmatch(r"(greater|less) than (or equal to )?(\S+)", rule):
        end = {"greater": "more", "less": "less"}[limit[1]]
        fix = f"write {option} {limit[3]} or {end}" if limit[2] else f"write {option} with {end} than {limit[3]}"
    else:
        fix = f"write {option} with {rule}" if rule.startswith("a valid ") else f"see what it takes: {option}, -h"
    given = _given(error.param.opts, words)
    what = f"{' '.join(repr(value) for value in given)} is not allowed" if given else "a value is not allowed"
    return ConfigError(what, where=option, details=[f"allowed: {rule}"], fix=fix)


def misused(error: Any, command: str) -> ConfigError:
    """Typer's ``UsageError`` in four parts: a line that has an option or a word too much, or lacks one, of ``command``."""
    fix, name, context = f"see what it takes: {command} -h", getattr(error, "option_name", ""), error.ctx
    if context and type(error).__name__ == "NoSuchOption":
        parameters = [*context.command.params, *context.find_root().command.params]
        options = {option for parameter in parameters for option in parameter.opts if option.startswith("--")}
        near = did_you_mean(name, sorted(options)) if name.startswith("--") else ""
        others = _takers(name, context)
        near = f"it is an option of {', '.join(others)}" if others else near
        return ConfigError(f"unknown option '{name}'", details=[near], fix=fix)
    if context and (extra := re.fullmatch(r"Got unexpected extra argument\(?s?\)? \((.*)\)", error.format_message())):
        hints = [_meant(extra[1].split()[0], context), context.get_usage().replace("Usage", "usage", 1)]
        return ConfigError(f"'{extra[1]}' is one word too many", details=hints, fix=fix)
    if choices := re.fullmatch(r"(Missing option '.*')\. Choose from:(.*)", error.format_message(), re.DOTALL):
        message, allowed = choices[1], ", ".join(choices[2].replace(",", " ").split())
        return ConfigError(f"{message[:1].lower()}{message[1:]}", details=[f"allowed: {allowed}"], fix=fix)
    message, usage = error.format_message().rstrip("."), context.get_usage() if context else ""
    return ConfigError(f"{message[:1].lower()}{message[1:]}", details=[usage.replace("Usage", "usage", 1)], fix=fix)


def _noun(option: str) -> str:
    """What an option, or an argument, takes: a scale, a format."""
    name = option.lstrip("-")
    return NOUNS.get(name, name)


def _takers(option: str, context: Any) -> list[str]:
    """The commands beside this one that take an option, as they are written."""
    group = context.parent
    if group is None or not option.startswith("--"):
        return []
    commands = {name: getattr(command, "itself", command) for name, command in group.command.commands.items()}
    return [
        f"{group.command_path} {name}"
        for name, command in commands.items()
        if any(option in parameter.opts for parameter in command.params)
    ]


def _meant(word: str, context: Any) -> str:
    """With which option of the command a word may be meant: what is a component, or a path, is given with one."""
    kinds = {option.lstrip("-"): option for parameter in context.command.params for option in parameter.opts}
    registry, name = context.find_root().obj(), word.partition(":")[0]
    ways = [kinds[kind] for kind in KINDS if kind in kinds and name in registry.names(kind)]
    path = Path(word)
    if not ways and path.exists():
        is_run = (path / "run.json").is_file()
        ways = [kinds[key] for key in (("resume", "from") if is_run else ("data",)) if key in kinds]
    return f"did you mean {' or '.join(f'{way} {word}' for way in ways)}?" if ways else ""


def _given(options: Sequence[str], words: Sequence[str]) -> list[str]:
    """The values that the options were given, as they were typed."""
    values = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        for option in options:
            if word == option:
                values.append(after)
            elif option.startswith("--") and word.startswith(f"{option}="):
                values.append(word.partition("=")[2])
            elif re.fullmatch("-[a-zA-Z]", option) and word.startswith(option):
                values.append(word[2:])
    return values
