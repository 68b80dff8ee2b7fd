"""Plain: JSON and TOML as gendiff reads and writes them.

What is read may come from a stranger: it is shallow, its numbers are finite, and an object is an object. What is written holds no
number that JSON has not.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

DEEPEST = 64  # lists and tables inside each other
# Strings and comments of TOML, an open one to its end: none is begun twice, so that a search takes no more than the length.
_STRING = re.compile(
    r'"""(?:\\.?|[^\\])*?(?:"{3,5}(?!")|\Z)'
    r"|'''.*?(?:'{3,5}(?!')|\Z)"
    r'|"(?:\\.|[^"\\\n])*+"?'
    r"|'[^'\n]*+'?|#[^\n]*+",
    re.DOTALL,
)
_CHAIN = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{DEEPEST}}}")  # where each string is one letter
INTEGERS = 2**63  # no integer in a file of ours comes near it


def json_value(content: bytes | str, lenient: bool = False) -> Any:
    """The value; raises `ValueError` saying what is wrong.

    Args:
        lenient: whether NaN, Infinity and numbers that no float can hold become None, and are not refused.

    """
    special = _nothing if lenient else _refused
    try:
        value = json.loads(
            content, parse_constant=special, parse_float=partial(_finite, special=special), parse_int=_integer
        )
        _check_depth(value)
    except RecursionError as error:
        raise ValueError("not valid JSON (nested too deeply)") from error
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error!s:.200})") from error
    return value


def json_object(content: bytes | str, lenient: bool = False) -> dict[str, Any]:
    """The same of an object; raises `ValueError` for anything else."""
    value = json_value(content, lenient)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def json_text(value: Any, indent: int | None = None) -> str:
    """The value in JSON, numbers that JSON has not as null; raises `TypeError` for what it has no form for."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def json_bytes(value: Any) -> bytes:
    """The same as a file."""
    return json_text(value, indent=1).encode()


def json_line(value: Mapping[str, Any]) -> bytes:
    """The same as a line of a file."""
    return json_text(value).encode() + b"\n"


def finite(value: Any) -> Any:
    """The same with None for every number that JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list | tuple) else value


def toml_table(content: bytes) -> dict[str, Any]:
    """The table; raises `ValueError` saying what is wrong, and in which line."""
    try:
        text = content.decode()
        if _CHAIN.search(_STRING.sub("s", text)):  # tomllib would take the square of its length in memory
            raise ValueError("a key of too many parts")
        table = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _check_depth(table)
    return table


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            part
            for whole in level
            if isinstance(whole, dict | list)
            for part in (whole.values() if isinstance(whole, dict) else whole)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


def _nothing(text: str) -> None:
    return None


def _refused(text: str) -> None:
    raise ValueError(f"{text:.40} is not JSON")


def _finite(text: str, special: Callable[[str], None]) -> float | None:
    value = float(text)
    if math.isfinite(value):
        return value
    special(text)
    return None


def _integer(text: str) -> int:
    value = int(text) if len(text) < 30 else INTEGERS
    if not -INTEGERS <= value < INTEGERS:
        raise ValueError("an integer beyond 64 bits")
    return value
