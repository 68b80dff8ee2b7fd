"""Sweep: arms that differ in the values of a grid.

    schedule.f_max=0.05,0.14,0.3            one key, three values,
    schedule=none,quartic,'log:f_max=0.1,f_min=0.05'   a value that has a comma stands in quotes;

several keys make every combination, and each arm that is given is there with each of them. The first arm with the first values is
the baseline.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence

from gendiff.errors import ConfigError

FIX = "write --grid KEY=VALUE,VALUE, such as --grid schedule.f_max=0.05,0.14,0.3"
MOST = 256  # arms of one comparison
_VALUE = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|\[[^\]]*\]|[^,"'\[])+?)\s*(?:,|$)""")


def swept(arms: Sequence[str], grids: Sequence[str]) -> list[str]:
    """The texts of all arms, with each combination of values.

    Args:
        arms: as `Arm.parse` reads them; none makes the combinations alone the arms.
        grids: each a key and its values.

    Raises:
        ConfigError: for a grid that cannot be read, a key that is there twice, and more than 256 arms.

    """
    keys = [grid.partition("=")[0].strip() for grid in grids]
    if again := next((key for key in keys if keys.count(key) > 1), None):
        raise ConfigError(f"'{again}' is there twice", where="--grid", fix="give all its values in one --grid")
    axes = [[f"{key}={value}" for value in values(grid, "--grid", FIX)] for key, grid in zip(keys, grids, strict=True)]
    combinations = [shlex.join(words) for words in itertools.product(*axes)]
    texts = [" ".join(filter(None, pair)) for pair in itertools.product(arms or [""], combinations)]
    if len(texts) > MOST:
        raise ConfigError(
            f"the grid has {len(texts):,} arms",
            where="--grid",
            details=[f"allowed: at most {MOST}, each trained with every seed"],
            fix="give fewer values",
        )
    return [_labelled(text, words) for text, words in zip(texts, combinations * max(len(arms), 1), strict=True)]


def _labelled(text: str, words: str) -> str:
    """The same with the label, if it has one, of this combination."""
    label = next((word for word in shlex.split(text) if word.startswith("label=")), "")
    return f"{text} {shlex.quote(' '.join([label, *shlex.split(words)]))}" if label else text


def values(text: str, option: str, fix: str) -> list[str]:
    """The values of a key in ``KEY=VALUE,VALUE``.

    Args:
        option: that gives the text; errors name it, and say ``fix``.

    Raises:
        ConfigError: where there are none, or one is there twice.

    """
    key, equals, rest = text.partition("=")
    where = f"{option} '{text}'"
    if not equals or not re.fullmatch(r"[\w.-]+", key.strip()):
        raise ConfigError(f"'{text}' is no key with values", where=option, fix=fix)
    parts, at = list[str](), 0
    while at < len(rest):
        match = _VALUE.match(rest, at)
        if match is None:
            raise ConfigError(
                f"a value of '{key}' is empty, or its quotes or brackets do not end", where=where, fix=fix
            )
        parts.append("".join(shlex.split(match[1])) if match[1][0] in "\"'" else match[1])
        at = match.end()
    if not parts:
        raise ConfigError(f"'{key}' has no values", where=where, fix=fix)
    if again := next((part for part in parts if parts.count(part) > 1), None):
        raise ConfigError(f"'{key}' has the value '{again}' twice", where=where, fix="leave one out")
    return parts
