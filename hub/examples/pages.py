"""How the examples serve their pages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi.responses import Response

from ..pages import PAGE_HEADERS, Files

__all__ = ["Pages"]

# The programs are shown too: they are there to be read.
SHOWN = {"", ".css", ".html", ".js", ".py", ".svg"}


class Pages(Files):
    """What lies beside a program, with hub.js and what the examples have in common, as if in one folder.

    A program of yours does without: `StaticFiles(directory=..., packages=[("hub", "static")], html=True)`.
    """

    def __init__(self, program: str) -> None:
        """`program` is its `__file__`."""
        packages: list[str | tuple[str, str]] = [("hub", "static"), ("hub.examples", "static")]
        super().__init__(directory=Path(program).parent, packages=packages, html=True)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return super().lookup_path(path) if Path(path).suffix in SHOWN else ("", None)

    def file_response(self, full_path: str | os.PathLike[str], *arguments: Any, **keywords: Any) -> Response:
        response = super().file_response(full_path, *arguments, **keywords)
        response.headers.update(PAGE_HEADERS)
        if Path(full_path).suffix == ".py":
            response.headers["Content-Type"] = "text/plain; charset=utf-8"
        return response
