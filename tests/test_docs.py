"""The documentation: links lead somewhere, and nothing that has to have a place there is without one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common import methods
from common.__main__ import commands

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES, *sorted(ROOT.glob("bundles/*/docs/*.md"))]
METHODS = sorted(set(methods.__all__) - {"Method", "Step"})


def links(file: Path) -> list[str]:
    """Targets of a page's links and pictures, but for those to the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8"))
    return [link for link in found if not re.match(r"\w+:", link)]


def anchors(file: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub and MkDocs do."""
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_relative_links_lead_somewhere(file):
    lost = []
    for link in links(file):
        name, _, anchor = link.partition("#")
        target = file.parent / name if name else file
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_pages_of_the_site_link_to_pages_of_the_site():
    """What lies outside of docs is not part of the site: it is named there, not linked to."""
    outside = [
        (page.name, link)
        for page in PAGES
        for link in links(page)
        if not (page.parent / link).resolve().is_relative_to(DOCS)
    ]
    assert outside == []


def test_every_method_has_a_page():
    heads = {page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for page in DOCS.glob("methods/*.md")}
    assert [name for name in METHODS if name not in heads] == []


def test_every_method_is_in_the_tables():
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(", (DOCS / "methods" / "index.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert sorted(rows) == METHODS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\[`(\w+)`\]\(docs/methods/", readme)) == METHODS
    assert f"[{len(METHODS)} methods]" in readme


def configurations() -> Iterator[tuple[str, str]]:
    for file in sorted(ROOT.glob("bundles/*/configs/*.json")):
        if file.stem in ("train", "inference"):
            yield from ((f"{file.parents[1].name}/{file.name}", key) for key in json.loads(file.read_text()))


def test_every_key_of_the_configurations_is_in_the_reference():
    named = set(re.findall(r"`(\w+)[`#]", (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")))
    assert [(file, key) for file, key in configurations() if key not in named] == []


def named_in(nav: Any) -> Iterator[str]:
    """The files of a navigation's tree."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from named_in(part)


def test_navigation_names_the_pages_that_there_are():
    nav = list(named_in(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(nav) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_every_command_is_in_the_reference():
    text = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    wanted = [
        f"python -m common {name} {part}".strip()
        for name, command in commands().items()
        for part in (command if isinstance(command, dict) else [""])
    ]
    assert [line for line in wanted if line not in text] == []


def test_pages_name_no_command_that_there_is_not():
    known = commands()
    for file in FILES:
        for name in re.findall(r"python -m common (\w+)", file.read_text(encoding="utf-8")):
            assert name in known or name == "COMMAND", f"{file}: {name}"
