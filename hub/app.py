"""The standalone application of `hub serve`: the hub's routes and its pages."""

from __future__ import annotations

import sys

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from starlette.routing import Match, WebSocketRoute
from starlette.types import Receive, Scope, Send

from . import __version__
from .config import Settings
from .dev_only import dev_only
from .embed import Hub
from .pages import PAGE_HEADERS, STATIC, TEMPLATES, Files

__all__ = ["WebSocketsFirst", "create_app", "with_examples"]

# Relative, so that a proxy may serve the hub under a path of its own and take that away.
ADDRESSES = {"static": "static", "ws": "ws", "connection": "connection/websocket"}

# Who traces has it loaded (docs/tracing.md).
SDK = "opentelemetry.sdk"


def create_app(settings: Settings | None = None) -> FastAPI:
    """The hub at `/`, ready for uvicorn. Settings come from the environment if none are given."""
    settings = settings or Settings.load()
    hub = Hub(with_examples(settings) if settings.examples else settings)
    app = FastAPI(title="broadcast-hub", version=__version__)
    app.state.hub = hub
    app.include_router(hub.router)
    app.mount("/static", Files(directory=STATIC), name="static")
    templates = Jinja2Templates(directory=TEMPLATES)

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

    if settings.examples:
        from .examples.gallery import add_examples

        add_examples(app, hub)
    return app


class WebSocketsFirst:
    """What `create_app` returns, with the hub's WebSockets led to their endpoints past FastAPI's middleware and routes.

    These have nothing to do for them, and were a quarter of what it costs to accept one. Only for an application that
    nobody else adds to: other middleware expects to see WebSockets too, as FastAPI's own telemetry does where there is
    an OpenTelemetry SDK.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        hub: Hub = app.state.hub
        self._routes = [route for route in hub.router.routes if isinstance(route, WebSocketRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and SDK not in sys.modules:
            for route in self._routes:
                match, found = route.matches(scope)
                if match is Match.FULL:
                    scope.update(found, app=self._app)
                    await route.app(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def with_examples(settings: Settings) -> Settings:
    """`settings` with what the examples need. Raises ConfigError if they are not there, or not for such a hub."""
    with dev_only("examples"):
        from .examples import gallery

    return gallery.with_examples(settings)
