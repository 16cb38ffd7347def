"""The way of a WebSocket through the application of `hub serve`."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from hub import Hub, Settings
from hub.app import SDK, WebSocketsFirst, create_app

Call = tuple[str, dict[str, Any]]


class Heard:
    """Which application was called with what, in the place of the hub's endpoints and of FastAPI."""

    def __init__(self, app: FastAPI) -> None:
        self.calls: list[Call] = []
        hub: Hub = app.state.hub
        for route in hub.router.routes:
            if isinstance(route, WebSocketRoute):
                assert route.name is not None
                route.app = self._as(route.name)
        self.app = WebSocketsFirst(app)
        app.middleware_stack = self._as("fastapi")

    def _as(self, name: str) -> Any:
        async def called(scope: Any, receive: Any, send: Any) -> None:
            self.calls.append((name, scope))

        return called

    async def of(self, path: str, kind: str = "websocket") -> Call:
        await self.app({"type": kind, "path": path, "root_path": "", "headers": []}, None, None)  # type: ignore[arg-type]
        return self.calls.pop()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    monkeypatch.delitem(sys.modules, SDK, raising=False)
    return Heard(create_app(Settings()))


@pytest.mark.parametrize(
    ("path", "name", "parameters"),
    [
        ("/ws", "hub_lobby", {}),
        ("/ws/a/b", "hub_room", {"room": "a/b"}),
        ("/ws/", "hub_room", {"room": ""}),
        ("/echo", "hub_echo", {}),
        ("/connection/websocket", "hub_channels", {}),
    ],
)
async def test_the_hubs_websockets_go_straight_to_their_endpoints(
    heard: Heard, path: str, name: str, parameters: dict[str, str]
) -> None:
    called, scope = await heard.of(path)
    assert (called, scope["path_params"]) == (name, parameters)
    assert scope["app"].state.hub


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/nowhere", "websocket"), ("/connection", "websocket"), ("/ws", "http"), ("/", "http"), ("", "lifespan")],
)
async def test_all_else_is_fastapis(heard: Heard, path: str, kind: str) -> None:
    assert (await heard.of(path, kind))[0] == "fastapi"


async def test_who_traces_gets_fastapis_spans_of_websockets_too(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, SDK, sys)
    assert (await heard.of("/ws"))[0] == "fastapi"
