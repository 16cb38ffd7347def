"""The decorators of `Hub` in an application: on our own protocol class, on another server's, and in a TestClient."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from hub import Error, Hub, Refused, Settings, User
from hub.authority import Asker
from hub.wire import HubProtocol
from tests.support.centrifuge import PATH, client, connected
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually

OUT_OF_STOCK = Error(code=1000, message="out of stock")


class Shop:
    """An application with one of each decorator; `seen` are their calls."""

    def __init__(self, **settings: Any) -> None:
        self.hub = Hub(Settings(**settings))
        self.seen: list[tuple[Any, ...]] = []
        self.app = FastAPI()
        self.app.include_router(self.hub.router)
        self.hub.authenticate(self.authenticate)
        self.hub.on_subscribe(self.on_subscribe)
        self.hub.on_publish(self.on_publish)
        self.hub.on_disconnect(self.on_disconnect)
        self.hub.rpc("buy")(self.buy)
        self.hub.rpc("odd")(self.odd)

    async def authenticate(self, connection: HTTPConnection, token: str | None) -> User | bool:
        self.seen.append(("authenticate", connection.headers.get("x-who"), token))
        if token == "expiring":
            return User(id="eve", expire_at=time.time() + 100)
        return User(id=token, info={"name": token}, channels=(f"mail:{token}",)) if token else False

    async def on_subscribe(self, client: Asker, channel: str) -> bool | None:
        self.seen.append(("subscribe", client.user, channel))
        return {"open": True, "closed": False}.get(channel)

    async def on_publish(self, client: Asker, channel: str, data: Any) -> bool | None:
        self.seen.append(("publish", client.user, channel, data))
        return {"good": True, "bad": False}.get(data)

    async def on_disconnect(self, client: Asker, code: int, reason: str) -> None:
        await asyncio.sleep(0.1)
        self.seen.append(("disconnect", client.user, code, reason))

    async def buy(self, client: Asker, data: Any) -> Any:
        self.seen.append(("buy", client.user, data))
        if data == "nothing":
            raise Refused(OUT_OF_STOCK, "the log's text")
        return {"bought": data, "by": client.user}

    async def odd(self, client: Asker, data: Any) -> Any:
        return object()


NAMESPACES: Any = {"mail": {}, "quiet": {}}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.fixture
def shop() -> Shop:
    return Shop(namespaces=NAMESPACES, drain=0)


@pytest.fixture(params=[HubProtocol, "websockets-sansio", "wsproto"], ids=["own", "websockets", "wsproto"])
async def url(request: pytest.FixtureRequest, shop: Shop) -> AsyncIterator[str]:
    """Of a real uvicorn with our protocol class or another."""
    async with serving(shop.app, ws=request.param) as (port, _):
        yield f"ws://127.0.0.1:{port}"


def error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


# On servers


async def test_who_connects(url: str, shop: Shop) -> None:
    """The application says who it is, what others see of it, and which channels it has from the start."""
    async with client(url, additional_headers={"X-Who": "browser"}) as opened:
        result = await opened.ask("connect", token="ann")
        assert result["subs"] == {"mail:ann": {}}
        assert "expires" not in result
        assert shop.seen == [("authenticate", "browser", "ann")]
        assert shop.hub.clients.users == 1
        await shop.hub.publish("mail:ann", {"subject": "hi"})
        assert (await opened.push("mail:ann", "pub"))["data"] == {"subject": "hi"}
    async with client(url) as refused:
        await refused.command("connect")
        assert await refused.closed() == (3500, "invalid token")


async def test_a_user_with_an_end(url: str, shop: Shop) -> None:
    """`expire_at` is told, and a refresh asks the authenticator again, with the headers of the handshake."""
    async with client(url, additional_headers={"X-Who": "browser"}) as opened:
        result = await opened.ask("connect", token="expiring")
        assert (result["expires"], result["ttl"]) == (True, 100)
        assert await opened.ask("refresh", token="expiring") == {"expires": True, "ttl": 100}
        assert shop.seen == [("authenticate", "browser", "expiring")] * 2
        await opened.command("refresh", token="ann")
        assert (await opened.closed())[0] == 3500


async def test_who_may_subscribe(url: str, shop: Shop) -> None:
    """The application, and where it says nothing, the namespace."""
    async with connected(url, token="ann") as ann:
        assert await ann.ask("subscribe", channel="open") == {}
        assert await ann.ask("subscribe", channel="closed") == error(103, "permission denied")
        assert await ann.ask("subscribe", channel="other") == {}
        assert await ann.ask("subscribe", channel="quiet:x") == error(103, "permission denied")
        assert await ann.ask("subscribe", channel="$open") == error(103, "permission denied")
        asked = [entry for entry in shop.seen if entry[0] == "subscribe"]
        assert asked == [("subscribe", "ann", channel) for channel in ("open", "closed", "other", "quiet:x")]


async def test_who_may_publish(url: str, shop: Shop) -> None:
    """The same; what is published arrives with who it was."""
    async with connected(url, token="ann") as ann, connected(url, token="bob") as bob:
        await bob.ask("subscribe", channel="open")
        assert await ann.ask("publish", channel="open", data="good") == {}
        assert await ann.ask("publish", channel="open", data="bad") == error(103, "permission denied")
        assert await ann.ask("publish", channel="open", data="unsure") == error(103, "permission denied")
        assert await bob.ask("publish", channel="open", data="unsure") == {}
        first = await bob.push("open", "pub")
        assert (first["data"], first["info"]["user"], first["info"]["conn_info"]) == ("good", "ann", {"name": "ann"})
        assert (await bob.push("open", "pub", 2))["data"] == "unsure"
        assert ("publish", "ann", "open", "unsure") in shop.seen


async def test_calls(url: str, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """What a function returns is the answer; Refused tells its code, anything else is our fault."""
    async with connected(url, token="ann") as ann:
        assert await ann.ask("rpc", method="buy", data=["tea", 2]) == {"data": {"bought": ["tea", 2], "by": "ann"}}
        assert await ann.ask("rpc", method="buy") == {"data": {"bought": None, "by": "ann"}}
        assert await ann.ask("rpc", method="buy", data="nothing") == error(1000, "out of stock")
        assert await ann.ask("rpc", method="sell") == error(104, "method not found")
        answer = await ann.ask("rpc", method="odd")
        assert (answer["error"]["code"], answer["error"]["temporary"]) == (100, True)
        assert "TypeError" in caplog.text
        assert ann.end is None
    assert shop.seen[1:3] == [("buy", "ann", ["tea", 2]), ("buy", "ann", None)]


@pytest.mark.parametrize("by", ["client", "network", "server"])
async def test_who_has_gone(url: str, shop: Shop, by: str) -> None:
    """Once for each client that had connected, with the code of the end."""
    async with client(url), connected(url, token="ann") as ann:
        if by == "client":
            await ann.leave()
        elif by == "network":
            ann.abort()
        else:
            await shop.hub.disconnect_user("ann")
        await eventually(lambda: shop.seen[-1][0] == "disconnect")
        expected = {"client": (1000,), "network": (1005, 1006), "server": (3503,)}[by]
        assert shop.seen[-1][:2] == ("disconnect", "ann")
        assert shop.seen[-1][2] in expected
        assert len(shop.hub.clients) == 0
    await eventually(lambda: shop.hub._admission.connections == 0)
    assert [entry[0] for entry in shop.seen].count("disconnect") == 1


async def test_the_server_ends(shop: Shop) -> None:
    """The application hears of each client, and is waited for before the hub stops."""
    async with serving(shop.app) as (port, server):
        async with connected(f"ws://127.0.0.1:{port}", token="ann") as ann:
            server.should_exit = True
            assert await ann.closed() == (3001, "shutdown")
    assert shop.seen[-1] == ("disconnect", "ann", 3001, "shutdown")


async def test_raw_clients_under_the_same_rules(url: str, shop: Shop) -> None:
    """`on_subscribe` is asked about rooms, and where publications are judged raw clients only listen."""
    async with connected(url, token="ann") as ann:
        await ann.ask("subscribe", channel="open")
        async with websockets.connect(f"{url}/ws/open?token=raw", proxy=None) as raw:
            await raw.send("hi")
            told = json.loads(await asyncio.wait_for(raw.recv(), 10))
            assert told["hub"]["error"]["code"] == 103
            await ann.ask("publish", channel="open", data="good")
            assert await asyncio.wait_for(raw.recv(), 10) == "good"
        async with websockets.connect(f"{url}/ws/closed?token=raw", proxy=None) as refused:
            await asyncio.wait_for(refused.wait_closed(), 10)
            assert refused.close_code == 4403
    assert ("subscribe", "", "open") in shop.seen


# Without a server


def ask(socket: WebSocketTestSession, number: int, **command: Any) -> Any:
    """The reply; pushes that come before it are skipped."""
    socket.send_text(json.dumps({"id": number, **command}))
    while True:
        for line in socket.receive_text().split("\n"):
            message = json.loads(line)
            if message.get("id") == number:
                return message


def test_in_a_test_client(shop: Shop) -> None:
    """An application's own tests need no server."""
    with TestClient(shop.app) as web:
        with web.websocket_connect(PATH) as socket:
            assert ask(socket, 1, connect={"token": "ann"})["connect"]["subs"] == {"mail:ann": {}}
            assert ask(socket, 2, rpc={"method": "buy", "data": 1})["rpc"]["data"]["bought"] == 1
            assert ask(socket, 3, subscribe={"channel": "closed"})["error"]["code"] == 103
        with web.websocket_connect(PATH) as socket:
            socket.send_text(json.dumps({"id": 1, "connect": {}}))
            with pytest.raises(WebSocketDisconnect) as ended:
                socket.receive_text()
            assert (ended.value.code, ended.value.reason) == (3500, "invalid token")
    assert [entry for entry in shop.seen if entry[0] == "disconnect"] == [("disconnect", "ann", 1000, "")]


def test_the_subprotocol() -> None:
    """`centrifuge-json` is taken, another one is not; then it is JSON all the same."""
    hub = Hub(Settings())
    app = FastAPI()
    app.include_router(hub.router, prefix="/rt")
    with TestClient(app) as web:
        for offered, chosen in ((["centrifuge-json"], "centrifuge-json"), (["centrifuge-protobuf"], None), ([], None)):
            with web.websocket_connect(f"/rt{PATH}", subprotocols=offered) as socket:
                assert socket.accepted_subprotocol == chosen
                assert "client" in ask(socket, 1, connect={})["connect"]


def test_who_is_not_admitted() -> None:
    """A foreign origin, and one connection too many; neither stays in the count."""
    hub = Hub(Settings(max_connections=1))
    app = FastAPI()
    app.include_router(hub.router)
    with TestClient(app) as web:
        with pytest.raises(WebSocketDisconnect), web.websocket_connect(PATH, headers={"Origin": "http://evil.example"}):
            pass
        with web.websocket_connect(PATH), web.websocket_connect(PATH) as second:
            with pytest.raises(WebSocketDisconnect) as ended:
                second.receive_text()
            assert ended.value.code == 1013
        with web.websocket_connect(PATH) as again:
            assert "client" in ask(again, 1, connect={})["connect"]


async def test_a_client_that_goes_during_the_handshake() -> None:
    """`accept` fails: nothing is left of it."""
    hub = Hub(Settings())
    app = FastAPI()
    app.include_router(hub.router)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        raise OSError("gone")

    scope = {"type": "websocket", "path": PATH, "headers": [], "query_string": b"", "subprotocols": []}
    async with hub:
        with pytest.raises(OSError, match="gone"):
            await app(scope, receive, send)
        assert hub._admission.connections == 0
        assert hub.deadlines._slots == {}
