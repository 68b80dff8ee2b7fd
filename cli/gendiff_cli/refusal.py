"""What a user is told of a value that an option does not take: the value, what is allowed, and what to write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gendiff.errors import ConfigError, did_you_mean


def refused(error: Any, words: Sequence[str]) -> ConfigError:
    """The same error in four parts; ``error`` is typer's ``BadParameter`` of an option, ``words`` the command line."""
    option = max(error.param.opts, key=len)
    rule, _, _ = re.sub("^(Input should be |Value error, )", "", error.message).partition(", unable to parse")
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
        return ConfigError(f"unknown option '{name}'", details=[near], fix=fix)
    message, usage = error.format_message().rstrip("."), context.get_usage() if context else ""
    return ConfigError(f"{message[:1].lower()}{message[1:]}", details=[usage.replace("Usage", "usage", 1)], fix=fix)


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
