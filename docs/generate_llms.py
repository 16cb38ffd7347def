"""docs/llms.txt: the documentation as a list, in the form of llmstxt.org; from the site's navigation."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["llms"]

DOCS = Path(__file__).parent
CONFIG = DOCS.parent / "mkdocs.yml"

HEAD = """# broadcast-hub

> {summary}

Python package `hub` (distribution `broadcast-hub`), Python 3.11 and newer. `from hub import Hub` embeds it in a FastAPI
application, `hub serve` runs it alone. Clients speak plain WebSockets (`/ws/{{room}}`) or the Centrifuge protocol
(`/connection/websocket`).
"""


def llms() -> str:
    """A list of links for each part of the navigation, with what the navigation says of them."""
    summary = (DOCS / "index.md").read_text().split("\n\n")[1].replace("\n", " ")
    parts = [HEAD.format(summary=summary)]
    for part, pages in _navigation().items():
        parts.append(
            "\n".join((f"## {part}", "", *(f"- [{title}]({page}): {note}" for title, page, note in pages), ""))
        )
    return "\n".join(parts)


def _navigation() -> dict[str, list[tuple[str, str, str]]]:
    """By part: titles, files, notes. Pages outside of a part are the beginning."""
    parts: dict[str, list[tuple[str, str, str]]] = {}
    part = "Start"
    for line in CONFIG.read_text().partition("\nnav:\n")[2].splitlines():
        if found := re.fullmatch(r"  - ([^:]+):", line):
            part = found[1]
        elif found := re.fullmatch(r" +- ([^:]+): (\S+\.md)  # (.+)", line):
            parts.setdefault(part, []).append((found[1], found[2], found[3]))
        else:
            raise SystemExit(f"mkdocs.yml: a line of nav is `- Title: page.md  # what it is about`, not {line!r}")
    return parts
