"""The documentation: its site builds, loads nothing from elsewhere, and no link of any page leads nowhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pymdownx.slugs import slugify

from tests.support.uvicorn_app import ROOT

PAGES = sorted(
    [*ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob("compliance/*.md"), *ROOT.glob("*.md")]
)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
# Attributes with which a page loads something; `a` only leads there.
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It is built as `make docs` does it; links, anchors and pages without a place in the navigation are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " ".join(command[2:5]) in (ROOT / "Makefile").read_text()
    return folder


class Loads(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADS and values.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(values.get(LOADS[tag]) or "")
        # Material fetches the program for these from elsewhere.
        assert "mermaid" not in (values.get("class") or "").split()


def elsewhere(address: str) -> bool:
    return bool(re.match(r"(?:https?:)?//", address))


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    """No fonts, scripts, styles or pictures of other hosts: it works offline, and nobody is told who reads it."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert loads.found
        assert [address for address in loads.found if elsewhere(address)] == [], page
    for style in site.rglob("*.css"):
        addresses = re.findall(r"""url\(["']?([^)"']+)|@import ["']([^"']+)""", style.read_text())
        assert [address for pair in addresses for address in pair if elsewhere(address)] == []


def test_every_page_is_there_for_people_and_programs(site: Path) -> None:
    """Each has its HTML, and its Markdown, to which llms.txt links."""
    listed = re.findall(r"^- \[[^\]]+\]\((\S+)\): \S", (site / "llms.txt").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in ROOT.glob("docs/*.md"))
    for name in listed:
        assert (site / name).read_text() == (ROOT / "docs" / name).read_text()
        folder = site if name == "index.md" else site / name.removesuffix(".md")
        assert (folder / "index.html").is_file()


def anchors(page: Path) -> set[str]:
    """Of its titles, as both the site and the repository's view of it name them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]+)\]\([^)]+\)|`", r"\1", title) for title in titles)
    return {slugify(case="lower")(title, "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Files that exist, and anchors that are there."""
    for found in LINK.finditer(FENCE.sub("", page.read_text())):
        path, _, anchor = (found[1] or found[2]).partition("#")
        if not re.match(r"\w+:", path):
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), path
            assert not anchor or anchor in anchors(target), f"{path}#{anchor}"
