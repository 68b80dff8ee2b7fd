"""Installation: which gendiff this is, what of its extras is there, and where to report that something is wrong with it."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from gendiff import version as code

NAME = "gendiff"
NOT_FOR_USERS = "dev"
ADDRESS = "Issues"  # in [project.urls] of pyproject.toml, the one place that says it
_PATIENCE = 5  # seconds for git
T = TypeVar("T")


def issues() -> str:
    """The address that takes reports of bugs; empty where the installed metadata name none."""
    urls: list[str] = _of_metadata(lambda: importlib.metadata.metadata(NAME).get_all("Project-URL") or [], [])
    return next((url.strip() for label, _, url in (text.partition(",") for text in urls) if label == ADDRESS), "")


def commit() -> str:
    """The commit of the checkout that gendiff is imported from, ``-dirty`` where files differ; empty where it is from none."""
    root = Path(code.__file__).parent.parent
    if not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return ""
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(describe, capture_output=True, text=True, timeout=_PATIENCE, check=True)
        return done.stdout.strip()
    return ""


def extras() -> dict[str, dict[str, str]]:
    """The packages of each extra, such as ``gendiff[tensorboard]``, with their versions; an empty one is not installed."""
    needs: dict[str, dict[str, str]] = {}
    for text in _requirements():
        if (match := re.fullmatch(r"([\w.-]+)[^;]*;.*extra == ['\"]([\w.-]+)['\"].*", text)) and match[
            2
        ] != NOT_FOR_USERS:
            needs.setdefault(match[2], {})[match[1]] = version(match[1])
    return needs


def packages() -> dict[str, str]:
    """The packages that gendiff cannot do without, with their versions."""
    names = [match[0] for text in _requirements() if "extra ==" not in text and (match := re.match(r"[\w.-]+", text))]
    return {name: version(name) for name in sorted(names)}


def version(package: str) -> str:
    """The installed version of a package; empty where it is not there, or does not say."""
    return _of_metadata(lambda: importlib.metadata.version(package) or "", "")


def _requirements() -> Iterable[str]:
    return _of_metadata(lambda: importlib.metadata.requires(NAME) or [], [])


def _of_metadata(ask: Callable[[], T], otherwise: T) -> T:
    try:
        return ask()
    except Exception:  # importlib.metadata raises whatever its parser trips over
        return otherwise
