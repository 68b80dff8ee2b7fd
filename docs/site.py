"""Lay out the pages of the site: ``python docs/site.py FOLDER`` (``make site``); MkDocs makes HTML of that folder.

The pages are those of docs/, which are read on GitHub as they are. Three things differ on the site: README.md is its first
page, docs/api.md is written by mkdocstrings from the same docstrings, and notebooks are pages. What a page links to and the
site has no page for, such as a module, is laid beside them: no link needs an address that the project may not have.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s#]+)(#[^)]*)?(\))")
#: Files outside of docs/ that are pages of the site, and where.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/gendiff-sine/README.md": "examples/gendiff-sine.md",
}
#: Files in docs/ that mkdocs.yml names.
LOOKS = ("site.css", "images/logo.svg")


def sources() -> dict[Path, str]:
    """Every page: its file in the repository, and its path on the site."""
    pages = {ROOT / source: target for source, target in PAGES.items()}
    pages |= {page: page.relative_to(ROOT / "docs").as_posix() for page in sorted((ROOT / "docs").rglob("*.md"))}
    return pages | {book: f"examples/{book.stem}.md" for book in sorted((ROOT / "examples").glob("*.ipynb"))}


def lay(folder: Path) -> None:
    """Write all pages and what they link to into a folder, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = sources()
    for name in LOOKS:
        _laid(ROOT / "docs" / name, folder)
    for source, target in pages.items():
        place = folder / target
        place.parent.mkdir(parents=True, exist_ok=True)
        text = _led(_text(source), source, place, folder, pages)
        place.write_text(text, encoding="utf-8")


def _text(source: Path) -> str:
    if source.suffix == ".ipynb":
        return _notebook(source)
    text = source.read_text(encoding="utf-8")
    return _names(text) if source == ROOT / "docs" / "api.md" else text


def _notebook(source: Path) -> str:
    """A notebook as Markdown: its text, its code, and the text and pictures that its code left in it."""
    lines = []
    for cell in json.loads(source.read_text(encoding="utf-8"))["cells"]:
        body = "".join(cell["source"])
        lines += [body if cell["cell_type"] == "markdown" else f"```python\n{body}\n```", ""]
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                png = "".join(data["image/png"]).replace("\n", "")
                lines += [f'<img alt="output" src="data:image/png;base64,{png}">', ""]
            elif text := "".join(output.get("text") or data.get("text/plain") or ()):
                lines += [f"```text\n{text.rstrip()}\n```", ""]
    return "\n".join(lines)


def _names(text: str) -> str:
    """The page of public names, each as mkdocstrings describes it; what stands before the first one stays."""
    head, *names = re.split(r"(?m)^## `(\w+)", text)
    return head + "\n".join(f"::: gendiff.{name}" for name in names[::2]) + "\n"


def _led(text: str, source: Path, place: Path, folder: Path, pages: dict[Path, str]) -> str:
    """A page whose links are those of the site; code stays as it is."""

    def link(match: re.Match[str]) -> str:
        before, target, anchor, after = match.groups()
        if re.match(r"[a-z]+:", target):
            return match[0]
        there = (source.parent / target).resolve()
        if there.is_dir():
            there = _front(there)
        goal = folder / (pages.get(there) or _laid(there, folder))
        return before + Path(os.path.relpath(goal, place.parent)).as_posix() + (anchor or "") + after

    parts = re.split(r"(?ms)(^ *```.*?^ *```)", text)
    parts[::2] = [LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def _front(there: Path) -> Path:
    """What of a folder is shown: its README, the text of its ``__init__``, or the list of its files."""
    for name in ("README.md", "__init__.py"):
        if (there / name).exists():
            return there / name
    return there


def _laid(there: Path, folder: Path) -> str:
    """Put a file, or the list of a folder, beside the pages; source as text, which a browser shows."""
    own = there.relative_to(ROOT / "docs" if there.is_relative_to(ROOT / "docs") else ROOT).as_posix()
    if there.is_dir():
        own, content = (
            f"source/{own}.txt",
            "\n".join(sorted(p.name for p in there.iterdir() if p.name[0] not in "._")) + "\n",
        )
    elif there.suffix in (".png", ".json", ".svg", ".css"):
        content = None
    else:
        own, content = f"source/{own}.txt", there.read_text(encoding="utf-8")
    target = folder / own
    target.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        shutil.copyfile(there, target)
    else:
        target.write_text(content, encoding="utf-8")
    return own


if __name__ == "__main__":
    lay(Path(sys.argv[1]))
