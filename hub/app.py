"""The standalone application of `hub serve`: the hub's routes and its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from . import __version__
from .config import Settings
from .embed import Hub

__all__ = ["create_app"]

HERE = Path(__file__).parent

# The pages load nothing from elsewhere and run no inline code.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


# Relative, so that a proxy may serve the hub under a path of its own and take that away.
ADDRESSES = {"static": "static", "ws": "ws", "connection": "connection/websocket"}


class _Static(StaticFiles):
    """Files that browsers ask for again each time: a 304 is cheap, an old script beside a new page is not."""

    def file_response(self, *arguments: Any, **keywords: Any) -> Response:
        response = super().file_response(*arguments, **keywords)
        response.headers["Cache-Control"] = "no-cache"
        return response


def create_app(settings: Settings | None = None) -> FastAPI:
    """The hub at `/`, ready for uvicorn. Settings come from the environment if none are given."""
    hub = Hub(settings)
    app = FastAPI(title="broadcast-hub", version=__version__)
    app.state.hub = hub
    app.include_router(hub.router)
    app.mount("/static", _Static(directory=HERE / "static"), name="static")
    templates = Jinja2Templates(directory=HERE / "templates")

    def page(request: Request, name: str) -> HTMLResponse:
        return templates.TemplateResponse(request, name, {"version": __version__, **ADDRESSES}, headers=PAGE_HEADERS)

    @app.get("/", include_in_schema=False)
    async def chat(request: Request) -> HTMLResponse:
        """The chat page."""
        return page(request, "chat.html")

    @app.get("/raw", include_in_schema=False)
    async def raw(request: Request) -> HTMLResponse:
        """The page of raw rooms."""
        return page(request, "raw.html")

    return app
