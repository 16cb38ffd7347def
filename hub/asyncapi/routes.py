"""`/asyncapi.json`, and `/asyncapi`: the page on which one subscribes, publishes and calls by hand.

They are there where FastAPI's own are: the first with `openapi_url`, the second with `docs_url` too. What the page does
is what any client may do.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from ..pages import PAGE_HEADERS, STATIC, TEMPLATES, Files
from ..typed.hub import TypedHub
from .document import Part, Place, describe

__all__ = ["AsyncApi"]

# What the page loads, and all that begins so.
FILES = frozenset({"hub.js", "dom.js", "render.js", "icon.svg", "console.css"})
OWN_FILES = "asyncapi"

DOCUMENT, SOCKET = "asyncapi.json", "connection/websocket"


class AsyncApi:
    """The routes of one hub."""

    def __init__(self, hub: TypedHub) -> None:
        self.hub: TypedHub = hub
        self._files = Files(directory=STATIC)
        # What `_last` was made from: it is made once, and not for everybody who asks.
        self._made_from: tuple[Any, ...] = ()
        self._last: Part = {}
        self.router: APIRouter = APIRouter(include_in_schema=False)
        self.router.add_api_route(f"/{DOCUMENT}", self.json, methods=["GET"], name="hub_asyncapi")
        self.router.add_api_route("/asyncapi", self._page, methods=["GET"])
        self.router.add_api_route("/asyncapi/{file}", self._file, methods=["GET"])

    def describe(self, place: Place) -> Part:
        """The document, for a place."""
        declared = self._declared(place)
        if not _same(declared, self._made_from):
            self._made_from, self._last = declared, describe(self.hub, place)
        server = self._last["servers"]["hub"]
        there = {"host": place.host, "pathname": place.path, "protocol": "wss" if place.secure else "ws"}
        return {**self._last, "servers": {"hub": server | there}}

    def _declared(self, place: Place) -> tuple[Any, ...]:
        channels = [part for channel in self.hub.typed_channels for part in (channel, channel.options)]
        hooks = self.hub.authority.hooks
        return (place.title, place.version, hooks.authenticate, *channels, *self.hub.rpc_methods.values())

    # Routes

    async def json(self, request: Request) -> Response:
        _require(request, "openapi_url")
        body = msgspec.json.encode(self.describe(_place(request)))
        return Response(body, headers={"Cache-Control": "no-cache"}, media_type="application/json")

    async def _page(self, request: Request) -> Response:
        _require(request, "openapi_url", "docs_url")
        return FileResponse(TEMPLATES / "asyncapi.html", headers=dict(PAGE_HEADERS), media_type="text/html")

    async def _file(self, file: str, request: Request) -> Response:
        _require(request, "openapi_url", "docs_url")
        if not (file in FILES or file.startswith(OWN_FILES)):
            raise HTTPException(404)
        try:
            return await self._files.get_response(file, request.scope)
        except StarletteHTTPException as error:
            raise HTTPException(error.status_code) from None


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _require(request: Request, *settings: str) -> None:
    """Raises 404 where the application has turned its own documentation off."""
    if not all(getattr(request.app, name) for name in settings):
        raise HTTPException(404)


def _place(request: Request) -> Place:
    url, app = request.url, request.app
    return Place(
        host=url.netloc,
        path=url.path.removesuffix(DOCUMENT) + SOCKET,
        secure=url.scheme in ("https", "wss"),
        title=app.title,
        version=app.version,
    )
