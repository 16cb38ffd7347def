"""What is done to users reaches their raw WebSockets, on our own server and on another one."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets
from fastapi import FastAPI, WebSocket
from starlette.requests import HTTPConnection

from hub import Hub, Settings, User
from hub.errors import Disconnect
from hub.memory import MemoryBroker
from hub.testing import Closed, Cluster
from hub.tokens import sign
from hub.wire import HubProtocol
from tests.support.protocol_clients import Gated
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually

SECRET = "a secret of at least thirty-two bytes"
KEYED: dict[str, Any] = {"drain": 0, "token_hmac_secret_key": SECRET, "allow_anonymous_connect_without_token": True}
THROWN_OUT = (3503, "force disconnect")
UNSUBSCRIBED = (3503, "server unsubscribe")
EXPIRED = (3005, "connection expired")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.fixture(params=[HubProtocol, "websockets-sansio"], ids=["own", "websockets"])
def ws(request: pytest.FixtureRequest) -> Any:
    return request.param


def token(user: str = "7", **claims: Any) -> str:
    return sign({"sub": user, "exp": int(time.time()) + 86400, **claims}, SECRET)


class Office:
    """A hub, and an endpoint of the application's own that says whose connection it has."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.hub = Hub(Settings(**KEYED), broker=broker or MemoryBroker())
        self.chat = self.hub.channel("chat:{room}", str)
        self.app = FastAPI()
        self.app.include_router(self.hub.router)
        self.app.websocket("/own/{room}")(self.own)
        # An endpoint that has accepted already.
        self.app.websocket("/accepted/{room}")(self.accepted)
        self.ended: list[str] = []
        self.base = ""

    async def own(self, websocket: WebSocket, room: str, user: str = "") -> None:
        async with self.chat(room=room).join(websocket, user=user) as connection:
            async for text in connection.iter_text():
                await connection.publish(text)
        self.ended.append(user)

    async def accepted(self, websocket: WebSocket, room: str, user: str) -> None:
        await websocket.accept()
        await self.own(websocket, room, user)

    def connect(self, path: str, user: str | None = None) -> Any:
        query = "" if user is None else f"?user={user}" if path.startswith(("own", "acc")) else f"?token={token(user)}"
        return websockets.connect(f"{self.base}/{path}{query}", proxy=None)

    async def nothing_is_left(self) -> None:
        hub = self.hub
        await eventually(lambda: not (hub.registry.channels or hub._admission.connections))
        assert (len(hub.raw_sessions), hub.deadlines._slots) == (0, {})


@asynccontextmanager
async def office(ws: Any, broker: MemoryBroker | None = None) -> AsyncIterator[Office]:
    office = Office(broker)
    async with serving(office.app, ws=ws) as (port, _):
        office.base = f"ws://127.0.0.1:{port}"
        yield office
        await office.nothing_is_left()


async def end_of(client: Any) -> tuple[Any, ...]:
    """What it still hears, and how it ends."""
    heard = []
    async with asyncio.timeout(10):
        try:
            while True:
                heard.append(await client.recv())
        except websockets.ConnectionClosed:
            return (*heard, (client.close_code, client.close_reason))


# Everybody's


@pytest.mark.parametrize("path", ["ws/chat:a", "own/a"])
async def test_a_user_is_disconnected(ws: Any, path: str) -> None:
    """A raw client that had shown the user's token stayed. It goes behind what was published before; others stay."""
    async with office(ws) as here, here.connect(path, "8") as other, here.connect(path) as nobody:
        async with here.connect(path, "7") as one, here.connect("ws/chat:b", "7") as two:
            await eventually(lambda: here.hub.registry.subscriptions == 4)
            await here.hub.publish("chat:a", "last words")
            await here.hub.disconnect_user("7")
            assert await end_of(one) == ("last words", THROWN_OUT)
            assert await end_of(two) == (THROWN_OUT,)
        await here.hub.disconnect_user("")  # nobody's are no user's
        await here.hub.publish("chat:a", "hi")
        for client in (other, nobody):
            assert [await client.recv(), await client.recv()] == ["last words", "hi"]
        if path.startswith("own"):
            await eventually(lambda: here.ended == ["7"])


async def test_his_own_code(ws: Any) -> None:
    """As of other clients."""
    async with office(ws) as here, here.connect("ws/a", "7") as client:
        await here.hub.disconnect_user("7", disconnect=Disconnect(code=4500, reason="your trial has ended"))
        assert await end_of(client) == ((4500, "your trial has ended"),)


async def test_one_connection_of_several(ws: Any) -> None:
    """By the id that the log has of it."""
    async with office(ws) as here, here.connect("ws/a", "7") as one, here.connect("ws/a", "7") as two:
        assert "of '7' in 'a'>" in repr(next(iter(here.hub.raw_sessions)))
        first, second = (session.client_id for session in here.hub.raw_sessions)
        assert {first, second} == {s.name.decode() for s in here.hub.registry.channels["a"]}  # type: ignore[attr-defined]
        await here.hub.disconnect_user("7", whitelist=(first, second))
        await here.hub.disconnect_user("7", client=first)
        assert await end_of(one) == (THROWN_OUT,)
        await two.send("hi")
        assert await two.recv() == "hi"
        await here.hub.disconnect_user("7", whitelist=(first,))
        assert await end_of(two) == (THROWN_OUT,)


@pytest.mark.parametrize("path", ["ws/chat:a", "own/a"])
@pytest.mark.parametrize("named", ["chat:a", ""])
async def test_it_ends_with_its_subscription(ws: Any, path: str, named: str) -> None:
    """It has one room for ever: another one is not meant, nor can it have one."""
    async with office(ws) as here, here.connect(path, "7") as client:
        await eventually(lambda: here.hub.registry.subscriptions == 1)
        await here.hub.subscribe_user("7", "chat:b")
        await here.hub.unsubscribe_user("7", "chat:b")
        await here.hub.publish("chat:b", "not this")
        await here.hub.publish("chat:a", "this")
        assert await client.recv() == "this"
        await here.hub.unsubscribe_user("7", named)
        assert await end_of(client) == (UNSUBSCRIBED,)


@pytest.mark.parametrize("path", ["ws/chat:a", "own/a"])
@pytest.mark.parametrize("order", [{"expired": True}, {"expire_at": 1}])
async def test_it_lives_as_long_as_a_refresh_says(ws: Any, path: str, order: dict[str, Any]) -> None:
    """And no longer; `info` is shown nowhere."""
    async with office(ws) as here, here.connect(path, "7") as client:
        await eventually(lambda: here.hub.registry.subscriptions == 1)
        await here.hub.refresh_user("7", expire_at=2**31, info=b'{"name":"Ann"}')
        await here.hub.publish("chat:a", "hi")
        assert await client.recv() == "hi"
        await here.hub.refresh_user("7", **order)
        assert await end_of(client) == (EXPIRED,)


@pytest.mark.timed
async def test_a_refresh_outlasts_the_token(ws: Any) -> None:
    """The application knows better; 0 is for ever."""
    async with office(ws) as here:
        shown = token(exp=time.time() + 1.5)
        async with websockets.connect(f"{here.base}/ws/a?token={shown}", proxy=None) as client:
            await here.hub.refresh_user("7")
            await asyncio.sleep(2.5)
            await client.send("hi")
            assert await client.recv() == "hi"


# The race


@pytest.mark.parametrize("what", ["disconnect", "unsubscribe"])
async def test_thrown_out_while_the_application_decides(ws: Any, what: str) -> None:
    """Who he is was known, and `on_subscribe` is still asked: the order must not pass him by."""
    asked, gate = asyncio.Event(), asyncio.Event()
    async with office(ws) as here:

        @here.hub.authenticate
        async def who(connection: HTTPConnection, shown: str | None) -> User:
            return User(id="7")

        @here.hub.on_subscribe
        async def may(client: Any, channel: str) -> bool:
            asked.set()
            await gate.wait()
            return True

        coming = asyncio.ensure_future(here.connect("ws/a", "7").__aenter__())
        await asyncio.wait_for(asked.wait(), 5)
        await (here.hub.disconnect_user("7") if what == "disconnect" else here.hub.unsubscribe_user("7", "a"))
        gate.set()
        assert await end_of(await coming) == (THROWN_OUT if what == "disconnect" else UNSUBSCRIBED,)


@pytest.mark.parametrize("path", ["ws/chat:a", "own/a", "accepted/a"])
async def test_thrown_out_while_he_subscribes(ws: Any, path: str) -> None:
    """He does not get in, and hears nothing that was published after the order."""
    broker = Gated()
    async with office(ws, broker) as here:
        coming = asyncio.ensure_future(here.connect(path, "7").__aenter__())
        await eventually(lambda: len(here.hub.raw_sessions))
        await eventually(lambda: "chat:a" in here.hub.registry.channels)
        await here.hub.disconnect_user("7")
        await here.hub.disconnect_user("7", disconnect=Disconnect(code=4500, reason="too late"))
        await here.hub.publish("chat:a", "secret")
        await asyncio.sleep(0.05)
        broker.gate.set()
        assert await end_of(await coming) == (THROWN_OUT,)


async def test_thrown_out_while_the_handshake_is_answered() -> None:
    """Where a server takes its time for that, he is told as soon as it is done; what comes meanwhile is not his."""
    office = Office()
    accepting, gate, sent = asyncio.Event(), asyncio.Event(), []
    events = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        return events.pop() if events else await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(event: dict[str, Any]) -> None:
        if event["type"] == "websocket.accept":
            accepting.set()
            await gate.wait()
        sent.append(event)

    scope = {"type": "websocket", "path": "/ws/a", "headers": [], "query_string": f"token={token()}".encode()}
    async with office.hub:
        served = asyncio.ensure_future(office.app(scope, receive, send))
        await asyncio.wait_for(accepting.wait(), 5)
        await office.hub.disconnect_user("7")
        await office.hub.publish("a", "secret")
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.wait_for(served, 5)
        assert sent[1:] == [{"type": "websocket.close", "code": 3503, "reason": "force disconnect"}]
        await office.nothing_is_left()


async def test_who_is_refused_is_nobodys(ws: Any) -> None:
    """Neither who may not come into a room, nor who leaves before the answer."""
    broker = Gated()
    async with office(ws, broker) as here:
        async with here.connect("ws/$private", "7") as client:
            assert (await end_of(client))[-1][0] == 4403
        assert len(here.hub.raw_sessions) == 0
        coming = asyncio.ensure_future(here.connect("ws/a", "7").__aenter__())
        await eventually(lambda: len(here.hub.raw_sessions))
        coming.cancel()
        if ws is HubProtocol:  # the other server tells nobody before it has been answered
            await asyncio.sleep(0.05)
        broker.gate.set()


# Workers, and what it costs


async def test_on_every_worker() -> None:
    """The call is made on one of them."""
    app = FastAPI()
    app.include_router(Hub(Settings(**KEYED)).router)
    async with Cluster(app, workers=2) as cluster:
        here = await cluster.connect(f"/ws/a?token={token()}", worker=0)
        there = await cluster.connect(f"/ws/a?token={token()}", worker=1)
        other = await cluster.connect(f"/ws/a?token={token('8')}", worker=1)
        await cluster.workers[0].hubs()[0].disconnect_user("7")
        for socket in (here, there):
            with pytest.raises(Closed, match="3503"):
                await socket.receive()
        await other.receive_nothing()


async def test_without_a_user_nothing_is_kept(ws: Any) -> None:
    """Raw connections without one are many: none has a session."""
    async with office(ws) as here, here.connect("ws/a") as one, here.connect("ws/a", "") as two:
        for client in (one, two):
            await client.send("hi")
            await client.recv()
        (connection, _) = here.hub.registry.channels["a"]
        assert type(connection).__name__ == "RawConnection"
        assert "RawSession" not in {type(thing).__name__ for thing in gc.get_referents(connection)}
        assert len(here.hub.raw_sessions) == 0
