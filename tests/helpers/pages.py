"""Pages: a page of the docs does not lie when every block of it is written, run or compared, in its order.

How a page is read: a python or toml block that begins with ``# NAME`` is the file NAME; one that begins with ``# in NAME`` is a
part of that file. A diff block changes a file. A console block runs its ``$`` lines. The lines below one are its whole stdout and
whatever of its stderr; ``...`` stands for anything, and a line ``...`` for any lines of stdout. ``# exit code K`` is expected of
the command before it. A block without a language is a formula, or what is not run here.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from command import Result, run

LANGUAGES = {"python", "toml", "diff", "console", ""}


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    text: str

    @property
    def named(self) -> str:
        """What follows ``#`` in the first line."""
        first = self.text.partition("\n")[0]
        assert first.startswith("# "), (
            f"line {self.line}: a block of {self.language} must begin with the name of a file"
        )
        return first.removeprefix("# ")

    @property
    def rest(self) -> str:
        return self.text.partition("\n")[2]


def blocks(page: str) -> list[Block]:
    found = re.finditer(r"(?ms)^```(\w*)\n(.*?)^```$", page)
    return [Block(page.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in found]


def commands(console: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block, with the lines below it."""
    for part in re.split(r"(?m)^\$ ", console)[1:]:
        command, *shown = part.rstrip("\n").split("\n")
        yield command, shown


def same(shown: str, line: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, shown.split("..."))), line.rstrip()) is not None


def unmatched(shown: list[str], out: list[str], err: list[str]) -> str:
    """The first line that the page and the program do not share; empty where they agree."""
    out, err, skipping = list(out), list(err), False
    for line in shown:
        at, at_err = ([k for k, seen in enumerate(stream) if same(line, seen)] for stream in (out, err))
        if line == "...":
            skipping = True
        elif at and (skipping or at[0] == 0):
            del out[: at[0] + 1]
            skipping = False
        elif at_err:
            del err[: at_err[0] + 1]
        else:
            return f"not said: {line}"
    return "" if skipping or not out else f"not shown: {out[0]}"


def executed(command: str) -> tuple[Result, int]:
    """A command of the page, and the exit code that the page promises."""
    command, _, remark = command.partition("  # exit code ")
    words = shlex.split(command)
    if "gendiff" not in words:
        return elsewhere(words), int(remark or 0)
    given = dict(word.split("=", 1) for word in words[: words.index("gendiff")])
    with patch.dict(os.environ, given):
        return run(*words[words.index("gendiff") + 1 :]), int(remark or 0)


def elsewhere(words: list[str]) -> Result:
    """A command that is not gendiff's own: torchrun in this environment, and what every shell has."""
    if words[0] == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def follow(page: str) -> None:
    """Do what the page says, in the working folder."""
    for block in blocks(page):
        assert block.language in LANGUAGES, f"line {block.line}: what is {block.language}?"
        if block.language == "console":
            for command, shown in commands(block.text):
                done, code = executed(command)
                said = f"line {block.line}: $ {command}\n{done.out}{done.err}"
                assert done.code == code, said
                wrong = unmatched(shown, done.out.splitlines(), done.err.splitlines())
                assert not wrong, f"{wrong}\n{said}"
        elif block.language == "diff":
            path = Path(block.named)
            old, new = ("".join(re.findall(rf"(?m)^[{sign}](.*\n)", block.rest)) for sign in "-+")
            assert path.read_text(encoding="utf-8").count(old) == 1, f"line {block.line}: nothing to change"
            path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        elif block.language and block.named.startswith("in "):
            part = Path(block.named.removeprefix("in ")).read_text(encoding="utf-8")
            assert block.rest in part, f"line {block.line}: not in that file"
        elif block.language:
            Path(block.named).write_text(block.text, encoding="utf-8")
