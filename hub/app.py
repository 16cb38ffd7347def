"""The standalone application of `hub serve`: the hub's routes and its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
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


def create_app(settings: Settings | None = None) -> FastAPI:
    """The hub at `/`, ready for uvicorn. Settings come from the environment if none are given."""
    hub = Hub(settings)
    app = FastAPI(title="broadcast-hub", version=__version__)
    app.state.hub = hub
    app.include_router(hub.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    templates = Jinja2Templates(directory=HERE / "templates")

    @app.get("/", include_in_schema=False)
    async def chat(request: Request) -> HTMLResponse:
        """The chat page."""
        root = request.scope.get("root_path", "")
        context: dict[str, Any] = {"version": __version__, "static": f"{root}/static", "ws": f"{root}/ws"}
        return templates.TemplateResponse(request, "chat.html", context, headers=PAGE_HEADERS)

    return app
