"""What all pages of the hub have in common: their headers, and files that are never stale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles

__all__ = ["PAGE_HEADERS", "STATIC", "TEMPLATES", "Files"]

STATIC: Path = Path(__file__).parent / "static"
TEMPLATES: Path = Path(__file__).parent / "templates"

# The pages load nothing from elsewhere and run no inline code.
PAGE_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Files(StaticFiles):
    """Files that browsers ask for again each time: a 304 is cheap, an old script beside a new page is not."""

    def file_response(self, *arguments: Any, **keywords: Any) -> Response:
        response = super().file_response(*arguments, **keywords)
        response.headers["Cache-Control"] = "no-cache"
        return response
