"""What a user is told of a value that an option does not take: the value, what is allowed, and what to write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gendiff.errors import ConfigError


def refused(error: Any, words: Sequence[str]) -> ConfigError:
    """The same error in four parts; ``error`` is typer's ``BadParameter`` of an option, ``words`` the command line."""
    option = max(error.param.opts, key=len)
    allowed, _, _ = re.sub("^(Input should be |Value error, )", "", error.message).partition(", unable to parse")
    if bound := re.fullmatch(r"(greater|less) than (or equal to )?(\S+)", allowed):
        end = {"greater": "more", "less": "less"}[bound[1]]
        fix = f"write {option} {bound[3]} or {end}" if bound[2] else f"write {option} with {end} than {bound[3]}"
    else:
        fix = f"write {option} with {allowed}" if allowed.startswith("a valid ") else f"see what it takes: {option}, -h"
    given = _given(error.param.opts, words)
    what = f"{' '.join(repr(value) for value in given)} is not allowed" if given else "a value is not allowed"
    return ConfigError(what, where=option, details=[f"allowed: {allowed}"], fix=fix)


def _given(options: Sequence[str], words: Sequence[str]) -> list[str]:
    """The values that the options were given, as they were typed."""
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        for option in options:
            if word == option:
                found.append(after)
            elif option.startswith("--") and word.startswith(f"{option}="):
                found.append(word.partition("=")[2])
            elif re.fullmatch("-[a-zA-Z]", option) and word.startswith(option):
                found.append(word[2:])
    return found
