"""Fold lines of prose that are too long: ``python docs/wrap.py`` (``make docs``); a test looks for such lines."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: Characters that a line of prose may have; what code may have too.
WIDTH = 130
#: What ends a line that stays one.
BREAK = "  "
#: What is not torn: code, a link, a word.
PIECE = re.compile(r"(?:`+[^`]+`+|!?\[[^\]]*\]\([^)]*\)|[^\s`\[]|[`\[])+")
#: What would begin something else than a line of prose.
BEGINS = re.compile(r"(?:[*+\-#>|]|\d+[.)]$)")
#: The first line of something, and how far the lines after it are moved in.
FIRST = re.compile(r"( *)((?:[*+-]|\d+[.)]) +)?")


def pages() -> list[Path]:
    """The pages that are folded; those that a campaign writes, beside its numbers, are as wide as it writes them."""
    every = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
    return sorted(page for page in every if not page.with_suffix(".json").exists())


def prose(text: str) -> list[tuple[int, str]]:
    """The lines, with their indices, that are neither code nor of a table nor a heading."""
    code, lines = False, []
    for number, line in enumerate(text.splitlines()):
        fence = line.lstrip().startswith("```")
        code = code != fence
        if not code and not fence and not line.lstrip().startswith(("|", "#", "<")):
            lines.append((number, line))
    return lines


def too_long(text: str) -> list[int]:
    """The numbers, from 1, of the lines of prose that are too long."""
    return [number + 1 for number, line in prose(text) if len(line) > WIDTH]


def wrapped(text: str) -> str:
    """The same page with every paragraph filled anew that has a line too long; the others stay as they are."""
    lines = text.splitlines()
    paragraphs: list[list[int]] = []
    for number, line in prose(text):
        before = paragraphs[-1][-1] if paragraphs else None
        begins = before != number - 1 or lines[before].endswith(BREAK) or FIRST.match(line)[2]
        if line.strip() and not begins:
            paragraphs[-1].append(number)
        elif line.strip():
            paragraphs.append([number])
    for numbers in reversed(paragraphs):
        own = [lines[number] for number in numbers]
        if any(len(line) > WIDTH for line in own):
            lines[numbers[0] : numbers[-1] + 1] = _folded(own)
    return "\n".join(lines) + "\n"


def _folded(lines: list[str]) -> list[str]:
    first = FIRST.match(lines[0])
    start, indent = first[0], " " * len(first[0])
    pieces = PIECE.findall(" ".join([lines[0][len(start) :], *(line.strip() for line in lines[1:])]))
    folded = [[start + pieces[0]]]
    for piece in pieces[1:]:
        if len(" ".join([*folded[-1], piece])) <= WIDTH:
            folded[-1].append(piece)
            continue
        taken = [piece]
        while BEGINS.match(taken[0]) and len(folded[-1]) > 1:  # the word before it comes along
            taken.insert(0, folded[-1].pop())
        folded.append([indent + taken[0], *taken[1:]])
    return [" ".join(line) for line in folded[:-1]] + [" ".join(folded[-1]) + BREAK * lines[-1].endswith(BREAK)]


if __name__ == "__main__":
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if wrapped(text) != text:
            page.write_text(wrapped(text), encoding="utf-8")
            print(page)
