"""Pages are for readers, on GitHub and on the site: short lines, links that lead to a place, each page in the site's contents."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from places import ROOT, docs_program
from test_tasks_page import anchors

LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")


site, wrap = docs_program("site"), docs_program("wrap")


def text_of(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"(?ms)^ *```.*?^ *```", "", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", wrap.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_line_of_prose_is_too_long(page):
    assert not wrap.too_long(page.read_text(encoding="utf-8")), "run `make docs`"


def test_prose_is_folded_and_nothing_else_is():
    long = "word " * 40
    code = f"```\n{long}\n```\n"
    kept = f"# {long}\n\n| {long} |\n\n{code}\nshort\nlines  \nthat break\n"
    assert wrap.wrapped(kept) == kept
    text = f"* one {'`a b` ' * 30}- two [a link]({'x' * 90}) 3. {long}\n  and its end\n"
    folded = wrap.wrapped(text)
    assert folded.split() == text.split()
    assert wrap.wrapped(folded) == folded
    assert not wrap.too_long(folded)
    assert all(re.match(r"  [^-+*#>|\d]", line) for line in folded.splitlines()[1:])
    assert folded.count("`a b`") == 30
    assert wrap.wrapped(f"short  \n{long.strip()}  \nshort\n").splitlines()[0::3] == ["short  ", "short"]
    assert wrap.wrapped(f"* {long}`code\n  of two lines`\n").endswith("`code of two lines`\n")


def test_the_readme_is_a_page_of_at_most_120_lines():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert re.search(r"(?m)^make demo .*\nmake test ", text)


def test_results_say_the_finding_first_and_keep_their_tables_elsewhere():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert text.startswith("# Results\n\n**Found:")
    assert not re.search(r"(?m)^\|", text)


@pytest.mark.parametrize("page", site.sources(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_link_leads_to_a_file_and_to_a_heading_of_it(page):
    if page.suffix == ".md":
        for target, anchor in LINK.findall(text_of(page)):
            if not re.match(r"[a-z]+:", target):
                there = page.parent / target if target else page
                assert there.exists(), target
                assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), (target, anchor)


def test_the_site_has_every_page_and_no_link_leaves_it(tmp_path):
    site.lay(tmp_path)
    pages = sorted(tmp_path.rglob("*.md"))
    assert {page.relative_to(tmp_path).as_posix() for page in pages} == set(site.sources().values())
    for page in pages:
        for target, _ in LINK.findall(text_of(page)):
            if target and not re.match(r"[a-z]+:", target):
                there = (page.parent / target).resolve()
                assert there.is_file(), (page, target)
                assert there.is_relative_to(tmp_path), (page, target)
    assert "\n::: gendiff.Diffusion\n" in (tmp_path / "api.md").read_text(encoding="utf-8")
    assert "```python\n" in (tmp_path / "examples" / "first-blur-diffusion.md").read_text(encoding="utf-8")


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without the functions that it names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def leaves(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [leaf for part in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(part)]


def test_the_contents_of_the_site_name_each_page_once_and_nothing_is_fetched():
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    assert sorted(leaves(config["nav"])) == sorted(site.sources().values())
    assert config["strict"] is True
    assert config["theme"]["font"] is False


def test_the_extra_all_is_every_extra_for_users():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert extras["all"] == [f"gendiff[{name}]" for name in extras if name not in ("all", "dev")]
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in extras if name != "dev")


def test_the_matrix_runs_what_the_classifiers_promise():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    nox = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    promised = [text.rpartition(" ")[2] for text in project["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert re.findall(r'"(3\.\d+)"', nox.partition("PYTHONS = ")[2].partition("\n")[0]) == promised
    assert f'"torch=={project["dependencies"][0].removeprefix("torch>=")}.*"' in nox
