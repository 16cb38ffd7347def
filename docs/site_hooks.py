"""What MkDocs does to the pages of the site."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

__all__ = ["on_page_markdown", "on_post_build"]

# A link to a file of the repository that is not a page.
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The site has the pages alone: what else the repository has is named there, not linked."""
    return OUTSIDE.sub(lambda link: _named(link[1], link[2]), markdown)


def _named(text: str, path: str) -> str:
    return f"`{path}`" if path.rstrip("/").endswith(text) else f"{text} (`{path}`)"


def on_post_build(config: Any) -> None:
    """The pages' Markdown stands beside them: llms.txt links to it."""
    for page in Path(config["docs_dir"]).glob("*.md"):
        shutil.copyfile(page, Path(config["site_dir"], page.name))
